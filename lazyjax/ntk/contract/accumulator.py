"""Accumulators of kernels: arrangement, addition, and the finished form.

An accumulator is arranged in one of three ways: all pairs of cotangents `(n1 s, n2 s)`,
equal ones `(s, n1, n2)`, or the sum over equal ones `(n1, n2)`. If the kernel is
symmetric, only entries on and above the diagonal are read, and the number of examples is
rounded up to blocks of equal size.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Arrangement = Literal["pairs", "equal", "summed"]
Precision = lax.PrecisionLike

# Numbers of rows from which on there are two blocks, and four: blocks below the diagonal
# are left out, but products of fewer rows are hardly quicker.
_TWO_BLOCKS = 480
_FOUR_BLOCKS = 960
# Number of multiplications below which one product is quicker than several.
_SMALL_PRODUCT = 1e8


@dataclasses.dataclass(frozen=True)
class Contraction:
    """Which kernel is accumulated, and how."""

    arrangement: Arrangement  # that of the accumulator
    # Whether the second batch is the first, and only half of the kernel is formed.
    is_symmetric: bool
    precision: Precision  # of all products
    num_rows: int  # examples of the first batch
    num_columns: int  # examples of the second batch
    num_cotangents: int  # for each example

    @property
    def rows_per_example(self) -> int:
        """Rows of the accumulator for each example."""
        return self.num_cotangents if self.arrangement == "pairs" else 1

    @property
    def num_blocks(self) -> int:
        """Number of blocks that rows are split into."""
        rows = self.num_rows * self.rows_per_example
        number = 4 if rows >= _FOUR_BLOCKS else 2 if rows >= _TWO_BLOCKS else 1
        return min(number, self.num_rows) if self.is_symmetric else 1

    def zeros(self, dtype: jnp.dtype) -> Array:
        """Zero accumulator."""
        lead = (self.num_cotangents,) if self.arrangement == "equal" else ()
        number = self.num_blocks
        sizes = (
            self.rows_per_example * number * -(-size // number)
            for size in (self.num_rows, self.num_columns)
        )
        return jnp.zeros((*lead, *sizes), dtype)

    def add(self, kernel: Array, term: Array) -> Array:
        """An accumulator plus a term, which may be without the padding."""
        margins = [(0, a - b) for a, b in zip(kernel.shape, term.shape, strict=True)]
        return kernel + jnp.pad(term.astype(kernel.dtype), margins)

    def gram(self, first: Array, second: Array) -> Array:
        """Kernel of gradients `(n1, s, *p)` and `(n2, s, *p)`."""
        return self.add_gram(self.zeros(first.dtype), first, second)

    def add_gram(
        self, kernel: Array, first: Array, second: Array, weights: Array | None = None
    ) -> Array:
        """An accumulator plus the kernel of gradients `(n, s, *p)` of both batches."""
        # Weights are of pairs of examples `(n1, n2)`, `None` for ones.
        is_small = first.size * self.num_columns * self.num_cotangents < _SMALL_PRODUCT
        if self.num_blocks > 1 and not is_small:
            return _add_triangle(self, kernel, first, weights)
        term = self.product_of_rows(self.as_rows(first), self.as_rows(second))
        return self.add(kernel, self.weighted(term, weights))

    def product_of_rows(self, first: Array, second: Array) -> Array:
        """Products of gradients that are arranged as rows."""
        last, batch = first.ndim - 1, tuple(range(first.ndim - 2))
        return lax.dot_general(
            first,
            second,
            (((last,), (last,)), (batch, batch)),
            precision=self.precision,
        )

    def weighted(self, kernel: Array, weights: Array | None) -> Array:
        """The block of each pair of examples times the weight of the pair."""
        if weights is None:
            return kernel
        if self.arrangement != "pairs":
            return kernel * weights.reshape((1,) * (kernel.ndim - 2) + weights.shape)
        n1, n2 = weights.shape
        blocks = kernel.reshape(n1, self.num_cotangents, n2, self.num_cotangents)
        return (blocks * weights[:, None, :, None]).reshape(kernel.shape)

    def finalize(self, kernel: Array, dtype: Any) -> Array:
        """An accumulator as the kernel `(n1, n2, *k)`, exactly symmetric for one batch."""
        return self._whole(kernel).astype(dtype)

    def _whole(self, kernel: Array) -> Array:
        if not self.is_symmetric:
            return self._unflatten(kernel)
        size, half = self.num_rows * self.rows_per_example, -(-self.num_rows // 2)
        lead = kernel.shape[:-2]

        def rows(example: Array) -> Array:
            # Rows of the upper triangle and of its mirror image.
            start, length = (
                example * self.rows_per_example,
                half * self.rows_per_example,
            )
            corner = [0] * len(lead)
            above = lax.dynamic_slice(
                kernel, [*corner, start, 0], (*lead, length, size)
            )
            left = lax.dynamic_slice(kernel, [*corner, 0, start], (*lead, size, length))
            is_above = (start + jnp.arange(length))[:, None] <= jnp.arange(size)[None]
            # Not a choice between both, which XLA may take minutes to compile.
            mirrored = jnp.where(is_above, 0, left.mT)
            return self._unflatten(jnp.where(is_above, above, 0) + mirrored)

        # XLA writes the triangle out only for a loop. Computed anew for each half, it
        # would differ in its bits.
        halves = lax.map(rows, jnp.asarray([0, self.num_rows - half]))
        if self.num_rows % 2 == 0:
            return halves.reshape(-1, *halves.shape[2:])
        return jnp.concatenate([halves[0], halves[1, 1:]])

    def _unflatten(self, kernel: Array) -> Array:
        if self.arrangement == "pairs":
            shape = (-1, self.num_cotangents, self.num_columns, self.num_cotangents)
            return kernel.reshape(shape).transpose(0, 2, 1, 3)
        return jnp.moveaxis(kernel, 0, -1) if self.arrangement == "equal" else kernel

    def as_rows(self, array: Array) -> Array:
        """Gradients `(n, s, *p)` as rows."""
        n, num_cotangents = array.shape[:2]
        if self.arrangement == "pairs":
            return array.reshape(n * num_cotangents, -1)
        if self.arrangement == "summed":
            return array.reshape(n, -1)
        return array.reshape(n, num_cotangents, -1).swapaxes(0, 1)


# Layers of the same sizes are traced once.
@functools.partial(jax.jit, static_argnames="contraction")
def _add_triangle(
    contraction: Contraction, kernel: Array, gradients: Array, weights: Array | None
) -> Array:
    # Pairs of blocks on and above the diagonal, one after the other, are added in place, so
    # that nothing else of the kernel's size is needed. Gradients are sliced where they are:
    # reshaped into blocks, they would be written once more.
    number = contraction.num_blocks
    gradients = contraction.as_rows(gradients)
    axis = gradients.ndim - 2
    examples = -(-contraction.num_rows // number)
    size = examples * contraction.rows_per_example
    gradients = _pad_axes(gradients, {axis: number * size})
    if weights is not None:
        weights = _pad_axes(weights, dict.fromkeys((0, 1), number * examples))

    def add(kernel: Array, pair: Array) -> tuple[Array, None]:
        rows, columns = (
            lax.dynamic_slice_in_dim(
                gradients, size * block, size, axis, allow_negative_indices=False
            )
            for block in pair
        )
        term = contraction.product_of_rows(rows, columns)
        if weights is not None:
            start = [examples * block for block in pair]
            pair_weights = lax.dynamic_slice(
                weights, start, (examples,) * 2, allow_negative_indices=False
            )
            term = contraction.weighted(term, pair_weights)
        start = [*(0 for _ in kernel.shape[:-2]), *(size * block for block in pair)]
        old = lax.dynamic_slice(kernel, start, term.shape, allow_negative_indices=False)
        new = old + term.astype(kernel.dtype)
        return lax.dynamic_update_slice(
            kernel, new, start, allow_negative_indices=False
        ), None

    pairs = itertools.combinations_with_replacement(range(number), 2)
    return lax.scan(add, kernel, jnp.asarray(list(pairs)))[0]


def _pad_axes(array: Array, sizes: Mapping[int, int]) -> Array:
    # Axes padded with zeros to the given sizes.
    margins = [(0, sizes.get(i, n) - n) for i, n in enumerate(array.shape)]
    return jnp.pad(array, margins) if any(m for _, m in margins) else array


def split_into_blocks(array: Array, axis: int, number: int) -> Array:
    """An axis as `number` blocks of equal size, the last padded with zeros."""
    size = -(-array.shape[axis] // number)
    shape = (*array.shape[:axis], number, size, *array.shape[axis + 1 :])
    return _pad_axes(array, {axis: number * size}).reshape(shape)


def materialize(array: Any) -> Any:
    """Arrays, written to memory before they are read."""
    # Fused into the rearrangement for a product, their computation takes several times
    # as long.
    return lax.optimization_barrier(array)


def platform_limit(limits: Mapping[str, int]) -> int:
    """The limit for the default backend, named or "other"."""
    return limits.get(jax.default_backend(), limits["other"])
