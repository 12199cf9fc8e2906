"""Kernels of canonical factors, in a given order of contraction.

Kernels are arranged in one of three ways until the end: all pairs of cotangents
`(n1 s, n2 s)`, equal ones `(s, n1, n2)`, or summed over equal ones `(n1, n2)`. They are
kept in panels, each some rows of examples: in the symmetric case only columns from
the panel's first row on are computed, so that two panels save a quarter of the work.

There are three orders of contraction. "gradient" forms the gradients, a slice at a time,
and multiplies them. The others go through pairs of positions: "kronecker" multiplies the
products of cotangents by those of operands; "chain" multiplies the products of operands
into the cotangents of one batch, and the result with the cotangents of the other.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from lazyjax.ntk.contract_factors import Factor
from lazyjax.ntk.contract_orders import Order

Arrangement = Literal["pairs", "equal", "summed"]
Panels: TypeAlias = tuple[Array, ...]
Precision = lax.PrecisionLike

# Size of a slice of gradients: fits the cache of a processor core; an accelerator needs
# large products to be busy.
_SLICE_BYTES = {"cpu": 10 * 2**20, "other": 256 * 2**20}
# The same for what lies between the two steps of a chain, for one example.
_CHAIN_BYTES = {"cpu": 4 * 2**20, "other": 256 * 2**20}

# Rows of a panel that still make an efficient product, of which there are at most four.
_PANEL_ROWS = 120
_MAX_PANELS = 4
# Examples in a block of columns that still make efficient products, and the number of
# blocks from which on little is computed twice.
_BLOCK_COLUMNS = 12
_MAX_BLOCKS = 4
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
        number = min(max(rows // _PANEL_ROWS, 1), _MAX_PANELS, self.num_rows)
        number = 2 if number == 3 else number
        cuts = [round(self.num_rows * i / number) for i in range(number + 1)]
        return list(itertools.pairwise(cuts))

    def kernel(self, first: Factor, second: Factor, order: Order) -> Panels:
        """Kernel of the gradients of one factor, at two batches."""
        if order == "kronecker":
            return self._by_positions(first, second)
        if order == "chain":
            return self._chained(first, second)
        num_slices = _num_slices(first, second)
        if num_slices > 1:
            return self._sliced(first, second, num_slices)
        gradients = self.gradients(first)
        return self.gram(
            gradients, gradients if second is first else self.gradients(second)
        )

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
        weights = self._acts(first, second)[:, :, 0, 0, 0]
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
        # Looked up, both triangles at the same place: added up from two, the compiler
        # may compute the one in other bits than the other.
        i = jnp.arange(width)
        return upper[
            ..., jnp.minimum(i[:, None], i[None]), jnp.maximum(i[:, None], i[None])
        ]

    def gradients(self, factor: Factor) -> Array:
        """Gradients `(n, s, g, o, i)` of a factor."""
        if factor.act is None:
            return factor.delta[:, :, :, 0, :, None]
        if factor.shape.is_index:
            return scattered(factor, 0, factor.shape.inputs)
        if factor.shape.groups == 1:
            (slices,) = _outputs_sliced(factor.delta, 1)
            return self._formed(slices, _settled(factor.act[:, 0]))[:, :, None]
        return jnp.einsum(
            "nsgpo,ngpi->nsgoi", factor.delta, factor.act, precision=self.precision
        )

    def _formed(self, delta: Array, act: Array) -> Array:
        # Gradients (n, s, o, i) of cotangents (n, p, s, o), in an order of axes that the
        # product has by itself.
        n, positions, seeds, outputs = delta.shape
        flat = delta.reshape(n, positions, seeds * outputs)
        rows = jnp.einsum("npx,npi->nxi", flat, act, precision=self.precision)
        return rows.reshape(n, seeds, outputs, -1)

    def _sliced(self, first: Factor, second: Factor, num_slices: int) -> Panels:
        # Gradients are formed a slice at a time, used while in cache, and forgotten.
        sides = (first,) if second is first else (first, second)
        acts = [_settled(side.act[:, 0]) for side in sides if side.act is not None]

        def add(kernel: Panels, deltas: list[Array]) -> tuple[Panels, None]:
            made = [
                self._formed(delta, act)
                for delta, act in zip(deltas, acts, strict=True)
            ]
            return add_panels(kernel, self.gram(made[0], made[-1])), None

        slices = [_outputs_sliced(side.delta, num_slices) for side in sides]
        return lax.scan(add, self.zeros(first.delta.dtype), slices)[0]

    def _acts(self, first: Factor, second: Factor) -> Array:
        # Products of operands, (n1, n2, g, p1, p2).
        if first.act is None or second.act is None:
            raise ValueError("`first` and `second` must have operands.")
        if first.shape.is_index:
            same = first.act[:, None, None, :, None] == second.act[None, :, None, None]
            return same.astype(first.delta.dtype)
        return jnp.einsum(
            "ngpi,mgqi->nmgpq", first.act, second.act, precision=self.precision
        )

    def _by_positions(self, first: Factor, second: Factor) -> Panels:
        # Products of cotangents times those of operands, summed over pairs of positions.
        subscripts = {
            "pairs": ("sgpo,mtgqo->gpqsmt", "gpqsmt,mgpq->smt"),
            "equal": ("sgpo,msgqo->gpqsm", "gpqsm,mgpq->sm"),
            "summed": ("sgpo,msgqo->gpqm", "gpqm,mgpq->m"),
        }[self.arrangement]
        product = functools.partial(jnp.einsum, precision=self.precision)

        def row(delta: Array, others: Array, weights: Array) -> Array:
            return product(
                subscripts[1], product(subscripts[0], delta, others), weights
            )

        acts = self._acts(first, second)
        return self._row_by_row(row, first.delta, second.delta, acts)

    def _chained(self, first: Factor, second: Factor) -> Panels:
        # One group. Cotangents are cut along `o`, for what lies between to fit in cache.
        acts = self._acts(first, second)[:, :, 0]
        num_slices = self._num_chain_slices(second.delta)
        sides = (first,) if second is first else (first, second)
        slices = [_positions_last(side.delta, num_slices) for side in sides]

        def row(delta: Array, others: Array, weights: Array) -> Array:
            flat = others.reshape(others.shape[0], -1, others.shape[-1])
            met = jnp.einsum("mxq,mpq->mxp", flat, weights, precision=self.precision)
            return self._with_row(met, delta.reshape(self.seeds, -1))

        def add(kernel: Panels, deltas: list[Array]) -> tuple[Panels, None]:
            term = self._row_by_row(row, deltas[0], deltas[-1], acts)
            return add_panels(kernel, term), None

        if num_slices == 1:
            return self._row_by_row(row, slices[0][0], slices[-1][0], acts)
        return lax.scan(add, self.zeros(first.delta.dtype), slices)[0]

    def _with_row(self, met: Array, delta: Array) -> Array:
        # Products of many cotangents (m, s * x) with those (s, x) of one example. The
        # large operand must come first for the product to read it as it lies.
        width = delta.shape[-1]
        if self.arrangement == "pairs":
            products = lax.dot_general(
                met.reshape(-1, width),
                delta,
                (((1,), (1,)), ((), ())),
                precision=self.precision,
            )
            return products.T.reshape(self.seeds, -1, self.seeds)
        subscripts = "msx,sx->sm" if self.arrangement == "equal" else "msx,sx->m"
        rows = met.reshape(-1, self.seeds, width)
        return jnp.einsum(subscripts, rows, delta, precision=self.precision)

    def _row_by_row(
        self,
        row: Callable[[Array, Array, Array], Array],
        first: Array,
        second: Array,
        acts: Array,
    ) -> Panels:
        # `row` gives the kernel of one example of the first batch with some of the
        # second: (s, m, t), (s, m) or (m,) as arranged. One program serves all blocks
        # of columns, and skips the rows below them.
        number = self._num_column_blocks
        blocks = _blocks(second, 0, number)
        weights = _blocks(acts, 1, number).swapaxes(0, 1)
        last = np.minimum((1 + np.arange(number)) * blocks.shape[1], self.num_rows)
        ends = last if self.is_symmetric else np.full(number, self.num_rows)

        def column(block: tuple[Array, Array, Array]) -> Array:
            others, weights, end = block

            def one(given: tuple[Array, Array, Array]) -> Array:
                i, delta, weights = given
                made = jax.eval_shape(row, delta, others, weights)
                return lax.cond(
                    i < end,
                    lambda: row(delta, others, weights),
                    lambda: jnp.zeros(made.shape, made.dtype),
                )

            return lax.map(one, (jnp.arange(self.num_rows), first, weights))

        kernel = lax.map(column, (blocks, weights, jnp.asarray(ends)))
        placed = kernel.swapaxes(0, 1)  # (n1, block, ...)
        if self.arrangement == "summed":
            return self._cut(placed.reshape(self.num_rows, -1)[:, : self.num_columns])
        placed = jnp.moveaxis(placed, 2, 0)  # (s, n1, block, m, ...)
        if self.arrangement == "equal":
            whole = placed.reshape(self.seeds, self.num_rows, -1)
            return self._cut(whole[..., : self.num_columns])
        whole = placed.swapaxes(0, 1).reshape(self.num_rows * self.seeds, -1)
        return self._cut(whole[:, : self.num_columns * self.seeds])

    @property
    def _num_column_blocks(self) -> int:
        if not self.is_symmetric:
            return 1
        number = min(max(self.num_columns // _BLOCK_COLUMNS, 2), _MAX_BLOCKS)
        return min(number, self.num_columns)

    def _num_chain_slices(self, delta: Array) -> int:
        # Into how many slices the cotangents of a block of columns are cut.
        size = delta.size * delta.dtype.itemsize // self._num_column_blocks
        return _divisor(delta.shape[-1], size, _limit(_CHAIN_BYTES))

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


def add_panels(first: Panels, second: Panels, sign: int = 1) -> Panels:
    """Sum of two kernels, or their difference."""
    return tuple(a + sign * b for a, b in zip(first, second, strict=True))


def _blocks(array: Array, axis: int, number: int) -> Array:
    # An axis as `number` blocks of equal size, the last filled up with zeros.
    size = -(-array.shape[axis] // number)
    margins = [(0, 0)] * array.ndim
    margins[axis] = (0, number * size - array.shape[axis])
    shape = (*array.shape[:axis], number, size, *array.shape[axis + 1 :])
    return jnp.pad(array, margins).reshape(shape)


def _settled(array: Array) -> Array:
    # Written out as it is, for a product to read it: else its making is fused into a
    # rearrangement for the product, which takes several times as long.
    return lax.optimization_barrier(array)


def _num_slices(first: Factor, second: Factor) -> int:
    # Into how many slices along `o` the gradients are cut: just small enough for cache.
    shape, delta = first.shape, first.delta
    if not shape.has_act or shape.is_index or shape.groups > 1:
        return 1
    examples = max(delta.shape[0], second.delta.shape[0])
    size = examples * delta.shape[1] * shape.size * delta.dtype.itemsize
    return _divisor(shape.outputs, size, _limit(_SLICE_BYTES))


def _limit(limits: Mapping[str, int]) -> int:
    return limits.get(jax.default_backend(), limits["other"])


def _divisor(number: int, size: int, limit: int) -> int:
    # The least divisor of `number` in so many pieces no one is larger than the limit.
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return next((d for d in divisors if size <= d * limit), number)


def _outputs_sliced(delta: Array, num_slices: int) -> Array:
    # Cotangents (n, s, 1, p, o) as slices (slice, n, p, s, o).
    n, seeds, _, positions, outputs = delta.shape
    delta = delta.reshape(n, seeds, positions, num_slices, outputs // num_slices)
    return _settled(delta.transpose(3, 0, 2, 1, 4))


def _positions_last(delta: Array, num_slices: int) -> Array:
    # Cotangents (n, s, 1, p, o) as slices (slice, n, s, o, p).
    n, seeds, _, positions, outputs = delta.shape
    delta = delta.reshape(n, seeds, positions, num_slices, outputs // num_slices)
    return _settled(delta.transpose(3, 0, 1, 4, 2))


def scattered(factor: Factor, start: int, end: int) -> Array:
    """Gradients `(n, s, g, o, i)` of a lookup, for `i` from `start` to `end` only."""
    # The one-hot operand is never formed: cotangents are added to the rows they are of.
    if factor.act is None:
        raise ValueError("`factor` must have an index.")
    n, seeds, _, _, outputs = factor.delta.shape
    is_inside = (factor.act >= start) & (factor.act < end)
    index = jnp.where(is_inside, factor.act - start, end - start)
    table = jnp.zeros((n, end - start, seeds, outputs), factor.delta.dtype)
    values = factor.delta[:, :, 0].transpose(0, 2, 1, 3)
    table = table.at[jnp.arange(n)[:, None], index].add(values, mode="drop")
    return table.transpose(0, 2, 3, 1)[:, :, None]
