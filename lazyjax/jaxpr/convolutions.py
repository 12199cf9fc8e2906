"""Convolutions in the one form for which XLA has a quick routine on processors.

XLA brings convolutions into that form (NHWC, with kernels HWIO), but only those of the
outermost computation. In the body of a loop, gradients of convolutions, which come in
other forms, are computed entry by entry: 20 to 70 times slower.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.jaxpr.equations import aval_of, equations, is_jaxpr, opened, primitives

T = TypeVar("T")

_NAME = "conv_general_dilated"


def with_quick_convolutions(fn: Callable[..., T]) -> Callable[..., T]:
    """The same function, whose convolutions are quick on processors, also in loops.

    Numbers are those of XLA's own routine. On accelerators nothing changes.

    Args:
        fn: A function to be compiled, with its loops and derivatives. Arguments other
            than pytrees of JAX arrays are passed on as they are.

    Returns:
        The function.
    """

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        leaves, structure = jax.tree.flatten((args, kwargs))
        is_array = [isinstance(leaf, jax.Array) for leaf in leaves]
        arrays = list(itertools.compress(leaves, is_array))
        of_result: Any = None

        def of_arrays(*arrays: Array) -> list[Array]:
            nonlocal of_result
            given = iter(arrays)
            filled = [
                next(given) if known else leaf
                for leaf, known in zip(leaves, is_array, strict=True)
            ]
            args, kwargs = jax.tree.unflatten(structure, filled)
            results, of_result = jax.tree.flatten(fn(*args, **kwargs))
            return results

        jaxpr = jax.make_jaxpr(of_arrays)(*arrays)
        results = jex.jaxpr_as_fun(_rewritten(jaxpr))(*arrays)
        return jax.tree.unflatten(of_result, results)

    return wrapped


def has_convolutions(fn: Callable[..., Any], *args: Any) -> bool:
    """Whether the program of a function holds convolutions, at any depth."""
    return _NAME in primitives(jax.make_jaxpr(fn)(*args))


def _rewritten(jaxpr: Any) -> Any:
    """A jaxpr, open or closed, in which slow convolutions are replaced at all depths."""
    if not any(map(_is_slow, equations(jaxpr))):
        return jaxpr
    inner, _ = opened(jaxpr)
    eqns = [_quick(eqn) if _is_slow(eqn) else _opened_up(eqn) for eqn in inner.eqns]
    inner = inner.replace(eqns=eqns)
    return inner if isinstance(jaxpr, jex.Jaxpr) else jaxpr.replace(jaxpr=inner)


def _opened_up(eqn: jex.JaxprEqn) -> jex.JaxprEqn:
    params = {
        name: jax.tree.map(
            lambda part: _rewritten(part) if is_jaxpr(part) else part, of
        )
        for name, of in eqn.params.items()
    }
    return eqn.replace(params=params)


def _is_slow(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation is a convolution in another form than the quick one."""
    if eqn.primitive.name != _NAME:
        return False
    lhs = aval_of(eqn.invars[0])
    # In double precision there is no quick routine.
    has_routine = lhs.ndim > 2 and lhs.dtype in (jnp.float32, jnp.float16, jnp.bfloat16)
    numbers, count = eqn.params["dimension_numbers"], eqn.params["batch_group_count"]
    return has_routine and (count > 1 or numbers != _canonical_numbers(lhs.ndim))


def _quick(eqn: jex.JaxprEqn) -> jex.JaxprEqn:
    """An equation that calls the convolution `eqn` in canonical form."""

    def as_it_is(lhs: Array, rhs: Array) -> Array:
        return lax.conv_general_dilated(lhs, rhs, **_options(eqn.params))

    @jax.jit
    def convolution(lhs: Array, rhs: Array) -> Array:
        canonical = functools.partial(_canonical, params=eqn.params)
        return lax.platform_dependent(lhs, rhs, cpu=canonical, default=as_it_is)

    call = jax.make_jaxpr(convolution)(*map(aval_of, eqn.invars)).eqns[0]
    return call.replace(
        invars=eqn.invars, outvars=eqn.outvars, source_info=eqn.source_info
    )


def _canonical(lhs: Array, rhs: Array, *, params: dict[str, Any]) -> Array:
    """A convolution of transposed operands, transposed back."""
    options = _options(params)
    numbers, groups = options["dimension_numbers"], options["batch_group_count"]
    lhs = lhs.transpose(_batch_first(numbers.lhs_spec))
    rhs = rhs.transpose(_kernel_order(numbers.rhs_spec))
    if groups > 1:
        # Groups of the batch are groups of channels, which need no padding.
        lhs = lhs.reshape(groups, -1, *lhs.shape[1:])
        lhs = jnp.moveaxis(lhs, 0, -2).reshape(*lhs.shape[1:-1], -1)
        options |= {"batch_group_count": 1, "feature_group_count": groups}
    options["dimension_numbers"] = _canonical_numbers(lhs.ndim)
    result = lax.conv_general_dilated(lhs, rhs, **options)
    order = _batch_first(numbers.out_spec)
    return result.transpose([order.index(axis) for axis in range(len(order))])


def _options(params: dict[str, Any]) -> dict[str, Any]:
    names = (
        "window_strides",
        "padding",
        "lhs_dilation",
        "rhs_dilation",
        "dimension_numbers",
        "feature_group_count",
        "batch_group_count",
        "precision",
        "preferred_element_type",
    )
    return {name: params[name] for name in names}


def _canonical_numbers(ndim: int) -> lax.ConvDimensionNumbers:
    images = (0, ndim - 1, *range(1, ndim - 1))
    kernel = (ndim - 1, ndim - 2, *range(ndim - 2))
    return lax.ConvDimensionNumbers(images, kernel, images)


def _batch_first(spec: tuple[int, ...]) -> tuple[int, ...]:
    batch, channels, *space = spec
    return batch, *space, channels


def _kernel_order(spec: tuple[int, ...]) -> tuple[int, ...]:
    outputs, inputs, *space = spec
    return *space, inputs, outputs
