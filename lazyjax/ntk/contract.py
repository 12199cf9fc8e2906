"""Kernels of canonical factors, in a given order of contraction.

Kernels are arranged in one of three ways until the end: all pairs of cotangents
`(n1 s, n2 s)`, equal ones `(s, n1, n2)`, or summed over equal ones `(n1, n2)`. They are
kept in panels, each some rows of examples: in the symmetric case only columns from
the panel's first row on are computed, so that two panels save a quarter of the work.
"""

import dataclasses
import itertools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.ntk.contract_factors import Factor
from lazyjax.ntk.contract_orders import Order

Arrangement = Literal["pairs", "equal", "summed"]
Panels: TypeAlias = tuple[Array, ...]
Precision = lax.PrecisionLike

# Size of a slice of gradients: fits the cache of a processor core; an accelerator needs
# large products to be busy.
_SLICE_BYTES = {"cpu": 5 * 2**20, "other": 256 * 2**20}

# Rows of a panel that still make an efficient product.
_PANEL_ROWS = 120
# Products (multiplications) so small that one call is quicker than two.
_SMALL_PRODUCT = 1e8


@dataclasses.dataclass(frozen=True)
class Contraction:
    """What is wanted of a kernel, and how.

    Attributes:
        arrangement: See above.
        is_symmetric: Whether the second batch is the first.
        precision: Precision of all products.
        num_rows: Number of examples of the first batch.
        num_columns: Number of examples of the second batch.
        seeds: Number of cotangents.
    """

    arrangement: Arrangement
    is_symmetric: bool
    precision: Precision
    num_rows: int
    num_columns: int
    seeds: int

    @property
    def ends(self) -> list[tuple[int, int]]:
        """First and last (excluded) example of each panel."""
        if not self.is_symmetric:
            return [(0, self.num_rows)]
        rows = self.num_rows * (self.seeds if self.arrangement == "pairs" else 1)
        number = min(max(rows // _PANEL_ROWS, 1), 2, self.num_rows)
        cuts = [round(self.num_rows * i / number) for i in range(number + 1)]
        return list(itertools.pairwise(cuts))

    def kernel(self, first: Factor, second: Factor, order: Order) -> Panels:
        """Kernel of the gradients of one factor, at two batches."""
        if order == "kronecker":
            return self._positions(first, second)
        num_slices = _num_slices(first, second)
        if num_slices > 1:
            return self._sliced(first, second, num_slices)
        return self.gram(self.gradients(first), self.gradients(second))

    def gram(self, first: Array, second: Array) -> Panels:
        """Kernel of gradients `(n1, s, *p)` and `(n2, s, *p)`."""
        if first.size * self.num_columns * self.seeds < _SMALL_PRODUCT:
            return self._cut(self._product(first, second))
        return tuple(
            self._product(first[start:end], second[self._first_column(start) :])
            for start, end in self.ends
        )

    def weighted(self, kernel: Panels, first: Factor, second: Factor) -> Panels:
        """Products of cotangents times those of operands, for a single position."""
        if first.act is None:
            return kernel
        weights = self._acts(first, second)[:, 0, 0, :, 0]
        return tuple(
            self._weighted(panel, weights[start:end, self._first_column(start) :])
            for panel, (start, end) in zip(kernel, self.ends, strict=True)
        )

    def zeros(self, dtype: jnp.dtype) -> Panels:
        """The kernel of nothing."""
        panels = []
        for start, end in self.ends:
            rows, columns = end - start, self.num_columns - self._first_column(start)
            shape = {
                "pairs": (rows * self.seeds, columns * self.seeds),
                "equal": (self.seeds, rows, columns),
                "summed": (rows, columns),
            }[self.arrangement]
            panels.append(jnp.zeros(shape, dtype))
        return tuple(panels)

    def assembled(self, kernel: Panels) -> Array:
        """The kernel of all panels, exactly symmetric in the symmetric case."""
        if not self.is_symmetric:
            return kernel[0]
        width = kernel[0].shape[-1]
        whole = [
            jnp.pad(panel, [(0, 0)] * (panel.ndim - 1) + [(width - panel.shape[-1], 0)])
            for panel in kernel
        ]
        upper = jnp.concatenate(whole, axis=-2)
        return jnp.triu(upper) + jnp.swapaxes(jnp.triu(upper, 1), -1, -2)

    def gradients(self, factor: Factor) -> Array:
        """Gradients `(n, s, g, o, i)` of a factor."""
        if factor.act is None:
            return factor.delta[:, :, :, 0, :, None]
        if factor.shape.is_index:
            return _scattered(factor)
        return jnp.einsum(
            "nsgpo,ngpi->nsgoi", factor.delta, factor.act, precision=self.precision
        )

    def _sliced(self, first: Factor, second: Factor, num_slices: int) -> Panels:
        # Gradients are formed a slice at a time, used while in cache, and forgotten.
        sides = (first,) if self.is_symmetric else (first, second)
        acts = [side.act for side in sides]

        def gradient(delta: Array, act: Array | None) -> Array:
            rows = jnp.einsum("npx,npi->nxi", delta, act, precision=self.precision)
            return rows.reshape(rows.shape[0], self.seeds, -1)

        def add(kernel: Panels, deltas: list[Array]) -> tuple[Panels, None]:
            made = [
                gradient(delta, None if act is None else act[:, 0])
                for delta, act in zip(deltas, acts, strict=True)
            ]
            return add_panels(kernel, self.gram(made[0], made[-1])), None

        slices = [_outputs_sliced(side.delta, num_slices) for side in sides]
        return lax.scan(add, self.zeros(first.delta.dtype), slices)[0]

    def _acts(self, first: Factor, second: Factor) -> Array:
        # Products of operands, (n1, g, p1, n2, p2).
        if first.act is None or second.act is None:
            raise ValueError("`first` and `second` must have operands.")
        if first.shape.is_index:
            same = first.act[:, None, :, None, None] == second.act[None, None, None]
            return same.astype(first.delta.dtype)
        return jnp.einsum(
            "ngpi,mgqi->ngpmq", first.act, second.act, precision=self.precision
        )

    def _positions(self, first: Factor, second: Factor) -> Panels:
        # Position by position, one example of the first batch at a time.
        acts = self._acts(first, second)
        subscripts = {
            "pairs": ("sgpo,mtgqo->gpqsmt", "gpqsmt,gpmq->smt"),
            "equal": ("sgpo,msgqo->gpqsm", "gpqsm,gpmq->sm"),
            "summed": ("sgpo,msgqo->gpqm", "gpqm,gpmq->m"),
        }[self.arrangement]

        def row(pair: tuple[Array, Array]) -> Array:
            delta, weights = pair
            products = jnp.einsum(
                subscripts[0], delta, second.delta, precision=self.precision
            )
            return jnp.einsum(
                subscripts[1], products, weights, precision=self.precision
            )

        rows = lax.map(row, (first.delta, acts))
        if self.arrangement == "pairs":
            rows = rows.reshape(first.delta.shape[0] * self.seeds, -1)
        elif self.arrangement == "equal":
            rows = rows.swapaxes(0, 1)
        return self._cut(rows)

    def _product(self, first: Array, second: Array) -> Array:
        return jnp.einsum(
            "...if,...jf->...ij",
            self._rows(first),
            self._rows(second),
            precision=self.precision,
        )

    def _cut(self, kernel: Array) -> Panels:
        unit = self.seeds if self.arrangement == "pairs" else 1
        return tuple(
            kernel[..., start * unit : end * unit, self._first_column(start) * unit :]
            for start, end in self.ends
        )

    def _first_column(self, start: int) -> int:
        return start if self.is_symmetric else 0

    def _weighted(self, kernel: Array, weights: Array) -> Array:
        # Each block of a pair of examples times the weight of the pair.
        if self.arrangement != "pairs":
            return kernel * (weights if kernel.ndim == 2 else weights[None])
        n1, n2 = weights.shape
        blocks = kernel.reshape(n1, self.seeds, n2, self.seeds)
        return (blocks * weights[:, None, :, None]).reshape(kernel.shape)

    def _rows(self, array: Array) -> Array:
        n, seeds = array.shape[:2]
        if self.arrangement == "pairs":
            return array.reshape(n * seeds, -1)
        if self.arrangement == "summed":
            return array.reshape(n, -1)
        return array.reshape(n, seeds, -1).swapaxes(0, 1)


def add_panels(first: Panels, second: Panels) -> Panels:
    """Sum of two kernels."""
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _num_slices(first: Factor, second: Factor) -> int:
    # Into how many slices along `o` the gradients are cut: just small enough for cache.
    shape, delta = first.shape, first.delta
    if not shape.has_act or shape.is_index or shape.groups > 1:
        return 1
    examples = max(delta.shape[0], second.delta.shape[0])
    size = examples * delta.shape[1] * shape.size * delta.dtype.itemsize
    limit = _SLICE_BYTES.get(jax.default_backend(), _SLICE_BYTES["other"])
    divisors = [d for d in range(1, shape.outputs + 1) if shape.outputs % d == 0]
    return next((d for d in divisors if size <= d * limit), shape.outputs)


def _outputs_sliced(delta: Array, num_slices: int) -> Array:
    # Cotangents (n, s, 1, p, o) as slices (slice, n, p, s * o).
    n, seeds, _, positions, outputs = delta.shape
    delta = delta.reshape(n, seeds, positions, num_slices, outputs // num_slices)
    return delta.transpose(3, 0, 2, 1, 4).reshape(num_slices, n, positions, -1)


def _scattered(factor: Factor) -> Array:
    # The one-hot operand is never formed: cotangents are added to the rows they are of.
    if factor.act is None:
        raise ValueError("`factor` must have an index.")
    n, seeds, _, _, outputs = factor.delta.shape
    index = jnp.where(factor.act < 0, factor.shape.inputs, factor.act)
    table = jnp.zeros((n, factor.shape.inputs, seeds, outputs), factor.delta.dtype)
    values = factor.delta[:, :, 0].transpose(0, 2, 1, 3)
    table = table.at[jnp.arange(n)[:, None], index].add(values, mode="drop")
    return table.transpose(0, 2, 3, 1)[:, :, None]
