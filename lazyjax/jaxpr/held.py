"""How much memory a program holds at once, read from the program itself."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.extend.core as jex

from lazyjax.jaxpr.equations import called, is_jaxpr, opened, operands_of
from lazyjax.jaxpr.registry import primitive_of

# What compilers do not write to memory: it is another array, read otherwise.
_VIEWS = {"broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims", "copy"}
# Those that update an operand in place, if it is not used again.
_IN_PLACE = {"dynamic_update_slice", "scatter", "scatter-add", "add_any", "select_n"}


def held_bytes(jaxpr: Any) -> int:
    """Most bytes that a program holds at once, beside its arguments and constants."""
    # Values are held from the equation that makes them to the last one that reads them, and
    # results to the end. A compiler that fuses equations holds less.
    inner, _ = opened(jaxpr)
    results = [v for v in inner.outvars if not isinstance(v, jex.Literal)]
    last: dict[Any, int] = {}
    for number, eqn in enumerate(inner.eqns):
        last.update(dict.fromkeys(operands_of(eqn), number))
    last.update(dict.fromkeys(results, len(inner.eqns)))
    owner: dict[Any, Any] = {}  # of a view, the value that it is of, or `None`
    for number, eqn in enumerate(inner.eqns):
        if eqn.primitive.name in _VIEWS:
            operands = operands_of(eqn)
            source = operands[0] if operands else None
            source = owner.get(source, source)
            (view,) = eqn.outvars
            owner[view] = source
            if source is not None:
                last[source] = max(last[source], last.get(view, number))
    arguments = {*inner.invars, *inner.constvars}
    ends: dict[int, list[Any]] = {}
    for value, number in last.items():
        if value not in arguments and value not in owner:
            ends.setdefault(number, []).append(value)
    held = most = 0
    for number, eqn in enumerate(inner.eqns):
        made = sum(_bytes(v) for v in eqn.outvars if v not in owner)
        dying = ends.get(number, [])
        freed = sum(_bytes(v) for v in dying)
        reused = 0
        if eqn.primitive.name in _IN_PLACE or primitive_of(eqn).is_elementwise:
            reused = min(made, max(map(_bytes, dying), default=0))
        most = max(most, held + max(made - reused, _inside(eqn)))
        # What nothing reads is not made.
        made = sum(_bytes(v) for v in eqn.outvars if v in last and v not in owner)
        held += made - freed
    return max(most, held)


def _inside(eqn: jex.JaxprEqn) -> int:
    """Most bytes held within an equation, its results among them."""
    programs = [part for part in jax.tree.leaves(eqn.params) if is_jaxpr(part)]
    if not programs:
        return 0
    inside = max(map(held_bytes, programs))
    return inside if called(eqn) is not None else inside + _total(eqn.outvars)


def made_bytes(jaxpr: Any) -> int:
    """Bytes of all values that a program makes, each once for each time it is made."""
    inner, _ = opened(jaxpr)
    total = 0
    for eqn in inner.eqns:
        programs = [part for part in jax.tree.leaves(eqn.params) if is_jaxpr(part)]
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        total += times * sum(map(made_bytes, programs))
        if eqn.primitive.name not in _VIEWS and called(eqn) is None:
            total += _total(eqn.outvars)
    return total


def _total(values: Iterable[Any]) -> int:
    return sum(map(_bytes, values))


def _bytes(value: Any) -> int:
    aval = value.aval
    itemsize = getattr(aval.dtype, "itemsize", 8)
    return math.prod(aval.shape) * itemsize
