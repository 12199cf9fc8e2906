r"""Hessians and Gauss-Newton matrices as operators, which are never formed."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lazyjax._checks import check_apply_fn, check_function, check_inputs, check_params
from lazyjax.batches import as_arrays
from lazyjax.callables.static import HashableCallable
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Params


@dataclasses.dataclass(frozen=True)
class CurvatureOperator:
    """A symmetric matrix over all parameters, in the order of `ravel_pytree`.

    Attributes:
        product: Product of the matrix with a flat vector.
        num_params: Number of rows.
        dtype: Of its entries.
    """

    product: Callable[[Array], Array]
    num_params: int
    dtype: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Shape `(p, p)` of the matrix."""
        return self.num_params, self.num_params

    def mv(self, v: Float[AnyArray, " p"]) -> Float[Array, " p"]:
        """Product with a vector.

        Args:
            v: One number per parameter.

        Returns:
            The product.

        Raises:
            ValueError: If `v` has another shape.
        """
        if v.shape != self.shape[1:]:
            raise ValueError(f"`v` must have shape {self.shape[1:]}; got {v.shape}.")
        return self.product(jnp.asarray(v, self.dtype))


def hessian_operator(fn: Callable[[Any], Array], params: Params) -> CurvatureOperator:
    r"""Hessian of a function of parameters, as $v \mapsto \nabla^2 F(w) v$.

    Args:
        fn: Function of parameters that returns one number: a loss, or one output of a
            network.
        params: Where.

    Returns:
        The operator, for `lazyjax.spectrum`; it need not be semidefinite. A product costs
        about twice as much as a gradient.

    Raises:
        TypeError: If `fn` is not callable, or parameters are not floating point.
        ValueError: If `fn` does not return one number.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> saddle = spectrum.hessian_operator(lambda w: w[0] * w[1], jnp.ones(2))
        >>> saddle.mv(jnp.array([1.0, 0.0])).tolist()
        [0.0, 1.0]

    References:
        Pearlmutter (1994), "Fast exact multiplication by the Hessian".
    """
    check_function("fn", fn, "(params) -> number")
    check_params("params", params)
    shape = jax.eval_shape(fn, params)
    if getattr(shape, "shape", None) != ():
        raise ValueError(f"`fn` must return one number; got {shape}.")
    product = functools.partial(_hessian_product, HashableCallable(fn), params)
    return _operator(product, params)


def gauss_newton_operator(
    apply_fn: ApplyFn,
    params: Params,
    x: Inputs,
    y: AnyArray,
    loss_fn: LossFn,
) -> CurvatureOperator:
    r"""Gauss-Newton matrix $J^\top \nabla_f^2 L \, J$ of a loss of a network's outputs.

    It is the Hessian of the loss of the linearized network, and semidefinite if the loss
    is convex in the outputs. For `square_loss` it has the kernel's nonzero eigenvalues.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: Where.
        x: Inputs.
        y: Targets.
        loss_fn: Loss `(f, y) -> scalar`.

    Returns:
        The operator, for `lazyjax.spectrum`.

    Raises:
        TypeError: If parameters are not floating point, or functions not callable.
        ValueError: If `x` is not a batch.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> from lazyjax.dynamics import square_loss
        >>> linear = lambda w, x: x @ w
        >>> x, y = jnp.array([[3.0, 4.0]]), jnp.ones((1, 1))
        >>> found = spectrum.gauss_newton_operator(
        ...     linear, jnp.ones((2, 1)), x, y, square_loss
        ... )
        >>> found.mv(jnp.array([1.0, 0.0])).tolist()
        [9.0, 12.0]

    References:
        Schraudolph (2002), Neural Computation 14, 1723-1738.
    """
    check_apply_fn(apply_fn, params)
    check_params("params", params)
    check_inputs("x", x)
    check_function("loss_fn", loss_fn, "(f, y) -> scalar")
    functions = HashableCallable(apply_fn), HashableCallable(loss_fn)
    data = as_arrays(x), jnp.asarray(y)
    product = functools.partial(_gauss_newton_product, functions, params, data)
    return _operator(product, params)


def _operator(product: Callable[[Array], Array], params: Params) -> CurvatureOperator:
    flat = jax.eval_shape(lambda p: ravel_pytree(p)[0], params)
    return CurvatureOperator(product, flat.size, flat.dtype)


@functools.partial(jax.jit, static_argnums=0)
def _hessian_product(fn: Callable[[Any], Array], params: Params, v: Array) -> Array:
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda w: fn(unravel(w)))
    return jax.jvp(gradient, (flat,), (v,))[1]


@functools.partial(jax.jit, static_argnums=0)
def _gauss_newton_product(
    functions: tuple[ApplyFn, LossFn],
    params: Params,
    data: tuple[Array, Array],
    v: Array,
) -> Array:
    (apply_fn, loss_fn), (x, y) = functions, data
    flat, unravel = ravel_pytree(params)
    outputs = lambda w: apply_fn(unravel(w), x)
    f, moved = jax.jvp(outputs, (flat,), (v,))
    slope_moved = jax.jvp(jax.grad(lambda f: loss_fn(f, y)), (f,), (moved,))[1]
    return jax.vjp(outputs, flat)[1](slope_moved)[0]
