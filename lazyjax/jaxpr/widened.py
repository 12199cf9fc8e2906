"""Functions evaluated in a wider floating-point type than they are written in."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.jaxpr.equations import (
    aval_of,
    called,
    evaluate,
    is_jaxpr,
    opened,
    scan_counts,
)
from lazyjax.jaxpr.registry import primitive_of

# Parameters that name the type of results.
_TYPES = ("dtype", "new_dtype", "preferred_element_type")
# These hold a program for single numbers, in their own type.
_SCATTERS: dict[str, Callable[..., Array]] = {
    "scatter": lax.scatter,
    **{
        f"scatter{dash}{kind}": getattr(lax, f"scatter_{kind}")
        for kind in ("add", "sub", "mul", "min", "max")
        for dash in "-_"
    },
}


def evaluate_at_least(
    dtype: Any, closed: jex.ClosedJaxpr, arguments: Sequence[Array]
) -> list[Array]:
    """Results of a program, all of whose floating-point numbers are at least of a type."""
    # Narrower types are replaced, whether the program takes them from its arguments or
    # names them. Equations that are not known to compute in the type of their operands
    # keep theirs, and custom rules for derivatives are left out.
    if not _is_widened(dtype, closed):
        return jex.jaxpr_as_fun(closed)(*arguments)
    return _evaluate(dtype, closed, arguments)


def _is_widened(dtype: Any, closed: Any) -> bool:
    """Whether a number in a program, or in one that it holds, is of a narrower type."""
    jaxpr, _ = opened(closed)
    variables = [*jaxpr.constvars, *jaxpr.invars]
    variables += [var for eqn in jaxpr.eqns for var in eqn.outvars]
    types = {aval_of(var).dtype for var in variables}
    return any(_wider(dtype, given) != given for given in types) or any(
        _is_widened(dtype, part)
        for eqn in jaxpr.eqns
        for part in jax.tree.leaves(eqn.params)
        if is_jaxpr(part)
    )


def _evaluate(dtype: Any, closed: Any, arguments: Sequence[Any]) -> list[Any]:
    jaxpr, consts = opened(closed)
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        if isinstance(atom, jex.Literal):
            return _widened(dtype, jnp.asarray(atom.val, aval_of(atom).dtype))
        return _widened(dtype, known[atom])

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        results = _results(dtype, eqn, operands, jaxpr.debug_info)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _results(
    dtype: Any, eqn: jex.JaxprEqn, operands: list[Any], debug_info: Any
) -> Sequence[Any]:
    name, params = eqn.primitive.name, eqn.params
    inner = called(eqn)
    if inner is None and name in ("custom_jvp_call", "custom_vjp_call"):
        inner = params["call_jaxpr"]
    if inner is not None:
        return _evaluate(dtype, inner, operands)
    run = functools.partial(_evaluate, dtype)
    if name == "scan":
        return _scan(run, eqn, operands)
    if name == "while":
        return _while(run, eqn, operands)
    if name == "cond":
        branches = [lambda *v, b=branch: run(b, v) for branch in params["branches"]]
        return lax.switch(operands[0], branches, *operands[1:])
    if name in _SCATTERS:
        return [_scatter(eqn, operands)]
    if not primitive_of(eqn).follows_dtype:
        narrow = [
            _as_type(aval_of(atom).dtype, value)
            for atom, value in zip(eqn.invars, operands, strict=True)
        ]
        return evaluate(eqn, debug_info, *narrow)
    types = {
        key: _wider(dtype, params[key]) for key in _TYPES if params.get(key) is not None
    }
    results = eqn.primitive.bind(*operands, **{**params, **types})
    return results if eqn.primitive.multiple_results else [results]


def _scan(
    run: Callable[..., list[Any]], eqn: jex.JaxprEqn, operands: list[Any]
) -> Sequence[Any]:
    num_consts, num_carry = scan_counts(eqn)
    consts, rest = operands[:num_consts], operands[num_consts:]
    options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}

    def body(carry: list[Any], pieces: list[Any]) -> tuple[list[Any], list[Any]]:
        results = run(eqn.params["jaxpr"], [*consts, *carry, *pieces])
        return results[:num_carry], results[num_carry:]

    carry, collected = lax.scan(body, rest[:num_carry], rest[num_carry:], **options)
    return [*carry, *collected]


def _while(
    run: Callable[..., list[Any]], eqn: jex.JaxprEqn, operands: list[Any]
) -> Sequence[Any]:
    counts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_condition = operands[: counts[0]]
    of_body = operands[counts[0] : sum(counts)]

    def goes_on(carry: list[Any]) -> Array:
        return run(eqn.params["cond_jaxpr"], [*of_condition, *carry])[0]

    def body(carry: list[Any]) -> list[Any]:
        # Under `vmap` there is one condition for each example, which stays when done.
        active = goes_on(carry)
        after = run(eqn.params["body_jaxpr"], [*of_body, *carry])
        if not active.shape:
            return after
        return [
            jnp.where(jnp.expand_dims(active, range(active.ndim, new.ndim)), new, old)
            for new, old in zip(after, carry, strict=True)
        ]

    return lax.while_loop(
        lambda carry: jnp.any(goes_on(carry)), body, operands[sum(counts) :]
    )


def _scatter(eqn: jex.JaxprEqn, operands: list[Any]) -> Array:
    options = ("indices_are_sorted", "unique_indices", "mode")
    return _SCATTERS[eqn.primitive.name](
        *operands,
        eqn.params["dimension_numbers"],
        **{key: eqn.params[key] for key in options},
    )


def _wider(dtype: Any, given: Any) -> Any:
    """`given`, or the type of its kind that is as wide as `dtype`, if that is wider."""
    if jnp.issubdtype(given, jnp.complexfloating):
        wide = jnp.dtype(f"complex{16 * jnp.dtype(dtype).itemsize}")
    elif jnp.issubdtype(given, jnp.floating):
        wide = jnp.dtype(dtype)
    else:
        return given
    return wide if wide.itemsize > jnp.dtype(given).itemsize else given


def _widened(dtype: Any, value: Any) -> Any:
    return _as_type(_wider(dtype, value.dtype), value)


def _as_type(dtype: Any, value: Any) -> Any:
    return value if value.dtype == dtype else lax.convert_element_type(value, dtype)
