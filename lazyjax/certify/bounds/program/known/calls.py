"""Calls in a program that compute what this package, or JAX, has a name for.

A function with a custom rule for its derivative may state one that is not its
derivative, and then training follows no gradient. So such a rule is accepted only where
the program of the function and that of its derivative are, letter by letter, those of a
function of JAX.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lazyjax.activations import ACTIVATIONS, ActivationSpec
from lazyjax.jaxpr.equations import aval_of, called, equations, evaluate

_CUSTOM = "custom_jvp_call"

# Functions of JAX with custom rules, each the derivative of its function.
_JAX_FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "relu": (jax.nn.relu, 1),
    "relu6": (jax.nn.relu6, 1),
    "logaddexp": (jnp.logaddexp, 2),
}
"""By name: the function, and its number of operands."""


def is_call(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation does nothing but call a program, with a custom rule or not."""
    return eqn.primitive.name == _CUSTOM or called(eqn) is not None


def activation_of(eqn: jex.JaxprEqn, debug_info: Any) -> ActivationSpec | None:
    """The activation that a call computes, if its derivatives are known to be bounded.

    Args:
        eqn: The equation.
        debug_info: That of the jaxpr which the equation is of.

    Returns:
        Its record, or `None`.
    """
    operands = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
    if not is_call(eqn) or len(operands) != 1 or len(eqn.outvars) != 1:
        return None
    aval = aval_of(operands[0])
    result = aval_of(eqn.outvars[0])
    is_float = jnp.issubdtype(aval.dtype, jnp.floating)
    if not is_float or (aval.shape, aval.dtype) != (result.shape, result.dtype):
        return None
    found = None
    for spec in ACTIVATIONS.values():
        if spec.float64 is None or not spec.float64.is_bounded:
            continue
        if found is None:
            found = _texts(_function(eqn, debug_info), [aval])
        if found and found == _texts(spec.fn, [aval]):
            return spec
    return None


def known_function(eqn: jex.JaxprEqn, debug_info: Any) -> str | None:
    """Name of the function of JAX that a call with a custom rule is, if it is one.

    Args:
        eqn: Equation that calls the function.
        debug_info: That of the jaxpr which the equation is of.

    Returns:
        The name, or `None`.
    """
    if eqn.primitive.name != _CUSTOM:
        return None
    avals = [aval_of(v) for v in eqn.invars if not isinstance(v, jex.Literal)]
    found = _texts(_function(eqn, debug_info), avals)
    num_axes = min((len(aval.shape) for aval in avals), default=0)
    for name, (fn, num_operands) in _JAX_FUNCTIONS.items():
        if num_operands != len(eqn.invars) or not found:
            continue
        # Under `vmap` the program of a rule says so, if only in its shapes.
        for _ in range(num_axes + 1):
            if found == _reference(_filled(fn, eqn), avals, debug_info):
                return name
            fn = _mapped(fn, eqn)
    return None


def _mapped(fn: Callable[..., Any], eqn: jex.JaxprEqn) -> Callable[..., Any]:
    """A function under `vmap`, along the first axis of operands that are variables."""
    axes = [None if isinstance(v, jex.Literal) else 0 for v in eqn.invars]
    return jax.vmap(fn, in_axes=axes)


def _reference(
    fn: Callable[..., Any], avals: Sequence[Any], debug_info: Any
) -> tuple[str, ...]:
    """Programs of the one call with a custom rule that a function makes, if it fits."""
    with jax.numpy_rank_promotion("allow"):
        traced = jax.make_jaxpr(fn)(*avals)
    (call,) = (e for e in equations(traced) if e.primitive.name == _CUSTOM)
    shapes = [aval_of(v).shape for v in call.invars if not isinstance(v, jex.Literal)]
    if shapes != [aval.shape for aval in avals]:  # operands were broadcast before
        return ()
    return _texts(_function(call, debug_info), avals)


def _filled(fn: Callable[..., Any], eqn: jex.JaxprEqn) -> Callable[..., Any]:
    """A function of those operands of an equation that are variables."""

    def run(*operands: Any) -> Any:
        rest = iter(operands)
        return fn(
            *(v.val if isinstance(v, jex.Literal) else next(rest) for v in eqn.invars)
        )

    return run


def _function(eqn: jex.JaxprEqn, debug_info: Any) -> Callable[..., Any]:
    """An equation as a function of those of its operands that are variables."""
    return _filled(lambda *values: evaluate(eqn, debug_info, *values)[0], eqn)


def _texts(fn: Callable[..., Any], avals: Sequence[Any]) -> tuple[str, ...]:
    """The programs of a function and of its derivative; empty if they hold arrays."""
    programs = (
        jax.make_jaxpr(fn)(*avals),
        jax.make_jaxpr(lambda *tangents: _jvp(fn, tangents))(*avals, *avals),
    )
    if any(program.consts for program in programs):
        return ()
    return tuple(str(program) for program in programs)


def _jvp(fn: Callable[..., Any], values: Sequence[Any]) -> Any:
    half = len(values) // 2
    return jax.jvp(fn, tuple(values[:half]), tuple(values[half:]))
