"""Bounds read from programs: each rule against derivatives at points of the ball."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.activations import ACTIVATIONS
from lazyjax.certify.arithmetic.activations import SMOOTH_ACTIVATIONS
from lazyjax.certify.bounds.program import (
    derivatives,
    lipschitz,
    scalar_functions,
)
from lazyjax.certify.bounds.program.enclosing.enclosure import Enclosure
from lazyjax.certify.bounds.program.enclosing.interpreter import enclosures
from lazyjax.certify.bounds.program.known import calls
from tests.helpers.program_functions import FUNCTIONS, RADIUS, sampled, start_of

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.sampled(18)
def test_derivatives_in_the_ball_are_within_their_bounds(name):
    for is_even in (False, True):
        found = sampled(name, is_even=is_even)
        growth = found.start.lipschitz.growth(RADIUS)
        assert growth is not None
        assert np.all(np.isfinite(growth.second)), "no kink is in this ball"
        assert not found.violations(RADIUS)


def scaled(order, factor):
    """A rule whose bounds of derivatives of one order are smaller."""

    def weaken(fn):
        def run(*arguments):
            growth = fn(*arguments)
            if growth is None:
                return None
            parts = list(growth)
            parts[order] = parts[order] * factor
            return derivatives.Growth(*parts)

        return run

    return weaken


def weaker_function(function, order, factor):
    """A function of one number of which a derivative is bounded by too little."""
    name = ("slope", "curvature")[order]
    bound = getattr(function, name)
    return dataclasses.replace(
        function, **{name: lambda low, high: factor * bound(low, high)}
    )


# By rule: the function that tells, and how much smaller bounds of first and second
# derivatives may be until it does; `None` where there is no derivative to tell by.
RULES = {
    "add": ("add a number", 0.9, 0.4),
    "sub": ("difference", 0.9, 0.9),
    "neg": ("negative", 0.9, 0.9),
    "reshape": ("reshape", 0.9, 0.9),
    "transpose": ("transpose", 0.9, 0.9),
    "squeeze": ("squeeze", 0.9, 0.9),
    "rev": ("reversed", 0.9, 0.9),
    "slice": ("slice and pad", 0.9, 0.9),
    "split": ("split", 0.9, 0.9),
    "dynamic_slice": ("dynamic slice", 0.9, 0.9),
    "copy": ("copy", 0.9, 0.9),
    "name": ("name", 0.9, 0.9),
    "convert_element_type": ("cast", 0.9, 0.9),
    "broadcast_in_dim": ("broadcast", 0.9, 0.9),
    "reduce_sum": ("sum", 0.9, 0.4),
    "gather": ("gather", 0.8, 0.8),
    "concatenate": ("concatenate", 0.9, 0.9),
    "pad": ("slice and pad", 0.9, 0.9),
    "dynamic_update_slice": ("update slice", 0.9, 0.9),
    "scatter": ("scatter", 0.9, 0.9),
    "scatter-add": ("scatter-add", 0.7, 0.7),
    "cumsum": ("cumsum", 0.6, 0.4),
    "reduce_window_sum": ("pooled", 0.8, 0.6),
    "mul": ("mul", 0.9, 0.9),
    "div": ("div", 0.9, 0.9),
    "dot_general": ("dot", 0.9, 0.9),
    "conv_general_dilated": ("conv", 0.5, 0.5),
    "select_n": ("where", 0.6, 0.9),
    "abs": ("abs", 0.9, None),
    "clamp": ("clip", 0.3, None),
    "pow": ("moving exponent", 0.9, 0.9),
}
SCALARS = {
    "tanh": (0.9, 0.9),
    "logistic": (0.9, 0.8),
    "exp": (0.9, 0.9),
    "expm1": (0.9, 0.9),
    "log": (0.9, 0.9),
    "log1p": (0.9, 0.9),
    "sqrt": (0.9, 0.9),
    "rsqrt": (0.9, 0.9),
    "square": (0.9, 0.9),
    "sin": (0.9, 0.9),
    "cos": (0.9, 0.9),
    "erf": (0.9, 0.9),
    "erfc": (0.9, 0.9),
    "atan": (0.8, 0.9),
    "asinh": (0.8, 0.9),
}
# By function: the rule that bounds it.
PATTERNS = {
    "softmax": ("bounded", 0.6, 0.08),
    "log-softmax": ("bounded", 0.7, 0.4),
    "log-softmax, rows": ("bounded", 0.7, 0.9),
    "logsumexp": ("bounded", 0.6, 0.4),
    "logsumexp, kept": ("bounded", 0.6, 0.4),
    "log of sums": ("bounded", 0.6, 0.4),
    "centering": ("bounded", 0.8, None),
    "normalization": ("normalized", 0.7, 0.5),
    "relu": ("of_known_function", 0.9, None),
    "softplus": ("activated", 0.9, 0.8),
}
# Rules that say when something cannot change: a function whose kink or jump is in a
# ball of this radius tells of one that says so always.
CONSTANT = {
    "gt": ("jump up", 1.0),
    "lt": ("jump down", 1.0),
    "sign": ("sign", 1.0),
    "argmax": ("largest", 1.0),
    "select_n": ("jump up", 1.0),
    "abs": ("abs", 1.0),
    "clamp": ("clip", 1.0),
}
# Rules of other primitives, by one that has the same.
SAME = {
    "add_any": "add",
    "copy_p": "copy",
    "expand_dims": "squeeze",
    "stack": "concatenate",
    "unstack": "split",
    "ge": "gt",
    "le": "gt",
    "eq": "gt",
    "ne": "gt",
}
# Truth values only: infinite where an operand is, see `gt`.
TRUTH = {"and", "or", "not", "xor"}


def told(name, radius=RADIUS):
    return any(
        sampled(name, is_even=is_even, radius=radius).violations(radius)
        for is_even in (False, True)
    )


def cases(table):
    return [
        pytest.param(name, order, id=f"{name}-{('first', 'second')[order]}")
        for name, (*_, first, second) in table.items()
        for order, factor in enumerate((first, second))
        if factor is not None
    ]


@pytest.mark.parametrize(("rule", "order"), cases(RULES))
def test_a_weaker_rule_is_noticed(rule, order, monkeypatch):
    name, *factors = RULES[rule]
    assert not told(name)
    weaken = scaled(order, factors[order])
    monkeypatch.setitem(derivatives._RULES, rule, weaken(derivatives._RULES[rule]))
    assert told(name)


@pytest.mark.parametrize(("name", "order"), cases(SCALARS))
def test_a_smaller_derivative_of_a_function_of_one_number_is_noticed(
    name, order, monkeypatch
):
    table = scalar_functions.SCALAR_FUNCTIONS
    weak = weaker_function(table[name], order, SCALARS[name][order])
    assert not told(name)
    monkeypatch.setitem(table, name, weak)
    assert told(name)


@pytest.mark.parametrize(("name", "order"), cases(PATTERNS))
def test_a_weaker_rule_of_a_pattern_is_noticed(name, order, monkeypatch):
    function, *factors = PATTERNS[name]
    weaken = scaled(order, factors[order])
    assert not told(name)
    monkeypatch.setattr(lipschitz, function, weaken(getattr(lipschitz, function)))
    assert told(name)


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_activations_are_within_their_bounds(activation):
    fn, phi = ACTIVATIONS[activation].fn, SMOOTH_ACTIVATIONS[activation]
    u = np.linspace(-6, 6, 4001)
    with jax.enable_x64(True):
        slope = np.abs(jax.vmap(jax.grad(fn))(u))
        curvature = np.abs(jax.vmap(jax.grad(jax.grad(fn)))(u))
    assert 0.98 * phi.slope <= np.max(slope) <= phi.slope
    assert 0.98 * phi.curvature <= np.max(curvature) <= phi.curvature


@pytest.mark.parametrize("rule", CONSTANT)
def test_a_rule_that_overlooks_what_changes_is_noticed(rule, monkeypatch):
    name, radius = CONSTANT[rule]
    assert not told(name, radius)

    def blind(eqn, operands):
        moving = [part.growth for part in operands if part.growth is not None]
        if rule in ("gt", "lt", "sign", "argmax"):
            return None
        return derivatives.joined(*(g for g in moving if np.all(np.isfinite(g.first))))

    monkeypatch.setitem(derivatives._RULES, rule, blind)
    assert told(name, radius)


def test_what_may_not_be_finite_is_noticed(monkeypatch):
    radius = 2.0  # no derivative tells, as it is at a point that it is not
    found = sampled("finite").start.lipschitz
    assert found(radius) == math.inf
    monkeypatch.setitem(derivatives._RULES, "is_finite", lambda eqn, operands: None)
    assert dataclasses.replace(found, _found={})(radius) < math.inf


def test_every_rule_is_mutated():
    """A rule that is added later has to be added here as well."""
    rules = derivatives._RULES
    assert {*RULES, *CONSTANT, *SAME, *TRUTH, "is_finite"} == {*rules}
    assert all(rules[name] is rules[other] for name, other in SAME.items())
    assert all(rules[name] is derivatives._without_change for name in TRUTH)
    assert {*SCALARS} == {*scalar_functions.SCALAR_FUNCTIONS}
    assert {*FUNCTIONS} >= {*SCALARS, *calls._JAX_FUNCTIONS}


KINKS = ("relu", "relu6", "abs", "maximum", "minimum", "clip", "where", "finite")
KINKS += ("largest", "smallest", "max pool", "max pool, overlapping")


@pytest.mark.parametrize("name", KINKS)
def test_kinks_within_the_ball_are_noticed(name):
    lipschitz = sampled(name).start.lipschitz
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
