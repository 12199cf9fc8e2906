"""Sites whose outputs go through an elementwise function and are then summed.

So do those of the last convolution before global pooling. Their cotangents are products
of one factor for each output of the network and one for each position, which makes
gradients by them much cheaper.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.jaxpr.equations import among, aval_of, called, live_equations, opened
from lazyjax.jaxpr.registry import primitive_of
from lazyjax.ntk.trace.sites import (
    ExampleRef,
    ExampleStep,
    ParamRef,
    Pool,
    Program,
    Ref,
    ScanStep,
    Site,
)

# Calls with a rule for their derivative: whether they are elementwise is seen later.
_CUSTOM_CALLS = frozenset({"custom_jvp_call", "custom_vjp_call"})

AvalOf = Callable[[Ref], jax.ShapeDtypeStruct]


def with_pools(
    program: Program,
    sites: Sequence[Site],
    starts: Mapping[int, int],
    uses: Mapping[int, int],
    aval_of_ref: AvalOf,
    perturb: Callable[[jax.ShapeDtypeStruct], int],
    new_record: Callable[[], int],
) -> tuple[Program, list[Site]]:
    """The same network with the pools of its sites found, at its outermost level."""
    # `starts` has, for the perturbation of each site, the example value that is its
    # output; `uses`, how often each example value is used.
    pools: dict[int, Pool] = {}
    ends: dict[int, list[Pool]] = {}
    at_ends: dict[int, int] = {}
    for own in {s.perturbation for s in sites if s.record is not None and not s.depth}:
        found = _path(program, starts[own], uses, aval_of_ref)
        if found is None:
            continue
        steps, end = found
        (result,) = end.outputs
        if result not in at_ends:
            at_ends[result] = perturb(aval_of_ref(ExampleRef(result)))
        axes = tuple(int(axis) for axis in end.eqn.params["axes"]) if end.eqn else ()
        pools[own] = Pool(starts[own], steps, axes, at_ends[result], new_record())
        ends.setdefault(result, []).append(pools[own])
    steps = [
        dataclasses.replace(
            step, perturbation=at_ends[result], pools=tuple(ends[result])
        )
        if isinstance(step, ExampleStep) and (result := step.outputs[0]) in ends
        else step
        for step in program.steps
    ]
    inside = {**program.perturbations, **dict.fromkeys(at_ends.values(), ())}
    program = dataclasses.replace(program, steps=tuple(steps), perturbations=inside)
    return program, [
        dataclasses.replace(site, pool=pools.get(site.perturbation)) for site in sites
    ]


def derivatives(pool: Pool, read: Callable[[Ref], Array]) -> Array:
    """Derivative of each entry of what is summed by the same entry of the start."""
    start = lax.stop_gradient(read(ExampleRef(pool.start)))
    fixed = lambda ref: lax.stop_gradient(read(ref))
    value, pullback = jax.vjp(
        lambda start: _evaluated(pool.start, pool.steps, start, fixed), start
    )
    return pullback(jnp.ones_like(value))[0]


def _evaluated(
    number: int,
    steps: Sequence[ExampleStep],
    start: Array,
    read: Callable[[Ref], Array],
) -> Array:
    # The value that comes out of the steps, from that of example value `number`.
    values: dict[Ref, Array] = {ExampleRef(number): start}
    result = start
    for step in steps:
        operands = [values[ref] if ref in values else read(ref) for ref in step.inputs]
        (result,) = step.evaluate(*operands)
        values[ExampleRef(step.outputs[0])] = result
    return result


def _path(
    program: Program, start: int, uses: Mapping[int, int], aval_of_ref: AvalOf
) -> tuple[tuple[ExampleStep, ...], ExampleStep] | None:
    # The steps from a value to the one sum that all its influence goes through.
    shape = aval_of_ref(ExampleRef(start)).shape
    counts = {start: 0}
    steps: list[ExampleStep] = []
    end: ExampleStep | None = None
    for step in program.steps:
        inputs = () if isinstance(step, ScanStep) else step.inputs
        reached = [
            ref.id for ref in inputs if isinstance(ref, ExampleRef) and ref.id in counts
        ]
        if not reached:
            continue
        assert isinstance(step, ExampleStep)
        for value in reached:
            counts[value] += 1
        if end is not None or step.eqn is None or len(step.outputs) != 1:
            return None
        if step.eqn.primitive.name == "reduce_sum":
            end = step
        elif (
            primitive_of(step.eqn).is_elementwise
            or step.eqn.primitive.name in _CUSTOM_CALLS
        ) and aval_of_ref(ExampleRef(step.outputs[0])).shape == shape:
            steps.append(step)
            counts[step.outputs[0]] = 0
        else:
            return None
    if end is None or end.perturbation is not None:
        return None
    (summed,) = end.inputs
    last = steps[-1].outputs[0] if steps else start
    # All uses are known, and only the last value is used outside.
    is_used_elsewhere = any(counts[value] != uses[value] for value in counts)
    if summed != ExampleRef(last) or is_used_elsewhere:
        return None
    found = tuple(steps)
    return (found, end) if _is_elementwise(found, start, aval_of_ref) else None


def _is_elementwise(
    steps: Sequence[ExampleStep], start: int, aval_of_ref: AvalOf
) -> bool:
    # Read off the derivative as JAX takes it, by custom rules too.
    inside = {start, *(step.outputs[0] for step in steps)}
    refs = {ref for step in steps for ref in step.inputs}
    others = [ref for ref in refs if isinstance(ref, ParamRef) or ref.id not in inside]
    like = aval_of_ref(ExampleRef(start))

    def derivative(value: Array, tangent: Array, known: list[Array]) -> Array:
        read = dict(zip(others, known, strict=True)).__getitem__
        run = lambda value: _evaluated(start, steps, value, read)
        return jax.jvp(run, (value,), (tangent,))[1]

    try:
        closed = jax.make_jaxpr(derivative)(
            like, like, [aval_of_ref(o) for o in others]
        )
    except TypeError:  # there is no derivative in forward mode
        return False
    jaxpr, _ = opened(closed)
    return _keeps_entries(jaxpr, set(jaxpr.invars[:2]), like.shape)


def _keeps_entries(
    jaxpr: jex.Jaxpr, dependent: set[Any], shape: tuple[int, ...]
) -> bool:
    # Whether all that is needed and made of `dependent` is made entry by entry.
    # Derivatives by custom rules leave the calls that they are of, without a use.
    for eqn in live_equations(jaxpr):
        reached = among(eqn.invars, dependent)
        if not any(reached):
            continue
        inner = called(eqn)
        if inner is not None:
            body, _ = opened(inner)
            inputs = {v for v, m in zip(body.invars, reached, strict=True) if m}
            if not _keeps_entries(body, inputs, shape):
                return False
        elif not primitive_of(eqn).is_elementwise:
            return False
        if any(aval_of(var).shape != shape for var in eqn.outvars):
            return False
        dependent.update(eqn.outvars)
    return True
