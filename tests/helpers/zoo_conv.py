"""Convolutional networks: strides, dilations, groups, transposes, pools, norms."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.helpers.zoo_base import register

NHWC = ("NHWC", "HWIO", "NHWC")
NCHW = ("NCHW", "OIHW", "NCHW")
IMAGE = (5, 4, 2)


def conv(x, kernel, strides=(1, 1), padding: Any = "SAME", numbers=NHWC, **kwargs):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, **kwargs
    )


def channels(b):
    return b[None, None, None]


@register({"k1": (3, 3, 2, 4), "b1": (4,), "k2": (3, 3, 4, 4), "w": (4, 3)}, x=IMAGE)
def cnn_global_average_pool(p, x):
    h = jax.nn.gelu(conv(x, p["k1"]) + channels(p["b1"]))
    return jnp.mean(jnp.tanh(conv(h, p["k2"])), axis=(1, 2)) @ p["w"]


@register({"k": (3, 2, 2, 3), "b": (3,), "w": (60, 2), "c": (2,)}, x=IMAGE)
def cnn_flatten(p, x):
    h = jnp.tanh(conv(x, p["k"]) + channels(p["b"]))
    return h.reshape(x.shape[0], -1) @ p["w"] + p["c"][None]


@register({"k": (3, 3, 2, 4), "w": (4, 2)}, x=IMAGE)
def cnn_valid_padding(p, x):
    return jnp.tanh(conv(x, p["k"], padding="VALID")).mean((1, 2)) @ p["w"]


@register({"k": (2, 3, 2, 4), "w": (4, 2)}, x=IMAGE)
def cnn_uneven_and_negative_padding(p, x):
    h = conv(x, p["k"], padding=((2, 0), (-1, 3)))
    return jnp.tanh(h).mean((1, 2)) @ p["w"]


@register({"k1": (3, 3, 2, 3), "k2": (2, 3, 3, 4), "w": (4, 2)}, x=IMAGE)
def cnn_strided(p, x):
    h = jnp.tanh(conv(x, p["k1"], strides=(2, 1)))
    return jnp.tanh(conv(h, p["k2"], strides=(2, 3))).mean((1, 2)) @ p["w"]


@register({"k1": (1, 1, 2, 4), "k2": (1, 1, 4, 3)}, x=IMAGE)
def cnn_one_by_one(p, x):
    h = jnp.tanh(conv(x, p["k1"]))
    return jnp.sum(jnp.tanh(conv(h, p["k2"], strides=(2, 2))), axis=(1, 2))


@register({"k": (3, 2, 2, 4), "w": (4, 2)}, x=IMAGE)
def cnn_dilated(p, x):
    h = conv(x, p["k"], rhs_dilation=(2, 3))
    return jnp.tanh(h).mean((1, 2)) @ p["w"]


@register({"k": (3, 2, 2, 4), "w": (4, 2)}, x=IMAGE)
def cnn_input_dilated(p, x):
    h = conv(x, p["k"], padding=((1, 2), (2, 1)), lhs_dilation=(2, 3))
    return jnp.tanh(h).mean((1, 2)) @ p["w"]


@register({"k": (3, 3, 1, 3), "w": (3, 2)}, x=(4, 4, 3))
def cnn_depthwise(p, x):
    h = conv(x, p["k"], feature_group_count=3)
    return jnp.tanh(h).mean((1, 2)) @ p["w"]


@register({"k": (2, 2, 1, 6), "point": (1, 1, 6, 3), "w": (3, 2)}, x=(4, 4, 3))
def cnn_depthwise_separable_multiplier(p, x):
    h = jnp.tanh(conv(x, p["k"], strides=(2, 2), feature_group_count=3))
    return jnp.tanh(conv(h, p["point"])).mean((1, 2)) @ p["w"]


@register({"k": (3, 2, 2, 6), "w": (6, 2)}, x=(4, 3, 4))
def cnn_grouped(p, x):
    h = conv(x, p["k"], strides=(1, 2), rhs_dilation=(2, 1), feature_group_count=2)
    return jnp.tanh(h).mean((1, 2)) @ p["w"]


@register({"k1": (3, 3, 2, 4), "k2": (2, 3, 4, 3), "w": (3, 2)}, x=(3, 3, 2))
def cnn_transposed(p, x):
    h = lax.conv_transpose(x, p["k1"], (2, 2), "SAME", dimension_numbers=NHWC)
    h = lax.conv_transpose(
        jnp.tanh(h),
        jnp.swapaxes(p["k2"], 2, 3),
        (1, 2),
        "VALID",
        dimension_numbers=NHWC,
        transpose_kernel=True,
    )
    return jnp.tanh(h).mean((1, 2)) @ p["w"]


@register({"k": (4, 2, 3, 3), "b": (4,), "w": (4, 2)}, x=(2, 4, 5))
def cnn_channels_first(p, x):
    h = conv(x, p["k"], numbers=NCHW) + p["b"][None, :, None, None]
    return jnp.tanh(h).mean((2, 3)) @ p["w"]


@register({"k": (3, 2, 2, 4), "w": (4, 2)}, x=IMAGE)
def cnn_kernel_flipped(p, x):
    """A true convolution: the kernel is reversed before correlation."""
    return jnp.tanh(conv(x, p["k"][::-1, ::-1])).mean((1, 2)) @ p["w"]


@register({"k": (3, 2, 4), "b": (4,), "w": (4, 2)}, x=(7, 2))
def cnn_one_dimension_causal(p, x):
    numbers = ("NWC", "WIO", "NWC")
    h = conv(x, p["k"], (1,), [(4, 0)], numbers, rhs_dilation=(2,))
    return jnp.tanh(h + p["b"][None, None])[:, -1] @ p["w"]


@register({"k": (2, 2, 2, 1, 3), "w": (3, 2)}, x=(3, 3, 4, 1))
def cnn_three_dimensions(p, x):
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    h = conv(x, p["k"], (1, 1, 2), "SAME", numbers)
    return jnp.tanh(h).mean((1, 2, 3)) @ p["w"]


@register({"k": (3, 3, 2, 4), "w": (16, 2)}, x=(4, 4, 2), smooth=False)
def cnn_max_pool(p, x):
    h = lax.reduce_window(
        conv(x, p["k"]), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return h.reshape(x.shape[0], -1) @ p["w"]


@register({"k": (3, 3, 2, 4), "w": (16, 2)}, x=(4, 4, 2))
def cnn_average_pool(p, x):
    h = lax.reduce_window(
        jnp.tanh(conv(x, p["k"])), 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return (h / 4.0).reshape(x.shape[0], -1) @ p["w"]


@register(
    {
        "k1": (3, 3, 2, 3),
        "k2": (3, 3, 3, 3),
        "project": (1, 1, 2, 3),
        "k3": (3, 3, 3, 3),
        "w": (3, 2),
    },
    x=(4, 4, 2),
)
def resnet_with_projection(p, x):
    h = jax.nn.silu(conv(x, p["k1"], strides=(2, 2)))
    h = conv(h, p["k2"]) + conv(x, p["project"], strides=(2, 2))
    h = h + conv(jax.nn.silu(h), p["k3"])
    return jnp.mean(jax.nn.silu(h), axis=(1, 2)) @ p["w"]


@register(
    {"k": (3, 3, 2, 4), "gain": (4,), "shift": (4,), "w": (4, 2)},
    x=(4, 4, 2),
)
def cnn_group_norm(p, x):
    h = conv(x, p["k"]).reshape(x.shape[0], 4, 4, 2, 2)
    h = h - jnp.mean(h, axis=(1, 2, 4), keepdims=True)
    h = h * lax.rsqrt(jnp.mean(h**2, axis=(1, 2, 4), keepdims=True) + 1e-3)
    h = h.reshape(x.shape[0], 4, 4, 4) * channels(p["gain"]) + channels(p["shift"])
    return jnp.tanh(h).mean((1, 2)) @ p["w"]


@register({"k": (3, 3, 2, 4), "gain": (4,), "w": (4, 2)}, x=IMAGE)
def cnn_weight_standardized(p, x):
    kernel = p["k"] - jnp.mean(p["k"], axis=(0, 1, 2), keepdims=True)
    norm = jnp.sqrt(jnp.sum(kernel**2, axis=(0, 1, 2), keepdims=True) + 1e-4)
    return jnp.tanh(conv(x, channels(p["gain"]) * kernel / norm)).mean((1, 2)) @ p["w"]


@register({"k": (3, 3, 2, 2), "w": (2, 2)}, x=IMAGE)
def cnn_shared_kernel(p, x):
    """One kernel used three times, at two resolutions."""
    h = jnp.tanh(conv(x, p["k"]))
    h = jnp.tanh(conv(h, p["k"], strides=(2, 2)))
    return jnp.tanh(conv(h, p["k"])).mean((1, 2)) @ p["w"]


@register({"image": (1, 5, 5, 2), "w": (4, 2)}, x=(2, 2, 2, 4))
def cnn_parameter_is_the_image(p, x):
    """The filter comes from the data, the image is trained."""
    h = jax.vmap(lambda kernel: conv(p["image"], kernel)[0])(x)
    return jnp.tanh(h).mean((1, 2)) @ p["w"]


@register({"k": (3, 3, 1, 4), "w": (4, 2)}, x=(5, 4, 2))
def cnn_same_kernel_for_each_channel(p, x):
    """Channels are folded into the batch of the convolution."""
    n, h, w, c = x.shape
    folded = jnp.moveaxis(x, 3, 1).reshape(n * c, h, w, 1)
    y = jnp.tanh(conv(folded, p["k"])).mean((1, 2)).reshape(n, c, 4)
    return jnp.einsum("nci,ik->nk", y**2, p["w"])


@register({"k": (2, 2, 1, 4), "w": (4, 2)}, x=(4, 4, 2))
def cnn_batch_grouped(p, x):
    """Two groups along the batch axis of the convolution, one per channel."""

    def one(row):
        lhs = jnp.moveaxis(row, 2, 0)[..., None]
        return conv(lhs, p["k"], batch_group_count=2)[0]

    return jnp.tanh(jax.vmap(one)(x)).mean((1, 2)) @ p["w"]


@register({"k": (3, 3, 1, 8), "w": (2, 2)}, x=(3, 3, 1))
def cnn_pixel_shuffle(p, x):
    h = jnp.tanh(conv(x, p["k"])).reshape(x.shape[0], 3, 3, 2, 2, 2)
    h = jnp.moveaxis(h, 3, 2).reshape(x.shape[0], 6, 6, 2)
    return jnp.mean(h**2, axis=(1, 2)) @ p["w"]
