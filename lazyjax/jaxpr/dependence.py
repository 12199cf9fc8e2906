"""What influences what in a jaxpr, as its derivative has it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jaxtyping import Array

from lazyjax.jaxpr.equations import (
    ELEMENTWISE,
    among,
    aval_of,
    called,
    is_smooth,
    of_smooth_operands,
    opened,
    operands_of,
)

# Whose derivative is zero everywhere.
_FLAT = frozenset({"ceil", "floor", "nextafter", "round", "sign", "stop_gradient"})
_LINEAR = """
broadcast_in_dim concatenate conv_general_dilated dot_general dynamic_slice expand_dims
gather pad reduce_max reduce_min reduce_sum reshape rev slice squeeze transpose
"""
# Whose results all depend on all operands that they have derivatives by.
_MIXING = (ELEMENTWISE - _FLAT) | frozenset(_LINEAR.split())


def depends(jaxpr: Any, met: Sequence[bool]) -> bool:
    """Whether a result of a jaxpr depends on some of its arguments, differentiably.

    Args:
        jaxpr: The jaxpr, open or closed.
        met: For each argument, whether it is one of those.

    Returns:
        Whether the derivative of any result by any of them is more than a zero.
    """
    # Nearly always there is a way without anything whose derivative must be taken.
    return any(_influenced(jaxpr, met, exact=False)) or any(
        _influenced(jaxpr, met, exact=True)
    )


def _influenced(jaxpr: Any, met: Sequence[bool], *, exact: bool) -> list[bool]:
    # For each result, whether it depends on arguments that are met; less if not exact.
    jaxpr, _ = opened(jaxpr)
    reached = {v for v, m in zip(jaxpr.invars, met, strict=True) if m and is_smooth(v)}
    for eqn in jaxpr.eqns:
        met = among(eqn.invars, reached)
        if not any(met):
            continue
        inner, name = called(eqn), eqn.primitive.name
        if inner is not None:
            found = _influenced(inner, met, exact=exact)
        elif name in _MIXING or name in _FLAT or not exact:
            found = [name in _MIXING] * len(eqn.outvars)
        else:
            found = _by_derivative(eqn, reached, jaxpr.debug_info)
        pairs = zip(eqn.outvars, found, strict=True)
        reached.update(v for v, is_met in pairs if is_met and is_smooth(v))
    return among(jaxpr.outvars, reached)


def _by_derivative(eqn: jex.JaxprEqn, reached: set[Any], debug_info: Any) -> list[bool]:
    # Control flow, rules of users and all that is not known: asked of JAX.
    operands = operands_of(eqn)
    met = [v in reached for v in operands if is_smooth(v)]
    smooth = [i for i, v in enumerate(eqn.outvars) if is_smooth(v)]

    def gradients(values: list[Array], cotangents: list[Array]) -> list[Array]:
        run, chosen = of_smooth_operands(eqn, debug_info, values)

        def of_met(some: list[Array]) -> list[Array]:
            given = iter(some)
            every = [next(given) if m else v for v, m in zip(chosen, met, strict=True)]
            results = run(every)
            return [results[i] for i in smooth]

        some = [v for v, m in zip(chosen, met, strict=True) if m]
        return jax.vjp(of_met, some)[1](cotangents)[0]

    jaxpr, _ = opened(
        jax.make_jaxpr(gradients)(
            [aval_of(v) for v in operands], [aval_of(eqn.outvars[i]) for i in smooth]
        )
    )
    found = [False] * len(eqn.outvars)
    for i, cotangent in zip(smooth, jaxpr.invars[len(operands) :], strict=True):
        reached = {cotangent}
        for step in jaxpr.eqns:
            if any(among(step.invars, reached)):
                reached.update(step.outvars)
        found[i] = any(among(jaxpr.outvars, reached))
    return found
