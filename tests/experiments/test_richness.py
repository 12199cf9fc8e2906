"""The best learning rate from lazy to rich, at a size that takes seconds."""

import numpy as np
import pytest

from lazyjax.experiments import run
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


@pytest.mark.slow
def test_best_rate_grows_by_two_powers_and_mup_keeps_learning():
    found = checked_run("richness", word="reproduced").measured
    assert float(found.lazy[0].slope) > float(found.rich[0].slope) + 0.5
    # No best rate is at an end of those tried.
    rates = found.best_rate / np.array(found.gammas)[:, None] ** 2
    assert rates.min() > 2.0**-11
    assert rates.max() < 2.0 ** (29 / 2 - 11)
    mup, ntk = found.drift.mean(axis=-1)
    assert mup[1] / mup[0] > 2 * ntk[1] / ntk[0]


@pytest.mark.slow
def test_small_gamma_is_not_rich():
    found = check_control("richness").measured
    assert abs(float(found.rich[0].slope) - 2) < 0.4


@pytest.mark.slow
def test_quick_is_reproduced_again_and_again():
    result = run("richness")
    assert result.verdict.word == "reproduced", result.verdict.line
    check_repeatable("richness", result, size="quick")
