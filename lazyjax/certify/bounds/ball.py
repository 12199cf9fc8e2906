r"""The ball in which a run stays, from bounds at its centre.

If the smallest singular value is at least $\sigma - \Lambda s$ after a path of length
$s$, and along the path a nonnegative quantity that starts at $C$ falls by at least that
much per length, then the path is no longer than the smaller root of
$\sigma s - \Lambda s^2 / 2 = C$, provided that $2 \Lambda C < \sigma^2$ and the root is
at most the radius $\rho$ up to which $\Lambda$ is valid.
"""

import dataclasses
import math

import numpy as np

from lazyjax.certify.arithmetic.rounding import Interval, interval
from lazyjax.certify.bounds.local import Lipschitz, LocalBounds
from lazyjax.certify.certificate import Assumption, Quantity, below

# Radii are larger than roots in plain floats by this much, which rounding is within.
_SLACK = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ball:
    r"""A ball that a path does not leave, or the attempt at one.

    Attributes:
        sigma: Lower bound $\sigma$ at the centre.
        demand: Upper bound of $C$.
        radius: $\rho$.
        lipschitz: Upper bound $\Lambda$ in the ball.
        condition: $h = \Lambda C / \sigma^2$.
        length: $s^* = 2 C / (\sigma + \mu)$, of the path.
        sigma_end: $\mu = (\sigma^2 - 2 \Lambda C)^{1/2} = \sigma - \Lambda s^*$.
    """

    sigma: float
    demand: float
    radius: float
    lipschitz: float
    condition: Interval
    length: Interval
    sigma_end: Interval

    @property
    def holds(self) -> bool:
        """Whether the path stays in the ball."""
        return bool(
            self.sigma > 0
            and self.demand >= 0
            and self.condition.high < 0.5
            and self.sigma_end.low > 0
            and self.length.high <= self.radius < math.inf
        )

    @property
    def margin(self) -> float:
        """Margin of the condition that $h < 1/2$."""
        return (1 - 2 * self.condition).low


def smallest_ball(sigma: float, demand: float, lipschitz: Lipschitz) -> Ball:
    r"""The ball of smallest radius, between $C/\sigma$ and $2C/\sigma$, in effect.

    No root is outside of that range. As roots grow with the radius, replacing one by
    the other goes up to the smallest radius that its root fits in, and down to it.

    Args:
        sigma: Lower bound of the smallest singular value at the centre.
        demand: Upper bound of $C$.
        lipschitz: Constant as a nondecreasing function of the radius.

    Returns:
        The ball; if none holds, that of the largest radius, whose margin is negative.
    """
    shortest = demand / sigma if sigma > 0 else math.inf
    radius, found = shortest * (1 + _SLACK), shortest * (2 + _SLACK)
    for _ in range(40):
        root = _root(sigma, demand, lipschitz, radius)
        if math.isnan(root):
            break
        if root * (1 + _SLACK / 2) <= radius:
            found = radius
            break
        # As far again, which is beyond the next roots if they come nearer by halves.
        farther = root + (root - radius) + _SLACK * root
        is_too_far = math.isnan(_root(sigma, demand, lipschitz, farther))
        radius = root * (1 + _SLACK) if is_too_far else farther
    for _ in range(8):
        root = _root(sigma, demand, lipschitz, found)
        if root * (1 + _SLACK) < found:
            found = root * (1 + _SLACK)
    return _ball(sigma, demand, lipschitz, found)


def _root(sigma: float, demand: float, lipschitz: Lipschitz, radius: float) -> float:
    """Length of the path for the constant at `radius`, in plain floats; NaN if none."""
    if not math.isfinite(radius):
        return math.nan
    square = sigma * sigma - 2 * lipschitz(radius) * demand
    return 2 * demand / (sigma + math.sqrt(square)) if square > 0 else math.nan


def _ball(sigma: float, demand: float, lipschitz: Lipschitz, radius: float) -> Ball:
    radius = max(radius, 1e-300)
    constant = lipschitz(radius) if math.isfinite(radius) else math.inf
    squared = interval(sigma) * sigma
    product = 2 * (interval(constant) * demand)
    sigma_end = (squared - product).sqrt()
    return Ball(
        sigma=sigma,
        demand=demand,
        radius=radius,
        lipschitz=constant,
        condition=product / 2 / squared,
        length=2 * interval(demand) / (interval(sigma) + sigma_end),
        sigma_end=sigma_end,
    )


def check_radius(radius: float | None) -> None:
    """Check that a radius that is asked for, if one is, is positive.

    Raises:
        ValueError: If it is not.
    """
    if radius is not None and not radius > 0:
        raise ValueError(f"`radius` must be positive; got {radius!r}.")


def ball_assumptions(ball: Ball, demand: str) -> tuple[Assumption, ...]:
    """The assumptions of the ball, with `demand` as the formula of $C$."""
    fits = math.isfinite(ball.radius) and ball.length.high <= ball.radius
    return (
        below("surjective", "0 < sigma_min(J0)", 0.0, ball.sigma),
        below(
            "small",
            f"h = Lip(J) {demand} / sigma_min(J0)^2 < 1/2",
            ball.condition.high,
            0.5,
        ),
        Assumption(
            name="inside",
            statement="the path is no longer than the radius up to which Lip(J) is valid",
            holds=True if fits else None,
            detail=f"{ball.length.high:.6g} against {ball.radius:.6g}",
        ),
    )


def start_quantities(
    residual: Interval, sigma_min: float, jacobian_norm: float
) -> tuple[Quantity, ...]:
    """What is known at the start."""
    return (
        Quantity(
            name="residual",
            value=residual.high,
            bound="upper",
            meaning="|f - y| at the start",
        ),
        Quantity(
            name="sigma_min",
            value=sigma_min,
            bound="lower",
            meaning="smallest singular value of the Jacobian at the start",
        ),
        Quantity(
            name="jacobian_norm",
            value=jacobian_norm,
            bound="upper",
            meaning="largest singular value of the Jacobian at the start",
        ),
    )


def ball_quantities(ball: Ball, bounds: LocalBounds) -> tuple[Quantity, ...]:
    """Numbers of the ball and of what it was made from."""
    return (
        *start_quantities(bounds.residual, ball.sigma, bounds.jacobian_norm),
        Quantity(
            name="lipschitz",
            value=ball.lipschitz,
            bound="upper",
            meaning="Lipschitz constant of the Jacobian in the ball",
        ),
        Quantity(
            name="h",
            value=_or_infinity(ball.condition.high),
            bound="upper",
            meaning="condition number, to be below 1/2",
        ),
        Quantity(
            name="path_length",
            value=_or_infinity(ball.length.high),
            bound="upper",
            meaning="length of the whole path",
        ),
        Quantity(
            name="sigma_min_end",
            value=ball.sigma_end.low if ball.sigma_end.low > 0 else 0.0,
            bound="lower",
            meaning="smallest singular value of the Jacobian along the path",
        ),
        Quantity(
            name="ball_radius",
            value=ball.radius,
            bound="exact",
            meaning="radius up to which the Lipschitz constant is valid",
        ),
    )


def _or_infinity(upper: float) -> float:
    """An upper bound; infinity if there is none."""
    return math.inf if math.isnan(upper) else upper


def zero_distance(bounds: LocalBounds) -> float:
    r"""Lower bound of the distance to the nearest parameters with zero loss.

    Up to a radius $\rho$ the residual falls by at most
    $\lVert J\rVert s + \Lambda(\rho) s^2 / 2$ within distance $s$.

    Args:
        bounds: At the start.

    Returns:
        The larger of such bounds over several radii.
    """
    residual, norm = bounds.residual.low, bounds.jacobian_norm
    if not residual > 0:
        return 0.0

    def root(radius: float) -> Interval:
        constant = bounds.lipschitz(radius)
        inner = interval(norm) * norm + 2 * interval(constant) * residual
        return 2 * interval(residual) / (interval(norm) + inner.sqrt())

    farthest = root(0.0).low
    if not farthest < math.inf:  # a constant output, or no number at all
        return 0.0
    found = 0.0
    for radius in farthest * np.linspace(0.05, 1, 20):
        reached = root(float(radius)).low
        if math.isfinite(reached):
            found = max(found, min(reached, float(radius)))
    return found
