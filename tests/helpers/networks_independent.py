"""Networks whose rows are independent, in ways that look otherwise: none is refused."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.helpers.networks_base import Independent, recorder

INDEPENDENT: dict[str, Independent] = {}
register = recorder(INDEPENDENT, Independent, deviation=1e-10, kernel_error=1e-4)

MLP = {"w": (4, 6), "v": (6, 2)}


def _hidden(p, x):
    return jnp.tanh(x @ p["w"])


def _normalized(h, axis, eps=1e-3):
    """Zero mean and unit variance along `axis`."""
    centred = h - jnp.mean(h, axis, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis, keepdims=True) + eps)


def _conv(x, kernel, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers, **options
    )


# Along the features of a row.


@register({"w": (8, 5), "v": (5, 2)}, (8,))
def fourier_transform_of_features(p, x):
    spectrum = jnp.fft.rfft(x, axis=1)
    return (
        jnp.tanh(jnp.concatenate([spectrum.real, spectrum.imag[:, 1:-1]], 1) @ p["w"])
        @ p["v"]
    )


@register({"w": (3, 4), "v": (4, 2)}, (4, 3))
def fourier_mixing_of_tokens_and_features(p, x):
    h = jnp.fft.fft2(x).real.astype(x.dtype)
    return jnp.mean(_normalized(x + h, -1) @ p["w"], axis=1) @ p["v"]


@register({"filter": (5, 2), "v": (8, 2)}, (8,))
def complex_filter_in_fourier_space(p, x):
    weights = lax.complex(p["filter"][:, 0], p["filter"][:, 1])
    h = jnp.fft.irfft(jnp.fft.rfft(x, axis=1) * weights, n=8, axis=1)
    return jnp.tanh(h) @ p["v"]


@register(MLP, (4,))
def sorted_along_features(p, x):
    return jnp.sort(x @ p["w"], axis=1) @ p["v"]


@register(MLP, (4,))
def gathered_in_the_order_of_features(p, x):
    h = _hidden(p, x)
    return jnp.take_along_axis(h, jnp.argsort(x @ p["w"][:, ::-1], axis=1), 1) @ p["v"]


@register(MLP, (4,))
def cumulative_sum_of_features(p, x):
    return jnp.cumsum(_hidden(p, x), axis=1) @ p["v"]


@register(MLP, (4,))
def cumulative_logsumexp_of_reversed_features(p, x):
    return lax.cumlogsumexp(x @ p["w"], axis=1, reverse=True) @ p["v"]


@register(MLP, (4,))
def top_two_features_kept(p, x):
    h = _hidden(p, x)
    values, places = lax.top_k(h, 2)
    rows = jnp.arange(len(x))[:, None]
    return jnp.zeros_like(h).at[rows, places].set(values) @ p["v"]


@register({"g": (4, 3), "e": (3, 4, 2)}, (4,), n=12)
def mixture_of_experts_without_a_capacity(p, x):
    values, chosen = lax.top_k(jax.nn.softmax(x @ p["g"], axis=-1), 2)
    return jnp.einsum("nd,nsdk,ns->nk", x, p["e"][chosen], values)


@register({"g": (4, 3), "e": (3, 4, 2)}, (4,), n=9)
def experts_by_sorting_rows_and_back(p, x):
    """Rows sorted by expert, worked on in that order, and put back."""
    gates = x @ p["g"]
    expert = jnp.argmax(gates, axis=1)
    order = jnp.argsort(expert)
    weights = p["e"][expert[order]]
    h = jnp.einsum("nd,ndk->nk", x[order], weights)
    return h[jnp.argsort(order)] * jax.nn.sigmoid(jnp.max(gates, axis=1, keepdims=True))


@register({"g": (4, 3), "e": (3, 4, 2)}, (4,), n=10)
def experts_with_as_much_room_as_rows(p, x):
    """Places in each expert's buffer by `cumsum` over the batch, none ever full."""
    gates = jax.nn.softmax(x @ p["g"], axis=-1)
    chosen = jax.nn.one_hot(jnp.argmax(gates, axis=1), 3, dtype=jnp.int32)
    place = jnp.sum((jnp.cumsum(chosen, axis=0) - 1) * chosen, axis=1)
    send = chosen[:, :, None] * jax.nn.one_hot(place, len(x), dtype=jnp.int32)[:, None]
    send = send.astype(x.dtype)
    done = jnp.einsum("necd,edk->neck", send[..., None] * x[:, None, None], p["e"])
    return jnp.einsum("neck,ne->nk", done, gates)


@register({"w": (6, 4), "v": (4, 2)}, (6,))
def layer_norm(p, x):
    return jnp.tanh(_normalized(x, 1) @ p["w"]) @ p["v"]


@register({"w": (6, 6), "v": (6, 2)}, (6,))
def group_norm_within_a_row(p, x):
    h = _normalized((x @ p["w"]).reshape(-1, 2, 3), 2)
    return jax.nn.silu(h).reshape(-1, 6) @ p["v"]


@register({"w": (6, 4), "s": (4,), "v": (4, 2)}, (6,))
def root_mean_square_norm(p, x):
    h = x @ p["w"]
    h = h * lax.rsqrt(jnp.mean(h**2, axis=1, keepdims=True) + 1e-5) * p["s"]
    return jax.nn.gelu(h) @ p["v"]


@register(MLP, (4,))
def maximum_of_a_row_divides(p, x):
    h = x @ p["w"]
    return h / (1 + jnp.max(jnp.abs(h), axis=1, keepdims=True)) @ p["v"]


@register(MLP, (4,))
def quantized_row_by_row_to_eight_bits(p, x):
    h = _hidden(p, x)
    step = lax.stop_gradient(jnp.max(jnp.abs(h), axis=1, keepdims=True)) / 127
    return (h + lax.stop_gradient(jnp.round(h / step) * step - h)) @ p["v"]


@register(MLP, (4,))
def median_of_a_row_subtracted(p, x):
    h = x @ p["w"]
    return jnp.tanh(h - jnp.median(h, axis=1, keepdims=True)) @ p["v"]


@register({"w": (20, 2)}, (4,))
def polynomial_features_of_degree_three(p, x):
    squares = jnp.einsum("ni,nj->nij", x, x)[:, *np.triu_indices(4)]
    return (
        jnp.concatenate([x, squares, x**3, x[:, :2] ** 2 * x[:, 2:]], axis=1) @ p["w"]
    )


@register({"anchors": (5, 4), "v": (5, 2)}, (4,))
def radial_basis_of_fixed_anchors(p, x):
    distance = jnp.sum((x[:, None] - p["anchors"][None]) ** 2, axis=-1)
    return jnp.exp(-distance / 4) @ p["v"]


@register({"memory": (5, 4), "v": (4, 2)}, (4,), n=5)
def attention_to_as_many_memories_as_rows(p, x):
    return jax.nn.softmax(x @ p["memory"].T, axis=-1) @ p["memory"] @ p["v"]


@register({"w": (9, 2)}, (3,))
def spherical_harmonics(p, x):
    a, b, c = jnp.moveaxis(x / jnp.linalg.norm(x, axis=1, keepdims=True), 1, 0)
    terms = [jnp.ones_like(a), a, b, c, a * b, b * c, 3 * c**2 - 1, a * c, a**2 - b**2]
    return jnp.tanh(jnp.stack(terms, axis=1) @ p["w"])


@register({"w": (6, 2)}, (1,))
def legendre_polynomials_by_a_fori_loop(p, x):
    u = jnp.tanh(x[:, 0])

    def body(k, table):
        m = jnp.asarray(k, x.dtype)
        new = ((2 * m - 1) * u * table[:, k - 1] - (m - 1) * table[:, k - 2]) / m
        return table.at[:, k].set(new)

    table = jnp.zeros((len(x), 6), x.dtype).at[:, 0].set(1.0).at[:, 1].set(u)
    return jnp.sin(lax.fori_loop(2, 6, body, table) @ p["w"])


@register(MLP | {"f": (4, 3), "w": (6, 6)}, (4,))
def random_fourier_features(p, x):
    angle = x @ p["f"]
    return _hidden(p, jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], 1)) @ p["v"]


# Tokens, sequences and sets.

TOKENS = lambda generator: generator.integers(0, 5, size=(6, 4)).astype(np.int32)
EMBEDDING = {"e": (5, 3), "w": (3, 3), "v": (3, 2)}


@register(EMBEDDING, TOKENS)
def tokens_flattened_to_look_up_their_embedding(p, x):
    h = jnp.take(p["e"], x.reshape(-1), axis=0) @ p["w"]
    return jnp.mean(jnp.tanh(h.reshape(*x.shape, 3)), axis=1) @ p["v"]


@register(EMBEDDING, TOKENS)
def tied_embedding_and_readout(p, x):
    h = jnp.tanh(jnp.mean(p["e"][x], axis=1) @ p["w"])
    return (h @ p["e"].T)[:, :2]


@register(EMBEDDING, TOKENS)
def segments_offset_by_their_row(p, x):
    """`row * 5 + token` numbers the segments of the whole batch: rows stay apart."""
    segment = (x + 5 * jnp.arange(len(x))[:, None]).reshape(-1)
    sums = jax.ops.segment_sum(p["e"][x.reshape(-1)], segment, 5 * len(x))
    return jnp.sum(jnp.tanh(sums.reshape(len(x), 5, 3) @ p["w"]), axis=1) @ p["v"]


@register(EMBEDDING, TOKENS)
def packed_tokens_attend_within_their_row(p, x):
    e = p["e"][x.reshape(-1)]
    row = jnp.arange(x.size) // x.shape[1]
    logits = jnp.where(row[:, None] == row[None], e @ p["w"] @ e.T, -jnp.inf)
    h = jax.nn.softmax(logits, axis=-1) @ e
    return jnp.mean(h.reshape(*x.shape, 3), axis=1) @ p["v"]


@register(EMBEDDING, TOKENS)
def counts_of_tokens_by_scatter(p, x):
    counts = jnp.zeros((len(x), 5), p["e"].dtype)
    counts = counts.at[jnp.arange(len(x))[:, None], x].add(1.0)
    return jnp.tanh(counts @ p["e"] @ p["w"]) @ p["v"]


def _with_lengths(generator):
    x = generator.normal(size=(7, 5, 4))
    x[:, 0, 3] = [1, 5, 3, 2, 5, 4, 1]
    return x


RAGGED = {"q": (3, 3), "w": (3, 3), "v": (3, 2)}


def _tokens_and_mask(x):
    return x[..., :3], jnp.arange(5)[None] < x[:, 0, 3].astype(jnp.int32)[:, None]


@register(RAGGED, _with_lengths)
def ragged_rows_averaged_over_their_length(p, x):
    h, mask = _tokens_and_mask(x)
    h = jnp.where(mask[..., None], jnp.tanh(h @ p["w"]), 0)
    return jnp.sum(h, axis=1) / jnp.sum(mask, axis=1, keepdims=True) @ p["v"]


@register(RAGGED, _with_lengths)
def ragged_rows_attend_within_their_length(p, x):
    h, mask = _tokens_and_mask(x)
    logits = jnp.einsum("nsd,de,nte->nst", h, p["q"], h)
    weights = jax.nn.softmax(logits, axis=-1, where=mask[:, None])
    return jnp.einsum("nst,ntd->nd", weights, h @ p["w"]) @ p["v"]


@register(RAGGED, _with_lengths)
def ragged_rows_sorted_by_length_and_back(p, x):
    order = jnp.argsort(-x[:, 0, 3])
    h, mask = _tokens_and_mask(x[order])
    h = jnp.where(mask[..., None], h @ p["w"], -jnp.inf)
    return jnp.max(h, axis=1)[jnp.argsort(order)] @ p["v"]


@register(RAGGED, _with_lengths)
def last_state_at_each_row_s_length(p, x):
    h, mask = _tokens_and_mask(x)

    def step(state, h):
        state = jnp.tanh(state @ p["q"] + h @ p["w"])
        return state, state

    states = lax.scan(step, jnp.zeros((len(x), 3), x.dtype), jnp.swapaxes(h, 0, 1))[1]
    return states[jnp.sum(mask, axis=1) - 1, jnp.arange(len(x))] @ p["v"]


def _padded_graphs(generator):
    edges = (generator.uniform(size=(6, 4, 4)) < 0.5).astype(float)
    return np.concatenate([generator.normal(size=(6, 4, 3)), edges], axis=2)


@register({"w": (3, 4), "u": (4, 4), "v": (4, 2)}, _padded_graphs)
def graphs_padded_with_an_adjacency_per_row(p, x):
    h, adjacency = x[..., :3] @ p["w"], x[..., 3:]
    degree = 1 + jnp.sum(adjacency, axis=2, keepdims=True)
    for _ in range(2):
        h = jnp.tanh(h + adjacency @ h @ p["u"] / degree)
    return jnp.sum(h, axis=1) @ p["v"]


@register({"w": (3, 4), "u": (4, 4), "v": (4, 2)}, _padded_graphs)
def graphs_flattened_to_one_large_graph(p, x):
    """Edges `(row * 4 + sender, row * 4 + receiver)` with weights, as batched graphs."""
    n = len(x)
    node = jnp.arange(4 * n).reshape(n, 4)
    senders = jnp.broadcast_to(node[:, None], (n, 4, 4)).reshape(-1)
    receivers = jnp.broadcast_to(node[:, :, None], (n, 4, 4)).reshape(-1)
    h = (x[..., :3] @ p["w"]).reshape(4 * n, 4)
    messages = h[senders] @ p["u"] * x[..., 3:].reshape(-1, 1)
    h = jnp.tanh(h + jax.ops.segment_sum(messages, receivers, 4 * n))
    return jnp.sum(h.reshape(n, 4, 4), axis=1) @ p["v"]


@register({"q": (4, 4), "k": (4, 4), "w": (4, 4), "v": (4, 2)}, (5, 4))
def causal_attention_with_rotary_embeddings(p, x):
    angle = jnp.arange(5, dtype=x.dtype)[:, None] * np.array([1.0, 0.1], np.float32)
    cos, sin = jnp.cos(angle), jnp.sin(angle)

    def rotate(h):
        a, b = jnp.split(h, 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    logits = rotate(x @ p["q"]) @ jnp.swapaxes(rotate(x @ p["k"]), 1, 2) / 2
    logits = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), logits, -jnp.inf)
    return jnp.mean(jax.nn.softmax(logits, axis=-1) @ x @ p["w"], axis=1) @ p["v"]


@register({"a": (4,), "w": (4, 4), "v": (4, 2)}, (6, 4))
def linear_recurrence_by_an_associative_scan(p, x):
    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    decay = jnp.broadcast_to(jax.nn.sigmoid(p["a"]), x.shape)
    h = lax.associative_scan(combine, (decay, x @ p["w"]), axis=1)[1]
    return jnp.tanh(h[:, -1]) @ p["v"]


@register({"w": (3, 4), "v": (4, 2)}, (5, 3))
def deep_set_of_a_row(p, x):
    h = jnp.tanh(x @ p["w"])
    return (h - jnp.mean(h, axis=1, keepdims=True)).std(axis=1) @ p["v"]


@register({"w": (3, 3), "v": (3, 2)}, (4, 3))
def sinkhorn_within_a_row(p, x):
    logits = x @ p["w"] @ jnp.swapaxes(x, 1, 2)
    for _ in range(3):
        logits = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
        logits = logits - jax.nn.logsumexp(logits, axis=2, keepdims=True)
    return jnp.mean(jnp.exp(logits) @ x, axis=1) @ p["v"]


@register({"c": (3,), "w": (3, 4), "v": (4, 2)}, (4, 3))
def class_token_broadcast_to_all_rows(p, x):
    token = jnp.broadcast_to(p["c"], (len(x), 1, 3))
    h = jnp.concatenate([token, x], axis=1)
    weights = jax.nn.softmax(h[:, :1] @ jnp.swapaxes(h, 1, 2), axis=-1)
    return jnp.tanh((weights @ h)[:, 0] @ p["w"]) @ p["v"]


# Images.

CONV = {"k": (3, 3, 2, 3), "v": (3, 2)}


@register(CONV, (5, 5, 2), n=5)
def convolution_and_maximum_pooling(p, x):
    h = jax.nn.relu(_conv(x, p["k"]))
    h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    return jnp.mean(h, axis=(1, 2)) @ p["v"]


@register(CONV, (4, 4, 2), n=5)
def resized_by_bilinear_interpolation(p, x):
    h = jax.image.resize(x, (len(x), 6, 7, 2), "bilinear")
    return jnp.mean(jnp.tanh(_conv(h, p["k"])), axis=(1, 2)) @ p["v"]


@register(CONV, (4, 4, 2), n=4)
def instance_norm_of_images(p, x):
    h = _normalized(_conv(x, p["k"]), (1, 2))
    return jnp.mean(jax.nn.gelu(h), axis=(1, 2)) @ p["v"]


@register({"g": (4, 18), "v": (2, 2)}, (4, 4, 4), n=5)
def filters_made_per_row_and_rows_folded_into_channels(p, x):
    """One grouped convolution, each row's channels by that row's own filters."""
    n = len(x)
    filters = jnp.tanh(jnp.mean(x, axis=(1, 2)) @ p["g"]).reshape(n, 3, 3, 2)
    filters = jnp.transpose(filters, (1, 2, 0, 3)).reshape(3, 3, 1, 2 * n)
    folded = jnp.transpose(x[..., 0], (1, 2, 0))[None]
    h = _conv(folded, filters, feature_group_count=n)
    h = jnp.mean(jnp.tanh(h.reshape(4, 4, n, 2)), axis=(0, 1))
    return h @ p["v"]


@register({"k": (2, 2, 1, 3), "v": (3, 2)}, (4, 4, 1), n=5)
def transposed_convolution(p, x):
    h = lax.conv_transpose(
        x, p["k"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.mean(jnp.tanh(h) ** 2, axis=(1, 2)) @ p["v"]


@register({"w": (4, 4), "u": (4, 4), "v": (4, 2)}, (4, 4, 1), n=5)
def patches_mixed_and_shuffled_back(p, x):
    h = x.reshape(-1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4, 4)
    h = jnp.swapaxes(jnp.tanh(jnp.swapaxes(h @ p["w"], 1, 2) @ p["u"]), 1, 2)
    h = h.reshape(-1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4, 4)
    return jnp.max(h, axis=2) @ p["v"]


@register({"w": (2, 2), "v": (9, 2)}, (4, 4), n=5)
def image_warped_by_bilinear_sampling(p, x):
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(3, dtype=x.dtype)] * 2, indexing="ij"))

    def row(image):
        places = jnp.einsum(
            "ij,jab->iab", jnp.eye(2, dtype=x.dtype) + 0.1 * p["w"], grid
        )
        sample = jax.scipy.ndimage.map_coordinates
        return jnp.tanh(sample(image, list(places), order=1, mode="nearest")).ravel()

    return jax.vmap(row)(x) @ p["v"]


# Loops, branches and maps over rows.


@register({"w": (3, 4), "u": (4, 4), "v": (4, 2)}, (5, 3))
def recurrent_network_vmapped_over_rows(p, x):
    step = lambda h, x: (jnp.tanh(h @ p["u"] + x @ p["w"]), None)
    row = lambda x: lax.scan(step, jnp.zeros(4, x.dtype), x)[0] @ p["v"]
    return jax.vmap(row)(x)


@register(MLP, (4,))
def while_loop_as_long_as_its_own_row_needs(p, x):
    def scale(x):
        body = lambda state: (0.5 * state[0], 0.9 * state[1])
        start = (jnp.max(jnp.abs(x)), jnp.ones((), x.dtype))
        return lax.while_loop(lambda state: state[0] > 0.3, body, start)[1]

    return _hidden(p, x) * lax.stop_gradient(jax.vmap(scale)(x))[:, None] @ p["v"]


@register(MLP, (4,))
def cond_within_each_row(p, x):
    row = lambda h: lax.cond(jnp.sum(h) > 0, jnp.tanh, jnp.sin, h)
    return jax.vmap(row)(x @ p["w"]) @ p["v"]


@register(MLP, (4,), n=9)
def branch_chosen_by_each_row(p, x):
    branches = [jnp.tanh, jnp.sin, jax.nn.softplus]
    row = lambda x: lax.switch(jnp.argmax(x) % 3, branches, x @ p["w"])
    return jax.vmap(row)(x) @ p["v"]


@register(MLP, (4,))
def mapped_over_rows_one_by_one(p, x):
    return lax.map(lambda x: jnp.tanh(x @ p["w"]) @ p["v"], x)


@register(MLP, (4,), n=11)
def mapped_over_rows_four_at_a_time(p, x):
    return lax.map(lambda x: jnp.tanh(x @ p["w"]) @ p["v"], x, batch_size=4)


@register(MLP, (4,), n=7)
def scanned_over_rows_with_the_weights_in_the_carry(p, x):
    step = lambda w, x: (w, jnp.tanh(x @ w))
    return lax.scan(step, p["w"], x)[1] @ p["v"]


@register(MLP, (4,), n=7)
def scanned_over_rows_backwards_with_an_idle_counter(p, x):
    step = lambda i, x: (i + 1, jnp.tanh(x @ p["w"]) @ p["v"])
    return lax.scan(step, 0, x, reverse=True)[1]


@register(MLP, (4,), n=6)
def fori_loop_that_writes_row_after_row(p, x):
    def body(i, out):
        row = lax.dynamic_slice_in_dim(x, i, 1)
        return lax.dynamic_update_slice_in_dim(out, _hidden(p, row) @ p["v"], i, 0)

    return lax.fori_loop(0, len(x), body, jnp.zeros((len(x), 2), x.dtype))


@register(MLP, (4,), n=10)
def chunks_of_four_with_padding(p, x):
    padded = jnp.pad(x, ((0, -len(x) % 4), (0, 0)))
    h = lax.map(lambda x: _hidden(p, x) @ p["v"], padded.reshape(-1, 4, 4))
    return h.reshape(-1, 2)[: len(x)]


@register(MLP, (4,), n=5)
def padded_to_a_multiple_of_eight(p, x):
    padded = jnp.concatenate([x, jnp.ones((-len(x) % 8, 4), x.dtype)])
    return lax.slice_in_dim(_hidden(p, padded) @ p["v"], 0, len(x))


@register(MLP, (4,), n=7)
def padded_with_the_last_row(p, x):
    padded = jnp.pad(x, ((0, -len(x) % 4), (0, 0)), mode="edge")
    return (_hidden(p, padded) @ p["v"])[: len(x)]


@register(MLP, (4,), n=9)
def halves_of_the_batch_apart(p, x):
    first, second = x[: len(x) // 2], x[len(x) // 2 :]
    return jnp.concatenate([_hidden(p, first), _hidden(p, second)]) @ p["v"]


@register(MLP, (4,), n=9)
def even_and_odd_rows_apart(p, x):
    h = jnp.zeros((len(x), 6), x.dtype)
    h = h.at[::2].set(_hidden(p, x[::2])).at[1::2].set(_hidden(p, x[1::2]))
    return h @ p["v"]


@register(MLP, (4,), n=6)
def batch_reversed_and_back(p, x):
    return _hidden(p, x[::-1])[::-1] @ p["v"]


@register(MLP, (4,), n=6)
def batch_rolled_and_back(p, x):
    return jnp.roll(_hidden(p, jnp.roll(x, 2, axis=0)), -2, axis=0) @ p["v"]


@register(MLP, (4,), n=6)
def batch_shuffled_by_a_key_and_back(p, x):
    order = jax.random.permutation(jax.random.key(0), len(x))
    return jnp.zeros((len(x), 2), x.dtype).at[order].set(_hidden(p, x[order]) @ p["v"])


@register(MLP, (4,), n=6)
def rows_sorted_by_a_feature_and_back(p, x):
    order = jnp.argsort(x[:, 0])
    return (_hidden(p, x[order]) @ p["v"])[jnp.argsort(order)]


@register(MLP, (4,), n=5)
def each_row_repeated_and_averaged(p, x):
    """Three fixed shifts of every row, as augmentation at test time."""
    shifts = np.array([-0.1, 0.0, 0.1], np.float32)
    h = jnp.repeat(x, 3, axis=0) + jnp.tile(shifts, len(x))[:, None].astype(x.dtype)
    return jnp.mean((_hidden(p, h) @ p["v"]).reshape(-1, 3, 2), axis=1)


@register(MLP, (4,), n=5)
def batch_doubled_by_its_mirror_image(p, x):
    both = _hidden(p, jnp.concatenate([x, -x])) @ p["v"] ** 2
    return both[: len(x)] + jnp.sin(both[len(x) :])


@register(MLP, (4,), n=5)
def batch_moved_to_the_last_axis_and_back(p, x):
    return (p["v"].T @ jnp.tanh(p["w"].T @ x.T)).T


@register({"w": (3, 5), "v": (5, 2)}, (4, 3), n=6)
def einsum_with_the_batch_in_the_middle(p, x):
    h = jnp.einsum("ntd,dh->tnh", x, p["w"])
    return jnp.einsum("tnh,hk,tnh->nk", jnp.tanh(h), p["v"], h)


@register({"w": (3, 5), "v": (5, 2)}, (4, 3), n=4)
def batch_and_time_merged_and_parted(p, x):
    h = jnp.tanh(x.reshape(-1, 3) @ p["w"]).reshape(len(x), 4, 5)
    return jnp.einsum("nth,hk->nk", h, p["v"])


@register(MLP, (4,), n=4)
def vectorized_by_a_signature(p, x):
    row = jnp.vectorize(
        lambda w, v, x: jnp.tanh(x @ w) @ v, signature="(d,h),(h,k),(d)->(k)"
    )
    return row(p["w"], p["v"], x)


@register({"w": (4, 3), "v": (3, 2)}, (5, 4), n=5)
def pmean_over_the_tokens_of_a_row(p, x):
    def token(x):
        h = jnp.tanh(x @ p["w"])
        return (h - lax.pmean(h, "tokens")) ** 2 @ p["v"]

    row = jax.vmap(token, axis_name="tokens")
    return jnp.sum(jax.vmap(row)(x), axis=1)


@register({"w": (5, 2)}, (4,), n=5)
def bias_by_a_column_of_ones(p, x):
    return jnp.tanh(jnp.concatenate([x, np.ones((len(x), 1), np.float32)], 1) @ p["w"])


@register(MLP, (4,), n=6)
def constants_of_the_batch_s_shape(p, x):
    """As many rows of one constant as the batch has; all rows are the same."""
    scale = np.tile(np.array([[1.0, 0.5]], np.float32), (len(x), 1))
    return _hidden(p, x + np.full((len(x), 4), 0.1, np.float32)) @ p["v"] * scale


@register(MLP, (4,), n=6)
def state_of_zeros_for_each_row(p, x):
    h = jnp.zeros((len(x), 6), x.dtype)
    for _ in range(3):
        h = 0.5 * h + jnp.tanh(x @ p["w"] + h)
    return h @ p["v"]


@register(MLP, (4,), n=8)
def gathered_by_row_and_own_feature(p, x):
    h = _hidden(p, x)
    best = h[jnp.arange(len(x)), jnp.argmax(jnp.abs(x), axis=1)]
    return h @ p["v"] + best[:, None]


@register(MLP, (4,), n=8)
def diagonal_of_a_product_over_all_pairs(p, x):
    """All pairs of rows are formed; each row takes its own."""
    pairs = jnp.einsum("nh,mh,hk->nmk", _hidden(p, x), x @ p["w"], p["v"])
    return jnp.einsum("nnk->nk", pairs)


@register(MLP, (4,), n=6)
def pairs_masked_to_the_diagonal(p, x):
    mask = jnp.eye(len(x), dtype=bool)
    logits = jnp.where(mask, x @ x.T, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1) @ _hidden(p, x) @ p["v"]


@register(MLP, (4,), n=7)
def softmax_stabilized_by_the_batch_s_maximum(p, x):
    """What is subtracted cancels: rows are independent up to rounding."""
    logits = _hidden(p, x) @ p["v"]
    weights = jnp.exp(logits - lax.stop_gradient(jnp.max(logits)))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


@register(MLP, (4,), n=7)
def scaled_by_a_power_of_two_of_the_batch_and_back(p, x):
    """A shared exponent, as block floating point has, and no digit lost."""
    scale = 2.0 ** jnp.ceil(jnp.log2(jnp.max(jnp.abs(x))))
    return _hidden(p, x / scale * scale) @ p["v"]


# Linear algebra, equations and derivatives within a row.

MATRIX = {"w": (3, 3), "v": (3, 2)}


def _positive(p, x):
    """A positive definite matrix for each row."""
    return (
        x @ jnp.swapaxes(x, 1, 2) + p["w"] @ p["w"].T + 0.5 * jnp.eye(3, dtype=x.dtype)
    )


@register(MATRIX, (3, 3), n=5)
def linear_systems_solved(p, x):
    return jnp.linalg.solve(_positive(p, x), x)[..., 0] @ p["v"]


@register(MATRIX, (3, 3), n=5)
def cholesky_factors_and_log_determinant(p, x):
    factor = jnp.linalg.cholesky(_positive(p, x))
    return jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)) @ p["v"] + factor[:, 2, :2]


@register(MATRIX, (3, 3), n=5)
def eigenvalues_of_symmetric_matrices(p, x):
    return jnp.linalg.eigvalsh(_positive(p, x)) @ p["v"]


@register(MATRIX, (3, 3), n=5)
def eigenvectors_of_symmetric_matrices(p, x):
    values, vectors = jnp.linalg.eigh(_positive(p, x))
    h = jnp.einsum("nij,nj,nkj->nik", vectors, jnp.sqrt(values), vectors)
    return jnp.tanh(h[:, 0]) @ p["v"]


@register(MATRIX, (3, 3), n=5)
def orthogonal_factors(p, x):
    return jnp.abs(jnp.linalg.qr(x + p["w"])[1][:, 0]) @ p["v"]


@register(MATRIX, (3, 3), n=5)
def singular_values(p, x):
    return jnp.linalg.svd(x + p["w"], compute_uv=False) @ p["v"]


@register(MATRIX, (3, 3), n=4)
def matrix_exponentials(p, x):
    return jax.vmap(jax.scipy.linalg.expm)(0.3 * x @ p["w"])[:, 0] @ p["v"]


@register(MATRIX, (3, 3), n=4)
def log_determinants(p, x):
    sign, log = jnp.linalg.slogdet(x + 0.3 * p["w"])
    return jnp.stack([sign * log, log], axis=1) @ (p["v"].T @ p["v"])


@register(MATRIX, (3,), n=5)
def conjugate_gradients_in_each_row(p, x):
    matrix = p["w"] @ p["w"].T + jnp.eye(3, dtype=x.dtype)
    solve = lambda b: jax.scipy.sparse.linalg.cg(lambda v: matrix @ v, b, maxiter=3)[0]
    return jnp.tanh(jax.vmap(solve)(x)) @ p["v"]


@register(MATRIX, (3,), n=5)
def differential_equation_by_runge_kutta(p, x):
    f = lambda h: jnp.tanh(h @ p["w"])
    h = x
    for _ in range(4):
        k1 = f(h)
        k2 = f(h + 0.1 * k1)
        k3 = f(h + 0.1 * k2)
        h = h + 0.2 / 6 * (k1 + 2 * k2 + 2 * k3 + f(h + 0.2 * k3))
    return h @ p["v"]


@register(MATRIX, (3,), n=6)
def fixed_point_with_each_row_s_own_stopping(p, x):
    def step(state, _):
        h, done = state
        new = jnp.tanh(0.5 * h @ p["w"] + x)
        done = done | (jnp.max(jnp.abs(new - h), axis=1, keepdims=True) < 1e-2)
        return (jnp.where(done, h, new), done), None

    start = (jnp.zeros_like(x), jnp.zeros((len(x), 1), bool))
    return lax.scan(step, start, None, length=12)[0][0] @ p["v"]


@register(MLP, (4,), n=5)
def gradient_of_an_energy_summed_over_the_batch(p, x):
    """Forces: the sum over rows has each row's own gradient."""
    energy = lambda x: jnp.sum(jnp.tanh(x @ p["w"]) @ p["v"])
    return jax.grad(energy)(x)[:, :3]


@register(MLP, (4,), n=5)
def directional_derivative_in_each_row(p, x):
    return jax.jvp(lambda x: _hidden(p, x) @ p["v"], (x,), (jnp.cos(x),))[1]


@register(MLP, (4,), n=5)
def transpose_of_a_linear_layer(p, x):
    back = jax.linear_transpose(lambda h: h @ p["w"].T, jnp.zeros((len(x), 6), x.dtype))
    return jnp.tanh(back(x)[0]) @ p["v"]


@jax.custom_jvp
def _soft_clip(h):
    return jnp.clip(h, -1, 1)


@_soft_clip.defjvp
def _(primals, tangents):
    (h,), (t,) = primals, tangents
    return jnp.clip(h, -1, 1), t * jnp.exp(-(h**2))


@register(MLP, (4,))
def clipped_with_a_custom_jvp(p, x):
    return _soft_clip(x @ p["w"]) @ p["v"]


@jax.custom_vjp
def _clipped_backwards(h):
    return jnp.sin(h)


_clipped_backwards.defvjp(
    lambda h: (jnp.sin(h), h), lambda h, ct: (ct * jnp.clip(jnp.cos(h), -0.5, 0.5),)
)


@register(MLP, (4,))
def clipped_with_a_custom_vjp(p, x):
    return _clipped_backwards(x @ p["w"]) @ p["v"]


@register({"w": (4, 4), "v": (4, 2)}, (4,))
def rematerialized_layers(p, x):
    layer = jax.checkpoint(lambda h, _: (jnp.tanh(h @ p["w"]), None))
    return lax.scan(layer, x, None, length=3)[0] @ p["v"]


@register({"g": (2, 8), "v": (2, 2)}, (4,))
def weights_made_from_each_row(p, x):
    weights = jnp.tanh(x[:, :2] @ p["g"]).reshape(-1, 4, 2)
    return jnp.einsum("nd,ndh->nh", x, weights) @ p["v"]


@register({"w": (4, 6), "a": (4, 1), "b": (1, 6), "v": (6, 2)}, (4,))
def low_rank_adaptation_of_frozen_weights(p, x):
    h = x @ lax.stop_gradient(p["w"]) + x @ p["a"] @ p["b"]
    return jax.nn.gelu(h) @ lax.stop_gradient(p["v"])


@register({"w": (4, 4), "v": (4, 2)}, (4,))
def one_matrix_for_every_layer_and_its_transpose(p, x):
    h = jnp.tanh(x @ p["w"])
    return jnp.tanh(jnp.tanh(h @ p["w"]) @ p["w"].T) @ p["v"]


@register({"a": (4, 3), "b": (4, 3), "v": (3, 2)}, (4,))
def complex_weights(p, x):
    h = x.astype(jnp.result_type(x, jnp.complex64)) @ lax.complex(p["a"], p["b"])
    return jnp.abs(h * jnp.exp(1j * jnp.angle(h + 3.0))).astype(x.dtype) @ p["v"]


# Masks, places and random numbers of a row's own.


@register(MLP, (4,))
def missing_features_masked(p, x):
    """Doubly guarded: the untaken branch would be NaN."""
    present = x > -0.5
    safe = jnp.where(present, x + 0.6, 1.0)
    return _hidden(p, jnp.where(present, jnp.log(safe), 0.0)) @ p["v"]


@register({"w": (3, 6), "v": (6, 2)}, lambda g: g.uniform(0, 4, size=(8, 6)))
def window_at_a_place_of_the_row_s_choosing(p, x):
    window = lambda x: lax.dynamic_slice(x, (x[0].astype(jnp.int32),), (3,))
    return _hidden(p, jax.vmap(window)(x)) @ p["v"]


@register({"e": (5, 3), "v": (3, 2)}, (4,))
def embedding_of_buckets(p, x):
    edges = np.array([-1.0, -0.3, 0.3, 1.0], np.float32)
    bucket = jnp.digitize(x, jnp.asarray(edges, x.dtype))
    return jnp.tanh(jnp.sum(p["e"][bucket], axis=1)) @ p["v"]


@register({"w": (4, 6), "v": (6, 2)}, (4,))
def place_of_one_feature_among_the_others(p, x):
    place = jax.vmap(jnp.searchsorted)(jnp.sort(x, axis=1), x[:, 0])
    return _hidden(p, x) @ p["v"] * (1 + place[:, None].astype(x.dtype))


@register(MLP, (4,))
def noise_keyed_by_the_row_s_own_values(p, x):
    def row(x):
        seed = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
        key = jax.random.key(jnp.sum(seed % 1009))
        noise = jax.random.normal(key, (6,), jnp.float32).astype(x.dtype)
        return jnp.tanh(x @ p["w"] + 0.1 * noise) @ p["v"]

    return jax.vmap(row)(x)


@register(MLP, (4,))
def one_dropout_mask_for_all_rows(p, x):
    keep = jax.random.uniform(jax.random.key(0), (6,), jnp.float32) < 0.7
    return jnp.where(keep, _hidden(p, x) / 0.7, 0) @ p["v"]


@register({"w": (4, 2), "b": (3, 2)}, (4,))
def one_hot_of_a_row_s_class(p, x):
    kind = jax.nn.one_hot(jnp.argmax(x[:, :3], axis=1), 3, dtype=x.dtype)
    return jnp.sin(x @ p["w"] + kind @ p["b"])


@register({"w": (4, 6), "v": (6, 2)}, lambda g: np.tile(g.normal(size=(1, 4)), (6, 1)))
def all_rows_equal(p, x):
    return _hidden(p, x) @ p["v"]


@register({"w": (4, 6), "v": (6, 2)}, lambda g: g.uniform(size=(6, 4)) < 0.5)
def inputs_that_are_booleans(p, x):
    h = jnp.where(x[..., None], p["w"], -p["w"]).prod(axis=1)
    return jnp.tanh(5 * h) @ p["v"]


@register({"s": (1,), "c": (3,), "v": (3, 2)}, (6, 3), n=5)
def volume_rendered_along_a_ray(p, x):
    opacity = jax.nn.sigmoid(x @ p["c"] + p["s"])
    through = jnp.cumprod(1 - opacity[:, :-1], axis=1)
    through = jnp.concatenate([jnp.ones_like(through[:, :1]), through], axis=1)
    return jnp.einsum("nt,ntc->nc", through * opacity, jnp.tanh(x)) @ p["v"]


# Rounding noise, large and small numbers.


@register({"w": (512, 6), "v": (6, 2)}, (512,), dtype=jnp.bfloat16, kernel_error=0.1)
def long_sums_in_bfloat16(p, x):
    return jnp.tanh(x @ p["w"] / 22) @ p["v"]


@register(MLP, (4,), n=8, dtype=np.float16, kernel_error=0.02)
def network_in_float16(p, x):
    return jax.nn.gelu(_normalized(x @ p["w"], 1)) @ p["v"]


@register({"w": (256, 6), "v": (6, 2)}, (256,), deviation=0.1, kernel_error=0.1)
def products_in_bfloat16_between_float32(p, x):
    half = lambda leaf: leaf.astype(jnp.bfloat16)
    h = (half(x) @ half(p["w"])).astype(x.dtype) / 16
    return (half(jnp.tanh(h)) @ half(p["v"])).astype(x.dtype)


@register(
    {"w": (64, 64), "v": (64, 2)}, (64,), n=40, dtype=jnp.bfloat16, kernel_error=0.3
)
def deep_network_in_bfloat16(p, x):
    h = x
    for _ in range(4):
        h = jax.nn.relu(_normalized(h @ p["w"], 1))
    return h @ p["v"]


@register({"w": (4, 6), "v": (6, 2)}, (4,), dtype=np.float16, kernel_error=0.3)
def nearly_cancelling_outputs_in_float16(p, x):
    """What is left of two large terms is mostly rounding."""
    h = _hidden(p, x)
    return (h + 100) @ p["v"] - 100 * jnp.sum(p["v"], axis=0)


@register({"w": (4, 6), "v": (6, 2)}, (4,), deviation=1e-8, kernel_error=0.05)
def nearly_cancelling_outputs_in_float32(p, x):
    h = _hidden(p, x)
    return ((h + 1e4) @ p["v"] - 1e4 * jnp.sum(p["v"], axis=0)) + 0.1 * h[:, :2]


@register(
    {"w": (32, 8), "v": (8, 2)},
    lambda g: 1e4 + g.normal(size=(9, 32)),
    deviation=1e-8,
    kernel_error=0.05,
)
def layer_norm_of_inputs_with_a_large_offset(p, x):
    return jnp.tanh(_normalized(x, 1) @ p["w"]) @ p["v"]


@register({"w": (4, 6), "b": (6,), "v": (6, 2)}, (4,))
def saturated_so_that_some_gradients_vanish(p, x):
    rows = jnp.where(x[:, :1] > 0, x, 0 * x)
    return jax.nn.relu(rows @ p["w"] - 0.5) @ p["v"]


@register({"w": (4, 6), "v": (6, 2)}, (4,), n=10)
def only_few_rows_reach_any_parameter(p, x):
    return jax.nn.relu(x @ p["w"] - 2.5) @ p["v"]


@register({"w": (16, 16), "v": (16, 2)}, (16,), n=12, deviation=1e-9, kernel_error=0.02)
def deep_and_chaotic(p, x):
    """Differences grow about tenfold a layer at the start."""
    h = x
    for _ in range(4):
        h = jnp.sin(3 * h @ p["w"])
    return h @ p["v"]


@register({"r": (4,), "v": (4, 2)}, (4,), n=9, deviation=1e-9, kernel_error=0.02)
def logistic_map_iterated(p, x):
    h = jax.nn.sigmoid(x + p["r"])
    for _ in range(10):
        h = 3.9 * h * (1 - h)
    return h @ p["v"]


@register(lambda g: {"w": 1e20 * g.normal(size=(4, 2))}, (4,))
def values_of_size_1e20(p, x):
    return jnp.sin(x) @ p["w"]


@register(lambda g: {"w": 1e-20 * g.normal(size=(4, 2))}, (4,))
def values_of_size_1e_minus_20(p, x):
    return jnp.sin(x) @ p["w"]


@register(
    {"w": (4, 2)},
    lambda g: g.normal(size=(7, 4)) * 10.0 ** np.arange(-9, 12, 3)[:, None],
)
def rows_of_very_different_sizes(p, x):
    return x @ p["w"] + jnp.tanh(x @ p["w"])


@register({"w": (4, 3)}, (4,), n=8)
def outputs_of_very_different_sizes(p, x):
    return jnp.sin(x @ p["w"]) * np.array([1e6, 1.0, 1e-6], np.float32)


@register({"w": (2000, 2)}, lambda g: g.uniform(0.5, 1.5, size=(6, 2000)))
def long_sums_of_one_sign(p, x):
    return jnp.log1p(jnp.sum(x[..., None] * jnp.abs(p["w"]), axis=1))


# Flax and Equinox.


class _BatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.BatchNorm(use_running_average=True)(nn.Dense(5)(x))
        h = nn.Dropout(0.5, deterministic=True)(nn.relu(h))
        return nn.Dense(2)(h)


class _Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return nn.Dense(2)(jnp.mean(h + nn.Dense(4)(nn.gelu(nn.Dense(6)(h))), axis=1))


class _Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.GroupNorm(num_groups=2)(nn.Conv(4, (3, 3))(x))
        h = nn.max_pool(nn.silu(h), (2, 2), (2, 2))
        return nn.Dense(2)(h.reshape(len(x), -1))


class _Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        zeros = jnp.zeros((len(x), 3), x.dtype)
        h = nn.RNN(nn.OptimizedLSTMCell(3))(x, initial_carry=(zeros, zeros))
        back = nn.RNN(nn.GRUCell(3), reverse=True, keep_order=True)
        h = back(jnp.asarray(h), initial_carry=zeros)
        return nn.Dense(2)(jnp.asarray(h)[:, 0])


def _flax(module, shape):
    variables = module.init(jax.random.key(0), np.ones((2, *shape), np.float32))
    frozen = {name: leaf for name, leaf in variables.items() if name != "params"}

    def apply_fn(p, x):
        others = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), frozen)
        return module.apply({"params": p, **others}, x)

    return apply_fn, lambda generator: variables["params"]


def _register_flax(name, module, shape, n):
    apply_fn, spec = _flax(module, shape)
    apply_fn.__name__ = name
    register(spec, shape, n)(apply_fn)


_register_flax("flax_batch_norm_with_running_averages", _BatchNorm(), (4,), 7)
_register_flax("flax_transformer_block", _Transformer(), (5, 4), 4)
_register_flax("flax_convolutions_with_group_norm", _Convolutions(), (4, 4, 1), 4)
_register_flax("flax_lstm_and_reversed_gru", _Recurrent(), (4, 3), 4)


_EQUINOX = eqx.nn.Sequential(
    [
        eqx.nn.Linear(4, 6, key=jax.random.key(0)),
        eqx.nn.LayerNorm(6),
        eqx.nn.Lambda(jnp.tanh),
        eqx.nn.Linear(6, 2, key=jax.random.key(1)),
    ]
)
_EQUINOX_PARAMS, _EQUINOX_STATIC = eqx.partition(_EQUINOX, eqx.is_inexact_array)


@register(lambda g: _EQUINOX_PARAMS, (4,), n=6)
def equinox_modules_vmapped(p, x):
    return jax.vmap(eqx.combine(p, _EQUINOX_STATIC))(x)


@functools.cache
def _cell():
    return eqx.partition(
        eqx.nn.GRUCell(3, 4, key=jax.random.key(2)), eqx.is_inexact_array
    )


@register(lambda g: _cell()[0], (5, 3), n=4)
def equinox_gru_scanned_within_a_vmap(p, x):
    cell = eqx.combine(p, _cell()[1])

    def row(x):
        return lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(4, x.dtype), x)[0]

    return jax.vmap(row)(x)[:, :2]
