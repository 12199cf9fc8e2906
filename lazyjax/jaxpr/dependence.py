"""What influences what in a jaxpr, as its derivative has it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jaxtyping import Array

from lazyjax.jaxpr.equations import (
    among,
    aval_of,
    called,
    is_smooth,
    of_smooth_operands,
    opened,
    operands_of,
)
from lazyjax.jaxpr.registry import primitive_of


def depends(jaxpr: Any, chosen: Sequence[bool]) -> bool:
    """Whether a result of a jaxpr depends on arguments chosen, differentiably."""
    # Nearly always a path of primitives of known dependence is found first.
    return any(_influenced(jaxpr, chosen, exact=False)) or any(
        _influenced(jaxpr, chosen, exact=True)
    )


def _influenced(jaxpr: Any, chosen: Sequence[bool], *, exact: bool) -> list[bool]:
    """For each result, whether it depends on chosen arguments; if not exact, perhaps."""
    jaxpr, _ = opened(jaxpr)
    arguments = zip(jaxpr.invars, chosen, strict=True)
    reached = {v for v, is_chosen in arguments if is_chosen and is_smooth(v)}
    for eqn in jaxpr.eqns:
        operands = among(eqn.invars, reached)
        if not any(operands):
            continue
        inner, dependence = called(eqn), primitive_of(eqn).dependence
        if inner is not None:
            found = _influenced(inner, operands, exact=exact)
        elif dependence is not None or not exact:
            found = [dependence == "every"] * len(eqn.outvars)
        else:
            found = _by_derivative(eqn, reached, jaxpr.debug_info)
        results = zip(eqn.outvars, found, strict=True)
        reached.update(v for v, depends in results if depends and is_smooth(v))
    return among(jaxpr.outvars, reached)


def _by_derivative(eqn: jex.JaxprEqn, reached: set[Any], debug_info: Any) -> list[bool]:
    """The same of one equation, read off the program that JAX makes of its gradient."""
    operands = operands_of(eqn)
    varied = [v in reached for v in operands if is_smooth(v)]
    smooth = [i for i, v in enumerate(eqn.outvars) if is_smooth(v)]

    def gradients(values: list[Array], cotangents: list[Array]) -> list[Array]:
        run, chosen = of_smooth_operands(eqn, debug_info, values)

        def of_varied(some: list[Array]) -> list[Array]:
            given = iter(some)
            pairs = zip(chosen, varied, strict=True)
            results = run([next(given) if is_varied else v for v, is_varied in pairs])
            return [results[i] for i in smooth]

        some = [v for v, is_varied in zip(chosen, varied, strict=True) if is_varied]
        return jax.vjp(of_varied, some)[1](cotangents)[0]

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
