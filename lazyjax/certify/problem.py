"""A network at a point with its data, as the theorems read them; the way in for all."""

import dataclasses

import numpy as np
from jaxtyping import Float

from lazyjax.activations import ACTIVATIONS
from lazyjax.certify.arithmetic.activations import (
    PIECEWISE_ACTIVATIONS,
    SMOOTH_ACTIVATIONS,
)
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF
from lazyjax.certify.bounds.agreement import check_agreement
from lazyjax.certify.bounds.branches import evaluations_of
from lazyjax.certify.bounds.evaluation import Evaluation
from lazyjax.certify.bounds.layers import (
    Layers,
    check_features,
    data_of,
    layers_of,
)
from lazyjax.certify.certificate import Assumption
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, Params


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network at a point, with data; of it, `network.apply` computes the same.

    Attributes:
        network: The network.
        params: The point.
        copies: The network in float64: itself, or "plus" and "minus" if symmetrized.
        evaluations: What was computed of the copies; none if the activation is not one
            whose bounds are known, of which nothing is certified.
        inputs: Inputs, flattened.
        targets: Targets.
    """

    network: Network
    params: Params
    copies: tuple[Layers, ...]
    evaluations: tuple[Evaluation, ...]
    inputs: Float[np.ndarray, "n d"]
    targets: Float[np.ndarray, "n k"]

    @property
    def smooth(self) -> Assumption:
        """The assumption that activations are smooth, with known constants."""
        phi, depth = self.copies[0].activation, self.copies[0].depth
        is_known = depth == 0 or (isinstance(phi, str) and phi in SMOOTH_ACTIVATIONS)
        spec = ACTIVATIONS[phi] if isinstance(phi, str) else None
        is_open = spec is None or (spec.float64 is None and spec.slopes is None)
        return Assumption(
            name="smooth",
            statement="the activation's derivative is bounded and Lipschitz",
            # Of functions, and names without formulas, nothing is known.
            holds=True if is_known else (None if is_open else False),
            detail="no hidden layer" if depth == 0 else str(phi),
        )

    @property
    def conflict(self) -> Assumption | None:
        """The first two equal inputs with different targets, if there are any."""
        seen: dict[bytes, int] = {}
        for i, row in enumerate(self.inputs + 0.0):  # -0.0 equals 0.0
            j = seen.setdefault(row.tobytes(), i)
            if not np.array_equal(self.targets[i], self.targets[j]):
                return Assumption(
                    name="conflict",
                    statement="two equal inputs have different targets, which no "
                    "parameters fit",
                    holds=True,
                    detail=f"examples {j} and {i}",
                )
        return None


def problem_of(network: Network, params: Params, x: AnyArray, y: AnyArray) -> Problem:
    """A network at a point with its data, after all checks.

    Args:
        network: Fully connected network.
        params: Its parameters.
        x: Inputs.
        y: Targets.

    Returns:
        The problem.

    Raises:
        ValueError: If bounds do not cover the network, parameters or data do not fit,
            a number is not finite, or `network.apply` computes something else.
        TypeError: If an array is not floating point.
    """
    copies = layers_of(network, params)
    inputs, targets = data_of(network, x, y)
    check_features(copies, "x", inputs)
    evaluations: tuple[Evaluation, ...] = ()
    with np.errstate(all="ignore"):  # what overflows certifies nothing
        if _has_bounds(copies[0]):
            evaluations = evaluations_of(copies, inputs, UNIT_ROUNDOFF)
            check_agreement(network, params, x, evaluations)
    return Problem(network, params, copies, evaluations, inputs, targets)


def _has_bounds(network: Layers) -> bool:
    phi = network.activation
    is_named = isinstance(phi, str)
    return network.depth == 0 or (
        is_named and (phi in SMOOTH_ACTIVATIONS or phi in PIECEWISE_ACTIVATIONS)
    )
