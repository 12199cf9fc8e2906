"""Conjugate gradients with Gram matrices on disk, and without forming them."""

import jax
import numpy as np
import pytest

import lazyjax
from lazyjax.grams import solve
from lazyjax.grams.solving.conjugate_gradients import refined
from lazyjax.grams.solving.products import Products
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
NET = lazyjax.nets.mlp(width=16, depth=1, num_outputs=2)
X = RNG.normal(size=(20, 3)).astype(np.float32)
PARAMS = NET.init(jax.random.key(0), X)
RIGHT = RNG.normal(size=(40, 3))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    return lazyjax.gram((NET.apply, PARAMS), X, path=path, tile=6)


@pytest.fixture(scope="module")
def dense(store):
    kernel = store.to_array().astype(np.float64)
    return kernel.transpose(0, 2, 1, 3).reshape(40, 40)


def test_products_are_those_of_the_matrix(store, dense, tmp_path):
    assert_close(store @ RIGHT, dense @ RIGHT, "same_algebra")
    assert_close(store @ RIGHT[:, 0], dense @ RIGHT[:, 0], "same_algebra")
    across = lazyjax.gram((NET.apply, PARAMS), X, X[:7], path=tmp_path, tile=6)
    assert_close(across @ RIGHT[:14], dense[:, :14] @ RIGHT[:14], "same_algebra")


@pytest.mark.parametrize("rank", [0, 15])
def test_solutions_are_those_of_elimination(store, dense, rank):
    found = solve(store, RIGHT, ridge=0.1, tolerance=1e-10, rank=rank)
    expected = np.linalg.solve(dense + 0.1 * np.eye(40), RIGHT)
    assert found.status == "converged"
    assert_close(found.solution, expected, 1e-9)
    true = dense @ found.solution + 0.1 * found.solution - RIGHT
    norms = np.linalg.norm(true, axis=0) / np.linalg.norm(RIGHT, axis=0)
    assert norms.max() < 2e-10
    assert_close(
        solve(dense, RIGHT, ridge=0.1, tolerance=1e-10).solution, expected, 1e-9
    )


def test_a_preconditioner_saves_steps(store):
    plain, better = (
        solve(store, RIGHT, ridge=1e-3, tolerance=1e-8, rank=rank) for rank in (0, 30)
    )
    assert better.num_steps < plain.num_steps / 2


def test_operators_give_the_same_to_their_precision(dense):
    operator = lazyjax.ntk_operator(NET.apply, PARAMS, X)
    found = solve(operator, RIGHT, ridge=0.5, tolerance=1e-6)
    assert found.status == "converged"
    expected = np.linalg.solve(dense + 0.5 * np.eye(40), RIGHT)
    assert_close(found.solution, expected, 1e-4)


def in_single_precision(params, x):
    """The same network as `NET`, whatever it is given."""
    params, x = jax.tree.map(lambda a: a.astype(np.float32), (params, x))
    return NET.apply(params, x)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("apply_fn", [NET.apply, in_single_precision])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-9])
def test_residuals_of_operators_are_true_ones(apply_fn, tolerance):
    # Conjugate gradients on products in float32 alone come to 2e-6 in both cases.
    operator = lazyjax.ntk_operator(apply_fn, PARAMS, X, batch_size=8)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: np.asarray(a, np.float64), (PARAMS, X))
        jacobian = jax.jacrev(NET.apply)(*double)
        parts = [leaf.reshape(40, -1) for leaf in jax.tree.leaves(jacobian)]
        rows = np.concatenate(parts, axis=1)
    matrix = rows @ rows.T + 0.01 * np.eye(40)
    found = solve(operator, RIGHT, ridge=0.01, tolerance=tolerance, rank=15)
    assert found.status == "converged"
    true = RIGHT - matrix @ found.solution
    norms = np.linalg.norm(true, axis=0) / np.linalg.norm(RIGHT, axis=0)
    # Constants of the program are rounded to float32.
    np.testing.assert_allclose(norms, found.residuals[-1], atol=1e-7)
    assert found.residuals[-1].max() <= tolerance


def test_products_that_are_too_imprecise_do_not_converge(dense):
    half = Products(lambda v: dense @ v / 2, lambda v: dense @ v, 1e-7)
    options = {"ridge": 0.0, "tolerance": 1e-6, "max_steps": 900}
    found = refined(half, RIGHT, lambda v: v, **options, tell=lambda *_: None)
    assert found.status == "stalled"
    assert_close(found.residuals[-1], np.ones(3), 1e-3)


def test_arrays_of_jax_are_multiplied_in_double_precision(dense):
    matrix = jax.numpy.asarray(dense, np.float32)
    found = solve(matrix, RIGHT, ridge=0.01, tolerance=1e-10)
    true = RIGHT - dense @ found.solution - 0.01 * found.solution
    assert found.status == "converged"
    assert np.linalg.norm(true) <= 1e-10 * np.linalg.norm(RIGHT)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_any_size_of_numbers_serves(dense, size):
    found = solve(dense, size * RIGHT, ridge=0.1, tolerance=1e-10)
    expected = np.linalg.solve(dense + 0.1 * np.eye(40), RIGHT)
    assert_close(found.solution / size, expected, 1e-9)


def test_what_did_not_converge_is_told_and_not_raised(dense):
    few = solve(dense, RIGHT, ridge=1e-3, max_steps=2)
    assert (few.status, few.num_steps) == ("out of steps", 2)
    assert "out of steps after 2 steps" in few.explain()
    assert solve(-dense, RIGHT).status == "indefinite"
    assert solve(np.full((40, 40), np.nan), RIGHT).status == "indefinite"
    assert solve(np.diag([1.0, np.inf]), np.ones(2)).status == "indefinite"
    zero = solve(dense, np.zeros(40))
    assert (zero.status, zero.num_steps) == ("converged", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"right": np.ones(3)}, "`right` must have 40 rows"),
        ({"ridge": -1.0}, "`ridge` must be"),
        ({"matrix": np.ones((40, 39))}, "`matrix` must be symmetric"),
        ({"tolerance": 0.0}, "`tolerance` must be"),
        ({"right": np.full(40, np.nan)}, "`right` must be finite"),
        ({"right": RIGHT + 1j}, "`right` must be a real floating-point array"),
    ],
)
def test_misuse_is_refused(dense, own_errors, changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        solve(**{"matrix": dense, "right": RIGHT} | changes)
