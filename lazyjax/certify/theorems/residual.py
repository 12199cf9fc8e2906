r"""Convergence of gradient flow and descent, and existence of zero loss, from bounds.

With $L = \tfrac12 \lVert r \rVert^2$, $r = f - y$, $J = Df$, $\sigma_0 =
\sigma_{\min}(J(w_0))$, and $\Lambda$ the Lipschitz constant of $J$ in a ball around the
start, the proofs are short:

- **Flow.** Along $w' = -J^\top r$, $\lVert r \rVert$ falls by $\lVert J^\top r\rVert /
  \lVert r\rVert \ge \sigma_{\min}(J) \ge \sigma_0 - \Lambda s$ per length of path $s$.
- **Descent.** With $B = (\lVert J_0\rVert + \Lambda s^*)^2 + \Lambda \lVert r_0\rVert$,
  gradients differ by at most $B$ times the distance from an iterate to points of the
  step from it. So a step of length $\eta \lVert g \rVert$, $\eta \le 2\epsilon/B$,
  lowers the loss by at least $(1-\epsilon) \eta \lVert g\rVert^2$, hence
  $\lVert r \rVert$ by $(1-\epsilon)(\sigma_0 - \Lambda s)$ per length. If the gradient
  is off by $\tau \lVert g \rVert$, lengths are longer by $(1+\tau)/(1-\tau)$, and
  $\eta \le 2 \epsilon (1-\tau) / (B (1+\tau)^2)$.
- **Existence** is the theorem of Newton and Kantorovich on the range of $J_0^\top$,
  where $\lVert J_0^+ (J(w) - J(w'))\rVert \le \Lambda/\sigma_0 \lVert w - w'\rVert$.
"""

import math

import numpy as np

from lazyjax._checks import check_positive
from lazyjax.certify.arithmetic.rounding import Interval, interval
from lazyjax.certify.bounds.ball import (
    Ball,
    ball_assumptions,
    ball_quantities,
    check_radius,
    margin_within,
    smallest_ball,
    within,
    zero_distance,
)
from lazyjax.certify.bounds.local import JacobianBlock, LocalBounds
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Assumption, Quantity
from lazyjax.certify.theorems.theorem import Theorem

_EPSILONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75)


def flow_theorem(bounds: LocalBounds, *, radius: float | None = None) -> Certificate:
    r"""Convergence of gradient flow to zero loss.

    Args:
        bounds: At the start.
        radius: Distance from the start that the path should stay within, if any.

    Returns:
        The certificate. Its quantity "linearization_gap" bounds the distance, at any
        time, of the outputs from those of the linearized model; "kernel_drift" that of
        the kernel from its start.

    Raises:
        ValueError: If `radius` is not positive.

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956; Oymak and Soltanolkotabi
        (2019), arXiv:1812.10004; Chatterjee (2022), arXiv:2203.16462, for relatives
        with other constants (not checked).
    """
    check_radius(radius)
    balls = [
        (block, smallest_ball(block.sigma_min, bounds.residual.high, block.lipschitz))
        for block in bounds.blocks
    ]
    block, ball = max(balls, key=lambda pair: _rank(pair[1]))
    mu_sq = ball.sigma_end * ball.sigma_end
    return Certificate(
        theorem="gradient flow from bounds at the start",
        conclusion="gradient flow converges to zero loss",
        assumptions=(
            *ball_assumptions(ball, "|r0|"),
            *within(ball.length.high, radius),
        ),
        margin=margin_within(ball.margin, ball.length.high, radius),
        quantities=(
            *ball_quantities(ball, bounds),
            _distance_quantity(bounds),
            *_gap_quantities(bounds, ball),
        ),
        dynamics="flow",
        rate=(2 * mu_sq).low,
        radius=ball.length.high,
        rigor=bounds.rigor,
        refutation=_refutation(bounds, radius),
        premises=(*bounds.premises, *_block_premise(block)),
    )


def descent_theorem(
    bounds: LocalBounds,
    *,
    learning_rate: float | None = None,
    gradient_error: float = 0.0,
    radius: float | None = None,
) -> Certificate:
    r"""Convergence of gradient descent to zero loss.

    Args:
        bounds: At the start.
        learning_rate: Step size to certify; `None` to find the one with the best
            guaranteed rate.
        gradient_error: Relative error $\tau < 1$ that gradients may have.
        radius: Distance from the start that iterates should stay within, if any.

    Returns:
        The certificate.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_radius(radius)
    best = fastest_descent(
        bounds, learning_rate=learning_rate, gradient_error=gradient_error
    )
    ball = best.ball
    return Certificate(
        theorem="gradient descent from bounds at the start",
        conclusion="gradient descent with this learning rate converges to zero loss",
        assumptions=(
            *ball_assumptions(ball, "|r0| / (1 - epsilon)"),
            best.step_assumption,
            *within(ball.length.high, radius),
        ),
        margin=min(
            margin_within(ball.margin, ball.length.high, radius), best.step_margin
        ),
        quantities=(
            *ball_quantities(ball, bounds),
            _distance_quantity(bounds),
            *best.quantities,
        ),
        dynamics="descent",
        rate=best.rate,
        radius=ball.length.high,
        step_size=best.step,
        rigor=bounds.rigor,
        refutation=_refutation(bounds, radius),
        premises=(
            *bounds.premises,
            f"Every gradient is exact up to {gradient_error:g} of its norm.",
            *_block_premise(best.block),
        ),
    )


def fastest_descent(
    bounds: LocalBounds,
    *,
    learning_rate: float | None,
    gradient_error: float = 0.0,
    target: float = 0.0,
) -> "DescentPath":
    r"""The best attempt over blocks and $\epsilon$.

    Args:
        bounds: At the start.
        learning_rate: Step size; `None` to find the one with the best guaranteed rate.
        gradient_error: Relative error $\tau < 1$ that gradients may have.
        target: Norm of the residual to reach, below that at the start.

    Returns:
        The attempt, which need not succeed.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 0 <= gradient_error < 1:
        raise ValueError(
            f"`gradient_error` must be at least 0 and below 1; got {gradient_error!r}."
        )
    epsilons = _EPSILONS
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
        least = learning_rate * bounds.jacobian_norm**2 / 2
        epsilons = np.geomspace(min(max(1.0001 * least, 1e-6), 0.98), 0.99, 20).tolist()
    attempts = [
        DescentPath(bounds, block, epsilon, learning_rate, gradient_error, target)
        for block in bounds.blocks
        for epsilon in epsilons
    ]
    return max(attempts, key=lambda attempt: attempt.rank)


class DescentPath:
    r"""One attempt at gradient descent, for one block and one $\epsilon$.

    Attributes:
        block: Whose singular values are bounded.
        epsilon: Share of the decrease that is given up for the step size.
        ball: That all iterates are in whose residual is above the target.
        reach: Upper bound of the distance of the first iterate at the target, too.
        step: Learning rate.
        rate: Share of the loss that each step takes off at least, above the target.
    """

    def __init__(
        self,
        bounds: LocalBounds,
        block: JacobianBlock,
        epsilon: float,
        learning_rate: float | None,
        gradient_error: float,
        target: float,
    ) -> None:
        self.block, self.epsilon = block, float(epsilon)
        tau, residual = interval(gradient_error), interval(bounds.residual.high)
        kept = (1 - interval(self.epsilon)) * (1 - tau)  # of the decrease of the loss
        demand = (residual - target) * (1 + tau) / kept
        self.ball = smallest_ball(block.sigma_min, demand.high, block.lipschitz)
        length = self.ball.length.high
        if target > 0:  # the last step may go beyond; see docs/theory/zero_error.md
            last = 2 * interval(self.epsilon) * residual / bounds.jacobian_norm
            length = (length + last).high
        self.reach = length
        constant = bounds.lipschitz(length) if math.isfinite(length) else math.nan
        beta = interval(bounds.jacobian_norm) + interval(constant) * length
        self.smoothness = beta * beta + interval(constant) * residual
        largest = (
            2 * self.epsilon * (1 - tau) / (self.smoothness * (1 + tau) * (1 + tau))
        )
        self.largest_step = largest.low
        self.step = self.largest_step if learning_rate is None else learning_rate
        mu = self.ball.sigma_end
        self.rate = (2 * kept * self.step * (mu * mu)).low

    @property
    def step_assumption(self) -> Assumption:
        """That the step is short enough."""
        fits = 0 < self.step <= self.largest_step < math.inf
        return Assumption(
            name="step",
            statement="the learning rate is at most 2 epsilon / (|J|^2 + Lip(J) |r0|)",
            holds=True if fits else None,
            detail=f"{self.step:.6g} against {self.largest_step:.6g}",
        )

    @property
    def step_margin(self) -> float:
        """How much larger the rate could be; not counted if it is the largest."""
        if self.step == self.largest_step:
            return 1.0
        return 1 - self.step / self.largest_step

    @property
    def rank(self) -> tuple[bool, float]:
        """Certified attempts first, the fastest of them; then the nearest."""
        if self.ball.holds and self.step_assumption.holds and self.rate > 0:
            return True, self.rate
        nearness = min(self.ball.margin, self.step_margin)
        return False, -math.inf if math.isnan(nearness) else nearness

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Numbers of the attempt."""
        return (
            Quantity.exact(
                "epsilon",
                self.epsilon,
                "share of the decrease that is given up for the step size",
            ),
            Quantity.upper(
                "smoothness",
                self.smoothness,
                "Lipschitz constant of the gradient along a step",
            ),
        )


def existence_theorem(
    bounds: LocalBounds, *, radius: float | None = None
) -> Certificate:
    """Existence of parameters with zero loss near the start.

    It says nothing of how to get there, and needs less than convergence does.

    Args:
        bounds: At the start.
        radius: Distance from the start within which they should exist, if any.

    Returns:
        The certificate.

    Raises:
        ValueError: If `radius` is not positive.

    References:
        Kantorovich and Akilov (1964), Functional analysis in normed spaces (the
        theorem of Newton and Kantorovich; not checked).
    """
    check_radius(radius)
    block = bounds.blocks[0]
    sigma = block.sigma_min

    def curvature(distance: float) -> float:
        if not sigma > 0:
            return math.inf
        return (interval(block.lipschitz(distance)) / sigma).high

    ball = smallest_ball(1.0, bounds.newton_norm, curvature)
    surjective, *_ = ball_assumptions(
        smallest_ball(sigma, bounds.residual.high, block.lipschitz), "|r0|"
    )
    _, small, inside = ball_assumptions(ball, "")
    return Certificate(
        theorem="existence of zero loss, by Newton and Kantorovich",
        conclusion="there are parameters of zero loss within the radius",
        assumptions=(
            surjective,
            Assumption(
                name="small",
                statement="Lip(J) |J0^+ r0| / sigma_min(J0) < 1/2",
                holds=small.holds,
                detail=small.detail,
            ),
            inside,
            *within(ball.length.high, radius),
        ),
        margin=margin_within(ball.margin, ball.length.high, radius),
        quantities=(
            Quantity.upper("residual", bounds.residual.high),
            Quantity.lower("sigma_min", sigma),
            Quantity.upper(
                "newton_norm", bounds.newton_norm, "length of the first Newton step"
            ),
            Quantity.upper("h", ball.condition),
            _distance_quantity(bounds),
        ),
        radius=ball.length.high,
        rigor=bounds.rigor,
        refutation=_refutation(bounds, radius),
        premises=bounds.premises,
    )


def _gap_quantities(bounds: LocalBounds, ball: Ball) -> tuple[Quantity, ...]:
    # The gap e obeys e' = -K0 e - (K - K0) r, so that it is at most the drift of the
    # kernel times |r0| t exp(-mu^2 t), which is at most |r0| / (mu^2 exp(1)).
    drift = kernel_drift(bounds, ball)
    gap = drift * bounds.residual.high / (ball.sigma_end * ball.sigma_end)
    return (
        Quantity.upper("kernel_drift", drift, "distance of the kernel from its start"),
        Quantity.upper(
            "linearization_gap",
            gap / (interval(1.0).expm1() + 1),
            "distance of outputs from those of the linearized model",
        ),
    )


def kernel_drift(bounds: LocalBounds, ball: Ball) -> Interval:
    """Interval whose upper end bounds how far the kernel gets from its start."""
    # With the Jacobian at most d from its start, it is at most 2 |J0| d + d^2.
    length = ball.length.high
    constant = bounds.lipschitz(length) if math.isfinite(length) else math.nan
    moved = interval(constant) * length
    return 2 * interval(bounds.jacobian_norm) * moved + moved * moved


def _rank(ball: Ball) -> tuple[bool, float]:
    margin = ball.sigma_end.low if ball.holds else ball.margin
    return ball.holds, -math.inf if math.isnan(margin) else margin


def _refutation(bounds: LocalBounds, radius: float | None) -> Assumption | None:
    """Why zero loss is out of reach: equal inputs, or too far away."""
    if bounds.conflict is not None or radius is None:
        return bounds.conflict
    nearest = zero_distance(bounds)
    return Assumption(
        name="too far",
        statement="no parameters of zero loss are within the radius asked for",
        holds=True if nearest > radius else None,
        detail=f"none within {nearest:.6g}; asked for {radius:.6g}",
    )


def _distance_quantity(bounds: LocalBounds) -> Quantity:
    return Quantity.lower(
        "zero_distance",
        zero_distance(bounds),
        "distance of the nearest parameters with zero loss",
    )


def _block_premise(block: JacobianBlock) -> tuple[str, ...]:
    if block.name == "all":
        return ()
    return (f"Singular values are bounded by those for the {block.name} alone.",)


THEOREM = Theorem(
    name="flow",
    source="proven here; see `lazyjax.certify.theorems.residual`",
    certify=lambda start: flow_theorem(start.local),
)
