r"""Programs evaluated on sets of numbers: each entry is known up to a radius.

The program is that of real numbers. An entry of it lies within `radius` of the computed
`value`, whatever rounding did. Sums of products are off by $\gamma_k$ times the sum of
the sizes of their terms (Higham 2002), functions of one number by their slope times the
radius of their argument, and a few units of rounding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lazyjax.certify.bounds.program.enclosing.enclosure import (
    Enclosure,
    UnsupportedError,
    bind,
    exact,
)
from lazyjax.certify.bounds.program.enclosing.rules import RULES, of_scalar_function
from lazyjax.certify.bounds.program.scalar_functions import scalar_function
from lazyjax.jaxpr.equations import aval_of, called, opened


def enclosures(
    closed: jex.ClosedJaxpr,
    arguments: Sequence[Enclosure],
    wanted: Sequence[Any] | None = None,
) -> list[Enclosure]:
    """Results of a program, whose arguments are known up to radii.

    Args:
        closed: The program.
        arguments: Its arguments.
        wanted: Variables of the program, by default its results.

    Returns:
        What is wanted; radii are infinite or NaN where nothing is known.

    Raises:
        UnsupportedError: If there is no rule for one of its primitives.
    """
    with np.errstate(all="ignore"):
        return _run(*opened(closed), arguments, wanted)


def _run(
    jaxpr: jex.Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Enclosure],
    wanted: Sequence[Any] | None = None,
) -> list[Enclosure]:
    known: dict[Any, Enclosure] = dict(zip(jaxpr.invars, arguments, strict=True))
    known.update(zip(jaxpr.constvars, map(exact, consts), strict=True))

    def read(atom: Any) -> Enclosure:
        return exact(atom.val) if isinstance(atom, jex.Literal) else known[atom]

    wanted = jaxpr.outvars if wanted is None else wanted
    kept = {atom for atom in wanted if not isinstance(atom, jex.Literal)}
    needed, eqns = set(kept), []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            eqns.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, jex.Literal))
    eqns.reverse()
    last_use = {
        atom: number
        for number, eqn in enumerate(eqns)
        for atom in eqn.invars
        if not isinstance(atom, jex.Literal)
    }
    for number, eqn in enumerate(eqns):
        results = _results(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
        for atom in {a for a in eqn.invars if not isinstance(a, jex.Literal)} - kept:
            if last_use[atom] == number:
                del known[atom]
    return [read(atom) for atom in wanted]


def inlined(eqn: jex.JaxprEqn) -> Any | None:
    """The jaxpr whose values are those of an equation, custom derivatives or not."""
    if eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
        return eqn.params["call_jaxpr"]
    return called(eqn)


def _results(eqn: jex.JaxprEqn, operands: list[Enclosure]) -> list[Enclosure]:
    name = eqn.primitive.name
    dtypes = [aval_of(v).dtype for v in eqn.outvars]
    if any(jnp.issubdtype(dtype, jax.dtypes.extended) for dtype in dtypes):
        raise UnsupportedError(f"{name}, which makes random keys")
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        raise UnsupportedError(f"{name} of complex numbers")
    inner = inlined(eqn)
    if inner is not None:
        return _run(*opened(inner), operands)
    # Of integers and truth values nothing is rounded.
    is_rounded = any(part.is_float or not part.is_exact for part in operands)
    if not is_rounded and name != "convert_element_type":
        return [exact(value) for value in bind(eqn, *(p.value for p in operands))]
    scalar = scalar_function(name, eqn.params)
    if scalar is not None:
        return of_scalar_function(scalar, *operands)
    rule = RULES.get(name)
    if rule is None:
        raise UnsupportedError(name)
    return rule(eqn, *operands)
