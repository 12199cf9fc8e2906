"""Networks of sequences: attention, embeddings, recurrences, state spaces, graphs."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.helpers.zoo_base import Tokens, register

BLOCK = {
    "qkv": (4, 3, 2, 2),
    "out": (2, 2, 4),
    "up": (4, 6),
    "down": (6, 4),
    "gain": (2, 4),
}


def norm(h):
    centred = h - jnp.mean(h, axis=-1, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-2)


def attention(p, h, causal=False):
    """Two heads by einsum; `h` is (n, t, d)."""
    q, k, v = jnp.unstack(jnp.einsum("ntd,dche->cnthe", h, p["qkv"]), axis=0)
    scores = jnp.einsum("nthe,nshe->nhts", q, k) / 2.0**0.5
    if causal:
        t = h.shape[1]
        mask = jnp.tril(jnp.ones((t, t), bool))[None, None]
        scores = jnp.where(mask, scores, -jnp.inf)
    mixed = jnp.einsum("nhts,nshe->nthe", jax.nn.softmax(scores, axis=-1), v)
    return jnp.einsum("nthe,hed->ntd", mixed, p["out"])


def block(p, h, causal=False):
    h = h + attention(p, norm(h) * p["gain"][0][None, None], causal)
    return h + jax.nn.gelu(norm(h) * p["gain"][1][None, None] @ p["up"]) @ p["down"]


@register(
    {"patch": (4, 4), "token": (4,), "place": (5, 4), "block": BLOCK, "head": (4, 3)},
    x=(4, 4, 1),
)
def vision_transformer(p, x):
    n = x.shape[0]
    patches = x.reshape(n, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(n, 4, 4)
    token = jnp.broadcast_to(p["token"][None, None], (n, 1, 4))
    h = jnp.concatenate([token, patches @ p["patch"]], axis=1) + p["place"][None]
    return norm(block(p["block"], h))[:, 0] @ p["head"]


@register({"embed": (6, 4), "place": (5, 4), "block": BLOCK}, x=Tokens(6, (5,)))
def gpt_tied_embeddings(p, x):
    h = p["embed"][x] + p["place"][None]
    h = norm(block(p["block"], h, causal=True))
    return h[:, -1] @ p["embed"].T


@register(
    {"embed": (6, 4), "place": (7, 4), "block": BLOCK, "head": (4, 3)},
    x=Tokens(6, (5,)),
)
def gpt_untied(p, x):
    h = jnp.take(p["embed"], x, axis=0) + p["place"][: x.shape[1]][None]
    h = block(p["block"], h, causal=True)
    return norm(h).mean(axis=1) @ p["head"]


@register({"embed": (6, 4), "w": (4, 3)}, x=Tokens(6, (4,)))
def embedding_bag(p, x):
    return jnp.tanh(jnp.take(p["embed"], x, axis=0).sum(axis=1)) @ p["w"]


@register({"embed": (6, 4), "w": (4, 3)}, x=Tokens(6, (4,)))
def embedding_by_one_hot(p, x):
    one_hot = jax.nn.one_hot(x, 6, dtype=p["embed"].dtype)
    return jnp.tanh(one_hot @ p["embed"]).mean(axis=1) @ p["w"]


@register({"embed": (4, 6), "w": (4, 3)}, x=Tokens(6, (4,)))
def embedding_by_columns(p, x):
    return jnp.tanh(p["embed"][:, x]).mean(axis=2).T @ p["w"]


@register({"table": (4, 5, 3), "w": (3, 2)}, x=Tokens(4, (6,)))
def table_of_pairs_of_tokens(p, x):
    pairs = p["table"][x[:, :-1], x[:, 1:]]
    return jnp.sin(pairs).sum(axis=1) @ p["w"]


@register({"table": (6, 3), "w": (3, 2)}, x=Tokens(9, (4,)), smooth=False)
def tokens_out_of_range(p, x):
    """Negative indices count from the end; those beyond the table are filled with 0."""
    picked = jnp.take(p["table"], x - 2, axis=0, mode="fill", fill_value=0.0)
    return jnp.tanh(picked).sum(axis=1) @ p["w"]


@register({"decay": (6,), "head": (2, 3)}, x=Tokens(6, (4, 2)))
def gather_of_scalars(p, x):
    """A learned number per token, as in relative position biases."""
    h = jnp.exp(p["decay"][x]).sum(axis=1)
    return h @ p["head"]


@register({"wx": (3, 4), "wh": (4, 4), "b": (4,), "w": (4, 2)}, x=(5, 3))
def rnn(p, x):
    def step(h, x_t):
        h = jnp.tanh(x_t @ p["wx"] + h @ p["wh"] + p["b"][None])
        return h, None

    h0 = jnp.zeros((x.shape[0], 4), x.dtype)
    h, _ = lax.scan(step, h0, jnp.swapaxes(x, 0, 1))
    return h @ p["w"]


@register({"wx": (3, 4), "wh": (4, 4), "h0": (4,), "w": (4, 2)}, x=(4, 3))
def rnn_reverse_with_trained_start(p, x):
    """All states are read; the initial state is a parameter."""

    def one(row):
        def step(h, x_t):
            h = jnp.tanh((x_t[None] @ p["wx"])[0] + (h[None] @ p["wh"])[0])
            return h, h

        _, states = lax.scan(step, p["h0"], row, reverse=True)
        return (states @ p["w"]).sum(axis=0)

    return jax.vmap(one)(x)


@register({"wx": (3, 12), "wh": (4, 12), "b": (12,), "w": (4, 2)}, x=(4, 3))
def gru(p, x):
    def step(h, x_t):
        from_x = jnp.split(x_t @ p["wx"] + p["b"][None], 3, axis=1)
        from_h = jnp.split(h @ p["wh"], 3, axis=1)
        update = jax.nn.sigmoid(from_x[0] + from_h[0])
        reset = jax.nn.sigmoid(from_x[1] + from_h[1])
        new = jnp.tanh(from_x[2] + reset * from_h[2])
        return update * h + (1.0 - update) * new, None

    h0 = jnp.zeros((x.shape[0], 4), x.dtype)
    h, _ = lax.scan(step, h0, jnp.swapaxes(x, 0, 1))
    return h @ p["w"]


@register({"embed": (5, 3), "wh": (3, 3), "w": (3, 2)}, x=Tokens(5, (4,)))
def rnn_on_tokens(p, x):
    """The embedding is gathered inside the scan."""

    def step(h, tokens):
        return jnp.tanh(p["embed"][tokens] + h @ p["wh"]), None

    h0 = jnp.zeros((x.shape[0], 3), p["embed"].dtype)
    return lax.scan(step, h0, x.T)[0] @ p["w"]


@register({"a": (4,), "b": (2, 4), "c": (4, 3)}, x=(5, 2))
def state_space_by_associative_scan(p, x):
    decay = jax.nn.sigmoid(p["a"])[None, None]
    driven = x @ p["b"]
    decays = jnp.broadcast_to(decay, driven.shape)

    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    _, states = lax.associative_scan(combine, (decays, driven), axis=1)
    return jnp.tanh(states[:, -1]) @ p["c"]


LAYERS = {name: (2, *shape) for name, shape in BLOCK.items()}


@register({"stack": LAYERS, "head": (4, 2)}, x=(3, 4))
def transformer_scanned_over_layers(p, x):
    h, _ = lax.scan(lambda h, layer: (block(layer, h), None), x, p["stack"])
    return norm(h).mean(axis=1) @ p["head"]


@register({"q": (4, 3), "k": (4, 3), "temperature": (), "w": (4, 2)}, x=(3, 4))
def attention_with_learned_temperature(p, x):
    scores = jnp.einsum("nte,nse->nts", x @ p["q"], x @ p["k"])
    weights = jax.nn.softmax(jnp.exp(p["temperature"]) * scores, axis=-1)
    return jnp.einsum("nts,nsd,dk->nk", weights, x, p["w"])


@register({"queries": (2, 4), "k": (3, 4), "v": (3, 3)}, x=(5, 3))
def attention_pooling_with_learned_queries(p, x):
    scores = jnp.einsum("qe,nte->nqt", p["queries"], x @ p["k"])
    mixed = jnp.einsum("nqt,ntv->nqv", jax.nn.softmax(scores, axis=-1), x @ p["v"])
    return jnp.tanh(mixed).sum(axis=1)


@register({"up": (3, 4), "w": (4, 2)}, x=(4, 4 + 3))
def graph_network(p, x):
    """Messages along edges given by each example's own adjacency."""
    adjacency, h = jax.nn.sigmoid(x[:, :, :4]), x[:, :, 4:]
    h = jnp.tanh(jnp.einsum("nij,njd->nid", adjacency, h @ p["up"]))
    return jnp.einsum("nij,njd->nd", adjacency, h) @ p["w"]


@register({"message": (2, 3), "w": (3, 2)}, x=(6, 2))
def graph_network_by_segment_sum(p, x):
    receivers = jnp.array([0, 0, 1, 2, 2, 2])

    def one(edges):
        sums = jax.ops.segment_sum(edges @ p["message"], receivers, num_segments=3)
        return jnp.tanh(sums).sum(axis=0)

    return jax.vmap(one)(x) @ p["w"]


@register({"mix_tokens": (4, 4), "mix_features": (3, 3), "w": (3, 2)}, x=(4, 3))
def mlp_mixer(p, x):
    h = x + jnp.tanh(jnp.einsum("ntd,ts->nsd", x, p["mix_tokens"]))
    h = h + jnp.tanh(jnp.einsum("ntd,de->nte", h, p["mix_features"]))
    return h.mean(axis=1) @ p["w"]


@register({"place": (4, 3), "w": (3, 2)}, x=(4, 3))
def rotary_and_learned_positions(p, x):
    t = jnp.arange(4, dtype=x.dtype)[None, :, None]
    h = x * jnp.cos(t) + (x[..., ::-1] + p["place"][None]) * jnp.sin(t)
    return jnp.tanh(h @ p["w"]).sum(axis=1)


@register({"embed": (12, 4), "w": (4, 4)}, x=Tokens(12, (5,)))
def few_rows_of_the_embedding_read_out(p, x):
    """Two boxes of the table, one negated and in part, beside the lookup."""
    h = jnp.tanh(jnp.take(p["embed"], x, axis=0) @ p["w"]).mean(axis=1)
    return h @ p["embed"][2:4].T - h[:, 1:3] @ (-0.5 * p["embed"][3:5, 1:3])


@register({"embed": (12, 4), "w": (4, 2)}, x=Tokens(12, (5,)))
def embedding_read_out_in_reverse(p, x):
    h = jnp.tanh(jnp.take(2.0 * p["embed"], x, axis=0)).mean(axis=1)
    return h @ p["w"] + h @ p["embed"][7:9][::-1].T
