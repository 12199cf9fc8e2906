"""The static description: hashable, comparable, complete."""

import dataclasses

import jax

from lazyjax import Architecture


def test_equal_descriptions_are_one_static_argument():
    traces = []

    @jax.jit
    def count(x):
        traces.append(None)
        return x

    program = jax.jit(lambda arch, x: count(x) * arch.depth, static_argnums=0)
    program(Architecture(depth=2), 1.0)
    program(Architecture(depth=2), 1.0)
    assert len(traces) == 1
    program(Architecture(depth=3), 1.0)
    assert Architecture(depth=2) != Architecture(depth=3)


def test_description_cannot_be_changed_in_place():
    architecture = Architecture()
    try:
        architecture.depth = 3  # pyright: ignore[reportAttributeAccessIssue]
    except dataclasses.FrozenInstanceError:
        return
    raise AssertionError("fields must be frozen")


def test_trained_layers_are_counted_from_one():
    architecture = Architecture(depth=2, trained="last")
    assert architecture.num_layers == 3
    assert [architecture.is_trained(layer) for layer in (1, 2, 3)] == [
        False,
        False,
        True,
    ]
