"""Sums over all pairs of examples of a kernel that is not held whole, tile by tile.

Kernels here are of one batch with itself, so that tiles below the diagonal are those
above it. Sums are in float64.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from lazyjax.batches import num_rows
from lazyjax.ntk import empirical_ntk
from lazyjax.ntk.operator import NTKOperator
from lazyjax.spectrum.operators.kinds import Kernel, MatrixOnDisk, as_operator
from lazyjax.typing import AnyArray

# Examples on a side of what is evaluated at a time.
TILE = 512


class Pairs(NamedTuple):
    """One number for each pair of examples.

    Attributes:
        num_examples: Examples of the batch.
        tile: Examples on a side that should at least be taken at a time.
        entries: The numbers of two ranges of examples, in float64.
    """

    num_examples: int
    tile: int
    entries: Callable[[slice, slice], np.ndarray]


def pairs_of(name: str, kernel: Kernel) -> Pairs:
    """A kernel as one number for each pair: several outputs are summed over.

    Args:
        name: Of the argument, for messages.
        kernel: Matrix `(n, n)`, kernel `(n, n, k, k)`, store or `NTKOperator`.

    Returns:
        The numbers.

    Raises:
        ValueError: If the kernel is of two batches, or an operator of another kind.
        TypeError: If it is none of these.
    """
    if isinstance(kernel, AnyArray):
        matrix = np.asarray(kernel)
        return Pairs(len(matrix), 1, lambda i, j: _traced(matrix[i, j]))
    as_operator(name, kernel)
    if isinstance(kernel, MatrixOnDisk):
        store = kernel
        return Pairs(store.shape[0], store.tile[0], lambda i, j: _traced(store[i, j]))
    if not isinstance(kernel, NTKOperator):
        raise ValueError(
            f"`{name}` is an operator of {kernel.shape[0]} rows, more than `max_dense`, "
            "and its entries are not known by examples: raise `max_dense`, or pass an "
            "array, a store of `lazyjax.gram` or an `NTKOperator`."
        )
    operator = kernel

    def entries(rows: slice, columns: slice) -> np.ndarray:
        first, second = (
            jax.tree.map(lambda leaf, of=of: leaf[of], operator.x1)
            for of in (rows, columns)
        )
        found = empirical_ntk(
            operator.apply_fn,
            operator.params,
            first,
            second,
            outputs="trace",
            check_rows=False,
        )
        return np.asarray(found, np.float64)

    return Pairs(num_rows(operator.x1), TILE, entries)


def pairs_of_targets(y: Float[AnyArray, "n k"]) -> Pairs:
    """Products of the targets of two examples."""
    targets = np.asarray(y, np.float64)
    return Pairs(len(targets), 1, lambda i, j: targets[i] @ targets[j].T)


def alignment_by_tiles(first: Pairs, second: Pairs, *, centered: bool) -> float:
    """Alignment of two kernels of the same examples, each tile read once.

    Args:
        first: The one.
        second: The other.
        centered: Whether both are centred.

    Returns:
        The alignment; NaN if one of them is zero, once centred.
    """
    n = first.num_examples
    rows = np.zeros((2, n))
    products = np.zeros((2, 2))
    for i, j, weight in _upper(n, max(first.tile, second.tile)):
        tiles = [first.entries(i, j), second.entries(i, j)]
        products += weight * np.einsum("aij,bij->ab", tiles, tiles)
        for sums, tile in zip(rows, tiles, strict=True):
            sums[i] += np.sum(tile, axis=1)
            if weight == 2:
                sums[j] += np.sum(tile, axis=0)
    if centered:
        # <C A C, C B C> from the sums of rows: what rows share is taken away first.
        means = np.sum(rows, axis=1, keepdims=True) / n
        products -= 2 / n * (rows - means) @ (rows - means).T + means @ means.T
    with np.errstate(invalid="ignore"):
        return float(products[0, 1] / np.sqrt(products[0, 0] * products[1, 1]))


def moments_on_disk(store: MatrixOnDisk) -> tuple[float, float]:
    r"""$\operatorname{tr} A$ and $\operatorname{tr} A^2$ of a store, read once.

    Args:
        store: Of one batch with itself.

    Returns:
        Both.

    Raises:
        ValueError: If an entry is not finite.
    """
    total = square = 0.0
    for i, j, weight in _upper(store.shape[0], store.tile[0]):
        tile = np.asarray(store[i, j], np.float64)
        square += weight * float(np.sum(tile**2))
        if weight == 1:
            total += float(np.trace(_traced(tile)))
    if not np.isfinite(square):
        raise ValueError("`kernel` must be finite; it has NaN or infinite values.")
    return total, square


def _upper(n: int, tile: int) -> Iterator[tuple[slice, slice, int]]:
    """Tiles on and above the diagonal, and how often each counts."""
    parts = [slice(i, min(i + tile, n)) for i in range(0, n, tile)]
    for number, rows in enumerate(parts):
        for columns in parts[number:]:
            yield rows, columns, 1 if rows is columns else 2


def _traced(entries: np.ndarray) -> np.ndarray:
    """Sum over equal outputs, in float64."""
    entries = np.asarray(entries, np.float64)
    return np.trace(entries, axis1=2, axis2=3) if entries.ndim == 4 else entries
