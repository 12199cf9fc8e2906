"""Which sites are contracted together, and in which order."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from lazyjax.ntk.contract.layout import (
    Layout,
    Shape,
    layout_of,
    merged,
    merged_shape,
    pool_positions,
    scale_to_leaf,
)
from lazyjax.ntk.contract.orders import Order, Sizes, best_order
from lazyjax.ntk.trace.sites import TracedNetwork
from lazyjax.ntk.trace.views import Origin, bounding_box, origin_of


@dataclasses.dataclass(frozen=True, eq=False)
class SiteBlock:
    """Sites of one root that are one factor, with the order of its contraction."""

    layouts: tuple[Layout, ...]
    shape: Shape
    order: Order

    @property
    def shared_key(self) -> tuple | None:
        """Equal for blocks with the same products of cotangents; `None` if none has."""
        layout, shape = self.layouts[0], self.shape
        if shape.has_act and self.order == "gradient":
            return None
        if len(self.layouts) > 1 or shape.groups * shape.positions * shape.pooled > 1:
            return None
        outputs = tuple(layout.delta.index(label) for label in layout.axes[2])
        return layout.site.perturbation, layout.delta_shape, outputs, layout.view.scales


Kind: TypeAlias = Literal["direct", "embedding", "vjp"]


@dataclasses.dataclass(frozen=True, eq=False)
class SiteGroup:
    """Roots that share parameters with one another, and with no other root."""

    leaves: tuple[int, ...]  # numbers of the leaves that they depend on
    roots: Mapping[int, tuple[SiteBlock, ...]]  # blocks of each root
    # "direct" if each root is, up to arrangement and scale, a piece of a leaf that is
    # disjoint from all others, so that its gradient is that of the leaf; "embedding" if
    # one root is a whole leaf whose rows are selected by an index, and the others lie
    # in a smaller box of it; "vjp" in all other cases.
    kind: Kind
    origins: Mapping[int, Origin]  # where each root comes from, but for "vjp"


def group_sites(network: TracedNetwork, sizes: Sizes) -> list[SiteGroup]:
    """All site groups of a network, in the order of their first leaves."""
    layouts: dict[int, list[Layout]] = {}
    for site in network.sites:
        layout = layout_of(network, site)
        layouts.setdefault(layout.view.root, []).append(layout)
    groups = []
    for roots in _connected(network, list(layouts)):
        leaves = sorted(set().union(*(network.depends_on[root] for root in roots)))
        found = {root: origin_of(network, root) for root in roots}
        origins = {root: origin for root, origin in found.items() if origin is not None}
        kind = _kind(network, origins, {root: layouts[root] for root in roots})
        blocks = {}
        for root in roots:
            own = layouts[root]
            if len(own) == 1:
                own = [pool_positions(network, own[0])]
            if kind != "vjp":
                own = [scale_to_leaf(layout, origins[root]) for layout in own]
            blocks[root] = tuple(
                SiteBlock(tuple(same), shape, best_order(sizes, shape))
                for same in merged(own)
                for shape in (merged_shape(same),)
            )
        groups.append(SiteGroup(tuple(leaves), blocks, kind, origins))
    return sorted(groups, key=lambda group: group.leaves)


def _connected(network: TracedNetwork, roots: list[int]) -> list[list[int]]:
    """Roots in sets that have no leaf in common."""
    components: list[tuple[set[int], list[int]]] = []
    for root in roots:
        leaves, members = set(network.depends_on[root]), [root]
        others = []
        for component in components:
            if component[0] & leaves:
                leaves, members = component[0] | leaves, component[1] + members
            else:
                others.append(component)
        components = [*others, (leaves, members)]
    return [members for _, members in components]


def _kind(
    network: TracedNetwork,
    origins: Mapping[int, Origin],
    layouts: Mapping[int, Sequence[Layout]],
) -> Kind:
    if len(origins) < len(layouts):
        return "vjp"
    if not any(
        a.leaf == b.leaf and a.overlaps(b)
        for a, b in itertools.combinations(origins.values(), 2)
    ):
        return "direct"
    tables = [root for root, own in layouts.items() if any(x.is_index for x in own)]
    if len({origin.leaf for origin in origins.values()}) > 1 or len(tables) != 1:
        return "vjp"
    (table,) = tables
    leaf = network.avals[network.leaves[origins[table].leaf]]
    whole = tuple((0, size) for size in leaf.shape)
    is_leaf = origins[table].box == whole and not origins[table].steps
    if not is_leaf or len(merged(layouts[table])) > 1:
        return "vjp"
    rest = bounding_box([o.box for root, o in origins.items() if root != table])
    is_small = 2 * math.prod(end - start for start, end in rest) <= math.prod(
        leaf.shape
    )
    return "embedding" if is_small else "vjp"
