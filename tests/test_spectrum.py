"""Spectra: exact where kernels are matrices, within their errors where they are not."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import lazyjax
from lazyjax import spectrum

KEY = jax.random.key(0)


class Operator:
    """A matrix that is only multiplied with vectors, and counts how often."""

    def __init__(self, matrix):
        self.matrix = jnp.asarray(matrix)
        self.shape = self.matrix.shape
        self.dtype = self.matrix.dtype
        self.num_products = 0

    def mv(self, v):
        self.num_products += 1
        return jnp.matmul(self.matrix, v, precision="highest")


def _matrix(eigenvalues, seed=0, dtype=np.float32):
    """A matrix with these eigenvalues, and eigenvectors at random."""
    generator = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(generator.normal(size=(len(eigenvalues),) * 2))
    return ((vectors * np.asarray(eigenvalues)) @ vectors.T).astype(dtype)


# Low rank, repeated, zero, tiny, ill-conditioned.
SPECTRA = {
    "repeated": [1.0, 1, 1, 2, 2, 0],
    "rank_one": [0.0, 0, 0, 0, 0, 3],
    "multiple_of_one": [2.0] * 6,
    "one_row": [2.0],
    "decaying": list(np.logspace(-5, 0, 40)),
    "many": list(np.linspace(0.5, 3, 60)),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_a_full_lanczos_section_has_the_operators_eigenvalues(name, scale):
    eigenvalues = scale * np.sort(SPECTRA[name])
    operator = Operator(_matrix(eigenvalues))
    # More steps than rows.
    found = spectrum.density(
        operator, key=KEY, num_samples=2, num_steps=100, max_dense=0
    )
    for nodes, shares in zip(found.nodes, found.weights, strict=True):
        # Nothing outside of the spectrum, and all of the weight near eigenvalues.
        allowance = 2e-6 * eigenvalues[-1]
        distance = np.min(np.abs(np.asarray(nodes)[:, None] - eigenvalues), axis=1)
        assert np.sum(np.asarray(shares)[distance > 10 * allowance]) < 1e-5
        assert np.min(nodes) >= eigenvalues[0] - 10 * allowance
        assert np.max(nodes) <= eigenvalues[-1] + 10 * allowance
        np.testing.assert_allclose(np.sum(shares), 1, rtol=1e-5)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("as_operator", [False, True])
@pytest.mark.sampled(2)
def test_extremes_are_enclosed(name, as_operator):
    eigenvalues = np.sort(SPECTRA[name])
    matrix = _matrix(eigenvalues)
    kernel = Operator(matrix) if as_operator else matrix
    found = spectrum.extremes(kernel, key=KEY, num_steps=30, max_dense=0)
    for end, value in zip(found, eigenvalues[[0, -1]], strict=True):
        rounding = 1e-6 * eigenvalues[-1]
        assert end.lower - rounding <= value <= end.upper + rounding
        assert end.lower <= end.value + rounding
        assert end.value <= end.upper + rounding
    assert found.largest.value == pytest.approx(eigenvalues[-1], rel=1e-5)
    condition = spectrum.condition(kernel, key=KEY, num_steps=30, max_dense=0)
    true = eigenvalues[-1] / eigenvalues[0] if eigenvalues[0] > 0 else np.inf
    assert condition.lower * (1 - 1e-5) <= true <= condition.upper * (1 + 1e-5)


def test_extremes_of_few_steps_do_not_claim_more_than_they_know():
    """The largest eigenvalue is one of 2,000 and hides from three products."""
    eigenvalues = np.append(np.linspace(0.9, 1.0, 1999), 1.5)
    operator = Operator(np.diag(eigenvalues).astype(np.float32))
    for seed in range(3):
        found = spectrum.extremes(
            operator, key=jax.random.key(seed), num_steps=3, max_dense=0
        )
        assert found.largest.lower <= 1.5 <= found.largest.upper
        assert found.smallest.lower <= 0.9 <= found.smallest.upper + 1e-6
    # With enough, the interval is narrow.
    found = spectrum.extremes(operator, key=KEY, num_steps=100, max_dense=0)
    assert found.largest.upper - found.largest.lower < 5e-3
    assert found.largest.value == pytest.approx(1.5, rel=1e-6)


def test_zero_kernels_have_answers():
    for kernel in (jnp.zeros((5, 5)), Operator(jnp.zeros((5, 5)))):
        ends = spectrum.extremes(kernel, key=KEY, max_dense=0)
        assert ends.smallest.value == ends.largest.value == 0
        assert spectrum.trace(kernel, key=KEY, max_dense=0).value == 0
        assert spectrum.frobenius(kernel, key=KEY, max_dense=0).value == 0
        assert np.isnan(spectrum.effective_rank(kernel, key=KEY, max_dense=0).value)
        found = spectrum.entropy(
            kernel, key=KEY, num_samples=2, num_steps=3, max_dense=0
        )
        assert np.isnan(found.value)


def test_few_steps_on_a_multiple_of_one_claim_nothing_and_are_no_nan():
    """All Ritz values are equal, and the spectrum could be wider than what is seen."""
    for value in (0.0, 2.0):
        operator = Operator(value * jnp.eye(3000))
        ends = spectrum.extremes(operator, key=KEY, num_steps=2, max_dense=0)
        rounding = 1e-5 * value
        assert ends.smallest.lower == 0
        assert ends.smallest.upper == pytest.approx(value, abs=rounding)
        assert ends.largest.lower == pytest.approx(value, abs=rounding)
        assert ends.largest.upper == np.inf


def test_operators_are_of_one_batch_wherever_their_arrays_are():
    x = jax.random.normal(KEY, (5, 3))
    operator = lazyjax.ntk_operator(lambda w, x: x @ w, jnp.ones((3, 1)), x)
    expected = np.sum(np.asarray(x) ** 2)
    same = lazyjax.ntk_operator(operator.apply_fn, operator.params, x, jnp.array(x))
    moved = jax.device_put(operator)
    for found in (operator, same, moved):
        assert spectrum.trace(found).value == pytest.approx(expected, rel=1e-5)
    compiled = jax.jit(lambda operator: spectrum.trace(operator).value)
    assert compiled(operator) == pytest.approx(expected, rel=1e-5)


def test_matrices_are_measured_exactly():
    eigenvalues = np.array([0.0, 0.5, 0.5, 2.0, 7.0])
    matrix = _matrix(eigenvalues, dtype=np.float32)
    shares = eigenvalues[1:] / 10
    exact = {
        spectrum.trace: 10.0,
        spectrum.frobenius: np.sqrt(np.sum(eigenvalues**2)),
        spectrum.effective_rank: 100 / np.sum(eigenvalues**2),
        spectrum.entropy: -np.sum(shares * np.log(shares)),
    }
    for verb, value in exact.items():
        found = verb(matrix)
        assert found.value == pytest.approx(value, rel=2e-6)
        assert found.standard_error == 0
        assert found.interval() == (found.value, found.value)
    assert spectrum.logdet(matrix).value == -np.inf
    ridged = spectrum.logdet(matrix, ridge=0.1).value
    assert ridged == pytest.approx(np.sum(np.log(eigenvalues + 0.1)), rel=1e-5)
    cumulative = spectrum.density(matrix).cumulative(np.array([-1.0, 0.1, 1.0, 9.0]))
    np.testing.assert_allclose(cumulative.value, [0, 0.2, 0.6, 1], atol=1e-6)


def test_kernels_of_several_outputs_are_matrices_of_all():
    net = lazyjax.nets.mlp(width=32, num_outputs=2)
    x = jax.random.normal(KEY, (6, 3))
    params = net.init(KEY, x)
    kernel = lazyjax.empirical_ntk(net.apply, params, x)
    operator = lazyjax.ntk_operator(net.apply, params, x)
    expected = np.linalg.eigvalsh(lazyjax.linalg.gram_matrix(kernel))
    for given in (kernel, operator):
        np.testing.assert_allclose(spectrum.eigh(given).values, expected, atol=1e-5)
        assert spectrum.trace(given).value == pytest.approx(sum(expected), rel=1e-5)
    entropies = [spectrum.entropy(k).value for k in (kernel, operator)]
    np.testing.assert_allclose(*entropies, rtol=1e-4)
    cross = lazyjax.ntk_operator(net.apply, params, x, x[:2])
    np.testing.assert_allclose(
        cross.as_matrix(), cross @ jnp.eye(4), rtol=1e-4, atol=1e-5
    )


VERBS = {
    "trace": (spectrum.trace, lambda v: np.sum(v)),
    "frobenius": (spectrum.frobenius, lambda v: np.sqrt(np.sum(v**2))),
    "effective_rank": (
        spectrum.effective_rank,
        lambda v: np.sum(v) ** 2 / np.sum(v**2),
    ),
}


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.slow
def test_confidence_intervals_cover(name):
    """400 draws: 93 to 97 percent of the intervals hold the true number."""
    verb, exact = VERBS[name]
    eigenvalues = np.arange(1, 301) ** -0.7
    operator = Operator(_matrix(eigenvalues))
    covered = 0
    for seed in range(400):
        found = verb(operator, key=jax.random.key(seed), max_dense=0)
        low, high = found.interval(0.95)
        covered += bool(low <= exact(eigenvalues) <= high)
    assert 0.93 <= covered / 400 <= 0.97


@pytest.mark.parametrize("name", [*VERBS, "entropy", "logdet"])
@pytest.mark.sampled(2)
def test_estimates_are_within_their_errors(name):
    eigenvalues = np.arange(1, 301) ** -1.0
    matrix = _matrix(eigenvalues)
    keywords = {"ridge": 0.1} if name == "logdet" else {}
    fewer = {} if name in VERBS else {"num_samples": 6, "num_steps": 25}
    verb = getattr(spectrum, name)
    operator = Operator(matrix)
    found = verb(operator, key=KEY, max_dense=0, **keywords, **fewer)
    assert operator.num_products <= 150
    exact = verb(matrix, **keywords)
    assert exact.standard_error == 0
    assert 0 < found.standard_error < 0.2 * abs(exact.value)
    assert abs(found.value - exact.value) < 4 * found.standard_error


@pytest.mark.parametrize("n", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_a_networks_kernel_is_measured_without_being_formed(n):
    """Of 300 or 2,000 rows, beside the exact numbers."""
    net = lazyjax.nets.mlp(width=64, depth=2, num_outputs=10)
    x = jax.random.normal(KEY, (n, 16))
    operator = lazyjax.ntk_operator(net.apply, net.init(KEY, x), x)
    assert operator.shape == (10 * n, 10 * n)
    for name in VERBS:
        found = getattr(spectrum, name)(operator, key=KEY, num_samples=24, max_dense=0)
        exact = getattr(spectrum, name)(operator)
        assert found.num_samples > 0 == exact.num_samples
        assert abs(found.value - exact.value) < 4 * found.standard_error
    found = spectrum.extremes(operator, key=KEY, max_dense=0)
    exact = spectrum.extremes(operator)
    for end in ("smallest", "largest"):
        enclosure, value = getattr(found, end), getattr(exact, end).value
        assert enclosure.lower <= value <= enclosure.upper


def test_density_is_smoothed_to_one():
    found = spectrum.density(_matrix(np.linspace(1, 2, 50)))
    points = np.linspace(0, 3, 3001, dtype=np.float32)
    smoothed = found.smoothed(points, width=0.05)
    assert np.sum(smoothed.value) * 1e-3 == pytest.approx(1, rel=1e-3)
    assert np.max(smoothed.value) == pytest.approx(1, rel=0.05)


def test_center_has_an_exact_null_vector():
    kernel = _matrix(np.arange(1, 21)) + 1e3
    centred = np.asarray(spectrum.center(kernel))
    assert np.max(np.abs(np.sum(centred, axis=0))) < 1e-2
    projection = np.eye(20) - 1 / 20
    exact = projection @ kernel.astype(np.float64) @ projection
    np.testing.assert_allclose(centred, exact, atol=1e-3)


def test_alignment_is_that_of_vectors():
    first, second = _matrix(np.arange(8), 1), _matrix(np.arange(8) ** 2, 2)
    for centered in (False, True):
        a, b = (np.asarray(k, np.float64) for k in (first, second))
        if centered:
            projection = np.eye(8) - 1 / 8
            a, b = (projection @ k @ projection for k in (a, b))
        cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
        found = spectrum.alignment(first, second, centered=centered)
        assert found == pytest.approx(cosine, rel=1e-5)
    y = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
    assert spectrum.target_alignment(first, y) == pytest.approx(
        float(spectrum.alignment(first, y @ y.T)), rel=1e-5
    )
    # A mean far from zero is taken away before it covers the rest.
    moved = spectrum.target_alignment(first, y + 1000)
    assert moved == pytest.approx(float(spectrum.target_alignment(first, y)), rel=1e-2)
    assert np.isnan(spectrum.target_alignment(first, np.ones((8, 1), np.float32)))


def test_subspace_angles_are_scipys():
    first, second = _matrix(np.arange(9), 1), _matrix(np.arange(9), 2)
    spaces = [np.linalg.eigh(k.astype(np.float64))[1][:, -3:] for k in (first, second)]
    expected = scipy.linalg.subspace_angles(*spaces)[::-1]
    found = spectrum.subspace_angles(first, second, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    # Small angles keep their digits.
    turn = 1e-4
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = rotation @ np.diag([2.0, 1.0]) @ rotation.T
    found = spectrum.subspace_angles(
        jnp.diag(jnp.array([2.0, 1.0])), turned.astype(np.float32), 1
    )
    np.testing.assert_allclose(found, [turn], rtol=1e-2)


@pytest.mark.once
@pytest.mark.parametrize("shape", [(1500, 500), (800, 800), (300, 1200)])
@pytest.mark.sampled(2)
def test_gaussian_matrices_have_the_marchenko_pastur_bulk(shape):
    matrix = 0.3 * np.random.default_rng(0).normal(size=shape)
    found = spectrum.weights({"w": matrix})["w"]
    larger, smaller = max(shape), min(shape)
    assert found.variance == pytest.approx(0.09, rel=0.02)
    high = 0.09 * (1 + np.sqrt(smaller / larger)) ** 2
    assert found.edges[1] == pytest.approx(high, rel=0.02)
    assert found.eigenvalues[-1] == pytest.approx(found.edges[1], rel=0.03)
    if smaller < larger:
        low = 0.09 * (1 - np.sqrt(smaller / larger)) ** 2
        assert found.edges[0] == pytest.approx(low, rel=0.02)
    assert found.num_spikes == 0
    points = np.linspace(found.edges[0], found.edges[1], 20001)[1:]
    mass = np.mean(found.bulk_density(points)) * (found.edges[1] - found.edges[0])
    assert mass == pytest.approx(1, rel=0.03)
    median = np.median(found.eigenvalues)
    below = np.where(points <= median, found.bulk_density(points), 0)
    assert np.mean(below) * (found.edges[1] - found.edges[0]) == pytest.approx(
        0.5, abs=0.02
    )


@pytest.mark.once
def test_spikes_beyond_the_bulk_are_counted():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(600, 300))
    left, right = (np.linalg.qr(generator.normal(size=(s, 2)))[0] for s in (600, 300))
    found = spectrum.weights({"w": noise + 90 * left @ right.T})["w"]
    assert found.num_spikes == 2
    assert found.edges[1] == pytest.approx((1 + 0.5**0.5) ** 2, rel=0.03)
    values = np.linalg.svd(noise + 90 * left @ right.T, compute_uv=False)
    assert found.stable_rank == pytest.approx(np.sum(values**2) / values[0] ** 2)


@pytest.mark.once
@pytest.mark.parametrize("exponent", [1.8, 2.5, 3.5])
@pytest.mark.sampled(1)
def test_exponents_of_pareto_samples_are_recovered(exponent):
    sample = 1 + np.random.default_rng(1).pareto(exponent - 1, size=3000)
    found = spectrum.power_law(sample, num_bootstrap=20)
    assert found.exponent == pytest.approx(exponent, abs=0.2)
    assert abs(found.exponent - exponent) < 4 * found.bootstrap_error
    assert found.standard_error == pytest.approx(
        (found.exponent - 1) / np.sqrt(found.num_tail)
    )
    # The distance is Kolmogorov and Smirnov's.
    tail = sample[sample >= found.start]
    expected = scipy.stats.kstest(
        tail, lambda v: 1 - (v / found.start) ** (1 - found.exponent)
    )
    assert found.distance == pytest.approx(expected.statistic, rel=1e-9)


@pytest.mark.once
@pytest.mark.parametrize("mu", [1.0, 1.5])
@pytest.mark.sampled(1)
def test_exponents_of_heavy_tailed_matrices_are_recovered(mu):
    """Entries with tails mu below 2 give eigenvalues the density exponent 1 + mu / 2."""
    generator = np.random.default_rng(0)
    shape = 1200, 600
    matrix = (1 + generator.pareto(mu, shape)) * generator.choice([-1, 1], shape)
    tail = spectrum.weights({"w": matrix})["w"].tail
    assert tail.exponent == pytest.approx(1 + mu / 2, abs=0.2)


@pytest.mark.once
def test_the_body_of_a_sample_is_not_its_tail():
    generator = np.random.default_rng(0)
    body = generator.uniform(0.1, 5, size=2000)
    tail = 5 * (1 + generator.pareto(1.5, size=1000))
    found = spectrum.power_law(np.concatenate([body, tail]))
    assert found.exponent == pytest.approx(2.5, abs=0.2)
    assert 4 < found.start < 7


@pytest.mark.once
@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 9, [0.0, -1.0]])
def test_samples_without_a_tail_have_no_exponent(values):
    found = spectrum.power_law(np.array(values), num_bootstrap=3)
    assert np.isnan(found.exponent)
    assert found.num_tail == 0


@pytest.mark.once
def test_weights_of_any_size_have_spectra():
    params = {
        "bias": np.ones(3),
        "column": np.ones((4, 1)),
        "one": np.full((1, 1), 2.0),
        "zero": np.zeros((3, 2)),
        "kernel": np.random.default_rng(0).normal(size=(3, 3, 4, 8)),
    }
    found = spectrum.weights(params)
    assert found.keys() == {"column", "one", "zero", "kernel"}
    assert found["column"].eigenvalues.tolist() == [1.0]
    assert found["one"].stable_rank == 1
    assert np.isnan(found["zero"].stable_rank)
    assert found["zero"].num_spikes == 0
    assert found["kernel"].aspect == 8 / 36
    assert "float64[8]" in repr(found["kernel"])


def test_results_can_be_kept(tmp_path):
    for result in (
        spectrum.density(_matrix([1.0, 2.0])),
        spectrum.trace(_matrix([1.0, 2.0])),
        spectrum.condition(_matrix([1.0, 2.0])),
        spectrum.weights({"w": np.eye(3) + 1})["w"],
    ):
        path = result.save(tmp_path / "result.npz")
        loaded = type(result).load(path)
        jax.tree.map(np.testing.assert_array_equal, loaded.to_dict(), result.to_dict())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: spectrum.trace(cast("Any", [[1.0]])),
            TypeError,
            "`kernel` must be an array, a store",
        ),
        (lambda: spectrum.trace(jnp.ones((2, 3))), ValueError, "must be square"),
        (lambda: spectrum.trace(jnp.triu(jnp.ones((2, 2)))), ValueError, "symmetric"),
        *(
            (lambda verb=verb: verb(-jnp.eye(2)), ValueError, "semidefinite")
            for verb in (
                spectrum.eigh,
                spectrum.extremes,
                spectrum.condition,
                spectrum.density,
                spectrum.entropy,
                spectrum.logdet,
            )
        ),
        (
            lambda: spectrum.extremes(Operator(-jnp.eye(3)), key=KEY, max_dense=2),
            ValueError,
            "semidefinite",
        ),
        (
            lambda: spectrum.density(Operator(-jnp.eye(3)), key=KEY, max_dense=2),
            ValueError,
            "semidefinite",
        ),
        (
            lambda: spectrum.trace(
                lazyjax.ntk_operator(
                    lambda w, x: x @ w, jnp.ones((2, 1)), jnp.eye(2), jnp.ones((2, 2))
                )
            ),
            ValueError,
            "of one batch with itself",
        ),
        (lambda: spectrum.trace(jnp.ones((0, 0))), ValueError, "not empty"),
        (lambda: spectrum.trace(jnp.ones((2, 2), int)), TypeError, "`kernel`"),
        (lambda: spectrum.eigh(jnp.full((2, 2), jnp.nan)), ValueError, "finite"),
        (
            lambda: spectrum.trace(Operator(jnp.eye(3)), max_dense=2),
            ValueError,
            "`key` is needed to estimate: `kernel` is an operator of 3 rows",
        ),
        (
            lambda: spectrum.eigh(Operator(jnp.eye(3)), max_dense=2),
            ValueError,
            "more than `max_dense`, 2",
        ),
        (
            lambda: spectrum.logdet(Operator(jnp.eye(3)), key=KEY, max_dense=2),
            ValueError,
            "`ridge` must be positive",
        ),
        (lambda: spectrum.logdet(jnp.eye(3), ridge=-1.0), ValueError, "`ridge`"),
        (
            lambda: spectrum.extremes(jnp.eye(3), confidence=1.0),
            ValueError,
            "`confidence` must be between 0 and 1",
        ),
        (
            lambda: spectrum.alignment(jnp.eye(3), jnp.eye(2)),
            ValueError,
            "same examples",
        ),
        (
            lambda: spectrum.target_alignment(jnp.eye(3), jnp.ones((2, 1))),
            ValueError,
            "`y` must have shape",
        ),
        (
            lambda: spectrum.subspace_angles(jnp.eye(3), jnp.eye(3), 4),
            ValueError,
            "at most the number of examples, 3",
        ),
        (
            lambda: spectrum.weights({"w": jnp.full((2, 2), jnp.inf)}),
            ValueError,
            "params/w",
        ),
        (
            lambda: spectrum.density(jnp.eye(2)).smoothed(jnp.ones(1), width=0.0),
            ValueError,
            "`width`",
        ),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
