"""Control flow, rematerialization and derivatives of one's own around parameters."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from tests.helpers.zoo_base import Tokens, register


@register({"w": (3, 4, 4), "b": (3, 4), "out": (4, 2)}, x=(4,))
def mlp_scanned_over_layers(p, x):
    def layer(h, leaf):
        return jnp.tanh(h @ leaf["w"] + leaf["b"][None]), None

    stack = {"w": p["w"], "b": p["b"]}
    return lax.scan(layer, x, stack)[0] @ p["out"]


@register({"w": (3, 4, 4), "shared": (4, 4), "out": (4, 2)}, x=(4,))
def scan_with_stacked_and_shared_weights(p, x):
    def layer(h, w):
        h = jnp.tanh(h @ w) @ p["shared"]
        return h, jnp.sum(h, axis=1)

    h, sums = lax.scan(layer, x, p["w"])
    return h @ p["out"] + sums.T[:, :2]


@register({"w": (4, 4), "out": (4, 2)}, x=(4,))
def scan_carrying_the_weight(p, x):
    """The weight rides in the carry and is changed on the way."""

    def step(carry, _):
        h, w = carry
        return (jnp.tanh(h @ w), 0.9 * w), None

    (h, w), _ = lax.scan(step, (x, p["w"]), None, length=3)
    return h @ p["out"] + (x @ w)[:, :2]


@register({"w": (2, 2, 3, 3), "out": (3, 2)}, x=(3,))
def nested_scans(p, x):
    def inner(h, w):
        return jnp.tanh(h @ w), None

    def outer(h, ws):
        return lax.scan(inner, h, ws)[0] + x, None

    return lax.scan(outer, x, p["w"])[0] @ p["out"]


@register({"w": (3, 4, 4), "out": (4, 2)}, x=(4,))
def fori_loop_indexing_a_stack(p, x):
    """A static trip count, so reverse mode works; weights by dynamic index."""

    def body(i, h):
        return jnp.tanh(h @ lax.dynamic_index_in_dim(p["w"], i, keepdims=False))

    return lax.fori_loop(0, 3, body, x) @ p["out"]


@register({"embed": (5, 3), "w": (3, 2)}, x=Tokens(5, (4,)))
def while_loop_on_the_data(p, x):
    """A loop of unknown length computes an index; parameters stay outside it."""

    def one(tokens):
        first = lax.while_loop(
            lambda i: (i < 3) & (tokens[i] % 2 == 0), lambda i: i + 1, jnp.int32(0)
        )
        return jnp.tanh(p["embed"][tokens[first]]) @ p["w"]

    return jax.vmap(one)(x)


@register({"a": (4, 2), "b": (4, 2), "c": (2,)}, x=(4,))
def cond_on_the_data(p, x):
    def one(row):
        return lax.cond(
            row[0] > 0,
            lambda r: jnp.tanh(r @ p["a"]) + p["c"],
            lambda r: jnp.sin(r @ p["b"]),
            row,
        )

    return jax.vmap(one)(x)


@register({"w": (4, 4), "out": (4, 2)}, x=(4,))
def cond_on_the_data_with_shared_weight(p, x):
    """One weight in both branches, and outside them."""

    def one(row):
        h = jnp.tanh(row @ p["w"])
        h = lax.cond(
            h[1] > 0, lambda h: jnp.cos(h @ p["w"]), lambda h: h + h @ p["w"].T, h
        )
        return h @ p["out"]

    return jax.vmap(one)(x)


@register({"w": (3, 4, 3), "out": (3, 2)}, x=(4,))
def switch_between_experts(p, x):
    branches = [lambda r, i=i: jnp.tanh(r @ p["w"][i]) * (1.0 + i) for i in range(3)]

    def one(row):
        return lax.switch(jnp.argmax(row[:3]), branches, row) @ p["out"]

    return jax.vmap(one)(x)


@register({"w": (4, 4), "gate": (), "out": (4, 2)}, x=(4,))
def cond_on_a_parameter(p, x):
    """Which branch runs depends on a parameter, not on the example."""
    h = lax.cond(
        p["gate"] > 0.0,
        lambda h: jnp.tanh(h @ p["w"]) * p["gate"],
        lambda h: jnp.sin(h @ p["w"]) - p["gate"],
        x,
    )
    return h @ p["out"]


@register({"w": (4, 4), "skip": (4, 4), "out": (4, 2)}, x=(4,))
def scan_with_cond_inside(p, x):
    def one(row):
        def step(h, i):
            h = lax.cond(
                i % 2 == 0, lambda h: jnp.tanh(h @ p["w"]), lambda h: h @ p["skip"], h
            )
            return h, None

        return lax.scan(step, row, jnp.arange(3))[0] @ p["out"]

    return jax.vmap(one)(x)


@register({"w1": (4, 5), "w2": (5, 5), "w3": (5, 2)}, x=(4,))
def rematerialized_blocks(p, x):
    first = jax.checkpoint(lambda w, h: jnp.tanh(h @ w))
    second = jax.checkpoint(
        lambda w, h: jnp.sin(h @ w), policy=jax.checkpoint_policies.dots_saveable
    )
    return second(p["w2"], first(p["w1"], x)) @ p["w3"]


@register({"w": (2, 4, 4), "out": (4, 2)}, x=(4,))
def rematerialized_scan(p, x):
    body = jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None))
    return lax.scan(body, x, p["w"])[0] @ p["out"]


@register({"w": (4, 4), "out": (4, 2)}, x=(4,))
def nested_jit(p, x):
    @jax.jit
    def layer(w, h):
        return jax.jit(jnp.tanh)(h @ w)

    return layer(p["w"], layer(p["w"], x)) @ p["out"]


@register({"w": (4, 3), "out": (3, 2)}, x=(4,))
def rows_by_lax_map(p, x):
    """The batch itself is a loop."""
    return lax.map(lambda row: jnp.tanh(row @ p["w"]) @ p["out"], x)


@jax.custom_jvp
def _softplus(h):
    return jnp.logaddexp(h, jnp.zeros_like(h))


@_softplus.defjvp
def _softplus_jvp(primals, tangents):
    return _softplus(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]


@register({"w": (4, 5), "out": (5, 2)}, x=(4,))
def custom_jvp_of_parameters(p, x):
    return _softplus(x @ _softplus(p["w"])) @ p["out"]


@jax.custom_jvp
def _dense(w, h):
    return jnp.tanh(h @ w)


@_dense.defjvp
def _dense_jvp(primals, tangents):
    (w, h), (dw, dh) = primals, tangents
    out = _dense(w, h)
    # Not the true derivative: the rule that is given is the one that counts.
    return out, (1.0 - out**2) * (2.0 * (h @ dw) + dh @ w)


@register({"w": (4, 5), "out": (5, 2)}, x=(4,), smooth=False)
def custom_jvp_that_is_not_the_derivative(p, x):
    return _dense(p["w"], x) @ p["out"]


@jax.custom_vjp
def _binarize(w):
    return jnp.sign(w)


_binarize.defvjp(
    lambda w: (jnp.sign(w), w),
    lambda w, g: (jnp.where(jnp.abs(w) < 1.0, g, jnp.zeros_like(g)),),
)


@register({"w": (4, 5), "out": (5, 2)}, x=(4,), smooth=False)
def custom_vjp_straight_through(p, x):
    return jnp.tanh(x @ _binarize(p["w"])) @ p["out"]


@register({"w": (4, 5), "out": (5, 2)}, x=(4,), smooth=False)
def straight_through_by_stop_gradient(p, x):
    w = p["w"] + lax.stop_gradient(jnp.round(p["w"]) - p["w"])
    return jnp.tanh(x @ w) @ p["out"]


@jax.custom_vjp
def _clipped_gradient(h):
    return h


_clipped_gradient.defvjp(lambda h: (h, None), lambda _, g: (jnp.clip(g, -0.3, 0.3),))


@register({"w": (4, 5), "out": (5, 2)}, x=(4,), smooth=False, twice=False)
def custom_vjp_not_linear_in_the_cotangent(p, x):
    """A gradient rule that clips: not a linear map, but each gradient is defined."""
    return _clipped_gradient(jnp.tanh(x @ p["w"])) @ p["out"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer(activation, w, h):
    return activation(h @ w)


def _layer_forward(activation, w, h):
    out, back = jax.vjp(lambda w, h: activation(h @ w), w, h)
    return out, back


_layer.defvjp(_layer_forward, lambda _, back, g: back(g))


@register({"w": (4, 5), "v": (5, 5), "out": (5, 2)}, x=(4,))
def custom_vjp_around_layers(p, x):
    h = _layer(jnp.sin, p["v"], _layer(jnp.tanh, p["w"], x))
    return h @ p["out"]


@register({"w": (3, 3), "b": (3,), "out": (3, 2)}, x=(3,))
def implicit_layer(p, x):
    """A fixed point, differentiated by the implicit function theorem."""

    def solve(f, h0):
        return lax.fori_loop(0, 60, lambda _, h: h - f(h), h0)

    def linear_solve(f, y):
        return jnp.linalg.solve(jax.jacobian(f)(y), y)

    def one(row):
        def residual(h):
            return h - 0.3 * jnp.tanh(h @ p["w"] + p["b"] + row)

        h = lax.custom_root(residual, jnp.zeros_like(row), solve, linear_solve)
        return h @ p["out"]

    return jax.vmap(one)(x)


@register({"w": (2, 2), "b": (2,), "out": (2, 2)}, x=(2,))
def neural_ode_by_fixed_steps(p, x):
    """Runge-Kutta over a scan, the vector field closed over."""

    def field(h):
        return jnp.tanh(h @ p["w"] + p["b"][None])

    def step(h, dt):
        k1 = field(h)
        k2 = field(h + dt * k1)
        return h + 0.5 * dt * (k1 + k2), None

    steps = jnp.full((4,), 0.25, x.dtype)
    return lax.scan(step, x, steps)[0] @ p["out"]
