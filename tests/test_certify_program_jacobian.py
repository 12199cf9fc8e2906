"""Jacobians read from programs: where rows are outer products, and where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.certify.bounds.program import jacobian
from lazyjax.certify.bounds.program.enclosing.outer_products import OuterRows
from lazyjax.certify.bounds.program.start import program_start

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 6))
SHAPES = {"a": (6, 8), "b": (8, 5), "c": (5, 3), "d": (3, 5), "g": (2, 3, 4)}
PARAMS = {
    name: RNG.standard_normal(shape) / shape[0] ** 0.5 for name, shape in SHAPES.items()
}


def hidden(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"])


# Functions, their leaves, and how many of these have outer products for rows.
FUNCTIONS = {
    "dense": (lambda p, x: hidden(p, x) @ p["c"], "abc", 3),
    "transposed": (lambda p, x: hidden(p, x) @ p["d"].T, "abd", 3),
    "weights first": (
        lambda p, x: jax.vmap(lambda row: p["d"] @ jnp.tanh(row @ p["a"] @ p["b"]))(x),
        "abd",
        3,
    ),
    "axes swapped": (
        lambda p, x: jnp.einsum("nd,dh->hn", jnp.tanh(x @ p["a"]), p["b"]).T @ p["c"],
        "abc",
        3,
    ),
    "blocks": (
        lambda p, x: jnp.einsum("ngi,gij->nj", x.reshape(-1, 2, 3), p["g"]),
        "g",
        1,
    ),
    "twice": (lambda p, x: hidden(p, x) @ p["c"] @ p["c"].T @ p["d"].T, "abcd", 3),
    "positions": (
        lambda p, x: jnp.tanh(x.reshape(-1, 2, 3) @ p["d"]).sum(1) @ p["c"],
        "cd",
        1,
    ),
}


def start_of(name):
    fn, names, _ = FUNCTIONS[name]
    params = {name: PARAMS[name] for name in names}
    with jax.enable_x64(True):
        tree, x = jax.tree.map(jnp.asarray, (params, X))
        f = np.asarray(fn(tree, x))
        parts = jax.jacobian(fn)(tree, x)
    parts = [np.asarray(v).reshape(f.size, -1) for v in jax.tree.leaves(parts)]
    return program_start(fn, params, X, f, "proof"), parts


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_and_kernel_are_those_of_jax(name, monkeypatch):
    monkeypatch.setattr(jacobian, "_MOST_NUMBERS", 100)  # a few examples at a time
    start, parts = start_of(name)
    found = start.jacobian
    outer = [isinstance(leaf, OuterRows) for leaf in found.leaves]
    assert sum(outer) == FUNCTIONS[name][2]
    assert found.error < 1e-12
    for leaf, part in zip(found.leaves, parts, strict=True):
        rows = np.stack([leaf.weighted(row) for row in np.eye(len(part))])
        np.testing.assert_allclose(rows, part, rtol=0, atol=1e-13)
        norms = np.linalg.norm(part, axis=1)
        assert np.all(leaf.norms >= norms - found.error)
        np.testing.assert_allclose(leaf.norms, norms, rtol=1e-12)
    kernel = found.kernel()
    expected = sum(part @ part.T for part in parts)
    assert np.linalg.norm(kernel.value - expected, 2) <= 1e-13 * np.trace(expected)
    assert kernel.error <= 1e-11 * np.trace(expected)


def test_errors_are_no_larger_than_of_rows_multiplied_out(monkeypatch):
    factored = start_of("dense")[0].jacobian
    monkeypatch.setattr(jacobian, "outer_product_of", lambda *_: None)
    dense = start_of("dense")[0].jacobian
    assert not any(isinstance(leaf, OuterRows) for leaf in dense.leaves)
    assert dense.error / 4 < factored.error <= dense.error
    off = factored.kernel().value - dense.kernel().value
    assert np.linalg.norm(off, 2) <= factored.kernel().error + dense.kernel().error
