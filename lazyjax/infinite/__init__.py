"""Analytic kernels of infinitely wide networks."""

from lazyjax.infinite.kernels import (
    infinite_nngp as infinite_nngp,
    infinite_ntk as infinite_ntk,
)
