"""The kernel that is asked for."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from lazyjax.ntk.outputs import (
    Directions,
    Pairs,
    directions,
    pairs_of,
    symmetrized,
)
from lazyjax.trees import leaf_paths, split_leaves
from lazyjax.typing import ApplyFn, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KernelRequest:
    """A kernel: of which network, between which batches, in which form."""

    apply_fn: ApplyFn  # network `(params, x) -> f`
    params: Params  # point at which the network is linearized
    x1: Any  # first batch, or its shape and dtype where nothing is computed
    x2: Any = None  # second batch; `None` means `x1`, and an exactly symmetric kernel
    outputs: Outputs = "full"  # form of the kernel, as in `empirical_ntk`
    precision: Any = "highest"  # of all contractions
    # Directions in output space, of rows and of columns, in place of those that
    # `outputs` names; then that is only which pairs of them are wanted.
    along: tuple[Directions, Directions] | None = None
    # Whether the examples of `x1` are spread over devices. Then nothing is left out of a
    # symmetric kernel: each device forms its own rows, and what is left out of them it
    # would have to ask others for.
    is_spread: bool = False

    @property
    def columns(self) -> Any:
        """The second batch, whichever it is."""
        return self.x1 if self.x2 is None else self.x2

    @functools.cached_property
    def f(self) -> jax.ShapeDtypeStruct:
        """Outputs over the first batch, by shape."""
        return jax.eval_shape(self.apply_fn, self.params, self.x1)

    @property
    def pairs(self) -> Pairs:
        """Which pairs of directions are wanted."""
        return pairs_of(self.outputs)

    @property
    def num_directions(self) -> int:
        """Directions in output space, of each example."""
        if self.along is not None:
            return self.along[0].number
        is_each = self.outputs in ("full", "diagonal", "trace")
        return self.f.shape[1] if is_each else 1

    @property
    def directions(self) -> tuple[Directions, Directions]:
        """Directions in output space whose kernel entries are wanted, of both batches."""
        if self.along is not None:
            return self.along
        both = directions(self.outputs, self.f.shape[1], self.f.dtype)
        return both, both

    @property
    def cotangents(self) -> tuple[Array, Array]:
        """The directions as vectors: `(c, k)`, or of each example, `(n, c, k)`."""
        rows, columns = self.directions
        first = rows.vectors(self.f.shape[1], self.f.dtype)
        if columns is rows:
            return first, first
        return first, columns.vectors(self.f.shape[1], self.f.dtype)

    def symmetrized(self, kernel: Array) -> Array:
        """A kernel, exactly symmetric if it is of one batch."""
        return symmetrized(kernel) if self.x2 is None else kernel

    def filtered(self, accepts: Callable[[str], bool] | None) -> "KernelRequest":
        """The request for the parameters that are accepted, by path, as a list."""
        if accepts is None:
            return self
        apply_fn = self.apply_fn
        chosen, merge = split_leaves(self.params, accepts)
        if not chosen:
            raise ValueError(
                "`filter` must accept at least one parameter; it accepts none of "
                f"{', '.join(leaf_paths(self.params))}."
            )
        return dataclasses.replace(
            self, apply_fn=lambda leaves, x: apply_fn(merge(leaves), x), params=chosen
        )
