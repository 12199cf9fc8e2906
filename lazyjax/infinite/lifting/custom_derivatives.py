"""Functions with a derivative rule of their own: whether it is their derivative."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.infinite.lifting.values import Constant, Known, RefusalError, Value
from lazyjax.jaxpr.equations import aval_of, evaluate, opened

CUSTOM_CALLS = ("custom_jvp_call", "custom_vjp_call")


def check_custom_derivative(
    eqn: jex.JaxprEqn, operands: Sequence[Value], debug_info: Any
) -> None:
    """Check that a derivative rule is that of the function, at random numbers."""
    if eqn.primitive.name not in CUSTOM_CALLS or all(
        isinstance(operand, Constant | Known) for operand in operands
    ):
        return
    rng = np.random.default_rng(0)
    closed = jex.ClosedJaxpr(*opened(eqn.params["call_jaxpr"]))

    def draw(atom: Any, scale: float) -> Array:
        aval = aval_of(atom)
        return jnp.asarray(scale * rng.normal(size=(8, *aval.shape)), aval.dtype)

    random = [not isinstance(operand, Constant) for operand in operands]
    fixed = [operand.array for operand in operands if isinstance(operand, Constant)]
    atoms = [a for a, is_random in zip(eqn.invars, random, strict=True) if is_random]
    is_float = (jnp.issubdtype(aval_of(a).dtype, jnp.floating) for a in atoms)
    if not all(is_float) or any(value is None for value in fixed):
        raise RefusalError("has a derivative rule that cannot be checked")

    def merged(values: Sequence[Array]) -> list[Array]:
        drawn, given = iter(values), iter(fixed)
        return [next(drawn) if r else jnp.asarray(next(given)) for r in random]

    def both(points: list[Array], cotangents: tuple[Array, ...]) -> tuple[Any, Any]:
        fns = (
            lambda *v: tuple(evaluate(eqn, debug_info, *merged(v))),
            lambda *v: tuple(jex.jaxpr_as_fun(closed)(*merged(v))),
        )
        rule, true = (jax.vjp(fn, *points)[1](cotangents) for fn in fns)
        return rule, true

    compare = jax.jit(jax.vmap(both))
    for scale in (1.0, 1e6):
        with jax.ensure_compile_time_eval():
            points = [draw(atom, 2.0) for atom in atoms]
            cotangents = tuple(draw(atom, scale) for atom in eqn.outvars)
            rule, true = compare(points, cotangents)
        for first, second in zip(rule, true, strict=True):
            tolerance = 10 * float(jnp.finfo(first.dtype).eps) ** 0.5
            if not np.allclose(
                first, second, tolerance, scale * tolerance, equal_nan=True
            ):
                raise RefusalError("has a derivative rule that is not its derivative")
