"""Conjugate gradients with Gram matrices on disk, and without forming them."""

import jax
import numpy as np
import pytest

import lazyjax
from lazyjax.grams import solve
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


def test_what_did_not_converge_is_told_and_not_raised(dense):
    few = solve(dense, RIGHT, ridge=1e-3, max_steps=2)
    assert (few.status, few.num_steps) == ("out of steps", 2)
    assert "out of steps after 2 steps" in few.explain()
    assert solve(-dense, RIGHT).status == "indefinite"
    assert solve(np.full((40, 40), np.nan), RIGHT).status == "indefinite"
    zero = solve(dense, np.zeros(40))
    assert (zero.status, zero.num_steps) == ("converged", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"right": np.ones(3)}, "`right` must have 40 rows"),
        ({"ridge": -1.0}, "`ridge` must be"),
        ({"matrix": np.ones((40, 39))}, "`matrix` must be symmetric"),
        ({"tolerance": 0.0}, "`tolerance` must be"),
    ],
)
def test_misuse_is_refused(dense, own_errors, changes, message):
    with pytest.raises(ValueError, match=message):
        solve(**{"matrix": dense, "right": RIGHT} | changes)
