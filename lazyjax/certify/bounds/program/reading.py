"""The program of one example, as a list of equations without calls and loops."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.certify.bounds.program.enclosing.enclosure import UnsupportedError
from lazyjax.certify.bounds.program.known.calls import (
    activation_of,
    known_function,
)
from lazyjax.certify.bounds.program.known.extremes import extreme, with_derivatives
from lazyjax.certify.bounds.program.known.patterns import Pattern, pattern_of
from lazyjax.jaxpr.equations import (
    aval_of,
    called,
    evaluate,
    live_equations,
    opened,
    scan_counts,
)
from lazyjax.jaxpr.registry import primitive_of
from lazyjax.typing import ApplyFn

# Equations of loops that are unrolled, at most.
_MOST_EQUATIONS = 20_000


@dataclasses.dataclass(frozen=True)
class ExampleProgram:
    """The network of one example: leaves of parameters and an example to outputs.

    Attributes:
        closed: The program.
        num_leaves: Number of leaves, the first arguments.
        trained: Leaves that the outputs have derivatives by.
        steps: Equations through which outputs depend on trained leaves, in order.
        patterns: What several equations compute together, by the last variable of each.
        moving: Variables that depend on trained leaves.
        of_example: Variables that depend on the example.
    """

    closed: jex.ClosedJaxpr
    num_leaves: int
    trained: tuple[int, ...]
    steps: tuple[jex.JaxprEqn, ...]
    patterns: dict[Any, Pattern]
    moving: frozenset[Any]
    of_example: frozenset[Any]

    @property
    def fn(self) -> Callable[..., Array]:
        """Outputs `(k,)`, as a function of leaves and example."""
        run = jex.jaxpr_as_fun(self.closed)
        return lambda *arguments: run(*arguments)[0]

    @property
    def result(self) -> Any:
        """The variable of the outputs."""
        return self.closed.jaxpr.outvars[0]


def read_program(
    apply_fn: ApplyFn, params: Any, example: jax.ShapeDtypeStruct
) -> ExampleProgram:
    """The program of one example.

    Args:
        apply_fn: Network.
        params: Its parameters; only their shapes and dtypes are used.
        example: Shape and dtype of an example, without the axis of the batch.

    Returns:
        The program.

    Raises:
        UnsupportedError: If bounds do not cover it.
    """
    leaves, structure = jax.tree.flatten(params)

    def of_leaves(*arguments: Array) -> Array:
        *leaves, x = arguments
        return apply_fn(jax.tree.unflatten(structure, leaves), x[None])[0]

    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    traced = jax.make_jaxpr(of_leaves)(*like, example)
    flat = jax.make_jaxpr(functools.partial(_flat, *opened(traced)))(*like, example)
    return _analyzed(flat, len(leaves))


def _flat(jaxpr: jex.Jaxpr, consts: Sequence[Any], *arguments: Any) -> list[Any]:
    """Results of a program, evaluated equation by equation."""
    known = dict(zip(jaxpr.invars, arguments, strict=True))
    known.update(zip(jaxpr.constvars, consts, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else known[atom]

    derived = with_derivatives(jaxpr)
    for eqn in live_equations(jaxpr):
        values = [read(atom) for atom in eqn.invars]
        chosen = extreme(eqn, values) if derived.intersection(eqn.outvars) else None
        if chosen is not None:
            results: Sequence[Any] = [chosen]
        else:
            results = _flat_equation(eqn, jaxpr.debug_info, values)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _flat_equation(
    eqn: jex.JaxprEqn, debug_info: Any, values: list[Any]
) -> Sequence[Any]:
    name = eqn.primitive.name
    if name in ("custom_jvp_call", "custom_vjp_call"):
        # Kept as it is, so that its rule is that of the derivative.
        if known_function(eqn, debug_info) is None:
            raise UnsupportedError(
                f"{name} of {_name(eqn)}, and its own rule for the derivative is not "
                "known to be right"
            )
        return evaluate(eqn, debug_info, *values)
    if activation_of(eqn, debug_info) is not None:
        return evaluate(eqn, debug_info, *values)
    inner = called(eqn)
    if inner is not None:
        return _flat(*opened(inner), *values)
    if name == "scan":
        return _unrolled(eqn, values)
    if name == "max":  # which has a derivative at ties that complicates others
        return [_chosen(values[0] > values[1], values[1], values[0], eqn)]
    if name == "min":
        return [_chosen(values[0] < values[1], values[1], values[0], eqn)]
    return evaluate(eqn, debug_info, *values)


def _name(eqn: jex.JaxprEqn) -> str:
    """Name of the function that an equation calls, as far as it has one."""
    inner, _ = opened(eqn.params["call_jaxpr"])
    return getattr(inner.debug_info, "func_name", None) or "a function"


def _chosen(which: Array, otherwise: Any, then: Any, eqn: jex.JaxprEqn) -> Array:
    aval = aval_of(eqn.outvars[0])
    cases = [
        jnp.broadcast_to(jnp.asarray(case, aval.dtype), aval.shape)
        for case in (otherwise, then)
    ]
    return lax.select_n(jnp.broadcast_to(which, aval.shape), *cases)


def _unrolled(eqn: jex.JaxprEqn, values: list[Any]) -> list[Any]:
    body, consts = opened(eqn.params["jaxpr"])
    length = eqn.params["length"]
    if length * len(body.eqns) > _MOST_EQUATIONS:
        raise UnsupportedError(
            f"scan of {length} steps, more than are unrolled ({_MOST_EQUATIONS} "
            "equations)"
        )
    num_consts, num_carry = scan_counts(eqn)
    fixed, carry = values[:num_consts], values[num_consts : num_consts + num_carry]
    scanned = values[num_consts + num_carry :]
    collected = []
    order = range(length)[::-1] if eqn.params["reverse"] else range(length)
    for step in order:
        pieces = [lax.index_in_dim(part, step, keepdims=False) for part in scanned]
        results = _flat(body, consts, *fixed, *carry, *pieces)
        carry = results[:num_carry]
        collected.append(results[num_carry:])
    if eqn.params["reverse"]:
        collected.reverse()
    if not collected:
        raise UnsupportedError("scan of no steps")
    return [
        *carry,
        *(
            jnp.concatenate([part[None] for part in parts])
            for parts in zip(*collected, strict=True)
        ),
    ]


def _analyzed(closed: jex.ClosedJaxpr, num_leaves: int) -> ExampleProgram:
    jaxpr, _ = opened(closed)
    made_by = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    leaves = jaxpr.invars[:num_leaves]
    example = jaxpr.invars[num_leaves]
    patterns = {
        eqn.outvars[0]: found
        for eqn in jaxpr.eqns
        if (found := pattern_of(eqn, made_by)) is not None
    }
    # Leaves with no derivative do not move in training.
    by = _depends_on(jaxpr, patterns, {v: {v} for v in leaves if _is_float(v)})
    trained = [i for i, v in enumerate(leaves) if v in by.get(jaxpr.outvars[0], ())]
    moving = _depends_on(
        jaxpr, {}, {leaves[i]: {i} for i in trained}, is_through_flat=True
    )
    of_example = _depends_on(jaxpr, {}, {example: {0}}, is_through_flat=True)
    steps, wanted = [], {jaxpr.outvars[0]}
    for eqn in reversed(jaxpr.eqns):
        if not any(v in wanted and v in moving for v in eqn.outvars):
            continue
        steps.append(eqn)
        wanted.update(
            v
            for v in inputs_of(eqn, patterns)
            if not isinstance(v, jex.Literal) and v in moving
        )
    return ExampleProgram(
        closed=closed,
        num_leaves=num_leaves,
        trained=tuple(trained),
        steps=tuple(reversed(steps)),
        patterns=patterns,
        moving=frozenset(moving),
        of_example=frozenset(of_example),
    )


def inputs_of(eqn: jex.JaxprEqn, patterns: dict[Any, Pattern]) -> Sequence[Any]:
    """Operands that a result is bounded by: those of an equation, or of a pattern.

    Args:
        eqn: The equation.
        patterns: Of the program.

    Returns:
        The operands.
    """
    pattern = patterns.get(eqn.outvars[0])
    return eqn.invars if pattern is None else [pattern.operand]


def _is_float(atom: Any) -> bool:
    return bool(jnp.issubdtype(aval_of(atom).dtype, jnp.inexact))


def _depends_on(
    jaxpr: jex.Jaxpr,
    patterns: dict[Any, Pattern],
    start: dict[Any, set[Any]],
    *,
    is_through_flat: bool = False,
) -> dict[Any, set[Any]]:
    """What each variable depends on; by default, has derivatives by."""
    found = dict(start)
    for eqn in jaxpr.eqns:
        if not is_through_flat and primitive_of(eqn).dependence == "zero":
            continue
        depends = set().union(
            *(
                found.get(v, ())
                for v in inputs_of(eqn, patterns)
                if not isinstance(v, jex.Literal)
            )
        )
        for var in eqn.outvars:
            if depends and (is_through_flat or _is_float(var)):
                found[var] = depends
    return found


def variables(program: ExampleProgram) -> Iterator[Any]:
    """Variables whose values bounds are read from: operands and results of steps."""
    seen = set()
    for eqn in program.steps:
        pattern = program.patterns.get(eqn.outvars[0])
        read = [] if pattern is None else pattern.variables
        for atom in (*inputs_of(eqn, program.patterns), *read, *eqn.outvars):
            if not isinstance(atom, jex.Literal) and atom not in seen:
                seen.add(atom)
                yield atom
