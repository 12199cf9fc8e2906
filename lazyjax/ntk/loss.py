"""Kernels of the losses of examples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._brief import brief
from lazyjax._checks import check_batch, check_choice, check_function
from lazyjax.batches import num_rows
from lazyjax.callables.static import HashableCallable
from lazyjax.ntk.empirical import METHODS, Empirical
from lazyjax.ntk.outputs import Directions
from lazyjax.ntk.requests.columns import Columns
from lazyjax.ntk.requests.compiled import run_program
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.ntk.requests.validate import check_arguments
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Method, Params


def empirical_ntk_of_loss(
    loss_fn: LossFn,
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    y1: Shaped[AnyArray, "n1 ..."],
    x2: Inputs | None = None,
    y2: Shaped[AnyArray, "n2 ..."] | None = None,
    *,
    method: Method = "auto",
    precision: jax.lax.PrecisionLike = "highest",
    memory: int | str | None = None,
    check_rows: bool = True,
) -> Float[Array, "n1 n2"]:
    r"""Products of the gradients of the losses of examples.

    Entry `[i, j]` is $\langle \nabla L_i, \nabla L_j \rangle$ with $L_i$ the loss of
    example i alone: how much a step of gradient descent on one example changes the loss
    of the other. It takes one backward pass for each example, however many outputs.

    Args:
        loss_fn: Loss `(f, y) -> number` of outputs and targets of a batch, as in
            `lazyjax.train`; it is called with batches of one.
        apply_fn: Network `(params, x) -> f`, as in `empirical_ntk`.
        params: Point at which gradients are taken.
        x1: First batch.
        y1: Its targets, as `loss_fn` takes them.
        x2: Second batch; `None` means `x1`.
        y2: Its targets.
        method: As in `empirical_ntk`.
        precision: As in `empirical_ntk`.
        memory: As in `empirical_ntk`.
        check_rows: As in `empirical_ntk`.

    Returns:
        The kernel, in the dtype of the network's outputs.

    Raises:
        ValueError: If a batch has another number of targets than examples, or one of
            `x2` and `y2` is missing; or as `empirical_ntk` says.
        TypeError: If `loss_fn` is not callable, or as `empirical_ntk` says.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> half_square = lambda f, y: jnp.sum((f - y) ** 2) / 2
        >>> x, y = jnp.array([[3.0], [1.0]]), jnp.array([[1.0], [1.0]])
        >>> w = jnp.ones((1, 1))
        >>> lazyjax.empirical_ntk_of_loss(half_square, linear, w, x, y).tolist()
        [[36.0, 0.0], [0.0, 0.0]]
    """
    check_choice("method", method, METHODS)
    check_function("loss_fn", loss_fn, "(f, y) -> loss")
    if (x2 is None) != (y2 is None):
        raise ValueError("`x2` and `y2` must be given together, or neither.")
    targets = [("x1", x1, "y1", y1), ("x2", x2, "y2", y2)][: 1 if x2 is None else 2]
    check_arguments(apply_fn, params, x1, x2, allow_explicit=True)
    for x_name, x, y_name, y in targets:
        check_batch(y_name, y, wait=False, allow_explicit=True)
        if len(y) != num_rows(x):
            raise ValueError(
                f"`{y_name}` must have one row for each of the {num_rows(x)} of "
                f"`{x_name}`; got {brief(y)}."
            )
    program = _OfLoss(
        outputs="trace",
        precision=precision,
        memory=memory,
        method=method,
        filter=None,
        loss_fn=HashableCallable(loss_fn),
    )
    given = tuple(jnp.asarray(y) for *_, y in targets)
    return run_program(
        program, apply_fn, params, x1, x2, given=given, check_rows=check_rows
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OfLoss(Empirical):
    """The kernel along the derivatives of a loss by each example's outputs."""

    loss_fn: LossFn
    is_of_columns = True

    def along(
        self, request: KernelRequest, columns: Columns, given: Any
    ) -> tuple[Directions, Directions]:
        def derivatives(x: Inputs, y: Array) -> Directions:
            f = jax.lax.stop_gradient(request.apply_fn(request.params, x))

            def of_one(f_i: Array, y_i: Array) -> Array:
                return self.loss_fn(columns.outputs(f_i[None]), y_i[None])

            return Directions(jax.vmap(jax.grad(of_one))(f, y)[:, None])

        rows = derivatives(request.x1, given[0])
        if request.x2 is None:
            return rows, rows
        return rows, derivatives(request.x2, given[1])
