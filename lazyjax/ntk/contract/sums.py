"""Kernels of a network, accumulated site group by site group."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import Contraction
from lazyjax.ntk.contract.contract import factor_kernel
from lazyjax.ntk.contract.evaluated import EvaluatedNetwork
from lazyjax.ntk.contract.factors import (
    Factor,
    pad_to_box,
    with_root_axes,
    working_dtype,
)
from lazyjax.ntk.contract.gradients import embedding_gradients
from lazyjax.ntk.contract.groups import SiteBlock, SiteGroup
from lazyjax.ntk.contract.positions import products_of_operands
from lazyjax.ntk.trace.sites import TracedNetwork
from lazyjax.ntk.trace.views import bounding_box

_Sliceable = TypeVar("_Sliceable", Array, Factor)


@dataclasses.dataclass(frozen=True, eq=False)
class SharedProducts:
    """Products of cotangents that several roots need, with the weights of each kernel."""

    missing: set[int]  # roots whose weights are still to come
    # Sum of the weights of the others, by the number of the kernel.
    weights: dict[int, Array] = dataclasses.field(default_factory=dict)


def shared_products(
    network: TracedNetwork, groups: Sequence[SiteGroup]
) -> dict[tuple, SharedProducts]:
    """The products of cotangents that roots need, by the key of those that share them."""
    found: dict[tuple, SharedProducts] = {}
    for group in groups:
        for root, blocks in group.roots.items():
            key = shared_key(network, root, blocks[0])
            if group.kind == "direct" and len(blocks) == 1 and key is not None:
                found.setdefault(key, SharedProducts(set())).missing.add(root)
    return found


def shared_key(network: TracedNetwork, root: int, block: SiteBlock) -> tuple | None:
    """Equal for roots with the same products of cotangents; `None` if none has."""
    key = block.shared_key
    return None if key is None else (*key, working_dtype(network.avals[root].dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class KernelSums:
    """Kernels, to which site groups are added one by one."""

    evaluated: EvaluatedNetwork  # for the examples of both batches, one after another
    is_one_batch: bool  # whether they are one and the same
    # For each leaf, the number of the kernel that it counts for.
    kernel_of_leaf: Sequence[int]
    kernels: list[Array]  # the kernels so far
    # Products of cotangents that several roots may need, by their keys.
    shared: Mapping[tuple, SharedProducts]

    @property
    def contraction(self) -> Contraction:
        """How gradients are contracted."""
        return self.evaluated.contraction

    @property
    def network(self) -> TracedNetwork:
        """The network, traced."""
        return self.evaluated.network

    def accumulate(self, group: SiteGroup) -> None:
        """Add the kernel of a group, whose leaves no other group has."""
        if group.kind == "direct":
            for root, blocks in group.roots.items():
                number = self.kernel_of_leaf[group.origins[root].leaf]
                self._add_direct(number, root, blocks)
        elif group.kind == "embedding":
            self._add_embedding(group)
        else:
            for leaf, gradient in zip(
                group.leaves, self.evaluated.leaf_gradients(group), strict=True
            ):
                self._add_gram(self.kernel_of_leaf[leaf], gradient)

    def _add_direct(self, number: int, root: int, blocks: Sequence[SiteBlock]) -> None:
        """Add the kernel of a root that is a piece of a leaf."""
        if len(blocks) > 1:
            self._add_gram(number, self.evaluated.root_gradient(root, blocks))
            return
        (block,) = blocks
        factor = self.evaluated.factor(block)
        key = shared_key(self.network, root, block)
        first, second = self._by_batch(factor)
        if key is None:
            self._add(
                number, factor_kernel(self.contraction, first, second, block.order)
            )
            return
        weights = jnp.ones((first.delta.shape[0], second.delta.shape[0]))
        if factor.operand is not None:
            products = products_of_operands(self.contraction, first, second)
            weights = products[:, :, 0, 0, 0]
        shared = self.shared[key]
        weights = weights.astype(factor.delta.dtype)
        shared.weights[number] = shared.weights.get(number, 0) + weights
        shared.missing.remove(root)
        if not shared.missing:
            for number, weights in shared.weights.items():
                self._add_gram(number, factor.delta, weights)

    def _add_embedding(self, group: SiteGroup) -> None:
        """Add the kernel of an embedding table, a box of which is used elsewhere too."""
        # With gradients t and b of both uses, (t + b)(t + b)' differs from t t' within
        # the box only, where t is small enough to be formed.
        tables, others = [], {}
        for root, blocks in group.roots.items():
            if any(block.shape.is_index for block in blocks):
                tables.append((root, *blocks))
            else:
                others[root] = self.evaluated.root_gradient(root, blocks)
        ((root, block),) = tables
        factor, (layout, *_) = self.evaluated.factor(block), block.layouts
        first, second = self._by_batch(factor)
        box = bounding_box([group.origins[other].box for other in others])
        shape = list(self.network.avals[root].shape)
        axis, (index,) = layout.index_axis, layout.axes[3]
        shape[axis] = box[axis][1] - box[axis][0]
        sizes = {**layout.sizes, index: shape[axis]}
        rows = dataclasses.replace(layout, sizes=sizes)
        within = with_root_axes(rows, shape, embedding_gradients(factor, *box[axis]))
        cut = [slice(*bounds) for bounds in box]
        cut[axis] = slice(None)
        within = within[(..., *cut)]
        total = within
        for other, gradient in others.items():
            total = total + pad_to_box(group.origins[other], box, gradient)
        number = self.kernel_of_leaf[group.leaves[0]]
        self._add(number, factor_kernel(self.contraction, first, second, block.order))
        self._add(number, -self.contraction.gram(*self._by_batch(within)))
        self._add_gram(number, total)

    def _add(self, number: int, term: Array) -> None:
        self.kernels[number] = self.contraction.add(self.kernels[number], term)

    def _add_gram(
        self, number: int, gradient: Array, weights: Array | None = None
    ) -> None:
        """Add products of gradients of both batches, weighted, to a kernel."""
        self.kernels[number] = self.contraction.add_gram(
            self.kernels[number], *self._by_batch(gradient), weights
        )

    def _by_batch(self, both: _Sliceable) -> tuple[_Sliceable, _Sliceable]:
        """What belongs to the first batch, and to the second."""
        if self.is_one_batch:
            return both, both
        return both[: self.contraction.num_rows], both[self.contraction.num_rows :]
