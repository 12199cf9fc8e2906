"""What is zero in a kernel, and solving with it: against float64 of the same numbers."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from sklearn.datasets import load_digits

from lazyjax import linear_dynamics
from lazyjax.infinite.predict import (
    GaussianPrediction,
    Grams,
    log_marginal_likelihood,
    posterior,
    trained_ensemble,
)
from lazyjax.linalg import SingularKernelWarning, factorized
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

EPS = float(np.finfo(np.float32).eps)


def orthogonal(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def of_condition(kind: str, size: int, condition: float) -> np.ndarray:
    """A matrix of about this condition, in float64."""
    rng = np.random.default_rng(size)
    if kind == "constant and diagonal":
        return np.ones((size, size)) + size / condition * np.eye(size)
    if kind == "laplace":
        x = rng.normal(size=(size, 3))
        gram = np.exp(-np.linalg.norm(x[:, None] - x[None], axis=-1))
        low, *_, high = np.linalg.eigvalsh(gram)
        return gram + (high - condition * low) / (condition - 1) * np.eye(size)
    values = {
        "logarithmic": np.logspace(-np.log10(condition), 0, size),
        "two levels": np.where(np.arange(size) < size // 2, 1 / condition, 1.0),
        "one small": np.where(np.arange(size) < 1, 1 / condition, 1.0),
    }[kind]
    q = orthogonal(size, rng)
    return (q * values) @ q.T


KINDS = [
    "logarithmic",
    "two levels",
    "one small",
    "constant and diagonal",
    "laplace",
]


def single(matrix: np.ndarray) -> np.ndarray:
    return ((matrix + matrix.T) / 2).astype(np.float32)


def check_error(kind: str, size: int, condition: float) -> None:
    """Solutions and predictions within 10 eps condition of those in float64.

    Euclidean norms: of solutions relative to the solution; of predictions on rows that
    were left out, relative to the norm of their kernel times that of the solution.
    """
    num_test = size // 5
    matrix = single(of_condition(kind, size + num_test, condition))
    train, cross = matrix[:size, :size], matrix[size:, :size]
    grams = Grams(train=train, cross=cross, test=matrix[size:, size:])
    wide, wide_cross = train.astype(np.float64), cross.astype(np.float64)
    low, *_, high = np.linalg.eigvalsh(wide)
    condition = high / low if low > 0 else math.inf
    rng = np.random.default_rng(1)
    noise, smooth = rng.normal(size=(2, size))
    y = np.stack([noise, train @ smooth / size], axis=1).astype(np.float32)
    exact = np.linalg.solve(wide, y.astype(np.float64))
    prediction = wide_cross @ exact
    size_of_cross = np.linalg.norm(wide_cross, 2)

    bayesian, trained = posterior(grams, y), trained_ensemble(grams, grams, y)
    flow = linear_dynamics(train, y, 0 * y)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", SingularKernelWarning)
        limit = flow.gradient_flow(
            np.inf, ntk_test_train=cross, f0_test=0 * y[:num_test]
        )
        dual = flow.gradient_flow_dual(np.inf)
    tolerance = 10 * EPS * condition
    for mean in (bayesian.mean, trained.mean, limit):
        error = np.linalg.norm(mean - prediction, axis=0)
        scale = size_of_cross * np.linalg.norm(exact, axis=0)
        assert (error <= tolerance * scale).all(), (error / scale / EPS, condition)
    solution = jax.jit(lambda a, b: factorized(a).solve(b))(train, y)
    solutions = [solution]
    # Weights lack what eigenvectors cannot tell from 0; where that is much, it is said.
    if not any(w.category is SingularKernelWarning for w in warned):
        solutions.append(dual)
    else:
        assert flow.rank < size
    for found in solutions:
        error = np.linalg.norm(found - exact, axis=0)
        assert (error <= tolerance * np.linalg.norm(exact, axis=0)).all()
    if condition < 4e6:
        assert bayesian.num_dropped == trained.num_dropped == 0
        assert 0.5 * condition <= bayesian.condition <= 1.3 * condition
    # Eigenvectors are less accurate, most of all beside a large constant.
    if condition < (5e4 if kind == "constant and diagonal" else 5e5):
        assert flow.rank == size
        assert relative_error(flow.condition, condition) < 0.5


CONDITIONS = [1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("condition", [1e2, 1e5, 1e6, 1e8])
@pytest.mark.sampled(2)
def test_single_precision_errs_by_ten_eps_condition(kind, condition):
    if kind == "two levels" and condition == 1e8:
        pytest.skip("rounding of the entries makes it indefinite")
    with warnings.catch_warnings():
        if condition > 4e6:
            warnings.simplefilter("ignore", SingularKernelWarning)
        check_error(kind, 200, condition)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 4000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_large_matrices_in_single_precision_err_by_no_more(kind, condition, size):
    if kind == "two levels" and condition >= 1e7:
        pytest.skip("rounding of the entries makes it indefinite")
    with warnings.catch_warnings():
        if condition > 4e6:
            warnings.simplefilter("ignore", SingularKernelWarning)
        check_error(kind, size, condition)


def test_a_cutoff_that_grows_with_the_number_of_rows_would_fail(monkeypatch):
    matrix = single(of_condition("logarithmic", 200, 1e5))
    y = np.random.default_rng(0).normal(size=(200, 1)).astype(np.float32)
    exact = np.linalg.solve(matrix.astype(np.float64), y)
    tolerance = 10 * EPS * 1e5
    assert relative_error(factorized(matrix).solve(y), exact) < tolerance / 10
    monkeypatch.setattr("lazyjax.linalg.eigen.ALLOWANCE", 200)
    monkeypatch.setattr("lazyjax.linalg.factor.ALLOWANCE", 200)
    assert factorized(matrix).num_dropped > 10
    assert relative_error(factorized(matrix).solve(y), exact) > tolerance


# --- singular matrices ---------------------------------------------------------------


def singular(kind: str, size: int, dtype: jnp.dtype) -> tuple[np.ndarray, int]:
    """A matrix made of numbers of `dtype`, and how many of its eigenvalues are zero."""
    rng = np.random.default_rng(size)
    half = size // 2
    if kind == "projection":
        q = orthogonal(size, rng)[:, :half]
        return (q @ q.T).astype(dtype), size - half
    if kind == "repeated twice":
        x = rng.normal(size=(half, 2 * size)).repeat(2, axis=0)
        return (x.astype(dtype) @ x.T.astype(dtype)), half
    if kind == "one repeated":
        x = rng.normal(size=(size, 2 * size))
        x[-1] = x[0]
        return (x.astype(dtype) @ x.T.astype(dtype)), 1
    if kind == "zero":
        return np.zeros((size, size), dtype), size
    if kind == "rank but one":  # a Gaussian factor would be nearly singular by itself
        q, values = orthogonal(size, rng), np.linspace(1, 2, size)
        values[0] = 0
        return ((q * values) @ q.T).astype(dtype), 1
    rank = {"rank 3": 3, "rank half": half}[kind]
    x = rng.normal(size=(size, rank)).astype(dtype)
    return x @ x.T, size - rank


SINGULAR = [
    "projection",
    "repeated twice",
    "one repeated",
    "zero",
    "rank 3",
    "rank half",
    "rank but one",
]


def check_nullity(kind: str, size: int, dtype: jnp.dtype) -> None:
    matrix, nullity = singular(kind, size, dtype)
    found = jax.jit(factorized)(matrix)
    assert found.num_dropped == nullity
    assert np.isposinf(found.condition)
    y = np.ones((size, 1), dtype)
    assert linear_dynamics(matrix, y, 0 * y).rank == size - nullity
    # Nothing is made of nothing: solutions stay as small as those of the rest.
    right = np.random.default_rng(0).normal(size=(size, 1)).astype(dtype)
    values = np.linalg.eigvalsh(matrix.astype(np.float64))[nullity:]
    if values.size:
        bound = 1.1 * np.linalg.norm(right) / values[0]
        assert np.linalg.norm(found.solve(right)) <= bound


@pytest.mark.parametrize("kind", SINGULAR)
@pytest.mark.sampled(2)
def test_singular_matrices_are_recognized(kind, dtype):
    check_nullity(kind, 60, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SINGULAR)
@pytest.mark.parametrize("size", [10, 400, 3000])
def test_large_singular_matrices_are_recognized(kind, size, dtype):
    check_nullity(kind, size, dtype)


def repeated(dtype: jnp.dtype) -> tuple[Grams, np.ndarray, np.ndarray]:
    """A kernel of 20 inputs, the last twice, its test inputs, and those inputs' map."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(25, 30))
    x[20] = x[19]
    gram = (x @ x.T / 30).astype(dtype)
    merge = np.zeros((21, 20))
    merge[np.arange(20), np.arange(20)] = merge[20, 19] = 1
    grams = Grams(train=gram[:21, :21], cross=gram[21:, :21], test=gram[21:, 21:])
    return grams, rng.normal(size=(20, 2)), merge


@pytest.mark.parametrize("gap", [0.0, 1.0])
@pytest.mark.sampled(1)
def test_repeated_inputs_are_fitted_by_least_squares(dtype, gap):
    grams, targets, merge = repeated(dtype)
    y = merge @ targets
    y[19], y[20] = y[19] - gap / 2, y[20] + gap / 2
    share = gap**2 / np.square(y).sum()  # (gap / 2)**2, of two rows and two outputs
    y = y.astype(dtype)
    train = np.asarray(grams.train, np.float64)[:20, :20]
    cross = np.asarray(grams.cross, np.float64)[:, :20]
    exact = (cross @ np.linalg.solve(train, targets)).astype(dtype)
    flow = linear_dynamics(grams.train, y, 0 * y)
    test = {"ntk_test_train": grams.cross, "f0_test": np.zeros((4, 2), dtype)}

    def predict(y: np.ndarray) -> tuple[GaussianPrediction, GaussianPrediction]:
        return posterior(grams, y), trained_ensemble(grams, grams, y)

    if gap == 0:
        eager, limit = predict(y), flow.gradient_flow(np.inf, **test)
        log_marginal_likelihood(grams.train, y)
    else:
        with pytest.warns(SingularKernelWarning, match="1 of its directions") as seen:
            eager = predict(y)
        assert len(seen) == 2
        with pytest.warns(SingularKernelWarning, match=f"{share:.2g} of the targets"):
            limit = flow.gradient_flow(np.array([1.0, np.inf]), **test)[1]
        with pytest.warns(SingularKernelWarning, match="`nngp_train` is singular"):
            log_marginal_likelihood(grams.train, y)
    # Under `jit` without a warning, as at finite times and with a ridge.
    compiled = jax.jit(predict)(y)
    jax.jit(lambda: flow.gradient_flow(np.inf))()
    flow.gradient_flow(1e3)
    flow.gradient_flow(np.inf, ridge=0.1)
    trained_ensemble(grams, grams, y, time=1e3)
    posterior(grams, y, noise_sq=0.1)

    for found in (*eager, *compiled):
        assert found.num_dropped == 1
        assert abs(found.dropped_share - share) < 1e-5
        assert_close(found.mean, exact, "other_algorithm")
    assert flow.rank == 20
    assert abs(flow.dropped_share - share) < 1e-5
    assert_close(limit, exact, "other_algorithm")


# --- derivatives, batches and scales -------------------------------------------------


def regular_problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(9, 9))
    gram = features @ features.T / 9 + 0.1 * np.eye(9)
    return gram[:6, :6], gram[6:, :6], rng.normal(size=(6, 2))


def mean_at(train, cross, y, noise_sq):
    grams = Grams(train=train, cross=cross, test=jnp.eye(3, dtype=cross.dtype))
    return posterior(grams, y, noise_sq=noise_sq).mean


@pytest.mark.parametrize("is_singular", [False, True])
@pytest.mark.sampled(1)
def test_derivatives_are_those_of_the_formulas(x64, is_singular):
    train, cross, y = regular_problem()
    direction, d_y = np.random.default_rng(4).normal(size=(2, 6, 6))
    direction, d_y = direction + direction.T, d_y[:, :2]
    if is_singular:  # congruences leave the rank as it is
        train[5], train[:, 5] = train[4], train[:, 4]
        train[5, 5] = train[4, 4]
        y[5] = y[4]
        turn = np.random.default_rng(5).normal(size=(6, 6)) / 5
        along = lambda t: (np.eye(6) + t * turn) @ train @ (np.eye(6) + t * turn).T
        direction = turn @ train + train @ turn.T
    else:
        along = lambda t: train + t * direction

    def exact(t: float) -> np.ndarray:
        return cross @ np.linalg.pinv(along(t), 1e-12) @ (y + t * d_y)

    h = 1e-5
    numeric = (exact(h) - exact(-h)) / (2 * h)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularKernelWarning)
        _, tangent = jax.jvp(
            lambda k, y: mean_at(k, cross, y, 0.0), (train, y), (direction, d_y)
        )
        weights = np.random.default_rng(6).normal(size=(3, 2))
        objective = lambda k, y: jnp.sum(weights * mean_at(k, cross, y, 0.0))
        gradients = jax.grad(objective, argnums=(0, 1))(train, y)
        compiled = jax.jit(jax.grad(objective, argnums=(0, 1)))(train, y)
    assert_close(tangent, numeric, 1e-7)  # as central differences allow
    by_gradients = np.sum(gradients[0] * direction) + np.sum(gradients[1] * d_y)
    assert_close(by_gradients, np.sum(weights * numeric), 1e-7)
    for eager, traced in zip(gradients, compiled, strict=True):
        assert_close(traced, eager, 1e-10)


def test_likelihood_has_its_first_and_second_derivatives_in_the_noise(x64):
    train, _, y = regular_problem()
    value = lambda s: log_marginal_likelihood(train, y, noise_sq=s)
    inverse = np.linalg.inv(train + 0.3 * np.eye(6))
    solution = inverse @ y
    first = (np.sum(solution**2) - 2 * np.trace(inverse)) / 2
    second = -np.sum(solution * (inverse @ solution)) + np.trace(inverse @ inverse)
    assert_close(jax.grad(value)(0.3), first, 1e-11)
    assert_close(jax.jit(jax.hessian(value))(0.3), second, 1e-11)
    # In the kernel: (a a' - k K^-1) / 2, a = K^-1 y.
    by_kernel = jax.grad(lambda k: log_marginal_likelihood(k, y, noise_sq=0.3))(train)
    assert_close(by_kernel, (solution @ solution.T - 2 * inverse) / 2, 1e-11)


def test_condition_has_its_derivative(x64):
    train, cross, y = regular_problem()
    d = np.diag(np.linspace(0.0, 1.0, 6))
    condition = lambda t: (
        posterior(Grams(train=train + t * d, cross=cross, test=np.eye(3)), y).condition
    )
    numeric = (
        np.linalg.cond(train + 1e-6 * d) - np.linalg.cond(train - 1e-6 * d)
    ) / 2e-6
    assert_close(jax.grad(condition)(0.0), numeric, 1e-2)  # an estimate, as its value


def test_batches_of_regular_and_singular_kernels_equal_a_loop(x64):
    regular, cross, y = regular_problem()
    repeated = regular.copy()
    repeated[5], repeated[:, 5] = repeated[4], repeated[:, 4]
    repeated[5, 5] = repeated[4, 4]
    zero, identity = np.zeros((6, 6)), np.eye(6)  # eigenvalues that coincide
    kernels = np.stack([regular, repeated, zero, identity])

    def evaluate(train):
        def objective(train):
            grams = Grams(train=train, cross=cross, test=jnp.eye(3))
            return posterior(grams, y).mean.sum()

        grams = Grams(train=train, cross=cross, test=jnp.eye(3))
        found = posterior(grams, y)
        shares = found.num_dropped, found.dropped_share, found.condition
        return found.mean, found.covariance, shares[:2], jax.grad(objective)(train)

    together = jax.vmap(evaluate)(kernels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularKernelWarning)
        for index, kernel in enumerate(kernels):
            alone = jax.tree.leaves(evaluate(kernel))
            for actual, expected in zip(jax.tree.leaves(together), alone, strict=True):
                assert_close(actual[index], expected, 1e-9)
    assert together[2][0].tolist() == [0, 1, 6, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("kind", ["logarithmic", "one repeated"])
def test_the_scale_of_a_kernel_does_not_matter(kind, scale):
    scale = np.float32(scale)
    if kind == "logarithmic":
        matrix, nullity = single(of_condition(kind, 30, 1e3)), 0
    else:
        matrix, nullity = singular(kind, 30, np.dtype(np.float32))
    y = (matrix @ np.random.default_rng(0).normal(size=(30, 2))).astype(np.float32)
    grams = [Grams(train=s * matrix, cross=s * matrix[:5], test=s * matrix[:5, :5])
             for s in (np.float32(1), scale)]  # fmt: skip
    plain, scaled = (posterior(g, y) for g in grams)
    assert scaled.num_dropped == plain.num_dropped == nullity
    assert_close(scaled.mean, plain.mean, 1e-3)
    # At training inputs it is zero, but for rounding.
    error = np.abs(scaled.covariance / scale - plain.covariance).max()
    assert error < 1e-3 * np.abs(matrix).max()
    flow = linear_dynamics(scale * matrix, y, 0 * y)
    assert flow.rank == 30 - nullity
    assert_close(flow.gradient_flow(np.inf), y, 1e-5)


# --- real data -----------------------------------------------------------------------


def relu_ntk(x: np.ndarray) -> np.ndarray:
    """Tangent kernel of three hidden ReLU layers of variances 2 and 0.01, written out."""
    nngp = 2 * x @ x.T / x.shape[1] + 0.01
    ntk = nngp.copy()
    for _ in range(3):
        std = np.sqrt(np.diag(nngp))
        angle = np.arccos(np.clip(nngp / np.outer(std, std), -1, 1))
        derivative = (np.pi - angle) / np.pi
        product = np.sin(angle) + (np.pi - angle) * np.cos(angle)
        nngp = np.outer(std, std) * product / np.pi + 0.01
        ntk = ntk * derivative + nngp
    return ntk


@pytest.mark.slow
def test_digits_are_learned_in_single_precision_as_in_double():
    x, labels = map(np.asarray, load_digits(return_X_y=True))
    num_train, num_test = 1400, 397
    ntk = relu_ntk(x / 16).astype(np.float32)
    y = np.eye(10, dtype=np.float32)[labels[:num_train]]
    train, cross = ntk[:num_train, :num_train], ntk[num_train:, :num_train]
    grams = Grams(train=train, cross=cross, test=ntk[num_train:, num_train:])
    factor = scipy.linalg.cho_factor(train.astype(np.float64))
    exact = cross @ scipy.linalg.cho_solve(factor, y.astype(np.float64))
    flow = linear_dynamics(train, y, 0 * y)
    f0_test = np.zeros((num_test, 10), np.float32)
    limit = flow.gradient_flow(np.inf, ntk_test_train=cross, f0_test=f0_test)
    for found in (posterior(grams, y), trained_ensemble(grams, grams, y)):
        assert found.num_dropped == 0
        assert relative_error(found.mean, exact) < 1e-3
        assert 1e4 < found.condition < 3e4
    assert flow.rank == num_train
    assert relative_error(limit, exact) < 1e-2
    assert relative_error(flow.gradient_flow(np.inf), y) < 1e-5
