"""Symmetric targets, from a chosen start and from random ones."""

import jax
import numpy as np
import pytest

from lazyjax.experiments import Result
from lazyjax.experiments.generalization import symmetry
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def result() -> Result:
    return checked_run("symmetry", word="reproduced")


def test_units_of_the_chosen_start_are_steps_in_the_number_of_ones():
    params = symmetry._start("chosen", 6, jax.random.key(0))
    x = np.tril(np.ones((7, 6)), -1)  # rows of 0, 1, ..., 6 ones
    weights, biases = (np.asarray(params[name]) for name in ("weights", "biases"))
    hidden = 1 / (1 + np.exp(-(x @ weights + biases)))
    np.testing.assert_array_equal(hidden > 0.5, np.tril(np.ones((7, 7))))
    assert not np.any(params["readout"])


@pytest.mark.slow
def test_only_the_chosen_start_generalizes(result: Result):
    test = {name: np.mean(found[-1]) for name, found in result.measured.test.items()}
    for target in symmetry.TARGETS:
        assert test[f"{target}, chosen"] > test[f"{target}, random"] + 0.3


@pytest.mark.slow
def test_it_does_not_where_half_of_the_bits_matter():
    assert check_control("symmetry").verdict.decisive.measured < 0.7


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(result: Result):
    check_repeatable("symmetry", result)
