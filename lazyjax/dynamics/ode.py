"""Ordinary differential equations, by diffrax, from one asked-for time to the next."""

import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from lazyjax._brief import brief
from lazyjax._checks import (
    check_choice,
    check_nonnegative,
    check_positive,
    known_numbers,
)
from lazyjax.typing import AnyArray

# What slows a flow with momentum: a constant, or Nesterov's 3 / time.
FrictionLaw: TypeAlias = float | Float[AnyArray, ""] | Literal["nesterov"]

SOLVED, TOO_MANY_STEPS, FAILED, NOT_FINITE = range(4)

EXPLANATIONS = {
    SOLVED: "The solution met its tolerances at all times.",
    TOO_MANY_STEPS: (
        "The solver took `max_steps` steps and had not arrived: raise `max_steps`, "
        "loosen `rtol` and `atol`, ask for earlier times, or pass an implicit `solver`."
    ),
    FAILED: "The solver failed: its step could not be made small enough.",
    NOT_FINITE: "The loss or its gradient is not finite.",
}


class Tolerances(NamedTuple):
    """How accurate each step is."""

    rtol: Float[Array, ""]  # of a step's error, relative to the state
    atol: Float[Array, ""]  # absolute


class Friction(NamedTuple):
    r"""Friction $\gamma(t) = c + r / t$ of a flow with momentum."""

    constant: Float[Array, ""]  # the $c$
    over_time: Float[Array, ""]  # the $r$


class Solution(NamedTuple):
    """States at the times that were asked for, seen by an observer."""

    seen: PyTree[Any]  # what was seen at each time, stacked
    last: PyTree  # state at the last time; not finite if it was not reached
    is_solved: Bool[Array, "num_times"]  # whether each time was reached
    status: Int[Array, ""]  # a key of `EXPLANATIONS`
    num_steps: Int[Array, ""]  # steps that the solver took, rejected ones included


class SolverStatus:
    """A result with a `status`, in words."""

    status: Int[Array, "*batch"]

    def explain(self) -> str:
        """How the solution ended, and what can be done about it.

        Returns:
            One sentence for each way in which it did.
        """
        statuses = np.ravel(self.status)
        parts = []
        for status, count in zip(*np.unique(statuses, return_counts=True), strict=True):
            share = "" if count == statuses.size else f"{count} of {statuses.size}: "
            parts.append(share + EXPLANATIONS[int(status)])
        return " ".join(parts)

    def raise_if_failed(self) -> None:
        """Raise if the solution did not reach a time; not under `jax.jit`.

        Raises:
            RuntimeError: If it did not; the message is that of `explain`.
        """
        if np.any(np.asarray(self.status)):
            raise RuntimeError(self.explain())


def require_diffrax(verb: str) -> types.ModuleType:
    """The module diffrax."""
    try:
        import diffrax
    except ImportError as error:
        raise ImportError(
            f'`{verb}` needs diffrax: pip install "lazyjax[ode]".'
        ) from error
    return diffrax


def check_solver(solver: object) -> None:
    """Check that `solver` is one of diffrax, or `None`."""
    if solver is not None and not isinstance(
        solver, require_diffrax("solver").AbstractSolver
    ):
        raise TypeError(
            "`solver` must be a solver of diffrax, such as `diffrax.Kvaerno5()`; got "
            f"{brief(solver)}."
        )


def checked_times(times: object, dtype: jnp.dtype) -> Array:
    """Times as an array, checked as far as their values are known."""
    known_numbers("times", times)
    array = jnp.asarray(times, dtype)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"`times` must be one or more numbers in one dimension; got {brief(times)}."
        )
    try:
        known = np.asarray(array)
    except jax.errors.TracerArrayConversionError:
        return array
    steps = np.diff(known)
    if not (np.all(np.isfinite(known)) and known[0] >= 0 and np.all(steps > 0)):
        raise ValueError(
            "`times` must be finite and increase strictly, from 0 or later, in "
            f"{known.dtype}; got {brief(times)}."
        )
    return array


def checked_tolerances(
    rtol: float | None, atol: float | None, dtype: jnp.dtype
) -> Tolerances:
    """Tolerances, by default the root of the rounding error."""
    default = float(jnp.finfo(dtype).eps) ** 0.5
    values = {"rtol": rtol, "atol": atol}
    values = {k: default if v is None else v for k, v in values.items()}
    for name, value in values.items():
        check_positive(name, value)
        if np.ndim(value):
            raise ValueError(f"`{name}` must be one number; got {brief(value)}.")
    return Tolerances(**{k: jnp.asarray(v, dtype) for k, v in values.items()})


def checked_friction(friction: FrictionLaw | None, dtype: jnp.dtype) -> Friction | None:
    """Friction in the form that `solve` takes; `None` is a flow without momentum."""
    if friction is None:
        return None
    if isinstance(friction, str):
        check_choice("friction", friction, ["nesterov"])
        constant, over_time = 0.0, 3.0
    else:
        check_nonnegative("friction", friction, infinity_allowed=False)
        if np.ndim(friction):
            raise ValueError(f"`friction` must be one number; got {brief(friction)}.")
        constant, over_time = friction, 0.0
    return Friction(jnp.asarray(constant, dtype), jnp.asarray(over_time, dtype))


def solve(
    field: Callable[[PyTree], PyTree],
    state: PyTree,
    times: Float[Array, "num_times"],
    tolerances: Tolerances,
    inspect: Callable[[PyTree, Float[Array, ""]], PyTree[Any]],
    *,
    friction: Friction | None,
    solver: Any,
    max_steps: int,
) -> Solution:
    """Solution of `state' = field(state)` from time 0, seen by `inspect(state, time)`."""
    # With friction, of `state'' = field(state) - friction * state'`, from rest.
    #
    # Every time is the end of a step, not interpolated. The error of a step is measured
    # over the whole state: it is to be at most `atol` plus `rtol` times the state, in
    # Euclidean norm, as far as entries are of like size. After a failure, states are NaN.
    diffrax = require_diffrax("gradient_flow")
    if friction is None:
        timed_field = lambda time, state: field(state)
    else:
        timed_field = _accelerated(field, friction)
        state = state, jax.tree.map(jnp.zeros_like, state)
        inspect_position = inspect
        inspect = lambda state, time: inspect_position(state[0], time)
    size = sum(leaf.size for leaf in jax.tree.leaves(state))
    # diffrax compares the root mean square over entries: norms are larger by sqrt(size).
    controller = diffrax.PIDController(
        rtol=tolerances.rtol, atol=tolerances.atol / size**0.5
    )
    term = diffrax.ODETerm(lambda time, state, args: timed_field(time, state))
    solver = diffrax.Tsit5() if solver is None else solver

    def interval(carry: tuple, ends: tuple[Array, Array]) -> tuple:
        state, status, num_steps = carry
        result = diffrax.diffeqsolve(
            term,
            solver,
            ends[0],
            # After a failure there is nothing to solve.
            jnp.where(status == SOLVED, ends[1], ends[0]),
            None,
            state,
            saveat=diffrax.SaveAt(t1=True),
            stepsize_controller=controller,
            adjoint=diffrax.ForwardMode(),
            max_steps=max_steps,
            throw=False,
        )
        state = jax.tree.map(lambda leaf: leaf[-1], result.ys)
        new_status = jnp.where(
            result.result == diffrax.RESULTS.successful,
            SOLVED,
            jnp.where(
                result.result == diffrax.RESULTS.max_steps_reached,
                TOO_MANY_STEPS,
                FAILED,
            ),
        )
        new_status = jnp.where(
            _is_finite(state), new_status, jnp.maximum(new_status, FAILED)
        )
        status = jnp.where(status == SOLVED, new_status, status).astype(jnp.int32)
        is_solved = status == SOLVED
        state = jax.tree.map(lambda leaf: jnp.where(is_solved, leaf, jnp.nan), state)
        num_steps = num_steps + jnp.asarray(result.stats["num_steps"], jnp.int32)
        return (state, status, num_steps), (inspect(state, ends[1]), is_solved)

    start_is_finite = _is_finite(state) & _is_finite(timed_field(times[0] * 0, state))
    status = jnp.where(start_is_finite, SOLVED, NOT_FINITE).astype(jnp.int32)
    starts = jnp.concatenate([jnp.zeros_like(times[:1]), times[:-1]])
    carry = (state, status, jnp.zeros((), jnp.int32))
    carry, (seen, is_solved) = jax.lax.scan(interval, carry, (starts, times))
    last = carry[0] if friction is None else carry[0][0]
    return Solution(seen, last, is_solved, carry[1], carry[2])


def _accelerated(
    field: Callable[[PyTree], PyTree], friction: Friction
) -> Callable[[Array, PyTree], PyTree]:
    """Field of position and velocity, whose acceleration `field` is."""
    constant, over_time = friction

    def accelerated(time: Array, state: PyTree) -> PyTree:
        position, velocity = state
        # At time 0 the velocity over the time is the acceleration there.
        is_start = time <= 0
        rate = constant + jnp.where(
            is_start, 0, over_time / jnp.where(is_start, 1, time)
        )
        share = jnp.where(is_start, 1 / (1 + over_time), 1)
        accelerations = jax.tree.map(
            lambda force, speed: share * force - rate * speed, field(position), velocity
        )
        return velocity, accelerations

    return accelerated


def _is_finite(tree: PyTree) -> Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
