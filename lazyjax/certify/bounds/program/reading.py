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

from lazyjax.certify.bounds.program.enclosures import UnsupportedError
from lazyjax.certify.bounds.program.known_calls import (
    activation_of,
    known_function,
)
from lazyjax.jaxpr.equations import (
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
class Softmax:
    """Where a program divides exponentials by their sum along axes.

    Attributes:
        operand: What the exponentials are of, up to a number for each sum, which does
            not matter.
        axes: The axes.
    """

    operand: Any
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ExampleProgram:
    """The network of one example: leaves of parameters and an example to outputs.

    Attributes:
        closed: The program.
        num_leaves: Number of leaves, the first arguments.
        trained: Leaves that the outputs have derivatives by.
        steps: Equations through which outputs depend on trained leaves, in order.
        softmaxes: By the last variable of each.
        moving: Variables that depend on trained leaves.
        of_example: Variables that depend on the example.
    """

    closed: jex.ClosedJaxpr
    num_leaves: int
    trained: tuple[int, ...]
    steps: tuple[jex.JaxprEqn, ...]
    softmaxes: dict[Any, Softmax]
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

    for eqn in live_equations(jaxpr):
        values = [read(atom) for atom in eqn.invars]
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
    aval = eqn.outvars[0].aval
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
    softmaxes = {
        eqn.outvars[0]: found
        for eqn in jaxpr.eqns
        if (found := _softmax(eqn, made_by)) is not None
    }
    # Leaves with no derivative do not move in training.
    by = _depends_on(jaxpr, softmaxes, {v: {v} for v in leaves if _is_float(v)})
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
            for v in inputs_of(eqn, softmaxes)
            if not isinstance(v, jex.Literal) and v in moving
        )
    return ExampleProgram(
        closed=closed,
        num_leaves=num_leaves,
        trained=tuple(trained),
        steps=tuple(reversed(steps)),
        softmaxes=softmaxes,
        moving=frozenset(moving),
        of_example=frozenset(of_example),
    )


def inputs_of(eqn: jex.JaxprEqn, softmaxes: dict[Any, Softmax]) -> Sequence[Any]:
    """Operands that a result is bounded by: those of an equation, or of a softmax.

    Args:
        eqn: The equation.
        softmaxes: Of the program.

    Returns:
        The operands.
    """
    softmax = softmaxes.get(eqn.outvars[0])
    return eqn.invars if softmax is None else [softmax.operand]


def _is_float(atom: Any) -> bool:
    return bool(jnp.issubdtype(atom.aval.dtype, jnp.inexact))


def _depends_on(
    jaxpr: jex.Jaxpr,
    softmaxes: dict[Any, Softmax],
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
                for v in inputs_of(eqn, softmaxes)
                if not isinstance(v, jex.Literal)
            )
        )
        for var in eqn.outvars:
            if depends and (is_through_flat or _is_float(var)):
                found[var] = depends
    return found


def _softmax(eqn: jex.JaxprEqn, made_by: dict[Any, jex.JaxprEqn]) -> Softmax | None:
    """The softmax that a quotient is, if it is exp(a - c) over its sum along axes.

    It does not depend on c if that is constant along the axes.
    """
    if eqn.primitive.name != "div":
        return None
    top, bottom = (_source(v, made_by) for v in eqn.invars)
    if top is None or bottom is None or top.primitive.name != "exp":
        return None
    total = _source(bottom.invars[0], made_by, through=("reshape",))
    if total is None or total.primitive.name != "reduce_sum":
        return None
    axes = tuple(total.params["axes"])
    shape = top.outvars[0].aval.shape
    if total.invars[0] is not eqn.invars[0] or not _is_spread(bottom, axes, shape):
        return None
    exponent = top.invars[0]
    shifted = _source(exponent, made_by)
    if shifted is not None and shifted.primitive.name == "sub":
        if _is_constant_along(shifted.invars[1], axes, made_by):
            exponent = shifted.invars[0]
    if isinstance(exponent, jex.Literal) or exponent.aval.shape != shape:
        return None
    return Softmax(exponent, axes)


def _source(
    atom: Any, made_by: dict[Any, jex.JaxprEqn], through: tuple[str, ...] = ()
) -> jex.JaxprEqn | None:
    """The equation that makes a value, behind those that are looked through."""
    eqn = None if isinstance(atom, jex.Literal) else made_by.get(atom)
    while eqn is not None and eqn.primitive.name in through:
        atom = eqn.invars[0]
        eqn = None if isinstance(atom, jex.Literal) else made_by.get(atom)
    return eqn


def _is_constant_along(
    atom: Any, axes: tuple[int, ...], made_by: dict[Any, jex.JaxprEqn]
) -> bool:
    """Whether a value is the same along axes, as it is broadcast along them."""
    shape = atom.aval.shape
    if not shape or all(shape[axis] == 1 for axis in axes):
        return True
    eqn = _source(atom, made_by, through=("stop_gradient",))
    if eqn is None or eqn.primitive.name != "broadcast_in_dim":
        return False
    kept = dict(
        zip(eqn.params["broadcast_dimensions"], eqn.invars[0].aval.shape, strict=True)
    )
    return all(kept.get(axis, 1) == 1 for axis in axes)


def _is_spread(
    spread: jex.JaxprEqn, axes: tuple[int, ...], shape: tuple[int, ...]
) -> bool:
    """Whether sums along axes are put back where their terms were."""
    before, after = (v.aval.shape for v in (spread.invars[0], spread.outvars[0]))
    if len(after) != len(shape):
        return False
    wide = [a for a, size in enumerate(shape) if a not in axes and size != 1]
    if spread.primitive.name == "broadcast_in_dim":
        numbers = spread.params["broadcast_dimensions"]
        kept = [a for a, size in zip(numbers, before, strict=True) if size != 1]
    elif spread.primitive.name in ("reshape", "expand_dims"):
        kept = [a for a, size in enumerate(after) if size != 1]
    else:
        return False
    # Axes of more than one entry stay in order, through any reshaping by ones.
    return kept == wide and all(after[a] == shape[a] for a in wide)


def variables(program: ExampleProgram) -> Iterator[Any]:
    """Variables whose values bounds are read from: operands and results of steps."""
    seen = set()
    for eqn in program.steps:
        for atom in (*inputs_of(eqn, program.softmaxes), *eqn.invars, *eqn.outvars):
            if not isinstance(atom, jex.Literal) and atom not in seen:
                seen.add(atom)
                yield atom
