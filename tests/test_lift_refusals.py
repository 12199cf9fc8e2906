"""Programs whose kernel has no known limit are refused, by operation and line."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from tests.helpers.lifting import IMAGES, X, shapes_of

pytestmark = pytest.mark.once


def hidden(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["w"])


@jax.custom_jvp
def straight_through(u: jax.Array) -> jax.Array:
    return jnp.sign(u)


straight_through.defjvp(lambda primals, tangents: (jnp.sign(*primals), *tangents))


def shifted_batch(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return (h - h.mean(axis=0, keepdims=True)) @ params["v"]


def undivided_sum(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return (h / jnp.linalg.norm(h, axis=1, keepdims=True)) @ params["v"]


def fluctuating_mean(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return (h + 6**0.5 * h.mean(axis=1, keepdims=True)) @ params["v"]


def sign_of_a_mean(params: Any, x: jax.Array) -> jax.Array:
    mean = (x @ params["w2"]).mean(axis=1, keepdims=True)
    return hidden(params, x) * jnp.sign(mean) @ params["v"]


def divided_by_no_mean(params: Any, x: jax.Array) -> jax.Array:
    h = x @ params["w"]
    return jnp.tanh(h / h.mean(axis=1, keepdims=True)) @ params["v"]


def sign_of_an_odd_mean(params: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ params["w"])
    return h * jnp.sign(h.mean(axis=1, keepdims=True)) @ params["v"]


def divided_by_an_odd_mean(params: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ params["w"])
    return h / (h.mean(axis=1, keepdims=True) + 1e-6) @ params["v"]


def divided_by_a_centred_mean(params: Any, x: jax.Array) -> jax.Array:
    h = jax.nn.relu(x @ params["w"])
    centred = h - h.mean(axis=1, keepdims=True)
    return h / centred.mean(axis=1, keepdims=True) @ params["v"]


def weights_of_no_mean(params: Any, x: jax.Array) -> jax.Array:
    mean = (x @ params["w"]).mean(axis=1, keepdims=True)
    return jnp.tanh(mean @ params["b"][None]) @ params["v"]


def mean_of_groups(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x).reshape(-1, 2, 3)
    return (h - h.mean(axis=2, keepdims=True)).reshape(-1, 6) @ params["v"]


def cubed_deviations(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return ((h - h.mean(axis=1, keepdims=True)) ** 3) @ params["v"]


def scale_for_each_unit(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return (h * jnp.concatenate([x, x[:, :2]], axis=1)) @ params["v"]


def softmax(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.softmax(hidden(params, x), axis=1) @ params["v"]


def gated(params: Any, x: jax.Array) -> jax.Array:
    first = x @ params["w"]
    h = first + x @ params["w2"]
    return (jnp.tanh(h) * jnp.sin(first)) @ params["v"]


def attention(params: Any, x: jax.Array) -> jax.Array:
    h, g = hidden(params, x), x @ params["w2"]
    return jnp.einsum("ni,ni->n", h, g)[:, None] * params["s"]


def tied(params: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(hidden(params, x) @ params["u"])
    return jnp.tanh(h @ params["u"]) @ params["v"]


def normalized_weights(params: Any, x: jax.Array) -> jax.Array:
    v = params["v"] / jnp.linalg.norm(params["v"])
    return hidden(params, x) @ v


def scaled_units(params: Any, x: jax.Array) -> jax.Array:
    return (hidden(params, x) * params["b"][None]) @ params["v"]


def one_bias_for_all(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["w"] + params["s"]) @ params["v"]


def skip_of_the_input(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["square"] + x) @ params["first"]


def activated_sum(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return jax.nn.relu(h + h @ params["u"]) @ params["v"]


def dependent_sum(params: Any, x: jax.Array) -> jax.Array:
    first = x @ params["w"]
    h = first + x @ params["w2"]
    return (jnp.tanh(h) + jnp.sin(first)) @ params["v"]


def nonlinear_output(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(hidden(params, x) @ params["v"])


def mean_of_units(params: Any, x: jax.Array) -> jax.Array:
    return hidden(params, x).mean(axis=1, keepdims=True)


def centred_outputs(params: Any, x: jax.Array) -> jax.Array:
    f = hidden(params, x) @ params["u"]
    return f - f.mean(axis=1, keepdims=True)


def bottleneck(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(hidden(params, x) @ params["v"]) @ params["one"]


def residual_output(params: Any, x: jax.Array) -> jax.Array:
    h = x @ params["w"]
    return h + jnp.tanh(h) @ params["u"]


def glu(params: Any, x: jax.Array) -> jax.Array:
    h = x @ params["w"]
    return (h[:, :3] * jax.nn.sigmoid(h[:, 3:])) @ params["v3"]


def two_heads(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return jnp.concatenate([h @ params["v"], x @ params["first"]], axis=1)


def embedding(params: Any, x: jax.Array) -> jax.Array:
    return params["w"][(x[:, 0] > 0).astype(int)] @ params["v"]


def staircase(params: Any, x: jax.Array) -> jax.Array:
    return jnp.floor(x @ params["w"]) @ params["v"]


def straight_through_sign(params: Any, x: jax.Array) -> jax.Array:
    return straight_through(x @ params["w"]) @ params["v"]


def zero_branch(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(hidden(params, x) @ params["zero"]) @ params["v"]


def loop(params: Any, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.tanh(h @ params["u"]), None

    return jax.lax.scan(step, hidden(params, x), length=2)[0] @ params["v"]


def loop_with_memory(params: Any, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.tanh(h @ w), h

    return jax.lax.scan(step, hidden(params, x), params["u"][None])[1][0] @ params["v"]


def loop_over_time(params: Any, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, one: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(h + one[:, None] @ params["w"][:1]), None

    return jax.lax.scan(step, hidden(params, x), x.T)[0] @ params["v"]


def per_example_bias(params: Any, x: jax.Array) -> jax.Array:
    return (
        hidden(params, x) + jnp.arange(x.shape[0], dtype=x.dtype)[:, None]
    ) @ params["v"]


def reversed_units(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return (h + h[:, ::-1]) @ params["v"]


def gradient_clipping(params: Any, x: jax.Array) -> jax.Array:
    return clipped(hidden(params, x)) @ params["v"]


def repeated_output(params: Any, x: jax.Array) -> jax.Array:
    return (hidden(params, x) @ params["v"]) * jnp.ones((1, 3), x.dtype)


def repeated_output_by_biases(params: Any, x: jax.Array) -> jax.Array:
    return (hidden(params, x) @ params["v"]) + params["b"][None]


def entrywise_first_layer(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x * params["first"].T) @ params["first"]


def gate_of_the_input(params: Any, x: jax.Array) -> jax.Array:
    return jnp.where(x[:, :1] > 0, x @ params["w"], x @ params["w2"]) @ params["v"]


def tied_by_addition(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(hidden(params, x) @ (params["u"] + params["u"].T)) @ params["v"]


def detached_branch(params: Any, x: jax.Array) -> jax.Array:
    h = hidden(params, x)
    return (h + jax.lax.stop_gradient(h)) @ params["v"]


@jax.custom_vjp
def clipped(u: jax.Array) -> jax.Array:
    return u


clipped.defvjp(lambda u: (u, None), lambda _, g: (jnp.clip(g, -100, 100),))

REFUSALS = [
    (shifted_batch, "reduce_sum", "examples of a batch interact"),
    (undivided_sum, "sqrt", "not divided by their number"),
    (fluctuating_mean, "mul", "fluctuations may not vanish"),
    (sign_of_a_mean, "sign", "not be smooth"),
    (sign_of_an_odd_mean, "sign", "not be smooth"),
    (divided_by_an_odd_mean, "div", "divides by a mean"),
    (divided_by_a_centred_mean, "div", "divides by a mean"),
    (divided_by_no_mean, "div", "divides by a mean"),
    (weights_of_no_mean, "dot_general", "0 at infinite width"),
    (mean_of_groups, "reduce_sum", "normalization"),
    (cubed_deviations, "integer_pow", "not Gaussian"),
    (scale_for_each_unit, "mul", "may differ from unit to unit"),
    (softmax, "reduce_max", "softmax"),
    (gated, "mul", "depend on each other"),
    (attention, "dot_general", "attention"),
    (tied, "dot_general", "shared weights"),
    (normalized_weights, None, "changes parameters"),
    (scaled_units, "mul", "parameters entry by entry"),
    (one_bias_for_all, "add", "one parameter to all units"),
    (skip_of_the_input, "add", "function of the input"),
    (activated_sum, "max", "not Gaussian"),
    (dependent_sum, "dot_general", "depend on the same weights"),
    (bottleneck, "dot_general", "one unit"),
    (glu, "slice", "hidden units"),
    (two_heads, "concatenate", "different hidden values|hidden units"),
    (embedding, "gather", "."),
    (staircase, "floor", "more kinks and jumps"),
    (straight_through_sign, "custom_jvp_call", "not its derivative"),
    (zero_branch, "max", "0 at initialization"),
    (loop, "dot_general", "shared weights"),
    (loop_with_memory, "scan", "every step"),
    (loop_over_time, "scan", "over pixels, time or examples"),
    (per_example_bias, "add|iota", "its place"),
    (reversed_units, "rev", "hidden units"),
    (gradient_clipping, "custom_vjp_call", "not its derivative"),
    (repeated_output, "mul", "repeats hidden values"),
    (repeated_output_by_biases, "add", "repeats hidden values"),
    (entrywise_first_layer, "mul", "entry by entry"),
    (gate_of_the_input, "broadcast_in_dim|select_n", "function of the input"),
    (tied_by_addition, "add", "changes parameters"),
    (detached_branch, "dot_general", "depend on the same weights"),
]

PARAMS = {
    "w": (4, 6),
    "w2": (4, 6),
    "u": (6, 6),
    "zero": (6, 6),
    "square": (4, 4),
    "first": (4, 1),
    "b": (6,),
    "s": (),
    "one": (1, 1),
    "v": (6, 1),
    "v3": (3, 1),
}
VARIANCES = {name: 0.0 if name == "zero" else 1.0 for name in PARAMS}


@pytest.mark.parametrize(
    ("apply_fn", "operation", "reason"),
    REFUSALS,
    ids=lambda it: getattr(it, "__name__", ""),
)
@pytest.mark.sampled(8)
def test_networks_without_a_known_limit_are_refused_by_operation_and_line(
    apply_fn: Any, operation: str | None, reason: str, x64: None
) -> None:
    params = shapes_of(**PARAMS)
    pattern = rf"(?s){operation or '`'}.*at .*test_lift_refusals.py:\d+ in .*({reason}).*monte_carlo"
    with pytest.raises(ValueError, match=pattern):
        lazyjax.infinite_ntk_of(apply_fn, params, jnp.asarray(X), variances=VARIANCES)


@pytest.mark.parametrize(
    ("apply_fn", "reason"),
    [
        (nonlinear_output, "no linear function"),
        (residual_output, "both few and many"),
        (mean_of_units, "a mean over hidden units"),
        (centred_outputs, "both few and many"),
    ],
)
def test_outputs_without_a_deterministic_kernel_are_refused(
    apply_fn: Any, reason: str, x64: None
) -> None:
    with pytest.raises(ValueError, match=rf"its output.*{reason}"):
        lazyjax.infinite_ntk_of(
            apply_fn, shapes_of(**PARAMS), jnp.asarray(X), variances=VARIANCES
        )


def max_pooled(params: Any, x: jax.Array) -> jax.Array:
    h = nn.max_pool(x @ params["filter"], (2, 2), (2, 2))
    return h.reshape(h.shape[0], -1) @ params["last"]


def depthwise(params: Any, x: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(
        x @ params["filter"],
        params["depthwise"],
        (1, 1),
        "SAME",
        dimension_numbers=numbers,
        feature_group_count=6,
    )
    return h.mean(axis=(1, 2)) @ params["out"]


def mixer(params: Any, x: jax.Array) -> jax.Array:
    h = jnp.einsum("nhwc,hk->nkwc", x @ params["filter"], params["rows"])
    return h.mean(axis=(1, 2)) @ params["out"]


@pytest.mark.parametrize(
    ("apply_fn", "operation", "reason"),
    [
        (max_pooled, "reduce_window_max", "max pooling"),
        (depthwise, "conv_general_dilated", "by itself"),
        (mixer, "dot_general", "without summing over its units"),
    ],
)
def test_images_without_a_known_limit_are_refused(
    apply_fn: Any, operation: str, reason: str, x64: None
) -> None:
    params = shapes_of(
        filter=(2, 6), last=(24, 1), depthwise=(3, 3, 1, 6), out=(6, 1), rows=(5, 5)
    )
    with pytest.raises(
        ValueError, match=rf"`{operation}` \(at .*test_lift_refusals.*{reason}"
    ):
        lazyjax.infinite_ntk_of(apply_fn, params, jnp.asarray(IMAGES), variances=1.0)


def test_batch_normalization_is_refused() -> None:
    module = nn.Sequential(
        [nn.Dense(6), nn.BatchNorm(use_running_average=False), nn.Dense(1)]
    )
    x = jnp.asarray(X, jnp.float32)
    variables = module.init(jax.random.key(0), x)

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        return module.apply(given, x, mutable=["batch_stats"])[0]  # pyright: ignore

    with pytest.raises(ValueError, match=r"test_lift_refusals.*interact"):
        lazyjax.infinite_ntk_of(apply_fn, variables["params"], x, variances=1.0)


def test_networks_that_count_their_rows_are_refused(x64: None) -> None:
    def counting(w: jax.Array, x: jax.Array) -> jax.Array:
        return x @ w / x.shape[0]

    with pytest.raises(ValueError, match="batches of any size"):
        lazyjax.infinite_ntk_of(
            counting, jnp.ones((4, 1)), jnp.asarray(X), variances=1.0
        )


def steep(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(1e4 * x @ params["w"]) @ params["v"]


def test_activations_too_steep_for_their_series_are_refused(x64: None) -> None:
    params = shapes_of(w=(4, 6), v=(6, 1))
    with pytest.raises(ValueError, match="too fast"):
        lazyjax.infinite_ntk_of(steep, params, jnp.asarray(X), variances=1.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"variances": {"w": 1.0}}, ValueError, "`variances` must be a pytree"),
        ({"variances": -1.0}, ValueError, "`variances` must hold.*got -1.0"),
        ({"variances": {"w": "1/n", "v": 1.0}}, ValueError, "`variances` must hold"),
        ({"x1": np.ones((2, 4), np.float32)}, TypeError, "same dtype"),
        ({"x1": np.ones((2, 4), np.float16)}, TypeError, "32 bits"),
        ({"apply_fn": 3}, TypeError, "`apply_fn` must be callable"),
        ({"params": {}}, ValueError, "`params` must hold"),
        ({"x2": X[:, :3]}, ValueError, "same feature shape"),
    ],
)
def test_bad_arguments_are_named(
    change: dict[str, Any], error: type, message: str, x64: None, own_errors: None
) -> None:
    given: dict[str, Any] = {
        "apply_fn": steep,
        "params": shapes_of(w=(4, 6), v=(6, 1)),
        "x1": X,
        "variances": 1.0,
    } | change
    with pytest.raises(error, match=message):
        lazyjax.infinite_ntk_of(**given)
