"""Shuffled labels: fitted, forecast and told apart from true ones."""

import numpy as np
import pytest

from lazyjax.experiments import run
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


def test_shuffled_labels_are_fitted_later():
    found = checked_run("random-labels", word="reproduced").measured
    assert np.all(found.training_error == 0)
    assert np.all(found.tenth_at[1:] > found.tenth_at[0])
    np.testing.assert_allclose(found.projections.sum(axis=1), 1, rtol=1e-5)
    # Forecasts of the norm, by their definition, at the first step: 1 - ηλ in each mode.
    shrunk = 1 - found.eigenvalues / found.eigenvalues[0]
    first = np.sqrt(np.sum(found.projections * shrunk**2, axis=1))
    np.testing.assert_allclose(found.forecast[:, 1], first, rtol=1e-4)


@pytest.mark.slow
def test_labels_called_true_must_be_true():
    control = check_control("random-labels")
    assert control.verdict.checks[2].measured < 0.99


@pytest.mark.slow
def test_quick_is_reproduced_again_and_again():
    result = run("random-labels")
    assert result.verdict.word == "reproduced"
    assert (
        result.measured.complexity < 2 < 3 < result.measured.complexity_shuffled.min()
    )
    check_repeatable("random-labels", result, size="quick")
