r"""The condition PL* of Liu, Zhu and Belkin (2022), from bounds at the start.

For $L = \tfrac12\lVert r\rVert^2$: if $\tfrac12\lVert\nabla L\rVert^2 \ge \mu L$ and
$\nabla L$ is $\beta$-Lipschitz in the ball of radius $R = 2\sqrt{2\beta L_0}/\mu$ about
the start, gradient descent with learning rate $1/\beta$ stays in the ball, and
$L_k \le (1 - \mu/\beta)^k L_0$. Uniform conditioning, $\lambda_{\min}(K) \ge \mu$ in the
ball, gives the first.

The statement is from memory and not checked against the paper. What it concludes follows
anyhow: with $\epsilon = \tfrac12$, a step lowers the loss by at least
$\lVert\nabla L\rVert^2/(2\beta)$, hence to $1 - \mu/\beta$ of it; and the path is no
longer than $2\sqrt{2L_0/\mu} \le R$, as $\sqrt L$ falls by at least
$\tfrac12\sqrt{\mu/2}$ per length.
"""

import math

import numpy as np

from lazyjax.certify.arithmetic.rounding import interval, upper_or_infinity
from lazyjax.certify.bounds.local import JacobianBlock, LocalBounds
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Assumption, Quantity, assume_less
from lazyjax.certify.theorems.theorem import Theorem

_GRID = tuple(np.geomspace(1.0, 64.0, 97))


def descent_theorem(bounds: LocalBounds) -> Certificate:
    r"""Convergence of gradient descent to zero loss by PL* in a ball.

    Args:
        bounds: At the start.

    Returns:
        The certificate, for the smallest radius on a grid that will do.

    Example:
        >>> from lazyjax.certify import LocalBounds
        >>> bounds = LocalBounds.from_constants(
        ...     1.0, sigma_min=1.0, jacobian_norm=2.0, lipschitz=0.01
        ... )
        >>> descent_theorem(bounds).verdict.name
        'CERTIFIED'

    References:
        Liu, Zhu and Belkin (2022), arXiv:2003.00307 (constants not checked against the
        paper).
    """
    attempts = [
        attempt for block in bounds.blocks for attempt in _attempts(bounds, block)
    ]
    holding = [attempt for attempt in attempts if attempt.holds]
    nearest = max(attempts, key=lambda attempt: attempt.margin)
    best = min(holding, key=lambda attempt: attempt.radius) if holding else nearest
    beta = interval(best.smoothness)
    return Certificate(
        theorem="PL* condition of Liu, Zhu and Belkin (2022)",
        conclusion="gradient descent with this learning rate converges to zero loss",
        assumptions=(
            assume_less("uniformly conditioned", "0 < mu", 0.0, best.mu),
            Assumption(
                name="within",
                statement="the ball's radius is at least 2 (2 beta L0)^(1/2) / mu",
                holds=True if best.holds else None,
                detail=f"needs {best.needed:.6g}; has {best.radius:.6g}",
            ),
        ),
        margin=nearest.margin,
        quantities=(
            Quantity.upper("residual", bounds.residual.high),
            Quantity.lower(
                "mu", best.mu, "smallest eigenvalue of the kernel in the ball"
            ),
            Quantity.upper(
                "beta",
                upper_or_infinity(best.smoothness),
                "Lipschitz constant of the gradient in the ball",
            ),
        ),
        dynamics="descent",
        rate=(interval(best.mu) / beta).low,
        radius=best.radius,
        step_size=(1.0 / beta).low,
        rigor=bounds.rigor,
        refutation=bounds.conflict,
        premises=(
            *bounds.premises,
            "The constants are from memory; what they conclude is proven here.",
        ),
    )


def _attempts(bounds: LocalBounds, block: JacobianBlock) -> list["_BallAttempt"]:
    """Balls of all radii; none smaller than for the condition at the start would do."""
    sigma, residual = block.sigma_min, bounds.residual.high
    if not sigma > 0:
        return [_BallAttempt(bounds, block, math.inf)]
    shortest = 2 * max(bounds.jacobian_norm, sigma) * residual / sigma**2
    return [_BallAttempt(bounds, block, shortest * float(step)) for step in _GRID]


class _BallAttempt:
    """The condition in a ball of one radius."""

    def __init__(
        self, bounds: LocalBounds, block: JacobianBlock, radius: float
    ) -> None:
        self.radius = radius
        known = 0 < radius < math.inf
        of_block = block.lipschitz(radius) if known else math.inf
        whole = bounds.lipschitz(radius) if known else math.inf
        sigma = interval(block.sigma_min) - interval(of_block) * radius
        self.mu = (sigma * sigma).low if sigma.low > 0 else 0.0
        norm = interval(bounds.jacobian_norm) + interval(whole) * radius
        farthest = interval(bounds.residual.high) + norm * radius
        self.smoothness = (norm * norm + interval(whole) * farthest).high
        root = interval(self.smoothness).sqrt()
        self.needed = math.inf
        if self.mu > 0:
            needed = 2.0 * root * bounds.residual.high / self.mu
            self.needed = upper_or_infinity(needed)
        self.holds = self.mu > 0 and self.needed <= radius
        self.margin = 1 - self.needed / radius if known else -math.inf


THEOREM = Theorem(
    name="liu",
    source="Liu, Zhu and Belkin (2022), arXiv:2003.00307",
    certify=lambda start: descent_theorem(start.local),
)
