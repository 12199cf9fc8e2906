"""What each order of contraction costs, and which is the cheapest."""

import dataclasses
from typing import Literal

from lazyjax.ntk.contract_factors import Shape

Order = Literal["gradient", "kronecker"]

# Operations that take as long as moving one byte, on the machines of today: about 25
# on a desktop processor (300 GFLOP/s, 12 GB/s), about 15 on a large accelerator.
_OPS_PER_BYTE = 20.0


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a kernel block.

    Attributes:
        rows: Number of examples of the first batch.
        columns: Number of examples of the second batch.
        seeds: Number of cotangents of the output.
        is_full: Whether all pairs of cotangents are wanted, or equal ones only.
        is_symmetric: Whether the batches are one and the same.
        itemsize: Bytes of a number.
    """

    rows: int
    columns: int
    seeds: int
    is_full: bool
    is_symmetric: bool
    itemsize: int = 4

    @property
    def examples(self) -> int:
        """Number of examples whose factors are needed."""
        return self.rows if self.is_symmetric else self.rows + self.columns

    @property
    def pairs(self) -> int:
        """Number of pairs of cotangents of a pair of examples."""
        return self.seeds**2 if self.is_full else self.seeds

    @property
    def entries(self) -> float:
        """Number of products of gradients to be computed."""
        half = 0.5 if self.is_symmetric else 1.0
        return half * self.rows * self.columns * self.pairs


@dataclasses.dataclass(frozen=True)
class Cost:
    """Operations and bytes moved."""

    flops: float
    bytes: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    @property
    def time(self) -> float:
        """Modelled time, in operations."""
        return self.flops + _OPS_PER_BYTE * self.bytes


def gradient_cost(sizes: Sizes, shape: Shape) -> Cost:
    """Cost of forming the gradients of all examples."""
    number = sizes.examples * sizes.seeds
    positions = 1 if shape.is_index else shape.positions
    flops = 2.0 * number * positions * shape.size if shape.has_act else 0.0
    return Cost(flops, 2.0 * sizes.itemsize * number * shape.size)


def pairing_cost(sizes: Sizes, num_params: int) -> Cost:
    """Cost of the products of gradients with `num_params` entries."""
    return Cost(2.0 * sizes.entries * num_params, 0.0)


def order_cost(sizes: Sizes, shape: Shape, order: Order) -> Cost:
    """Cost of the kernel of one factor in a given order."""
    pairs_of_examples = sizes.entries / sizes.pairs
    if order == "gradient":
        return gradient_cost(sizes, shape) + pairing_cost(sizes, shape.size)
    places = shape.groups * shape.positions**2
    acts = 2.0 * pairs_of_examples * places * shape.inputs
    if shape.is_index or not shape.has_act:
        acts = 0.0
    entries = sizes.entries
    if places > 1 and sizes.is_symmetric:
        entries *= 2  # position by position, both triangles are computed
    deltas = 2.0 * entries * places * shape.outputs
    joined = 2.0 * entries * places
    moved = 3.0 * sizes.itemsize * entries * places
    return Cost(acts + deltas + joined, moved)


def best_order(sizes: Sizes, shape: Shape) -> Order:
    """The order of least modelled time."""
    if not shape.has_act:
        return "gradient"
    orders: tuple[Order, ...] = ("gradient", "kronecker")
    return min(orders, key=lambda order: order_cost(sizes, shape, order).time)
