"""Kernels of all parts of a network, added up part by part."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import Contraction
from lazyjax.ntk.contract.contract import kernel_of
from lazyjax.ntk.contract.factors import (
    Factor,
    factor_of,
    in_box,
    merge,
    rooted,
    working_dtype,
)
from lazyjax.ntk.contract.gradients import gradients, scattered
from lazyjax.ntk.contract.groups import Block, Part
from lazyjax.ntk.contract.layout import merged_shape, of_rows
from lazyjax.ntk.contract.positions import products_of_operands
from lazyjax.ntk.trace.replay import param_values
from lazyjax.ntk.trace.sites import TracedNetwork
from lazyjax.ntk.trace.views import bounding_box

_Sliceable = TypeVar("_Sliceable", Array, Factor)


@dataclasses.dataclass(frozen=True, eq=False)
class SharedProducts:
    """Products of cotangents: whose weights are missing, and the others', by kernel."""

    missing: set[int]
    weights: dict[int, Array] = dataclasses.field(default_factory=dict)


def shared_products(
    network: TracedNetwork, parts: Sequence[Part]
) -> dict[tuple, SharedProducts]:
    """The products of cotangents that parts need, by what roots must share."""
    found: dict[tuple, SharedProducts] = {}
    for part in parts:
        for root, blocks in part.roots.items():
            key = _key(network, root, blocks[0])
            if part.kind == "direct" and len(blocks) == 1 and key is not None:
                found.setdefault(key, SharedProducts(set())).missing.add(root)
    return found


def _key(network: TracedNetwork, root: int, block: Block) -> tuple | None:
    # What roots must share to have the same products of cotangents.
    key = block.shared_key
    return None if key is None else (*key, working_dtype(network.avals[root].dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class PartSums:
    """Everything that the kernels are computed of, and the kernels so far.

    Attributes:
        network: The network.
        contraction: What is wanted of kernels.
        outer: Its outer values.
        leaves: Its parameters.
        cotangents: By perturbation.
        records: By number.
        groups: For each leaf, which kernel it counts for.
        kernels: The kernels so far.
        shared: Products of cotangents that several roots may need, by their keys.
    """

    network: TracedNetwork
    contraction: Contraction
    outer: Mapping[int, Array]
    leaves: Sequence[Array]
    cotangents: Mapping[int, Array]
    records: Mapping[int, Array]
    groups: Sequence[int]
    kernels: list[Array]
    shared: Mapping[tuple, SharedProducts]

    def add(self, part: Part) -> None:
        """Add the kernel of a part, whose leaves no other part has."""
        if part.kind == "direct":
            for root, blocks in part.roots.items():
                self._add_direct(self.groups[part.origins[root].leaf], root, blocks)
        elif part.kind == "looked up":
            self._add_looked_up(part)
        else:
            by_root = {
                root: self._root_gradient(root, blocks)
                for root, blocks in part.roots.items()
            }
            by_leaf = self._pulled_back(part, by_root)
            for leaf, gradient in zip(part.leaves, by_leaf, strict=True):
                self._add_gram(self.groups[leaf], gradient)

    def _add_direct(self, group: int, root: int, blocks: Sequence[Block]) -> None:
        """Add the kernel of a root."""
        if len(blocks) > 1:
            self._add_gram(group, self._root_gradient(root, blocks))
            return
        (block,) = blocks
        factor, key = self._factor(block), _key(self.network, root, block)
        first, second = self._halves(factor)
        if key is None:
            term = kernel_of(self.contraction, first, second, block.order)
            self._add_term(group, term)
            return
        weights = jnp.ones((first.delta.shape[0], second.delta.shape[0]))
        if factor.operand is not None:
            products = products_of_operands(self.contraction, first, second)
            weights = products[:, :, 0, 0, 0]
        shared = self.shared[key]
        weights = weights.astype(factor.delta.dtype)
        shared.weights[group] = shared.weights.get(group, 0) + weights
        shared.missing.remove(root)
        if not shared.missing:
            for group, weights in shared.weights.items():
                self._add_gram(group, factor.delta, weights)

    def _add_looked_up(self, part: Part) -> None:
        """Add the kernel of a table that is looked up, with other uses of a box of it."""
        # With gradients t and b of either, (t + b)(t + b)' differs from t t' within the
        # box only, where t is small enough to be formed.
        tables, others = [], {}
        for root, blocks in part.roots.items():
            if any(block.shape.is_index for block in blocks):
                tables.append((root, *blocks))
            else:
                others[root] = self._root_gradient(root, blocks)
        ((root, block),) = tables
        factor, (layout, *_) = self._factor(block), block.layouts
        first, second = self._halves(factor)
        box = bounding_box([part.origins[other].box for other in others])
        shape = list(self.network.avals[root].shape)
        axis = layout.index_axis
        shape[axis] = box[axis][1] - box[axis][0]
        rows = of_rows(layout, *box[axis])
        within = rooted(rows, shape, scattered(factor, *box[axis]))
        cut = [slice(*bounds) for bounds in box]
        cut[axis] = slice(None)
        within = within[(..., *cut)]
        total = within
        for other, gradient in others.items():
            total = total + in_box(part.origins[other], box, gradient)
        group = self.groups[part.leaves[0]]
        self._add_term(group, kernel_of(self.contraction, first, second, block.order))
        self._add_term(group, -self.contraction.gram(*self._halves(within)))
        self._add_gram(group, total)

    def _add_term(self, group: int, term: Array) -> None:
        """Add a term to a kernel."""
        self.kernels[group] = self.contraction.plus(self.kernels[group], term)

    def _add_gram(
        self, group: int, gradient: Array, weights: Array | None = None
    ) -> None:
        """Add products of gradients of both batches, weighted, to a kernel."""
        self.kernels[group] = self.contraction.plus_gram(
            self.kernels[group], *self._halves(gradient), weights
        )

    def _factor(self, block: Block) -> Factor:
        made = [
            factor_of(self.network, layout, self.outer, self.cotangents, self.records)
            for layout in block.layouts
        ]
        return merge(merged_shape(block.layouts), made)

    def _halves(self, both: _Sliceable) -> tuple[_Sliceable, _Sliceable]:
        """What is of the first batch, and of the second."""
        if self.contraction.is_symmetric:
            return both, both
        return both[: self.contraction.num_rows], both[self.contraction.num_rows :]

    def _root_gradient(self, root: int, blocks: Sequence[Block]) -> Array:
        shape = self.network.avals[root].shape
        terms = [
            rooted(
                block.layouts[0],
                shape,
                gradients(self.contraction, self._factor(block)),
            )
            for block in blocks
        ]
        return sum(terms[1:], terms[0])

    def _pulled_back(self, part: Part, gradients: Mapping[int, Array]) -> list[Array]:
        """Gradients by the leaves of a part, from those by its roots."""
        roots = list(gradients)

        def of_leaves(chosen: list[Array]) -> list[Array]:
            leaves = list(self.leaves)
            for number, leaf in zip(part.leaves, chosen, strict=True):
                leaves[number] = leaf
            values = param_values(self.network, leaves)
            return [values[root] for root in roots]

        values, pullback = jax.vjp(of_leaves, [self.leaves[i] for i in part.leaves])
        typed = [
            gradients[root].astype(value.dtype)
            for root, value in zip(roots, values, strict=True)
        ]
        (by_leaf,) = jax.vmap(jax.vmap(pullback))(typed)
        return by_leaf
