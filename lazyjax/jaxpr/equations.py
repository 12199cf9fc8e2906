"""Equations of jaxprs, read and evaluated by public means only.

The forms of jaxprs and of the parameters of `scan` differ between JAX versions; what
is read here is what they have in common.
"""

import pathlib
import sysconfig
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.jaxpr.registry import primitive_of


def opened(jaxpr: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
    """The open jaxpr and the constants of a jaxpr that may be closed or open."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def called(eqn: jex.JaxprEqn) -> Any | None:
    """The jaxpr that `eqn` merely calls, or `None` if it does anything else."""
    key = primitive_of(eqn).call
    return None if key is None else eqn.params.get(key)


def is_jaxpr(part: Any) -> bool:
    """Whether a parameter of an equation is a jaxpr, open or closed."""
    return isinstance(part, (jex.Jaxpr, jex.ClosedJaxpr))


def equations(jaxpr: Any) -> Iterator[jex.JaxprEqn]:
    """All equations of a jaxpr, open or closed, and of those that it holds."""
    for eqn in opened(jaxpr)[0].eqns:
        yield eqn
        for part in filter(is_jaxpr, jax.tree.leaves(eqn.params)):
            yield from equations(part)


def primitives(jaxpr: Any) -> set[str]:
    """Names of all primitives in a jaxpr, open or closed, and in those it holds."""
    return {eqn.primitive.name for eqn in equations(jaxpr)}


def aval_of(atom: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an operand or result of an equation."""
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)


def scan_counts(eqn: jex.JaxprEqn) -> tuple[int, int]:
    """Numbers of constants and of carries of a `scan` equation."""
    # Scanned operands have one axis less inside the body than outside; all others have
    # the same shape on both sides.
    body, _ = opened(eqn.params["jaxpr"])
    num_scanned = sum(
        aval_of(outer).ndim > aval_of(inner).ndim
        for outer, inner in zip(eqn.invars, body.invars, strict=True)
    )
    num_carry = sum(
        aval_of(outer).ndim == aval_of(inner).ndim
        for outer, inner in zip(eqn.outvars, body.outvars, strict=True)
    )
    return len(eqn.invars) - num_scanned - num_carry, num_carry


def evaluate(eqn: jex.JaxprEqn, debug_info: Any, *values: Any) -> tuple[Array, ...]:
    """Outputs of `eqn` for given values of all its operands (literals included)."""
    # The equation is run as a jaxpr of its own, so custom derivative rules, control flow
    # and everything else keep their meaning. JAX may hand literals over as numbers.
    operands = {
        var: value
        for var, value in zip(eqn.invars, values, strict=True)
        if not isinstance(var, jex.Literal)
    }
    jaxpr = jex.Jaxpr(
        (), list(operands), eqn.outvars, [eqn], eqn.effects, debug_info=debug_info
    )
    return tuple(jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, ()))(*operands.values()))


def is_smooth(atom: Any) -> bool:
    """Whether there are derivatives by an operand or result: it is floating point."""
    return bool(jnp.issubdtype(atom.aval.dtype, jnp.inexact))


def among(atoms: Sequence[Any], variables: Collection[Any]) -> list[bool]:
    """For each operand or result, whether it is one of some variables."""
    return [not isinstance(v, jex.Literal) and v in variables for v in atoms]


def operands_of(eqn: jex.JaxprEqn) -> list[Any]:
    """The variables among the operands of an equation, each once."""
    return list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, jex.Literal)))


def live_equations(jaxpr: jex.Jaxpr) -> list[jex.JaxprEqn]:
    """Equations that results depend on, in order."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, jex.Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if any(v in wanted for v in eqn.outvars):
            wanted.update(operands_of(eqn))
            live.append(eqn)
    return live[::-1]


def of_smooth_operands(
    eqn: jex.JaxprEqn, debug_info: Any, values: Sequence[Array]
) -> tuple[Callable[[list[Array]], tuple[Array, ...]], list[Array]]:
    """An equation as a function of operands it has derivatives by, and their values."""
    operands = operands_of(eqn)
    known = dict(zip(operands, values, strict=True))
    smooth = [v for v in operands if is_smooth(v)]

    def run(chosen: list[Array]) -> tuple[Array, ...]:
        all_known = {**known, **dict(zip(smooth, chosen, strict=True))}
        return evaluate(
            eqn,
            debug_info,
            *(
                v.val if isinstance(v, jex.Literal) else all_known[v]
                for v in eqn.invars
            ),
        )

    return run, [known[v] for v in smooth]


def source_lines(eqn: jex.JaxprEqn) -> list[tuple[str, str]]:
    """File and line, and function, of user's frames of an equation, innermost first."""
    traceback = getattr(eqn.source_info, "traceback", None)
    return [
        (f"{frame.file_name}:{frame.line_num}", frame.function_name)
        for frame in getattr(traceback, "frames", ())
        if not _is_of_library(pathlib.PurePath(frame.file_name))
    ]


# Packages whose own lines tell users nothing about their networks.
_LIBRARIES = frozenset({"jax", "flax", "equinox", "opt_einsum", "jaxtyping"})


def _is_of_library(path: pathlib.PurePath) -> bool:
    is_standard = path.is_relative_to(sysconfig.get_path("stdlib"))
    is_installed = "site-packages" in path.parts
    return bool(_LIBRARIES & set(path.parts)) or (is_standard and not is_installed)
