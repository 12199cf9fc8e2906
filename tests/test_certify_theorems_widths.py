"""What theorems on wide networks assume and ask for, and what they say along a run."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.certify import measured
from lazyjax.certify.widths import (
    allen_zhu2019,
    arora2019,
    chatterjee2022,
    du2019,
    du2019b,
    zou2018,
)
from lazyjax.certify.widths.requirement import num_parameters
from lazyjax.certify.widths.separation import separation
from lazyjax.data import digits, sphere
from lazyjax.dynamics import losses
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once


def unit_rows(n, d, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def arc_cosine(x):
    rho = np.clip(x @ x.T, -1, 1)
    np.fill_diagonal(rho, 1)
    return rho * (np.pi - np.arccos(rho)) / (2 * np.pi)


# Separation


@pytest.mark.parametrize("seed", range(3))
def test_separation_agrees_with_a_loop_over_pairs(seed):
    rng = np.random.default_rng(seed)
    x, label = rng.standard_normal((12, 3)), rng.integers(3, size=12)
    distance, of_classes, angle = np.inf, np.inf, np.inf
    for i in range(12):
        for j in range(i):
            gap = np.linalg.norm(x[i] - x[j])
            distance = min(distance, gap)
            if label[i] != label[j]:
                of_classes = min(of_classes, gap)
            cosine = x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
            angle = min(angle, math.acos(abs(cosine)))
    found = separation(x, np.eye(3)[label])
    assert_close(found.distance, distance)
    assert_close(found.class_distance, of_classes)
    assert_close(found.angle, angle, 1e-7)
    i, j = found.closest_classes
    assert label[i] != label[j]
    assert_close(found.norm_error, np.max(np.abs(np.linalg.norm(x, axis=1) - 1)))


def failing(found):
    checks = found.unit_norm, found.not_parallel, found.separated
    checks = (*checks, found.classes_separated)
    return {check.name for check in checks if check.holds is not True}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("change", "labels", "fails"),
    [
        (lambda x: x, [1, -1, 1, -1], set()),
        (lambda x: x * 1.01, [1, -1, 1, -1], {"unit norm"}),
        (lambda x: np.vstack([x[:3], -x[:1]]), [1, -1, 1, -1], {"not parallel"}),
        (
            lambda x: np.vstack([x[:3], x[:1]]),
            [1, -1, 1, 1],
            {"not parallel", "separated"},
        ),
        (
            lambda x: np.vstack([x[:3], x[:1]]),
            [1, -1, 1, -1],
            {"not parallel", "separated", "classes separated"},
        ),
        (
            lambda x: np.vstack([x[:3], 0 * x[:1]]),
            [1, 1, 1, 1],
            {"unit norm", "not parallel"},
        ),
    ],
)
def test_each_assumption_fails_where_it_should(dtype, change, labels, fails):
    x = change(unit_rows(4, 5)).astype(dtype)
    y = np.asarray(labels, dtype)[:, None]
    assert failing(separation(x, y)) == fails


def test_one_input_and_one_class_are_separated():
    found = separation(np.array([[1.0, 0.0]]), np.array([[1.0]]))
    assert failing(found) == set()
    assert found.distance == found.class_distance == np.inf


def test_blocks_of_rows_do_not_change_the_outcome(monkeypatch):
    x = unit_rows(30, 4)
    whole = separation(x)
    module = sys.modules["lazyjax.certify.widths.separation"]
    monkeypatch.setattr(module, "_BLOCK", 7 * 30)
    assert separation(x) == whole


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 2)), None, "`x`"),
        (np.array([[np.nan]]), None, "`x` must be finite"),
        (np.ones((2, 2)), np.ones((3, 1)), "`y` must have shape"),
    ],
)
def test_separation_refuses_bad_data_by_name(own_errors, x, y, message):
    with pytest.raises(ValueError, match=message):
        separation(x, y)


# Du et al. (2019)


def test_derived_widths_have_the_constants_of_their_derivation(x64):
    n, failure = 4, 0.3
    required = du2019.required_widths(jnp.eye(n), failure=failure)
    third, eig_min = failure / 3, 0.5
    assert_close(required.start, 8 * n**2 * np.log(2 * n**2 / failure) / eig_min**2)
    # 244 n^6 / (lambda_0^4 delta^3) for targets of 1, a third of the failure each.
    assert_close(required.flow, 244.46 * n**6 / (eig_min**4 * third**3), 1e-4)
    assert_close(required.descent, 16 * required.flow)
    assert_close(required.learning_rate, eig_min / (2 * n**2))


def test_larger_targets_need_more_width(x64):
    x, n = jnp.eye(4), 4
    small, large = (
        du2019.required_widths(x, scale * jnp.ones((4, 1))).flow for scale in (1.0, 3.0)
    )
    assert_close(large / small, (n / 2 + 9 * n) / (n / 2 + n))


def test_units_near_their_kink_are_as_few_as_the_derivation_says():
    """E |S_i| <= 2 R m / sqrt(2 pi), and nearly that for small R."""
    radius, width = 0.05, 200_000
    near = np.abs(np.random.default_rng(0).standard_normal(width)) <= radius
    bound = 2 * radius * width / math.sqrt(2 * math.pi)
    sem = math.sqrt(bound)
    assert bound - 5 * sem <= near.sum() <= bound + 5 * sem


def test_requirements_of_du2019_are_ordered_and_tell_what_fails(x64):
    found = du2019.requirements(unit_rows(10, 20))
    widths = np.array([needed.width for needed in found], np.float64)
    literal, start, start_eig_min, flow, descent = widths
    assert start_eig_min < start < flow < descent
    assert literal > 1e8
    assert [needed.is_explicit for needed in found] == [False, True, True, True, True]
    assert all(needed.applies for needed in found)
    parallel = np.vstack([unit_rows(3, 5), -unit_rows(3, 5)[:1]])
    assert not any(needed.applies for needed in du2019.requirements(parallel))


def test_smallest_eigenvalue_at_infinite_width_is_as_known_for_random_inputs():
    """Means over random unit inputs, n = 20; those known are of few draws themselves."""
    for num_features, known in ((10, 0.118), (100, 0.346)):
        found, plain = [], []
        for seed in range(8):
            x = unit_rows(20, num_features, seed)
            found.append(arora2019.complexity(x, np.ones((20, 1))).eig_min)
            plain.append(np.linalg.eigvalsh(arc_cosine(x))[0])
        assert_close(found, plain, 1e-9)
        assert abs(np.mean(found) - known) < 0.15 * known


# Du et al. (2019b)


def test_residual_kernel_of_du2019b_has_its_known_value():
    x = np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
    spec = du2019b.architecture("resnet", depth=3, residual_scale=0.5)
    kernel = du2019b.last_hidden_kernel(x, spec)
    assert_close(kernel[0, 1], 0.008965, 1e-4)
    (needed,) = du2019b.requirements(x, spec)
    eig_min = np.linalg.eigvalsh(kernel)[0]
    assert_close(needed.max_learning_rate, eig_min * 9 / 4, 1e-6)
    assert needed.applies


def test_convolutional_kernel_of_du2019b_needs_images():
    x = unit_rows(3, 8).reshape(3, 4, 2)
    spec = du2019b.architecture("conv_resnet", depth=2)
    kernel = du2019b.last_hidden_kernel(x, spec)
    assert np.linalg.eigvalsh(kernel)[0] > 0
    (needed,) = du2019b.requirements(x, spec)
    assert "poly(pixels)" in needed.formula


def test_kinked_activations_are_not_those_of_du2019b():
    (needed,) = du2019b.requirements(np.eye(2), du2019b.architecture(activation="relu"))
    assert needed.applies is False
    names = [a.name for a in needed.assumptions if a.holds is False]
    assert "smooth activation" in names
    assert needed.width is None


@pytest.mark.parametrize(
    ("activation", "holds"),
    [
        ("softplus", True),
        ("cos", True),
        ("relu", False),
        ("identity", False),
        ("exp", None),  # its derivatives are not bounded
        (lambda u: u, None),  # nothing is known of what has no record
    ],
)
@pytest.mark.sampled(2)
def test_smooth_activations_of_du2019b(activation, holds):
    spec = du2019b.architecture(depth=1, activation=activation)
    (needed,) = du2019b.requirements(np.eye(2), spec)
    found = [a.holds for a in needed.assumptions if a.name == "smooth activation"]
    assert found == [holds]


def test_equal_inputs_need_infinite_width():
    (needed,) = du2019b.requirements(np.ones((2, 1)), du2019b.architecture(depth=1))
    assert needed.applies is False
    assert needed.width is not None
    assert needed.width > 1e50


# Arora et al. (2019)


def test_complexity_agrees_with_an_explicit_inverse():
    x = unit_rows(8, 12)
    y = np.random.default_rng(1).standard_normal((8, 2))
    inverse = np.linalg.inv(arc_cosine(x))
    found = arora2019.complexity(x, y)
    expected = [np.sqrt(2 * y[:, a] @ inverse @ y[:, a] / 8) for a in range(2)]
    assert_close(found.value, expected, 1e-6)
    assert_close(found.random, np.sqrt(2 * np.trace(inverse) / 8), 1e-6)


def test_smooth_labels_of_digits_are_simpler_than_random_ones():
    with jax.enable_x64(True):
        data = digits(60, num_test=0, classes="parity")
    x, parity = np.asarray(data.x_train), np.asarray(data.y_train)
    rng = np.random.default_rng(0)
    beta = rng.standard_normal(64)
    linear = (x @ beta / np.linalg.norm(beta))[:, None]
    signs = rng.choice([-1.0, 1.0], (60, 3))
    found = arora2019.complexity(x, np.hstack([parity, linear, signs]))
    of_parity, of_linear, *of_random = found.value
    assert of_linear < of_parity < min(of_random)
    # y = beta . x has y^T H^-1 y <= (3 |beta|)^2 in the paper (from memory).
    assert of_linear <= 3 * np.sqrt(2 / 60)
    # The root mean square over random signs is as stated.
    many = arora2019.complexity(x, rng.choice([-1.0, 1.0], (60, 400)))
    mean = np.mean(many.value**2)
    sem = np.std(many.value**2) / 20
    assert abs(mean - found.random**2) < 5 * sem < 0.25 * mean


def test_complexity_of_equal_inputs_is_refused():
    x = np.vstack([unit_rows(3, 4), unit_rows(3, 4)[:1]])
    found = arora2019.complexity(x, np.ones((4, 1)))
    assert not found.is_reliable
    assert np.isnan(found.value).all()
    assert found.is_vacuous
    assert "condition number" in found.explain()


# Allen-Zhu et al. (2019)


def test_gradient_ratio_of_a_linear_model_is_twice_its_eigenvalues(x64):
    x = jnp.diag(jnp.array([1.0, 2.0]))
    y = jnp.array([[1.0], [2.0]])
    found = measured.allen_zhu2019.measure(
        lambda w, x: x @ w,
        jnp.zeros((2, 1)),
        x,
        y,
        learning_rate=0.05,
        num_steps=20,
        observe_at=[0, 5, 20],
    )
    w, expected, remainder = np.zeros(2), [], []
    for step in range(21):
        r = np.diag([1.0, 2.0]) @ w - [1, 2]
        g = np.diag([1.0, 2.0]) @ r
        if step in (0, 5, 20):
            expected.append(g @ g / (r @ r / 2))
            remainder.append(
                (0.05 * np.diag([1.0, 2.0]) @ g) @ (0.05 * np.diag([1.0, 2.0]) @ g) / 2
            )
        w = w - 0.05 * g
    assert_close(found.gradient_ratio, expected)
    # A quadratic loss has no other remainder than this.
    assert_close(found.remainder[:, 1], remainder, 1e-10)
    low, high = found.gradient_ratio_range
    assert 2 <= low <= high <= 8


def test_semi_smoothness_recovers_planted_constants():
    rng = np.random.default_rng(0)
    loss, step = rng.uniform(1, 2, 6), rng.uniform(0.1, 3, (6, 4))
    for planted in ((2.0, 5.0), (0.0, 3.0), (4.0, 0.0)):
        remainder = planted[0] * np.sqrt(loss)[:, None] * step + planted[1] * step**2
        found = measured.allen_zhu2019.MeasuredSmoothness(
            observed_at=np.arange(6),
            loss=loss,
            gradient_ratio=np.ones(6),
            step_norm=step,
            remainder=remainder,
        )
        assert_close(found.semi_smoothness, planted, 1e-10)
    concave = measured.allen_zhu2019.MeasuredSmoothness(
        observed_at=np.arange(6),
        loss=loss,
        gradient_ratio=np.ones(6),
        step_norm=step,
        remainder=-(step**2),
    )
    assert concave.semi_smoothness == (0.0, 0.0)


def test_gradient_of_a_wide_deep_relu_network_is_not_small_along_a_run():
    x = sphere(4, 8, key=jax.random.key(0), dtype=jnp.float32)
    apply_fn, params = allen_zhu2019.network(
        jax.random.key(1), x.x_train, width=64, depth=2
    )
    found = measured.allen_zhu2019.measure(
        apply_fn, params, x.x_train, x.y_train, learning_rate=2e-3, num_steps=60
    )
    low, high = found.gradient_ratio_range
    assert found.loss[-1] < 0.1 * found.loss[0]
    assert 0 < low <= high < np.inf
    assert "not a certificate" in found.explain()


def test_frozen_layers_of_allen_zhu_have_the_stated_scales():
    apply_fn, params = allen_zhu2019.network(
        jax.random.key(0), jnp.ones((1, 5)), width=400, depth=2, num_outputs=3
    )
    assert [w.shape for w in params] == [(400, 400)] * 2
    assert_close(jnp.std(params[0]), math.sqrt(2 / 400), 0.02)
    # E |f|^2 = k * m * (1/k) E h^2 with E h^2 = |x|^2 * (2/m) / 2, for |x|^2 = 5.
    assert apply_fn(params, jnp.ones((1, 5))).shape == (1, 3)


# Zou et al. (2018)


def test_logistic_loss_is_in_the_family():
    found = measured.zou2018.check_loss(
        measured.zou2018.logistic_loss, measured.zou2018.LOGISTIC
    )
    assert found.passes
    assert_close(found.ratio, 2 * (1 - math.exp(-1)), 1e-3)
    assert found.lipschitz <= 1
    assert_close(found.smoothness, 0.25)


def change(**constants):
    return losses.LossFamily(
        **{
            "alpha0": 0.5,
            "alpha1": 0.5,
            "power": 1.0,
            "lipschitz": 1.0,
            "smoothness": 0.25,
            **constants,
        }
    )


@pytest.mark.parametrize(
    ("loss_fn", "family", "fails"),
    [
        (measured.zou2018.logistic_loss, change(alpha1=1.01), {"gradient"}),
        (measured.zou2018.logistic_loss, change(alpha0=1.01), {"gradient"}),
        (measured.zou2018.logistic_loss, change(lipschitz=0.9), {"Lipschitz"}),
        (measured.zou2018.logistic_loss, change(smoothness=0.2), {"smooth"}),
        (lambda z: jnp.exp(-z), change(), {"Lipschitz", "smooth"}),
        (lambda z: 1 / (2 + z + 50), change(), {"vanishes", "gradient"}),
        (lambda z: -z, change(), {"vanishes"}),
        (
            lambda z: (z - 1) ** 2 / 2,
            change(lipschitz=100.0, smoothness=1.0),
            {"decreasing", "vanishes", "gradient"},
        ),
        (lambda z: z * jnp.nan, change(), None),
    ],
)
def test_losses_outside_the_family_are_told_from_it(loss_fn, family, fails):
    found = measured.zou2018.check_loss(loss_fn, family)
    assert not found.passes
    if fails is not None:
        assert fails <= {a.name for a in found.assumptions if not a.holds}


def descend(x, y, rate, steps):
    w, start, loss = np.zeros(2), np.zeros(2), []
    for _ in range(steps):
        z = y[:, 0] * (x @ w)
        loss.append(np.mean(np.log1p(np.exp(-z))))
        w = w + rate * np.mean((y[:, 0] / (1 + np.exp(z)))[:, None] * x, axis=0)
    return loss, np.linalg.norm(w - start)


def test_radius_of_a_linear_classifier_is_that_of_a_plain_loop(x64):
    x = np.array([[1.0, 0.2], [0.3, 1.0], [-1.0, 0.1]])
    y = np.array([[1.0], [1.0], [-1.0]])
    loss, distance = descend(x, y, 0.7, 9)

    def model(w, x):
        return x @ w

    run = measured.zou2018.measure_radius(
        model, jnp.zeros((2, 1)), x, y, learning_rate=0.7, num_steps=9
    )
    assert_close(run.loss[:-1], loss)
    assert_close(run.radius, distance)
    assert_close(run.spectral, distance)
    assert run.accuracy == 1
    # One batch of everything is the same, in whatever order; a smaller one is not.
    full, part = (
        measured.zou2018.measure_radius(
            model,
            jnp.zeros((2, 1)),
            x,
            y,
            learning_rate=0.7,
            num_steps=9,
            batch_size=size,
            key=jax.random.key(0),
        )
        for size in (3, 1)
    )
    assert_close(full.distance, run.distance)
    assert abs(float(part.radius - run.radius)) > 1e-3
    assert part.loss[-1] < part.loss[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.array([[1.0], [0.5]])}, "labels of -1"),
        ({"batch_size": 3, "key": jax.random.key(0)}, "`batch_size` must be at most 2"),
        ({"batch_size": 1}, "`key`"),
        ({"key": jax.random.key(0)}, "`key`"),
        ({"num_steps": 0}, "`num_steps`"),
    ],
)
def test_bad_runs_of_a_classifier_are_refused_by_name(own_errors, changes, message):
    arguments = {"y": np.array([[1.0], [-1.0]]), "num_steps": 1} | changes
    y = arguments.pop("y").astype(np.float32)
    with pytest.raises(ValueError, match=message):
        measured.zou2018.measure_radius(
            lambda w, x: x @ w,
            jnp.zeros((2, 1)),
            jnp.eye(2),
            y,
            learning_rate=0.1,
            **arguments,
        )


# Widths side by side


def test_widths_of_deep_theorems_have_the_quoted_degrees():
    def widths(n, depth):
        # All distances are the root of 2, whatever n.
        x, y = np.eye(n), np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]
        (allen_zhu,) = allen_zhu2019.requirements(x, depth=depth)
        classes, zou = zou2018.requirements(x, y, depth=depth)
        assert classes.width is None
        return np.log(np.array([allen_zhu.width, zou.width], np.float64))

    assert_close(widths(8, 2) - widths(4, 2), np.log(2) * np.array([24, 8]))
    assert_close(widths(4, 4) - widths(4, 2), np.log(2) * np.array([12, 12]))


def test_a_positive_start_asks_for_independent_inputs_only():
    (needed,) = chatterjee2022.requirements(unit_rows(5, 4), depth=3)
    assert needed.applies
    assert needed.width == 1
    (needed,) = chatterjee2022.requirements(unit_rows(6, 4))
    assert needed.applies is not True


def test_parameters_are_counted_like_those_of_a_network():
    from lazyjax.nets import mlp
    from lazyjax.trees import tree_size

    x = jnp.zeros((1, 3))
    for depth in (1, 3):
        net = mlp(width=7, depth=depth, num_outputs=2)
        size = tree_size(jax.eval_shape(net.init, jax.random.key(0), x))
        found = num_parameters(7.0, depth=depth, num_features=3, num_outputs=2)
        assert found == size
