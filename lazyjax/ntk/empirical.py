r"""Neural tangent kernel of any pure JAX function at finite width."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import check_choice
from lazyjax.ntk._validate import (
    check_arguments,
    check_network,
    refuse_interaction,
    row_interaction,
)
from lazyjax.ntk.jacobian import jacobian_ntk
from lazyjax.typing import AnyArray, ApplyFn, Method, Outputs, Params

_METHODS: dict[str, Callable[..., Array]] = {"jacobian": jacobian_ntk}


def empirical_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    outputs: Outputs = "full",
    method: Method = "jacobian",
    precision: jax.lax.PrecisionLike = "highest",
) -> Float[Array, "n1 n2 *k"]:
    r"""Neural tangent kernel $\Theta$ of `apply_fn` at `params`.

    $\Theta_{ijab} = \langle \nabla f_a(x_i), \nabla f_b(x'_j) \rangle$, summed over all
    parameters and not divided by anything. Under gradient flow on
    $\tfrac12 \lVert f - y \rVert^2$, summed over examples and outputs,
    $\dot f = -\Theta (f - y)$; for the mean over examples divide time by $n$.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact. It should
            be the same object from call to call, or each call compiles again.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`, does less work, and the result is exactly
            symmetric.
        outputs: "full" for all pairs of outputs, shape `(n1, n2, k, k)`; "diagonal"
            for equal pairs, `(n1, n2, k)`; "trace" for their sum over outputs,
            `(n1, n2)`; "pseudo" for the sum over all pairs divided by k, `(n1, n2)`,
            the kernel of $\sum_a f_a / \sqrt k$; a class index for that output's
            kernel, `(n1, n2)`.
        method: "jacobian" contracts whole Jacobians; it holds `(n1 + n2) k p` numbers.
        precision: Of matrix products, the network's own included where it sets none.

    Returns:
        The kernel in the form `outputs`, in the dtype of the network's outputs.

    Raises:
        ValueError: If a batch is empty or not finite, features differ, the output is
            not `(n, k)`, an option is unknown, `apply_fn` ignores `params`, or its rows
            interact. Values are looked at only where they are known: not under `jit`.
        TypeError: If a parameter or the output is not real floating point.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0]])
        >>> lazyjax.empirical_ntk(linear, jnp.ones((2, 1)), x).item()
        25.0

    References:
        Jacot, Gabriel and Hongler (2018), arXiv:1806.07572; "pseudo" is from Mohamadi,
        Bae and Sutherland (2023), arXiv:2206.12543 (equation numbers not checked).
    """
    check_choice("method", method, _METHODS)
    check_arguments(apply_fn, params, x1, x2)
    static = {
        "apply_fn": apply_fn,
        "outputs": outputs,
        "method": method,
        "precision": precision,
    }
    program = _compiled if _is_hashable(apply_fn) else _kernel_and_interaction
    x2 = None if x2 is None else jnp.asarray(x2)
    with jax.default_matmul_precision(precision):
        ntk, interaction = program(params, jnp.asarray(x1), x2, **static)
    refuse_interaction(interaction)
    return ntk


def _kernel_and_interaction(
    params: Params,
    x1: Array,
    x2: Array | None,
    *,
    apply_fn: ApplyFn,
    outputs: Outputs,
    method: Method,
    precision: Any,
) -> tuple[Array, Array]:
    check_network(apply_fn, params, x1, outputs)
    kernel_fn = _METHODS[method]
    ntk = kernel_fn(apply_fn, params, x1, x2, outputs=outputs, precision=precision)
    if x2 is None:
        axes = (1, 0, 3, 2) if outputs == "full" else (1, 0, 2)[: ntk.ndim]
        ntk = (ntk + ntk.transpose(axes)) / 2  # equal already, but for rounding
    return ntk, row_interaction(apply_fn, params, x1)


_compiled = functools.partial(
    jax.jit, static_argnames=("apply_fn", "outputs", "method", "precision")
)(_kernel_and_interaction)


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
