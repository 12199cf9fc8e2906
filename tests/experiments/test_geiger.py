"""The crossover from feature learning to lazy training, at a size that takes seconds."""

import numpy as np
import pytest

from lazyjax.experiments import run
from lazyjax.experiments.lazy import geiger as module
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


@pytest.mark.slow
def test_crossover_falls_like_the_root_of_the_width():
    found = checked_run("geiger", word="reproduced").measured
    # Both regimes are there, at every width and seed.
    assert np.all(found.drift[..., 0] > 4 * module.LEVEL)
    assert np.all(found.drift[..., -1] < module.LEVEL / 4)


@pytest.mark.slow
def test_crossover_of_mup_does_not_depend_on_the_width():
    control = check_control("geiger")
    assert abs(float(control.measured.slope.slope)) < 0.15
    check_repeatable("geiger", run("geiger", size="brief"))


@pytest.mark.slow
def test_quick_is_reproduced():
    assert run("geiger").verdict.word == "reproduced"


def test_crossover_of_a_power_law_is_exact():
    alphas = tuple(2.0**k for k in range(-3, 5))
    drift = 0.8 / np.array(alphas) ** 2  # is 1/2 at the root of 1.6
    assert module._crossover(alphas, drift) == pytest.approx(1.6**0.5)
    assert np.isnan(module._crossover(alphas, drift * 1e4)), "never lazy"
    assert np.isnan(module._crossover(alphas, drift / 1e4)), "always lazy"
    # What diverges counts as above.
    drift[0] = np.nan
    assert module._crossover(alphas, drift) == pytest.approx(1.6**0.5)
