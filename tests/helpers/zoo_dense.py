"""Dense networks: activations, biases, scalings, gains, norms, products of inputs."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.helpers.zoo_base import register, relaxed

MLP = {"w1": (5, 7), "b1": (7,), "w2": (7, 6), "b2": (6,), "w3": (6, 3), "b3": (3,)}


def _mlp(p, x, activation):
    h = activation(x @ p["w1"] + p["b1"][None])
    h = activation(h @ p["w2"] + p["b2"][None])
    return h @ p["w3"] + p["b3"][None]


@register({"w": (5, 3)}, x=(5,))
def linear(p, x):
    return x @ p["w"]


@register({"w": (5, 1)}, x=(5,))
def linear_one_output(p, x):
    return x @ p["w"]


@register(MLP, x=(5,), smooth=False)
def mlp_relu(p, x):
    return _mlp(p, x, jax.nn.relu)


@register(MLP, x=(5,))
def mlp_gelu(p, x):
    return _mlp(p, x, jax.nn.gelu)


@register(MLP, x=(5,))
def mlp_erf(p, x):
    return _mlp(p, x, lax.erf)


@register(MLP, x=(5,))
def mlp_sine(p, x):
    return _mlp(p, x, jnp.sin)


@register(MLP, x=(5,))
def mlp_under_default_promotion(p, x):
    @relaxed
    def apply_fn(p, x):
        h = jnp.tanh(x @ p["w1"] + p["b1"])
        return jnp.tanh(h @ p["w2"] + p["b2"]) @ p["w3"] + p["b3"]

    return apply_fn(p, x)


@register([(5, 8), (8, 8), (8, 2)], x=(5,))
def mlp_no_bias_ntk_parameterization(p, x):
    h = x
    for i, w in enumerate(p):
        h = (2.0**0.5 / w.shape[0] ** 0.5) * (h @ w)
        h = jnp.tanh(h) if i < 2 else h
    return h


@register({"w": (2, 5, 3)}, x=(5,))
def maxout(p, x):
    return jnp.max(jnp.einsum("nd,pdk->npk", x, p["w"]), axis=1)


@register({"w1": (5, 8), "w2": (4, 3)}, x=(5,))
def gated_linear_unit(p, x):
    return jax.nn.glu(x @ p["w1"]) @ p["w2"]


@register({"w1": (6, 8), "w2": (8, 3)}, x=(6,))
def features_first_inside(p, x):
    """The batch is the last axis inside, as in much physics code."""
    h = jnp.tanh(p["w1"].T @ x.T)
    return (p["w2"].T @ h).T


@register({"w": (3, 5), "b": (3, 1)}, x=(5,))
def weight_on_the_left(p, x):
    return jax.vmap(lambda row: (p["w"] @ row[:, None] + p["b"])[:, 0])(x)


@register({"w1": (3, 4, 6), "w2": (6, 2)}, x=(3, 4))
def contraction_over_two_axes(p, x):
    return jnp.tanh(jnp.tensordot(x, p["w1"], axes=2)) @ p["w2"]


@register({"w1": (4, 6), "b": (6,), "w2": (3, 6, 2)}, x=(3, 4))
def dense_on_batch_and_position_merged(p, x):
    n, t, d = x.shape
    h = jnp.tanh(x.reshape(n * t, d) @ p["w1"] + p["b"][None])
    return jnp.einsum("nth,thk->nk", h.reshape(n, t, -1), p["w2"])


@register({"w": (), "b": ()}, x=())
def scalar_inputs_and_parameters(p, x):
    return (x * p["w"] + p["b"])[:, None]


@register({"b": (3,)}, x=(5,))
def bias_only(p, x):
    """Outputs that do not depend on the inputs at all."""
    return jnp.broadcast_to(p["b"][None], (x.shape[0], 3))


@register({"w": (5, 2)}, x=(5,))
def a_constant_output(p, x):
    h = x @ p["w"]
    return jnp.concatenate([h[:, :1], jnp.ones_like(h[:, :1]), h[:, 1:]], axis=1)


@register({"w1": (5, 6), "gain": (), "alpha": (), "w2": (6, 2)}, x=(5,))
def scalar_gains(p, x):
    h = p["gain"] * jnp.tanh(x @ p["w1"])
    return (h @ p["w2"]) * p["alpha"] / (1.0 + p["gain"] ** 2)


@register({"shift": (5,), "w1": (5, 6), "w2": (6, 2)}, x=(5,))
def parameter_added_to_input(p, x):
    return jnp.tanh((x - p["shift"][None]) @ p["w1"]) @ p["w2"]


@register({"divisor": (5,), "w": (5, 2)}, x=(5,))
def parameter_as_divisor(p, x):
    return jnp.sin(x / (2.0 + p["divisor"][None] ** 2)) @ p["w"]


@register({"power": (5,), "w": (5, 2)}, x=(5,))
def parameter_as_exponent(p, x):
    return ((1.0 + x**2) ** p["power"][None]) @ p["w"]


@register({"slope": (6,), "w1": (5, 6), "w2": (6, 2)}, x=(5,), smooth=False)
def prelu(p, x):
    h = x @ p["w1"]
    return jnp.where(h > 0, h, p["slope"][None] * h) @ p["w2"]


@register({"w1": (5, 6), "b": (6,), "gain": (6,), "w2": (6, 3)}, x=(5,))
def layer_norm(p, x):
    h = x @ p["w1"]
    centred = h - jnp.mean(h, axis=-1, keepdims=True)
    scale = lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-3)
    return jnp.tanh(centred * scale * p["gain"][None] + p["b"][None]) @ p["w2"]


@register({"w1": (5, 6), "gain": (6,), "w2": (6, 3)}, x=(5,))
def rms_norm(p, x):
    h = x @ p["w1"]
    h = h * lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-3)
    return jax.nn.silu(h * (1.0 + p["gain"])[None]) @ p["w2"]


@register({"w": (4, 3, 5), "b": (3,)}, x=(2, 5))
def bilinear(p, x):
    u, v = x[:, 0, :4], x[:, 1]
    return jnp.einsum("ni,ikj,nj->nk", u, p["w"], v) + p["b"][None]


@register({"w": (5, 8), "film": (3, 16), "out": (8, 2)}, x=(8,))
def film(p, x):
    """One part of the input scales and shifts the features of the other."""
    scale, shift = jnp.split(x[:, 5:] @ p["film"], 2, axis=1)
    return (jnp.tanh(x[:, :5] @ p["w"]) * scale + shift) @ p["out"]


@register({"centres": (6, 4), "log_width": (6,), "w": (6, 2)}, x=(4,))
def radial_basis_functions(p, x):
    offsets = x[:, None, :] - p["centres"][None]
    distances = jnp.sum(offsets**2, axis=-1)
    return jnp.exp(-distances * jnp.exp(p["log_width"])[None]) @ p["w"]


@register({"w1": (2, 6), "b1": (6,), "w2": (6, 1)}, x=(2,))
def physics_informed_residuals(p, x):
    """Value, gradient and Laplacian with respect to the inputs."""

    def u(row):
        return (jnp.tanh(row[None] @ p["w1"] + p["b1"][None]) @ p["w2"])[0, 0]

    def residuals(row):
        laplacian = jnp.trace(jax.hessian(u)(row))
        return jnp.concatenate([u(row)[None], jax.grad(u)(row), laplacian[None]])

    return jax.vmap(residuals)(x)


@register({"w1": (6, 6), "w2": (6, 2)}, x=(6,))
def fourier_layer(p, x):
    """A complex intermediate, a real output."""
    spectrum = jnp.fft.rfft(jnp.tanh(x @ p["w1"]), axis=1)
    return jnp.abs(spectrum)[:, 1:3] + jnp.fft.irfft(spectrum**2, n=6) @ p["w2"]


@register({"re": (6, 3), "im": (6, 3), "w": (3, 2)}, x=(6,))
def complex_weights_from_real_parameters(p, x):
    spectrum = jnp.fft.fft(x, axis=1) @ lax.complex(p["re"], p["im"])
    return (jnp.real(spectrum) * jnp.imag(spectrum)) @ p["w"]


@register({"a": (3, 3), "w": (3, 2)}, x=(3,))
def linear_solve(p, x):
    eye = jnp.eye(3, dtype=x.dtype)
    return jnp.linalg.solve(3.0 * eye + p["a"], x.T).T @ p["w"]


@register({"w": (2, 3, 3)}, x=(3, 3))
def log_determinant(p, x):
    matrices = 4.0 * jnp.eye(3, dtype=x.dtype)[None, None] + p["w"][None] + x[:, None]
    return jnp.linalg.slogdet(matrices)[1]
