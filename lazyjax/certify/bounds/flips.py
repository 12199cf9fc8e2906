r"""How far Jacobians of two-layer ReLU networks can be apart, by counting flips.

The argument is in `lazyjax.certify.theorems.relu`.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_nonnegative
from lazyjax.certify.arithmetic import matrices as matrix_bounds
from lazyjax.certify.arithmetic.activations import PIECEWISE_ACTIVATIONS
from lazyjax.certify.arithmetic.rounding import (
    Interval,
    interval,
    round_up,
    unit_roundoff,
)
from lazyjax.certify.bounds.branches import at_rigor, residual_of
from lazyjax.certify.bounds.evaluation import Evaluation, activation_of
from lazyjax.certify.bounds.layers import SYMMETRIZED_SCALE
from lazyjax.certify.bounds.lipschitz import InputGram, input_gram
from lazyjax.certify.bounds.local import premises_of
from lazyjax.certify.bounds.singular_values import spectrum_of
from lazyjax.certify.certificate import Rigor
from lazyjax.certify.statements import Assumption


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipBounds:
    r"""Bounds at the start of a network with one hidden layer, the first trained.

    Attributes:
        residual: Bounds of $\lVert r_0 \rVert$.
        sigma_min: Lower bound of $\sigma_{\min}(J_0)$.
        jacobian_norm: Upper bound of $\lVert J_0\rVert$.
        drive: Upper bound of $D$, the speed of a unit relative to $\lVert r\rVert$.
        flips: Upper bound of $\Delta$, as a nondecreasing function of $R$.
        rigor: "proof" if rounding is accounted for, else "float".
        conflict: Statement that two equal inputs have different targets.
        premises: What the bounds rest on.

    Raises:
        ValueError: If bounds are impossible: negative or NaN, or in contradiction to
            each other.
    """

    residual: Interval
    sigma_min: float
    jacobian_norm: float
    drive: float
    flips: Callable[[float], float]
    rigor: Rigor = "proof"
    conflict: Assumption | None = None
    premises: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "residual", interval(self.residual))
        check_nonnegative("residual", [self.residual.low, self.residual.high])
        check_nonnegative("sigma_min", self.sigma_min, infinity_allowed=False)
        check_nonnegative("jacobian_norm", self.jacobian_norm)
        check_nonnegative("drive", self.drive)
        if self.sigma_min > self.jacobian_norm:
            raise ValueError(
                "`sigma_min` must be at most `jacobian_norm`, as no singular value is "
                f"above the largest; got {self.sigma_min!r} and "
                f"{self.jacobian_norm!r}."
            )


def drive_upper(evaluations: tuple[Evaluation, ...], gram: InputGram) -> float:
    r"""Upper bound of $D = c \sup|\phi'| \max_r \lVert a_r\rVert \lVert\tilde X\rVert$."""
    bounds = []
    for e in evaluations:
        last = e.network.layers[-1]
        readout = np.max(matrix_bounds.row_norms_upper(last.weight, e.unit))
        outer = last.scale * e.network.factor * activation_of(e.network).slope
        bounds.append(float(round_up(outer * readout * gram.spectral, 8, e.unit)))
    found = float(np.max(bounds))
    if math.isnan(found):
        return math.inf
    if len(evaluations) == 1:
        return found
    return float(round_up(found * SYMMETRIZED_SCALE, 4, evaluations[0].unit))


def flips_fn(
    evaluations: tuple[Evaluation, ...], gram: InputGram
) -> Callable[[float], float]:
    """Upper bound of how far Jacobians can be from each other, by the units' radius."""
    unit = evaluations[0].unit
    margins = [margins_lower(e, gram) for e in evaluations]
    weights = [_weights(e) for e in evaluations]
    half = 1.0 if len(evaluations) == 1 else 0.5
    num_outputs = weights[0].shape[1]
    entries = np.kron(gram.entries, np.ones((num_outputs, num_outputs)))

    def flips(radius: float) -> float:
        total = np.zeros_like(entries)
        for margin, weight in zip(margins, weights, strict=True):
            can_flip = margin <= radius
            if np.any(can_flip):
                spread = can_flip[:, None, :] * weight.T
                flat = spread.reshape(len(entries), -1)
                total += flat @ flat.T
        counted = round_up(half * total * entries, len(weights[0]) + 8, unit)
        return math.sqrt(matrix_bounds.perron_upper(counted, unit)) * (1 + 4 * unit)

    return flips


def margins_lower(evaluation: Evaluation, gram: InputGram) -> Float[np.ndarray, "n m"]:
    """Lower bounds of how far each unit must move to flip, for each example."""
    z = evaluation.preactivations[0]
    unit = evaluation.unit
    distance = (np.abs(z.value) - z.error[:, None]) / gram.norms[:, None]
    # Rounded down; what is negative may have flipped already.
    return distance - 4 * unit * np.abs(distance)


def _weights(evaluation: Evaluation) -> Float[np.ndarray, "m k"]:
    """Upper bounds of jump times output weights, scales included."""
    network = evaluation.network
    jump = PIECEWISE_ACTIVATIONS[network.activation].jump
    last = network.layers[-1]
    size = np.abs(last.weight) * (last.scale * network.factor * jump)
    return round_up(size, 4, evaluation.unit)


def flip_bounds(
    proven: tuple[Evaluation, ...],
    inputs: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "n k"],
    rigor: Rigor,
    conflict: Assumption | None,
) -> FlipBounds:
    """Bounds of a network with one hidden layer of kinks, of which the first is trained.

    Args:
        proven: The network, with bounds of errors at any rigor.
        inputs: Inputs.
        targets: Targets.
        rigor: "proof" to account for rounding, else "float".
        conflict: Statement that two equal inputs have different targets.

    Returns:
        The bounds. The kernel is that of the signs that were computed; units whose sign
        is not certain count as flipped whatever the radius.
    """
    evaluations = at_rigor(proven, rigor)
    gram = input_gram(inputs, proven[0].network.layers[0], unit_roundoff(rigor))
    spectrum = spectrum_of(proven, rigor)
    return FlipBounds(
        residual=residual_of(evaluations, targets).norm,
        sigma_min=spectrum.sigma_min,
        jacobian_norm=spectrum.sigma_max,
        drive=drive_upper(evaluations, gram),
        flips=flips_fn(evaluations, gram),
        rigor=rigor,
        conflict=conflict,
        premises=premises_of(rigor),
    )
