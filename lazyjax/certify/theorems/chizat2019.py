r"""Laziness after Chizat, Oyallon and Bach (2019): criterion, horizon and output scale.

For the square loss and $f = \alpha h$, training is lazy if

$$\kappa = \lVert f(w_0) - y\rVert \, \lVert D^2 f(w_0)\rVert / \lVert Df(w_0)\rVert^2$$

is much smaller than 1; it falls like $1/\alpha$. With the smallest singular value in place
of the norm it is the number $h = \kappa\,\mathrm{cond}^2$ that certifies gradient flow
below $\tfrac12$. All losses here are $\tfrac12\lVert f - y\rVert^2$, without their factor
$\alpha^{-2}$: times are $\alpha^{-2}$ of theirs, and the statements below are in terms of
$f$, so that $\alpha$ is in its bounds.

**Finite horizon** (their Theorem 2.3, proven here). With $\lVert J\rVert \le \beta$ and
$J$ $\Lambda$-Lipschitz in a ball, the flow moves by at most $T\beta\lVert r_0\rVert$ up to
time $T$, so kernels by $2\beta\Lambda$ times that. The gap $e$ of outputs to the
linearized model obeys $e' = -K_t e - (K_t - K_0) \bar r_t$ with $K_t \succeq 0$, so that
$\lVert e(T)\rVert \le T^2\beta^2\Lambda\lVert r_0\rVert^2$ while the flow is in the ball.

**Output scale.** Their Theorem 2.4 asks for $\lVert h(w_0)\rVert \le C_0 = \sigma^3 /
(32 \lVert Dh\rVert \Lambda)$ and $\alpha > \lVert y\rVert/C_0$, where $\Lambda$ is valid
in the ball of radius $\sigma/(2\Lambda)$. Then $h \le \sigma/(16\lVert Dh\rVert)$, so that
the threshold of gradient flow, $\alpha > 2\Lambda\lVert\alpha h(w_0) - y\rVert/\sigma^2$,
is lower by a factor of 8 or more.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lazyjax._brief import brief
from lazyjax._checks import check_positive
from lazyjax._renamed import deprecated_names
from lazyjax.certify.arithmetic.rounding import Interval, interval
from lazyjax.certify.bounds.ball import smallest_ball
from lazyjax.certify.bounds.local import Lipschitz, LocalBounds
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Assumption, Quantity, assume_less
from lazyjax.certify.theorems.residual import flow_theorem
from lazyjax.files.results import Storable

_STEPS = tuple(np.geomspace(1.0, 8.0, 60))


def lazy_theorem(bounds: LocalBounds, *, tolerance: float = 0.1) -> Certificate:
    r"""Whether gradient flow is certain to stay close to the linearized model for ever.

    Args:
        bounds: At the start.
        tolerance: Largest distance of outputs to those of the linearized model, at any
            time, relative to the residual at the start.

    Returns:
        The certificate. Quantities are those of `lazyjax.certify.theorems.flow_theorem`,
        and "kappa", with the Lipschitz constant of $J$ at the start for
        $\lVert D^2 f\rVert$.

    Raises:
        ValueError: If `tolerance` is not positive.

    Example:
        >>> from lazyjax.certify import LocalBounds
        >>> bounds = LocalBounds.from_constants(
        ...     1.0, sigma_min=1.0, jacobian_norm=2.0, lipschitz=0.01
        ... )
        >>> certificate = lazy_theorem(bounds)
        >>> certificate.verdict.name, round(certificate["kappa"], 4)
        ('CERTIFIED', 0.0025)

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956 (the criterion as quoted by
        others; the bound of the gap is ours).
    """
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive; got {brief(tolerance)}.")
    flow = flow_theorem(bounds)
    limit = (interval(tolerance) * bounds.residual.low).low
    gap = flow["linearization_gap"]
    close = assume_less(
        "close", "gap to the linearized model < tolerance |r0|", gap, limit
    )
    relative = 1 - gap / limit if limit > 0 and math.isfinite(gap) else -math.inf
    kappa = math.inf
    if bounds.jacobian_norm > 0:
        bent = bounds.residual.high * bounds.lipschitz(0.0)
        kappa = bent / bounds.jacobian_norm**2
    return dataclasses.replace(
        flow,
        theorem="laziness after Chizat, Oyallon and Bach (2019)",
        conclusion="gradient flow reaches zero loss, and its outputs are within the "
        "tolerance of those of the linearized model at all times",
        assumptions=(*flow.assumptions, close),
        margin=min(flow.margin, relative),
        quantities=(
            *flow.quantities,
            Quantity.estimate(
                "kappa",
                kappa if math.isfinite(kappa) else math.inf,
                "criterion of laziness, with Lip(J) for the second derivative",
            ),
        ),
    )


def horizon_theorem(bounds: LocalBounds, time: float) -> Certificate:
    r"""How close gradient flow stays to the linearized model up to a time.

    It needs no positive singular value, and says nothing of zero loss.

    Args:
        bounds: At the start.
        time: The horizon $T$, of gradient flow on $\tfrac12\lVert f - y\rVert^2$.

    Returns:
        The certificate; its quantity "linearization_gap" is
        $T^2\beta^2\Lambda\lVert r_0\rVert^2$, and its radius $T\beta\lVert r_0\rVert$.

    Raises:
        ValueError: If `time` is not positive and finite.

    Example:
        >>> from lazyjax.certify import LocalBounds
        >>> bounds = LocalBounds.from_constants(
        ...     1.0, sigma_min=0.0, jacobian_norm=2.0, lipschitz=0.01
        ... )
        >>> certificate = horizon_theorem(bounds, 0.5)
        >>> certificate.verdict.name, round(certificate["linearization_gap"], 3)
        ('CERTIFIED', 0.01)

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956, Theorem 2.3 (statement from
        memory, proven here).
    """
    check_positive("time", time)
    residual = bounds.residual.high
    shortest = time * bounds.jacobian_norm * residual
    radius = 0.0
    constant = beta = moved = Interval(math.nan, math.nan)
    # No radius below the shortest will do; the constant may need more of it.
    for step in _STEPS:
        radius = max(shortest * float(step) * (1 + 1e-9), 1e-300)
        constant = interval(bounds.lipschitz(radius))
        beta = interval(bounds.jacobian_norm) + constant * radius
        moved = time * beta * residual
        if moved.high <= radius:
            break
    gap = moved * moved * constant
    return Certificate(
        theorem="finite horizon of Chizat, Oyallon and Bach (2019)",
        conclusion="up to the horizon, gradient flow stays within the radius, and its "
        "outputs within the gap of those of the linearized model",
        assumptions=(
            Assumption(
                name="inside",
                statement="T |J| |r0| is at most the radius up to which Lip(J) is valid",
                holds=True if moved.high <= radius else None,
                detail=f"{moved.high:.6g} against {radius:.6g}",
            ),
        ),
        # An inequality that is met by choice of the radius: far from failing.
        margin=1.0 if moved.high <= radius else 1 - moved.high / radius,
        quantities=(
            Quantity.exact("time", time, "horizon"),
            Quantity.upper("residual", residual),
            Quantity.upper(
                "jacobian_norm",
                beta,
                "largest singular value of the Jacobian in the ball",
            ),
            Quantity.upper(
                "lipschitz", constant, "Lipschitz constant of the Jacobian in the ball"
            ),
            Quantity.upper(
                "linearization_gap",
                gap,
                "distance of outputs from those of the linearized model",
            ),
        ),
        radius=moved.high,
        rigor=bounds.rigor,
        premises=bounds.premises,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scales(Storable):
    r"""Output scales $\alpha$ above which $\alpha h$ is certain to train to zero loss.

    Attributes:
        theirs: $\lVert y\rVert / C_0$; infinite if $\lVert h(w_0)\rVert > C_0$.
        sharper: Threshold of the certificate of gradient flow; infinite likewise.
        largest_output: $C_0$, the largest $\lVert h(w_0)\rVert$ of their theorem.
        output_norm: Upper bound of $\lVert h(w_0)\rVert$.
    """

    theirs: float
    sharper: float
    largest_output: float
    output_norm: float


def scales(bounds: LocalBounds, target_norm: float) -> Scales:
    r"""Thresholds of the output scale.

    Args:
        bounds: At the start, of $h$ and targets of zero: its residual is $h(w_0)$.
        target_norm: Upper bound of $\lVert y\rVert$.

    Returns:
        The thresholds, rounded up.

    Raises:
        ValueError: If `target_norm` is not positive and finite.

    Example:
        >>> from lazyjax.certify import LocalBounds
        >>> bounds = LocalBounds.from_constants(
        ...     0.0, sigma_min=1.0, jacobian_norm=2.0, lipschitz=0.5
        ... )
        >>> found = scales(bounds, 1.0)
        >>> round(found.theirs, 6), round(found.sharper, 6)
        (32.0, 1.0)

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956, Theorem 2.4, with M = m = 1
        for the square loss.
    """
    check_positive("target_norm", target_norm)
    output = bounds.residual.high
    constants = [(block.sigma_min, block.lipschitz) for block in bounds.blocks]
    largest_output = max(_largest_output(bounds, *pair) for pair in constants)
    theirs = math.inf
    if output <= largest_output and largest_output > 0:
        theirs = (interval(target_norm) / largest_output).high
    return Scales(
        theirs=theirs,
        sharper=min(_sharper(*pair, output, target_norm) for pair in constants),
        largest_output=largest_output,
        output_norm=output,
    )


def _largest_output(bounds: LocalBounds, sigma: float, lipschitz: Lipschitz) -> float:
    """Lower bound of their constant, with Lip valid up to sigma / (2 Lip)."""
    if not sigma > 0:
        return 0.0

    # Any radius with radius * Lip(radius) >= sigma / 2 is one: the smallest is best.
    def holds(radius: float) -> bool:
        return radius * lipschitz(radius) >= sigma / 2

    low, high = 0.0, 1.0
    for _ in range(200):
        if holds(high):
            break
        low, high = high, 2 * high
    else:
        return math.inf
    high = _bisected(holds, low, high, num_steps=80)
    lowest = interval(sigma)
    product = 32.0 * interval(bounds.jacobian_norm) * lipschitz(high)
    value = (lowest * lowest * lowest / product).low
    return value if value > 0 else 0.0


def _sharper(sigma: float, lipschitz: Lipschitz, output: float, target: float) -> float:
    r"""Smallest $\alpha$ found with $\lVert h\rVert + \lVert y\rVert/\alpha$ in reach."""

    def holds(alpha: float) -> bool:
        demand = (interval(output) + interval(target) / alpha).high
        return smallest_ball(sigma, demand, lipschitz).holds

    if not holds(1e150):
        return math.inf
    # Of binary logarithms.
    return 2.0 ** _bisected(lambda log: holds(2.0**log), -500.0, 500.0, num_steps=64)


def _bisected(
    holds: Callable[[float], bool], low: float, high: float, *, num_steps: int
) -> float:
    """A number at most `high` that holds, near the smallest one above `low`."""
    for _ in range(num_steps):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


__getattr__ = deprecated_names(
    __name__,
    {
        "Kappa": "lazyjax.laziness.Kappa",
        "estimate_kappa": "lazyjax.laziness.kappa",
    },
)
