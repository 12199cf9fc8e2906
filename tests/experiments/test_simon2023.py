"""Forecast learning curves beside those measured, at a size that takes seconds."""

import numpy as np
import pytest

from lazyjax.experiments import Result
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = [pytest.mark.once, pytest.mark.slow]


@pytest.fixture(scope="module")
def result() -> Result:
    return checked_run("simon2023", word="reproduced", seed=1)


def test_forecasts_are_reproduced(result: Result):
    # Networks come near, and fit what they are trained on.
    found = result.measured
    ratio = found.networks.mean(axis=1) / found.regression.mean(axis=1)
    assert np.all((ratio > 0.8) & (ratio < 1.4))
    assert found.network_losses[0].max() < 1e-4
    (table,) = result.tables()
    assert table.row_count == 2


def test_a_forecast_of_other_labels_is_not():
    assert check_control("simon2023", seed=1).verdict.checks[0].measured > 0.3


def test_the_same_seed_gives_the_same_numbers(result: Result):
    check_repeatable("simon2023", result, seed=1)
