"""Outer and inner programs run, with perturbations added and operands recorded."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

from lazyjax.ntk.trace.pooling import derivatives
from lazyjax.ntk.trace.sites import (
    InnerStep,
    Network,
    Outer,
    Program,
    Ref,
    ScanStep,
)

Values = Mapping[int, Array]


def outer_values(network: Network, leaves: Sequence[Any]) -> dict[int, Array]:
    """All outer values, from those of the parameter leaves."""
    values = {ref: jnp.asarray(value) for ref, value in network.constants.items()}
    values.update(zip(network.leaves, leaves, strict=True))
    for step in network.outer_steps:
        outputs = step.evaluate(*(values[i] for i in step.inputs))
        values.update(zip(step.outputs, outputs, strict=True))
    return values


def factors(
    network: Network, outer: Values, x: Shaped[Array, "n *d"], seeds: Array
) -> tuple[dict[int, Array], dict[int, Array]]:
    """Cotangents at all slots and recorded operands, for each example of a batch.

    Args:
        network: The network.
        outer: Its outer values.
        x: Batch of examples.
        seeds: Cotangents of the output `(1, k)`, of shape `(s, 1, k)`.

    Returns:
        Cotangents by slot, of shape `(n, s, *slot)`, and records, `(n, *record)`.
    """
    zeros = {
        slot: jnp.zeros(network.slots[slot].shape, network.slots[slot].dtype)
        for slot in sorted(network.program.slots)
    }

    visible = {ref: outer[ref.id] for ref in network.program.outer}

    def of_example(x: Array) -> tuple[dict[int, Array], dict[int, Array]]:
        def nudged(nudges: Values) -> tuple[Array, dict[int, Array]]:
            inner = {network.example: x[None]}
            (result,), records = _run(network.program, visible, inner, nudges, 0)
            return result, records

        _, pullback, records = jax.vjp(nudged, zeros, has_aux=True)
        (cotangents,) = jax.vmap(pullback)(seeds)
        return cotangents, records

    return jax.vmap(of_example)(x)


def _run(
    program: Program,
    outer: Mapping[Outer, Array],
    inner: Values,
    nudges: Values,
    depth: int,
) -> tuple[tuple[Array, ...], dict[int, Array]]:
    inner = dict(inner)
    records: dict[int, Array] = {}

    def read(ref: Ref) -> Array:
        return outer[ref] if isinstance(ref, Outer) else inner[ref.id]

    for step in program.steps:
        if isinstance(step, ScanStep):
            carry = tuple(read(ref) for ref in step.carry)
            outputs, kept = _run_scan(step, carry, outer, inner, nudges, depth)
            records.update(kept)
        else:
            outputs = _run_step(step, [read(ref) for ref in step.inputs], nudges)
            operands = step.inputs
            records.update(
                {record: read(operands[at]) for at, record in step.recorded.items()}
            )
            records.update(
                {pool.record: derivatives(pool, read) for pool in step.pools}
            )
        inner.update(zip(step.outputs, outputs, strict=True))
    return tuple(read(ref) for ref in program.results), records


def _run_step(
    step: InnerStep, operands: list[Array], nudges: Values
) -> tuple[Array, ...]:
    for position, slot in step.nudged.items():
        operands[position] = operands[position] + nudges[slot]
    outputs = step.evaluate(*operands)
    if step.slot is None:
        return outputs
    return (outputs[0] + nudges[step.slot], *outputs[1:])


def _run_scan(
    step: ScanStep,
    carry: tuple[Array, ...],
    outer: Mapping[Outer, Array],
    inner: Values,
    nudges: Values,
    depth: int,
) -> tuple[tuple[Array, ...], dict[int, Array]]:
    whole = {ref: outer[Outer(ref.id, ref.stack[:depth])] for ref in step.body.outer}
    stacked = {ref: value for ref, value in whole.items() if ref.stack[depth]}
    moved = {
        slot: nudges[slot] for slot, stack in step.body.slots.items() if stack[depth]
    }

    def body(carry: tuple, slices: tuple) -> tuple:
        outer_slices, nudge_slices, scanned = slices
        inside = {
            **inner,
            **dict(zip(step.carry_ids, carry, strict=True)),
            **dict(zip(step.scanned_ids, scanned, strict=True)),
        }
        results, records = _run(
            step.body,
            whole | dict(zip(stacked, outer_slices, strict=True)),
            inside,
            {**nudges, **nudge_slices},
            depth + 1,
        )
        return results[: step.num_carry], (results[step.num_carry :], records)

    scanned = tuple(inner[ref.id] for ref in step.scanned)
    carry, (collected, records) = lax.scan(
        body, carry, (list(stacked.values()), moved, scanned), **step.options
    )
    return (*carry, *collected), records
