"""The static description: hashable, comparable, complete."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lazyjax import Architecture, activations, architecture
from lazyjax.activations import ActivationSpec
from lazyjax.architecture import ArchitectureKind


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
    spec = Architecture()
    try:
        spec.depth = 3  # pyright: ignore[reportAttributeAccessIssue]
    except dataclasses.FrozenInstanceError:
        return
    raise AssertionError("fields must be frozen")


def test_trained_layers_are_counted_from_one():
    spec = Architecture(depth=2, trained="last")
    assert spec.num_layers == 3
    assert [spec.is_trained(layer) for layer in (1, 2, 3)] == [
        False,
        False,
        True,
    ]


@pytest.mark.once
def test_names_keep_their_meaning():
    with pytest.raises(ValueError, match="'relu' is taken"):
        activations.register(ActivationSpec(name="relu", fn=jnp.tanh))
    with pytest.raises(ValueError, match="elementwise"):
        activations.register(ActivationSpec(name="softmax", fn=jax.nn.softmax))
    with pytest.raises(ValueError, match="`is_increasing` needs"):
        ActivationSpec(name="atan", fn=jnp.arctan, is_increasing=True)
    with pytest.raises(ValueError, match="'cnn' is taken"):
        architecture.register(ArchitectureKind(name="cnn"))
    with pytest.raises(ValueError, match="got \\['heads'\\]"):
        architecture.register(ArchitectureKind(name="new", fields=frozenset({"heads"})))
