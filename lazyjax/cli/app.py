"""All commands."""

from typing import Annotated

import typer

import lazyjax
from lazyjax.cli.commands.certify import certify_app
from lazyjax.cli.commands.datasets import data_app
from lazyjax.cli.commands.forecast import forecast
from lazyjax.cli.commands.gram import gram_app
from lazyjax.cli.commands.info import info
from lazyjax.cli.commands.quickstart import quickstart
from lazyjax.cli.commands.reproduce import reproduce
from lazyjax.cli.commands.spectrum import spectrum
from lazyjax.cli.commands.sweep import sweep

app = typer.Typer(
    name="lazyjax",
    help="Lazy training and neural tangent kernels in JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        print(f"lazyjax {lazyjax.__version__}")
        raise typer.Exit
    return is_asked


@app.callback()
def _lazyjax(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Lazy training and neural tangent kernels in JAX."""


for command in (quickstart, sweep, spectrum, forecast, reproduce, info):
    app.command()(command)
app.add_typer(
    certify_app,
    name="certify",
    help="Whether gradient descent is certain to reach zero loss.",
)
app.add_typer(gram_app, name="gram", help="Gram matrices larger than memory, on disk.")
app.add_typer(data_app, name="data", help="Data sets, and where to get them.")
