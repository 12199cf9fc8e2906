"""What commands about infinitely wide networks share: their options, and a figure."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jax
import numpy as np
import typer

from lazyjax.cli import interrupts
from lazyjax.cli.console import bad_usage
from lazyjax.cli.data import read_examples
from lazyjax.cli.extras import require
from lazyjax.files.writing import check_file, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Depth = Annotated[int, typer.Option(min=1, help="Hidden layers.")]
Activation = Annotated[str, typer.Option(help="Activation.")]
WStd = Annotated[float, typer.Option(help="Standard deviation of weights.")]
BStd = Annotated[float, typer.Option(min=0, help="Standard deviation of biases.")]
Seed = Annotated[int, typer.Option(min=0, help="Chooses digits.")]
FigureFile = Annotated[
    Path | None, typer.Option(help="File for a figure, ending in .png.")
]


def start(
    command: str, data: str, num_train: int | None, seed: int, out: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Examples in double precision, once it is known that the figure can be written.

    Args:
        command: The command that asks for them.
        data: Value of `--data`.
        num_train: Value of `--num-train`; `None` means 400 digits, or all of a file.
        seed: Chooses digits.
        out: Where a figure is to be written.

    Returns:
        X and y.

    Raises:
        BadParameter: If the figure cannot be written, or the examples cannot be read.
    """
    jax.config.update("jax_enable_x64", True)
    check_figure(out)
    if num_train is None and data == "digits":
        num_train = 400
    return read_examples(command, data, num_train, seed)


def check_figure(out: Path | None) -> None:
    """Check that a figure can be written, if one is wanted.

    Args:
        out: Where to.

    Raises:
        BadParameter: If it cannot.
    """
    if out is None:
        return
    if out.suffix != ".png":
        raise typer.BadParameter(f"must end in .png; got {out}.", param_hint="--out")
    with bad_usage("--out"):
        check_file("--out", out)
    interrupts.after_interrupt(out)


def write_figure(
    command: str, out: Path | None, draw: "Callable[[Axes], object]"
) -> None:
    """Write a figure of one panel, if one is wanted.

    Args:
        command: The command that asks for it.
        out: Where to; `None` writes nothing.
        draw: Draws the panel.
    """
    if out is None:
        return
    require(command, "plot")
    from lazyjax import plot

    figure = plot.figure(width=4.6)
    draw(figure.subplots())
    write_file(out, plot.png_bytes(figure))
