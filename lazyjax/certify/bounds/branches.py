r"""Networks as a whole, from what was computed of their copies.

A network that is symmetrized is $(g(w_1) - g(w_2))/\sqrt2$; another one is its only copy.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.matrices import frobenius_upper, scaled_norm
from lazyjax.certify.arithmetic.rounding import (
    UNIT_ROUNDOFF,
    gamma,
    raised,
)
from lazyjax.certify.bounds.evaluation import (
    Evaluation,
    Kernel,
    evaluate,
    kernel,
    layer_kernel,
)
from lazyjax.certify.bounds.layers import SYMMETRIZED_SCALE, Layers
from lazyjax.certify.bounds.lipschitz import (
    Deep,
    TwoLayer,
    lipschitz_of,
)


def evaluations_of(
    copies: tuple[Layers, ...], inputs: Float[np.ndarray, "n d"], unit: float
) -> tuple[Evaluation, ...]:
    """Evaluations of all copies of a network; copies that are equal, once."""
    first = evaluate(copies[0], inputs, unit)
    return tuple(
        first if _equal(copy, copies[0]) else evaluate(copy, inputs, unit)
        for copy in copies
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
    return value, float(raised(error, value.size + 8, unit))


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


@dataclasses.dataclass(frozen=True)
class NetworkLipschitz:
    """Lipschitz constant of a network's Jacobian; grows with the radius by its formula.

    Attributes:
        constants: Those of the copies that differ.
        num_copies: Number of copies.
    """

    constants: tuple[Callable[[float], float], ...]
    num_copies: int

    def __call__(self, radius: float) -> float:
        """Upper bound in a ball of `radius`; infinity where numbers overflow."""
        found = [float(fn(radius)) for fn in self.constants]
        if any(map(math.isnan, found)):
            return math.inf
        if self.num_copies == 1:
            return found[0]
        return float(raised(max(found) * SYMMETRIZED_SCALE, 4, UNIT_ROUNDOFF))


def constants_of(evaluations: tuple[Evaluation, ...]) -> list[TwoLayer | Deep]:
    """Constants of the copies that differ."""
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
