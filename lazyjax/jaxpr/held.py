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
# Those, beside elementwise ones, that are computed with what reads their results.
_FUSED = {"pad", "convert_element_type", "add_any", "select_n"}
# Those that update an operand in place, if it is not used again.
_IN_PLACE = {"dynamic_update_slice", "scatter", "scatter-add"}


def held_bytes(jaxpr: Any) -> int:
    """Most bytes that a program holds at once, beside its arguments and constants."""
    # Values are held from the equation that makes them to the last one that reads them,
    # and results to the end. Elementwise equations one after the other are computed
    # together, as compilers do: what the first reads is held until the last, so that the
    # terms of a sum are all there at once.
    inner, _ = opened(jaxpr)
    results = {v for v in inner.outvars if not isinstance(v, jex.Literal)}
    readers: dict[Any, list[jex.JaxprEqn]] = {}
    for eqn in inner.eqns:
        for operand in operands_of(eqn):
            readers.setdefault(operand, []).append(eqn)

    def is_written(eqn: jex.JaxprEqn) -> bool:
        if eqn.primitive.name in _VIEWS:
            return False
        (first, *_), read_by = eqn.outvars, readers.get(eqn.outvars[0], [])
        is_passed_on = len(read_by) == 1 and _is_fused(read_by[0])
        return not (_is_fused(eqn) and is_passed_on and first not in results)

    # For each value, what is written to memory that it is made of; and when it is read.
    sources: dict[Any, set[Any]] = {}
    last: dict[Any, int] = {}
    for number, eqn in enumerate(inner.eqns):
        read = set().union(*(sources.get(v, set()) for v in operands_of(eqn)))
        written = is_written(eqn)
        sources.update((v, {v} if written else read) for v in eqn.outvars)
        if written:
            last.update(dict.fromkeys(read, number))
    for result in results:
        last.update(dict.fromkeys(sources.get(result, set()), len(inner.eqns)))
    ends: dict[int, list[Any]] = {}
    for value, number in last.items():
        ends.setdefault(number, []).append(value)
    held = most = 0
    for number, eqn in enumerate(inner.eqns):
        if not is_written(eqn):
            continue
        made, dying = _total(eqn.outvars), ends.get(number, [])
        reused = 0
        if _is_fused(eqn) or eqn.primitive.name in _IN_PLACE:
            reused = min(made, max(map(_bytes, dying), default=0))
        most = max(most, held + max(made - reused, _inside(eqn)))
        # What nothing reads is given back at once.
        held += sum(_bytes(v) for v in eqn.outvars if v in last) - _total(dying)
    return max(most, held)


def _is_fused(eqn: jex.JaxprEqn) -> bool:
    is_view = eqn.primitive.name in _VIEWS
    return is_view or eqn.primitive.name in _FUSED or primitive_of(eqn).is_elementwise


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
