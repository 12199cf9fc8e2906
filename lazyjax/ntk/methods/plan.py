"""What a kernel costs: by parameter, by method, and at least."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from lazyjax.files.results import Storable
from lazyjax.ntk.contract.factors import working_dtype
from lazyjax.ntk.contract.groups import SiteBlock, SiteGroup
from lazyjax.ntk.contract.layout import Shape
from lazyjax.ntk.contract.orders import (
    Cost,
    Sizes,
    gradient_cost,
    order_cost,
    orders_of,
    pairing_cost,
    propagation_cost,
)
from lazyjax.ntk.methods.structured import KernelProblem
from lazyjax.trees import leaf_paths

Chosen = Literal["structured", "jacobian", "vjp"]
# Another method is chosen only if the model, which is rough, finds it so many times
# quicker than the structured one, and never for so few operations.
_PREFERENCE = 2.0
_NEGLIGIBLE = 1e8
# Whole Jacobians are quicker for problems so small, as they take fewer calls; except those
# of convolutions, which may be a hundred times slower.
_SMALL = 2e7
_SMALL_EXCESS = 1.7


@dataclasses.dataclass(frozen=True)
class PlanRow(Storable):
    """How one parameter leaf contributes to the kernel.

    Attributes:
        path: Path of the leaf.
        shape: Shape of the leaf.
        sites: Primitives that use it (or what is computed of it), in order; "any" marks
            a use by JAX's own differentiation.
        order: "gradient" (per-example gradients, then their products), "kronecker"
            (products of cotangents times products of operands), "chain" (products of
            operands, times the cotangents of one batch, times those of the other),
            "vjp" (gradients by a function of the leaf, then by the leaf) or "unused";
            several are joined by "/".
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
class Plan(Storable):
    """Contractions that make up a kernel, one row for each parameter leaf.

    Attributes:
        rows: The leaves, in order.
        propagation_gflop: Operations of the forward pass and of the cotangents of all
            outputs, at the sites only, in 1e9.
        floor_gflop: The least operations of the propagation and of the contractions, if
            each were in the order of fewest operations, in 1e9.
        times: Modelled time of each method, in operations that take as long.
    """

    rows: tuple[PlanRow, ...]
    propagation_gflop: float
    floor_gflop: float
    times: Mapping[Chosen, float]

    @property
    def gflop(self) -> float:
        """Operations of propagation and contractions, in 1e9."""
        return self.propagation_gflop + sum(row.gflop for row in self.rows)

    @property
    def megabytes(self) -> float:
        """Memory moved by all contractions, in 1e6 bytes."""
        return sum(row.megabytes for row in self.rows)

    @property
    def method(self) -> Chosen:
        """The method that `"auto"` is for this kernel."""
        limit = min(_SMALL, _SMALL_EXCESS * self.times["structured"])
        names = " ".join(site for row in self.rows for site in row.sites)
        if self.times["jacobian"] <= limit and "conv_general_dilated" not in names:
            return "jacobian"
        fastest = min(self.times, key=lambda method: self.times[method])
        limit = max(_PREFERENCE * self.times[fastest], _NEGLIGIBLE)
        return "structured" if self.times["structured"] <= limit else fastest

    def __str__(self) -> str:
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
        propagation, floor = f"{self.propagation_gflop:.3f}", f"{self.floor_gflop:.3f}"
        table.append(("outputs and cotangents", "", "", "", propagation, ""))
        sums = f"{self.gflop:.3f}", f"{self.megabytes:.1f}"
        table.append(("total", "", "", self.method, *sums))
        table.append(("floor", "", "", "", floor, ""))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if number > 3 else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in table
        ]
        return "\n".join(lines)


def build_plan(problem: KernelProblem) -> Plan:
    """The plan of a kernel that is asked for."""
    sizes, groups, params = problem.sizes, problem.groups, problem.request.params
    leaves = zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
    rows = [PlanRow(p, jnp.shape(leaf), (), "unused", 0.0, 0.0) for p, leaf in leaves]
    computed: set[tuple] = set()
    for group in groups:
        sites = [x.site for block in _blocks(group) for x in block.layouts]
        names = [s.primitive if s.form else f"any {s.primitive}" for s in sites]
        cost = _total(_root_costs(group, sizes, computed))
        for position, leaf in enumerate(group.leaves):
            share = cost if position == 0 else Cost(0.0, 0.0)
            if group.kind == "vjp":
                share += pairing_cost(sizes, math.prod(rows[leaf].shape))
            rows[leaf] = dataclasses.replace(
                rows[leaf],
                sites=tuple(dict.fromkeys(names)),
                order=_order(group),
                gflop=share.flops / 1e9,
                megabytes=share.bytes / 1e6,
            )
    shapes = [block.shape for group in groups for block in _blocks(group)]
    propagation = _total(propagation_cost(sizes, shape) for shape in shapes)
    excess = sum(_excess_flops(group, sizes) for group in groups)
    contractions = Cost(
        1e9 * sum(row.gflop for row in rows),
        1e6 * sum(row.megabytes for row in rows),
    )
    used = sum(math.prod(row.shape) for row in rows if row.sites)
    times = _times(sizes, shapes, used, propagation, contractions)
    dtype = problem.network.result.dtype
    if working_dtype(dtype) != dtype:
        del times["vjp"]  # the network adds these up itself, in its own precision
    return Plan(
        tuple(rows),
        propagation.flops / 1e9,
        (propagation.flops + contractions.flops - excess) / 1e9,
        times,
    )


def _blocks(group: SiteGroup) -> list[SiteBlock]:
    return [block for blocks in group.roots.values() for block in blocks]


def _root_costs(group: SiteGroup, sizes: Sizes, computed: set[tuple]) -> Iterable[Cost]:
    # `computed` has the keys of products of cotangents that are there already.
    for blocks in group.roots.values():
        if group.kind != "vjp" and len(blocks) == 1:
            (block,) = blocks
            cost, key = order_cost(sizes, block.shape, block.order), block.shared_key
            if group.kind == "direct" and key is not None:
                shared = pairing_cost(sizes, block.shape.outputs)
                if key in computed:
                    cost = Cost(max(cost.flops - shared.flops, 0.0), cost.bytes)
                computed.add(key)
            yield cost
            continue
        for block in blocks:
            yield gradient_cost(sizes, block.shape)
        if group.kind != "vjp":
            yield pairing_cost(sizes, blocks[0].shape.size)


def _order(group: SiteGroup) -> str:
    if group.kind == "vjp":
        return "vjp"
    orders = (
        blocks[0].order if len(blocks) == 1 else "gradient"
        for blocks in group.roots.values()
    )
    return "/".join(sorted(set(orders)))


def _excess_flops(group: SiteGroup, sizes: Sizes) -> float:
    # What the orders of least time take beyond those of fewest operations.
    if group.kind == "vjp":
        return 0.0
    excess = 0.0
    for blocks in group.roots.values():
        if len(blocks) == 1:
            shape = blocks[0].shape
            flops = {o: order_cost(sizes, shape, o).flops for o in orders_of(shape)}
            excess += flops[blocks[0].order] - min(flops.values())
    return excess


def _times(
    sizes: Sizes,
    shapes: list[Shape],
    num_params: int,
    propagation: Cost,
    contractions: Cost,
) -> dict[Chosen, float]:
    jacobian = propagation + _total(gradient_cost(sizes, shape) for shape in shapes)
    whole = dataclasses.replace(sizes, is_symmetric=False)
    jacobian += pairing_cost(whole, num_params)
    # One forward and one tangent pass over the first batch for each output of the second.
    columns = dataclasses.replace(
        sizes, num_cotangents=2 * sizes.columns * sizes.num_cotangents
    )
    vectors = _total(propagation_cost(columns, shape) for shape in shapes)
    return {
        "structured": (propagation + contractions).time,
        "jacobian": jacobian.time,
        "vjp": vectors.time,
    }


def _total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, start=Cost(0.0, 0.0))
