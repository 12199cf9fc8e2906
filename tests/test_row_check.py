"""Rows that interact are refused or give NaN; no independent network is either."""

import functools
import gc
import itertools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lazyjax
from lazyjax.jaxpr.widened import evaluate_at_least
from lazyjax.laziness import kappa
from lazyjax.ntk.requests import row_check
from lazyjax.ntk.requests.row_check import (
    _EXACT,
    _QUICK,
    check_row_independence,
    rows_are_proven,
)
from tests.helpers.oracles import naive_ntk

pytestmark = [pytest.mark.usefixtures("own_errors")]

_RNG = np.random.default_rng(0)
W = jnp.asarray(_RNG.normal(size=(4, 4)), jnp.float32)
X = jnp.asarray(_RNG.normal(size=(10, 4)), jnp.float32)
ROWS = r"`apply_fn`.*rows"


def _batch_norm(w, x):
    h = x @ w
    return (h - h.mean(0, keepdims=True)) / (h.std(0, keepdims=True) + 1e-5)


def _capacity_of_six(w, x):
    """Each expert takes its first six rows of the batch."""
    chosen = jax.nn.one_hot(jnp.argmax(x @ w[:, :2], axis=1), 2, dtype=x.dtype)
    place = jnp.sum(jnp.cumsum(chosen, axis=0) * chosen, axis=1, keepdims=True)
    return jnp.where(place <= 6, jnp.tanh(x @ w), 0.0)


def _in(dtype, apply_fn):
    return lambda w, x: apply_fn(w.astype(dtype), x.astype(dtype))


@jax.custom_vjp
def _centred_gradient(h):
    return h


_centred_gradient.defvjp(
    lambda h: (h, None), lambda _, g: (g - g.mean(0, keepdims=True),)
)


@jax.custom_vjp
def _clipped_gradient(w):
    return w


_clipped_gradient.defvjp(lambda w: (w, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


def _mean_in_the_gradient(size):
    def apply_fn(w, x):
        mean = jnp.mean(x @ w, axis=0, keepdims=True)
        return x @ w + size * (mean - lax.stop_gradient(mean))

    return apply_fn


INTERACTING = {
    "batch_norm": _batch_norm,
    "softmax_over_the_batch": lambda w, x: jax.nn.softmax(x @ x.T, axis=1) @ x @ w,
    "capacity_of_six": _capacity_of_six,
    "bfloat16": _in(jnp.bfloat16, _batch_norm),
    "float16": _in(jnp.float16, _batch_norm),
    "bfloat16_weak": _in(
        jnp.bfloat16, lambda w, x: x @ w + 0.05 * jnp.max(x @ w, 0, keepdims=True)
    ),
    "weak": lambda w, x: x @ w + 1e-3 * jnp.mean(x @ w, axis=0, keepdims=True),
    "very_weak": lambda w, x: (x @ w) * (1 + 1e-4 * jnp.max(x)),
    "weak_in_the_gradient": _mean_in_the_gradient(1e-3),
    "weak_beside_an_offset": lambda w, x: (x @ w + 1e-2 * jnp.max(x @ w)) + 1e4 - 1e4,
    "last_row": lambda w, x: (x @ w).at[-1].add(1e-3 * (x @ w)[0]),
    "constant_of_one_row": lambda w, x: (
        (x @ w) * np.full((1, 4), min(x.shape[0], 2), np.float32)
    ),
    "custom_vjp": lambda w, x: _centred_gradient(x @ w),
    "custom_vjp_of_a_weight": lambda w, x: x @ _clipped_gradient(w),
}  # fmt: skip


@pytest.mark.parametrize("apply_fn", INTERACTING.values(), ids=INTERACTING)
@pytest.mark.sampled(4)
def test_rows_that_interact_are_refused_or_give_nan(apply_fn):
    """Also if those that a glance would fall on are equal."""
    x = X.at[:4].set(X[0])
    with pytest.raises(ValueError, match=ROWS):
        check_row_independence(apply_fn, W, x)
    interacts = jax.jit(lambda w, x: check_row_independence(apply_fn, w, x))
    assert interacts(W, x)


@pytest.mark.parametrize("name", ["batch_norm", "softmax_over_the_batch"])
def test_rows_of_the_second_batch_are_looked_at_in_their_own_batch(name):
    alone, together = X[:1], X[1:]
    with pytest.raises(ValueError, match=ROWS):
        check_row_independence(INTERACTING[name], W, alone, together)


def _chaotic(w, x):
    """Differences between inputs grow by a factor of 1e30."""
    return lax.fori_loop(0, 100, lambda _, h: 3.9 * h * (1 - h), jax.nn.sigmoid(x @ w))


def _until_small(w, x):
    halved = lambda row: lax.while_loop(
        lambda h: jnp.sum(h**2) > 0.1, lambda h: 0.5 * h, row
    )
    return jax.vmap(halved)(x) @ w


def _routed(w, x):
    chosen = jax.nn.one_hot(jnp.argmax(x @ w, axis=1), 4, dtype=x.dtype)
    return jnp.einsum("ne,ne,ek->nk", chosen, x, w)


@jax.custom_vjp
def _straight_through(h):
    return jnp.sign(h)


_straight_through.defvjp(
    lambda h: (jnp.sign(h), h), lambda h, g: (jnp.where(abs(h) < 1, g, 0),)
)


def _solved(w, x):
    return jax.vmap(lambda r: jnp.linalg.solve(jnp.eye(4) + jnp.outer(r, r), r @ w))(x)


INDEPENDENT = {
    "linear": lambda w, x: x @ w,
    "offset": lambda w, x: (jnp.tanh(x @ w) + 1e4) - 1e4,
    "tiny": lambda w, x: 1e-30 * jnp.tanh(x @ w),
    "cancelling": lambda w, x: 1e4 * jnp.tanh(x @ w) - 1e4 * jnp.tanh(x @ w + 1e-3),
    "chaotic": _chaotic,
    "bfloat16": _in(jnp.bfloat16, lambda w, x: jnp.tanh(x @ w)),
    "bfloat16_inside": lambda w, x: jnp.tanh(
        x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
    ).astype(x.dtype),
    "fourier": lambda w, x: jnp.fft.rfft(x @ w).real,
    "sorted": lambda w, x: jnp.sort(x @ w, axis=1),
    "routed": _routed,
    "straight_through": lambda w, x: _straight_through(x @ w) @ w,
    "solved": _solved,
    "eigenvalues": lambda w, x: jax.vmap(
        lambda row: jnp.linalg.eigvalsh(jnp.outer(row, row) + w @ w.T)
    )(x),
    "until_small": _until_small,
    "largest_of_windows": lambda w, x: lax.reduce_window(
        x @ w, -jnp.inf, lax.max, (1, 2), (1, 2), "VALID"
    ),
    "written": lambda w, x: jnp.zeros_like(x).at[
        jnp.arange(len(x))[:, None], jnp.argsort(x, axis=1)
    ].add(x @ w),
    "zero_on_some_rows": lambda w, x: jnp.where(x[:, :1] > 0, x @ w, 0.0),
    "not_a_number_on_some_rows": lambda w, x: jnp.log(x @ w),
}  # fmt: skip


@pytest.mark.parametrize("apply_fn", INDEPENDENT.values(), ids=INDEPENDENT)
@pytest.mark.sampled(5)
def test_independent_rows_pass_without_proof(apply_fn, monkeypatch):
    monkeypatch.setattr(row_check, "rows_are_proven", lambda *_: False)
    check = lambda w, x: check_row_independence(apply_fn, w, x)
    assert check(W, X) is None
    assert not jax.jit(check)(W, X)


def test_what_rounding_in_float32_might_explain_is_decided_in_float64():
    """Eigenvalues of nearly singular matrices, found by different steps."""
    suspect = jnp.full((), 2.0)
    refuse = functools.partial(row_check.refuse_interaction, suspect)
    assert refuse(INDEPENDENT["eigenvalues"], W, X, None) is None
    with pytest.raises(ValueError, match=ROWS):
        refuse(INTERACTING["weak"], W, X, None)


VERBS = {
    "empirical_ntk": lazyjax.empirical_ntk,
    "empirical_nngp": lazyjax.empirical_nngp,
    "layerwise_ntk": lazyjax.layerwise_ntk,
    "layerwise_ntk_by_jacobians": functools.partial(
        lazyjax.layerwise_ntk, method="jacobian"
    ),
    "ntk_diagonal": lazyjax.ntk_diagonal,
    "ntk_operator": lambda *arguments, **options: lazyjax.ntk_operator(
        *arguments, **options
    )(jnp.ones((10, 4))),
    "monte_carlo_ntk": lambda f, w, x, **options: (
        lazyjax.monte_carlo_ntk(
            f, lambda key, x: w, x, key=jax.random.key(0), num_seeds=2, **options
        ).mean
    ),
    "kappa": lambda f, w, x, **options: (
        kappa(
            f, w, x, jnp.zeros((10, 4)), key=jax.random.key(0), num_rounds=1, **options
        ).value
    ),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.sampled(2)
def test_every_verb_refuses_gives_nan_under_jit_or_is_told_not_to(verb):
    weak = INTERACTING["weak"]
    with pytest.raises(ValueError, match=ROWS):
        verb(_batch_norm, W, X)
    under_jit = jax.jit(lambda w, x: verb(_batch_norm, w, x))(W, X)
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(under_jit))
    unchecked = jax.jit(lambda w, x: verb(weak, w, x, check_rows=False))(W, X)
    assert not any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(unchecked))


def test_the_kernel_that_is_not_checked_is_that_of_rows_alone():
    weak = INTERACTING["weak"]
    ntk = lazyjax.empirical_ntk(weak, W, X, check_rows=False)
    expected = naive_ntk(lambda w, x: 1.001 * (x @ w), W, X)
    np.testing.assert_allclose(ntk, expected, rtol=1e-5, atol=1e-5)


def test_nan_comes_through_transformations():
    """And what does not interact does, too, with no proof."""
    ntk = functools.partial(lazyjax.empirical_ntk, outputs="trace")

    def of(apply_fn):
        kernel = lambda w: ntk(apply_fn, w, X)
        mapped = jax.jit(jax.vmap(kernel))(jnp.stack([W, 2 * W]))
        gradient = jax.jit(jax.grad(lambda w: jnp.sum(kernel(w))))(W)
        scanned = lax.scan(lambda _, w: (None, kernel(w)), None, W[None])[1]
        return [mapped, gradient, scanned]

    interacting, independent = of(_batch_norm), of(_solved)
    assert all(jnp.isnan(part).all() for part in (interacting[0], interacting[2]))
    assert all(jnp.isfinite(part).all() for part in independent)


def test_a_second_call_measures_again_but_compiles_nothing():
    """Parameters decide whether a limit is met."""
    limited = lambda w, x: (x @ w) * jnp.minimum(1.0, 50 / jnp.linalg.norm(x @ w))
    ntk = functools.partial(lazyjax.empirical_ntk, limited)
    ntk(W, X)
    assert jnp.linalg.norm(X @ W) < 50
    with pytest.raises(ValueError, match=ROWS):
        ntk(100 * W, X)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_types_that_a_program_names_are_widened(dtype):
    def narrow(w, x):
        w, x = w.astype(jnp.float16), x.astype(jnp.bfloat16).astype(jnp.float16)
        step = lambda h, _: (jnp.tanh(h @ w), jnp.max(h))
        h, largest = lax.scan(step, x, None, length=3)
        h = lax.cond(largest[0] > 0, lambda h: h, lambda h: -h, h)
        h = lax.while_loop(lambda h: jnp.sum(h) > 1e3, lambda h: h / 2, h)
        return [jax.nn.relu(h).astype(jnp.float16)]

    w, x = np.asarray(W, np.float64), np.asarray(X, np.float64)
    expected = x
    for _ in range(3):
        expected = np.tanh(expected @ w)
    program = jax.make_jaxpr(narrow)(W, X)
    with jax.enable_x64(True):
        (found,) = evaluate_at_least(dtype, program, [W, X])
    assert found.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(found),
        np.maximum(expected, 0),
        atol=100 * float(jnp.finfo(dtype).eps),
    )


def test_levels_differ_in_type_only_where_it_matters():
    assert _QUICK.tolerance == _EXACT.tolerance == 256 * jnp.finfo(jnp.float32).eps


def test_a_proof_is_kept_until_the_function_changes():
    config = {"is_mixed": False}
    traces = itertools.count()  # what it counts cannot be seen

    def apply_fn(w, x):
        next(traces)
        h = x @ w
        return h - h.mean(0, keepdims=True) if config["is_mixed"] else h

    def is_proven(x=X):
        before = repr(traces)
        found = rows_are_proven(apply_fn, W, x)
        return found, repr(traces) != before

    assert is_proven() == (True, True)
    assert is_proven() == (True, False)
    assert is_proven(X[:3]) == (True, True)
    config["is_mixed"] = True
    assert is_proven() == (False, True)
    assert is_proven() == (False, False)
    config["is_mixed"] = False
    assert is_proven() == (True, False)


def test_no_proof_keeps_its_function():
    apply_fn = lambda w, x: x @ w
    seen = weakref.ref(apply_fn)
    assert rows_are_proven(apply_fn, W, X)
    jax.clear_caches()  # programs do
    del apply_fn
    gc.collect()
    assert seen() is None
