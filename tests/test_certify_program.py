"""Bounds read from programs: each rule against derivatives at points of the ball."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify.bounds.program import (
    derivatives,
    scalar_functions,
)
from lazyjax.certify.bounds.program.enclosing.enclosure import Enclosure
from lazyjax.certify.bounds.program.enclosing.interpreter import enclosures
from lazyjax.certify.bounds.program.start import program_start
from tests.helpers.program_problems import _norm

pytestmark = pytest.mark.once

RADIUS = 0.05


def _conv(p, x, strides=(1, 1), dilation=(1, 1), groups=1):
    image = x.reshape(x.shape[0], 2, 2, 1) * p["scale"].reshape(1, 1, 1, -1)
    return jax.lax.conv_general_dilated(
        image,
        p["filters"],
        strides,
        "SAME",
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ).reshape(x.shape[0], -1)


def _pooled(p, x):
    z = (x * p["u"][None]).reshape(x.shape[0], 4)
    zero = np.zeros((), z.dtype)
    return jax.lax.reduce_window(z, zero, jax.lax.add, (1, 2), (1, 1), "VALID")


def _row(p):
    return p["u"][None]


def _entrywise(fn):
    return lambda p, x: fn(_row(p) * x + 0.1)


# A function for each rule, of parameters u (4,), v (4,), m (4, 3), and of x (n, 4).
# Those of one number have bounds that are nearly attained.
FUNCTIONS = {
    "tanh": _entrywise(jnp.tanh),
    "logistic": _entrywise(jax.nn.sigmoid),
    "exp": _entrywise(jnp.exp),
    "expm1": _entrywise(jnp.expm1),
    "log": _entrywise(lambda z: jnp.log(2.0 + z)),
    "log1p": _entrywise(lambda z: jnp.log1p(z * z)),
    "sqrt": _entrywise(lambda z: jnp.sqrt(z * z + 0.5)),
    "rsqrt": _entrywise(lambda z: jax.lax.rsqrt(z * z + 0.5)),
    "square": _entrywise(jnp.square),
    "integer_pow": _entrywise(lambda z: z**3),
    "negative power": _entrywise(lambda z: (3.0 + z) ** -2),
    "pow": _entrywise(lambda z: (3.0 + z) ** 1.7),
    "sin": _entrywise(jnp.sin),
    "cos": _entrywise(jnp.cos),
    "erf": _entrywise(jax.lax.erf),
    "erfc": _entrywise(jax.lax.erfc),
    "atan": _entrywise(jnp.arctan),
    "asinh": _entrywise(jnp.arcsinh),
    "softplus": _entrywise(jax.nn.softplus),
    "elu": _entrywise(jax.nn.elu),
    "silu": _entrywise(jax.nn.silu),
    "gelu": _entrywise(functools.partial(jax.nn.gelu, approximate=False)),
    "relu": _entrywise(jax.nn.relu),
    "relu6": _entrywise(lambda z: jax.nn.relu6(5 * z)),
    "abs": _entrywise(jnp.abs),
    "maximum": lambda p, x: jnp.maximum(_row(p) * x, p["v"][None] * x),
    "minimum": lambda p, x: jnp.minimum(_row(p) * x, p["v"][None] * x),
    "clip": _entrywise(
        lambda z: jax.lax.clamp(
            np.full((), -0.3, z.dtype), z, np.full((), 0.4, z.dtype)
        )
    ),
    "where": _entrywise(lambda z: jnp.where(z > 0, z * z, 2 * z)),
    "logaddexp": lambda p, x: jnp.logaddexp(_row(p) * x, p["v"][None] * x),
    "mul": lambda p, x: _row(p) * p["v"][None] * x,
    "mul by itself": lambda p, x: (_row(p) * _row(p)) * x,
    "mul broadcast": lambda p, x: (x * _row(p)) * jnp.sum(p["v"]).reshape(1, 1),
    "div": lambda p, x: _row(p) * x / (3.0 + p["v"][None]),
    "div by a sum": lambda p, x: (
        _row(p) / (9.0 + jnp.sum(p["v"][None] * x, 1)[:, None])
    ),
    "sum": lambda p, x: jnp.sum(_row(p) * x * p["v"][None], axis=1, keepdims=True),
    "cumsum": lambda p, x: jnp.cumsum(_row(p) * x * p["v"][None], axis=1),
    "pooled": _pooled,
    "dot": lambda p, x: (x @ p["m"]) * p["v"][None, :3],
    "low rank": lambda p, x: (x @ p["m"]) @ p["m"].T,
    "batched dot": lambda p, x: jnp.einsum(
        "nij,njk->nik",
        (_row(p) * x).reshape(-1, 2, 2),
        (x * p["v"][None]).reshape(-1, 2, 2),
    ).reshape(-1, 4),
    "concatenate": lambda p, x: (
        jnp.concatenate([x * _row(p), x * p["v"][None]], 1) ** 2
    ),
    "slice and pad": lambda p, x: jnp.pad((x * _row(p))[:, 1:3] ** 2, ((0, 0), (1, 0))),
    "split": lambda p, x: (
        lambda parts: jnp.concatenate([parts[0] * parts[1], jnp.sin(parts[1])], axis=1)
    )(jnp.split(x * _row(p), 2, axis=1)),
    "gather": lambda p, x: (p["u"][jnp.array([0, 0, 0, 1])][None] * x) ** 2,
    "transpose": lambda p, x: (x.T * p["u"][:, None]).T ** 2,
    "softmax": lambda p, x: jax.nn.softmax(3 * _row(p) * x),
    "normalization": lambda p, x: _norm(_row(p) * x, 0.01),
    "root mean square": lambda p, x: (
        lambda z: z * jax.lax.rsqrt(jnp.mean(z * z, -1, keepdims=True) + 0.01)
    )(_row(p) * x),
    "conv": _conv,
    "conv, strides": functools.partial(_conv, strides=(2, 1)),
    "conv, dilation": functools.partial(_conv, dilation=(2, 1)),
    "conv, groups": functools.partial(_conv, groups=2),
}
# A weaker rule of which one of these functions must tell.
WEAKENED = {
    **{name: ("scalar", name) for name in scalar_functions.SCALAR_FUNCTIONS},
    **{
        name: ("rule", rule)
        for name, rule in {
            "mul": "mul",
            "div": "div",
            "sum": "reduce_sum",
            "pooled": "reduce_window_sum",
            "dot": "dot_general",
            "concatenate": "concatenate",
            "slice and pad": "pad",
            "split": "split",
            "gather": "gather",
            "transpose": "transpose",
            "conv": "conv_general_dilated",
            "where": "select_n",
            "pow": "pow",
            "abs": "abs",
            "clip": "clamp",
            "cumsum": "cumsum",
        }.items()
    },
    "softmax": ("function", "softmax"),
    "normalization": ("function", "normalized"),
    "relu": ("function", "of_known_function"),
    "softplus": ("function", "activated"),
}


# Seeds for which no unit is near its kink.
SEEDS = {"relu6": 2, "maximum": 8, "minimum": 8, "clip": 1}


def problem(name):
    rng = np.random.default_rng(SEEDS.get(name, 0))
    params = {
        "u": rng.uniform(0.5, 1.5, 4) * rng.choice([-1.0, 1.0], 4),
        "v": rng.uniform(-1.5, 1.5, 4),
        "m": rng.standard_normal((4, 3)),
    }
    if name.startswith("conv"):
        inputs = 1 if "groups" in name else 2
        params = {
            "scale": rng.standard_normal(2),
            "filters": rng.standard_normal((3, 2, inputs, 2)),
        }
    return params, rng.uniform(-1.5, 1.5, (3, 4))


def start_of(fn, params, x):
    with jax.enable_x64(True):
        k = jax.eval_shape(fn, params, x).shape[1]
    return program_start(fn, params, x, np.zeros((len(x), k)), "proof")


def violations(name, num_points=12):
    """What derivatives at points of the ball break of their bounds."""
    fn, (params, x) = FUNCTIONS[name], problem(name)
    start = start_of(fn, params, x)
    growth = start.lipschitz.growth(RADIUS)
    assert growth is not None
    names = [sorted(params)[number] for number in start.program.trained]
    rng, found = np.random.default_rng(1), set()
    centre = {key: params[key] for key in names}
    frozen = {key: value for key, value in params.items() if key not in names}
    with jax.enable_x64(True):

        def of_one(trained, row):
            return fn({**trained, **frozen}, row[None])[0]

        first_fn = jax.jit(jax.vmap(jax.jacfwd(of_one), (None, 0)))
        second_fn = jax.jit(jax.vmap(jax.jacfwd(jax.jacfwd(of_one)), (None, 0)))
        value_fn = jax.jit(jax.vmap(of_one, (None, 0)))
        at_centre = np.asarray(value_fn(centre, x))
        for number in range(num_points):
            move = {key: rng.standard_normal(v.shape) for key, v in centre.items()}
            size = math.sqrt(sum(np.sum(v**2) for v in move.values()))
            share = RADIUS * (number / (num_points - 1)) / size
            point = {key: centre[key] + share * v for key, v in move.items()}
            first, second = first_fn(point, x), second_fn(point, x)
            moved = np.linalg.norm(np.asarray(value_fn(point, x)) - at_centre, axis=1)
            drift = RADIUS * np.linalg.norm(growth.first, axis=1)
            if np.any(moved > drift * (1 + 1e-12)):
                found.add("value")
            for i in range(len(x)):
                pick = min(i, len(growth.first) - 1)
                for a, key in enumerate(names):
                    j = np.asarray(first[key])[i].reshape(at_centre.shape[1], -1)
                    if (
                        np.linalg.norm(j, 2)
                        > growth.first[pick, a] * (1 + 1e-9) + 1e-12
                    ):
                        found.add("first")
                    for b, other in enumerate(names):
                        h = np.asarray(second[key][other])[i]
                        h = h.reshape(at_centre.shape[1], centre[key].size, -1)
                        if (
                            _bilinear_norm(h)
                            > growth.second[pick, a, b] * (1 + 1e-9) + 1e-12
                        ):
                            found.add("second")
    return found


def _bilinear_norm(h):
    """Lower bound of the norm of a bilinear map, by alternation."""
    best = 0.0
    for start in np.eye(h.shape[1])[:3]:
        u, size = start, 0.0
        for _ in range(10):
            image = np.tensordot(u, h, (0, 1))
            v = np.linalg.svd(image)[2][0]
            image = np.einsum("kab,b->ka", h, v)
            size, u = np.linalg.norm(image, 2), np.linalg.svd(image)[2][0]
        best = max(best, size)
    return best


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_in_the_ball_are_within_their_bounds(name):
    fn, (params, x) = FUNCTIONS[name], problem(name)
    growth = start_of(fn, params, x).lipschitz.growth(RADIUS)
    assert growth is not None
    assert np.all(np.isfinite(growth.second)), "no kink is in this ball"
    assert not violations(name)


@pytest.mark.parametrize("name", WEAKENED)
def test_a_weaker_rule_is_noticed(name, monkeypatch):
    kind, rule = WEAKENED[name]
    factor = 0.2

    def weaker(fn):
        def run(*arguments):
            growth = fn(*arguments)
            if growth is None:
                return None
            return derivatives.Growth(growth.first * factor, growth.second * factor)

        return run

    if kind == "scalar":
        function = scalar_functions.SCALAR_FUNCTIONS[rule]
        weak = scalar_functions.ScalarFunction(
            function.value,
            lambda low, high: factor * function.slope(low, high),
            lambda low, high: factor * function.curvature(low, high),
        )
        monkeypatch.setitem(scalar_functions.SCALAR_FUNCTIONS, rule, weak)
    elif kind == "rule":
        monkeypatch.setitem(derivatives._RULES, rule, weaker(derivatives._RULES[rule]))
    else:
        from lazyjax.certify.bounds.program import lipschitz

        monkeypatch.setattr(lipschitz, rule, weaker(getattr(lipschitz, rule)))
    assert violations(name)


KINKS = ("relu", "relu6", "abs", "maximum", "minimum", "clip", "where")


@pytest.mark.parametrize("name", KINKS)
def test_kinks_within_the_ball_are_noticed(name):
    fn, (params, x) = FUNCTIONS[name], problem(name)
    lipschitz = start_of(fn, params, x).lipschitz
    assert math.isfinite(lipschitz(RADIUS))
    assert lipschitz(10.0) == math.inf


# Enclosures.


@pytest.mark.parametrize("name", sorted(scalar_functions.SCALAR_FUNCTIONS))
def test_enclosures_hold_the_numbers_of_a_wider_type(name):
    wide = {
        "logistic": lambda u: 1 / (1 + np.exp(-u)),
        "rsqrt": lambda u: 1 / np.sqrt(u),
        "atan": np.arctan,
        "asinh": np.arcsinh,
    }
    if name in ("erf", "erfc"):
        pytest.skip("NumPy has none for wider types")
    oracle = wide.get(name) or getattr(np, name)
    rng = np.random.default_rng(0)
    u = rng.uniform(0.01, 3, 1000)
    radius = 10.0 ** rng.uniform(-15, -1, 1000) * u
    with jax.enable_x64(True):
        primitive = {"sin": jnp.sin, "cos": jnp.cos}.get(name) or getattr(jax.lax, name)
        closed = jax.make_jaxpr(primitive)(u)
    (found,) = enclosures(closed, [Enclosure(u, radius)])
    for share in (-1, -0.5, 0, 0.7, 1):
        point = u.astype(np.longdouble) + share * radius.astype(np.longdouble)
        off = np.abs(oracle(point) - found.value.astype(np.longdouble))
        assert np.all(off <= found.radius)
    assert np.all(found.radius <= 100 * (radius + 1e-15) * (1 + np.exp(2 * u)) / u**3)


def test_enclosures_of_outputs_and_jacobian_hold_those_of_a_wider_type():
    rng = np.random.default_rng(0)
    w, v, x = (rng.standard_normal(s) for s in ((6, 5), (5, 1), (4, 6)))

    def fn(p, x):
        return jnp.tanh(x @ p["w"]) @ p["v"]

    start = start_of(fn, {"v": v, "w": w}, x)
    wide = [part.astype(np.longdouble) for part in (w, v, x)]
    h = np.tanh(wide[2] @ wide[0])
    value, error = start.outputs
    assert np.linalg.norm((h @ wide[1]).astype(float) - value) <= error + 1e-16
    by_v, by_w = (
        np.stack([leaf.weighted(row) for row in np.eye(4)])
        for leaf in start.jacobian.leaves
    )
    slope = (1 - h**2) * wide[1][:, 0]
    expected = (wide[2][:, :, None] * slope[:, None, :]).reshape(4, -1)
    off = np.linalg.norm((by_w - expected).astype(float)) ** 2
    off += np.linalg.norm((by_v - h).astype(float)) ** 2
    assert math.sqrt(off) <= start.jacobian.error < 1e-12


# What is refused.


@jax.custom_jvp
def _lying(u):
    return jnp.tanh(u)


@_lying.defjvp
def _lying_jvp(primals, tangents):
    return jnp.tanh(primals[0]), 2 * tangents[0]


@jax.custom_vjp
def _scaled(u):
    return u


_scaled.defvjp(lambda u: (u, None), lambda _, g: (2 * g,))


@jax.custom_jvp
def relu(u):  # by the name of JAX's
    return jnp.maximum(u, 0)


relu.defjvps(lambda t, ans, u: 3 * t)


def _untraced(p, x):
    f = x @ p["w"]
    return f if "Tracer" in type(f).__name__ else 1.1 * f


def _by_precision(p, x):
    return (2.0 if x.dtype == jnp.float64 else 1.0) * (x @ p["w"])


REFUSED = {
    "custom_jvp_call": lambda p, x: _lying(x @ p["w"]),
    "custom_vjp_call|treat the rows": lambda p, x: _scaled(x @ p["w"]),
    "custom_jvp_call of relu": lambda p, x: relu(x @ p["w"]),
    "treat the rows": lambda p, x: (x - jnp.mean(x, 0, keepdims=True)) @ p["w"],
    "stop_gradient": lambda p, x: jax.lax.stop_gradient(x @ p["w"]) * (x @ p["w"]),
    "makes random keys": lambda p, x: (
        x @ p["w"] + jax.random.normal(jax.random.key(0), (1,))[None]
    ),
    "floor": lambda p, x: jnp.floor(x @ p["w"]) + x @ p["w"],
    "to integers": lambda p, x: (
        (x @ p["w"]).astype(jnp.int32).astype(x.dtype) + x @ p["w"]
    ),
    "sort": lambda p, x: jnp.sort(x * p["w"][:, 0][None], axis=1),
    "while": lambda p, x: jax.lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 0.5), (0, x @ p["w"])
    )[1],
    "when it is called": _untraced,
    "same when": _by_precision,
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_has_no_bounds_is_refused_by_name(words):
    fn = REFUSED[words]
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((3, 1)).astype(np.float32)}
    x = rng.standard_normal((2, 3)).astype(np.float32)
    k = jax.eval_shape(fn, params, x).shape[1]
    with pytest.raises(ValueError, match=words):
        certify.gradient_flow(fn, params, x, np.ones((2, k), np.float32))


def test_starts_show_no_numbers():
    start = certify.bounds_at(
        lambda p, x: x @ p["w"],
        {"w": np.ones((30, 1))},
        np.ones((2, 30)),
        np.ones((2, 1)),
    )
    assert "params={'w': float64[30,1]}" in repr(start)
    assert len(repr(start)) < 160


def test_leaves_that_never_move_are_constants():
    def alone(p, x):
        return jnp.tanh(x @ a) @ p["b"]

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 6)), rng.standard_normal((6, 1))
    x, y = rng.standard_normal((2, 3)), rng.standard_normal((2, 1))

    def frozen(p, x):
        return jnp.tanh(x @ jax.lax.stop_gradient(p["a"])) @ p["b"]

    one = certify.gradient_flow(frozen, {"a": a, "b": b, "unused": b}, x, y)
    other = certify.gradient_flow(alone, {"b": b}, x, y)
    assert one.is_certified
    assert one.rate == other.rate


def test_linear_models_have_no_curvature():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 4)), rng.standard_normal((3, 1))
    found = certify.gradient_flow(lambda p, x: x @ p, rng.standard_normal((4, 1)), x, y)
    assert found.is_certified
    assert found["lipschitz"] < 1e-290
    exact = np.linalg.svd(x)[1]
    assert found["sigma_min"] == pytest.approx(exact[-1], rel=1e-9)
    assert found["sigma_min"] <= exact[-1] * (1 + 1e-15)
    assert found["jacobian_norm"] >= exact[0] * (1 - 1e-15)


def test_arguments_that_do_not_fit_are_refused():
    x, p = np.ones((2, 3)), np.ones((3, 1))
    with pytest.raises(ValueError, match="`y`"):
        certify.gradient_flow(lambda p, x: x @ p, p, x, np.ones((2, 2)))
    with pytest.raises(ValueError, match="`params`"):
        certify.gradient_flow(lambda p, x: x @ p, p * np.nan, x, np.ones((2, 1)))
    with pytest.raises(ValueError, match="`apply_fn` must return"):
        certify.gradient_flow(lambda p, x: (x @ p)[:, 0], p, x, np.ones((2, 1)))
