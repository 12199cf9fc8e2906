"""The mean kernel of finite networks, entry by entry."""

import numpy as np
import pytest

from lazyjax import experiments
from lazyjax.experiments import Result
from lazyjax.experiments.lazy.finite_width import FiniteWidth
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once

LIMIT = np.array([5.353021, 20.444187, 1.997730])


@pytest.fixture(scope="module")
def result() -> Result:
    return checked_run("finite-width", word="reproduced")


def found(diagonal: float, beside: float) -> FiniteWidth:
    widths = np.array([10, 20, 40])
    bias = np.array([diagonal, 0, beside])[:, None] / widths[None]
    return FiniteWidth(
        widths=(10, 20, 40), limit=LIMIT, bias=bias, sem=np.full((3, 3), 1e-3)
    )


def test_the_coefficient_of_a_known_bias_is_found():
    coefficients, sem = found(0.1, -1.2).coefficients
    np.testing.assert_allclose(coefficients, [0.1, 0, -1.2])
    # Each width alone would have an error of its width times 0.001.
    expected = 1e-3 * np.sum(1 / np.array([10.0, 20, 40]) ** 2) ** -0.5
    np.testing.assert_allclose(sem, expected)


@pytest.mark.parametrize(
    ("diagonal", "beside", "word"),
    [
        (0.0, -1.2, "reproduced"),
        (0.5, -1.2, "not reproduced"),
        (0.0, -0.3, "not reproduced"),
        (0.3, -1.2, "inconclusive at this size"),
    ],
)
def test_the_verdict_is_about_both(diagonal, beside, word):
    assert found(diagonal, beside).verdict.word == word


@pytest.mark.slow
def test_only_the_entry_of_two_inputs_is_biased(result: Result):
    measured = result.measured
    np.testing.assert_allclose(measured.limit, LIMIT, rtol=1e-5)
    assert np.all(np.abs(measured.bias[:2]) < 4 * measured.sem[:2])
    # At width 20 it is 6.4 %, by the paper's corrections of first order.
    assert abs(measured.bias[2, 1] + 0.064) < 4 * measured.sem[2, 1] < 0.04


@pytest.mark.slow
def test_normalization_biases_the_diagonal():
    check = check_control("finite-width").verdict.decisive
    assert check.measured > 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(result: Result):
    check_repeatable("finite-width", result)


@pytest.mark.slow
def test_the_numbers_at_the_default_size():
    measured = experiments.run("finite-width").measured
    for place, bias in ((1, -0.064), (3, -0.013)):
        assert abs(measured.bias[2, place] - bias) < 4 * measured.sem[2, place]
