"""Data sets: contract on every one, the digits against scikit-learn's own arrays."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets
from sklearn.datasets import load_digits

from lazyjax.data import (
    Dataset,
    breast_cancer,
    diabetes,
    digits,
    minimum_angle,
    sphere,
    wine,
)
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

KEY = jax.random.key(0)
MAKERS = {
    "pair": lambda **kw: digits(30, num_test=21, classes=(3, 8), **kw),
    "parity": lambda **kw: digits(30, num_test=21, classes="parity", **kw),
    "ten": lambda **kw: digits(30, num_test=21, **kw),
    "three": lambda **kw: digits(30, num_test=21, classes=(9, 0, 4), **kw),
    "unbalanced": lambda **kw: digits(30, num_test=21, balanced=False, **kw),
    "breast cancer": lambda **kw: breast_cancer(30, num_test=21, **kw),
    "wine": lambda **kw: wine(30, num_test=21, **kw),
    "two wines": lambda **kw: wine(30, num_test=21, classes=(2, 0), **kw),
    "diabetes": lambda **kw: diabetes(30, num_test=21, **kw),
    "sphere": lambda key=KEY, **kw: sphere(30, 5, num_test=21, key=key, **kw),
    "normal": lambda key=KEY, **kw: sphere(
        30, 5, num_test=21, key=key, targets="normal", **kw
    ),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_inputs_have_unit_norm_and_everything_the_default_dtype(make, dtype):
    data = make()
    for x, y, n in (
        (data.x_train, data.y_train, 30),
        (data.x_test, data.y_test, 21),
    ):
        assert x.dtype == y.dtype == dtype
        assert x.shape[0] == y.shape[0] == n
        assert_close(jnp.linalg.norm(x, axis=1), np.ones(n, dtype))


def test_dtype_can_be_chosen(make):
    assert make(dtype=jnp.float16).x_train.dtype == jnp.float16


def test_same_key_gives_the_same_data_and_another_key_others(make):
    first, again, other = (make(key=jax.random.key(seed)) for seed in (7, 7, 8))
    assert_close(again.x_train, first.x_train, "exact")
    assert_close(again.y_test, first.y_test, "exact")
    assert not np.array_equal(other.x_train, first.x_train)


@pytest.mark.compiler
def test_dataset_passes_through_jit(make):
    data = make()
    doubled = jax.jit(lambda d: jax.tree.map(lambda a: 2 * a, d))(data)
    assert isinstance(doubled, Dataset)
    assert doubled.description == data.description
    assert_close(doubled.y_train, 2 * data.y_train, "exact")


@pytest.mark.parametrize("classes", [(3, 8), (8, 3), "parity", None])
def test_every_digit_is_a_real_one_with_its_own_label(classes):
    data = digits(60, num_test=40, classes=classes, dtype=jnp.float32)
    images, label = load_digits(return_X_y=True)
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    distance = np.abs(x[:, None, :] - images[None]).max(-1)
    row = distance.argmin(1)
    assert distance.min(1).max() < 1e-6  # float32 rounding of numbers below 1
    assert len(set(row)) == 100, "training and test images must all differ"
    if classes is None:
        np.testing.assert_array_equal(y, np.eye(10)[label[row]])
    elif classes == "parity":
        np.testing.assert_array_equal(y[:, 0], 2 * (label[row] % 2) - 1)
    else:
        expected = np.where(label[row] == classes[1], 1, -1)
        np.testing.assert_array_equal(y[:, 0], expected)
        assert set(label[row]) == set(classes)


@pytest.mark.parametrize(("num_train", "num_test"), [(100, 0), (55, 48), (7, 13)])
def test_digits_are_balanced_to_one_in_training_and_test(num_train, num_test):
    data = digits(num_train, num_test=num_test)
    for y in (data.y_train, data.y_test):
        counts = np.asarray(y).sum(0)
        assert counts.max() - counts.min() <= 1


def test_three_classes_have_one_hot_targets_in_the_order_given():
    data = digits(30, num_test=0, classes=(9, 0, 4))
    same = digits(30, num_test=0, classes=(4, 0, 9))
    assert_close(same.x_train, data.x_train, "exact")
    assert_close(same.y_train, data.y_train[:, ::-1], "exact")
    assert np.asarray(data.y_train).sum(0).tolist() == [10, 10, 10]
    assert data.description == "handwritten digits, 9, 0, 4; one-hot targets"


def test_unbalanced_digits_are_as_frequent_as_they_happen_to_be():
    counts = [
        np.asarray(digits(100, balanced=False, key=jax.random.key(seed)).y_train).sum(0)
        for seed in range(5)
    ]
    # The variance of a count is about 9; that of balanced ones would be 0.
    assert 4 < np.var(counts) < 20


@pytest.mark.parametrize("make", [breast_cancer, wine, diabetes])
def test_tables_are_standardized_by_their_training_rows_alone(make):
    load = getattr(datasets, f"load_{make.__name__}")
    table, label = (np.asarray(values) for values in load(return_X_y=True))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(KEY)))
    order = rng.permutation(len(table))
    train, test = order[:60], order[60:]
    if make is diabetes:
        data = make(60, dtype=jnp.float32)
        y = ((label - label[train].mean()) / label[train].std())[:, None]
    else:
        data = make(60, balanced=False, dtype=jnp.float32)
        train, test = rng.permutation(train), rng.permutation(test)
        y = np.eye(3)[label] if make is wine else 2.0 * label[:, None] - 1
    x = (table - table[train].mean(0)) / table[train].std(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for found, expected in (
        (data.x_train, x[train]),
        (data.x_test, x[test]),
        (data.y_train, y[train]),
        (data.y_test, y[test]),
    ):
        assert_close(found, expected.astype(np.float32))


def test_order_of_training_digits_is_not_sorted_by_label():
    order = np.argmax(digits(100).y_train, axis=1)
    assert not np.array_equal(order[:10], order[10:20])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "odd"}, "`classes` must be None"),
        ({"classes": (3, 3)}, "two or more different numbers below 10"),
        ({"classes": (3, 10)}, r"got \(3, 10\)"),
        ({"classes": (1,)}, "two or more different numbers below 10"),
        ({"num_train": 0}, "`num_train` must be at least 1"),
        ({"num_test": -1}, "`num_test` must be at least 0"),
        ({"num_train": 400, "classes": (0, 1)}, r"at most 360.*got 400 \+ 100"),
    ],
)
def test_digits_refuse_bad_arguments_by_name(own_errors, arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(**arguments)


def test_missing_scikit_learn_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "lazyjax\[data\]"'):
        digits()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 1}, "`num_features` must be at least 2"),
        ({"targets": "signs"}, "Did you mean 'sign'"),
    ],
)
def test_sphere_refuses_bad_arguments_by_name(own_errors, arguments, message):
    arguments = {"num_train": 3, "num_features": 4} | arguments
    with pytest.raises(ValueError, match=message):
        sphere(**arguments, key=jax.random.key(0))


def test_sphere_is_uniform_in_its_first_two_moments():
    n, d = 20_000, 4
    data = sphere(n, d, key=jax.random.key(1), dtype=jnp.float32)
    x = np.asarray(data.x_train, np.float64)
    sem = x.std(0) / n**0.5
    assert (np.abs(x.mean(0)) <= 5 * sem).all()
    second = x.T @ x / n
    # Entries of x x^T have a standard deviation below 1/3 in four dimensions.
    assert np.abs(second - np.eye(d) / d).max() <= 5 / 3 / n**0.5


def test_sphere_targets_are_signs_or_normal_numbers():
    make = lambda targets: np.asarray(
        sphere(4000, 3, key=jax.random.key(2), targets=targets).y_train, np.float64
    )
    assert set(make("sign").ravel()) == {-1.0, 1.0}
    normal = make("normal")
    assert abs(normal.mean()) < 5 / 4000**0.5
    assert abs(normal.var() - 1) < 5 * (2 / 4000) ** 0.5


@pytest.mark.parametrize("angle", [1.5, 0.3, 1e-2, 1e-4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_minimum_angle_is_that_of_the_closest_two_lines(dtype, angle, sign):
    x = np.zeros((3, 4))
    x[0] = [2, 0, 0, 0]
    x[1] = sign * np.array([np.cos(angle), np.sin(angle), 0, 0])
    x[2] = [0, 0, 5, 0]
    assert_close(minimum_angle(jnp.asarray(x, dtype)), angle, 1e-5)


def test_arc_cosine_would_miss_the_small_angle():
    cosine = jnp.cos(jnp.float32(1e-4))
    assert abs(float(jnp.arccos(cosine)) - 1e-4) > 1e-5


def test_parallel_rows_have_angle_zero_and_a_zero_row_gives_nan():
    x = jnp.array([[1.0, 2.0], [-3.0, -6.0], [0.0, 1.0]], jnp.float32)
    # Rounding of the norms leaves at most a few units in the last place.
    assert float(minimum_angle(x)) < 1e-6
    assert np.isnan(minimum_angle(x.at[0].set(0)))


def test_real_digits_are_not_parallel():
    assert float(minimum_angle(digits(100).x_train)) > 0.1


@pytest.mark.parametrize("shape", [(1, 3), (3,), (2, 2, 2)])
def test_minimum_angle_refuses_what_is_not_a_set_of_rows(own_errors, shape):
    with pytest.raises(ValueError, match="n at least 2"):
        minimum_angle(jnp.ones(shape, jnp.float32))
