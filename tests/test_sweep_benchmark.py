"""The benchmark of sweeps at toy size: its methods train the same networks."""

import numpy as np
import pytest

from benchmarks import sweep
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once


def test_careful_loop_and_sweep_train_the_same_networks():
    problem = sweep.Problem(sweep.SIZES["toy"])
    found, expected = sweep.run_sweep(problem), sweep.run_careful(problem, problem.size)
    assert found.shape == (2, 2, 2)
    assert_close(found, expected, sweep.TOLERANCE)
    assert relative_error(found[:, ::-1], expected) > 10 * sweep.TOLERANCE
    for is_jitted in (True, False):
        first_s, step_s = sweep.time_steps(problem, 2, is_jitted=is_jitted)
        assert 0 < step_s < first_s


def test_samples_are_interpolated_in_the_width():
    size = sweep.SIZES["full"]
    assert size.sampled_widths == (16, 256, 2048)
    linear = 3.0 + 0.5 * np.array(size.sampled_widths)
    assert_close(size.summed(linear.tolist()), 3.0 * 8 + 0.5 * sum(size.widths))
    assert size.per_width == 64


@pytest.mark.slow
def test_whole_benchmark_runs_at_toy_size():
    seconds, error = sweep.measure("toy")
    assert set(seconds) == {
        "sweep",
        "careful",
        "jitted steps",
        "eager steps",
        "processes",
    }
    assert min(seconds.values()) > 0
    assert error <= sweep.TOLERANCE
