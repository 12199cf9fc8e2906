"""`lazyjax quickstart`: the experiment on lazy two-layer networks."""

from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from lazyjax.cli.commands.reproduce import X64, Seed, run_and_write


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

    def run(progress: Any) -> Any:
        from lazyjax.experiments import EXPERIMENTS

        size = "brief" if quick else "quick"
        return EXPERIMENTS["du2019"].run(size=size, seed=seed, progress=progress)

    if x64:
        jax.config.update("jax_enable_x64", True)
    run_and_write(
        "quickstart",
        run,
        extras=("data", "plot"),
        stem="quickstart",
        out=out,
    )
