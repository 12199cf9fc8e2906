"""What is wanted of a kernel, and the panels that it is kept in.

Kernels are arranged in one of three ways until the end: all pairs of cotangents
`(n1 s, n2 s)`, equal ones `(s, n1, n2)`, or summed over equal ones `(n1, n2)`. They are
kept in panels, each some rows of examples: in the symmetric case only columns from
the panel's first row on are computed, so that two panels save a quarter of the work.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Arrangement = Literal["pairs", "equal", "summed"]
Panels: TypeAlias = tuple[Array, ...]
Precision = lax.PrecisionLike

# Rows of which two panels are made, and those of which four are: products of fewer are
# hardly quicker apart, and more to compile.
_TWO_PANELS = 480
_FOUR_PANELS = 960
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
        number = 4 if rows >= _FOUR_PANELS else 2 if rows >= _TWO_PANELS else 1
        number = min(number, self.num_rows)
        cuts = [round(self.num_rows * i / number) for i in range(number + 1)]
        return list(itertools.pairwise(cuts))

    def first_column(self, start: int) -> int:
        """First column of the panel whose first row is `start`."""
        return start if self.is_symmetric else 0

    def gram(self, first: Array, second: Array) -> Panels:
        """Kernel of gradients `(n1, s, *p)` and `(n2, s, *p)`."""
        is_small = first.size * self.num_columns * self.seeds < _SMALL_PRODUCT
        if is_small or not self.is_symmetric:
            return self.cut(self.product(first, second))
        # Each panel of gradients is cut out once, and meets those from itself on.
        rows = [first[start:end] for start, end in self.ends]
        return tuple(
            jnp.concatenate([self.product(row, other) for other in rows[i:]], axis=-1)
            for i, row in enumerate(rows)
        )

    def product(self, first: Array, second: Array) -> Array:
        """Products of gradients, arranged."""
        return jnp.einsum(
            "...if,...jf->...ij",
            self._rows(first),
            self._rows(second),
            precision=self.precision,
        )

    def cut(self, kernel: Array) -> Panels:
        """The panels of a whole kernel."""
        unit = self.seeds if self.arrangement == "pairs" else 1
        return tuple(
            kernel[..., start * unit : end * unit, self.first_column(start) * unit :]
            for start, end in self.ends
        )

    def zeros(self, dtype: jnp.dtype) -> Panels:
        """The kernel of nothing."""
        panels = []
        for start, end in self.ends:
            rows, columns = end - start, self.num_columns - self.first_column(start)
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
        # Written out first: computed for each triangle anew, it may differ in its bits.
        upper = settled(jnp.concatenate(whole, axis=-2))
        i = jnp.arange(width)
        return jnp.where(i[:, None] <= i[None], upper, upper.mT)

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


def in_blocks(array: Array, axis: int, number: int) -> Array:
    """An axis as `number` blocks of equal size, the last filled up with zeros."""
    size = -(-array.shape[axis] // number)
    margins = [(0, 0)] * array.ndim
    margins[axis] = (0, number * size - array.shape[axis])
    shape = (*array.shape[:axis], number, size, *array.shape[axis + 1 :])
    return jnp.pad(array, margins).reshape(shape)


def settled(array: Any) -> Any:
    """An array, or several, written out: else their making is fused into what reads them."""
    # Fused into the rearrangement for a product, it takes several times as long.
    return lax.optimization_barrier(array)


def limit_of(limits: Mapping[str, int]) -> int:
    """The limit for the default backend, named or "other"."""
    return limits.get(jax.default_backend(), limits["other"])
