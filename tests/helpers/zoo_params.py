"""Parameters that are shared, or worked on before they meet the data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tests.helpers.zoo_base import register


class Pair(NamedTuple):
    """A container whose leaves are attributes."""

    weight: object
    bias: object


@register({"w": (4, 4), "v": (4, 2)}, x=(4,))
def dense_used_three_times(p, x):
    h = x
    for _ in range(3):
        h = jnp.tanh(h @ p["w"])
    return h @ p["v"]


@register({"w": (5, 3), "b": (5,)}, x=(5,))
def tied_autoencoder(p, x):
    return jnp.tanh(x @ p["w"]) @ p["w"].T + p["b"][None]


@register({"w": (4, 4)}, x=(4,))
def quadratic_form(p, x):
    """Both factors of one product are the same parameter."""
    return jnp.einsum("ni,ij,kj,nk->n", x, p["w"], p["w"], x)[:, None]


@register({"w": (4, 4)}, x=(4,))
def matrix_power(p, x):
    return x @ (p["w"] @ p["w"] @ p["w"])[:, :2]


@register({"w": (4, 4), "v": (4, 2)}, x=(4,))
def weight_and_bias_from_one_leaf(p, x):
    return jnp.tanh(x @ p["w"] + p["w"][0][None]) @ p["v"] + p["w"][1, :2][None]


@register({"w": (4, 4), "v": (4, 2)}, x=(4,), smooth=False)
def one_use_behind_stop_gradient(p, x):
    """Only the second of the two uses is trained."""
    h = jnp.tanh(x @ lax.stop_gradient(p["w"]))
    return jnp.tanh(h @ p["w"]) @ p["v"]


@register({"used": (4, 2), "unused": (3, 3), "empty": (0, 2)}, x=(4,))
def unused_and_empty_leaves(p, x):
    return jnp.tanh(x @ p["used"])


@register({"base": (4, 6), "a": (4, 2), "b": (2, 6), "v": (6, 2)}, x=(4,))
def lora_of_the_weight(p, x):
    return jnp.tanh(x @ (p["base"] + 0.5 * (p["a"] @ p["b"]))) @ p["v"]


@register({"a": (4, 2), "b": (2, 6), "v": (6, 2)}, x=(4,))
def lora_on_a_frozen_weight(p, x):
    frozen = jnp.cos(jnp.arange(24, dtype=x.dtype)).reshape(4, 6)
    return jnp.tanh(x @ frozen + (x @ p["a"]) @ p["b"]) @ p["v"]


@register({"u": (4,), "v": (6,), "w": (6, 2)}, x=(4,))
def rank_one_weight(p, x):
    return jnp.tanh(x @ jnp.outer(p["u"], p["v"])) @ p["w"]


@register({"v": (4, 6), "g": (6,), "w": (6, 2)}, x=(4,))
def weight_norm(p, x):
    norms = jnp.sqrt(jnp.sum(p["v"] ** 2, axis=0, keepdims=True))
    return jnp.tanh(x @ (p["g"][None] * p["v"] / norms)) @ p["w"]


@register({"w": (4, 4), "v": (4, 2)}, x=(4,))
def spectral_norm_by_power_iteration(p, x):
    u = jnp.ones((4,), x.dtype)
    for _ in range(2):
        u = p["w"].T @ (p["w"] @ u)
        u = u / jnp.linalg.norm(u)
    return jnp.tanh(x @ (p["w"] / jnp.linalg.norm(p["w"] @ u))) @ p["v"]


@register({"code": (3,), "hyper": (3, 4, 6), "w": (6, 2)}, x=(4,))
def hypernetwork_from_a_code(p, x):
    return jnp.tanh(x @ jnp.einsum("c,cij->ij", p["code"], p["hyper"])) @ p["w"]


@register({"hyper": (4, 8), "b": (2,)}, x=(4,))
def hypernetwork_from_the_data(p, x):
    """The weights of each example's own layer."""
    weights = jnp.tanh(x @ p["hyper"]).reshape(-1, 4, 2)
    return jnp.einsum("ni,nik->nk", x, weights) + p["b"][None]


@register({"w": (4, 5), "scale": (), "v": (5, 2)}, x=(4,))
def scaled_weight(p, x):
    return jnp.tanh(x @ (p["scale"] * p["w"])) @ (p["v"] / 5**0.5)


@register({"w": (2, 4, 5), "mix": (2,), "v": (5, 2)}, x=(4,))
def softmax_mixture_of_weights(p, x):
    mixed = jnp.tensordot(jax.nn.softmax(p["mix"]), p["w"], axes=1)
    return jnp.tanh(x @ mixed) @ p["v"]


@register({"w": (4, 5), "v": (5, 2)}, x=(4,))
def positive_weights(p, x):
    return jax.nn.softplus(x @ jnp.exp(p["w"])) @ jax.nn.softplus(p["v"])


@register({"w": (4, 4), "v": (4, 2)}, x=(4,))
def symmetric_weight(p, x):
    return jnp.tanh(x @ ((p["w"] + p["w"].T) / 2.0)) @ p["v"]


@register({"w": (4, 4), "v": (4, 2)}, x=(4,))
def skew_symmetric_cayley(p, x):
    skew, eye = p["w"] - p["w"].T, jnp.eye(4, dtype=x.dtype)
    return jnp.tanh(x @ jnp.linalg.solve(eye + skew, eye - skew)) @ p["v"]


@register({"w": (4, 4), "log_diagonal": (4,)}, x=(4,))
def masked_triangular_with_diagonal(p, x):
    lower = jnp.tril(p["w"], -1) + jnp.diag(jnp.exp(p["log_diagonal"]))
    return jnp.tanh(x @ lower)[:, :3]


@register({"c": (5,), "v": (5, 2)}, x=(5,))
def circulant_weight(p, x):
    """Each parameter sits at many places of the matrix."""
    rows = (jnp.arange(5)[:, None] - jnp.arange(5)[None]) % 5
    return jnp.tanh(x @ p["c"][rows]) @ p["v"]


@register({"w": (3, 2), "v": (6, 2)}, x=(3,))
def tiled_and_repeated_weight(p, x):
    tiled = jnp.concatenate([jnp.tile(p["w"], (1, 2)), p["w"]], axis=1)
    return jnp.tanh(x @ tiled) @ jnp.roll(p["v"], 1, axis=0)


@register({"w": (4, 3), "v": (2, 3), "out": (3, 2)}, x=(6,))
def concatenated_parameters(p, x):
    return jnp.tanh(x @ jnp.concatenate([p["w"], p["v"]], axis=0)) @ p["out"]


@register({"flat": (20,), "w": (4, 2)}, x=(4,))
def sliced_out_of_one_vector(p, x):
    w, b = p["flat"][:16].reshape(4, 4), p["flat"][16:]
    return jnp.tanh(x @ w + b[None]) @ p["w"]


@register({"flat": (2, 18)}, x=(4,))
def overlapping_slices(p, x):
    """Windows of one leaf that share entries, with a stride."""
    w, v = p["flat"][0, :16].reshape(4, 4), p["flat"][:, 1:17:2].reshape(4, 4)
    return (jnp.tanh(x @ w) @ v)[:, :3]


@register({"w": (3, 4), "v": (7, 2)}, x=(3,))
def padded_weight(p, x):
    w = lax.pad(p["w"], jnp.zeros((), x.dtype), ((0, 0, 0), (1, -1, 1)))
    return jnp.tanh(x @ w) @ p["v"]


@register({"w": (4, 5), "row": (5,), "v": (5, 2)}, x=(4,))
def weight_with_a_row_replaced(p, x):
    return jnp.tanh(x @ p["w"].at[1].set(p["row"]).at[2, 1].add(1.0)) @ p["v"]


@register({"w": (4, 5), "patch": (2, 3), "v": (5, 2)}, x=(4,))
def weight_updated_by_dynamic_slice(p, x):
    w = lax.dynamic_update_slice(p["w"], p["patch"], (1, 2))
    return jnp.tanh(x @ w) @ p["v"]


@register({"a": (4, 5), "b": (4, 5), "v": (5, 2)}, x=(4,))
def weight_chosen_entrywise_by_where(p, x):
    mask = (jnp.arange(20) % 3 == 0).reshape(4, 5)
    return jnp.tanh(x @ jnp.where(mask, p["a"], p["b"])) @ p["v"]


@register({"a": (4, 5), "b": (4, 5), "v": (5, 2)}, x=(4,))
def weight_chosen_by_the_data(p, x):
    pick = (x[:, 0] > 0)[:, None, None]
    w = jnp.where(pick, p["a"][None], p["b"][None])
    return jnp.tanh(jnp.einsum("ni,nij->nj", x, w)) @ p["v"]


@register({"steps": (4, 5), "v": (5, 2)}, x=(4,))
def cumulative_weight(p, x):
    return jnp.tanh(x @ jnp.cumsum(p["steps"], axis=1)) @ jnp.cumprod(p["v"], axis=0)


@register({"w": (4, 5), "v": (5, 2)}, x=(4,))
def sorted_weight(p, x):
    return jnp.tanh(x @ jnp.sort(p["w"], axis=0)) @ p["v"]


@register({"w": (4, 5), "v": (5, 2)}, x=(4,), smooth=False)
def clipped_weight(p, x):
    return jnp.tanh(x @ jnp.clip(p["w"], -0.5, 0.5)) @ jnp.maximum(p["v"], 0.1)


@register({"w": (4, 5), "v": (5, 2)}, x=(4,))
def weight_through_a_cast(p, x):
    """Real parameters pass through a complex type on their way."""
    dtype = jnp.complex128 if x.dtype == jnp.float64 else jnp.complex64
    w = jnp.real(p["w"].astype(dtype) * jnp.asarray(1.0 + 2.0j, dtype))
    return jnp.tanh(x @ w) @ p["v"]


@register({"w": (2, 4, 3), "b": (2, 3)}, x=(2, 4))
def weights_stacked_along_a_batch_axis(p, x):
    """Each position has its own weight: a batch dimension of the product."""
    return jnp.tanh(jnp.einsum("npd,pdk->npk", x, p["w"]) + p["b"][None]).sum(axis=1)


@register({"experts": (3, 4, 5), "gate": (4, 3), "out": (3, 5, 2)}, x=(4,))
def mixture_of_experts(p, x):
    gates = jax.nn.softmax(x @ p["gate"], axis=-1)
    h = jnp.tanh(jnp.einsum("nd,edh->neh", x, p["experts"]))
    return jnp.einsum("ne,neh,ehk->nk", gates, h, p["out"])


@register({"experts": (3, 4, 2), "gate": (4, 3)}, x=(4,))
def mixture_of_experts_routed_by_gather(p, x):
    """The best expert is looked up: computed indices into a parameter."""
    gates = jax.nn.softmax(x @ p["gate"], axis=-1)
    best = jnp.argmax(gates, axis=-1)
    picked = jnp.take(p["experts"], best, axis=0)
    weight = jnp.take_along_axis(gates, best[:, None], axis=1)
    return weight * jnp.tanh(jnp.einsum("nd,ndk->nk", x, picked))


@register({"experts": (3, 4, 2), "gate": (4, 3)}, x=(4,))
def mixture_of_experts_top_two(p, x):
    values, indices = lax.top_k(x @ p["gate"], 2)
    weights = jax.nn.softmax(values, axis=-1)
    h = jnp.einsum("nd,njdk->njk", x, p["experts"][indices])
    return jnp.einsum("nj,njk->nk", weights, jnp.tanh(h))


@register({"table": (7, 3), "w": (3, 2)}, x=(4,))
def window_of_a_parameter_by_dynamic_slice(p, x):
    """Where the window starts depends on the example."""

    def one(row):
        start = jnp.sum(row > 0)
        window = lax.dynamic_slice(p["table"], (start, jnp.zeros_like(start)), (3, 3))
        return jnp.tanh(row[:3] @ window) @ p["w"]

    return jax.vmap(one)(x)


@register({"w": (4, 3)}, x=(4,))
def scatter_of_a_parameter_by_the_data(p, x):
    def one(row):
        order = jnp.argsort(row)
        buffer = jnp.zeros((4, 3), row.dtype).at[order].add(jnp.tanh(p["w"]))
        return row @ buffer**2

    return jax.vmap(one)(x)


@register([Pair((4, 6), (6,)), Pair((6, 6), (6,)), (Pair((6, 2), (2,)),)], x=(4,))
def named_tuples_in_lists(p, x):
    h = x
    for layer in (p[0], p[1]):
        h = jnp.tanh(h @ layer.weight + layer.bias[None])
    return h @ p[2][0].weight + p[2][0].bias[None]


@register({"w": (4, 5), "v": (5, 2), "q": (2, 2)}, x=(4,))
def regressor_of_another_networks_output(p, x):
    """Parameters act on both sides of a division and on each other."""
    h = jnp.tanh(x @ p["w"]) @ p["v"]
    return (h @ p["q"]) / (1.0 + jnp.sum(h**2, axis=1, keepdims=True))


@register({"w": (4, 6), "v": (6, 2)}, x=(4,))
def one_step_of_training_inside(p, x):
    """The output after an inner gradient step, as in meta-learning."""
    data = jnp.sin(jnp.arange(12, dtype=x.dtype)).reshape(3, 4)

    def inner_loss(w):
        return jnp.mean((jnp.tanh(data @ w) @ p["v"] - 1.0) ** 2)

    w = p["w"] - 0.1 * jax.grad(inner_loss)(p["w"])
    return jnp.tanh(x @ w) @ p["v"]


@register({"w": (4, 6), "v": (3, 2)}, x=(4,))
def slices_of_a_scaled_leaf(p, x):
    w = 0.5 * p["w"]
    h = jnp.tanh(x @ w[:, :3]) - jnp.sin(x @ -w[:, 3:])
    return h @ (p["v"] / 3.0)[:, :2]
