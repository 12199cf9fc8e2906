"""Parameter and example programs run, with perturbations added and operands recorded."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

from lazyjax.batches import batch_of
from lazyjax.ntk.trace.pooling import derivatives
from lazyjax.ntk.trace.sites import (
    ExampleStep,
    ParamRef,
    Program,
    Ref,
    ScanStep,
    TracedNetwork,
)
from lazyjax.typing import Inputs

Values = Mapping[int, Array]


def param_values(network: TracedNetwork, leaves: Sequence[Any]) -> dict[int, Array]:
    """All parameter values, from those of the parameter leaves."""
    values = {ref: jnp.asarray(value) for ref, value in network.constants.items()}
    values.update(zip(network.leaves, leaves, strict=True))
    for step in network.param_steps:
        outputs = step.evaluate(*(values[i] for i in step.inputs))
        values.update(zip(step.outputs, outputs, strict=True))
    return values


def factors(
    network: TracedNetwork,
    parameters: Values,
    x: Inputs,
    output_cotangents: Shaped[Array, "s k"] | Shaped[Array, "n s k"],
) -> tuple[dict[int, Array], dict[int, Array]]:
    """Cotangents `(n, s, ...)` at all perturbations, and recorded operands `(n, ...)`."""
    zeros = {
        number: jnp.zeros(perturbation.shape, perturbation.dtype)
        for number, perturbation in enumerate(network.perturbations)
        if number in network.program.perturbations
    }
    visible = {ref: parameters[ref.id] for ref in network.program.parameters}

    def of_example(row: Any, along: Array) -> tuple[dict[int, Array], dict[int, Array]]:
        def perturbed(added: Values) -> tuple[Array, dict[int, Array]]:
            one = jax.tree.leaves(batch_of(row))
            values = dict(zip(network.examples, one, strict=True))
            (result,), records = _run(network.program, visible, values, added, 0)
            return result, records

        _, pullback, records = jax.vjp(perturbed, zeros, has_aux=True)
        (cotangents,) = jax.vmap(pullback)(along[:, None])
        return cotangents, records

    of_each = 0 if output_cotangents.ndim == 3 else None
    return jax.vmap(of_example, in_axes=(0, of_each))(x, output_cotangents)


def _run(
    program: Program,
    parameters: Mapping[ParamRef, Array],
    values: Values,
    added: Values,
    depth: int,
) -> tuple[tuple[Array, ...], dict[int, Array]]:
    values = dict(values)
    records: dict[int, Array] = {}

    def read(ref: Ref) -> Array:
        return parameters[ref] if isinstance(ref, ParamRef) else values[ref.id]

    for step in program.steps:
        if isinstance(step, ScanStep):
            carry = tuple(read(ref) for ref in step.carry)
            outputs, kept = _run_scan(step, carry, parameters, values, added, depth)
            records.update(kept)
        else:
            outputs = _run_step(step, [read(ref) for ref in step.inputs], added)
            operands = step.inputs
            records.update(
                {record: read(operands[at]) for at, record in step.recorded.items()}
            )
            records.update(
                {pool.record: derivatives(pool, read) for pool in step.pools}
            )
        values.update(zip(step.outputs, outputs, strict=True))
    return tuple(read(ref) for ref in program.results), records


def _run_step(
    step: ExampleStep, operands: list[Array], added: Values
) -> tuple[Array, ...]:
    for position, perturbation in step.perturbed.items():
        operands[position] = operands[position] + added[perturbation]
    outputs = step.evaluate(*operands)
    if step.perturbation is None:
        return outputs
    return (outputs[0] + added[step.perturbation], *outputs[1:])


def _run_scan(
    step: ScanStep,
    carry: tuple[Array, ...],
    parameters: Mapping[ParamRef, Array],
    values: Values,
    added: Values,
    depth: int,
) -> tuple[tuple[Array, ...], dict[int, Array]]:
    whole = {
        ref: parameters[ParamRef(ref.id, ref.stack[:depth])]
        for ref in step.body.parameters
    }
    stacked = {ref: value for ref, value in whole.items() if ref.stack[depth]}
    moved = {
        perturbation: added[perturbation]
        for perturbation, stack in step.body.perturbations.items()
        if stack[depth]
    }

    def body(carry: tuple, slices: tuple) -> tuple:
        param_slices, added_slices, scanned = slices
        inside = {
            **values,
            **dict(zip(step.carry_ids, carry, strict=True)),
            **dict(zip(step.scanned_ids, scanned, strict=True)),
        }
        results, records = _run(
            step.body,
            whole | dict(zip(stacked, param_slices, strict=True)),
            inside,
            {**added, **added_slices},
            depth + 1,
        )
        return results[: step.num_carry], (results[step.num_carry :], records)

    scanned = tuple(values[ref.id] for ref in step.scanned)
    carry, (collected, records) = lax.scan(
        body, carry, (list(stacked.values()), moved, scanned), **step.options
    )
    return (*carry, *collected), records
