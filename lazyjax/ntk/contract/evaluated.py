"""A network at its parameters, and the gradients that its sites are made of."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import Contraction
from lazyjax.ntk.contract.factors import Factor, factor_of, merge, with_root_axes
from lazyjax.ntk.contract.gradients import gradients
from lazyjax.ntk.contract.groups import SiteBlock, SiteGroup
from lazyjax.ntk.contract.layout import merged_shape
from lazyjax.ntk.trace.replay import param_values
from lazyjax.ntk.trace.sites import TracedNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluatedNetwork:
    """Cotangents and operands of all sites, for some examples."""

    network: TracedNetwork
    contraction: Contraction  # how gradients are formed and contracted
    leaves: Sequence[Array]  # parameters
    values: Mapping[int, Array]  # parameters, and what is computed of these alone
    cotangents: Mapping[int, Array]  # by perturbation
    records: Mapping[int, Array]  # operands, by number

    def factor(self, block: SiteBlock) -> Factor:
        """The canonical factor of the sites of a block."""
        factors = [
            factor_of(self.network, layout, self.values, self.cotangents, self.records)
            for layout in block.layouts
        ]
        return merge(merged_shape(block.layouts), factors)

    def root_gradient(self, root: int, blocks: Sequence[SiteBlock]) -> Array:
        """Gradients `(n, s, *root)` by a root, from all its sites."""
        shape = self.network.avals[root].shape
        terms = [
            with_root_axes(
                block.layouts[0],
                shape,
                gradients(self.contraction, self.factor(block)),
            )
            for block in blocks
        ]
        return sum(terms[1:], terms[0])

    def leaf_gradients(self, group: SiteGroup) -> list[Array]:
        """Gradients `(n, s, *leaf)` by the leaves of a "vjp" group, from those by roots."""
        by_root = {root: self.root_gradient(root, b) for root, b in group.roots.items()}

        def roots_of(chosen: list[Array]) -> list[Array]:
            leaves = list(self.leaves)
            for number, leaf in zip(group.leaves, chosen, strict=True):
                leaves[number] = leaf
            values = param_values(self.network, leaves)
            return [values[root] for root in by_root]

        values, vjp_fn = jax.vjp(roots_of, [self.leaves[i] for i in group.leaves])
        cotangents = [
            gradient.astype(value.dtype)
            for gradient, value in zip(by_root.values(), values, strict=True)
        ]
        (by_leaf,) = jax.vmap(jax.vmap(vjp_fn))(cotangents)
        return by_leaf
