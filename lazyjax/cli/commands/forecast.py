"""`lazyjax forecast`: errors and ridges by training set size, before anyone trains."""

import sys
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from lazyjax.cli.console import one_line_errors, table_console
from lazyjax.cli.data import Data, NumTrain
from lazyjax.cli.kernels import (
    Activation,
    BStd,
    Depth,
    FigureFile,
    Seed,
    WStd,
    start,
    write_figure,
)


def forecast(
    data: Data = "digits",
    num_train: NumTrain = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Training set sizes.  [default: doubling up to half of all]"),
    ] = None,
    depth: Depth = 1,
    activation: Activation = "relu",
    w_std: WStd = 2**0.5,
    b_std: BStd = 0.1,
    out: FigureFile = None,
    seed: Seed = 0,
) -> None:
    """Forecast test errors of wide fully connected networks, by training set size.

    From the infinite-width kernel of the examples and their labels alone. Beside each
    error stand the best ridge, and the error with it.
    """
    x, y = start("forecast", data, num_train, seed, out)
    chosen = _sizes(sizes, len(x))
    with one_line_errors():
        import lazyjax

        architecture = lazyjax.Architecture(
            depth=depth, activation=activation, w_std=w_std, b_std=b_std
        )
        kernel = np.asarray(lazyjax.infinite_ntk(architecture, x))
        curve = lazyjax.forecast.learning_curve(kernel, y, sizes=chosen)
        best = [lazyjax.forecast.optimal_ridge(kernel, y, size=n) for n in chosen]

        def draw(axes: Any) -> None:
            from lazyjax import plot

            plot.learning_curve(axes, curve)

        write_figure("forecast", out, draw)
    table = Table(title=f"Squared error on new examples, from {len(x)} examples")
    for name in ("examples", "error", "best ridge", "error with it"):
        table.add_column(name, justify="right")
    for i, size in enumerate(chosen):
        ridge, ridged = best[i]
        error, least = curve.test_error[i].sum(), ridged.test_error.sum()
        table.add_row(str(size), f"{error:.4g}", f"{ridge:.3g}", f"{least:.4g}")
    table_console(80).print(table)
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)


def _sizes(text: str | None, num_examples: int) -> list[int]:
    """Sizes of a list with commas, or bad usage of the option."""
    if text is None:
        half = max(1, num_examples // 2)
        return [n for n in (2**power for power in range(3, 20)) if n <= half] or [half]
    try:
        chosen = [int(part) for part in text.split(",")]
    except ValueError:
        message = f"must be numbers with commas between them; got {text!r}."
        raise typer.BadParameter(message, param_hint="--sizes") from None
    if not all(0 < size < num_examples for size in chosen):
        message = (
            f"must be from 1 to {num_examples - 1}, below all examples; got {text}."
        )
        raise typer.BadParameter(message, param_hint="--sizes")
    return chosen
