"""The tables are what they say: rows of the batch against the same rows alone."""

import jax
import numpy as np
import pytest

from tests.helpers.networks_base import Independent, Interacting, cases, deviation
from tests.helpers.networks_independent import INDEPENDENT
from tests.helpers.networks_interacting import INTERACTING

pytestmark = pytest.mark.once

# A few of each kind; all of them when slow tests are asked for.
QUICK = {
    "batch_norm_first_four_rows_equal",
    "mean_in_the_gradient_only",
    "mean_in_the_value_only",
    "layer_norm",
    "segments_offset_by_their_row",
    "deep_and_chaotic",
}


@pytest.mark.parametrize("case", cases(INTERACTING, QUICK))
def test_rows_change_as_much_as_recorded_when_the_others_are_gone(
    case: Interacting,
) -> None:
    measured = deviation(case.apply_fn, case.params, case.x)
    assert measured == pytest.approx(case.strength, rel=0.2)
    assert measured > 1e-4  # a thousand roundings of float32


@pytest.mark.parametrize("case", cases(INDEPENDENT, QUICK))
def test_rows_stay_the_same_when_the_others_are_gone(case: Independent) -> None:
    assert deviation(case.apply_fn, case.params, case.x) <= case.deviation


@pytest.mark.parametrize("case", cases(INTERACTING | INDEPENDENT, QUICK))
def test_networks_take_any_number_of_rows(case: Interacting | Independent) -> None:
    for n in (1, 2, 3):
        assert jax.eval_shape(case.apply_fn, case.params, case.x[:n]).shape[0] == n


def test_tables_are_large_and_apart() -> None:
    assert len(INTERACTING) >= 45
    assert len(INDEPENDENT) >= 45
    assert not INTERACTING.keys() & INDEPENDENT.keys()


def test_a_deviation_is_found_in_a_value_and_in_a_gradient() -> None:
    x, w = np.ones((3, 2), np.float32), np.ones((2, 1), np.float32)
    assert deviation(lambda w, x: x @ w, w, x) == 0
    assert deviation(lambda w, x: x @ w * len(x), w, x) == pytest.approx(2 / 3)
    shifted = lambda w, x: x @ w + (len(x) - 1)  # the gradient is that of one row
    assert deviation(shifted, w, x) == pytest.approx(0.5)
    steeper = lambda w, x: x @ w + 0.5 * (len(x) - 1) * x @ (w - 1)
    assert deviation(steeper, w, x) == pytest.approx(0.5)
