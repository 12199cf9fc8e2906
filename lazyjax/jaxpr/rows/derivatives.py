"""Derivatives of calls that have a rule of their own for them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jaxtyping import Array

from lazyjax.jaxpr.equations import (
    aval_of,
    is_smooth,
    of_smooth_operands,
    operands_of,
)


def derivatives_of(eqns: Sequence[tuple[Any, jex.JaxprEqn]]) -> list[jex.ClosedJaxpr]:
    """Results of equations and their tangents, from their operands and theirs.

    All are traced at once and then told apart: entering and leaving a trace takes as
    long as a rule.

    Args:
        eqns: Equations, each with the debug info of the jaxpr which it is of.

    Returns:
        For each equation, a jaxpr from its operands and the tangents of those that are
        floating point to its results and the tangents of these.
    """
    if not eqns:
        return []

    def derivatives(operands: list[list[Array]], tangents: list[list[Array]]) -> Any:
        found = []
        for (info, eqn), values, of_values in zip(
            eqns, operands, tangents, strict=True
        ):
            run, chosen = of_smooth_operands(eqn, info, values)
            results, changes = jax.jvp(run, (chosen,), (of_values,))
            moved = zip(eqn.outvars, changes, strict=True)
            found.append([*results, *(c for v, c in moved if is_smooth(v))])
        return found

    operands = [operands_of(eqn) for _, eqn in eqns]
    smooth = [list(filter(is_smooth, some)) for some in operands]
    traced, shapes = jax.make_jaxpr(derivatives, return_shape=True)(
        [list(map(aval_of, some)) for some in operands],
        [list(map(aval_of, some)) for some in smooth],
    )
    values = _split(traced.jaxpr.invars, [*map(len, operands), *map(len, smooth)])
    invars = zip(values[: len(eqns)], values[len(eqns) :], strict=True)
    outvars = _split(traced.jaxpr.outvars, list(map(len, shapes)))
    return _parts(traced, [[*a, *b] for a, b in invars], outvars)


def _parts(
    whole: jex.ClosedJaxpr, invars: list[list[Any]], outvars: list[list[Any]]
) -> list[jex.ClosedJaxpr]:
    """A jaxpr apart, into those that hold what some of its results depend on."""
    jaxpr = whole.jaxpr
    readers: dict[Any, set[int]] = {}

    def read(atoms: Sequence[Any], parts: set[int]) -> None:
        for atom in atoms:
            if not isinstance(atom, jex.Literal):
                readers.setdefault(atom, set()).update(parts)

    for number, results in enumerate(outvars):
        read(results, {number})
    eqns: list[list[jex.JaxprEqn]] = [[] for _ in outvars]
    for eqn in reversed(jaxpr.eqns):
        parts = set().union(*(readers.get(v, ()) for v in eqn.outvars))
        read(eqn.invars, parts)
        for number in parts:
            eqns[number].append(eqn)
    apart = []
    for number, variables in enumerate(zip(invars, outvars, strict=True)):
        consts = {
            v: value
            for v, value in zip(jaxpr.constvars, whole.consts, strict=True)
            if number in readers.get(v, ())
        }
        part = jex.Jaxpr(
            list(consts),
            *variables,
            eqns[number][::-1],
            jaxpr.effects,
            debug_info=jaxpr.debug_info,
        )
        apart.append(jex.ClosedJaxpr(part, list(consts.values())))
    return apart


def _split(items: Sequence[Any], lengths: Sequence[int]) -> list[list[Any]]:
    """Successive pieces of a sequence."""
    rest = iter(items)
    return [[next(rest) for _ in range(length)] for length in lengths]
