"""`lazyjax reproduce`: any experiment of the registry, or of a module of one's own."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import typer

from lazyjax.cli import interrupts
from lazyjax.cli.commands.experiments import experiments
from lazyjax.cli.console import (
    bad_usage,
    one_line_errors,
    progress_shown,
    table_console,
)
from lazyjax.cli.extras import require
from lazyjax.files.writing import check_file, write_files

if TYPE_CHECKING:
    from lazyjax.experiments import Experiment

Seed = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Chooses data and initializations.")
]
X64 = Annotated[bool, typer.Option("--x64", help="Compute in double precision.")]


def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(
            help="An experiment, or module:attribute of an importable module. Without "
            "it, experiments are listed."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="How much is computed.  [default: its first size]"),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the figure and the numbers; made if missing."),
    ] = Path(),
    seed: Seed = 0,
    x64: X64 = False,
) -> None:
    """Run a published experiment: tables, a figure (.png) and numbers (.json).

    An experiment of your own is a `lazyjax.experiments.Experiment`: give its place, as
    in `lazyjax reproduce my_package.my_module:EXPERIMENT`.
    """
    if name is None:
        experiments()
        return
    if x64:
        jax.config.update("jax_enable_x64", True)
    with one_line_errors():
        from lazyjax._checks import check_choice

        with bad_usage("NAME"):
            experiment = _find(name)
        size = size or experiment.sizes[0]
        with bad_usage("--size"):
            check_choice("--size", size, experiment.sizes)
    run_and_write(
        f"reproduce {name}",
        lambda progress: experiment.run(size=size, seed=seed, progress=progress),
        extras=(*experiment.extras, "plot"),
        stem=experiment.name,
        out=out,
    )


def _find(name: str) -> "Experiment":
    """The experiment that is registered under a name, or lies at `module:attribute`."""
    from lazyjax.experiments import EXPERIMENTS, Experiment

    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in EXPERIMENTS:
            raise ValueError(
                f"must be one of {', '.join(EXPERIMENTS)}, or module:attribute; got "
                f"{name!r}."
            )
        return EXPERIMENTS[name]
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name} cannot be imported: {error}.") from error
    if not isinstance(found, Experiment):
        raise ValueError(f"{name} must be a `lazyjax.experiments.Experiment`.")
    return found


def run_and_write(
    command: str,
    run: Callable[[Any], Any],
    *,
    extras: Sequence[str],
    stem: str,
    out: Path,
) -> None:
    """Run an experiment; print its tables, and write its figure and its numbers."""
    picture, numbers = out / f"{stem}.png", out / f"{stem}.json"
    for file in (picture, numbers):
        with bad_usage("--out"):
            check_file("--out", file)
    interrupts.after_interrupt(picture, numbers)
    with one_line_errors():
        require(command, *extras)
        # These take a second to import.
        from lazyjax import plot, report

        with progress_shown() as show:
            result = run(show)
            contents = {
                picture: plot.png_bytes(result.figure()),
                numbers: report.json_bytes(result.summary()),
            }
        out.mkdir(parents=True, exist_ok=True)
        write_files(contents)
    console = table_console(120)
    for table in result.tables():
        console.print(table)
        console.print()
    print(f"wrote {picture} and {numbers}", file=sys.stderr)
