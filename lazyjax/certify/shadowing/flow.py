r"""Gradient flow, computed until bounds at a point are enough.

A step of time $\tau$ from a computed point $\hat w$ is the flow of the model linearized
there, $\hat w(t) = \hat w - J^\top q(t)$ with $q' = \hat r = V e^{-t \lambda} c$ and $q(0) =
0$. Its defect is at most $\Lambda s \lVert\hat r\rVert + \beta \lVert r - \hat r\rVert$,
where $s = \lVert \hat w(t) - \hat w\rVert$, and the exact flow leaves it no faster than
$e' \le \Lambda \lVert r\rVert e$ beside that. Proof: `docs/theory/shadowing.md`.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from lazyjax._checks import check_at_least
from lazyjax.certify.arithmetic.matrices import frobenius_upper
from lazyjax.certify.arithmetic.rounding import (
    LIBRARY_ERROR,
    UNIT_ROUNDOFF,
    gamma,
    interval,
)
from lazyjax.certify.bounds.local import LocalBounds
from lazyjax.certify.bounds.program.enclosing.enclosure import UP, norm_of
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.shadowing.following import (
    Followed,
    Problem,
    follow,
    moved_to,
    problem_of,
    record_rate,
)
from lazyjax.certify.shadowing.points import Linearization, joint_norm
from lazyjax.certify.shadowing.zones import Zone, distance
from lazyjax.certify.theorems.residual import flow_theorem
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params

# Steps are of a length of which the whole path has about this many, and a fourth of it
# if that is not enough.
_FIRST_PIECES, _MORE_PIECES = 32, 4


def shadowed_flow(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    num_steps: int = 1000,
    rigor: Rigor = "proof",
) -> Certificate:
    r"""Whether gradient flow from `params` is certain to reach zero loss.

    The beginning is computed in float64, with a bound of how far the exact flow may be
    from it, until `gradient_flow` is certified for all points that near.

    Args:
        network: As for `gradient_flow`; smooth along the path.
        params: The start.
        x: Training inputs.
        y: Training targets.
        num_steps: Number of steps to compute at most; more follow the flow closer.
        rigor: As for `gradient_flow`.

    Returns:
        The certificate, of the whole flow. Its quantity "num_computed" is the number of
        steps that were computed, "off" how far the exact flow may be from the last.

    Raises:
        ValueError: If no bounds are known of the network, or arguments do not fit.
        TypeError: If an array is not floating point.

    Cost: Of each step, a kernel, its eigenvectors, and a gradient.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(width=128, activation="softplus", w_std=2.0)
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> args = (net, params, data.x_train, data.y_train)
        >>> lazyjax.certify.gradient_flow(*args).verdict.name
        'INCONCLUSIVE'
        >>> shadowed_flow(*args).verdict.name
        'CERTIFIED'

    References:
        Proof: `docs/theory/shadowing.md`.
    """
    check_at_least("num_steps", num_steps, 0)
    problem = problem_of(network, params, x, y, rigor)
    bounds, pieces = problem.start.local, _FIRST_PIECES
    length = bounds.newton_norm
    if not length < math.inf:
        length = bounds.residual.high / (bounds.jacobian_norm or 1.0)
    while True:
        pieces = min(pieces, max(num_steps, 1))
        dynamics = _Flow(problem, 2 * length / pieces)
        found = follow(problem, dynamics, min(4 * pieces, num_steps))
        if found.is_certified or pieces >= num_steps:
            return found
        pieces *= _MORE_PIECES


class _Step(NamedTuple):
    r"""The linearized flow up to some time, with upper bounds up to then.

    Attributes:
        weights: $q$, computed, at that time.
        off: Of its error.
        length: Of $s$.
        residual: Of $\lVert\hat r\rVert$.
        integral: Of the integral of that over time.
        gap: Of how far $r$ of the linearized model is from $\hat r$.
    """

    weights: np.ndarray
    off: float
    length: float
    residual: float
    integral: float
    gap: float


class _Linear:
    """The linearized flow from one point, by computed eigenvectors of its kernel."""

    def __init__(self, here: Linearization) -> None:
        gram, residual = here.kernel.value, here.residual
        values, v = np.linalg.eigh(gram)
        r = residual.value.reshape(-1)
        # Rates may be any positive numbers: what they are off by is part of the gap.
        self.rates = np.maximum(values, 1e-12 * max(values[-1], 1e-300))
        self.c = v.T @ r
        self.v, n = v, len(v)
        size, rounded = frobenius_upper(v, UNIT_ROUNDOFF), gamma(n + 4, UNIT_ROUNDOFF)
        self.size = size
        c_norm, r_norm = norm_of(self.c), norm_of(r)
        # How far V^T V is from the identity, r from V c, and K V from V times the rates.
        self.skew = norm_of(v.T @ v - np.eye(n)) + rounded * (size * size + n)
        self.norm = math.sqrt(1 + self.skew) * UP
        self.of_start = norm_of(r - v @ self.c) + residual.error
        self.of_start += rounded * (r_norm + size * c_norm)
        gram_norm = frobenius_upper(gram, UNIT_ROUNDOFF)
        self.of_vectors = norm_of(gram @ v - v * self.rates) + here.kernel.error * size
        self.of_vectors += rounded * size * (gram_norm + float(self.rates[-1]))

    def at(self, time: float) -> _Step:
        """The flow up to a time."""
        decay = -np.expm1(-self.rates * time)
        own = LIBRARY_ERROR + 8 * UNIT_ROUNDOFF
        a = decay / self.rates * self.c
        a_norm = norm_of(a) * (1 + own) * UP
        square = float(np.sum(self.rates * a * a)) * (1 + 2 * own) * UP
        square += self.skew * a_norm * norm_of(self.rates * a) * (1 + own) * UP
        square += self.norm * self.of_vectors * a_norm**2 * UP
        rest = -np.expm1(-2 * self.rates * time) / (2 * self.rates) * self.c**2
        integral = math.sqrt(time * float(np.sum(rest))) * self.norm * (1 + own)
        rounded = (own + gamma(len(a) + 2, UNIT_ROUNDOFF)) * self.size
        return _Step(
            weights=self.v @ a,
            off=rounded * a_norm * UP,
            length=math.sqrt(square) * UP,
            residual=self.norm * norm_of(self.c) * UP,
            integral=integral * UP,
            gap=(self.of_start + self.of_vectors * a_norm) * UP,
        )


class _Flow:
    """Steps of gradient flow, of about one length."""

    name = "flow"

    def __init__(self, problem: Problem, length: float) -> None:
        self.length, self.points = length, problem.points
        self.first, self.bounds = problem.leaves, problem.start.local

    def tail(self, bounds: LocalBounds) -> Certificate:
        """The certificate of flow from a point on."""
        return flow_theorem(bounds)

    def advance(self, at: Followed, zone: Zone) -> float:
        """Take one step.

        Args:
            at: The run so far.
            zone: A ball; nothing is known if it does not hold the step.

        Returns:
            Upper bound of the residual before the step.
        """
        here = self.points.linearized(at.leaves)
        residual = here.residual.norm.high
        if not np.all(np.isfinite(here.kernel.value)) or not residual < math.inf:
            at.off = math.inf
            return residual
        with np.errstate(all="ignore"):
            return self._advance(at, zone, here)

    def _advance(self, at: Followed, zone: Zone, here: Linearization) -> float:
        linear = _Linear(here)
        room = (zone.radius - distance(at.leaves, zone.leaves)) / 4
        time = _time_of(linear, min(self.length, room))
        step = linear.at(time)
        before = (here.residual.norm.high + zone.jacobian_norm * at.off) * UP
        bound = _tube(zone, step, at.off, time)
        around = distance(at.leaves, zone.leaves) + step.length + bound
        if not around <= zone.radius:
            at.off = math.inf
            return before
        parts, error = here.pull(step.weights)
        after, sizes = list(at.leaves), []
        for number, part in zip(self.points.trained, parts, strict=True):
            after[number] = at.leaves[number] - part
            sizes.append(norm_of(after[number]))
        missed = error + zone.jacobian_norm * step.off
        missed += UNIT_ROUNDOFF * joint_norm(sizes)
        # On the way the exact flow is in a tube around the computed one.
        way = distance(at.leaves, self.first) + step.length + bound
        at.reach = max(at.reach, way * UP)
        self._record(at, before, way, time)
        at.span = (at.span + time) * UP
        at.off = (bound + missed) * UP
        moved_to(at, self.first, after)
        return before

    def _record(self, at: Followed, before: float, way: float, time: float) -> None:
        """Lower the rate to what the loss up to the end of a step allows."""
        if at.num_steps:  # it never rises
            until = (at.span + time) * UP
            record_rate(at, before, self.bounds.residual.low, until)
            return
        block = self.bounds.blocks[0]
        sigma = (block.sigma_min - block.lipschitz(way) * way * UP) / UP
        at.rate = 2 * sigma * sigma / UP if sigma > 0 else 0.0


def _tube(zone: Zone, step: _Step, off: float, time: float) -> float:
    """Distance of the exact flow from a step, if it and the step are in the zone."""
    constant, beta = zone.lipschitz, zone.jacobian_norm
    length = step.length
    gap = step.gap + constant * length**2 / 2
    defect = constant * length * step.integral + beta * time * gap
    start = (off + defect) * UP
    widest = 2 * start
    exponent = constant * (step.integral + time * (gap + beta * widest)) * UP
    growth = interval(exponent).expm1().high + 1
    return start * growth * UP if growth < 2 else math.inf


def _time_of(linear: _Linear, length: float) -> float:
    """The longest time in which the path is about as long, within what decays."""
    low, high = 0.0, 2 / float(linear.rates[0])
    if linear.at(high).length <= length:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        if linear.at(middle).length <= length:
            low = middle
        else:
            high = middle
    return low
