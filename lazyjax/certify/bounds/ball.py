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

from lazyjax._brief import brief
from lazyjax.certify.arithmetic.rounding import Interval, interval
from lazyjax.certify.bounds.local import Lipschitz, LocalBounds
from lazyjax.certify.statements import Assumption, Quantity, assume_less

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
        raise ValueError(f"`radius` must be positive; got {brief(radius)}.")


def within(length: float, radius: float | None) -> tuple[Assumption, ...]:
    """The assumption that a path is within the distance asked for, if one was."""
    if radius is None:
        return ()
    statement = "the path is shorter than the radius asked for"
    return (assume_less("within", statement, length, radius),)


def margin_within(margin: float, length: float, radius: float | None) -> float:
    """A margin, or that of the distance asked for if it is smaller."""
    return margin if radius is None else min(margin, 1 - length / radius)


def ball_assumptions(ball: Ball, demand: str) -> tuple[Assumption, ...]:
    """The assumptions of the ball, with `demand` as the formula of $C$."""
    fits = math.isfinite(ball.radius) and ball.length.high <= ball.radius
    return (
        assume_less("surjective", "0 < sigma_min(J0)", 0.0, ball.sigma),
        assume_less(
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
    singular_value = "singular value of the Jacobian at the start"
    return (
        Quantity.upper("residual", residual.high, "|f - y| at the start"),
        Quantity.lower("sigma_min", sigma_min, f"smallest {singular_value}"),
        Quantity.upper("jacobian_norm", jacobian_norm, f"largest {singular_value}"),
    )


def ball_quantities(ball: Ball, bounds: LocalBounds) -> tuple[Quantity, ...]:
    """Numbers of the ball and of what it was made from."""
    return (
        *start_quantities(bounds.residual, ball.sigma, bounds.jacobian_norm),
        Quantity.upper(
            "lipschitz",
            ball.lipschitz,
            "Lipschitz constant of the Jacobian in the ball",
        ),
        Quantity.upper("h", ball.condition, "condition number, to be below 1/2"),
        Quantity.upper("path_length", ball.length, "length of the whole path"),
        Quantity.lower(
            "sigma_min_end",
            ball.sigma_end.low if ball.sigma_end.low > 0 else 0.0,
            "smallest singular value of the Jacobian along the path",
        ),
        Quantity.exact(
            "ball_radius",
            ball.radius,
            "radius up to which the Lipschitz constant is valid",
        ),
    )


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
