r"""Gradient flow, the ordinary differential equation that small steps tend to."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from lazyjax._checks import check_at_least
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.ode import (
    Friction,
    FrictionLaw,
    SolverStatus,
    Tolerances,
    check_solver,
    checked_friction,
    checked_times,
    checked_tolerances,
    require_diffrax,
    solve,
)
from lazyjax.dynamics.problem import checked_problem, named_observers
from lazyjax.dynamics.snapshot import Observer, Snapshot
from lazyjax.files.results import Storable
from lazyjax.files.tables import LabelledArrays, Tabular, observed, on_host, run_axes
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.progress import TIME, Listener, Progress, program_listener, tell
from lazyjax.trees import tree_add
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Params, Targets


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(SolverStatus, Tabular, Storable):
    """What came of gradient flow; under `jax.vmap`, every array has the mapped axes first.

    Where the solution was not reached it is NaN, and `is_solved` says so.

    Attributes:
        params: Parameters at the last time.
        times: Times that were asked for.
        loss: Loss at each.
        observations: What each observer saw, by name, stacked along the times.
        is_solved: Whether the solution reached each time within its tolerances.
        status: 0 if it reached all of them; else see `explain`.
        num_steps: Steps that the solver took, rejected ones included.
    """

    params: Params
    times: Float[Array, "*batch num_times"]
    loss: Float[Array, "*batch num_times"]
    observations: dict[str, PyTree[Any]]
    is_solved: Bool[Array, "*batch num_times"]
    status: Int[Array, "*batch"]
    num_steps: Int[Array, "*batch"]

    def _headline(self) -> dict[str, Any]:
        return {"last_loss": self.loss[..., -1]}

    def _labelled(self) -> LabelledArrays:
        runs = run_axes(self.loss.ndim - 1)
        sizes = dict(zip(runs, map(range, self.loss.shape), strict=False))
        times = on_host(self.times).reshape(-1, self.times.shape[-1])[0]
        axes = (*runs, "time")
        return LabelledArrays(
            labels={**sizes, "time": times},
            arrays={
                "loss": (axes, on_host(self.loss)),
                **observed(self.observations, axes),
                "is_solved": (axes, on_host(self.is_solved)),
                "status": (runs, on_host(self.status)),
                "num_steps": (runs, on_host(self.num_steps)),
            },
        )


def gradient_flow(
    apply_fn: ApplyFn,
    params: Params,
    x: Inputs,
    y: Targets,
    times: Sequence[float] | Float[AnyArray, "num_times"],
    *,
    loss_fn: LossFn = square_loss,
    friction: FrictionLaw | None = None,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    rtol: float | None = None,
    atol: float | None = None,
    solver: Any = None,
    max_steps: int = 4096,
    progress: bool | Progress = False,
) -> Flow:
    r"""Exact gradient flow $\dot w = -\nabla L(w)$ of `apply_fn` from `params`.

    Along it the outputs obey $\dot f = -H(t) \nabla_f L$, with the kernel $H(t)$ of that
    moment, which is $\dot f = -H(t) (f - y)$ for the square loss. It is what `train`
    with `optax.sgd(eta)` tends to as $\eta \to 0$, at times `step * eta`; under a
    schedule of learning rates, at those of `flow_times`.

    With `friction`, it is the flow of momentum from rest, heavy ball or Nesterov's:
    $\ddot w = -\nabla L(w) - \gamma(t) \dot w$. That is what
    `optax.sgd(eta, momentum=beta)` tends to, with or without `nesterov=True`, for
    $\gamma = (1 - \beta) / \sqrt\eta$ at times `step * eta**0.5`, which is also what
    neural-tangents makes of a learning rate and a momentum. The larger the friction, the
    closer it is to the plain flow at times $t / \gamma$.

    The displacement $w - w(0)$, and the velocity if there is friction, is integrated in
    steps of adaptive size, whose error is held below `atol` plus `rtol` times their
    norm. Flow is stiff: an explicit solver needs about $\lambda_{\max}(H)\, t / 3$ steps
    (with friction, $\max(\gamma, \sqrt{\lambda_{\max}(H)})\, t$ times some constant).

    Args:
        apply_fn: Network `(params, x) -> f`, as in `train`.
        params: Parameters at time 0.
        x: Training inputs.
        y: Training targets, in the dtype of the network's outputs.
        times: Increasing times at which the observers look, from 0 or later; each of
            them ends a step, so nothing is interpolated.
        loss_fn: Loss `(f, y) -> scalar`.
        friction: The $\gamma$, at least 0; or "nesterov" for $3 / t$, the limit of
            Nesterov's method with momentum $s / (s + 3)$ at step $s$. `None` is the flow
            without momentum.
        observe: Observers, as in `train`; to them `snapshot.step` is the time.
        rtol: Relative tolerance; `None` means $\sqrt\epsilon$ of the parameters' dtype.
        atol: Absolute tolerance; `None` means the same.
        solver: A solver of diffrax; `None` means `diffrax.Tsit5()`.
        max_steps: Steps allowed from one time to the next.
        progress: Whether to show a bar on standard error, if that is a terminal; or a
            function of the share done and a message. The call then waits for the end.

    Returns:
        Losses and observations at `times`. A solution that failed is a result
        (`status`, `is_solved`), not an error.

    Raises:
        ImportError: If diffrax is not installed.
        TypeError: If an argument is not of its kind, or not floating point, or the
            parameters differ in dtype.
        ValueError: If `x` or `y` is empty, of the wrong shape or not finite, the output
            is not `(n, k)`, or `times`, `friction`, a tolerance or `observe` is out of
            range.

    Example:
        >>> import jax.numpy as jnp
        >>> linear = lambda w, x: x @ w
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.ones((2, 1))
        >>> flow = gradient_flow(linear, jnp.zeros((2, 1)), x, y, jnp.array([0.0, 1.0]))
        >>> [round(loss, 4) for loss in flow.loss.tolist()]  # (1 + 1) / 2, then smaller
        [1.0, 0.0678]
        >>> flow.explain()
        'The solution met its tolerances at all times.'

    References:
        Su, Boyd and Candes (2014), arXiv:1503.01243, for Nesterov's method (number of the
        equation not checked).
    """
    require_diffrax("gradient_flow")
    check_at_least("max_steps", max_steps, 1)
    check_solver(solver)
    observers = named_observers(observe)
    params, x, y, _ = checked_problem(apply_fn, params, x, y, loss_fn)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise TypeError(f"`params` must have one dtype; got {names}.")
    (dtype,) = dtypes
    times = checked_times(times, dtype)
    with program_listener(progress, "gradient flow", times[-1]) as listener:
        return _compiled(
            params,
            x,
            y,
            times,
            checked_tolerances(rtol, atol, dtype),
            checked_friction(friction, dtype),
            listener,
            apply_fn=HashableCallable(apply_fn),
            loss_fn=HashableCallable(loss_fn),
            observers=observers,
            solver=solver,
            max_steps=max_steps,
        )


@functools.partial(
    jax.jit,
    static_argnames=("apply_fn", "loss_fn", "observers", "solver", "max_steps"),
)
@with_quick_convolutions
def _compiled(
    params: Params,
    x: Array,
    y: Array,
    times: Array,
    tolerances: Tolerances,
    friction: Friction | None,
    listener: Listener | None,
    *,
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    observers: tuple[tuple[str, Observer], ...],
    solver: Any,
    max_steps: int,
) -> Flow:
    def loss_at(displacement: Params) -> Array:
        return loss_fn(apply_fn(tree_add(params, displacement), x), y)

    def field(displacement: Params) -> Params:
        return jax.tree.map(jnp.negative, jax.grad(loss_at)(displacement))

    initial = Snapshot(
        apply_fn=apply_fn,
        params=params,
        x=x,
        y=y,
        step=jnp.zeros_like(times[0]),
        loss_fn=loss_fn,
    )

    def inspect_all(snapshot: Snapshot) -> dict[str, Any]:
        return {name: jax.tree.map(jnp.asarray, fn(snapshot)) for name, fn in observers}

    # What observers need of the start is evaluated once, outside of the loop.
    inspect_all(initial)

    def inspect(displacement: Params, time: Array) -> tuple[Array, dict[str, Any]]:
        loss = loss_at(displacement)
        tell(listener, time, TIME, loss=loss)
        snapshot = initial.following(tree_add(params, displacement), time)
        return loss, inspect_all(snapshot)

    solution = solve(
        field,
        optax.tree.zeros_like(params),
        times,
        tolerances,
        inspect,
        friction=friction,
        solver=solver,
        max_steps=max_steps,
    )
    loss, observations = solution.seen
    return Flow(
        params=tree_add(params, solution.last),
        times=times,
        loss=loss,
        observations=observations,
        is_solved=solution.is_solved,
        status=solution.status,
        num_steps=solution.num_steps,
    )
