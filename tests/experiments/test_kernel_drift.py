"""Drift of kernels against width, at a size that takes seconds."""

import numpy as np
import pytest

from lazyjax.experiments import run
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


@pytest.mark.slow
def test_drift_falls_like_the_inverse_of_the_width():
    found = checked_run("kernel-drift", word="reproduced").measured
    assert found.drift.shape == (1, 2, 20)
    # Far from the exponent of the bound.
    assert float(found.slopes[0].high) < -0.6
    # Parameters move as far at any width.
    narrow, wide = found.distance.mean(axis=2)[0]
    assert wide == pytest.approx(narrow, rel=0.2)


@pytest.mark.slow
def test_features_are_learnt_at_every_width_in_mup():
    found = check_control("kernel-drift").measured
    assert abs(float(found.slopes[0].slope)) < 0.2
    assert np.all(found.drift > 0.1)


@pytest.mark.slow
def test_quick_is_reproduced_at_every_depth():
    result = run("kernel-drift")
    assert result.verdict.word == "reproduced", result.verdict.line
    check_repeatable("kernel-drift", result, size="quick")
