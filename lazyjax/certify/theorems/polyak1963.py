"""Polyak and Lojasiewicz' inequality for all parameters.

It fails for nearly all networks, since some parameters have zero gradient and positive
loss; that tells nothing of a start.
"""

import math

import jax
import numpy as np

from lazyjax.certify.bounds.branches import kernel_of, residual_of
from lazyjax.certify.bounds.start import Start, described_start
from lazyjax.certify.bounds.vanishing import gradient_vanishes
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Assumption, Quantity, assume_less
from lazyjax.certify.theorems.theorem import Theorem, smooth_description
from lazyjax.typing import AnyArray


def for_all_parameters(start: Start) -> Certificate:
    """Whether the inequality holds for all parameters.

    Args:
        start: The start.

    Returns:
        The certificate: REFUTED where parameters of zero, of trained layers, have zero
        gradient and positive loss.

    References:
        Polyak (1963); Lojasiewicz (1963).
    """
    bounds = start.local
    is_linear = start.branches[0].depth == 0
    sigma = max(block.sigma_min for block in bounds.blocks)
    zero = _at_zero(start)
    residual = residual_of(zero.evaluations, zero.targets)
    vector = residual.value.reshape(-1)
    square = float(vector @ kernel_of(zero.evaluations).value @ vector)
    gradient, loss = math.sqrt(max(square, 0.0)), float(vector @ vector) / 2
    is_critical = residual.norm.low > 0 and all(
        gradient_vanishes(branch, zero.inputs) for branch in zero.branches
    )
    return Certificate(
        theorem="Polyak-Lojasiewicz inequality for all parameters",
        conclusion="|grad L|^2 / 2 >= mu L for all parameters, with a mu > 0",
        assumptions=(
            Assumption(
                name="linear",
                statement="the Jacobian is the same everywhere",
                holds=True if is_linear else None,
            ),
            assume_less("surjective", "0 < sigma_min(J)", 0.0, sigma),
        ),
        margin=1.0 if is_linear and sigma > 0 else -math.inf,
        quantities=(
            Quantity.lower("mu", sigma**2 if is_linear else 0.0),
            Quantity.estimate(
                "gradient_at_zero",
                gradient,
                "|grad L| where trained parameters are zero",
            ),
            Quantity.estimate(
                "loss_at_zero", loss, "L where trained parameters are zero"
            ),
        ),
        rigor=bounds.rigor,
        refutation=Assumption(
            name="critical point",
            statement="parameters of zero have zero gradient and positive loss",
            holds=True if is_critical else None,
            detail=f"|grad L| = {gradient:.3g}, L = {loss:.3g}, as computed",
        ),
        premises=bounds.premises,
    )


def _at_zero(start: Start) -> Start:
    """The start with all trained parameters at zero."""
    spec = start.network.architecture
    trained = {
        f"layer_{i + 1}" for i in range(spec.num_layers) if spec.is_trained(i + 1)
    }

    def zeroed(path: tuple, leaf: AnyArray) -> np.ndarray:
        keys = {getattr(part, "key", None) for part in path}
        value = np.asarray(leaf, np.float64)
        return np.zeros_like(value) if keys & trained else value

    zero = jax.tree_util.tree_map_with_path(zeroed, start.params)
    return described_start(start.network, zero, start.x, start.targets)


THEOREM = Theorem(
    name="polyak",
    source="Polyak (1963); Lojasiewicz (1963)",
    certify=for_all_parameters,
    needs=smooth_description,
)
