"""What rules share while a network is lifted."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lazyjax.infinite.lifting.axes import Axes, lengths
from lazyjax.infinite.lifting.registers import Registers
from lazyjax.infinite.lifting.steps import KnownStep, UnitMean
from lazyjax.infinite.lifting.values import Operation, RefusalError
from lazyjax.jaxpr.equations import aval_of
from lazyjax.jaxpr.registry import described_by

UNITS = (
    "combines the units of a hidden layer (a mean, a norm, a softmax, a normalization)"
)


class Leaves:
    """The leaves of the parameters: their laws, and which entries are used."""

    def __init__(
        self,
        names: Sequence[str],
        variances: Sequence[float],
        means: Sequence[float],
        sizes: Sequence[int],
    ) -> None:
        self.names = names
        self.variances = variances
        self.means = means
        self._used = [np.zeros(size, bool) for size in sizes]

    def claim(self, leaf: int, entries: np.ndarray) -> None:
        """Use entries of a leaf; refused if one is used already in the network."""
        used = self._used[leaf]
        now = np.zeros_like(used)
        now[entries.ravel()] = True
        if now.sum() != entries.size or (now & used).any():
            raise RefusalError(
                f"uses entries of `params` at {self.names[leaf]} a second time; shared "
                "weights have no rule"
            )
        used |= now


class Context:
    """What rules share while a network is lifted.

    Attributes:
        dtype: Of the input.
        leaves: Those of the parameters.
        registers: Of random values.
        known: How values that are functions of the input are made.
        operation: The present one.
    """

    def __init__(self, dtype: Any, leaves: Leaves) -> None:
        self.dtype = np.dtype(dtype)
        self.leaves = leaves
        self.registers = Registers(dtype)
        self.known: list[KnownStep | UnitMean] = []
        self._num_known = 1
        self.operation: Operation | None = None

    def add_known(
        self, make: Callable[[int], KnownStep | UnitMean], num_results: int = 1
    ) -> int:
        """Number of the first result of a new step, which is made with that number."""
        first = self._num_known
        self.known.append(make(first))
        self._num_known += num_results
        return first


# Decorator of functions of the context, an equation and its operands, to a value.
limit_of = partial(described_by, "limit")


def entries_by_atom(
    entries: np.ndarray, axes: Axes, shared: str
) -> tuple[np.ndarray, tuple[bool, ...]]:
    """Entries of a parameter that goes with a value, and along which pixels it is one.

    Args:
        entries: Numbers of entries, in a shape that can be broadcast to that of `axes`.
        axes: Those of the value.
        shared: Why it is refused that units share a parameter.

    Returns:
        One of all equal entries along each atom of the axes; and whether those of each
        atom of pixels are equal.

    Raises:
        RefusalError: If all units share a parameter.
    """
    atoms = [atom for axis in axes for atom in axis]
    entries = np.broadcast_to(entries, lengths(axes))
    entries = entries.reshape([atom.size for atom in atoms])
    is_shared: list[bool] = []
    for index, atom in enumerate(atoms):
        start = entries.take([0], axis=index)
        is_same = bool((entries == start).all())
        if atom.kind == "units" and is_same:
            raise RefusalError(shared)
        if atom.kind == "pixels":
            is_shared.append(is_same)
        if is_same:
            entries = start
    return entries, tuple(is_shared)


def is_identity(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation copies its operand, but for the width of its floats."""
    if eqn.primitive.name != "convert_element_type":
        return eqn.primitive.name in ("copy", "copy_p", "name")
    kinds = (aval_of(atom).dtype for atom in (eqn.invars[0], eqn.outvars[0]))
    return all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)


def factor_of(name: str, by: Any) -> Any:
    """What a product with, or a division by, a finite constant multiplies by."""
    if not np.isfinite(by).all() or (name == "div" and (by == 0).any()):
        raise RefusalError("multiplies by a number that is not finite, or divides by 0")
    factor = by if name == "mul" else 1 / by
    return float(factor) if factor.ndim == 0 else factor
