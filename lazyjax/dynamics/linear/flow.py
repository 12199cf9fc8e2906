r"""The linear model under any loss, and in the space of parameters."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lazyjax._checks import (
    check_at_least,
    check_floating,
    check_function,
    check_nonnegative,
    check_params,
)
from lazyjax.batches import as_arrays
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.linear.checks import check_kernel_problem, check_test_points
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
from lazyjax.files.results import Storable
from lazyjax.linalg import gram_matrix
from lazyjax.trees import tree_add
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearizedFlow(SolverStatus, Storable):
    """Gradient flow of the linear model; NaN where the solution was not reached.

    Attributes:
        times: Times that were asked for.
        f: Outputs on the training points at each.
        f_test: Outputs on the test points, if there are any; else `None`.
        dual: Dual variables, from which `dual_params` makes parameters.
        loss: Loss at each time, without the penalty.
        is_solved: Whether the solution reached each time within its tolerances.
        status: 0 if it reached all of them; else see `explain`.
        num_steps: Steps that the solver took, rejected ones included.
    """

    times: Float[Array, "*batch num_times"]
    f: Float[Array, "*batch num_times n k"]
    f_test: Float[Array, "*batch num_times n_test k"] | None
    dual: Float[Array, "*batch num_times n k"]
    loss: Float[Array, "*batch num_times"]
    is_solved: Bool[Array, "*batch num_times"]
    status: Int[Array, "*batch"]
    num_steps: Int[Array, "*batch"]


class _Changes(NamedTuple):
    """What is integrated, all from zero."""

    f: Array
    f_test: Array | None
    dual: Array


def linearized_flow(
    ntk: Float[AnyArray, "n n *kk"],
    y: Float[AnyArray, "n k"],
    f0: Float[AnyArray, "n k"],
    times: Sequence[float] | Float[AnyArray, "num_times"],
    *,
    loss_fn: LossFn = square_loss,
    friction: FrictionLaw | None = None,
    ridge: float | Float[AnyArray, ""] = 0.0,
    ntk_test_train: Float[AnyArray, "n_test n *kk"] | None = None,
    f0_test: Float[AnyArray, "n_test k"] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    solver: Any = None,
    max_steps: int = 4096,
) -> LinearizedFlow:
    r"""Gradient flow of the linear model on any loss, as a differential equation.

    $\dot f = -H \nabla_f L(f)$, by way of dual variables that obey
    $\dot a = -\nabla_f L(f) - \mu a$, so that nothing is inverted and singular kernels are
    as good as others. With `friction`, the left sides are second derivatives plus
    $\gamma(t)$ times the first. For the square loss, `linear_dynamics` has closed forms.

    Args:
        ntk: Kernel on the training points, unnormalized, in a form of `linear_dynamics`.
        y: Training targets.
        f0: Outputs on the training points at time 0.
        times: Increasing times, from 0 or later.
        loss_fn: Loss `(f, y) -> scalar`, a sum as in `lazyjax.dynamics.losses`.
        friction: As in `gradient_flow`.
        ridge: Weight $\mu$ of the penalty $\tfrac\mu2 \lVert w - w_0 \rVert^2$.
        ntk_test_train: Kernel of test against training points, in the same form.
        f0_test: Outputs on the test points at time 0.
        rtol: Relative tolerance; `None` means $\sqrt\epsilon$.
        atol: Absolute tolerance; `None` means the same.
        solver: A solver of diffrax; `None` means `diffrax.Tsit5()`, and
            `diffrax.Kvaerno5()` suits times long against $1 / \lambda_{\max}(H)$.
        max_steps: Steps allowed from one time to the next.

    Returns:
        Outputs and losses at `times`. A solution that failed is a result (`status`,
        `is_solved`), not an error.

    Raises:
        ImportError: If diffrax is not installed.
        TypeError: If an argument is not floating point, or dtypes differ.
        ValueError: If shapes do not fit, or a value is not finite or out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.dynamics.losses import logistic_loss
        >>> one = jnp.ones((1, 1))
        >>> flow = linearized_flow(one, one, 0 * one, [0.0, 1.0], loss_fn=logistic_loss)
        >>> [round(f, 3) for f in flow.f[:, 0, 0].tolist()]  # f + e^f = t + 1
        [0.0, 0.443]
    """
    require_diffrax("linearized_flow")
    check_kernel_problem(ntk, y, f0)
    check_at_least("max_steps", max_steps, 1)
    check_solver(solver)
    check_nonnegative("ridge", ridge, infinity_allowed=False)
    check_function("loss_fn", loss_fn, "(f, y) -> scalar")
    size = y.size if ntk.ndim == 4 else y.shape[0]
    test_points = check_test_points(ntk_test_train, f0_test, f0, gram_size=size)
    ntk, y, f0 = map(jnp.asarray, (ntk, y, f0))
    return _compiled(
        ntk,
        y,
        f0,
        test_points,
        jnp.asarray(ridge, f0.dtype),
        checked_times(times, f0.dtype),
        checked_tolerances(rtol, atol, f0.dtype),
        checked_friction(friction, f0.dtype),
        loss_fn=HashableCallable(loss_fn),
        solver=solver,
        max_steps=max_steps,
    )


@functools.partial(jax.jit, static_argnames=("loss_fn", "solver", "max_steps"))
def _compiled(
    ntk: Array,
    y: Array,
    f0: Array,
    test_points: tuple[Array, Array] | None,
    ridge: Array,
    times: Array,
    tolerances: Tolerances,
    friction: Friction | None,
    *,
    loss_fn: LossFn,
    solver: Any,
    max_steps: int,
) -> LinearizedFlow:
    def product(kernel: Array, dual: Array) -> Array:
        matrix = gram_matrix(kernel)
        columns = dual.reshape(matrix.shape[1], -1)
        change = jnp.matmul(matrix, columns, precision="highest")
        return change.reshape(-1, f0.shape[1])

    # Changes of outputs are integrated beside the dual variables that they follow from:
    # those of a singular kernel may grow for ever, and their errors with them.
    def field(changes: _Changes) -> _Changes:
        gradient = jax.grad(loss_fn)(f0 + changes.f, y)
        on_test = None
        if test_points is not None:
            assert changes.f_test is not None
            on_test = -product(test_points[0], gradient) - ridge * changes.f_test
        return _Changes(
            f=-product(ntk, gradient) - ridge * changes.f,
            f_test=on_test,
            dual=-gradient - ridge * changes.dual,
        )

    def inspect(changes: _Changes, time: Array) -> tuple[Array | None, ...]:
        f, f_test = f0 + changes.f, changes.f_test
        if test_points is not None:
            assert f_test is not None
            f_test = test_points[1] + f_test
        return f, f_test, changes.dual, loss_fn(f, y)

    on_test = None if test_points is None else jnp.zeros_like(test_points[1])
    solution = solve(
        field,
        _Changes(f=jnp.zeros_like(f0), f_test=on_test, dual=jnp.zeros_like(f0)),
        times,
        tolerances,
        inspect,
        friction=friction,
        solver=solver,
        max_steps=max_steps,
    )
    f, f_test, dual, loss = solution.seen
    return LinearizedFlow(
        times=times,
        f=f,
        f_test=f_test,
        dual=dual,
        loss=loss,
        is_solved=solution.is_solved,
        status=solution.status,
        num_steps=solution.num_steps,
    )


def dual_params(
    apply_fn: ApplyFn,
    params: Params,
    x: Inputs,
    dual: Float[AnyArray, "*times n k"],
) -> Params:
    r"""Parameters $w_0 + J^\top a$ of the linear model, from its dual variables.

    Of all parameters with the same outputs on `x` they are the nearest to $w_0$.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: The point $w_0$ of the linearization.
        x: Training inputs.
        dual: The $a$, as of `Linearized.gradient_flow_dual`, at one or more times.

    Returns:
        The parameters, with the axes of times first.

    Raises:
        TypeError: If a parameter or `dual` is not floating point.
        ValueError: If `dual` does not have the shape of the outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.dynamics import linear_dynamics
        >>> x, y = jnp.eye(2), jnp.array([[3.0], [4.0]])
        >>> flow = linear_dynamics(x @ x.T, y, jnp.zeros((2, 1)))
        >>> w0 = jnp.zeros((2, 1))
        >>> dual = flow.gradient_flow_dual(jnp.inf)
        >>> dual_params(lambda w, x: x @ w, w0, x, dual)[:, 0].tolist()
        [3.0, 4.0]
    """
    check_params("params", params)
    check_floating("dual", dual)
    x, dual = as_arrays(x), jnp.asarray(dual)
    shape = jax.eval_shape(apply_fn, params, x).shape
    if dual.shape[-2:] != shape or dual.ndim < 2:
        raise ValueError(
            f"`dual` must have shape (*times, {', '.join(map(str, shape))}); got "
            f"{dual.shape}."
        )
    _, vjp_fn = jax.vjp(lambda p: apply_fn(p, x), params)
    displaced = lambda a: tree_add(params, vjp_fn(a)[0])
    flat = jax.vmap(displaced)(dual.reshape(-1, *shape))
    times = dual.shape[:-2]
    return jax.tree.map(lambda leaf: leaf.reshape(*times, *leaf.shape[1:]), flat)
