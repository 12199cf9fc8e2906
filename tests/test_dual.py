"""Dual activations against polar quadrature, closed forms and bounds."""

import math
from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from lazyjax.activations import (
    ACTIVATIONS,
    ABReLU,
    Polynomial,
    RectifiedPower,
    hermite,
    monomial,
    unit_scale,
)
from lazyjax.infinite.duals.dual import (
    dual_activation,
    dual_derivative,
    dual_error,
    dual_mean,
    dual_variance,
)
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

_sigmoid = scipy.special.expit
_normal_cdf = scipy.special.ndtr
_normal_pdf = lambda u: np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)

# Activation and derivative in NumPy, written apart from the library's.
REFERENCE: dict[str, tuple[Callable, Callable]] = {
    "abs": (np.abs, np.sign),
    "cos": (np.cos, lambda u: -np.sin(u)),
    "elu": (
        lambda u: np.where(u > 0, u, np.expm1(np.minimum(u, 0))),
        lambda u: np.exp(np.minimum(u, 0)),
    ),
    "erf": (scipy.special.erf, lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2))),
    "exp": (np.exp, np.exp),
    "gaussian": (lambda u: np.exp(-(u**2)), lambda u: -2 * u * np.exp(-(u**2))),
    "gelu": (
        lambda u: u * _normal_cdf(u),
        lambda u: _normal_cdf(u) + u * _normal_pdf(u),
    ),
    "identity": (lambda u: u, np.ones_like),
    "leaky_relu": (
        lambda u: np.where(u > 0, u, 0.01 * u),
        lambda u: np.where(u > 0, 1.0, 0.01),
    ),
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0) * 1.0),
    "sigmoid": (_sigmoid, lambda u: _sigmoid(u) * _sigmoid(-u)),
    "silu": (
        lambda u: u * _sigmoid(u),
        lambda u: _sigmoid(u) * (1 + u * _sigmoid(-u)),
    ),
    "sign": (np.sign, np.zeros_like),
    "sin": (np.sin, np.cos),
    "softplus": (lambda u: np.logaddexp(u, 0), _sigmoid),
    "tanh": (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
}


def reference_moment(f: Callable, q11: float, q12: float, q22: float) -> float:
    """E[f(u) f(v)] in polar coordinates, split where u or v changes its sign."""
    s1, s2 = math.sqrt(q11), math.sqrt(q22)
    angle = math.acos(max(-1.0, min(1.0, q12 / (s1 * s2)))) if s1 * s2 else 1.0
    half = math.pi / 2
    ends = sorted(t % (2 * math.pi) for t in (half, -half, angle + half, angle - half))
    nodes, weights = np.polynomial.legendre.leggauss(64)
    radius, radial = 5 * (nodes + 1), 5 * weights  # the weight at 10 is exp(-50)
    radial = radial * radius * np.exp(-(radius**2) / 2) / (2 * np.pi)
    total = 0.0
    for start, stop in zip(ends, [*ends[1:], ends[0] + 2 * math.pi], strict=True):
        t = start + (stop - start) * (nodes[:, None] + 1) / 2
        values = f(s1 * radius * np.cos(t)) * f(s2 * radius * np.cos(t - angle))
        total += (stop - start) / 2 * weights @ values @ radial
    return float(total)


def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances and covariances of both signs, correlations 1 and -1 included."""
    q11 = np.array([1.0, 1.0, 1.0, 0.5, 1.3, 0.7, 1.0, 1e-3, 1.0])
    q22 = np.array([1.0, 1.0, 1.0, 1.2, 0.2, 0.7, 1.0, 1.0, 1.0])
    rho = np.array([1.0, -1.0, 0.0, 0.5, -0.6, 0.95, 0.999, 0.3, -0.9])
    return q11, rho * np.sqrt(q11 * q22), q22


def reference_moments(name: str) -> tuple[np.ndarray, np.ndarray]:
    phi = REFERENCE[name][0]
    slope = REFERENCE[name][1]
    return (
        np.array([reference_moment(phi, *q) for q in zip(*grid(), strict=True)]),
        np.array([reference_moment(slope, *q) for q in zip(*grid(), strict=True)]),
    )


def test_reference_moment_agrees_with_dblquad() -> None:
    q11, q12, q22 = 1.2, 0.4, 0.7
    precision = np.linalg.inv([[q11, q12], [q12, q22]])
    scale = math.sqrt(np.linalg.det(precision)) / (2 * math.pi)

    def integrand(v: float, u: float) -> float:
        z = np.array([u, v])
        return scale * math.exp(-z @ precision @ z / 2) * math.tanh(u) * math.tanh(v)

    expected = scipy.integrate.dblquad(integrand, -8, 8, -7, 7, epsabs=1e-8)[0]
    assert_close(reference_moment(np.tanh, q11, q12, q22), expected, 1e-7)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.sampled(4)
def test_moments_agree_with_polar_quadrature(name: str, x64: None) -> None:
    # Measured once, up to variance 1.3; other_algorithm would be 1.5e-7.
    accuracy = {"elu": (1e-7, 2e-5)}.get(name, (1e-10, 1e-10))
    q = [jnp.asarray(a) for a in grid()]
    moment, slope = reference_moments(name)
    assert_close(dual_activation(name, *q), moment, accuracy[0])
    assert_close(dual_derivative(name, *q), slope, accuracy[1])


FAMILIES = {
    "abrelu": (ABReLU(-0.3, 1.2), lambda u: np.where(u > 0, 1.2 * u, -0.3 * u)),
    "power_2": (RectifiedPower(2), lambda u: np.maximum(u, 0) ** 2),
    "power_5": (RectifiedPower(5), lambda u: np.maximum(u, 0) ** 5),
    "monomial_3": (monomial(3), lambda u: u**3),
    "hermite_4": (hermite(4), lambda u: (u**4 - 6 * u**2 + 3) / math.sqrt(24)),
    "polynomial": (Polynomial((0.5, -1.0, 0.3)), lambda u: 0.5 - u + 0.3 * u**2),
}
SLOPES = {
    "abrelu": lambda u: np.where(u > 0, 1.2, -0.3),
    "power_2": lambda u: 2 * np.maximum(u, 0),
    "power_5": lambda u: 5 * np.maximum(u, 0) ** 4,
    "monomial_3": lambda u: 3 * u**2,
    "hermite_4": lambda u: (4 * u**3 - 12 * u) / math.sqrt(24),
    "polynomial": lambda u: -1.0 + 0.6 * u,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_agree_with_polar_quadrature(family: str, x64: None) -> None:
    activation, phi = FAMILIES[family]
    q = [jnp.asarray(a) for a in grid()]
    for dual, f in ((dual_activation, phi), (dual_derivative, SLOPES[family])):
        expected = [reference_moment(f, *entry) for entry in zip(*grid(), strict=True)]
        assert_close(dual(activation, *q), np.array(expected), 1e-10)
    u = jnp.linspace(-2, 2, 9)
    assert_close(activation(u), phi(np.asarray(u)))


def test_hermite_polynomials_are_orthonormal_and_mehler_holds(x64: None) -> None:
    rho, one = jnp.asarray([-1.0, -0.3, 0.0, 0.8, 1.0]), jnp.ones(5)
    for degree in (0, 1, 3, 6):
        assert_close(dual_activation(hermite(degree), one, rho, one), rho**degree)


@pytest.mark.parametrize("name", ["tanh", "elu", "sigmoid"])
@pytest.mark.sampled(1)
def test_error_of_series_is_within_its_bound(name: str, x64: None) -> None:
    rho = jnp.asarray([-0.99, -0.9, 0.5, 0.95, 0.999])
    q = jnp.full_like(rho, 4.0)
    moments = [reference_moment(REFERENCE[name][0], 4.0, 4.0 * r, 4.0) for r in rho]
    error = jnp.abs(dual_activation(name, q, q * rho, q) - jnp.asarray(moments))
    bound = dual_error(name, q, q * rho, q)
    assert (error <= bound + 1e-13).all()
    # and the bound says something: a few powers of ten, where there is an error
    assert (bound <= 1e-3 * jnp.abs(jnp.asarray(moments)).max()).all()
    assert_close(dual_error("relu", q, q * rho, q), jnp.zeros(5), "exact")


@pytest.mark.parametrize("name", ["relu", "softplus", "sin"])
def test_mean_agrees_with_the_trapezoidal_rule(name: str, x64: None) -> None:
    q = jnp.asarray([0.0, 0.3, 1.0, 4.0])
    nodes = np.linspace(-12, 12, 20001)
    weights = _normal_pdf(nodes) * (nodes[1] - nodes[0])
    values = REFERENCE[name][0](np.sqrt(np.asarray(q))[:, None] * nodes)
    # absolute: the mean of an odd function is 0; the rule is good to 1e-7 at a kink
    assert np.abs(dual_mean(name, q) - values @ weights).max() < 1e-6


def test_unit_scale_makes_the_second_moment_one(x64: None) -> None:
    for name in ("relu", "softplus", "exp"):
        second = unit_scale(name) ** 2 * dual_variance(name, jnp.ones(1))
        assert_close(second, jnp.ones(1), 1e-12)
    with pytest.raises(ValueError, match="`activation` cannot be scaled"):
        unit_scale(lambda u: 0 * u)


def test_derivatives_exist_at_orthogonal_arguments(x64: None) -> None:
    # Formulas branch at correlation 0: both sides must give the derivative, which is
    # that of a fitted polynomial at the end of its interval, good to some 1e-13.
    one = jnp.ones(())
    for name, expected in (("relu", 1 / 4), ("sign", 2 / math.pi)):
        slope = jax.grad(lambda q12, name=name: dual_activation(name, one, q12, one))
        assert_close(slope(jnp.zeros(())), expected, 1e-12)
    angle = jax.grad(lambda q12: dual_derivative("relu", one, q12, one))
    assert_close(angle(jnp.zeros(())), 1 / (2 * math.pi), 1e-12)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_single_precision_agrees_with_polar_quadrature(name: str) -> None:
    q = [jnp.asarray(a, jnp.float32) for a in grid()]
    for dual, moment in zip(
        (dual_activation, dual_derivative), reference_moments(name), strict=True
    ):
        assert dual(name, *q).dtype == jnp.float32
        assert_close(dual(name, *q), jnp.asarray(moment, jnp.float32), 1e-4)


def test_comparison_notices_a_wrong_constant(x64: None) -> None:
    q = [jnp.asarray(a) for a in grid()]
    moment, _ = reference_moments("leaky_relu")  # slope 0.01, here taken for 0.011
    steeper = dual_activation(lambda u: jnp.where(u > 0, u, 0.011 * u), *q)
    assert relative_error(steeper, moment) > 1e-4


@pytest.mark.parametrize("name", ["erf", "leaky_relu", "sin"])
@pytest.mark.sampled(2)
def test_series_agrees_with_closed_forms(name: str, x64: None) -> None:
    # A lambda hides the name.
    q = [jnp.asarray(a) for a in grid()]
    hidden = lambda u: ACTIVATIONS[name].fn(u)
    for dual in (dual_activation, dual_derivative):
        assert_close(dual(hidden, *q), dual(name, *q), 1e-12)


def test_named_function_uses_its_closed_form(x64: None) -> None:
    q = [jnp.asarray(a) for a in grid()]
    assert_close(dual_derivative(jax.nn.relu, *q), dual_derivative("relu", *q), "exact")


def test_relu_as_a_lambda_is_as_accurate_as_its_closed_form(x64: None) -> None:
    rho = jnp.asarray([-1.0, -0.999, -0.9, 0.0, 0.5, 0.97, 0.99, 0.999, 1.0])
    one = jnp.ones_like(rho)
    hidden = lambda u: jnp.maximum(u, 0)
    for dual in (dual_activation, dual_derivative):
        error = jnp.abs(dual(hidden, one, rho, one) - dual("relu", one, rho, one))
        assert error.max() <= 1e-14


@pytest.mark.parametrize("name", ["silu", "tanh"])
def test_accuracy_degrades_gracefully_with_variance(name: str, x64: None) -> None:
    q = 16.0
    phi = REFERENCE[name][0]
    got = dual_activation(name, *(jnp.full(1, a) for a in (q, 0.8 * q, q)))
    nodes = np.linspace(-12, 12, 1201)  # the trapezoidal rule, geometric for analytic
    weights = _normal_pdf(nodes) * (nodes[1] - nodes[0])
    u = 4 * nodes[:, None]
    v = 4 * (0.8 * nodes[:, None] + 0.6 * nodes[None, :])
    expected = weights @ (phi(u) * phi(v)) @ weights
    assert_close(got, np.array([expected]), 1e-5)


@pytest.mark.parametrize("name", ["relu", "cos", "softplus"])
def test_variance_is_the_moment_of_equal_arguments(name: str, dtype: jnp.dtype) -> None:
    q = jnp.asarray([0.0, 1e-6, 0.3, 1.0, 4.0], dtype)
    variance = dual_variance(name, q)
    assert variance.dtype == dtype
    assert_close(variance, dual_activation(name, q, q, q))


@pytest.mark.parametrize("name", ["relu", "softplus"])
def test_zero_variance_gives_the_values_at_zero(name: str, dtype: jnp.dtype) -> None:
    zero, one = jnp.zeros(1, dtype), jnp.ones(1, dtype)
    phi = ACTIVATIONS[name].fn
    expected = float(phi(jnp.zeros((), dtype))) ** 2
    assert jnp.abs(dual_activation(name, zero, zero, zero) - expected).max() < 1e-6
    for dual in (dual_activation, dual_derivative):
        assert jnp.isfinite(dual(name, zero, zero, one)).all()
        assert jnp.isfinite(dual(name, zero, zero, zero)).all()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("relu", "float32"), ("relu", "float64"), ("softplus", "float32")],
    indirect=["dtype"],
)
@pytest.mark.sampled(2)
def test_gradients_are_finite_at_equal_opposite_and_zero_arguments(
    name: str, dtype: jnp.dtype
) -> None:
    q11 = jnp.asarray([1.0, 1.0, 0.0, 0.0, 1.0], dtype)
    q12 = jnp.asarray([1.0, -1.0, 0.0, 0.0, 1.0 + 1e-6], dtype)
    q22 = jnp.asarray([1.0, 1.0, 0.0, 1.0, 1.0], dtype)
    for dual in (dual_activation, dual_derivative):
        total = lambda a, b, c, dual=dual: dual(name, a, b, c).sum()
        for gradient in jax.grad(total, argnums=(0, 1, 2))(q11, q12, q22):
            assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["relu", "softplus"])
@pytest.mark.sampled(1)
def test_gradients_agree_with_finite_differences(name: str, x64: None) -> None:
    # Central differences of step 1e-5 are good to about 1e-9.
    q = [jnp.asarray(a) for a in (0.8, 0.3, 1.1)]
    for dual in (dual_activation, dual_derivative):
        total = lambda *q, dual=dual: dual(name, *(a[None] for a in q))[0]
        gradient = jax.grad(total, argnums=(0, 1, 2))(*q)
        for i in range(3):
            up, down = list(q), list(q)
            up[i], down[i] = q[i] + 1e-5, q[i] - 1e-5
            assert_close(gradient[i], (total(*up) - total(*down)) / 2e-5, 1e-7)


def test_second_derivative_agrees_with_finite_differences(x64: None) -> None:
    name = "tanh"
    slope = jax.grad(
        lambda a: dual_activation(name, jnp.ones(1), a[None], jnp.ones(1))[0]
    )
    q12, step = jnp.asarray(0.4), 1e-5
    expected = (slope(q12 + step) - slope(q12 - step)) / (2 * step)
    assert_close(jax.grad(slope)(q12), expected, 1e-7)  # as above


def test_large_variances_of_sine_do_not_overflow() -> None:
    q = jnp.asarray([200.0], jnp.float32)
    assert_close(dual_activation("sin", q, q, q), jnp.asarray([0.5], jnp.float32))


@hypothesis.settings(derandomize=True, deadline=None, max_examples=12)
@hypothesis.given(
    name=st.sampled_from(["abs", "erf", "tanh"]), seed=st.integers(0, 2**16)
)
def test_moments_are_positive_semidefinite_and_bounded(name: str, seed: int) -> None:
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(seed), (12, 3), jnp.float64)
        q12 = x @ x.T
        q = jnp.diag(q12)
        for dual in (dual_activation, dual_derivative):
            gram = np.asarray(dual(name, q[:, None], q12, q[None, :]))
            eigenvalues = np.linalg.eigvalsh((gram + gram.T) / 2)
            assert eigenvalues[0] >= -1e-7 * eigenvalues[-1]  # kinks: sqrt(eps)
            bound = np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
            assert (np.abs(gram) <= bound * (1 + 1e-6)).all()


def test_closed_over_parameters_of_an_activation_are_traced() -> None:
    q = jnp.ones(1)
    scaled = jax.jit(lambda a: dual_variance(lambda u: a * jnp.tanh(u), q))
    assert_close(scaled(2.0), 4 * dual_variance("tanh", q))


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (lambda u: u / jnp.linalg.norm(u), "elementwise"),
        (lambda u: jnp.sum(u), "keep shape and dtype"),
        (lambda u: u.astype(jnp.float16), "keep shape and dtype"),
    ],
)
def test_functions_that_are_not_elementwise_are_refused(
    phi: Callable, message: str
) -> None:
    one = jnp.ones(1)
    with pytest.raises(ValueError, match=message):
        dual_activation(phi, one, one, one)


def test_unknown_activation_is_refused_with_the_nearest_name(own_errors: None) -> None:
    one = jnp.ones(1)
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        dual_activation("rleu", one, one, one)
