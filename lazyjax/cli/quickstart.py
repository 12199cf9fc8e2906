"""`lazyjax quickstart`: the experiment on lazy two-layer networks."""

import sys
from pathlib import Path
from typing import Annotated

import jax
import typer

from lazyjax.cli import interrupts
from lazyjax.cli.console import (
    bad_usage,
    one_line_errors,
    progress_shown,
    table_console,
)
from lazyjax.cli.extras import require
from lazyjax.files.writing import check_file, write_files

_PNG, _JSON = "quickstart.png", "quickstart.json"


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
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**31 - 1, help="Chooses images and initializations."),
    ] = 0,
    x64: Annotated[
        bool, typer.Option("--x64", help="Compute in double precision.")
    ] = False,
) -> None:
    """How lazy two-layer networks are on real digits, over widths and seeds.

    Trains by gradient descent, compares each network to its linear model, fits how
    kernels scale with width, and measures Du et al.'s (2019) proof step by step.
    """
    picture, numbers = out / _PNG, out / _JSON
    for file in (picture, numbers):
        with bad_usage("--out"):
            check_file("--out", file)
    if x64:
        jax.config.update("jax_enable_x64", True)
    interrupts.after_interrupt(picture, numbers)
    with one_line_errors():
        require("quickstart", "data", "plot")
        # These take a second to import.
        from lazyjax import plot, report
        from lazyjax.experiments import EXPERIMENTS

        with progress_shown() as show:
            size = "brief" if quick else "quick"
            result = EXPERIMENTS["du2019"].run(size=size, seed=seed, progress=show)
            contents = {
                picture: plot.png_bytes(result.figure()),
                numbers: report.json_bytes(result.to_json()),
            }
        out.mkdir(parents=True, exist_ok=True)
        write_files(contents)
    console = table_console(120)
    for table in result.tables():
        console.print(table)
        console.print()
    print(f"wrote {picture} and {numbers}", file=sys.stderr)
