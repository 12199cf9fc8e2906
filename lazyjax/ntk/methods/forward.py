"""Derivatives along a direction of the parameters, equal to those of reverse mode."""

from collections.abc import Callable

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from lazyjax.jaxpr.equations import equations, primitives
from lazyjax.jaxpr.registry import describe, primitive_of
from lazyjax.typing import ApplyFn, Inputs, Params

# If a network has no other primitives and its value is finite, so is its forward
# derivative.
_HAVE_FINITE_DERIVATIVES = """
abs add add_any and argmax argmin asinh atan broadcast_in_dim ceil clamp complex concatenate conj
conv_general_dilated convert_element_type copy cos cosh cumlogsumexp cummax cummin cumsum
div dot_general dynamic_slice dynamic_update_slice eq erf erfc exp exp2 expand_dims expm1
floor gather ge gt imag integer_pow iota is_finite le log log1p logistic lt max min mul ne neg
not one_minus_square or pad real reduce_and reduce_max reduce_min reduce_or reduce_sum reduce_window_max
reduce_window_min reduce_window_sum rem reshape rev round rsqrt scatter-add
select_and_gather_add select_n sign sin sinh slice sort split square squeeze stop_gradient
sub tan tanh transpose xor

closed_call cond custom_jvp_call custom_vjp_call jit optimization_barrier pjit
remat remat2 checkpoint scan while
"""
describe(*_HAVE_FINITE_DERIVATIVES.split(), has_finite_derivative=True)
# Primitive in place of the derivative that a `jax.custom_vjp` lacks; it cannot run.
_FORBIDDEN = "custom_lin"


def directional_derivative(
    fn: Callable[[Params], Array], params: Params, tangent: Params
) -> Array:
    """Derivative of `fn` at `params` along `tangent`, in forward mode."""
    program = _forward_program(fn, params, tangent)
    (derivative,) = jex.jaxpr_as_fun(program)(*jax.tree.leaves((params, tangent)))
    return derivative


def tangent_outputs(
    apply_fn: ApplyFn, params: Params, x: Inputs, tangent: Params
) -> Array:
    """Derivative of outputs along a direction of the parameters, in forward mode."""
    # Where a derivative inside the network is infinite and what follows ignores it, as
    # in sqrt(relu(x)), forward mode gives NaN and reverse mode a number: such rows are
    # recomputed. A network with infinite intermediate values may give NaN all the same.
    of_params = lambda p: apply_fn(p, x)
    program = _forward_program(of_params, params, tangent)
    (tangents,) = jex.jaxpr_as_fun(program)(*jax.tree.leaves((params, tangent)))
    if all(primitive_of(eqn).has_finite_derivative for eqn in equations(program)):
        return tangents
    return lax.cond(
        _is_any(~jnp.isfinite(tangents)),
        lambda: _recomputed(of_params, params, tangent, tangents),
        lambda: tangents,
    )


def _forward_program(
    fn: Callable[[Params], Array], params: Params, tangent: Params
) -> jex.ClosedJaxpr:
    """The derivative of `fn` as a function of its parameters and of the direction."""

    def in_forward_mode(params: Params, tangent: Params) -> Array:
        return jax.jvp(fn, (params,), (tangent,))[1]

    def transposed(params: Params, tangent: Params) -> Array:
        f, pullback = jax.vjp(fn, params)
        pushforward = jax.linear_transpose(lambda c: pullback(c)[0], f)
        return pushforward(tangent)[0]

    try:
        program = jax.make_jaxpr(in_forward_mode)(params, tangent)
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
    else:
        if _FORBIDDEN not in primitives(program):
            return program
    # A backward pass is linear in the cotangent: its transpose is the forward one.
    try:
        return jax.make_jaxpr(transposed)(params, tangent)
    except Exception as error:  # no type of error is promised of `linear_transpose`
        raise TypeError(
            "`apply_fn` contains a function with `jax.custom_vjp` whose backward pass is "
            "not linear in the cotangent, so that it has no derivative along a "
            "direction. Define the function with `jax.custom_jvp`, or use "
            "`empirical_ntk` with a method that needs the backward pass only, such as "
            '"jacobian".'
        ) from error


def _recomputed(
    of_params: Callable[[Params], Array],
    params: Params,
    tangent: Params,
    tangents: Array,
) -> Array:
    f, pullback = jax.vjp(of_params, params)
    outputs = jnp.arange(f.shape[1])

    def by_reverse_mode(row: Array) -> Array:
        def along(output: Array) -> Array:
            (gradient,) = pullback(jnp.zeros_like(f).at[row, output].set(1))
            products = jax.tree.map(lambda g, t: jnp.sum(g * t), gradient, tangent)
            total = jnp.zeros((), f.dtype)
            for product in jax.tree.leaves(products):
                total = total + product.astype(f.dtype)
            return total

        return lax.map(along, outputs)

    def recomputed(row: Array, tangents: Array) -> Array:
        return lax.cond(
            _is_any(~jnp.isfinite(tangents)),
            lambda: by_reverse_mode(row),
            lambda: tangents,
        )

    rows = jnp.arange(f.shape[0])
    return lax.map(lambda pair: recomputed(*pair), (rows, tangents))


@jax.custom_batching.custom_vmap
def _is_any(flags: Bool[Array, "*shape"]) -> Bool[Array, ""]:
    """Whether any is true, in the whole of a `vmap`: so that a choice remains one."""
    return jnp.any(flags)


@_is_any.def_vmap
def _(_size: int, _is_batched: list[bool], flags: Array) -> tuple[Array, bool]:
    return _is_any(flags), False
