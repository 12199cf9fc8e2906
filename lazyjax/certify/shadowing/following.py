"""Runs in exact arithmetic that are followed by computed ones, up to a certificate."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from lazyjax.certify.arithmetic.rounding import interval
from lazyjax.certify.bounds.local import LocalBounds
from lazyjax.certify.bounds.program.enclosing.enclosure import UP
from lazyjax.certify.bounds.program.start import ProgramStart, program_start, widened
from lazyjax.certify.bounds.start import Start, bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.shadowing.points import LayersPoints, ProgramPoints
from lazyjax.certify.shadowing.zones import Zone, distance, moved_bounds, zone_at
from lazyjax.certify.statements import Assumption, Quantity, assume_less
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params

# A certificate is tried where the residual has fallen by a factor in this range.
_LEAST_FALL, _MOST_FALL = 0.7, 0.1


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network with data and a start, of which runs are followed.

    Attributes:
        network: The network, or function.
        start: Bounds at the start.
        points: What is computed of points on the way.
    """

    network: Network | ApplyFn
    start: Start | ProgramStart
    points: LayersPoints | ProgramPoints

    @property
    def leaves(self) -> list[np.ndarray]:
        """Leaves of the parameters at the start, in float64."""
        return jax.tree.leaves(jax.tree.map(widened, self.start.params))

    def bounds(self, leaves: list[np.ndarray]) -> LocalBounds:
        """Bounds at another point."""
        start = self.start
        params = jax.tree.structure(start.params).unflatten(leaves)
        y, rigor = start.targets, start.rigor
        if isinstance(start, ProgramStart):
            return program_start(start.apply_fn, params, start.x, y, rigor).local
        x = np.asarray(start.x, np.float64)
        return bounds_at(self.network, params, x, y, rigor=rigor).local


def problem_of(
    network: Network | ApplyFn, params: Params, x: AnyArray, y: AnyArray, rigor: Rigor
) -> Problem:
    """A network with data and a start, checked.

    Args:
        network: The network, or function.
        params: The start.
        x: Inputs.
        y: Targets.
        rigor: "proof" or "float".

    Returns:
        The problem.
    """
    start = bounds_at(network, params, x, y, rigor=rigor)
    if isinstance(start, Start) and start.smooth.holds:
        return Problem(network, start, LayersPoints(start))
    if isinstance(start, Start):
        apply_fn = network.apply if isinstance(network, Network) else network
        start = program_start(apply_fn, params, x, y, rigor)
    return Problem(network, start, ProgramPoints(start))


@dataclasses.dataclass
class Followed:
    """How far a run was followed.

    Attributes:
        leaves: The last computed point.
        off: Upper bound of the distance of the exact one; infinite if it was lost.
        num_steps: Number of steps so far.
        span: Upper bound of the time so far, or number of steps of descent.
        reach: Upper bound of the distance of all exact points from the start.
        rate: Lower bound of the rate of the loss up to here: it is at most that at the
            start times the exponential of minus rate times span.
    """

    leaves: list[np.ndarray]
    off: float = 0.0
    num_steps: int = 0
    span: float = 0.0
    reach: float = 0.0
    rate: float = math.inf


@runtime_checkable
class Dynamics(Protocol):
    """What differs between flow and descent."""

    name: str

    def tail(self, bounds: LocalBounds) -> Certificate:
        """The certificate of a run from a point on, by bounds there."""
        ...

    def advance(self, at: Followed, zone: Zone) -> float:
        """Take one step, and say how large the residual was before."""
        ...


def follow(problem: Problem, dynamics: Dynamics, num_steps: int) -> Certificate:
    """The certificate of a run, from the first point tried from which there is one.

    Args:
        problem: Where it starts.
        dynamics: How it goes on.
        num_steps: Number of steps at most.

    Returns:
        The certificate.
    """
    start = problem.start.local
    at = Followed(problem.leaves)
    tail, tried, zone = dynamics.tail(start), start.residual.high, None
    bounds = start
    while not tail.is_certified and at.num_steps < num_steps:
        if zone is None:
            zone = zone_at(at.leaves, bounds)
        elif not zone.holds(at.leaves, at.off):
            zone = zone_at(at.leaves, problem.bounds(at.leaves))
        residual = dynamics.advance(at, zone)
        fall = min(max(1 / max(1 - tail.margin, 1e-9), _MOST_FALL), _LEAST_FALL)
        is_lost = not zone.may_end_within(at.off)
        if is_lost:
            at.off = math.inf
            break
        if residual <= tried * fall or at.num_steps == num_steps:
            bounds, zone = problem.bounds(at.leaves), None
            tried = residual
            with np.errstate(all="ignore"):
                tail = dynamics.tail(moved_bounds(bounds, at.off))
    return _whole(start, at, tail, dynamics.name, problem.start.conflict)


def record_rate(at: Followed, residual: float, first: float, span: float) -> None:
    """Lower a rate to what a residual allows.

    Args:
        at: The run so far.
        residual: Upper bound of the residual.
        first: Lower bound of that at the start.
        span: Time, or number of steps, up to where it is at most that.
    """
    fall = 2 * (interval(residual) / interval(first)).log() / interval(span)
    # NaN, if nothing is known, must not be a rate.
    at.rate = min(at.rate, -fall.high if fall.high < 0 else 0.0)


def _whole(
    start: LocalBounds,
    at: Followed,
    tail: Certificate,
    name: str,
    conflict: Assumption | None,
) -> Certificate:
    """The certificate of computed steps and what follows them."""
    if not at.num_steps:
        return tail
    record_rate(at, tail["residual"], start.residual.low, at.span)
    rate = at.rate
    if name == "descent":  # of (1 - rate)^k, not of an exponential
        rate = max(-interval(-rate).expm1().high, 0.0)
    rate = min(rate, tail.rate or 0.0)
    lost = f"{name} in exact arithmetic is within a known distance of the computed"
    told = [q for q in tail.quantities if q.name != "zero_distance"]
    return dataclasses.replace(
        tail,
        theorem=f"gradient {name}, of which the first steps are computed",
        assumptions=(
            assume_less("followed", lost, at.off, math.inf),
            *tail.assumptions,
            Assumption(
                name="falls",
                statement="the loss at every computed step is below that at the start",
                holds=True if rate > 0 else None,
            ),
        ),
        quantities=(
            Quantity.exact("num_computed", float(at.num_steps), "steps computed"),
            Quantity.upper("off", at.off, "distance of the exact run from the last"),
            Quantity.upper("first_residual", start.residual.high, "at the start"),
            *(_of_there(quantity) for quantity in told),
        ),
        rate=rate,
        radius=(at.reach + at.off + (tail.radius or 0.0)) * UP,
        refutation=conflict,
    )


def _of_there(quantity: Quantity) -> Quantity:
    """A quantity of the point from which bounds are enough, which is no start."""
    words = quantity.meaning.replace("at the start", "after the computed steps")
    return dataclasses.replace(quantity, meaning=words)


def moved_to(at: Followed, first: list[np.ndarray], leaves: list[np.ndarray]) -> None:
    """Note a new computed point, whose distance from the exact one is known.

    Args:
        at: The run so far.
        first: The start.
        leaves: The point.
    """
    at.leaves = leaves
    at.num_steps += 1
    at.reach = max(at.reach, distance(leaves, first) + at.off)
