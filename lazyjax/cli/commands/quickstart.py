"""`lazyjax quickstart`: the experiment on lazy two-layer networks."""

from pathlib import Path
from typing import Annotated

import jax
import typer

from lazyjax.cli import outcomes
from lazyjax.cli.commands.reproduce import X64, Seed
from lazyjax.cli.console import one_line_errors


def quickstart(
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller and much faster: a first look.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for quickstart.png and quickstart.json; made if missing."
        ),
    ] = Path(),
    seed: Seed = 0,
    x64: X64 = False,
) -> None:
    """How lazy two-layer networks are on real digits, over widths and seeds.

    Trains by gradient descent, compares each network to its linear model, fits how
    kernels scale with width, and measures Du et al.'s (2019) proof step by step.
    """
    if x64:
        jax.config.update("jax_enable_x64", True)
    with one_line_errors():
        from lazyjax.experiments import EXPERIMENTS, plan

        size = "brief" if quick else "quick"
        planned = plan(EXPERIMENTS["du2019"], size=size, seed=seed)
    outcomes.run_one("quickstart", planned, out=out, stem="quickstart")
