"""Kernels of many outputs: nothing of the size of all pairs, nor what cannot be held."""

import json
import os
import subprocess
import sys

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.jaxpr.equations import opened
from lazyjax.ntk import diagonal
from lazyjax.ntk.methods import tiles
from lazyjax.ntk.requests import memory as _memory
from tests.helpers.compare import assert_close
from tests.helpers.oracles import naive_ntk, reduce_ntk

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
PARAMS = {
    "w": jnp.asarray(np.random.default_rng(1).normal(size=(2, 4))),
    "v": jnp.asarray(np.random.default_rng(2).normal(size=(4, 7))),
}


def network(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


@pytest.fixture
def in_small_chunks(monkeypatch):
    """Of three outputs each, the last filled up."""
    monkeypatch.setattr(tiles, "outputs_at_a_time", lambda *_: 3)
    monkeypatch.setattr(diagonal, "outputs_at_a_time", lambda *_: 3)
    jax.clear_caches()


@pytest.mark.usefixtures("in_small_chunks", "x64")
@pytest.mark.parametrize("outputs", ["trace", "diagonal"])
@pytest.mark.parametrize("method", ["structured", "jacobian", "vjp"])
def test_chunks_make_up_the_kernel(method, outputs):
    params = jax.tree.map(lambda p: p.astype(float), PARAMS)
    x = X.astype(float)
    expected = reduce_ntk(naive_ntk(network, params, x), outputs)
    ntk = lambda **options: lazyjax.empirical_ntk(
        network, params, x, outputs=outputs, method=method, **options
    )
    kernel = ntk()
    assert_close(kernel, expected)
    assert_close(kernel, kernel.swapaxes(0, 1), "exact")
    paired = lazyjax.empirical_ntk(
        network, params, x, x[:2], outputs=outputs, method=method
    )
    assert_close(paired, expected[:, :2])


@pytest.mark.usefixtures("in_small_chunks", "x64")
@pytest.mark.parametrize("outputs", ["trace", "diagonal"])
def test_chunks_make_up_what_is_like_a_kernel(outputs):
    params, x = jax.tree.map(lambda p: p.astype(float), PARAMS), X.astype(float)
    expected = reduce_ntk(naive_ntk(network, params, x), outputs)
    diagonal = lazyjax.ntk_diagonal(network, params, x, outputs=outputs, batch_size=2)
    assert_close(diagonal, expected[np.arange(3), np.arange(3)])
    layers = lazyjax.layerwise_ntk(network, params, x, outputs=outputs)
    assert_close(sum(layers.values()), expected)


def avals(jaxpr):
    """All arrays of a program: its constants, and what it computes."""
    inner, constants = opened(jaxpr)
    yield from (jnp.shape(c) for c in constants)
    for eqn in inner.eqns:
        yield from (getattr(v.aval, "shape", ()) for v in (*eqn.invars, *eqn.outvars))
        for value in jax.tree.leaves(list(eqn.params.values())):
            if isinstance(value, jex.Jaxpr | jex.ClosedJaxpr):
                yield from avals(value)


@pytest.mark.once
@pytest.mark.parametrize("method", ["auto", "structured", "jacobian", "vjp"])
def test_nothing_is_of_the_size_of_all_pairs_of_outputs(method):
    k, n = 31_000, 16
    w, x = jax.ShapeDtypeStruct((3, k), jnp.float32), jnp.ones((n, 3))
    apply_fn = lambda w, x: x @ w
    program = jax.make_jaxpr(
        lambda w: lazyjax.empirical_ntk(apply_fn, w, x, outputs="trace", method=method)
    )(w)
    assert max(map(np.prod, avals(program))) <= n * k * 31  # 61 MB; all pairs: 3.8 GB


@pytest.mark.once
@pytest.mark.parametrize(
    "verb",
    [
        lambda f, w, x: lazyjax.empirical_ntk(f, w, x[:1], outputs=5),
        lambda f, w, x: lazyjax.empirical_ntk(f, w, x, outputs="pseudo"),
        lambda f, w, x: lazyjax.empirical_nngp(f, w, x, outputs="trace"),
        lambda f, w, x: lazyjax.empirical_nngp(f, w, x, outputs="diagonal"),
        lambda f, w, x: lazyjax.ntk_diagonal(f, w, x, outputs="trace"),
        lambda f, w, x: lazyjax.layerwise_ntk(f, w, x, outputs="trace"),
        lambda f, w, x: lazyjax.ntk_operator(f, w, x)(jnp.ones((16, 31_000))),
    ],
    ids=[
        "class",
        "pseudo",
        "nngp",
        "nngp_diagonal",
        "diagonal",
        "layerwise",
        "operator",
    ],
)
def test_no_other_verb_has_anything_of_that_size(verb):
    k, n = 31_000, 16
    w, x = jax.ShapeDtypeStruct((3, k), jnp.float32), jnp.ones((n, 3))
    program = jax.make_jaxpr(lambda w: verb(lambda w, x: x @ w, w, x))(w)
    assert max(map(np.prod, avals(program))) <= n * k * 31


@pytest.mark.once
@pytest.mark.parametrize(
    ("verb", "size"),
    [
        (lambda f, w, x: lazyjax.empirical_ntk(f, w, x), r"916 GiB.*trace.*1 KiB"),
        (lambda f, w, x: lazyjax.empirical_nngp(f, w, x), "916 GiB"),
        (lambda f, w, x: lazyjax.layerwise_ntk(f, w, x), "916 GiB"),
        (lambda f, w, x: lazyjax.ntk_diagonal(f, w, x), "57.3 GiB"),
        (lambda f, w, x: lazyjax.ntk_blocks({"f": (f, x)}, w), r"blocks.*916 GiB"),
        (
            lambda f, w, x: lazyjax.empirical_ntk(
                f, w, x[:1], outputs="trace", method="jacobian", memory="100KB"
            ),
            r"`memory`, which is 97.7 KiB.*jacobian.*structured",
        ),
    ],
    ids=["ntk", "nngp", "layerwise", "diagonal", "blocks", "jacobian"],
)
def test_what_cannot_be_held_is_refused_with_its_size(verb, size, monkeypatch, mode):
    monkeypatch.setattr(_memory, "free_memory", lambda devices: 2 * 10**10)
    w, x = jnp.zeros((3, 31_000)), jnp.ones((16, 3))
    with pytest.raises(ValueError, match=size):
        mode(lambda w, x: verb(lambda w, x: x @ w, w, x))(w, x)


@pytest.mark.once
@pytest.mark.usefixtures("own_errors")
def test_memory_is_what_all_devices_that_hold_the_arrays_have_free():
    class Device:
        def __init__(self, platform, stats):
            self.platform, self.memory_stats = platform, lambda: stats

    gpus = [Device("gpu", {"bytes_limit": 80, "bytes_in_use": 5}) for _ in range(2)]
    assert _memory.free_memory(frozenset(gpus)) == 150
    assert _memory.free_memory(frozenset([*gpus, Device("gpu", None)])) is None
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = _memory.free_memory(_memory.devices_of(jnp.ones(2)))
    assert free is not None
    assert physical / 100 < free < physical
    assert _memory.devices_of(np.ones(2)) == _memory.devices_of(jnp.ones(2))


_MEASURED = """
import json, resource, sys
import jax.numpy as jnp, numpy as np, lazyjax
k = int(sys.argv[1])
x, w = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32), jnp.ones((3, k))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
before = peak()
kernel = lazyjax.empirical_ntk(lambda w, x: x @ w, w, x, outputs="trace")
error = np.abs(np.asarray(kernel) / k - x @ x.T).max()
print(json.dumps({"growth": peak() - before, "error": float(error)}))
"""


@pytest.mark.once
@pytest.mark.slow
def test_memory_of_many_outputs_is_that_of_a_few():
    run = subprocess.run(
        [sys.executable, "-c", _MEASURED, "3100"],
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(run.stdout)
    assert found["growth"] < 0.5  # GB; the cotangents of all outputs alone take 0.6
    assert found["error"] < 1e-4
