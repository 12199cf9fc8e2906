"""Lojasiewicz' own inequality: it holds for all analytic losses, and promises little."""

import math

from lazyjax.activations import find
from lazyjax.certify.bounds.start import Start
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Assumption
from lazyjax.certify.theorems.theorem import Theorem, smooth_description


def flow_theorem(start: Start) -> Certificate:
    """Convergence of gradient flow, as far as the inequality tells.

    Args:
        start: The start.

    Returns:
        The certificate. It is never CERTIFIED, as a bounded flow converges to some
        point of zero gradient, which need not have zero loss.

    References:
        Lojasiewicz (1963).
    """
    phi, bounds = start.branches[0].activation, start.local
    spec = find(phi)
    is_linear = start.branches[0].depth == 0
    is_analytic = is_linear or (spec is not None and bool(spec.is_analytic))
    return Certificate(
        theorem="Lojasiewicz inequality",
        conclusion="gradient flow converges to parameters of zero loss",
        assumptions=(
            Assumption(
                name="analytic",
                statement="the loss is analytic, so that near each point of zero "
                "gradient |grad L| >= c |L - L*|^theta with some theta < 1",
                holds=True if is_analytic else None,
                detail=str(phi),
            ),
            Assumption(
                name="bounded",
                statement="gradient flow stays bounded, and so converges to some point "
                "of zero gradient",
                holds=None,
                detail="the inequality does not tell",
            ),
            Assumption(
                name="no other limit",
                statement="that point has zero loss",
                holds=None,
                detail="the inequality does not tell",
            ),
        ),
        margin=math.nan,
        rigor=bounds.rigor,
        refutation=bounds.conflict,
        premises=bounds.premises,
    )


THEOREM = Theorem(
    name="lojasiewicz",
    source="Lojasiewicz (1963)",
    certify=flow_theorem,
    needs=smooth_description,
)
