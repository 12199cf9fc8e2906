"""`lazyjax spectrum`: what a kernel's eigenvalues say."""

import sys
from typing import Any

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


def spectrum(
    data: Data = "digits",
    num_train: NumTrain = None,
    depth: Depth = 1,
    activation: Activation = "relu",
    w_std: WStd = 2**0.5,
    b_std: BStd = 0.1,
    out: FigureFile = None,
    seed: Seed = 0,
) -> None:
    """Eigenvalues of the infinite-width kernel, and how labels lie on its eigenvectors."""
    x, y = start("spectrum", data, num_train, seed, out)
    with one_line_errors():
        import lazyjax

        architecture = lazyjax.Architecture(
            depth=depth, activation=activation, w_std=w_std, b_std=b_std
        )
        kernel = lazyjax.infinite_ntk(architecture, x)
        verbs = lazyjax.spectrum
        ends, eigen = verbs.extremes(kernel), verbs.eigh(kernel)
        rows = {
            "largest eigenvalue": ends.largest.value,
            "smallest eigenvalue": ends.smallest.value,
            "condition": verbs.condition(kernel).value,
            "trace": verbs.trace(kernel).value,
            "effective rank": verbs.effective_rank(kernel).value,
            "entropy (nats)": verbs.entropy(kernel).value,
            "zero to rounding": (eigen.values <= eigen.cutoff).sum(),
            "alignment with labels": verbs.target_alignment(kernel, y),
        }

        def draw(axes: Any) -> None:
            from lazyjax import plot

            plot.eigenvalues(axes, {f"depth {depth}": eigen.values})

        write_figure("spectrum", out, draw)
    table = Table(title=f"Kernel of {len(x)} examples", show_header=False)
    table.add_column("quantity")
    table.add_column("value", justify="right")
    for name, value in rows.items():
        table.add_row(name, f"{float(value):.6g}")
    table_console(60).print(table)
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)
