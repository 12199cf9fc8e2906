"""Kernels of networks whose rows are proven independent return before the device is done.

Parameters come from a gate: a program that waits for an event of the host. While it is
shut, whatever is computed of them cannot be there.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.ntk.requests.row_check import rows_are_proven

X = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
V = np.ones((5, 2), np.float32)
W = {
    "first": np.random.default_rng(1).normal(size=(3, 4)).astype("float32"),
    "last": np.random.default_rng(2).normal(size=(4, 2)).astype("float32"),
}
VERBS = {
    "empirical_ntk": lazyjax.empirical_ntk,
    "ntk_diagonal": lazyjax.ntk_diagonal,
    "layerwise_ntk": lazyjax.layerwise_ntk,
    "empirical_nngp": lazyjax.empirical_nngp,
    "ntk_operator": lambda f, params, x: lazyjax.ntk_operator(f, params, x)(
        V[: len(x)]
    ),
}


def network(params, x):
    return jnp.tanh(x @ params["first"]) @ params["last"]


def unproven(params, x):
    """The same network, in a program that says nothing of its rows: each apart."""
    return jnp.concatenate([network(params, row[None]) for row in x])


@dataclasses.dataclass
class Gate:
    """Holds back what comes out of a program until it is opened."""

    event: threading.Event = dataclasses.field(default_factory=threading.Event)

    def behind(self, params):
        """The parameters, once the gate is open."""

        def held(leaf, _):
            assert self.event.wait(30), "the gate was never opened"
            return np.asarray(leaf)

        like = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        program = jax.jit(
            lambda params, pending: jax.tree.map(
                lambda leaf: jax.pure_callback(held, like(leaf), leaf, pending), params
            )
        )
        matrix = jnp.ones((600, 600))
        compiled = program.lower(params, _busy(matrix)).compile()
        # A CPU runs small programs at once, unless what they need is still to come.
        return compiled(params, _busy(matrix))


@jax.jit
def _busy(matrix):
    return jax.lax.fori_loop(0, 20, lambda i, m: jnp.tanh(m @ m / 600), matrix)[0, 0]


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.event.set()


@pytest.mark.once
def test_the_networks_are_what_they_are_called():
    assert rows_are_proven(network, W, jnp.asarray(X))
    assert not rows_are_proven(unproven, W, jnp.asarray(X))


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_verbs_return_before_the_device_is_done(verb: Callable, gate: Gate):
    expected = verb(network, W, X)  # compiled
    kernels = verb(network, gate.behind(W), jnp.asarray(X))
    assert not gate.event.is_set()
    assert not any(leaf.is_ready() for leaf in jax.tree.leaves(kernels))
    gate.event.set()
    for leaf, other in zip(*map(jax.tree.leaves, (kernels, expected)), strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.once
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_without_a_proof_numbers_are_waited_for(verb: Callable, gate: Gate):
    verb(unproven, W, X)
    opener = threading.Timer(0.3, gate.event.set)
    params = gate.behind(W)
    opener.start()
    verb(unproven, params, X)
    assert gate.event.is_set()
    opener.join()


@pytest.mark.once
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_second_call_traces_nothing(verb: Callable):
    times = []

    def counted(params, x):
        times.append(x.shape)
        return network(params, x)

    verb(counted, W, X)
    first = len(times)
    verb(counted, W, X + 1)
    assert len(times) == first
    verb(counted, W, X[:4])
    assert len(times) > first  # the control: another shape is another program


@pytest.mark.once
def test_a_batch_that_is_still_computed_is_not_looked_at(gate: Gate):
    bad = {"x": X * np.nan}
    late = gate.behind(bad)["x"]
    kernel = lazyjax.empirical_nngp(network, W, late)
    assert not gate.event.is_set()
    gate.event.set()
    assert np.isnan(kernel).all()
    with pytest.raises(ValueError, match="`x1` must be finite; 15 of its 15"):
        lazyjax.empirical_nngp(network, W, jax.block_until_ready(late))
