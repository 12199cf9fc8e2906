r"""Gradient descent, computed until what bounds at a point say is enough.

Descent in exact arithmetic is followed by computed iterates $\hat w_k$: if $\lVert w_k -
\hat w_k\rVert \le e_k$, then $e_{k+1} \le (\eta N + \max(1, \eta\beta^2 - 1))\, e_k +
\rho_k$, where $\beta \ge \lVert J\rVert$ and $N \ge \Lambda \lVert r\rVert$ in the ball of
radius $e_k$ around $\hat w_k$, and $\rho_k$ is what rounding did in the step. Proof:
`docs/theory/shadowing.md`.
"""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Float, Shaped

from lazyjax._checks import check_at_least, check_positive
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, interval
from lazyjax.certify.bounds.local import LocalBounds
from lazyjax.certify.bounds.program.enclosing.enclosure import UP, norm_of
from lazyjax.certify.bounds.program.start import ProgramStart, program_start, widened
from lazyjax.certify.bounds.start import Start, bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.shadowing.gradients import (
    LayersGradient,
    ProgramGradient,
    joint_norm,
    program_gradient,
)
from lazyjax.certify.shadowing.zones import Zone, distance, moved_bounds, zone_at
from lazyjax.certify.statements import Assumption, Quantity, assume_less
from lazyjax.certify.theorems.residual import descent_theorem
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params

# A certificate is tried where the residual has fallen by a factor in this range.
_LEAST_FALL, _MOST_FALL = 0.7, 0.1


def shadowed_descent(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    learning_rate: float | None = None,
    num_steps: int = 1000,
    rigor: Rigor = "proof",
) -> Certificate:
    r"""Whether gradient descent from `params` is certain to reach zero loss.

    The first steps are computed in float64, with a bound of how far descent in exact
    arithmetic may be from them, until `gradient_descent` is certified for all points
    that near. Networks too narrow for bounds at the start are certified so.

    Args:
        network: As for `gradient_descent`; smooth near the iterates.
        params: The start.
        x: Training inputs.
        y: Training targets.
        learning_rate: $\eta$, of $w \leftarrow w - \eta \nabla L(w)$, $L =
            \tfrac12\lVert f - y\rVert^2$; `None` means $1 / \lVert J\rVert^2$.
        num_steps: Number of steps to compute at most.
        rigor: As for `gradient_descent`.

    Returns:
        The certificate, of the whole run. Its quantity "num_computed" is the number of
        steps that were computed, "off" the distance of descent in exact arithmetic
        from the last; what else is said of "there" is said of that point.

    Raises:
        ValueError: If no bounds are known of the network, or arguments do not fit.
        TypeError: If an array is not floating point.

    Cost: Of each step, one gradient, equation by equation. Bounds, as of
        `gradient_descent`, about ten times, and again where the last end.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(width=16, activation="softplus", w_std=2.0)
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> args = (net, params, data.x_train, data.y_train)
        >>> gradient_descent(*args).verdict.name, shadowed_descent(*args).verdict.name
        ('INCONCLUSIVE', 'CERTIFIED')

    References:
        Proof: `docs/theory/shadowing.md`.
    """
    check_at_least("num_steps", num_steps, 0)
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    start = bounds_at(network, params, x, y, rigor=rigor)
    apply_fn = network.apply if isinstance(network, Network) else network
    if not start.smooth.holds:
        start = program_start(apply_fn, params, x, y, rigor)
    gradient = (
        LayersGradient(start) if isinstance(start, Start) else program_gradient(start)
    )
    step = learning_rate
    if step is None:
        # Of a constant output, any will do.
        step = 1 / (start.local.jacobian_norm**2 or 1.0)
    return _Run(network, start, gradient, float(step)).certificate(num_steps)


@dataclasses.dataclass
class _Followed:
    """How far a run was followed.

    Attributes:
        leaves: The last computed point.
        off: Upper bound of the distance of the exact one; infinite if it was lost.
        num_steps: Number of steps so far.
        reach: Upper bound of the distance of all exact points from the start.
        rate: Lower bound of the rate of the loss up to here.
    """

    leaves: list[np.ndarray]
    off: float = 0.0
    num_steps: int = 0
    reach: float = 0.0
    rate: float = 1.0


class _Run:
    """Descent from one start."""

    def __init__(
        self,
        network: Network | ApplyFn,
        start: Start | ProgramStart,
        gradient: LayersGradient | ProgramGradient,
        step: float,
    ) -> None:
        self.network, self.start, self.step = network, start, step
        self.gradient = gradient
        self.first = jax.tree.leaves(jax.tree.map(widened, start.params))

    def certificate(self, num_steps: int) -> Certificate:
        """The certificate of the first point from which there is one, or the last tried."""
        at = _Followed(list(self.first))
        bounds = self.start.local
        tail = self._tail(bounds, 0.0)
        tried, zone = bounds.residual.high, zone_at(at.leaves, bounds)
        while not tail.is_certified and at.num_steps < num_steps:
            zone = self._zone_for(at, zone)
            residual = self._advance(at, zone)
            if not at.off < math.inf:
                break
            fall = 1 / max(1 - tail.margin, 1e-9)
            is_last = at.num_steps == num_steps
            if residual <= tried * min(max(fall, _MOST_FALL), _LEAST_FALL) or is_last:
                bounds = self._bounds(at.leaves)
                tried, tail = residual, self._tail(bounds, at.off)
                zone = zone_at(at.leaves, bounds)
        return self._whole(at, tail)

    def _tail(self, bounds: LocalBounds, off: float) -> Certificate:
        """The certificate from all points within a distance of one."""
        with np.errstate(all="ignore"):
            moved = moved_bounds(bounds, off) if off else bounds
            return descent_theorem(moved, learning_rate=self.step)

    def _bounds(self, leaves: list[np.ndarray]) -> LocalBounds:
        start = self.start
        structure = jax.tree.structure(start.params)
        params = structure.unflatten(leaves)
        y, rigor = start.targets, start.rigor
        if isinstance(start, ProgramStart):
            return program_start(start.apply_fn, params, start.x, y, rigor).local
        x = np.asarray(start.x, np.float64)
        return bounds_at(self.network, params, x, y, rigor=rigor).local

    def _zone_for(self, at: _Followed, zone: Zone) -> Zone:
        """The last zone, or one around the point if that does not reach so far."""
        if zone.holds(at.leaves, at.off):
            return zone
        return zone_at(at.leaves, self._bounds(at.leaves))

    def _advance(self, at: _Followed, zone: Zone) -> float:
        """Take one step.

        Returns:
            Upper bound of the residual before it.
        """
        here = self.gradient.at(at.leaves)
        if not zone.holds(at.leaves, at.off):
            at.off = math.inf
            return here.residual
        step, beta = self.step, zone.jacobian_norm
        after, sizes = list(at.leaves), []
        for number, slope in zip(self.gradient.trained, here.leaves, strict=True):
            after[number] = at.leaves[number] - step * slope
            sizes.append(norm_of(after[number]) + 2 * step * norm_of(slope))
        rounded = UNIT_ROUNDOFF * joint_norm(sizes)
        residual = (here.residual + beta * at.off) * UP
        bend = step * zone.lipschitz * residual * UP
        factor = (bend + max(1.0, step * beta * beta * UP - 1)) * UP
        self._record(at, residual)
        off = (factor * at.off + step * here.error + rounded) * UP
        at.leaves, at.off = after, off if off < math.inf else math.inf
        at.num_steps += 1
        at.reach = max(at.reach, distance(after, self.first) + at.off)
        return here.residual

    def _record(self, at: _Followed, residual: float) -> None:
        """Lower the rate to what the loss at this step allows."""
        if at.num_steps:
            ratio = interval(residual) / interval(self.start.local.residual.low)
            per_step = (2 * ratio.log() / at.num_steps).expm1()
            at.rate = min(at.rate, -per_step.high)

    def _whole(self, at: _Followed, tail: Certificate) -> Certificate:
        """The certificate of computed steps and what follows them."""
        start = self.start.local
        self._record(at, tail["residual"])
        lost = "descent in exact arithmetic is within a known distance"
        falls = "the loss at each computed step is below that at the start"
        assumptions = [assume_less("followed", lost, at.off, math.inf)]
        if at.num_steps:
            falling = Assumption(
                name="falls", statement=falls, holds=True if at.rate > 0 else None
            )
            assumptions.append(falling)
        rate = min(at.rate, tail.rate or 0.0) if at.num_steps else tail.rate
        radius = at.reach + at.off + (tail.radius or 0.0)
        told = [q for q in tail.quantities if q.name != "zero_distance"]
        return dataclasses.replace(
            tail,
            theorem="gradient descent, of which the first steps are computed",
            assumptions=(*assumptions, *tail.assumptions),
            quantities=(
                Quantity.exact("num_computed", at.num_steps, "steps computed"),
                Quantity.upper("off", at.off, "distance of exact from computed"),
                Quantity.upper("residual_before", start.residual.high, "at the start"),
                *(_of_there(quantity) for quantity in told),
            ),
            rate=rate,
            radius=radius * UP,
            refutation=self.start.conflict,
        )


def _of_there(quantity: Quantity) -> Quantity:
    """A quantity of the point from which bounds are enough, which is no start."""
    meaning = quantity.meaning.replace("at the start", "there")
    return dataclasses.replace(quantity, meaning=meaning)
