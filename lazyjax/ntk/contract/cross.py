"""Kernels between two networks of the same parameters, leaf by leaf."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import Contraction
from lazyjax.ntk.contract.contract import factor_kernel
from lazyjax.ntk.contract.evaluated import EvaluatedNetwork
from lazyjax.ntk.contract.factors import Factor, common_dtype, pad_to_box, working_dtype
from lazyjax.ntk.contract.groups import SiteBlock, SiteGroup
from lazyjax.ntk.contract.orders import Order, Sizes, order_cost, orders_of
from lazyjax.ntk.trace.views import Origin


class _Piece(NamedTuple):
    """A root that is, but for arrangement and scale, a box of a leaf."""

    root: int
    origin: Origin
    blocks: Sequence[SiteBlock]


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One of the two networks, for its own examples."""

    evaluated: EvaluatedNetwork
    groups: Sequence[SiteGroup]

    def uses(self, leaf: int) -> bool:
        """Whether anything is computed of a leaf."""
        return any(leaf in group.leaves for group in self.groups)

    def pieces(self, leaf: int) -> list[_Piece] | None:
        """The roots that a leaf is made of; `None` if they are no disjoint boxes."""
        return self._boxes(leaf) if self._group(leaf).kind == "direct" else None

    def gradient(self, leaf: int) -> Array:
        """Gradients `(n, s, *leaf)` by a leaf."""
        group = self._group(leaf)
        if group.kind == "vjp":
            by_leaf = self._by_leaf[self.groups.index(group)]
            return by_leaf[group.leaves.index(leaf)]
        whole = tuple((0, size) for size in self.evaluated.leaves[leaf].shape)
        terms = [
            pad_to_box(origin, whole, self.evaluated.root_gradient(root, blocks))
            for root, origin, blocks in self._boxes(leaf)
        ]
        return sum(terms[1:], terms[0])

    @functools.cached_property
    def _by_leaf(self) -> dict[int, list[Array]]:
        return {
            number: self.evaluated.leaf_gradients(group)
            for number, group in enumerate(self.groups)
            if group.kind == "vjp"
        }

    def _boxes(self, leaf: int) -> list[_Piece]:
        """The roots that are boxes of a leaf, of a group that has no others."""
        group = self._group(leaf)
        return [
            _Piece(root, group.origins[root], blocks)
            for root, blocks in group.roots.items()
            if group.origins[root].leaf == leaf
        ]

    def _group(self, leaf: int) -> SiteGroup:
        return next(group for group in self.groups if leaf in group.leaves)


def cross_kernel(
    contraction: Contraction, sizes: Sizes, first: Side, second: Side
) -> Array:
    """Kernel of two networks, each for its own examples."""
    results = (side.evaluated.network.result.dtype for side in (first, second))
    dtype = common_dtype(*results)
    kernel = contraction.zeros(working_dtype(dtype))
    for leaf in reversed(range(len(first.evaluated.leaves))):
        if first.uses(leaf) and second.uses(leaf):
            for term in _terms(contraction, sizes, first, second, leaf):
                kernel = contraction.add(kernel, term)
    return contraction.finalize(kernel, dtype)


def _terms(
    contraction: Contraction, sizes: Sizes, first: Side, second: Side, leaf: int
) -> Iterable[Array]:
    """What the gradients by one leaf add to the kernel."""
    pieces1, pieces2 = first.pieces(leaf), second.pieces(leaf)
    pairs = [
        (one, two)
        for one in pieces1 or ()
        for two in pieces2 or ()
        if one.origin.overlaps(two.origin)
    ]
    is_paired = all(_arrangement(a.origin) == _arrangement(b.origin) for a, b in pairs)
    if pieces1 is None or pieces2 is None or not is_paired:
        yield _gram(contraction, first.gradient(leaf), second.gradient(leaf))
        return
    for one, two in pairs:
        order = _order(sizes, one.blocks, two.blocks)
        if order is None:
            yield _gram(
                contraction,
                first.evaluated.root_gradient(one.root, one.blocks),
                second.evaluated.root_gradient(two.root, two.blocks),
            )
            continue
        factors = _alike(
            contraction,
            first.evaluated.factor(one.blocks[0]),
            second.evaluated.factor(two.blocks[0]),
        )
        yield factor_kernel(contraction, *factors, order)


def _arrangement(origin: Origin) -> tuple[Any, ...]:
    """Equal for roots that are one and the same box of a leaf, rearranged alike."""
    steps = ((step.eqn.primitive.name, str(step.eqn.params)) for step in origin.steps)
    return (origin.box, *steps)


def _order(
    sizes: Sizes, first: Sequence[SiteBlock], second: Sequence[SiteBlock]
) -> Order | None:
    """The cheapest order in which two factors can be contracted; `None` if in none."""
    if len(first) > 1 or len(second) > 1:
        return None
    ((one,), (two,)) = first, second
    if one.layouts[0].key != two.layouts[0].key:
        return None
    same = lambda shape: dataclasses.replace(shape, positions=1)
    if same(one.shape) != same(two.shape):
        return None
    # What grows with the square of the number of positions grows with p q here.
    numbers = one.shape.positions, two.shape.positions
    mean = dataclasses.replace(one.shape, positions=round(math.prod(numbers) ** 0.5))
    orders = orders_of(dataclasses.replace(one.shape, positions=max(numbers)))
    return min(orders, key=lambda order: order_cost(sizes, mean, order).time)


def _alike(
    contraction: Contraction, first: Factor, second: Factor
) -> tuple[Factor, Factor]:
    """Two factors of one dtype and number of cotangents, with patches as operands."""
    dtype = common_dtype(first.delta.dtype, second.delta.dtype)

    def cast(array: Array) -> Array:
        is_float = jnp.issubdtype(array.dtype, jnp.floating)
        return array.astype(dtype) if is_float else array

    def of(factor: Factor) -> Factor:
        delta = _padded(contraction, factor.delta.astype(dtype))
        operand = None if factor.operand is None else lambda: cast(factor.act)
        return Factor(factor.shape, delta, operand)

    return of(first), of(second)


def _gram(contraction: Contraction, first: Array, second: Array) -> Array:
    """Kernel of gradients `(n1, s1, *p)` and `(n2, s2, *p)`."""
    dtype = common_dtype(first.dtype, second.dtype)
    return contraction.gram(
        *(_padded(contraction, side.astype(dtype)) for side in (first, second))
    )


def _padded(contraction: Contraction, array: Array) -> Array:
    """Gradients or cotangents `(n, s, ...)` with zeros for the outputs that lack."""
    missing = contraction.num_cotangents - array.shape[1]
    margins = [(0, 0), (0, missing), *((0, 0) for _ in array.shape[2:])]
    return jnp.pad(array, margins) if missing else array
