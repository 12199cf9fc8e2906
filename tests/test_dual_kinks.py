"""Gaussian moments of functions with kinks and jumps, wherever these are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from lazyjax.activations import unit_scale
from lazyjax.activations.breakpoints import breaks, marks
from lazyjax.infinite.duals.dual import (
    dual_activation,
    dual_derivative,
    dual_disagreement,
    dual_error,
    dual_mean,
    dual_variance,
)
from lazyjax.infinite.duals.piecewise import piecewise
from lazyjax.infinite.duals.truncated_powers import truncated_moments
from tests.helpers.compare import assert_close
from tests.helpers.piecewise import Pieces, exact_moment, random_pieces

pytestmark = pytest.mark.once

HARD_TANH = Pieces((-1.0, 1.0), ((-1, 0, 0), (0, 1, 0), (1, 0, 0)))
STEP = Pieces((0.5,), ((0, 0, 0), (1, 0, 0)))
QUADRATICS = Pieces((-0.7, 0.4), ((0.2, 0, 0.1), (1, -0.5, 0.3), (0, 0.3, -0.2)))

# Functions as users write them, and as pieces.
FUNCTIONS: dict[str, tuple[Callable, Pieces]] = {
    "hard_tanh": (jax.nn.hard_tanh, HARD_TANH),
    "step": (lambda u: (u > 0.5).astype(u.dtype), STEP),
    "quadratics": (QUADRATICS, QUADRATICS),
    "relu6": (jax.nn.relu6, Pieces((0.0, 6.0), ((0, 0, 0), (0, 1, 0), (6, 0, 0)))),
    "shifted_relu": (
        lambda u: jax.nn.relu(u + 0.5),
        Pieces((-0.5,), ((0, 0, 0), (0.5, 1, 0))),
    ),
    "leaky": (
        lambda u: jnp.where(u > -0.8, u, 0.3 * u - 0.56),
        Pieces((-0.8,), ((-0.56, 0.3, 0), (0, 1, 0))),
    ),
    "hard_sigmoid": (
        jax.nn.hard_sigmoid,
        Pieces((-3.0, 3.0), ((0, 0, 0), (0.5, 1 / 6, 0), (1, 0, 0))),
    ),
    "hard_silu": (
        jax.nn.hard_silu,
        Pieces((-3.0, 3.0), ((0, 0, 0), (0, 0.5, 1 / 6), (0, 1, 0))),
    ),
    "clip": (
        lambda u: jnp.clip(u, -2, 0.3),
        Pieces((-2.0, 0.3), ((-2, 0, 0), (0, 1, 0), (0.3, 0, 0))),
    ),
    "abs": (lambda u: jnp.abs(u - 1), Pieces((1.0,), ((1, -1, 0), (-1, 1, 0)))),
    "box": (
        lambda u: jnp.where(jnp.abs(u - 1) < 1e-3, 1.0, 0.0).astype(u.dtype),
        Pieces((0.999, 1.001), ((0, 0, 0), (1, 0, 0), (0, 0, 0))),
    ),
    "rounded": (
        lambda u: jnp.round(jnp.clip(u, -1, 1) * 2) / 2,
        Pieces(
            (-0.75, -0.25, 0.25, 0.75),
            tuple((c, 0.0, 0.0) for c in (-1.0, -0.5, 0.0, 0.5, 1.0)),
        ),
    ),
    "soft_threshold": (
        lambda u: jnp.sign(u) * jnp.maximum(jnp.abs(u) - 0.4, 0),
        Pieces((-0.4, 0.4), ((0.4, 1, 0), (0, 0, 0), (-0.4, 1, 0))),
    ),
    "table": (
        lambda u: jnp.interp(
            u, jnp.asarray([-1.0, 0.5, 2.0], u.dtype), jnp.asarray([0, 3, 0], u.dtype)
        ),
        Pieces((-1.0, 0.5, 2.0), ((0, 0, 0), (2, 2, 0), (4, -2, 0), (0, 0, 0))),
    ),
}


def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances small, large and different; correlations up to 1 and -1."""
    rho = [1, -1, 0, 0.5, 0.9, -0.95, 0.99, 0.999, -0.9999, 1 - 1e-8, 0.7, 0.6, 1, 0.98]
    q11 = [1.3, 1, 1, 1.3, 1, 0.6, 1, 2, 1, 1, 1e-4, 1e4, 100, 1]
    q22 = [1.3, 1, 1, 1.3, 2, 1.5, 1, 2, 1, 1, 1, 1e4, 100, 1.2]
    rho, q11, q22 = (np.array(a, float) for a in (rho, q11, q22))
    return q11, rho * np.sqrt(q11 * q22), q22


def assert_moments_are_exact(fn: Callable, pieces: Pieces, derivative: bool) -> None:
    dual = dual_derivative if derivative else dual_activation
    pieces = pieces.slope if derivative else pieces
    q = grid()
    got = np.asarray(dual(fn, *map(jnp.asarray, q)))
    for value, *entry in zip(got, *q, strict=True):
        scale = np.sqrt(
            exact_moment(pieces, entry[0], entry[0], entry[0])
            * exact_moment(pieces, entry[2], entry[2], entry[2])
        )
        # of which correlations of 1 - 1e-8 lose half, by cancellation in their sine
        assert abs(value - exact_moment(pieces, *entry)) <= 1e-10 * scale + 1e-30, entry


def normal_of(covariance: list[list[float]]) -> Any:
    return scipy.stats.multivariate_normal(cov=covariance)  # pyright: ignore[reportArgumentType]


def test_only_powers_that_jump_somewhere_are_used() -> None:
    dtype = jnp.dtype(jnp.float32)
    used = [piecewise(fn, dtype).used_powers for fn in (STEP, HARD_TANH, QUADRATICS)]
    assert used == [(0,), (1,), (0, 1, 2)]


def test_oracle_agrees_with_bivariate_normal_probabilities() -> None:
    for q11, q12, q22 in ((1.3, 0.65, 1.3), (1.0, -0.8, 2.0)):
        # P(u > c, v > c) = P(-u < -c, -v < -c)
        normal = normal_of([[q11, q12], [q12, q22]])
        expected = normal.cdf(np.array([-0.5, -0.5]))
        assert abs(exact_moment(STEP, q11, q12, q22) - expected) < 1e-7


@pytest.mark.parametrize(
    ("h", "k", "rho"), [(0.0, 0.0, 0.3), (0.4, 1.1, 0.99), (1.0, 0.2, -0.7)]
)
def test_moments_of_truncated_powers_are_normal_probabilities(
    h: float, k: float, rho: float, x64: None
) -> None:
    moments = truncated_moments(*map(jnp.asarray, (h, k, rho)))
    normal = normal_of([[1, rho], [rho, 1]])
    assert abs(moments[0][0] - normal.cdf(np.array([-h, -k]))) < 1e-7
    for i, step in enumerate(1e-5 * np.eye(3)):  # derivatives, by differences
        shift = [jnp.asarray(v) for v in step]
        _, change = jax.jvp(
            truncated_moments,
            tuple(map(jnp.asarray, (h + 1e-3, k + 1e-3, rho))),
            tuple(v / 1e-5 for v in shift),
        )
        up, down = (
            truncated_moments(
                *(
                    jnp.asarray(v) + s * d
                    for v, d in zip((h + 1e-3, k + 1e-3, rho), shift, strict=True)
                )
            )
            for s in (1, -1)
        )
        for p in range(3):
            for q in range(3):
                expected = (up[p][q] - down[p][q]) / 2e-5
                assert abs(change[p][q] - expected) < 1e-6, (i, p, q)


def test_moments_of_hard_tanh_and_step_have_their_known_values(x64: None) -> None:
    q = jnp.asarray([1.3, 1.3])
    got = dual_derivative(jax.nn.hard_tanh, q, jnp.asarray([0.65, 1.3]), q)
    assert np.abs(got - np.array([0.41548, 0.61954])).max() < 1e-5
    step = FUNCTIONS["step"][0]
    got = dual_activation(step, q[:1], q[:1] / 2, q[:1])
    assert abs(got[0] - 0.18059) < 1e-5


QUICK = ("hard_tanh", "step")


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FUNCTIONS],
)
@pytest.mark.sampled(1)
def test_moments_are_exact(name: str, derivative: bool, x64: None) -> None:
    assert_moments_are_exact(*FUNCTIONS[name], derivative)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.sampled(7)
def test_kinks_and_jumps_are_found(name: str, dtype: jnp.dtype) -> None:
    fn, pieces = FUNCTIONS[name]
    found = np.array(breaks(fn, dtype))
    for edge in pieces.edges:
        error = np.abs(found - edge).min()
        assert error <= 4 * float(jnp.finfo(dtype).eps) * max(1, abs(edge))


def test_kinks_are_found_where_no_grid_sees_them(x64: None) -> None:
    narrow = lambda u: jnp.where((u - 3) ** 2 < 1e-12, 1.0, 0.0)
    assert np.allclose(breaks(narrow, jnp.dtype(float)), [3 - 1e-6, 3 + 1e-6], 0, 1e-12)
    bump = lambda u: jnp.exp(-((u - 3) ** 2) * 1e6)
    assert breaks(bump, jnp.dtype(float)) == ()
    assert np.abs(np.array(marks(bump, jnp.dtype(float))) - 3).min() < 1e-9
    assert breaks(jnp.tanh, jnp.dtype(float)) == ()


@pytest.mark.parametrize("fn", [jnp.floor, lambda u: jnp.sign(jnp.sin(5 * u))])
def test_too_many_jumps_are_refused(fn: Callable) -> None:
    one = jnp.ones(1)
    with pytest.raises(ValueError, match="at most 32 kinks and jumps"):
        dual_activation(fn, one, one, one)


def test_kinks_at_traced_places_are_refused_and_other_traced_values_are_not() -> None:
    q = jnp.ones(1)

    def variance(fn: Callable, a: float) -> jax.Array:
        return jax.jit(lambda a: dual_variance(lambda u: fn(u, a), q))(a)

    with pytest.raises(ValueError, match="depend on traced values"):
        variance(lambda u, a: jnp.maximum(u, a), 1.0)
    assert_close(variance(lambda u, a: a * jnp.maximum(u, 0), 3.0), jnp.full(1, 4.5))


def test_derivative_of_a_step_is_that_of_jax(x64: None) -> None:
    # Almost everywhere 0, as gradients of finite networks are.
    q = jnp.ones(1)
    assert dual_derivative(FUNCTIONS["step"][0], q, q / 2, q) == 0


def test_variance_and_mean_are_exact(x64: None) -> None:
    q = jnp.asarray([1e-4, 0.5, 1.3, 100.0])
    fn, pieces = FUNCTIONS["clip"]
    expected = [exact_moment(pieces, *([float(v)] * 3)) for v in q]
    assert_close(dual_variance(fn, q), np.array(expected), 1e-12)
    means = [pieces.mean(np.zeros(1), float(v) ** 0.5)[0] for v in q]
    assert_close(dual_mean(fn, q), np.array(means), 1e-12)
    scale = 1 / np.sqrt(exact_moment(pieces, 1.0, 1.0, 1.0))
    assert abs(unit_scale(fn) - scale) < 1e-12


@pytest.mark.slow
def test_derivatives_in_covariances_agree_with_differences(x64: None) -> None:
    fn = jax.nn.hard_tanh
    for dual in (dual_activation, dual_derivative):
        total = lambda q, dual=dual: dual(fn, *(a[None] for a in q))[0]
        q = jnp.asarray([0.8, 0.3, 1.1])
        gradient = jax.grad(total)(q)
        for i in range(3):
            step = 1e-5 * jnp.eye(3)[i]
            expected = (total(q + step) - total(q - step)) / 2e-5
            assert abs(gradient[i] - expected) < 1e-8
        for ends in ([1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 1.0]):
            assert jnp.isfinite(jax.grad(total)(jnp.asarray(ends))).all()


def test_single_precision_is_kept_and_accurate() -> None:
    q = [jnp.asarray(a, jnp.float32) for a in (1.3, 0.65, 1.3)]
    fn, pieces = FUNCTIONS["hard_tanh"]
    for dual, of in ((dual_activation, pieces), (dual_derivative, pieces.slope)):
        got = dual(fn, *q)
        assert got.dtype == jnp.float32
        assert abs(got - exact_moment(of, 1.3, 0.65, 1.3)) < 3e-6


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=pytest.mark.slow) for s in range(30)]
)
def test_errors_are_not_far_above_their_estimate(seed: int, x64: None) -> None:
    pieces = random_pieces(seed)
    q11, q12, q22 = (
        np.array(a) for a in ((1.0, 0.5, 4.0), (0.9, 0.2, -3.9), (1.0, 2.0, 4.0))
    )
    q = [jnp.asarray(a) for a in (q11, q12, q22)]
    exact = [exact_moment(pieces, *e) for e in zip(q11, q12, q22, strict=True)]
    got, bound = dual_activation(pieces, *q), dual_error(pieces, *q)
    scale = np.abs(exact).max()
    assert (np.abs(got - np.array(exact)) <= 10 * bound + 1e-13 * scale).all()
    assert (bound <= 1e-6 * scale).all()  # and it says something


def generic_moment(
    fn: Callable[[np.ndarray], np.ndarray], q: tuple[float, float, float], at: float
) -> float:
    """E[f(u) f(v)] of one function with one break, by rules split there and doubled."""
    q11, q12, q22 = q
    nodes, weights = np.polynomial.legendre.leggauss(24)

    def rule(place: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = np.sort(np.concatenate([np.clip(place, -12, 12), steps], -1), -1)
        half = np.diff(ends)[..., None] / 2
        g = (ends[..., :-1, None] + half) + half * nodes
        w = half * weights * np.exp(-(g**2) / 2) / np.sqrt(2 * np.pi)
        return g.reshape(*place.shape[:-1], -1), w.reshape(*place.shape[:-1], -1)

    rho = q12 / np.sqrt(q11 * q22)
    sine = np.sqrt((1 - rho) * (1 + rho))
    # The inner mean is steep where the break of v passes through its own Gaussian.
    steep = (at / np.sqrt(q22) + sine * np.arange(-8.0, 9.0)) / rho
    outer = np.concatenate([[at / np.sqrt(q11)], steep])
    g, w = rule(outer, np.linspace(-12, 12, 97))
    places = ((at / np.sqrt(q22) - rho * g) / sine)[:, None]
    h, v = rule(places, np.broadcast_to(np.linspace(-12, 12, 49), (g.size, 49)))
    inner = np.sum(v * fn(np.sqrt(q22) * (rho * g[:, None] + sine * h)), 1)
    return float(np.sum(w * fn(np.sqrt(q11) * g) * inner))


GENERIC: dict[str, Callable] = {
    "tanh": lambda xp, u, c: xp.where(u > c, xp.tanh(u), 0 * u),
    "bump_and_wave": lambda xp, u, c: xp.where(u > c, xp.exp(-(u**2)), xp.sin(u)),
    "kink": lambda xp, u, c: xp.where(
        u > c, xp.cos(u - c), xp.exp(xp.minimum(u, c) - c)
    ),
    "root": lambda xp, u, c: xp.where(u > c, xp.sqrt(1 + u**2), xp.arctan(u)),
    "logistic": lambda xp, u, c: xp.where(
        u > c, 0.5 + 0.5 * xp.tanh(u / 2), xp.cos(2 * u)
    ),
}
PLACES = (0.37, -1.21, 2.05, 0.0)


@pytest.mark.parametrize(
    ("name", "c"),
    [
        pytest.param(
            name, c, marks=[] if (name, c) == ("tanh", 0.37) else pytest.mark.slow
        )
        for name in GENERIC
        for c in PLACES
    ],
)
@pytest.mark.slow
def test_errors_of_generic_pieces_are_not_far_above_their_estimate(
    name: str, c: float, x64: None
) -> None:
    fn = lambda u: GENERIC[name](jnp, u, c)
    entries = [
        (s * s, rho * s * t, t * t)
        for s, t in ((1.0, 1.0), (0.3, 2.0), (4.0, 4.0))
        for rho in (0.5, -0.9, 0.97, 0.999)
    ]
    exact = np.array(
        [generic_moment(lambda u: GENERIC[name](np, u, c), e, c) for e in entries]
    )
    q = [jnp.asarray(a) for a in np.array(entries).T]
    got, bound = np.asarray(dual_activation(fn, *q)), np.asarray(dual_error(fn, *q))
    scale = np.abs(exact).max()
    is_known = np.isfinite(got)
    # The oracle's own rules agree to 1e-12.
    allowed = 10 * bound + 1e-11 * scale
    assert (np.abs(got - exact) <= allowed)[is_known].all()
    assert is_known[:-1].all()
    assert (bound[~is_known] > 1e-3 * scale).all()
    assert (bound[is_known] <= 2e-2 * scale).all()
    # It is no bound for a function that is larger by a thousandth.
    other = np.asarray(dual_activation(lambda u: 1.001 * fn(u), *q))
    assert not (np.abs(other - exact) <= allowed)[is_known].all()


@pytest.mark.parametrize("name", ["elu", "selu"])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.sampled(1)
def test_large_deviations_do_not_lose_accuracy(
    name: str, single: bool, x64: None
) -> None:
    dtype = jnp.float32 if single else jnp.float64
    alpha, scale = (
        (1.0, 1.0) if name == "elu" else (1.6732632423543772, 1.0507009873554805)
    )
    s = np.array([1.0, 4.0, 16.0, 100.0])
    q = jnp.asarray(s * s, dtype)
    below = scipy.special.erfcx(np.sqrt(2) * s) / 2  # E[exp(2 u)] below 0
    exact = scale**2 * (0.5 + alpha**2 * below)  # E[f'(u)^2]
    got = np.asarray(dual_derivative(getattr(jax.nn, name), q, q, q))
    assert (np.abs(got / exact - 1) < (3e-4 if single else 1e-6)).all()


SMOOTH_BUT_FAST = {
    "wave": lambda u: jnp.sin(200 * u),
    "bump": lambda u: jnp.exp(-((u - 3) ** 2) * 1e6),
    "steep": lambda u: jnp.tanh(1e4 * (u - 1)),
    "growth": lambda u: jnp.exp(8 * u),
    "singular_slope": lambda u: jnp.sqrt(jnp.abs(u)),
}


@pytest.mark.parametrize("name", SMOOTH_BUT_FAST)
@pytest.mark.sampled(2)
def test_what_is_not_resolved_is_told(name: str, x64: None) -> None:
    with_slope = name in ("singular_slope", "steep")
    error = dual_disagreement(SMOOTH_BUT_FAST[name], jnp.ones(1), with_slope)
    assert error > 0.01
