"""Flows of networks and their linear models, at a size that takes seconds."""

import numpy as np
import pytest

from lazyjax.experiments import run
from lazyjax.experiments.lazy import exact_vs_linearized as module
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


def test_both_equations_hold_and_the_gap_shrinks():
    found = checked_run("exact-vs-linearized", word="reproduced").measured
    # The network does not obey the frozen equation, which the check would notice.
    assert found.frozen_error.min() > 20 * found.exact_error.max()
    assert np.all(found.gap[1] < found.gap[0])
    assert np.all(found.eig_min > 0)


@pytest.mark.slow
def test_learning_features_keeps_the_gap():
    control = check_control("exact-vs-linearized")
    assert abs(float(control.measured.slope.slope)) < 0.1
    # Equations and bound hold all the same: they need no width.
    assert [check.word for check in control.verdict.checks[:3]] == ["reproduced"] * 3


@pytest.mark.slow
def test_quick_is_reproduced_again_and_again():
    result = run("exact-vs-linearized")
    assert result.verdict.word == "reproduced"
    assert -0.9 < float(result.measured.slope.slope) < -0.5
    check_repeatable("exact-vs-linearized", result, size="quick")


def test_both_sides_of_a_known_flow():
    """Of a linear model with kernel 2, whose flow is an exponential."""
    times = np.array([0.5, 1.0])
    points = (times[:, None] * np.array([0.98, 1.0, 1.02])).ravel()
    outputs = 1 - np.exp(-2 * np.append(0.0, points))[:, None, None]
    kernels = np.full((7, 1, 1), 2.0)
    arrays = [
        np.asarray(array, np.float32)
        for array in (kernels, outputs, outputs[1:], np.ones((1, 1)), points)
    ]
    found = module._both_sides(*map(module.jnp.asarray, arrays))
    assert found["exact_error"] < 1e-3
    assert found["bound_ratio"] == pytest.approx(1, abs=1e-4)
    wrong = module._both_sides(
        module.jnp.asarray(arrays[0] * 1.1), *map(module.jnp.asarray, arrays[1:])
    )
    assert wrong["exact_error"] > 0.09
