"""`lazyjax reproduce`: any experiment of the registry, or of a module of one's own."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import typer

from lazyjax.cli import outcomes
from lazyjax.cli.console import bad_usage, numbers, one_line_errors
from lazyjax.cli.data import DataDir
from lazyjax.cli.imports import imported
from lazyjax.files.writing import check_file

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
        str | None, typer.Option(help="How much is computed.  [default: quick]")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The size that takes less than a minute.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The size of the source, for a GPU.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(help="Folder for figures and numbers; made if missing."),
    ] = Path(),
    data_dir: DataDir = None,
    widths: Annotated[
        str | None, typer.Option(help="Widths, with commas between them.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Networks of each width.")
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control", help="Break a premise of the claim: it must not be reproduced."
        ),
    ] = False,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="All experiments. What --out holds of the same settings is kept.",
        ),
    ] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="List experiments, and do no more.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html, with everything in it.")
    ] = False,
    seed: Seed = 0,
    x64: X64 = False,
) -> None:
    """Run a published experiment: verdict, tables, a figure (.png), numbers (.json).

    An experiment of your own is a `lazyjax.experiments.Experiment`: give its place, as
    in `lazyjax reproduce my_package.my_module:EXPERIMENT`.
    """
    if listing or (name is None and not every):
        _list()
        return
    _check_options(name, every, size, quick, full, widths, seeds, data_dir)
    if report:
        with bad_usage("--out"):
            check_file("--out", outcomes.page_of(out))
    options: dict[str, Any] = {
        "widths": None if widths is None else numbers(int, widths, "--widths"),
        "num_seeds": seeds,
        "seed": seed,
        "control": control,
        "data_dir": data_dir,
    }
    if x64:
        jax.config.update("jax_enable_x64", True)
    with one_line_errors():
        from lazyjax.experiments import EXPERIMENTS, plan

        with bad_usage("NAME"):
            found = list(EXPERIMENTS.values()) if every else [_find(str(name))]
        chosen = "full" if full else size
        with bad_usage("--size, --widths or --seeds"):
            plans = [
                plan(each, size=chosen or next(iter(each.sizes)), **options)
                for each in found
            ]
    failed = 0
    if every:
        failed = outcomes.run_all(plans, out=out)
    else:
        outcomes.run_one(f"reproduce {name}", plans[0], out=out)
    if report:
        outcomes.write_page(plans, out)
    if failed:
        print(f"lazyjax: {failed} of {len(plans)} failed", file=sys.stderr)
        sys.exit(1)


def _check_options(
    name: str | None,
    every: bool,
    size: str | None,
    quick: bool,
    full: bool,
    widths: str | None,
    seeds: int | None,
    data_dir: Path | None,
) -> None:
    """Refuse options that exclude each other, and a folder of data that is none."""
    if every and name:
        message = f"--all runs every experiment; {name} cannot be named too."
    elif every and (widths or seeds):
        message = "--widths and --seeds are for one experiment, not for --all."
    elif quick + full + (size is not None) > 1:
        message = "--size, --quick and --full exclude each other."
    elif data_dir is not None and not data_dir.is_dir():
        message = f"--data-dir must be a folder; {data_dir} is none."
    else:
        return
    raise typer.BadParameter(message)


def _list() -> None:
    """The experiments of the registry."""
    from lazyjax.experiments import EXPERIMENTS

    for name, experiment in EXPERIMENTS.items():
        print(f"{name}: {experiment.title}. {experiment.source}.")


def _find(name: str) -> "Experiment":
    """The experiment that is registered under a name, or lies at `module:attribute`."""
    from lazyjax._checks import check_choice
    from lazyjax.experiments import EXPERIMENTS, Experiment

    if ":" not in name:
        check_choice("NAME", name, EXPERIMENTS)
        return EXPERIMENTS[name]
    found = imported(name)
    if not isinstance(found, Experiment):
        raise ValueError(f"{name} must be a `lazyjax.experiments.Experiment`.")
    return found
