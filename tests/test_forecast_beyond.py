"""Forecasts beyond a sample, over seeds, and of kernels that are not arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import lazyjax
from lazyjax import forecast, plot
from lazyjax.forecast import modes
from lazyjax.forecast.power_laws import power_laws
from lazyjax.infinite.predict import Grams, trained_ensemble

pytestmark = pytest.mark.once

NUM_FEATURES = 10_000
VALUES = np.arange(1.0, NUM_FEATURES + 1) ** -1.5
POWERS = np.arange(1.0, NUM_FEATURES + 1) ** -2.5
POWERS /= np.sum(POWERS)


def gaussian_design(num_examples, seed, noise_sq=0.0):
    """A kernel of Gaussian features with the eigenvalues above, and targets."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(num_examples, NUM_FEATURES))
    signs = generator.choice([-1.0, 1.0], NUM_FEATURES)
    y = features @ (np.sqrt(POWERS) * signs)[:, None]
    y += np.sqrt(noise_sq) * generator.normal(size=y.shape)
    return features * VALUES @ features.T, y


def known_error(size, ridge=0.0, noise_sq=0.0):
    """The error of regression, from the known spectrum."""

    def excess(log_kappa):
        kappa = np.exp(log_kappa)
        return np.sum(VALUES / (VALUES + kappa)) + ridge / kappa - size

    root: Any = brentq(excess, -50, 20)
    kappa = np.exp(root)
    learned = VALUES / (VALUES + kappa)
    unlearned = np.sum((1 - learned) ** 2 * POWERS) + noise_sq
    return size / (size - np.sum(learned**2)) * unlearned


def ratios(sizes, num_examples, seeds, ridge=0.0, noise_sq=0.0):
    """Forecasts over what is known, and the last curve."""
    truth = np.array([known_error(size, ridge, noise_sq) for size in sizes])
    found, curve = [], None
    for seed in seeds:
        kernel, y = gaussian_design(num_examples, seed, noise_sq)
        curve = forecast.learning_curve(
            kernel, y, sizes=sizes, ridge=ridge, extrapolate=True
        )
        found.append(curve.test_error[:, 0] / truth)
    assert curve is not None
    return np.array(found), curve


def test_a_ridge_shows_larger_sizes_than_the_sample():
    sizes = [200, 400, 800]
    found, curve = ratios(sizes, 100, range(6), ridge=30.0, noise_sq=0.05)
    assert curve.is_extrapolated == (False,) * 3
    np.testing.assert_allclose(np.mean(found, axis=0), 1, atol=0.12)
    # What is measured at such sizes is what is known.
    kernel, y = gaussian_design(600, 50, 0.05)
    section = kernel[:400, :400] + 30.0 * np.eye(400)
    outputs = kernel[400:, :400] @ np.linalg.solve(section, y[:400])
    measured = np.mean((outputs - y[400:]) ** 2)
    assert measured == pytest.approx(known_error(400, 30.0, 0.05), rel=0.2)
    # Without it they are not shown: a sample of as many examples is.
    kernel, y = gaussian_design(100, 0)
    with pytest.raises(ValueError, match="below the number of examples, 100"):
        forecast.learning_curve(kernel, y, sizes=[200])
    last = 100 + 30.0 * np.trace(np.linalg.inv(kernel))
    allowed, refused = int(last), int(last) + 2
    forecast.learning_curve(kernel, y, sizes=[allowed], ridge=30.0)
    with pytest.raises(ValueError, match=f"`sizes` must be below {last:.0f}"):
        forecast.learning_curve(kernel, y, sizes=[refused], ridge=30.0)


def test_curves_go_on_as_they_fall():
    sizes = [400, 800, 1600]
    found, curve = ratios([100, *sizes], 200, (0, 1, 2, 4))
    assert curve.is_extrapolated == (False, True, True, True)
    np.testing.assert_allclose(np.mean(found, axis=0), 1, atol=0.25)
    # That the error stays what it was would be far off, and so would be half the power.
    assert known_error(100) / known_error(1600) > 10
    np.testing.assert_array_equal(curve.train_error, 0)
    np.testing.assert_allclose(curve.learned, [100, *sizes])
    # The effective ridge falls like the power of the eigenvalues.
    slope = np.log(curve.kappa[3] / curve.kappa[1]) / np.log(4)
    assert slope == pytest.approx(-1.5, abs=0.2)
    # This sample looks as if there were a floor, and would be ten times off.
    with pytest.raises(ValueError, match=r"with and without one differ 5\.5 fold"):
        ratios([1600], 200, (3,))


def test_noise_is_a_floor():
    found, _ = ratios([800], 200, (1, 3, 4, 5), noise_sq=0.05)
    assert np.mean(found) == pytest.approx(1, abs=0.2)
    # A power without a floor would go on falling.
    sizes = np.geomspace(25, 180, 12)
    errors = np.array([known_error(size, noise_sq=0.01) for size in sizes])
    slope, level = np.polyfit(np.log(sizes), np.log(errors), 1)
    plain = np.exp(level + slope * np.log(1600))
    (law,) = power_laws(sizes, errors)
    assert plain < 0.6 * known_error(1600, noise_sq=0.01)
    assert law.at(np.array([1600.0]))[0] == pytest.approx(
        known_error(1600, noise_sq=0.01), rel=0.2
    )


def test_added_noise_is_that_of_the_targets():
    kernel, y = gaussian_design(60, 0)
    quiet, noisy = (
        forecast.learning_curve(
            kernel, y, sizes=[30, 120], noise_sq=noise_sq, extrapolate=True
        )
        for noise_sq in (0.0, 0.5)
    )
    more = noisy.test_error[:, 0] - quiet.test_error[:, 0]
    np.testing.assert_allclose(more, 0.5 * quiet.overfitting)


def test_laws_are_found_exactly():
    sizes = np.array([10.0, 20, 40, 80])
    (plain,) = power_laws(sizes, 3.0 * sizes**-0.7)
    assert plain.floor == 0
    np.testing.assert_allclose(plain.at(np.array([640.0])), 3 * 640**-0.7)
    errors = 1 + 30.0 * sizes**-1.5
    (floored,) = power_laws(sizes, errors)
    assert floored.floor == pytest.approx(1, abs=0.02)
    assert floored.exponent == pytest.approx(1.5, abs=0.1)
    assert floored.misfit < 0.002
    (rising,) = power_laws(sizes, np.array([1.0, 2.0, 3.0, 4.0]))
    assert rising.exponent == 0
    assert rising.misfit > 0.3
    assert power_laws(sizes, np.zeros(4))[0].at(np.array([5.0])) == 0
    assert power_laws(sizes, np.array([1.0, 1.0, 0.0, 0.0]))[0].misfit == np.inf


def test_errors_that_follow_no_law_are_not_continued():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(100, 60))
    y = features[:, :1] + generator.normal(size=(100, 1))
    kernel = features @ features.T
    # A peak at the rank, with and without a small tail.
    for tail in (0.0, 1e-5):
        with pytest.raises(ValueError, match="`extrapolate` needs"):
            forecast.learning_curve(
                kernel + tail * np.eye(100), y, sizes=[200], extrapolate=True
            )
    # With far fewer features than examples, all are seen, and nothing is guessed.
    few = features[:, :20] @ features[:, :20].T
    curve = forecast.learning_curve(few, y, sizes=[1000])
    assert curve.is_extrapolated == (False,)
    weights = np.linalg.lstsq(features[:, :20], y, rcond=None)[0]
    residual = np.sum((features[:, :20] @ weights - y) ** 2) / 80
    # Of Gaussian features, by the textbook: sigma^2 (n - 1) / (n - p - 1).
    assert curve.test_error[0, 0] == pytest.approx(residual * 999 / 979, rel=0.1)
    with pytest.raises(ValueError, match="at most 8 times"):
        forecast.learning_curve(np.eye(9), y[:9], sizes=[73], extrapolate=True)
    with pytest.raises(ValueError, match="at least"):
        forecast.learning_curve(np.eye(2), y[:2], sizes=[3], extrapolate=True)


def seeded_problem(num_examples=150):
    """Digits, targets, and the limits of a network's kernels."""
    data = lazyjax.data.digits(num_examples, num_test=0)
    x = data.x_train * 8
    y = np.asarray(data.y_train, np.float64)[:, :2] - 0.1
    architecture = lazyjax.Architecture(depth=1, w_std=2**0.5, b_std=0.1)
    ntk, nngp = (
        np.asarray(verb(architecture, x), np.float64)
        for verb in (lazyjax.infinite_ntk, lazyjax.infinite_nngp)
    )
    return x, y, architecture, ntk, nngp


def split(kernel, chosen, rest):
    return Grams(
        train=kernel[np.ix_(chosen, chosen)],
        cross=kernel[np.ix_(rest, chosen)],
        test=kernel[np.ix_(rest, rest)],
    )


def test_variance_over_seeds_is_that_of_ensembles(x64):
    _, y, _, ntk, nngp = seeded_problem()
    curve = forecast.learning_curve(ntk, y, sizes=[20, 60, 110], nngp=nngp)
    assert curve.seed_variance is not None
    generator = np.random.default_rng(0)
    for i, size in enumerate(curve.sizes):
        variances, errors = [], []
        for _ in range(12):
            order = generator.permutation(150)
            chosen, rest = order[:size], order[size:]
            found = trained_ensemble(
                split(nngp, chosen, rest), split(ntk, chosen, rest), y[chosen]
            )
            variances.append(np.mean(found.variance))
            errors.append(np.mean((np.asarray(found.mean) - y[rest]) ** 2, axis=0))
        assert curve.seed_variance[i] == pytest.approx(np.mean(variances), rel=0.1)
        np.testing.assert_allclose(
            curve.network_error[i],
            np.mean(errors, axis=0) + np.mean(variances),
            rtol=0.1,
        )
    # The variance at the start is another number: training takes most of it away.
    assert curve.seed_variance[-1] < 0.3 * np.mean(np.diag(nngp))


def test_variance_over_seeds_is_that_of_wide_networks():
    """Each of its own kernel, trained by linearized flow on several training sets."""
    x, y, architecture, ntk, nngp = seeded_problem()
    network = lazyjax.nets.build(architecture, width=1024)
    size, y = 60, y[:, :1]
    curve = forecast.learning_curve(ntk, y, sizes=[size], nngp=nngp)
    targets = jnp.asarray(y, x.dtype)
    generator = np.random.default_rng(0)
    orders = [generator.permutation(150) for _ in range(4)]

    @jax.jit
    def outputs_of(key):
        params = network.init(key, x)
        kernel = lazyjax.empirical_ntk(network.apply, params, x, outputs="trace")
        f0 = network.apply(params, x)
        outputs = []
        for order in orders:
            chosen, rest = order[:size], order[size:]
            linear = lazyjax.linear_dynamics(
                kernel[np.ix_(chosen, chosen)], targets[chosen], f0[chosen]
            )
            outputs.append(
                linear.gradient_flow(
                    jnp.inf,
                    ntk_test_train=kernel[np.ix_(rest, chosen)],
                    f0_test=f0[rest],
                )
            )
        return jnp.stack(outputs)

    outputs = np.stack([outputs_of(jax.random.key(seed)) for seed in range(40)])
    variance = np.mean(np.var(outputs, axis=0, ddof=1))
    assert curve.seed_variance is not None
    assert curve.seed_variance[0] == pytest.approx(variance, rel=0.12)
    error = np.mean((outputs - np.stack([y[order[size:]] for order in orders])) ** 2)
    assert curve.network_error[0, 0] == pytest.approx(error, rel=0.12)
    # Without it, the error of single networks would be missed by as much as it is.
    assert curve.test_error[0, 0] < 0.6 * error


def test_variance_goes_on_beyond_the_sample(x64):
    _, y, _, ntk, nngp = seeded_problem(500)
    sizes, part = [200, 400], np.arange(100)
    known = forecast.learning_curve(ntk, y, sizes=sizes, nngp=nngp).seed_variance
    guess = forecast.learning_curve(
        ntk[np.ix_(part, part)],
        y[part],
        sizes=sizes,
        nngp=nngp[np.ix_(part, part)],
        extrapolate=True,
    ).seed_variance
    assert guess is not None
    assert known is not None
    np.testing.assert_allclose(guess, known, rtol=0.2)
    assert known[1] < 0.8 * known[0]


@pytest.fixture(scope="module")
def of_one_output(tmp_path_factory):
    """The kernel of a network as an array, a store and an operator, and targets."""
    pytest.importorskip("tensorstore")
    net = lazyjax.nets.mlp(width=16, activation="tanh", b_std=0.3)
    x = jax.random.normal(jax.random.key(0), (15, 3))
    params = net.init(jax.random.key(1), x)
    store = lazyjax.gram(
        (net.apply, params),
        np.asarray(x),
        path=tmp_path_factory.mktemp("gram") / "ntk",
        tile=4,
        progress=False,
    )
    return (
        lazyjax.empirical_ntk(net.apply, params, x),
        store,
        lazyjax.ntk_operator(net.apply, params, x),
        np.asarray(jnp.sin(x[:, :2])),
    )


@pytest.mark.parametrize("kind", [1, 2], ids=["store", "operator"])
def test_kernels_on_disk_and_operators_are_those_of_the_array(of_one_output, kind):
    array, y = of_one_output[0], of_one_output[-1]

    def numbers(kernel):
        curve = forecast.learning_curve(kernel, y, sizes=[3, 9], nngp=kernel)
        stop = forecast.early_stopping(kernel, y, num_times=20)
        ridge, _ = forecast.optimal_ridge(kernel, y, size=5)
        return [
            curve.test_error,
            curve.seed_variance,
            forecast.learnabilities(kernel, size=5),
            forecast.training_time(kernel, y, target=0.1),
            stop.test_errors,
            ridge,
        ]

    found = numbers(of_one_output[kind])
    for one, other in zip(found, numbers(array), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_kernels_that_forecasts_are_not_made_of_are_refused(of_one_output, monkeypatch):
    _, store, operator, y = of_one_output
    monkeypatch.setattr(modes, "MAX_ROWS", 14)
    for kernel in (store, operator):
        with pytest.raises(ValueError, match=r"`kernel` must have at most 14 rows"):
            forecast.learning_curve(kernel, y, sizes=[3])
        with pytest.raises(ValueError, match=r"`nngp` must have at most 14 rows"):
            forecast.learning_curve(np.eye(15), y, sizes=[3], nngp=kernel)
    net = lazyjax.nets.mlp(width=4, num_outputs=2)
    x = jnp.ones((3, 2))
    several = lazyjax.ntk_operator(net.apply, net.init(jax.random.key(0), x), x)
    with pytest.raises(ValueError, match="`kernel` must have one output"):
        forecast.learnabilities(several, size=1)
    with pytest.raises(ValueError, match="`nngp` must be of the 15 examples"):
        forecast.learning_curve(np.eye(15), y, sizes=[3], nngp=np.eye(14))
    with pytest.raises(ValueError, match="`nngp` must be given"):
        _ = forecast.learning_curve(np.eye(15), y, sizes=[3]).network_error


def test_curves_over_seeds_can_be_kept(tmp_path):
    y = np.ones((9, 1))
    curve = forecast.learning_curve(
        np.eye(9), y, sizes=[2, 30], nngp=np.eye(9), extrapolate=True
    )
    loaded = forecast.LearningCurve.load(curve.save(tmp_path / "curve.npz"))
    assert loaded.is_extrapolated == (False, True)
    np.testing.assert_array_equal(loaded.network_error, curve.network_error)
    # Nothing is learned of this kernel: not of targets, nor of the start.
    np.testing.assert_allclose(curve.network_error, 2)
    axes = plot.learning_curve(plot.figure().subplots(), curve)
    np.testing.assert_allclose(np.asarray(axes.lines[1].get_ydata()), 2)
