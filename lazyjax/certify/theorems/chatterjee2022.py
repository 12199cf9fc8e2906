r"""Chatterjee's criterion (2022) that gradient flow and descent find a zero of the loss.

For a nonnegative, twice differentiable $L$ and $\alpha(r) = \inf \lVert\nabla L\rVert^2 /
L$ over the points with $L \ne 0$ of the ball of radius $r$ about the start, it asks for

$$4 L_0 < r^2 \alpha(r)\quad\text{for some } r > 0.$$

**Flow.** $\sqrt L$ falls by at least $\tfrac12\sqrt\alpha$ per length of path, so the path
is no longer than $2\sqrt{L_0/\alpha} < r$, and $L \le e^{-\alpha t} L_0$.

**Descent.** If $4 L_0 < (1-\epsilon)^2 r^2 \alpha$ and gradients differ from that at an
iterate by at most $\beta$ times the distance, on the part of the step from it that is in
the ball, a step with $\eta \le 2\epsilon/\beta$ lowers $L$ by at least
$(1-\epsilon) s\lVert\nabla L\rVert^2$ after a share $s \le \eta$ of it. So lengths add up
to $2\sqrt{L_0/\alpha}/(1-\epsilon) < r$ at most, no step leaves the ball, and $L_k \le
(1 - \delta)^k L_0$ with $\delta = (1-\epsilon)\alpha\eta$; the distance to the limit is at
most $r$ times the root of that. This needs less than the paper's theorem, which bounds
derivatives entry by entry in a ball of radius $2r$.

For $L = \tfrac12\lVert r\rVert^2$, $\alpha \ge 2\inf\sigma_{\min}(J)^2$, and $\beta =
\sup\lVert J\rVert^2 + \Lambda\lVert r_0\rVert$ will do. So the criterion says that $L$ is
$\tfrac\alpha2$-Polyak-Lojasiewicz in a ball of radius above $\sqrt{4L_0/\alpha}$. With
$\sigma_{\min}(J) \ge \sigma_0 - \Lambda r$ it asks for $h = \Lambda\lVert
r_0\rVert/\sigma_0^2 < \tfrac14$, and is half as good as
`lazyjax.certify.theorems.flow_theorem`, which lets the bound fall along the path. It is
never met where the loss has no zero in the ball, or a degenerate one only.
"""

import dataclasses
import math

import numpy as np

from lazyjax._checks import check_nonnegative, check_positive
from lazyjax.certify.arithmetic.rounding import Interval, interval, upper_or_infinity
from lazyjax.certify.bounds.local import LocalBounds
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.statements import Assumption, Quantity, assume_less
from lazyjax.certify.theorems.theorem import Theorem

# In units of the smallest radius that could do.
_GRID = tuple(1 + np.geomspace(0.01, 63.0, 64))
_EPSILONS = tuple(np.linspace(0.05, 0.95, 19))
# Relative rounding of plain floats, and more.
_SLACK = 1e-12
# A smaller radius has a better rate, so long as the criterion is not met by a hair.
_ENOUGH = 0.1

_SOURCE = "Chatterjee's criterion (2022)"


def criterion(
    loss: float | Interval,
    radius: float,
    *,
    alpha_lower: float = 0.0,
    alpha_upper: float = math.inf,
    rigor: Rigor = "float",
    premises: tuple[str, ...] = (),
) -> Certificate:
    r"""The criterion at one radius, for any loss that $\alpha$ is bounded of.

    Args:
        loss: $L_0$, or bounds of it.
        radius: $r$.
        alpha_lower: Lower bound of $\alpha(r)$; 0 if none is known.
        alpha_upper: Upper bound of $\alpha(r)$, such as the ratio at one point.
        rigor: "proof" if the bounds are proven.
        premises: What they rest on.

    Returns:
        The certificate for gradient flow: REFUTED if $4L_0 \ge r^2\alpha$ by the upper
        bound.

    Raises:
        ValueError: If `radius` is not positive, a bound is negative or NaN, or the
            bounds contradict each other.

    Example:
        >>> criterion(1.0, 3.0, alpha_lower=0.5).verdict.name
        'CERTIFIED'
        >>> criterion(1.0, 3.0, alpha_upper=0.4).verdict.name
        'REFUTED'

    References:
        Chatterjee (2022), arXiv:2203.16462 (criterion not checked against the paper's
        body; proven here).
    """
    check_positive("radius", radius)
    loss = interval(loss)
    check_nonnegative("loss", [loss.low, loss.high])
    check_nonnegative("alpha_lower", alpha_lower, infinity_allowed=False)
    check_nonnegative("alpha_upper", alpha_upper)
    if alpha_lower > alpha_upper:
        raise ValueError(
            "`alpha_lower` must be at most `alpha_upper`, as both bound one number; got "
            f"{alpha_lower!r} and {alpha_upper!r}."
        )
    needed = 4.0 * loss
    squared = interval(radius) * radius
    has, at_most = squared * alpha_lower, math.inf
    if alpha_upper < math.inf:
        at_most = (squared * alpha_upper).high
    return Certificate(
        theorem=f"{_SOURCE}, gradient flow",
        conclusion="the criterion holds at this radius, so that gradient flow converges "
        "to a zero of the loss in the ball",
        assumptions=(
            assume_less(
                "criterion", "4 L0 < r^2 alpha", upper_or_infinity(needed), has.low
            ),
        ),
        margin=_relative(needed, has),
        quantities=(
            *_criterion_quantities(loss, radius, alpha_lower),
            Quantity.upper(
                "alpha_upper",
                alpha_upper,
                "ratio |grad L|^2 / L of some point in the ball",
            ),
        ),
        dynamics="flow",
        rate=alpha_lower,
        radius=radius,
        rigor=rigor,
        refutation=_refutation(needed.low, at_most),
        premises=premises,
    )


def flow_theorem(
    bounds: LocalBounds, *, radius: float | None = None, alpha_upper: float = math.inf
) -> Certificate:
    r"""Convergence of gradient flow to zero loss, by the criterion.

    Args:
        bounds: At the start.
        radius: $r$; `None` to search: the smallest on a grid that meets the criterion
            with a margin of 0.1, or else that of the best margin.
        alpha_upper: Upper bound of $\alpha(r)$, to refute the criterion at `radius`; see
            `lazyjax.certify.adversary`.

    Returns:
        The certificate.

    Raises:
        ValueError: If `radius` is not positive, `alpha_upper` comes without it, or
            bounds contradict each other.

    Example:
        >>> from lazyjax.certify import LocalBounds
        >>> bounds = LocalBounds.from_constants(
        ...     1.0, sigma_min=1.0, jacobian_norm=2.0, lipschitz=0.2
        ... )
        >>> certificate = flow_theorem(bounds)
        >>> certificate.verdict.name, bool(1 < certificate.radius < 3)
        ('CERTIFIED', True)

    References:
        Chatterjee (2022), arXiv:2203.16462.
    """
    if radius is None and alpha_upper < math.inf:
        raise ValueError("`alpha_upper` is of one ball: give `radius` with it.")
    points = _points(bounds, radius)
    enough = [point for point in points if point.margin >= _ENOUGH]
    best = (
        min(enough, key=lambda point: point.radius)
        if enough
        else max(points, key=lambda point: point.margin)
    )
    loss = _loss(bounds)
    at_radius = best.radius if math.isfinite(best.radius) else 1.0
    found = criterion(
        loss,
        at_radius,
        alpha_lower=best.alpha,
        alpha_upper=alpha_upper,
        rigor=bounds.rigor,
        premises=bounds.premises,
    )
    return dataclasses.replace(
        found,
        quantities=(*found.quantities, *_bound_quantities(bounds, best)),
        refutation=found.refutation if bounds.conflict is None else bounds.conflict,
    )


def descent_theorem(
    bounds: LocalBounds,
    *,
    radius: float | None = None,
    learning_rate: float | None = None,
) -> Certificate:
    r"""Convergence of gradient descent to zero loss, by the criterion.

    Args:
        bounds: At the start.
        radius: $r$; `None` to search.
        learning_rate: $\eta$; `None` for the one with the best guaranteed rate.

    Returns:
        The certificate.

    Raises:
        ValueError: If an argument is not positive.

    References:
        Chatterjee (2022), arXiv:2203.16462 (the step size is ours).
    """
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    best = _best_descent(bounds, _points(bounds, radius), learning_rate)
    point = best.point
    return Certificate(
        theorem=f"{_SOURCE}, gradient descent",
        conclusion="the criterion holds at this radius, so that gradient descent with "
        "this learning rate converges to a zero of the loss in the ball",
        assumptions=(
            assume_less(
                "criterion",
                "4 L0 < (1 - epsilon)^2 r^2 alpha",
                upper_or_infinity(best.needed),
                best.has.low,
            ),
            Assumption(
                name="step",
                statement="the learning rate is at most 2 epsilon / beta",
                holds=True if 0 < best.step <= best.largest_step else None,
                detail=f"{best.step:.6g} against {best.largest_step:.6g}",
            ),
        ),
        margin=best.margin,
        quantities=(
            *_criterion_quantities(_loss(bounds), point.radius, point.alpha),
            Quantity.exact("epsilon", best.epsilon),
            Quantity.upper(
                "beta",
                best.smoothness,
                "Lipschitz constant of the gradient along a step",
            ),
            *_bound_quantities(bounds, point),
        ),
        dynamics="descent",
        rate=best.rate,
        radius=point.radius,
        step_size=best.step,
        rigor=bounds.rigor,
        refutation=bounds.conflict,
        premises=bounds.premises,
    )


@dataclasses.dataclass(frozen=True)
class _CriterionPoint:
    """The criterion at one radius, by one block of the Jacobian."""

    radius: float
    sigma: float
    lipschitz: float
    alpha: float
    margin: float


def _points(bounds: LocalBounds, radius: float | None) -> list[_CriterionPoint]:
    if radius is not None:
        check_positive("radius", radius)
    points = []
    for block in bounds.blocks:
        sigma = block.sigma_min
        radii: tuple[float, ...] = (math.inf if radius is None else radius,)
        if radius is None and sigma > 0 and bounds.residual.high > 0:
            radii = tuple(bounds.residual.high / sigma * float(s) for s in _GRID)
        for r in radii:
            constant = block.lipschitz(r) if math.isfinite(r) else math.inf
            left = interval(sigma) - interval(constant) * r
            alpha = (2.0 * (left * left)).low if left.low > 0 else 0.0
            has = interval(r) * r * alpha
            margin = _relative(4.0 * _loss(bounds), has)
            points.append(_CriterionPoint(r, sigma, constant, alpha, margin))
    return points


class _DescentAttempt:
    """One attempt at gradient descent: a radius and an epsilon."""

    def __init__(
        self,
        point: _CriterionPoint,
        epsilon: float,
        learning_rate: float | None,
        loss: Interval,
        smoothness: Interval,
    ) -> None:
        self.point, self.epsilon, self.smoothness = point, float(epsilon), smoothness
        kept = 1.0 - interval(self.epsilon)
        r = interval(point.radius)
        self.needed = 4.0 * loss
        self.has = kept * kept * (r * r) * point.alpha
        self.largest_step = (2.0 * interval(self.epsilon) / smoothness).low
        self.step = self.largest_step if learning_rate is None else learning_rate
        self.rate = (kept * point.alpha * self.step).low
        self.margin = _relative(self.needed, self.has)


def _best_descent(
    bounds: LocalBounds, points: list[_CriterionPoint], learning_rate: float | None
) -> _DescentAttempt:
    """The attempt of the best rate, or else of the best margin."""
    # Plain floats choose it, by inequalities that leave room for their rounding.
    loss = _loss(bounds)
    smoothness = [_smoothness(bounds, point.radius) for point in points]
    epsilon = np.array(_EPSILONS)[:, None]
    radius = np.array([point.radius for point in points])
    alpha = np.array([point.alpha for point in points])
    beta = np.array([upper_or_infinity(value) for value in smoothness])
    with np.errstate(all="ignore"):
        has = (1 - epsilon) ** 2 * radius**2 * alpha * (1 - _SLACK)
        largest_step = 2 * epsilon / beta * (1 - _SLACK)
        step = largest_step if learning_rate is None else learning_rate
        rate = (1 - epsilon) * alpha * step
        holds = (4 * loss.high < has) & (step <= largest_step) & np.isfinite(step)
    holds &= rate > 0
    rank = np.where(holds, rate, -math.inf) if holds.any() else np.nan_to_num(has)
    row, column = np.unravel_index(np.argmax(rank), rank.shape)
    return _DescentAttempt(
        points[column], _EPSILONS[row], learning_rate, loss, smoothness[column]
    )


def _smoothness(bounds: LocalBounds, radius: float) -> Interval:
    """Lipschitz constant of the gradient along steps in a ball; its upper end."""
    whole = interval(bounds.lipschitz(radius) if math.isfinite(radius) else math.inf)
    norm = interval(bounds.jacobian_norm) + whole * radius
    return norm * norm + whole * bounds.residual.high


def _loss(bounds: LocalBounds) -> Interval:
    loss = bounds.residual * bounds.residual / 2.0
    # No loss is negative, and what overflows is only known to be none.
    if math.isnan(loss.high):
        return Interval(0.0, math.inf)
    return Interval(max(loss.low, 0.0), loss.high)


def _relative(needed: Interval, has: Interval) -> float:
    """Margin of `needed < has`, at most 1."""
    if not has.low > 0:
        return -math.inf
    margin = (1.0 - needed / has.low).low
    return -math.inf if math.isnan(margin) else margin


def _refutation(needed: float, at_most: float) -> Assumption | None:
    if at_most == math.inf:
        return None
    return Assumption(
        name="counterexample",
        statement="4 L0 >= r^2 |grad L|^2 / L at a point in the ball",
        holds=True if needed >= at_most else None,
        detail=f"{needed:.6g} against {at_most:.6g}",
    )


def _criterion_quantities(
    loss: Interval, radius: float, alpha: float
) -> tuple[Quantity, ...]:
    return (
        Quantity.upper("loss", loss.high),
        Quantity.exact("ball_radius", radius, "r"),
        Quantity.lower("alpha", alpha, "smallest |grad L|^2 / L in the ball"),
    )


def _bound_quantities(
    bounds: LocalBounds, point: _CriterionPoint
) -> tuple[Quantity, ...]:
    return (
        Quantity.upper("residual", bounds.residual.high),
        Quantity.lower("sigma_min", point.sigma),
        Quantity.upper("lipschitz", point.lipschitz),
    )


THEOREM = Theorem(
    name="chatterjee",
    source="Chatterjee (2022), arXiv:2203.16462",
    certify=lambda start: flow_theorem(start.local),
)
