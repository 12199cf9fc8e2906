"""Rows are proven not to interact where that is so, and never where they do."""

import functools

import flax.linen as nn
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import lax

import lazyjax
from lazyjax.jaxpr.equations import equations, primitives
from lazyjax.jaxpr.rows.derivatives import derivatives_of
from lazyjax.jaxpr.rows.independence import rows_are_independent
from lazyjax.ntk.requests.row_check import (
    _QUICK_DOUBLE,
    check_row_independence,
    measured_excess,
)
from tests.helpers import oracles
from tests.helpers.zoo_base import ZOO, relaxed
from tests.property.test_ntk_compositions import FEATURES, LAYERS, Composition

W = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)

# The numbers decide: derivative rules that need not be linear, solvers given as
# functions, a loop that goes on for all rows until the last is done, grouped batches.
NOT_PROVEN = {
    "cnn_batch_grouped",
    "custom_vjp_around_layers",
    "custom_vjp_not_linear_in_the_cotangent",
    "custom_vjp_straight_through",
    "implicit_layer",
    "linear_solve",
    "log_determinant",
    "while_loop_on_the_data",
}


@pytest.mark.parametrize(
    "room",
    [
        pytest.param(room, marks=[pytest.mark.slow] * (room == "frameworks"))
        for room in sorted({net.room for net in ZOO.values()})
    ],
)
def test_networks_of_the_zoo_are_proven(room):
    nets = [net for net in ZOO.values() if net.room == room]
    proven = {
        net.name
        for net in nets
        if rows_are_independent(net.apply_fn, net.params(), net.x(2))
    }
    assert {net.name for net in nets} - proven <= NOT_PROVEN
    assert len(NOT_PROVEN) < 0.06 * len(ZOO)


def _as_noise(num_rows):
    return jax.random.normal(jax.random.key(0), (num_rows, 3))


def _two_passes(w, x):
    """Each row is scaled by what was carried out of those before it."""

    def step(carry, row):
        carry = 0.5 * carry + row
        return carry, row * jnp.sum(carry)

    return lax.scan(step, jnp.zeros_like(x[0]), x @ w)[1]


def _loop_until_all_are_small(w, x):
    return lax.while_loop(lambda h: jnp.max(h) > 0.1, lambda h: 0.5 * h, x) @ w


def _choice_by_all(w, x):
    return lax.cond(jnp.sum(x) > 0, lambda h: h, lambda h: 2.0 * h, x @ w) * jnp.sum(x)


@jax.custom_jvp
def _mixed_in_the_derivative(h):
    return h


@_mixed_in_the_derivative.defjvp
def _mixed_in_the_derivative_jvp(primals, tangents):
    return primals[0], tangents[0] + tangents[0].mean(0, keepdims=True)


@jax.custom_jvp
def _counted_in_the_derivative(h, w):
    return h @ w


@_counted_in_the_derivative.defjvp
def _counted_in_the_derivative_jvp(primals, tangents):
    h, w = primals
    return h @ w, (h @ tangents[1] + tangents[0] @ w) / h.shape[0]


@jax.custom_jvp
def _numbered_in_the_derivative(h):
    return h


@_numbered_in_the_derivative.defjvp
def _numbered_in_the_derivative_jvp(primals, tangents):
    numbers = np.arange(tangents[0].size, dtype=np.float32)
    return primals[0], tangents[0] * numbers.reshape(tangents[0].shape)


@jax.custom_vjp
def _normalized_gradient(h):
    return h


_normalized_gradient.defvjp(
    lambda h: (h, None), lambda _, g: (g / (1.0 + jnp.linalg.norm(g)),)
)


def _clip(g):
    return (jnp.clip(g, -0.1, 0.1),)


@jax.custom_vjp
def _weight_with_clipped_gradient(w):
    return w


# The same object at every trace, so that nothing but its kind gives it away.
_weight_with_clipped_gradient.defvjp(lambda w: (w, None), lambda _, g: _clip(g))


def _linen_batch_norm(w, x):
    module = nn.BatchNorm(use_running_average=False)
    variables = {
        "params": {"scale": w[0], "bias": w[1]},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
    }
    return relaxed(
        lambda variables, x: module.apply(variables, x, mutable=["batch_stats"])[0]
    )(variables, x)


def _batch_norm(w, x):
    h = x @ w
    return (h - h.mean(0, keepdims=True)) / (0.1 + h.std(0, keepdims=True))


def _attention_across_rows(w, x):
    h = x @ w
    return jax.nn.softmax(h @ h.T, axis=1) @ h


def _normalized_by_axis_name(w, x):
    centred = lambda h: h - lax.pmean(h, "rows")
    return jax.vmap(centred, axis_name="rows")(x @ w)


def _whitened(w, x):
    return jnp.linalg.solve(jnp.eye(x.shape[0]) + x @ x.T, x @ w)


def _mutated(w, x):
    total = jax.new_ref(jnp.zeros(3))
    total[...] = jnp.sum(x, axis=0)
    return x @ w + total[...][None]


def _by_chunks(w, x):
    """Rows two at a time, each pair centred."""
    h = jnp.concatenate([x @ w, x @ w], axis=1).reshape(-1, 2, 3)
    h = h - 0.5 * jnp.roll(h, 1, axis=0)
    return h.reshape(x.shape[0], 6)


def _by_rank(w, x):
    order = jnp.argsort(x[:, 0])
    return (x @ w) * order.astype(x.dtype)[:, None]


INTERACTING = {
    "batch_norm": _batch_norm,
    "linen_batch_norm": _linen_batch_norm,
    "centred_by_axis_name": _normalized_by_axis_name,
    "centred": lambda w, x: x @ w - jnp.mean(x @ w, axis=0, keepdims=True),
    "largest_of_the_batch": lambda w, x: x @ w - jnp.max(x @ w, axis=0, keepdims=True),
    "divided_by_the_norm": lambda w, x: x @ w / jnp.linalg.norm(x @ w),
    "softmax_over_rows": lambda w, x: jax.nn.softmax(x @ w, axis=0),
    "gram": lambda w, x: (x @ w) @ (x.T @ x),
    "products_of_rows": lambda w, x: jnp.sum((x @ w) @ x.T, axis=1, keepdims=True),
    "attention_across_rows": _attention_across_rows,
    "whitened": _whitened,
    "determinant": lambda w, x: (x @ w) * jnp.linalg.slogdet(x.T @ x)[1],
    "row_number": lambda w, x: (x @ w) * jnp.arange(x.shape[0], dtype=x.dtype)[:, None],
    "numpy_row_number": lambda w, x: (
        (x @ w) * np.arange(x.shape[0], dtype=np.float32)[:, None]
    ),
    "row_number_among_features": lambda w, x: (
        (x @ w) + jnp.eye(x.shape[0], 3, dtype=x.dtype)
    ),
    "noise_by_row": lambda w, x: x @ w * _as_noise(x.shape[0]),
    "dropout": lambda w, x: jnp.where(_as_noise(x.shape[0]) > 0, x @ w, 0.1),
    "reversed": lambda w, x: (x @ w)[::-1],
    "rolled": lambda w, x: jnp.roll(x @ w, 1, axis=0),
    "neighbour": lambda w, x: x @ w + jnp.pad((x @ w)[1:], ((0, 1), (0, 0))),
    "sorted": lambda w, x: jnp.sort(x @ w, axis=0),
    "rank": _by_rank,
    "running_sum": lambda w, x: jnp.cumsum(x @ w, axis=0),
    "divided_by_size": lambda w, x: (x @ w) / x.shape[0],
    "power_of_size": lambda w, x: lax.integer_pow(x @ w, x.shape[0]),
    "size_by_counting": lambda w, x: x @ w / jnp.sum(jnp.ones(x.shape[0])),
    "size_by_the_last": lambda w, x: x @ w * jnp.max(lax.iota(jnp.float32, len(x))),
    "size_as_place": lambda w, x: (
        x @ lax.dynamic_slice(jnp.tile(w, (1, 30)), (0, len(x)), (3, 3))
    ),
    "size_in_a_window": lambda w, x: x @ jnp.tile(w, (1, 30))[:, len(x) : len(x) + 3],
    "one_row_is_special": lambda w, x: x @ w if x.shape[0] == 1 else 2.0 * (x @ w),
    "constant_of_one_row": lambda w, x: (
        (x @ w) * np.full((1, 3), min(x.shape[0], 2), np.float32)
    ),
    "power_of_one_row": lambda w, x: lax.integer_pow(x @ w, min(x.shape[0], 2)),
    "loop_of_one_row": lambda w, x: lax.fori_loop(
        0, min(x.shape[0], 2), lambda i, h: jnp.tanh(h @ w), x
    ),
    "order_of_one_row": lambda w, x: x @ w @ w.T if len(x) > 1 else x @ w.T @ w,
    "axes_of_one_row": lambda w, x: (
        x[:, :, None] * w[None] if len(x) > 1 else x[:, None, :] * w[None]
    ).reshape(len(x), -1),
    "turned": lambda w, x: (x @ w).T.reshape(x.shape[0], -1),
    "folded": lambda w, x: (x @ w).reshape(3, -1).T.reshape(-1, 3),
    "transposed": lambda w, x: (x @ w).T if x.shape[0] == 3 else x @ w,
    "pairs": _by_chunks,
    "first_row": lambda w, x: x @ w + (x @ w)[:1],
    "row_by_dynamic_index": lambda w, x: x @ w + lax.dynamic_slice(x, (0, 0), (1, 3)),
    "rows_looked_up": lambda w, x: (x @ w)[jnp.zeros(x.shape[0], jnp.int32)],
    "rows_looked_up_by_data": lambda w, x: (x @ w)[jnp.argmax(x, axis=1) % x.shape[0]],
    "row_overwritten": lambda w, x: (x @ w).at[0].set(1.0),
    "rows_added_to": lambda w, x: (x @ w).at[jnp.argmax(x, axis=1) % len(x)].add(x),
    "segments": lambda w, x: jax.ops.segment_sum(
        x @ w, jnp.argmax(x, axis=1), num_segments=x.shape[0]
    ),
    "windows_of_rows": lambda w, x: lax.reduce_window(
        x @ w, 0.0, lax.add, (3, 1), (1, 1), "SAME"
    ),
    "convolution_along_rows": lambda w, x: lax.conv_general_dilated(
        (x @ w)[None], jnp.ones((3, 3, 3)), (1,), "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )[0],
    "fourier_along_rows": lambda w, x: jnp.fft.fft(x @ w, axis=0).real,
    "scan_over_rows": _two_passes,
    "associative_scan": lambda w, x: lax.associative_scan(jnp.add, x @ w),
    "loop_until_all_are_small": _loop_until_all_are_small,
    "choice_by_all": _choice_by_all,
    "loop_over_rows": lambda w, x: lax.fori_loop(
        0, x.shape[0], lambda i, h: 0.5 * h, x @ w
    ),
    "mutated": _mutated,
    "custom_jvp_that_mixes": lambda w, x: _mixed_in_the_derivative(x @ w),
    "custom_jvp_that_numbers": lambda w, x: _numbered_in_the_derivative(x @ w),
    "custom_jvp_that_counts": lambda w, x: _counted_in_the_derivative(x, w),
    "custom_vjp_that_mixes": lambda w, x: _normalized_gradient(x @ w),
    "custom_vjp_of_a_weight": lambda w, x: x @ _weight_with_clipped_gradient(w),
    "stopped_gradient": lambda w, x: (
        x @ w + jnp.mean(x @ w, 0, keepdims=True)
        - lax.stop_gradient(jnp.mean(x @ w, 0, keepdims=True))
    ),
    "inside_jit_and_remat": lambda w, x: jax.jit(jax.checkpoint(_batch_norm))(w, x),
    "inside_scan": lambda w, x: lax.scan(
        lambda h, _: (_batch_norm(w, h), None), x, None, length=2
    )[0],
}  # fmt: skip


@pytest.mark.parametrize("apply_fn", INTERACTING.values(), ids=INTERACTING)
@pytest.mark.parametrize("num_rows", [1, 3])
def test_rows_that_interact_are_never_proven(apply_fn, num_rows):
    """At 3 rows of 3 features, where nothing can be told by the sizes of axes."""
    assert not rows_are_independent(apply_fn, W, X[:num_rows])


@pytest.mark.slow
@pytest.mark.parametrize(
    "apply_fn",
    # JAX 0.10 has no reverse mode around a reference.
    [fn for name, fn in INTERACTING.items() if name != "mutated"],
    ids=[name for name in INTERACTING if name != "mutated"],
)
def test_the_negative_controls_do_interact(apply_fn):
    """By outputs or gradients at three rows together and at each alone."""

    def at(x, cotangents):
        f, back = jax.vjp(lambda w: apply_fn(w, x), W)
        return f, back(cotangents[:, : f.shape[1]])[0]

    @functools.partial(jax.jit, compiler_options=oracles.UNOPTIMIZED)
    def error():
        cotangents = jnp.cos(jnp.arange(18.0)).reshape(3, 6)
        rows = [at(X[i : i + 1], cotangents[i : i + 1]) for i in range(3)]
        f, gradient = at(X, cotangents)
        error = jnp.abs(f - jnp.concatenate([row for row, _ in rows])).max()
        return error + jnp.abs(gradient - sum(gradient for _, gradient in rows)).max()

    assert not error() < 1e-3  # or not finite, for a row alone


def _merged(w, x):
    """Positions are merged with the batch, and taken apart again."""
    h = jnp.tanh(jnp.stack([x, 2.0 * x], axis=1).reshape(-1, 3) @ w)
    return h.reshape(-1, 2, 3).sum(axis=1)


def _merged_after(w, x):
    """As above, but the row is the faster index of the merged axis."""
    h = jnp.tanh(jnp.stack([x, 2.0 * x], axis=0).reshape(-1, 3) @ w)
    return h.reshape(2, -1, 3).sum(axis=0)


def _tiled_places(w, x):
    places = jnp.tile(w, (x.shape[0], 1))
    return (jnp.repeat(x, 3, axis=0) * places).reshape(-1, 3, 3).sum(axis=1)


INDEPENDENT = {
    "merged": _merged,
    "merged_after": _merged_after,
    "batch_last": lambda w, x: jnp.tanh(w @ x.T).T,
    "row_by_row": lambda w, x: lax.map(lambda row: jnp.tanh(row @ w), x),
    "zeros_of_the_batch": lambda w, x: x @ w + jnp.zeros((x.shape[0], 3)) + len(W),
    "same_noise_for_all": lambda w, x: x @ w * _as_noise(1),
    "tiled_places": _tiled_places,
    "last_axis": lambda w, x: jnp.cumsum(jnp.sort(x @ w, axis=1), axis=1)[:, ::-1],
    "looked_up_in_each_row": lambda w, x: jnp.take_along_axis(
        x @ w, jnp.argsort(x, axis=1), axis=1
    ),
    "written_in_each_row": lambda w, x: (x @ w).at[:, 1].add(x[:, 0]),
    "fixed_noise_and_loop": lambda w, x: lax.fori_loop(
        0, 3, lambda i, h: jnp.tanh(h @ w) * i, x
    ),
}


@pytest.mark.parametrize("apply_fn", INDEPENDENT.values(), ids=INDEPENDENT)
@pytest.mark.parametrize("num_rows", [1, 3])
def test_rows_apart_in_unusual_ways_are_proven(apply_fn, num_rows):
    assert rows_are_independent(apply_fn, W, X[:num_rows])


# Of and to batches (n, 2, 2, 2), in each of which rows interact.
MIXING = {
    "centred": lambda h: h - h.mean(0, keepdims=True),
    "reversed": lambda h: h[::-1],
    "rolled": lambda h: jnp.roll(h, 1, axis=0),
    "summed": lambda h: jnp.cumsum(h, axis=0),
    "sorted": lambda h: jnp.sort(h, axis=0),
    "softmax": lambda h: jax.nn.softmax(h, axis=0),
    "counted": lambda h: h / h.shape[0],
    "numbered": lambda h: h * jnp.arange(1.0, 1 + len(h), dtype=h.dtype).reshape(
        -1, 1, 1, 1
    ),
    "turned": lambda h: jnp.moveaxis(h, 0, -1).reshape(h.shape),
    "gram": lambda h: jnp.einsum("npqc,mpqc,mabd->nabd", h, h, h),
    "first": lambda h: h + h[:1],
}  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4),
    st.sampled_from(sorted(MIXING)),
    st.integers(0, 3),
    st.integers(2, 3),
)
def test_random_compositions_are_proven_but_not_with_a_layer_that_mixes(
    names, mixing, place, num_rows
):
    net = Composition(tuple(names), (True,) * len(names), 2, 0)
    params = jax.tree.map(jnp.asarray, net.params())
    x = jnp.asarray(net.x(num_rows))

    def with_mixing(params, x):
        """The layers before `place`, the one that mixes, and those after it."""
        layers, shared, readout = params
        first, last = slice(None, place), slice(place, None)
        eye = jnp.eye(8, dtype=x.dtype)
        h = _composed(names[first])((layers[first], shared, eye), x)
        h = MIXING[mixing](h.reshape(-1, *FEATURES))
        return _composed(names[last])((layers[last], shared, readout), h)

    assert rows_are_independent(net.apply, params, x)
    assert not rows_are_independent(with_mixing, params, x)


def _composed(names):
    return Composition(tuple(names), (True,) * len(names), 2, 0).apply


@pytest.mark.parametrize("names", [sorted(LAYERS)[i::4] for i in range(4)])
def test_what_is_proven_is_found_by_the_numbers_too(names):
    net = Composition(tuple(names), (True,) * len(names), 2, 0)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, net.params())
        x = jnp.asarray(net.x(3))
        assert rows_are_independent(net.apply, params, x)
        measured = jax.jit(
            lambda p, x: measured_excess(net.apply, p, x, None, _QUICK_DOUBLE),
            compiler_options=oracles.UNOPTIMIZED,
        )
        assert measured(params, x) * _QUICK_DOUBLE.tolerance < 1e-12


def test_a_proven_network_is_not_measured():
    """Nothing is left of the check in the program of its kernel."""

    def size(apply_fn):
        program = jax.make_jaxpr(lambda w: check_row_independence(apply_fn, w, X))(W)
        return len(list(equations(program)))

    assert size(lambda w, x: x @ w) == 0
    assert size(lambda w, x: x @ w / x.shape[0]) > 10


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    "verb",
    [
        lazyjax.empirical_ntk,
        lazyjax.empirical_nngp,
        lazyjax.ntk_diagonal,
        lazyjax.ntk_operator,
    ],
)
def test_every_verb_refuses_rows_that_interact(verb):
    with pytest.raises(ValueError, match=r"`apply_fn`.*rows"):
        verb(_batch_norm, W, X)


def test_constants_are_told_apart_by_their_bits():
    frozen = jnp.array([[jnp.nan, 1.0, -0.0]])
    assert rows_are_independent(lambda w, x: x @ w + frozen, W, X)
    assert not rows_are_independent(
        lambda w, x: x @ w + np.full((1, 3), len(x), np.float32), W, X
    )


def test_parameters_closed_over_in_a_trace_are_fixed():
    def is_proven(frozen):
        return rows_are_independent(lambda w, x: jnp.tanh(x @ frozen) @ w, W, X)

    found = []
    jax.jit(lambda frozen: found.append(is_proven(frozen)))(W)
    assert found == [True]


def _scaled_in_its_rule(scale):
    """The sine, whose rule multiplies by an array that it holds, and makes an iota."""

    @jax.custom_jvp
    def sine(u):
        return jnp.sin(u)

    @sine.defjvp
    def rule(primals, tangents):
        (u,), (t,) = primals, tangents
        steps = lax.broadcasted_iota(u.dtype, u.shape, u.ndim - 1)
        return jnp.sin(u), t * jnp.cos(u) * scale + 0 * steps

    return sine


def test_derivatives_traced_at_once_are_those_of_each_call():
    sines = [_scaled_in_its_rule(np.full((1, 3), s, np.float32)) for s in (1, 2, 3)]

    def fn(x):
        for sine in [*sines, sines[0]]:
            x = sine(x)
        return x

    jaxpr = jax.make_jaxpr(fn)(X).jaxpr
    calls = [e for e in jaxpr.eqns if e.primitive.name == "custom_jvp_call"]
    assert len(calls) == 4
    together = derivatives_of([(jaxpr.debug_info, e) for e in calls])
    for scale, eqn, derivative in zip((1, 2, 3, 1), calls, together, strict=True):
        (alone,) = derivatives_of([(jaxpr.debug_info, eqn)])
        assert primitives(derivative) == primitives(alone)
        for program in (derivative, alone):
            values, tangents = jex.jaxpr_as_fun(program)(X, W)
            np.testing.assert_allclose(values, jnp.sin(X), rtol=1e-6)
            np.testing.assert_allclose(tangents, W * jnp.cos(X) * scale, rtol=1e-6)


def test_derivatives_of_calls_at_each_depth_are_looked_at():
    """The first calls are fine; the last one's rule mixes rows, within a jit."""

    @jax.custom_jvp
    def mixing(u):
        return jnp.sin(u)

    @mixing.defjvp
    def rule(primals, tangents):
        (u,), (t,) = primals, tangents
        return jnp.sin(u), (t - t.mean(0)[None]) * jnp.cos(u)

    fine = _scaled_in_its_rule(np.array([[1, 2, 3]], np.float32))
    networks = {
        last: lambda w, x, last=last: jax.jit(lambda u: last(fine(u)))(fine(x @ w))
        for last in (fine, mixing)
    }
    assert rows_are_independent(networks[fine], W, X)
    assert not rows_are_independent(networks[mixing], W, X)
