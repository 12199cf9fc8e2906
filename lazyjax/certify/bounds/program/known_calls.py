"""Calls in a program that compute what this package, or JAX, has a name for.

A function with a custom rule for its derivative may state one that is not its
derivative, and then training follows no gradient. So such a rule is accepted only where
the program of the function and that of its derivative are, letter by letter, those of a
function of JAX.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lazyjax.activations import ACTIVATIONS, ActivationSpec
from lazyjax.jaxpr.equations import aval_of, called, equations, evaluate

_CUSTOM = "custom_jvp_call"

# Functions of JAX with custom rules, each the derivative of its function.
_JAX_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "logaddexp": jnp.logaddexp,
}


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
    if (aval.shape, aval.dtype) != (result.shape, result.dtype):
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


def has_known_rule(eqn: jex.JaxprEqn, debug_info: Any) -> bool:
    """Whether a function with a custom rule, and that rule, are those of JAX.

    Args:
        eqn: Equation that calls the function.
        debug_info: That of the jaxpr which the equation is of.

    Returns:
        Whether they are.
    """
    avals = [aval_of(v) for v in eqn.invars if not isinstance(v, jex.Literal)]
    fn = _JAX_FUNCTIONS.get(eqn.params.get("name", ""))
    if eqn.primitive.name != _CUSTOM or fn is None:
        return False
    values = [v.val if isinstance(v, jex.Literal) else None for v in eqn.invars]

    def of_variables(*operands: Any) -> Any:
        rest = iter(operands)
        return fn(*(next(rest) if value is None else value for value in values))

    reference = [
        e
        for e in equations(jax.make_jaxpr(of_variables)(*avals))
        if e.primitive.name == _CUSTOM
    ]
    if len(reference) != 1:
        return False
    found = _texts(_function(eqn, debug_info), avals)
    return bool(found) and found == _texts(_function(reference[0], debug_info), avals)


def _function(eqn: jex.JaxprEqn, debug_info: Any) -> Callable[..., Any]:
    """An equation as a function of those of its operands that are variables."""

    def run(*operands: Any) -> Any:
        rest = iter(operands)
        values = (v.val if isinstance(v, jex.Literal) else next(rest) for v in eqn.invars)
        (result,) = evaluate(eqn, debug_info, *values)
        return result

    return run


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


@functools.cache
def known_names() -> str:
    """Names of functions with custom rules that are known."""
    return ", ".join(_JAX_FUNCTIONS)
