r"""The theorem of Oymak and Soltanolkotabi (2019), from bounds at the start.

For $L = \tfrac12\lVert r\rVert^2$: if the Jacobian has singular values between $\alpha$
and $\beta$ and is $\Lambda$-Lipschitz in the ball of radius $R = 4\lVert r_0\rVert/\alpha$
about the start, gradient descent with
$\eta \le \tfrac{1}{2\beta^2}\min(1, \alpha^2/(\Lambda\lVert r_0\rVert))$ has
$\lVert r_k\rVert^2 \le (1 - \eta\alpha^2/2)^k\lVert r_0\rVert^2$ and a path no longer
than $R$.

The statement is from memory and not checked against the paper. What it concludes does
not rest on that, as it follows from `lazyjax.certify.theorems.descent_theorem` with
$\epsilon = \tfrac12$. For $\sigma_0 - \Lambda R \ge \alpha$ is
$h = \Lambda\lVert r_0\rVert/\sigma_0^2 \le \theta(1-\theta)/4 \le \tfrac1{16}$, where
$\alpha = \theta\sigma_0$; that theorem asks for $h < \tfrac14$, allows
$\eta \le 1/(\beta^2 + \Lambda\lVert r_0\rVert)$, which is larger, and with
$\mu^2 = \sigma_0^2(1 - 4h) \ge \tfrac34\sigma_0^2$ guarantees the rate
$\eta\mu^2 \ge \eta\alpha^2/2$ and a path of $2 \lVert r_0\rVert \cdot 2/(\sigma_0 + \mu)
\le R$. It certifies up to four times as far from zero loss, and gradient flow eight
times as far.
"""

import math

import numpy as np

from lazyjax.certify.arithmetic.rounding import interval
from lazyjax.certify.bounds.local import LocalBounds
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Assumption, Quantity, assume_less
from lazyjax.certify.theorems.theorem import Theorem

_SHARES = tuple(np.linspace(0.02, 0.98, 49))


def descent_theorem(bounds: LocalBounds) -> Certificate:
    r"""Convergence of gradient descent to zero loss, as Oymak and Soltanolkotabi have it.

    Args:
        bounds: At the start.

    Returns:
        The certificate, with the largest $\alpha = \theta\sigma_0$ on a grid; the margin
        is the best over the grid.

    Example:
        >>> from lazyjax.certify import LocalBounds
        >>> bounds = LocalBounds.from_constants(
        ...     1.0, sigma_min=1.0, jacobian_norm=2.0, lipschitz=0.05
        ... )
        >>> certificate = descent_theorem(bounds)
        >>> certificate.verdict.name, round(certificate["alpha"], 2)
        ('CERTIFIED', 0.72)

    References:
        Oymak and Soltanolkotabi (2019), arXiv:1812.10004 (constants not checked against
        the paper).
    """
    attempts = [
        _ShareAttempt(bounds, block.sigma_min, block.lipschitz, share)
        for block in bounds.blocks
        for share in _SHARES
    ]
    holding = [attempt for attempt in attempts if attempt.holds]
    nearest = max(attempts, key=lambda attempt: attempt.margin)
    best = max(holding, key=lambda attempt: attempt.alpha) if holding else nearest
    loss_rate = interval(best.step) * best.alpha * best.alpha / 2.0
    return Certificate(
        theorem="gradient descent by Oymak and Soltanolkotabi (2019)",
        conclusion="gradient descent with this learning rate converges to zero loss",
        assumptions=(
            assume_less("surjective", "0 < sigma_min(J0)", 0.0, best.sigma),
            Assumption(
                name="well conditioned",
                statement="sigma_min(J) >= alpha in the ball of radius 4 |r0| / alpha",
                holds=True if best.holds else None,
                detail=f"{best.sigma_in_ball:.6g} against alpha = {best.alpha:.6g}",
            ),
        ),
        margin=nearest.margin,
        quantities=(
            Quantity.upper("residual", bounds.residual.high),
            Quantity.lower("sigma_min", best.sigma),
            Quantity.exact(
                "alpha", best.alpha, "lower bound of singular values in the ball"
            ),
            Quantity.upper("beta", best.beta, "largest singular value in the ball"),
            Quantity.upper(
                "lipschitz",
                best.constant,
                "Lipschitz constant of the Jacobian in the ball",
            ),
        ),
        dynamics="descent",
        rate=loss_rate.low,
        radius=best.radius,
        step_size=best.step,
        rigor=bounds.rigor,
        refutation=bounds.conflict,
        premises=(
            *bounds.premises,
            "The constants are from memory; they imply those of the theorem of "
            "gradient descent proven here.",
        ),
    )


class _ShareAttempt:
    """The theorem with one share of the smallest singular value as alpha."""

    def __init__(
        self, bounds: LocalBounds, sigma: float, lipschitz, share: float
    ) -> None:
        self.sigma = sigma
        self.alpha = alpha = float(share) * sigma
        residual = bounds.residual.high
        self.radius = (4.0 * interval(residual) / alpha).high if alpha > 0 else math.inf
        known = math.isfinite(self.radius)
        self.constant = lipschitz(self.radius) if known else math.inf
        drift = interval(self.constant) * self.radius
        self.sigma_in_ball = (interval(sigma) - drift).low
        self.holds = alpha > 0 and self.sigma_in_ball >= alpha
        margin = (1.0 - (drift + alpha) / sigma).low if alpha > 0 else math.nan
        self.margin = -math.inf if math.isnan(margin) else margin
        # The step needs the whole Jacobian, whatever block bounds singular values.
        whole = bounds.lipschitz(self.radius) if known else math.inf
        beta = interval(bounds.jacobian_norm) + interval(whole) * self.radius
        self.beta = beta
        ratio = interval(alpha) * alpha / (interval(whole) * residual)
        least = min(1.0, ratio.low) if ratio.low > 0 else math.nan
        if whole == 0:
            least = 1.0
        self.step = (interval(least) / (2.0 * (beta * beta))).low


THEOREM = Theorem(
    name="oymak",
    source="Oymak and Soltanolkotabi (2019), arXiv:1812.10004",
    certify=lambda start: descent_theorem(start.local),
)
