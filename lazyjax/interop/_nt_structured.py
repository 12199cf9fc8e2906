"""What neural-tangents' structured derivatives need of JAX, by public means.

The method walks a linear jaxpr and transposes its equations one by one. It took both
from the internals of JAX, which have changed; the walk itself, and the rules for the
structure of each primitive, are still its own.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax


def replacements(empirical: ModuleType) -> dict[str, object]:
    """Functions to take the place of those of `empirical`, by name."""

    def primals_out_and_pullback(
        fn: Callable[..., Any],
        mode: Any,
        j_rules: bool,
        s_rules: bool,
        fwd: bool | None,
        *primals: Any,
    ) -> tuple[Any, Callable[..., Any]]:
        """Outputs of `fn`, and the walk backwards through its linearization."""
        flat, in_tree = jax.tree.flatten(primals)
        with jax.disable_jit():  # the walk knows no calls
            outputs, tangents_fn = jax.linearize(fn, *primals)
            linear = jax.make_jaxpr(
                lambda *tangents: tangents_fn(*jax.tree.unflatten(in_tree, tangents))
            )(*flat)

        def pullback(*cotangents: Any) -> Any:
            found = empirical._backward_pass(
                linear.jaxpr,
                mode=mode,
                consts=linear.consts,
                primals_in=[
                    empirical.UndefinedPrimal(var.aval) for var in linear.jaxpr.invars
                ],
                cotangents_in=tuple(jax.tree.leaves(cotangents)),
                _j_rules=j_rules,
                _s_rules=s_rules,
                _fwd=fwd,
            )
            return jax.tree.unflatten(in_tree, found)

        return outputs, pullback

    def eqn_vjp(eqn: Any, cotangent: Any, *values: Any) -> Sequence[Any] | type:
        """Cotangents of the inputs that `values` does not define; None for others."""
        if eqn is None:  # the identity
            return (cotangent,)
        if isinstance(cotangent, empirical.Zero):
            return empirical.Zero
        is_linear = [isinstance(v, empirical.UndefinedPrimal) for v in values]

        def fn(linear_values: list[Any]) -> Any:
            remaining = iter(linear_values)
            inputs = [
                next(remaining) if linear else value
                for linear, value in zip(is_linear, values, strict=True)
            ]
            return eqn.primitive.bind(*inputs, **eqn.params)

        avals = [
            jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype)
            for linear, value in zip(is_linear, values, strict=True)
            if linear
        ]
        cotangent = cotangent.astype(eqn.outvars[0].aval.dtype)
        cotangents = iter(jax.linear_transpose(fn, avals)(cotangent)[0])
        return [next(cotangents) if linear else None for linear in is_linear]

    return {
        "_get_primals_out_and_pullback": primals_out_and_pullback,
        "_eqn_vjp_fn": eqn_vjp,
        "_get_flops": _flops,
    }


def _flops(fn: Callable[..., Any], optimize: bool, *args: Any, **options: Any) -> float:
    """Operations that the compiler counts; by them, `AUTO` chooses a method."""
    lowered = jax.jit(fn).lower(*args, **options)
    analysis = (lowered.compile() if optimize else lowered).cost_analysis()
    return analysis["flops"]  # pyright: ignore[reportOptionalSubscript]
