"""Networks whose rows interact, or are treated differently: all must be refused.

`strength` beside each is how much a row's values or gradients change when the other
rows are taken away (see `networks_base.deviation`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.helpers.networks_base import Interacting, recorder

INTERACTING: dict[str, Interacting] = {}
register = recorder(INTERACTING, Interacting)

MLP = {"w": (4, 6), "v": (6, 2)}


def _hidden(p, x):
    return jnp.tanh(x @ p["w"])


def _normalized(h, axis, eps=1e-3):
    """Zero mean and unit variance along `axis`."""
    centred = h - jnp.mean(h, axis, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis, keepdims=True) + eps)


def _rows(*counts):
    """A batch of 4 features with runs of equal rows, as long as `counts`."""
    return lambda generator: np.repeat(
        generator.normal(size=(len(counts), 4)), counts, axis=0
    )


# Statistics of the batch.


@register(MLP, _rows(4, 1, 1, 1), strength=1)
def batch_norm_first_four_rows_equal(p, x):
    return jax.nn.relu(_normalized(x @ p["w"], 0)) @ p["v"]


@register(MLP, _rows(8, 1), strength=1)
def batch_norm_all_but_the_last_row_equal(p, x):
    return jnp.tanh(_normalized(x @ p["w"], 0)) @ p["v"]


@register(MLP, _rows(6), strength=0.59)
def batch_sum_when_all_rows_are_equal(p, x):
    """Centring would hide nothing but counting shows: all rows are one row."""
    h = _hidden(p, x)
    return (h / jnp.linalg.norm(h, axis=0, keepdims=True)) @ p["v"]


class _FlaxBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.BatchNorm(use_running_average=False)(nn.Dense(5)(x))
        return nn.Dense(2)(nn.silu(h))


_FLAX_BATCH_NORM = _FlaxBatchNorm().init(jax.random.key(0), np.ones((2, 4), np.float32))


@register(lambda g: _FLAX_BATCH_NORM["params"], (4,), n=5, strength=1)
def flax_batch_norm_in_training(p, x):
    stats = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, x.dtype), _FLAX_BATCH_NORM["batch_stats"]
    )
    variables = {"params": p, "batch_stats": stats}
    return _FlaxBatchNorm().apply(variables, x, mutable=["batch_stats"])[0]


@register(
    lambda g: {
        "u": g.normal(size=(4, 2)),
        "w": g.normal(size=(4, 6)),
        "gamma": np.zeros((6, 2)),
    },
    (4,),
    n=6,
    strength=1,
)
def zero_initialized_batch_norm_branch(p, x):
    """Gamma zero, as residual networks start: only gamma's gradient mixes rows."""
    return x @ p["u"] + _normalized(x @ p["w"], 0) @ p["gamma"]


@register(
    lambda g: {"w": g.normal(size=(4, 2)), "gate": np.zeros(())}, (4,), strength=1
)
def attention_over_the_batch_behind_a_zero_gate(p, x):
    h = x @ p["w"]
    return h + p["gate"] * (jax.nn.softmax(h @ h.T, axis=-1) @ h)


@register(MLP, (4,), n=9, strength=1)
def layer_norm_along_the_wrong_axis(p, x):
    return _normalized(_hidden(p, x), 0, 0.1) @ p["v"]


@register({"w": (4, 6), "v": (6, 2)}, (4,), n=8, strength=1.3)
def group_norm_across_the_batch(p, x):
    h = (x @ p["w"]).reshape(-1, 2, 3)
    return _normalized(h, (0, 2)).reshape(-1, 6) @ p["v"]


@register({"k": (3, 3, 1, 2), "v": (2, 2)}, (5, 5, 1), n=4, strength=0.4)
def image_statistics_across_the_batch(p, x):
    h = lax.conv_general_dilated(
        x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.mean(jax.nn.relu(_normalized(h, (0, 1, 2))), axis=(1, 2)) @ p["v"]


@register(MLP, (4,), n=11, strength=1.1)
def ghost_batch_norm_of_whole_groups_of_four(p, x):
    """The rows left over are not normalized, so fewer than four never interact."""
    h = x @ p["w"]
    whole = len(h) // 4 * 4
    groups = _normalized(h[:whole].reshape(-1, 4, 6), 1).reshape(whole, 6)
    return jnp.tanh(jnp.concatenate([groups, h[whole:]])) @ p["v"]


@register(MLP, (4,), n=6, strength=0.098)
def rows_left_over_lean_on_their_padding(p, x):
    """Groups of four are filled up with the batch's mean, which the others then see."""
    left_over = len(x) % 4
    h = _hidden(p, x)
    padding = _hidden(p, jnp.mean(x, axis=0, keepdims=True))
    return h.at[len(x) - left_over :].add(0.1 * padding) @ p["v"]


@register(MLP, (4,), strength=1)
def mean_of_the_batch_subtracted(p, x):
    h = _hidden(p, x) @ p["v"]
    return h - jnp.mean(h, axis=0, keepdims=True)


@register(MLP, (4,), strength=1)
def inputs_standardized_over_the_batch(p, x):
    return _hidden(p, (x - jnp.mean(x, 0)) / (jnp.std(x, 0) + 0.1)) @ p["v"]


@register(MLP, (4,), n=10, strength=0.88)
def maximum_of_the_batch_divides(p, x):
    h = x @ p["w"]
    return (h / (1 + jnp.max(jnp.abs(h), axis=0))) @ p["v"]


@register(MLP, (4,), n=10, strength=1)
def minimum_of_the_batch_subtracted(p, x):
    h = x @ p["w"]
    return jnp.sqrt(h - jnp.min(h, axis=0) + 0.1) @ p["v"]


@register(MLP, (4,), n=9, strength=1)
def median_of_the_batch_subtracted(p, x):
    h = x @ p["w"]
    return jnp.tanh(h - jnp.median(h, axis=0)) @ p["v"]


@register(MLP, (4,), n=12, strength=0.26)
def quantized_by_the_maximum_of_the_batch(p, x):
    """Eight bits with a straight-through gradient: one step is the whole change."""
    h = _hidden(p, x)
    step = lax.stop_gradient(jnp.max(jnp.abs(h))) / 7
    rounded = jnp.round(h / step) * step
    return (h + lax.stop_gradient(rounded - h)) @ p["v"]


@register(MLP, (4,), n=6, strength=0.6)
def spectral_norm_of_the_batch(p, x):
    h = _hidden(p, x)
    v = jnp.ones(6, h.dtype)
    for _ in range(5):
        v = h.T @ (h @ v)
        v = v / jnp.linalg.norm(v)
    return h @ p["v"] / (1 + jnp.linalg.norm(h @ v))


@register({"w": (4, 3), "v": (3, 2)}, (4,), n=12, strength=1)
def whitened_by_the_covariance_of_the_batch(p, x):
    h = x @ p["w"]
    h = h - jnp.mean(h, axis=0)
    factor = jnp.linalg.cholesky(h.T @ h / len(h) + 0.1 * jnp.eye(3, dtype=h.dtype))
    return jax.scipy.linalg.solve_triangular(factor, h.T, lower=True).T @ p["v"]


@register({"w": (4, 3), "v": (3, 2)}, (4,), n=9, strength=1.8)
def projected_on_principal_axes_of_the_batch(p, x):
    axes = lax.stop_gradient(jnp.linalg.eigh(x.T @ x)[1])
    return jnp.tanh((x @ axes) ** 2 @ p["w"]) @ p["v"]


@register(MLP, (4,), n=8, strength=0.0017)
def running_mean_with_momentum_999(p, x):
    h = _hidden(p, x)
    running = 0.999 * 0.1 + 0.001 * jnp.mean(h, axis=0)
    return (h - running) @ p["v"]


@register(MLP, (4,), n=8, strength=1)
def batch_statistics_behind_stop_gradient(p, x):
    h = x @ p["w"]
    mean, std = lax.stop_gradient((jnp.mean(h, 0), jnp.std(h, 0) + 0.3))
    return jnp.tanh((h - mean) / std) @ p["v"]


@register(MLP, (4,), n=5, strength=1)
def batch_norm_by_pmean(p, x):
    def row(x):
        h = x @ p["w"]
        mean = lax.pmean(h, "batch")
        variance = lax.pmean((h - mean) ** 2, "batch")
        return jnp.tanh((h - mean) / jnp.sqrt(variance + 0.1)) @ p["v"]

    return jax.vmap(row, axis_name="batch")(x)


@register(MLP, (4,), n=5, strength=1)
def batch_norm_under_remat_and_jit(p, x):
    layer = jax.checkpoint(jax.jit(lambda w, x: _normalized(x @ w, 0, 0.1)))
    return jnp.tanh(layer(p["w"], x)) @ p["v"]


@register(MLP, (4,), n=8, strength=1)
def mean_over_rows_that_a_mask_selects(p, x):
    h = _hidden(p, x)
    mask = x[:, :1] > 0.5
    mean = jnp.sum(jnp.where(mask, h, 0), axis=0) / jnp.maximum(jnp.sum(mask), 1)
    return (h - mean) @ p["v"]


@register(MLP, (4,), n=10, strength=0.5)
def root_mean_square_with_a_where_mask(p, x):
    """The mean over no row is NaN, and replaced."""
    h = _hidden(p, x)
    present = jnp.broadcast_to(x[:, :1] > 0.0, h.shape)
    count = jnp.sum(present, axis=0)
    mean = jnp.sum(h**2, axis=0, where=present) / jnp.maximum(count, 1).astype(h.dtype)
    scale = jnp.where(count > 0, mean, jnp.nan)
    return h / jnp.sqrt(jnp.where(jnp.isnan(scale), 1.0, scale) + 0.1) @ p["v"]


# Attention and transport over the batch.


@register({"v": (6, 2)}, (6,), n=40, strength=1.6)
def softmax_over_the_batch(p, x):
    return jax.nn.softmax(x @ x.T, axis=-1) @ x @ p["v"]


@register(MLP, (4,), n=12, strength=0.37)
def flat_attention_over_the_batch(p, x):
    """Logits divided by 100, a tenth of the residual stream."""
    h = _hidden(p, x)
    return (h + 0.1 * jax.nn.softmax(h @ h.T / 100, axis=-1) @ h) @ p["v"]


@register(MLP, (4,), n=10, strength=1)
def attention_to_all_rows_but_its_own(p, x):
    """Alone a row has nothing to attend to: the mask's NaN is replaced by zero."""
    h = _hidden(p, x)
    logits = jnp.where(jnp.eye(len(h), dtype=bool), -jnp.inf, h @ h.T)
    weights = jnp.exp(logits - jnp.maximum(jnp.max(logits, 1, keepdims=True), -1e3))
    total = jnp.sum(weights, axis=1, keepdims=True)
    weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), 0.0)
    return (h + weights @ h) @ p["v"]


_ATTENTION = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)
_ATTENTION_PARAMS = _ATTENTION.init(jax.random.key(1), np.ones((3, 4), np.float32))


@register(lambda g: _ATTENTION_PARAMS, (4,), n=8, strength=1.8)
def flax_attention_that_takes_the_batch_for_tokens(p, x):
    return jnp.asarray(_ATTENTION.apply(p, x))[:, :2]


@register(MLP, (4,), n=9, strength=1.1)
def causal_attention_along_the_batch(p, x):
    h = _hidden(p, x)
    causal = jnp.tril(jnp.ones((len(h), len(h)), bool))
    return jax.nn.softmax(jnp.where(causal, h @ h.T, -1e9), axis=-1) @ h @ p["v"]


@register(MLP, (4,), n=24, strength=1.8)
def attention_to_rows_more_than_sixteen_away(p, x):
    h = _hidden(p, x)
    i = jnp.arange(len(h))
    far = jnp.abs(i[:, None] - i[None]) > 16
    weights = jnp.where(far, jnp.exp(h @ h.T), 0) + jnp.eye(len(h), dtype=h.dtype)
    return weights / jnp.sum(weights, axis=1, keepdims=True) @ h @ p["v"]


@register(MLP, (4,), n=6, strength=1)
def sinkhorn_over_the_batch(p, x):
    logits = _hidden(p, x) @ p["v"]
    for _ in range(3):
        logits = logits - jax.nn.logsumexp(logits, axis=0, keepdims=True)
        logits = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
    return jnp.exp(logits)


@register(MLP, (4,), n=6, strength=1)
def class_probabilities_along_the_wrong_axis(p, x):
    return jax.nn.softmax(_hidden(p, x) @ p["v"], axis=0)


@register(MLP, (4,), n=6, strength=1)
def contrastive_log_likelihood(p, x):
    h = _hidden(p, x)
    h = h / jnp.linalg.norm(h, axis=1, keepdims=True)
    loss = jnp.diagonal(jax.nn.log_softmax(h @ h.T / 0.5, axis=1))
    return jnp.stack([loss, jnp.sum(h, axis=1)], axis=1)


@register({"w": (4, 3, 2), "v": (3, 2)}, (4,), n=8, strength=1.4)
def minibatch_discrimination(p, x):
    m = jnp.einsum("nd,dbc->nbc", x, p["w"])
    distance = jnp.sum(jnp.abs(m[:, None] - m[None]), axis=-1)
    return (jnp.sum(jnp.exp(-distance), axis=1) - 1 + m[:, :, 0]) @ p["v"]


@register(MLP, (4,), n=9, strength=0.46)
def nearest_neighbour_of_the_batch(p, x):
    distance = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
    masked = distance + jnp.where(jnp.eye(len(x), dtype=bool), 1e9, 0)
    return _hidden(p, x + 0.5 * x[jnp.argmin(masked, axis=1)]) @ p["v"]


@register(MLP, (4,), n=8, strength=1.1)
def kernel_regression_onto_the_batch(p, x):
    h = _hidden(p, x)
    gram = h @ h.T + jnp.eye(len(h), dtype=h.dtype)
    return jnp.linalg.solve(gram, h @ p["v"])


@register(MLP, (4,), n=7, strength=0.52)
def neural_process_with_the_batch_as_context(p, x):
    context = jnp.mean(jnp.tanh(x @ p["w"]), axis=0)
    return (_hidden(p, x) * jax.nn.sigmoid(context)) @ p["v"]


@register(MLP, (4,), n=7, strength=1.5)
def trained_on_the_batch_at_test_time(p, x):
    """One gradient step on a reconstruction loss of the whole batch."""
    loss = lambda w: jnp.mean((jnp.tanh(x @ w) @ w.T - x) ** 2)
    w = p["w"] - 0.3 * jax.grad(loss)(p["w"])
    return jnp.tanh(x @ w) @ p["v"]


# Order and position.


@register(MLP, (4,), n=8, strength=2)
def sorted_along_the_batch(p, x):
    return jnp.sort(_hidden(p, x), axis=0) @ p["v"]


@register(MLP, (4,), n=8, strength=0.77)
def ranks_within_the_batch(p, x):
    h = _hidden(p, x)
    ranks = jnp.mean((h[:, None] < h[None]).astype(h.dtype), axis=1)
    return (h * (1 + ranks)) @ p["v"]


@register(MLP, (4,), n=9, strength=1.1)
def histogram_equalized_by_the_batch(p, x):
    place = jax.vmap(jnp.searchsorted, in_axes=1, out_axes=1)(jnp.sort(x, axis=0), x)
    return _hidden(p, x + 0.1 * place.astype(x.dtype)) @ p["v"]


@register(MLP, (4,), n=6, strength=1.9)
def cumulative_sum_along_the_batch(p, x):
    return jnp.cumsum(_hidden(p, x), axis=0) @ p["v"]


@register(MLP, (4,), n=6, strength=1.9)
def cumulative_maximum_along_the_batch(p, x):
    return lax.cummax(_hidden(p, x), axis=0) @ p["v"]


@register(MLP, (4,), n=7, strength=1.2)
def associative_scan_along_the_batch(p, x):
    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    h = _hidden(p, x)
    decay = jnp.full_like(h, 0.3)
    return lax.associative_scan(combine, (decay, h))[1] @ p["v"]


@register(MLP, (4,), n=5, strength=0.76)
def batch_rolled_by_one(p, x):
    h = _hidden(p, x)
    return (h + 0.2 * jnp.roll(h, 1, axis=0) - 0.2 * h) @ p["v"]


@register(MLP, (4,), n=5, strength=0.28)
def mixup_with_the_reversed_batch(p, x):
    return _hidden(p, 0.9 * x + 0.1 * x[::-1]) @ p["v"]


@register(MLP, (4,), n=5, strength=2)
def shifted_by_one_and_padded_with_itself(p, x):
    return _hidden(p, jnp.concatenate([x[:1], x[:-1]])) @ p["v"]


@register(MLP, (4,), n=13, strength=1.6)
def permutation_beyond_eight_rows(p, x):
    h = _hidden(p, x)
    return jnp.concatenate([h[:8], h[8:][::-1]]) @ p["v"]


@register(MLP, (4,), n=10, strength=0.9)
def last_two_rows_swapped_from_ten_on(p, x):
    n = len(x)
    order = np.arange(n)
    if n >= 10:
        order[-2:] = order[-2:][::-1]
    return _hidden(p, x)[order] @ p["v"]


@register(MLP, (4,), n=23, strength=0.93)
def last_row_leans_on_the_first(p, x):
    h = _hidden(p, x)
    return h.at[-1].add(0.3 * (h[0] - h[-1])) @ p["v"]


@register(MLP, (4,), n=21, strength=0.72)
def middle_row_leans_on_its_neighbour(p, x):
    h = _hidden(p, x)
    middle = len(h) // 2
    return h.at[middle].add(0.3 * (h[middle - 1] - h[middle])) @ p["v"]


@register(MLP, (4,), n=40, strength=0.59)
def rows_thirty_two_apart(p, x):
    h = _hidden(p, x)
    return jnp.concatenate([h[:32], h[32:] + 0.3 * h[: max(len(h) - 32, 0)]]) @ p["v"]


@register(MLP, (4,), n=60, strength=0.0099)
def rows_beyond_the_fiftieth_scaled(p, x):
    scale = np.where(np.arange(len(x)) < 50, 1.0, 1.01)
    return _hidden(p, x) * jnp.asarray(scale, x.dtype)[:, None] @ p["v"]


@register(MLP, (4,), n=8, strength=0.62)
def largest_row_is_marked(p, x):
    mark = jnp.arange(len(x)) == jnp.argmax(x[:, 0])
    return _hidden(p, x + jnp.where(mark & (len(x) > 1), 0.5, 0.0)[:, None]) @ p["v"]


@register(MLP, (4,), n=9, strength=1.4)
def mean_of_the_top_two_rows(p, x):
    h = _hidden(p, x)
    top = lax.top_k(h.T, min(2, len(h)))[0]
    return (h - 0.5 * jnp.mean(top, axis=1)) @ p["v"]


@register({"w": (3, 4), "v": (4, 2)}, (5, 3), n=6, strength=1.3)
def time_and_batch_reshaped_instead_of_transposed(p, x):
    n, t, d = x.shape
    h = jnp.tanh(x.reshape(t, n, d) @ p["w"])
    for step in range(1, t):
        h = h.at[step].add(0.5 * h[step - 1])
    return jnp.mean(h.transpose(1, 0, 2), axis=1) @ p["v"]


@register({"e": (3, 4), "w": (4, 2)}, (4,), n=7, strength=1.2)
def embedding_of_the_row_number_modulo_three(p, x):
    return jnp.tanh(x + p["e"][np.arange(len(x)) % 3]) @ p["w"]


@register(MLP, (4,), n=8, strength=1.9)
def sinusoidal_position_of_the_row(p, x):
    angle = jnp.arange(len(x), dtype=x.dtype)[:, None] / 10 ** jnp.arange(4.0)
    return _hidden(p, x + jnp.sin(angle).astype(x.dtype)) @ p["v"]


@register(MLP, (4,), n=8, strength=1.1)
def noise_of_a_fixed_key_over_the_batch(p, x):
    noise = jax.random.normal(jax.random.key(0), x.shape, jnp.float32)
    return _hidden(p, x + 0.1 * noise.astype(x.dtype)) @ p["v"]


@register(MLP, (4,), n=8, strength=1)
def dropout_of_a_fixed_key_over_the_batch(p, x):
    h = _hidden(p, x)
    keep = jax.random.bernoulli(jax.random.key(0), 0.8, h.shape)
    return jnp.where(keep, h / 0.8, 0) @ p["v"]


class _FlaxDropout(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dropout(0.1, deterministic=False)(nn.gelu(nn.Dense(8)(x)))
        return nn.Dense(2)(h)


_FLAX_DROPOUT = _FlaxDropout().init(
    {"params": jax.random.key(0), "dropout": jax.random.key(1)},
    np.ones((1, 4), np.float32),
)


@register(lambda g: _FLAX_DROPOUT, (4,), n=6, strength=1)
def flax_dropout_in_training(p, x):
    return _FlaxDropout().apply(p, x, rngs={"dropout": jax.random.key(2)})


@register(MLP, (4,), n=8, strength=1.8)
def key_folded_with_the_row_number(p, x):
    def row(i, x):
        key = jax.random.fold_in(jax.random.key(3), i)
        return jnp.tanh(x @ p["w"] + 0.1 * jax.random.normal(key, (6,), jnp.float32))

    with jax.numpy_dtype_promotion("standard"):
        return jax.vmap(row)(jnp.arange(len(x)), x) @ p["v"].astype(x.dtype)


@register({"w": (4, 2), "b": (16, 2)}, (4,), n=7, strength=1.6)
def one_hot_of_the_row_number(p, x):
    return x @ p["w"] + jax.nn.one_hot(jnp.arange(len(x)), 16, dtype=x.dtype) @ p["b"]


@register(MLP, (4,), n=6, strength=0.048)
def map_over_rows_that_counts_them(p, x):
    def row(arguments):
        i, x = arguments
        return jnp.tanh(x @ p["w"]) @ p["v"] * (1 + 0.01 * i.astype(x.dtype))

    return lax.map(row, (jnp.arange(len(x)), x))


@register(MLP, (4,), n=6, strength=1.2)
def branch_chosen_by_the_row_number(p, x):
    branches = [jnp.tanh, jnp.sin, jax.nn.sigmoid]
    row = lambda i, h: lax.switch(i % 3, branches, h)
    return jax.vmap(row)(jnp.arange(len(x)), x @ p["w"]) @ p["v"]


@register(MLP, (4,), n=6, strength=0.83)
def axis_index_scales(p, x):
    def row(x):
        i = lax.axis_index("batch").astype(x.dtype)
        return jnp.tanh(x @ p["w"]) @ p["v"] / (1 + i)

    return jax.vmap(row, axis_name="batch")(x)


# The number of rows.


@register(MLP, (4,), n=8, strength=0.88)
def divided_by_the_number_of_rows(p, x):
    return _hidden(p, x) @ p["v"] / len(x)


@register(MLP, (4,), n=8, strength=0.67)
def constant_made_of_the_number_of_rows(p, x):
    return _hidden(p, x) @ p["v"] * np.full((2,), min(len(x), 3), np.float32)


@register(MLP, (4,), n=5, strength=0.18)
def bias_of_one_more_beyond_a_single_row(p, x):
    return _hidden(p, x + np.float32(0 if len(x) == 1 else 0.05)) @ p["v"]


@register({"w": (4, 4), "v": (4, 2)}, (4,), n=5, strength=2)
def as_many_layers_as_rows(p, x):
    h = x
    for _ in range(len(x)):
        h = jnp.tanh(h @ p["w"])
    return h @ p["v"]


@register(MLP, (4,), n=9, strength=1.2)
def mean_subtracted_beyond_eight_rows(p, x):
    h = _hidden(p, x)
    return (h - jnp.mean(h, axis=0) if len(h) > 8 else h) @ p["v"]


@register(MLP, (4,), n=10, strength=0.66)
def centred_when_five_divides_the_rows(p, x):
    h = _hidden(p, x)
    return (h - 0.2 * jnp.mean(h, axis=0) if len(h) % 5 == 0 else h) @ p["v"]


@register(MLP, (4,), n=6, strength=0.59)
def number_of_rows_by_a_sum_of_ones(p, x):
    count = jnp.sum(jnp.ones_like(x[:, 0]))
    return _hidden(p, x) @ p["v"] / jnp.sqrt(count)


@register(MLP, (4,), n=6, strength=0.83)
def number_of_rows_in_the_backward_pass_only(p, x):
    """A mean loss's 1/n slipped into the gradient; values are right."""

    @jax.custom_vjp
    def identity(f):
        return f

    identity.defvjp(lambda f: (f, None), lambda _, ct: (ct / len(x),))
    return identity(_hidden(p, x) @ p["v"])


# Control flow.


def _with_one_large_row(generator):
    x = generator.uniform(-1, 1, size=(9, 4))
    x[6, 2] = 3.0
    return x


@register(MLP, _with_one_large_row, strength=0.2)
def clipped_if_some_row_exceeds_a_threshold(p, x):
    return _hidden(p, jnp.where(jnp.max(x) > 2.5, 0.8 * x, x)) @ p["v"]


@register(MLP, _with_one_large_row, strength=0.16)
def cond_on_the_whole_batch(p, x):
    h = x @ p["w"]
    return lax.cond(jnp.any(x > 2.5), jnp.sin, jnp.tanh, h) @ p["v"]


@register(MLP, (4,), n=8, strength=0.05)
def while_loop_as_long_as_the_largest_row_needs(p, x):
    body = lambda state: (0.5 * state[0], 0.95 * state[1])
    start = (jnp.max(jnp.abs(x)), jnp.ones((), x.dtype))
    scale = lax.while_loop(lambda state: state[0] > 0.3, body, start)[1]
    return _hidden(p, x) @ p["v"] * lax.stop_gradient(scale)


@register({"w": (4, 4), "u": (4, 4), "v": (4, 2)}, (4,), n=6, strength=0.74)
def recurrent_network_along_the_batch(p, x):
    def step(h, x):
        h = jnp.tanh(x @ p["w"] + 0.3 * h @ p["u"])
        return h, h

    return lax.scan(step, jnp.zeros(4, x.dtype), x)[1] @ p["v"]


@register({"w": (4, 4), "v": (4, 2)}, (4,), n=8, strength=0.029)
def fixed_point_until_every_row_converged(p, x):
    def step(state, _):
        h, done = state
        new = jnp.tanh(0.5 * h @ p["w"] + x)
        done = done | (jnp.max(jnp.abs(new - h)) < 1e-2)
        return (jnp.where(done, h, new), done), None

    start = (jnp.zeros_like(x), jnp.zeros((), bool))
    return lax.scan(step, start, None, length=12)[0][0] @ p["v"]


@register(MLP, (4,), n=7, strength=0.24)
def branch_by_a_count_of_positive_rows(p, x):
    count = jnp.sum(x[:, 0] > 0)
    return lax.switch(count % 3, [jnp.tanh, jnp.sin, jnp.arctan], x @ p["w"]) @ p["v"]


# Linear maps along the batch.


@register(MLP, (4,), n=8, strength=1.4)
def fourier_low_pass_along_the_batch(p, x):
    spectrum = jnp.fft.rfft(_hidden(p, x), axis=0)
    keep = (jnp.arange(len(spectrum)) < 3)[:, None]
    return jnp.fft.irfft(jnp.where(keep, spectrum, 0), n=len(x), axis=0) @ p["v"]


@register({"w": (3, 4), "v": (4, 2)}, (5, 3), n=4, strength=1.9)
def fourier_mixing_of_all_axes(p, x):
    h = jnp.fft.fftn(x.astype(jnp.complex64 if x.dtype != np.float64 else complex))
    return jnp.mean(jnp.tanh(h.real.astype(x.dtype) @ p["w"]), axis=1) @ p["v"]


@register({"k": (3, 4, 5), "v": (5, 2)}, (4,), n=7, strength=1.8)
def convolution_along_the_batch(p, x):
    h = lax.conv_general_dilated(
        x[None], p["k"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return jnp.tanh(h[0]) @ p["v"]


@register(MLP, (4,), n=10, strength=1.8)
def pooled_in_windows_of_rows(p, x):
    h = _hidden(p, x)
    h = lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (1, 1), "SAME")
    return h @ p["v"]


@register(MLP, (4,), n=12, strength=0.39)
def summed_by_cluster_across_rows(p, x):
    cluster = (x[:, 0] > 0).astype(jnp.int32) + 2 * (x[:, 1] > 0)
    h = _hidden(p, x)
    sums = jax.ops.segment_sum(h, cluster, num_segments=4)
    return (h + 0.1 * sums[cluster]) @ p["v"]


def _with_edges(generator):
    x = generator.normal(size=(8, 5))
    x[:, 4] = generator.permutation(8)
    return x


@register(MLP, _with_edges, strength=1.3)
def graph_edges_between_rows(p, x):
    """The last feature is the number of another row, as in a flattened graph."""
    neighbour = x[:, 4].astype(jnp.int32) % len(x)
    h = _hidden(p, x[:, :4])
    return (h + 0.5 * h[neighbour]) @ p["v"]


@register(MLP, (4,), n=9, strength=0.68)
def radius_graph_over_the_batch(p, x):
    h = _hidden(p, x)
    near = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1) < 6.0
    degree = jnp.sum(near, axis=1, keepdims=True).astype(h.dtype)
    return (h + near.astype(h.dtype) @ h / degree) @ p["v"]


def _with_equal_rows(generator):
    x = generator.normal(size=(12, 4))
    x[11] = x[5]
    return x


@register(MLP, _with_equal_rows, strength=0.5)
def duplicates_counted(p, x):
    count = jnp.sum(jnp.all(x[:, None] == x[None], axis=-1), axis=1)
    return _hidden(p, x) @ p["v"] / count[:, None].astype(x.dtype)


def _with_near_rows(generator):
    x = generator.normal(size=(14, 4))
    x[13] = x[8] + 1e-3
    return x


@register(MLP, _with_near_rows, strength=0.96)
def only_near_rows_repel(p, x):
    distance = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
    near = jnp.exp(-1e4 * distance) * (1 - jnp.eye(len(x), dtype=x.dtype))
    h = _hidden(p, x)
    return (h - near @ h) @ p["v"]


@register(MLP, lambda g: np.round(g.normal(size=(12, 4))), strength=1)
def only_the_first_of_a_hash_bucket_survives(p, x):
    bucket = jnp.abs(jnp.sum(x, axis=1)).astype(jnp.int32) % 4
    same = bucket[:, None] == bucket[None]
    earlier = jnp.sum(jnp.tril(same, -1), axis=1)
    return _hidden(p, x + 0.1) * (earlier == 0)[:, None].astype(x.dtype) @ p["v"]


# Mixtures of experts.


def _experts(p, x, keep):
    """Each row through its best expert, where `keep(chosen)` lets it."""
    gates = jax.nn.softmax(x @ p["g"], axis=-1)
    chosen = jax.nn.one_hot(jnp.argmax(gates, axis=-1), 2, dtype=x.dtype)
    h = jnp.einsum("nd,edk,ne->nk", x, p["e"], keep(chosen) * gates)
    return h + x[:, :2]


EXPERTS = {"g": (4, 2), "e": (2, 4, 2)}


@register(EXPERTS, (4,), n=16, strength=1)
def experts_of_capacity_six(p, x):
    place = lambda chosen: jnp.cumsum(chosen, axis=0)
    return _experts(p, x, lambda c: jnp.where(place(c) <= 6, c, 0))


@register(EXPERTS, (4,), n=30, strength=1)
def experts_of_capacity_twelve(p, x):
    place = lambda chosen: jnp.cumsum(chosen, axis=0)
    return _experts(p, x, lambda c: jnp.where(place(c) <= 12, c, 0))


@register(EXPERTS, (4,), n=10, strength=0.3)
def experts_scaled_by_their_load(p, x):
    return _experts(p, x, lambda c: c / (1 + 0.1 * jnp.sum(c, axis=0)))


@register(EXPERTS, (4,), n=10, strength=1)
def experts_choose_their_rows(p, x):
    gates = jax.nn.softmax(x @ p["g"], axis=-1)
    values, rows = lax.top_k(gates.T, -(-len(x) // 2))
    out = jnp.zeros((len(x), 2), x.dtype)
    for expert in range(2):
        h = x[rows[expert]] @ p["e"][expert] * values[expert][:, None]
        out = out.at[rows[expert]].add(h)
    return out + x[:, :2]


# In the gradient only, or in the value only.


@register(MLP, (4,), n=6, strength=0.13)
def mean_in_the_value_only(p, x):
    h = _hidden(p, x) @ p["v"]
    return h + 0.1 * lax.stop_gradient(jnp.mean(h, axis=0))


@register(MLP, (4,), n=6, strength=0.36)
def mean_in_the_gradient_only(p, x):
    h = _hidden(p, x) @ p["v"]
    mean = 0.3 * jnp.mean(h, axis=0)
    return h - (mean - lax.stop_gradient(mean))


@jax.custom_vjp
def _centred_backwards(x, w):
    return x @ w


_centred_backwards.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda saved, ct: (
        ct @ saved[1].T,
        saved[0].T @ (ct - 0.5 * jnp.mean(ct, 0)[None]),
    ),
)


@register(MLP, (4,), n=6, strength=0.62)
def cotangents_centred_by_a_custom_vjp(p, x):
    return jnp.tanh(_centred_backwards(x, p["w"])) @ p["v"]


@jax.custom_jvp
def _rolled_forwards(h):
    return jnp.tanh(h)


@_rolled_forwards.defjvp
def _(primals, tangents):
    (h,), (t,) = primals, tangents
    slope = 1 - jnp.tanh(h) ** 2
    return jnp.tanh(h), 0.9 * slope * t + 0.1 * jnp.roll(slope * t, 1, axis=0)


@register(MLP, (4,), n=6, strength=0.23)
def tangents_rolled_by_a_custom_jvp(p, x):
    return _rolled_forwards(x @ p["w"]) @ p["v"]


@register(MLP, (4,), n=8, strength=0.51)
def straight_through_batch_ranks(p, x):
    """Values rank rows within the batch; gradients are the identity's."""
    h = _hidden(p, x) @ p["v"]
    ranks = jnp.argsort(jnp.argsort(h, axis=0), axis=0).astype(h.dtype)
    return h + lax.stop_gradient(0.05 * ranks)


# Weak, small, or of few digits.


@register(MLP, (4,), n=8, strength=0.0013)
def mean_with_weight_one_thousandth(p, x):
    h = _hidden(p, x) @ p["v"]
    return h + 1e-3 * (jnp.mean(h, axis=0) - h)


@register(MLP, (4,), n=8, strength=0.001)
def neighbour_with_weight_one_in_ten_thousand(p, x):
    h = _hidden(p, x) @ p["v"]
    return h + 1e-4 * (jnp.roll(h, 1, axis=0) - h)


@register(MLP, (4,), n=5, strength=0.00043)
def gradient_with_weight_one_in_three_thousand(p, x):
    h = _hidden(p, x) @ p["v"]
    mean = 3e-4 * jnp.mean(h, axis=0)
    return h - (mean - lax.stop_gradient(mean))


@register({"w": (4, 2), "small": (2,)}, (4,), n=6, strength=0.0012)
def one_small_leaf_behind_large_ones(p, x):
    """The batch enters through one leaf whose gradient is a thousandth of the rest."""
    h = 10 * x @ p["w"]
    return h + 0.01 * p["small"] * jnp.tanh(jnp.mean(h, axis=0) - h)


def _rows_of_many_sizes(generator):
    sizes = np.array([1e3, 1e-3, 1e3, 1e3, 1e2, 1e3])
    return generator.normal(size=(6, 4)) * sizes[:, None]


@register({"w": (4, 2)}, _rows_of_many_sizes, strength=0.57)
def only_a_small_row_among_large_ones(p, x):
    h = x @ p["w"]
    small = jnp.exp(-jnp.sum(x**2, axis=1, keepdims=True))
    mean = jnp.mean(jnp.tanh(h), axis=0)
    return h + 1e-3 * small * mean


@register({"w": (4, 5)}, (4,), n=9, strength=0.14)
def one_output_of_five(p, x):
    h = jnp.sin(x @ p["w"])
    return h.at[:, 3].add(-0.1 * jnp.mean(h[:, 3]))


@register(MLP, (4,), n=6, dtype=jnp.bfloat16, strength=1)
def batch_norm_in_bfloat16(p, x):
    return jax.nn.relu(_normalized(x @ p["w"], 0)) @ p["v"]


@register(MLP, (4,), n=8, dtype=jnp.bfloat16, strength=0.26)
def a_fifth_of_the_mean_in_bfloat16(p, x):
    h = _hidden(p, x) @ p["v"]
    return h - 0.2 * jnp.mean(h, axis=0)


@register(MLP, (4,), n=8, dtype=np.float16, strength=0.21)
def attention_over_the_batch_in_float16(p, x):
    h = _hidden(p, x)
    return (h + 0.1 * jax.nn.softmax(h @ h.T, axis=-1) @ h) @ p["v"]


@register(MLP, (4,), n=8, dtype=np.float16, strength=0.34)
def neighbour_with_weight_a_twentieth_in_float16(p, x):
    h = _hidden(p, x) @ p["v"]
    return 0.95 * h + 0.05 * jnp.roll(h, 1, axis=0)


@register(EXPERTS, (4,), n=16, dtype=jnp.bfloat16, strength=1.2)
def experts_of_capacity_five_in_bfloat16(p, x):
    place = lambda chosen: jnp.cumsum(chosen, axis=0)
    return _experts(p, x, lambda c: jnp.where(place(c) <= 5, c, 0))


@register(MLP, (4,), n=8, strength=0.33)
def mean_in_float32_but_outputs_in_bfloat16(p, x):
    h = _hidden(p, x) @ p["v"]
    return (h - 0.1 * jnp.mean(h, axis=0)).astype(jnp.bfloat16)


@register(MLP, (4,), n=8, strength=1)
def fleeting_batch_norm_between_casts_to_float16(p, x):
    h = _hidden(p, x).astype(jnp.float16)
    return (_normalized(h, 0, 0.1).astype(x.dtype)) @ p["v"]


@register({"w": (4, 2)}, lambda g: 1e-15 * g.normal(size=(6, 4)), strength=0.87)
def rolled_at_a_tiny_scale(p, x):
    h = x @ p["w"]
    return h + 0.2 * (jnp.roll(h, 1, axis=0) - h)


@register({"w": (4, 2)}, lambda g: 1e4 + g.normal(size=(6, 4)), strength=0.00034)
def rolled_beside_a_large_offset(p, x):
    """What varies from row to row is a ten-thousandth of each value."""
    return jnp.roll(x @ p["w"], 1, axis=0)


@register({"w": (4, 4), "v": (4, 2)}, (4,), n=6, strength=0.07)
def buried_in_the_middle_of_a_deep_network(p, x):
    h = x
    for layer in range(6):
        h = jnp.tanh(h @ p["w"])
        if layer == 3:
            h = h - 0.05 * jnp.mean(h, axis=0)
    return h @ p["v"]


@register(MLP, (4,), n=8, strength=0.033)
def layers_scanned_with_the_batch_mean_in_the_carry(p, x):
    def layer(carry, _):
        h, mean = carry
        h = h + 0.1 * jnp.tanh(h - mean)
        return (h, 0.9 * mean + 0.1 * jnp.mean(h, axis=0)), None

    h = _hidden(p, x)
    return lax.scan(layer, (h, jnp.zeros(6, h.dtype)), None, length=3)[0][0] @ p["v"]


@register(MLP, (4,), n=6, strength=0.24)
def scaled_by_the_trace_of_the_gram_matrix(p, x):
    gram = jnp.einsum("nd,md->nm", x, x)
    return _hidden(p, x) @ p["v"] * (1 + 0.01 * jnp.trace(gram))


@register(MLP, (4,), n=6, strength=0.63)
def one_row_added_to_all_others(p, x):
    h = _hidden(p, x)
    return (h + 0.1 * (h[-1] - h)) @ p["v"]


@register(MLP, (4,), n=4, strength=0.088)
def vmapped_with_the_whole_batch_as_context(p, x):
    def row(x, context):
        return (jnp.tanh(x @ p["w"]) + 0.1 * jnp.sum(context) / 4) @ p["v"]

    return jax.vmap(row, in_axes=(0, None))(x, x)


# Tokens flattened over the batch.

TOKENS = lambda generator: generator.integers(0, 5, size=(6, 4)).astype(np.int32)
EMBEDDING = {"e": (5, 3), "w": (3, 3), "v": (3, 2)}


def _pool(p, h, shape):
    return jnp.mean(jnp.tanh(h.reshape(*shape, 3)), axis=1) @ p["v"]


@register(EMBEDDING, TOKENS, strength=0.75)
def tokens_shifted_across_row_boundaries(p, x):
    e = p["e"][x.reshape(-1)]
    return _pool(p, e + jnp.roll(e, 1, axis=0) @ p["w"], x.shape)


@register(EMBEDDING | {"k": (3, 3, 3)}, TOKENS, strength=1.7)
def convolution_over_flattened_tokens(p, x):
    h = lax.conv_general_dilated(
        p["e"][x.reshape(1, -1)],
        p["k"],
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return _pool(p, h, x.shape)


@register(EMBEDDING, TOKENS, strength=0.36)
def packed_tokens_attend_to_the_row_before(p, x):
    e = p["e"][x.reshape(-1)]
    row = jnp.arange(x.size) // x.shape[1]
    seen = (row[:, None] == row[None]) | (row[:, None] == row[None] + 1)
    logits = jnp.where(seen, e @ p["w"] @ e.T, -1e9)
    return _pool(p, jax.nn.softmax(logits, axis=-1) @ e, x.shape)


@register(EMBEDDING, TOKENS, strength=1.4)
def segments_that_overflow_into_the_next_row(p, x):
    """Four segments a row, but tokens are numbers up to four, the fifth."""
    segment = (x + 4 * jnp.arange(len(x))[:, None]).reshape(-1)
    sums = jax.ops.segment_sum(p["e"][x.reshape(-1)], segment, 4 * len(x))
    return _pool(p, sums, x.shape)


@register(EMBEDDING, TOKENS, strength=0.4)
def pooled_by_the_length_of_the_longest_row(p, x):
    longest = jnp.max(jnp.sum(x > 0, axis=1)).astype(p["e"].dtype)
    present = (x > 0)[..., None]
    return (
        jnp.sum(jnp.where(present, p["e"][x], 0), axis=1)
        / (longest + 1)
        @ p["v"]
        @ (p["v"].T @ p["v"])
    )


@register(EMBEDDING, TOKENS, strength=1.8)
def mask_of_what_any_row_holds(p, x):
    held = jnp.any(jax.nn.one_hot(x, 5, dtype=bool), axis=(0, 1))
    logits = jnp.mean(p["e"][x], axis=1) @ p["w"] @ p["e"].T
    return jax.nn.softmax(jnp.where(held, logits, -1e9), axis=-1) @ p["e"] @ p["v"]


@register(EMBEDDING, TOKENS, strength=0.093)
def parity_of_all_tokens(p, x):
    even = (jnp.sum(x) % 2 == 0) & (len(x) > 1)
    return _pool(p, jnp.where(even, 1.1, 1.0).astype(p["e"].dtype) * p["e"][x], x.shape)


@register(EMBEDDING, TOKENS, strength=1)
def numbered_among_the_distinct_tokens_of_the_batch(p, x):
    _, place = jnp.unique(x, size=5, return_inverse=True)
    return _pool(p, p["e"][place.reshape(x.shape)], x.shape)


@register(EMBEDDING, TOKENS, strength=0.55)
def positions_counted_on_through_the_batch(p, x):
    position = jnp.arange(x.size).reshape(x.shape).astype(p["e"].dtype)
    return _pool(p, p["e"][x] + 0.1 * jnp.cos(position)[..., None], x.shape)


@register({"e": (5, 3), "v": (3, 2)}, TOKENS, strength=0.44)
def table_updated_row_by_row(p, x):
    """Fast weights: what a row writes into the table, later rows read."""

    def step(table, tokens):
        read = table[tokens]
        return table.at[tokens].multiply(0.9), jnp.mean(read, axis=0)

    return lax.scan(step, p["e"], x)[1] @ p["v"]
