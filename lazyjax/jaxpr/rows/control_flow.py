"""Rules of equations that hold programs: calls, custom derivatives, branches and loops.

Each is given the walk, the equation at both batch sizes and that of a single row, and
returns the labels of the results.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lazyjax.jaxpr.equations import (
    aval_of,
    called,
    is_smooth,
    scan_counts,
)
from lazyjax.jaxpr.labels import FIXED, UNKNOWN, EquationPair, Label, Rows
from lazyjax.jaxpr.rows.scope import StructureMismatchError, require

if TYPE_CHECKING:
    from lazyjax.jaxpr.rows.walk import Walk


def nested_rule(eqn: jex.JaxprEqn) -> Callable[..., list[Label]] | None:
    """The rule of an equation that holds programs; `None` if it has none."""
    return _call if called(eqn) is not None else _RULES.get(eqn.primitive.name)


def has_derivative_rule(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation is a call that has a rule for its derivative."""
    return _RULES.get(eqn.primitive.name) is _custom


def _call(walk: "Walk", pair: EquationPair, single: jex.JaxprEqn) -> list[Label]:
    """Labels of the results of a mere call."""
    jaxprs = [called(e) for e in (*pair.eqns, single)]
    try:
        return walk.closed(jaxprs, pair.labels)
    except StructureMismatchError:
        names = {e.params.get("name") for e in (*pair.eqns, single)}
        require(names == {"take_along_axis"})
        return [_taken_along_axis(pair, single)]


def _custom(walk: "Walk", pair: EquationPair, single: jex.JaxprEqn) -> list[Label]:
    """Labels of the results of a call that has a rule for its derivative."""
    eqns = (*pair.eqns, single)
    labels = walk.closed([e.params["call_jaxpr"] for e in eqns], pair.labels)
    if walk.is_derived:
        return labels
    derivatives = [walk.derivatives[id(eqn)] for eqn in eqns]
    operands = zip(pair.eqns[0].invars, pair.labels, strict=True)
    known = {
        atom: label for atom, label in operands if not isinstance(atom, jex.Literal)
    }
    moved = [label for atom, label in known.items() if is_smooth(atom)]
    derived = type(walk)(walk.sizes, is_derived=True)
    found = derived.closed(derivatives, [*known.values(), *moved])
    smooth = map(is_smooth, pair.eqns[0].outvars)
    tangents = [label for label, s in zip(labels, smooth, strict=True) if s]
    require(found == [*labels, *tangents])
    return labels


def _cond(walk: "Walk", pair: EquationPair, single: jex.JaxprEqn) -> list[Label]:
    """Labels of what a branch gives that is chosen for all rows at once."""
    index, *operands = pair.labels
    require(index is FIXED)
    branches = zip(*_of_all(pair, single, "branches"), strict=True)
    labels, *others = [walk.closed(cases, operands) for cases in branches]
    require(all(other == labels for other in others))
    return labels


def _scan(walk: "Walk", pair: EquationPair, single: jex.JaxprEqn) -> list[Label]:
    """Labels of the results of a loop, over rows or over anything else."""
    jaxprs = _of_all(pair, single, "jaxpr")
    keys = pair.params.keys() - {"jaxpr", "length", "linear", "_split_transpose"}
    for key in keys:
        values = _of_all(pair, single, key)
        require(all(walk.same(values[0], other) for other in values[1:]))
    num_consts, num_carry = scan_counts(pair.eqns[0])
    for e in (pair.eqns[1], single):
        require(scan_counts(e) == (num_consts, num_carry))
    consts = pair.labels[:num_consts]
    carry = list(pair.labels[num_consts : num_consts + num_carry])
    scanned = pair.labels[num_consts + num_carry :]
    lengths = _of_all(pair, single, "length")
    if lengths == (*walk.sizes, 1):
        # A loop over rows, each by itself: in the body there is one, and no batch.
        require(not num_carry and set(scanned) == {Rows(0)})
        results = walk.closed(jaxprs, [*consts, *(FIXED for _ in scanned)])
        require(set(results) == {FIXED})
        return [Rows(0)] * len(results)
    require(len(set(lengths)) == 1)
    pieces = [_moved(label, -1) for label in scanned]
    results = walk.closed(jaxprs, [*consts, *carry, *pieces])
    require(results[:num_carry] == carry)
    return [*carry, *(_moved(label, 1) for label in results[num_carry:])]


def _while_loop(walk: "Walk", pair: EquationPair, single: jex.JaxprEqn) -> list[Label]:
    """Labels of the results of a loop that goes on for all rows alike."""
    counts = []
    for key in ("cond_nconsts", "body_nconsts"):
        values = _of_all(pair, single, key)
        require(len(set(values)) == 1)
        counts.append(values[0])
    num_cond, num_body = counts
    cond_consts = pair.labels[:num_cond]
    body_consts = pair.labels[num_cond : num_cond + num_body]
    carry = list(pair.labels[num_cond + num_body :])
    bodies, conditions = (
        _of_all(pair, single, key) for key in ("body_jaxpr", "cond_jaxpr")
    )
    require(walk.closed(bodies, [*body_consts, *carry]) == carry)
    require(walk.closed(conditions, [*cond_consts, *carry]) == [FIXED])
    return carry


def _of_all(pair: EquationPair, single: jex.JaxprEqn, key: str) -> tuple[Any, Any, Any]:
    """A parameter of an equation at both batch sizes and for a single row."""
    return *pair.both(key), single.params[key]


def _taken_along_axis(pair: EquationPair, single: jex.JaxprEqn) -> Label:
    """Label of what `jnp.take_along_axis` takes, if this is what is called.

    Its program is another one where an axis is of length 1.

    Args:
        pair: The call at both batch sizes.
        single: The call for a single row.

    Returns:
        The label.
    """
    rows = pair.common
    eqns = (*pair.eqns, single)
    if rows is None or len(pair.labels) != 2 or FIXED in pair.labels:
        return UNKNOWN
    avals = [[aval_of(v) for v in e.invars] for e in eqns]
    for axis in range(len(pair.result()[0])):
        take = functools.partial(jnp.take_along_axis, axis=axis)
        known = [jax.make_jaxpr(take)(*of_size).eqns[0] for of_size in avals]
        programs = [[str(called(e)) for e in some] for some in (known, eqns)]
        if axis != rows.axis and programs[0] == programs[1]:
            return rows
    return UNKNOWN


def _moved(label: Label, by: int) -> Label:
    """A label once the first axis is taken away, or a new one is put before it."""
    if not isinstance(label, Rows):
        return label
    return Rows(label.axis + by, label.inner) if label.axis + by >= 0 else UNKNOWN


_RULES: dict[str, Callable[..., list[Label]]] = {
    "cond": _cond,
    "custom_jvp_call": _custom,
    "custom_vjp_call": _custom,
    "optimization_barrier": lambda walk, pair, *_: list(pair.labels),
    "scan": _scan,
    "while": _while_loop,
}
