"""Experiments on convergence to zero loss, at sizes that take seconds."""

import numpy as np
import pytest

from lazyjax.experiments import run
from lazyjax.experiments.convergence import piecewise_affine, zou2018
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once

NAMES = ["du2019-deep", "zou2018", "chatterjee", "allen-zhu", "piecewise-affine"]


@pytest.fixture(scope="module", params=NAMES)
def brief(request):
    return request.param, checked_run(request.param, word="reproduced")


def test_brief_is_reproduced(brief):
    name, result = brief
    assert all(check.word == "reproduced" for check in result.verdict.checks)
    assert len(result.verdict.checks) >= 2
    assert result.settings["experiment"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_premise_is_not_reproduced(name):
    check_control(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick_is_reproduced_again_and_again(name):
    result = run(name)
    assert result.verdict.word == "reproduced", result.verdict.line
    check_repeatable(name, result, size="quick")
    assert check_control(name, size="quick").settings["control"]


def test_rates_tell_exponentials_from_powers():
    steps = np.arange(1, 4001)
    exponential, power = np.exp(-0.001 * steps), 1 / steps.astype(float) ** 0.5
    rate, steadiness = piecewise_affine._rates(exponential)
    assert rate == pytest.approx(0.001, rel=1e-6)
    assert steadiness == pytest.approx(1, rel=1e-6)
    assert piecewise_affine._rates(power)[1] < piecewise_affine.STEADY - 0.05
    # What comes after zero loss, rounding included, does not count.
    floor = np.maximum(np.exp(-0.02 * steps), 1e-12)
    assert piecewise_affine._rates(floor)[1] == pytest.approx(1, abs=0.01)


def test_the_losses_of_zou_et_al_are_as_said():
    z = np.linspace(-3, 3, 7)
    values = np.asarray(zou2018.smooth_exponential(zou2018.jnp.asarray(z)))
    np.testing.assert_allclose(values, np.where(z > 0, np.exp(-z), 1 - z), rtol=1e-6)
    for loss_fn, family in zou2018.LOSSES.values():
        assert zou2018.zou2018.check_loss(loss_fn, family).passes
    wrong = zou2018.losses.LossFamily(
        alpha0=2.0, alpha1=1.0, power=1.0, lipschitz=0.5, smoothness=1.0
    )
    assert not zou2018.zou2018.check_loss(zou2018.smooth_exponential, wrong).passes
