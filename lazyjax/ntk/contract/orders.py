"""What each order of contraction costs, and which is the cheapest."""

import dataclasses
from typing import Literal

from lazyjax.ntk.contract.layout import Shape

Order = Literal["gradient", "kronecker", "chain"]

# Operations that take as long as moving one byte: about 25 on a desktop processor
# (300 GFLOP/s, 12 GB/s), about 15 on a large accelerator.
_OPS_PER_BYTE = 20.0

# Share of a symmetric kernel that blocks of columns compute, over its one triangle.
_COLUMN_BLOCKS_EXCESS = 1.25


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a kernel block."""

    rows: int  # number of examples of the first batch
    columns: int  # number of examples of the second batch
    num_cotangents: int  # number of cotangents of the output
    is_full: bool  # whether all pairs of cotangents are wanted, or equal ones only
    is_symmetric: bool  # whether the batches are one and the same
    itemsize: int = 4  # bytes of a number

    @property
    def examples(self) -> int:
        """Number of examples whose factors are needed."""
        return self.rows if self.is_symmetric else self.rows + self.columns

    @property
    def pairs(self) -> int:
        """Number of pairs of cotangents of a pair of examples."""
        return self.num_cotangents**2 if self.is_full else self.num_cotangents

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


def propagation_cost(sizes: Sizes, shape: Shape) -> Cost:
    """Cost of the outputs, and of their cotangents, where a parameter is used."""
    passes = sizes.examples * (1 + sizes.num_cotangents)
    positions = shape.positions * shape.pooled
    if shape.is_index or not shape.has_act:
        positions = 0
    return Cost(2.0 * passes * positions * shape.size, 0.0)


def gradient_cost(sizes: Sizes, shape: Shape) -> Cost:
    """Cost of forming the gradients of all examples."""
    number = sizes.examples * sizes.num_cotangents
    positions = 1 if shape.is_index else shape.positions
    flops = 2.0 * number * positions * shape.size if shape.has_act else 0.0
    return Cost(flops, 2.0 * sizes.itemsize * number * shape.size)


def pairing_cost(sizes: Sizes, num_params: int) -> Cost:
    """Cost of the products of gradients with `num_params` entries."""
    return Cost(2.0 * sizes.entries * num_params, 0.0)


def order_cost(sizes: Sizes, shape: Shape, order: Order) -> Cost:
    """Cost of the kernel of one factor in a given order."""
    pairs_of_examples = sizes.entries / sizes.pairs
    pooling = Cost(0.0, 0.0)
    if shape.pooled > 1:
        pooling = Cost(2.0 * sizes.examples * shape.pooled * shape.size, 0.0)
    if order == "gradient":
        cost = gradient_cost(sizes, shape) + pairing_cost(sizes, shape.size)
        return pooling + cost
    places = shape.groups * shape.positions**2
    acts = 2.0 * pairs_of_examples * places * shape.inputs
    if shape.is_index or not shape.has_act:
        acts = 0.0
    # In blocks of columns, a little more than one triangle is computed.
    entries = sizes.entries * (_COLUMN_BLOCKS_EXCESS if sizes.is_symmetric else 1.0)
    if order == "kronecker":
        deltas = 2.0 * entries * places * (shape.outputs + 1)
        return pooling + Cost(acts + deltas, 3.0 * sizes.itemsize * entries * places)
    first = entries / sizes.pairs * sizes.num_cotangents
    first *= shape.positions * shape.outputs
    products = 2.0 * entries * shape.positions * shape.outputs
    flops = acts + 2.0 * first * shape.positions + products
    return Cost(flops, sizes.itemsize * first)


def orders_of(shape: Shape) -> tuple[Order, ...]:
    """The orders in which a factor can be contracted."""
    if not shape.has_act:
        return ("gradient",)
    if shape.groups > 1 or shape.positions == 1:
        return ("gradient", "kronecker")
    return ("gradient", "kronecker", "chain")


def best_order(sizes: Sizes, shape: Shape) -> Order:
    """The order of least modelled time."""
    return min(orders_of(shape), key=lambda order: order_cost(sizes, shape, order).time)
