"""`lazyjax data`: data sets that are there, and how to get the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lazyjax.cli.console import bad_usage, one_line_errors, table_console
from lazyjax.cli.data import DataDir

data_app = typer.Typer(no_args_is_help=True)

_BUNDLED = ("digits", "breast_cancer", "wine", "diabetes")


@data_app.command("list")
def list_data(data_dir: DataDir = None) -> None:
    """Data sets, and whether their files are there and whole."""
    with one_line_errors():
        from rich.table import Table

        from lazyjax import data

        table = Table(box=None)
        for heading in ("data set", "what it is", "files"):
            table.add_column(heading, overflow="fold")
        for name in _BUNDLED:
            table.add_row(name, _first_line(getattr(data, name)), "with scikit-learn")
        for name in data.SOURCES:
            table.add_row(
                name, _first_line(getattr(data, name)), _state(name, data_dir)
            )
        table_console(120).print(table)


def _first_line(load: Callable) -> str:
    return (load.__doc__ or "").partition("\n")[0]


def _state(name: str, data_dir: Path | None) -> str:
    """Whether a data set is there and whole, which takes reading it."""
    from lazyjax import data

    if data_dir is None:
        return f"no --data-dir; see `lazyjax data where {name}`"
    try:
        getattr(data, name)(data_dir, 1, num_test=0)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return f"whole, in {data_dir}"


@data_app.command()
def where(
    name: Annotated[str, typer.Argument(help="cifar10 or mnist.")],
) -> None:
    """What to download for a data set, where to put it, and what is checked."""
    with one_line_errors():
        from lazyjax import data

        with bad_usage("NAME"):
            text = data.where(name)
    print(text)
