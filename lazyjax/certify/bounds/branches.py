r"""Outputs, kernels and constants of networks, from evaluations of their branches.

A symmetrized network $(g(w_1) - g(w_2))/\sqrt2$ has two branches; any other has one.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.matrices import (
    frobenius_lower,
    frobenius_upper,
    scaled_norm,
)
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, Interval, gamma, round_up
from lazyjax.certify.bounds.evaluation import (
    Evaluation,
    Kernel,
    evaluate,
    kernel,
    layer_kernel,
    plain,
)
from lazyjax.certify.bounds.layers import SYMMETRIZED_SCALE, Layers
from lazyjax.certify.bounds.lipschitz import Deep, TwoLayer, lipschitz_of
from lazyjax.certify.certificate import Rigor


def evaluations_of(
    branches: tuple[Layers, ...], inputs: Float[np.ndarray, "n d"], unit: float
) -> tuple[Evaluation, ...]:
    """Evaluations of all branches of a network; branches that are equal, once."""
    first = evaluate(branches[0], inputs, unit)
    return tuple(
        first if _equal(branch, branches[0]) else evaluate(branch, inputs, unit)
        for branch in branches
    )


def map_branches(
    fn: Callable[..., Evaluation],
    evaluations: tuple[Evaluation, ...],
    *others: tuple[Evaluation, ...],
) -> tuple[Evaluation, ...]:
    """Evaluations of all branches mapped; those of equal branches stay one object."""
    first = fn(*(e[0] for e in (evaluations, *others)))
    return tuple(
        first if pair[0] is evaluations[0] else fn(*pair)
        for pair in zip(evaluations, *others, strict=True)
    )


def output_of(evaluations: tuple[Evaluation, ...]) -> tuple[np.ndarray, float]:
    """Outputs of a network, symmetrized or not, and the norm of their error."""
    unit = evaluations[0].unit
    errors = [scaled_norm(e.output.error) for e in evaluations]
    if len(evaluations) == 1:
        value, error = evaluations[0].output.value, errors[0]
    else:
        plus, minus = evaluations
        size = [frobenius_upper(e.output.value, unit) for e in evaluations]
        value = (plus.output.value - minus.output.value) * SYMMETRIZED_SCALE
        error = (sum(errors) + gamma(4, unit) * sum(size)) * SYMMETRIZED_SCALE
    return value, float(round_up(error, value.size + 8, unit))


def kernel_of(evaluations: tuple[Evaluation, ...], layer: int | None = None) -> Kernel:
    """Kernel of a network, symmetrized or not, or the part of one of its layers."""
    parts = [
        kernel(e) if layer is None else layer_kernel(e, layer) for e in evaluations
    ]
    if len(parts) == 1:
        return parts[0]
    total = parts[0] + parts[1]
    # Halving is exact; the errors have room for one more rounding of a sum.
    return Kernel(total.value / 2, total.error / 2)


def at_rigor(
    evaluations: tuple[Evaluation, ...], rigor: Rigor
) -> tuple[Evaluation, ...]:
    """Evaluations with the bounds of their errors, or as if they were exact."""
    return evaluations if rigor == "proof" else map_branches(plain, evaluations)


@dataclasses.dataclass(frozen=True)
class Residual:
    r"""Computed residual $f - y$ and what it tells of the exact one.

    Attributes:
        value: The computed residual.
        error: Upper bound of the norm of its error.
        norm: Bounds of the norm of the exact one.
    """

    value: Float[np.ndarray, "n k"]
    error: float
    norm: Interval


def residual_of(
    evaluations: tuple[Evaluation, ...], targets: Float[np.ndarray, "n k"]
) -> Residual:
    """Residual of a network, symmetrized or not."""
    return residual_from(*output_of(evaluations), targets, evaluations[0].unit)


def residual_from(
    output: Float[np.ndarray, "n k"],
    error: float,
    targets: Float[np.ndarray, "n k"],
    unit: float,
) -> Residual:
    """Residual of outputs that were computed.

    Args:
        output: Outputs.
        error: Upper bound of the norm of their error.
        targets: Targets.
        unit: Unit roundoff that is accounted for.

    Returns:
        The residual.
    """
    value = output - targets
    rounded = gamma(1, unit) * float(np.linalg.norm(value))
    error = float(round_up(error + rounded, value.size + 4, unit))
    low = frobenius_lower(value, unit) - error
    high = frobenius_upper(value, unit) + error
    high = float(round_up(high, 2, unit))
    if math.isnan(low) or math.isnan(high):
        return Residual(value, math.inf, Interval(0.0, math.inf))
    # As plain floating-point values, the two may be an ulp on the wrong sides.
    low = min(max(low, 0.0) * (1 - 4 * unit), high)
    return Residual(value, error, Interval(low, high))


@dataclasses.dataclass(frozen=True)
class NetworkLipschitz:
    """Lipschitz constant of a network's Jacobian; grows with the radius by its formula.

    Attributes:
        constants: Those of the branches that differ.
        num_branches: Number of branches.
    """

    constants: tuple[Callable[[float], float], ...]
    num_branches: int

    def __call__(self, radius: float) -> float:
        """Upper bound in a ball of `radius`; infinity where numbers overflow."""
        found = [float(fn(radius)) for fn in self.constants]
        if any(map(math.isnan, found)):
            return math.inf
        if self.num_branches == 1:
            return found[0]
        return float(round_up(max(found) * SYMMETRIZED_SCALE, 4, UNIT_ROUNDOFF))


def constants_of(evaluations: tuple[Evaluation, ...]) -> list[TwoLayer | Deep]:
    """Constants of the branches that differ."""
    is_one = all(e is evaluations[0] for e in evaluations)
    return [lipschitz_of(e) for e in (evaluations[:1] if is_one else evaluations)]


def lipschitz_fn(evaluations: tuple[Evaluation, ...]) -> NetworkLipschitz:
    """Lipschitz constant of the Jacobian, as a function of the radius."""
    constants = tuple(c.at for c in constants_of(evaluations))
    return NetworkLipschitz(constants, len(evaluations))


def _equal(one: Layers, other: Layers) -> bool:
    if one is other:
        return True
    return all(
        np.array_equal(a.weight, b.weight) and np.array_equal(a.bias, b.bias)
        for a, b in zip(one.layers, other.layers, strict=True)
    )
