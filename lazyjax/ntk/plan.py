"""Which parameters are contracted together, in which order, and at what cost."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lazyjax.ntk.contract_factors import Layout, Shape, layout_of, merged, merged_shape
from lazyjax.ntk.contract_orders import (
    Cost,
    Order,
    Sizes,
    best_order,
    gradient_cost,
    order_cost,
    pairing_cost,
)
from lazyjax.ntk.sites import Network
from lazyjax.ntk.sites_views import Origin, origin_of
from lazyjax.trees import leaf_paths
from lazyjax.typing import Params


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """How one parameter leaf contributes to the kernel.

    Attributes:
        path: Path of the leaf.
        shape: Shape of the leaf.
        sites: Primitives that use it (or what is computed of it), in order; "any" marks
            a use by JAX's own differentiation.
        order: "gradient" (per-example gradients, then their products), "kronecker"
            (products of cotangents times products of operands), "pulled back"
            (gradients by a function of the leaf, then by the leaf) or "unused".
        gflop: Operations of the contraction, in 1e9.
        megabytes: Memory moved by the contraction, in 1e6 bytes.
    """

    path: str
    shape: tuple[int, ...]
    sites: tuple[str, ...]
    order: str
    gflop: float
    megabytes: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Contractions that make up a kernel, one row for each parameter leaf.

    Cotangents and operands, which cost about as much as the gradients of all outputs by
    all examples, are not counted.
    """

    rows: tuple[PlanRow, ...]

    @property
    def gflop(self) -> float:
        """Operations of all contractions, in 1e9."""
        return sum(row.gflop for row in self.rows)

    @property
    def megabytes(self) -> float:
        """Memory moved by all contractions, in 1e6 bytes."""
        return sum(row.megabytes for row in self.rows)

    def __str__(self) -> str:
        total = ("total", "", "", "", f"{self.gflop:.3f}", f"{self.megabytes:.1f}")
        table = [("parameter", "shape", "sites", "order", "GFLOP", "MB")]
        table += [
            (
                row.path,
                "x".join(map(str, row.shape)),
                "+".join(row.sites),
                row.order,
                f"{row.gflop:.3f}",
                f"{row.megabytes:.1f}",
            )
            for row in self.rows
        ]
        table.append(total)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if number > 3 else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in table
        ]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Sites of one root that are one factor, with the order of its contraction."""

    layouts: tuple[Layout, ...]
    shape: Shape
    order: Order

    @property
    def shared_key(self) -> tuple | None:
        """What other blocks must share to have the same products of cotangents.

        `None` if the products of this block are none but its own.
        """
        layout, shape = self.layouts[0], self.shape
        if shape.has_act and self.order == "gradient":
            return None
        if len(self.layouts) > 1 or shape.groups * shape.positions > 1:
            return None
        outputs = tuple(layout.delta.index(label) for label in layout.axes[2])
        return layout.site.slot, layout.delta_shape, outputs, layout.view.scales


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Roots that share parameters, and with no other root.

    Attributes:
        leaves: Numbers of the leaves that they depend on.
        roots: Blocks of each root.
        is_direct: Whether each root is, up to arrangement and scale, a piece of a leaf
            that is disjoint from all others: then its gradient is that of the leaf.
        origins: Where each root comes from, if the part is direct.
    """

    leaves: tuple[int, ...]
    roots: Mapping[int, tuple[Block, ...]]
    is_direct: bool
    origins: Mapping[int, Origin | None]


def parts_of(network: Network, sizes: Sizes) -> list[Part]:
    """All parts of a network, in the order of their first leaves."""
    layouts: dict[int, list[Layout]] = {}
    for site in network.sites:
        layout = layout_of(network, site)
        layouts.setdefault(layout.view.root, []).append(layout)
    parts = []
    for roots in _connected(network, list(layouts)):
        leaves = sorted(set().union(*(network.depends_on[root] for root in roots)))
        origins = {root: origin_of(network, root) for root in roots}
        blocks = {}
        for root in roots:
            groups = merged(layouts[root])
            blocks[root] = tuple(
                Block(
                    tuple(group),
                    merged_shape(group),
                    best_order(sizes, merged_shape(group)),
                )
                for group in groups
            )
        is_direct = _are_disjoint(list(origins.values()))
        parts.append(Part(tuple(leaves), blocks, is_direct, origins))
    return sorted(parts, key=lambda part: part.leaves)


def plan_of(network: Network, params: Params, sizes: Sizes) -> Plan:
    """The plan of a network's kernel block of given sizes."""
    leaves = zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
    rows = {
        number: PlanRow(path, jnp.shape(leaf), (), "unused", 0.0, 0.0)
        for number, (path, leaf) in enumerate(leaves)
    }
    for part in parts_of(network, sizes):
        names, orders, cost = [], set(), Cost(0.0, 0.0)
        for blocks in part.roots.values():
            sites = [layout.site for block in blocks for layout in block.layouts]
            names += [s.primitive if s.form else f"any {s.primitive}" for s in sites]
            whole = part.is_direct and len(blocks) == 1
            for block in blocks:
                orders.add(block.order if whole else "gradient")
                cost += (
                    order_cost(sizes, block.shape, block.order)
                    if whole
                    else gradient_cost(sizes, block.shape)
                )
            if part.is_direct and len(blocks) > 1:
                cost += pairing_cost(sizes, blocks[0].shape.size)
        for position, leaf in enumerate(part.leaves):
            share = cost if position == 0 else Cost(0.0, 0.0)
            if not part.is_direct:
                share += pairing_cost(sizes, math.prod(rows[leaf].shape))
            rows[leaf] = dataclasses.replace(
                rows[leaf],
                sites=tuple(dict.fromkeys(names)),
                order="/".join(sorted(orders)) if part.is_direct else "pulled back",
                gflop=share.flops / 1e9,
                megabytes=share.bytes / 1e6,
            )
    return Plan(tuple(rows.values()))


def _connected(network: Network, roots: list[int]) -> list[list[int]]:
    groups: list[tuple[set[int], list[int]]] = []
    for root in roots:
        leaves, members = set(network.depends_on[root]), [root]
        apart = []
        for group in groups:
            if group[0] & leaves:
                leaves, members = group[0] | leaves, group[1] + members
            else:
                apart.append(group)
        groups = [*apart, (leaves, members)]
    return [members for _, members in groups]


def _are_disjoint(origins: list[Origin | None]) -> bool:
    known = [origin for origin in origins if origin is not None]
    if len(known) < len(origins):
        return False
    return not any(
        a.leaf == b.leaf and a.overlaps(b)
        for i, a in enumerate(known)
        for b in known[:i]
    )
