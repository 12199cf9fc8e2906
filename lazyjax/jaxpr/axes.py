"""What equations do to axes, told alike of a batch and of a single row.

JAX has other programs for axes of length 1: it does not broadcast along them, and takes
them away before matrix products. So axes are numbered without those of length 1.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core as jex

from lazyjax.jaxpr.labels import Shape


@dataclasses.dataclass(frozen=True)
class AxisAction:
    """What equations of a primitive do to axes."""

    params: frozenset[str]  # parameters that name axes or shapes
    # What they say, as a function of the equation and, for one row, the numbers of the
    # axes of each operand and of the result.
    read: Callable[[jex.JaxprEqn, list[dict[int, int]], dict[int, int]], Any]

    def of(self, eqn: jex.JaxprEqn, operands: Sequence[Shape], result: Shape) -> Any:
        """What an equation does to axes; equal for equations that do the same."""
        return self.read(eqn, [_numbers(shape) for shape in operands], _numbers(result))


def core(shape: Sequence[int]) -> Shape:
    """A shape without its axes of length 1."""
    return tuple(size for size in shape if size != 1)


def _numbers(shape: Shape) -> dict[int, int]:
    """Axes that are not of length 1, and their numbers among them."""
    return {axis: i for i, axis in enumerate(a for a, s in enumerate(shape) if s != 1)}


# Each axis of an operand is that of the result at the same place.
ALIGNED = AxisAction(
    frozenset(),
    lambda eqn, operands, result: [
        [result.get(axis) for axis in operand] for operand in operands
    ],
)


def axes_of_operand(key: str) -> AxisAction:
    """The action of primitives whose parameter `key` names axes of their operand."""
    return AxisAction(
        frozenset({key}),
        lambda eqn, operands, result: [
            operands[0][axis] for axis in eqn.params[key] if axis in operands[0]
        ],
    )
