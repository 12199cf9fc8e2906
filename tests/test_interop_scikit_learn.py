"""Estimators of scikit-learn's conventions: their checks, and independent values."""

import functools
import pickle
from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process.kernels import RBF
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

import lazyjax
from lazyjax.interop.neural_tangents import load_neural_tangents
from lazyjax.interop.scikit_learn import NTKClassifier, NTKRegressor
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X, X_NEW = RNG.normal(size=(40, 3)), RNG.normal(size=(7, 3))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]], axis=1) + 5.0
LABELS = np.array(["even", "odd", "prime"])[RNG.integers(3, size=40)]
NET = lazyjax.nets.mlp(width=8, num_outputs=2)


def rbf(x, y):
    return np.exp(-0.5 * ((x[:, None] - y[None]) ** 2).sum(-1))


def linear(params, x):
    return x @ params


# A copy of a module of Flax has another number, which its pickle shows.
_OF_FLAX = {
    "check_estimators_overwrite_params": "copies of Flax modules are pickled otherwise"
}


@pytest.mark.sampled(4)
@parametrize_with_checks(
    [
        # A function would name itself by its address, other in each process.
        NTKRegressor(RBF()),
        NTKClassifier(RBF()),
        NTKRegressor(),
        NTKClassifier(),
        NTKRegressor(lazyjax.nets.mlp(width=16), random_state=0),
    ],
    expected_failed_checks=lambda estimator: (
        _OF_FLAX if isinstance(estimator.kernel, lazyjax.Network) else {}
    ),
)
def test_conventions_hold(estimator, check, own_errors):
    check(estimator)


@pytest.mark.parametrize("scales_ridge", [False, True])
def test_predictions_are_those_of_a_gaussian_process(scales_ridge):
    kernel = lambda x, y: 3.0 * rbf(x, y)
    model = NTKRegressor(kernel, ridge=0.1, scales_ridge=scales_ridge).fit(X, Y)
    ridge = 0.3 if scales_ridge else 0.1
    inverse = np.linalg.inv(3.0 * rbf(X, X) + ridge * np.eye(40))
    cross = 3.0 * rbf(X_NEW, X)
    mean, std = model.predict(X_NEW, return_std=True)
    expected = cross @ inverse @ (Y - Y.mean(axis=0)) + Y.mean(axis=0)
    assert_close(mean, expected, 1e-9)
    variance = 3.0 - np.einsum("mi,ij,mj->m", cross, inverse, cross)
    assert_close(std, np.sqrt(variance), 1e-8)
    assert_close(model.predict(X_NEW), mean, "exact")
    assert_close(model.ridge_, ridge, "same_algebra")
    one = NTKRegressor(kernel, ridge=0.1, scales_ridge=scales_ridge).fit(X, Y[:, 0])
    assert_close(one.predict(X_NEW), expected[:, 0], 1e-9)
    assert "Cholesky" in model.report_


@pytest.mark.slow
def test_limits_are_taken_from_the_architecture():
    ntk = functools.partial(lazyjax.infinite_ntk, NET.architecture)
    models = [NTKRegressor(kernel).fit(X, Y) for kernel in (NET.architecture, ntk)]
    one, two = (model.predict(X_NEW, return_std=True) for model in models)
    assert_close(one[0], two[0], 1e-6)  # equal rows of two batches are less precise
    assert_close(one[1], two[1], 1e-6)
    usual = lazyjax.Architecture(depth=2, b_std=0.1)
    assert NTKRegressor().fit(X, Y).kernel_ == usual


def test_networks_are_taken_at_their_parameters_and_in_their_precision():
    params = np.ones((3, 2), np.float32)
    model = NTKRegressor((linear, params), ridge=0.1, scales_ridge=False).fit(X, Y)
    # Of the sum of two outputs over the square root of their number.
    gram, cross = X @ X.T, X_NEW @ X.T
    centred = Y - Y.mean(axis=0)
    expected = cross @ np.linalg.solve(gram + 0.1 * np.eye(40), centred) + Y.mean(
        axis=0
    )
    assert model.dual_coef_.dtype == np.float32
    assert_close(model.predict(X_NEW), expected.astype(np.float32), 1e-4)
    drawn = [NTKRegressor(NET, random_state=seed).fit(X, Y) for seed in (0, 0, 1)]
    first, same, other = (model.predict(X_NEW) for model in drawn)
    assert_close(first, same, "exact")
    assert np.abs(first - other).max() > 1e-3
    again = NTKRegressor(drawn[0].kernel_).fit(X, Y)
    assert_close(again.predict(X_NEW), first, "exact")


def test_precision_is_that_of_examples():
    before = np.asarray(jax.numpy.ones(())).dtype
    double = NTKRegressor().fit(X, Y)
    single = NTKRegressor().fit(X.astype(np.float32), Y)
    assert double.predict(X_NEW).dtype == np.float64
    assert single.predict(X_NEW).dtype == np.float32
    assert jax.numpy.ones(()).dtype == before
    assert_close(single.predict(X_NEW), double.predict(X_NEW).astype(np.float32), 1e-3)
    sent = pickle.loads(pickle.dumps(double))
    for one, two in zip(
        sent.predict(X_NEW, return_std=True),
        double.predict(X_NEW, return_std=True),
        strict=True,
    ):
        assert_close(one, two, "exact")


def test_kernels_that_do_not_fit_into_memory_are_kept_on_disk():
    params = NET.init(jax.random.key(0), X[:1].astype(np.float32))
    for kernel in ((NET.apply, params), rbf):
        near = NTKRegressor(kernel, ridge=0.1).fit(X, Y)
        far = NTKRegressor(kernel, ridge=0.1, memory="36KiB", tolerance=1e-7).fit(X, Y)
        assert far.factor_ is None
        assert "converged after" in far.report_
        assert_close(far.predict(X_NEW), near.predict(X_NEW), 1e-5)
    with pytest.raises(ValueError, match="`return_std` needs a factor"):
        far.predict(X_NEW, return_std=True)
    few = NTKClassifier(rbf, ridge=1e-9, memory="36KiB", max_steps=1, tolerance=1e-12)
    with pytest.warns(ConvergenceWarning, match="out of steps after 1 steps"):
        few.fit(X, LABELS)


@pytest.mark.slow
def test_labels_pipelines_searches_and_images():
    x, y = X[:, :2], np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    pipeline = make_pipeline(StandardScaler(), NTKClassifier(rbf))
    grid = {"ntkclassifier__ridge": [1e-3, 1e3]}
    search: Any = GridSearchCV(pipeline, grid, cv=3).fit(x, y)
    assert search.best_params_ == {"ntkclassifier__ridge": 1e-3}
    assert search.score(x, y) > 0.9
    again: Any = clone(search.best_estimator_)
    assert again.fit(x, y).predict(x).tolist() == search.predict(x).tolist()
    model = NTKClassifier(rbf, ridge=1e-6).fit(X, LABELS)
    assert model.classes_.tolist() == ["even", "odd", "prime"]
    assert model.decision_function(X).shape == (40, 3)
    assert model.predict(X).tolist() == LABELS.tolist()
    cnn = NTKClassifier(lazyjax.nets.cnn(width=2, depth=1), random_state=0)
    images = FunctionTransformer(functools.partial(np.reshape, shape=(-1, 2, 2, 1)))
    flat = RNG.normal(size=(12, 4))
    wanted = flat[:, 0] > 0
    assert make_pipeline(images, cnn).fit(flat, wanted).predict(flat).dtype == bool
    with pytest.raises(ValueError, match=r"shape \(2, 2, 1\), as in `fit`; got \(2, 1"):
        cnn.fit(flat.reshape(-1, 2, 2, 1), wanted).predict(np.ones((3, 2, 1, 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ridge": -1.0}, "`ridge` must be finite, zero or positive"),
        ({"memory": "lots"}, "`memory` must be a number with a unit"),
        ({"kernel": "rbf"}, r"`kernel` must be None, .* got 'rbf'"),
        ({"kernel": (linear, {"w": 3})}, r"`kernel\[1\]\['w'\]` must be"),
        ({"kernel": lambda x, y: x}, r"must return an array of shape \(40, 40\)"),
        ({"tolerance": 0.0}, "`tolerance` must be positive"),
        ({"max_steps": 0}, "`max_steps` must be"),
        ({"scales_ridge": 2}, "`scales_ridge` must be"),
    ],
)
def test_misuse_is_refused(changes, message, own_errors):
    with pytest.raises((TypeError, ValueError), match=message):
        NTKRegressor(**changes).fit(X, Y)


def test_targets_that_are_none_are_refused():
    for estimator in (NTKRegressor(rbf), NTKClassifier(rbf)):
        with pytest.raises(TypeError, match="`y` must be a dense array"):
            estimator.fit(X, scipy.sparse.csr_array(Y))
    with pytest.raises(ValueError, match="two classes or more; got 1 class: a"):
        NTKClassifier(rbf).fit(X, ["a"] * 40)
    with pytest.raises(ValueError, match="Unknown label type"):
        NTKClassifier(rbf).fit(X, Y[:, 0])


@pytest.mark.slow
def test_kernels_of_neural_tangents_serve():
    stax = load_neural_tangents().stax
    dense = stax.Dense(1, W_std=1.0, b_std=0.1)
    layers = [dense, stax.Relu(), dense, stax.Relu(), dense]
    *_, kernel_fn = stax.serial(*layers)
    theirs = NTKRegressor(functools.partial(kernel_fn, get="ntk")).fit(X, Y)
    assert_close(theirs.predict(X_NEW), NTKRegressor().fit(X, Y).predict(X_NEW), 1e-5)


@pytest.mark.slow
def test_digits_are_told_apart_as_by_a_support_vector_machine():
    found = lazyjax.data.digits(1200, num_test=597, key=jax.random.key(0))
    x, x_test = (np.asarray(a) for a in (found.x_train, found.x_test))
    y, y_test = (np.asarray(a).argmax(1) for a in (found.y_train, found.y_test))
    machines = GridSearchCV(
        SVC(), {"C": [1, 10, 100], "gamma": ["scale", 0.1, 1]}, cv=3
    )
    svm: Any = machines.fit(x, y).score(x_test, y_test)
    search: Any = GridSearchCV(NTKClassifier(), {"ridge": [1e-4, 1e-2]}, cv=3).fit(x, y)
    assert search.score(x_test, y_test) > max(svm, 0.98) - 0.005
    half, _, of_half, _ = train_test_split(x, y, train_size=300, random_state=0)
    scores = cross_val_score(NTKClassifier(), half, of_half, cv=3)
    assert scores.min() > 0.9
