"""Widths, seeds, output scales and learning rates in one program."""

from lazyjax.sweeps.result import OverSeeds as OverSeeds, Sweep as Sweep
from lazyjax.sweeps.sweep import sweep as sweep
