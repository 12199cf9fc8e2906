"""Every network of the tables: those whose rows interact are refused, no other is."""

import re

import jax
import numpy as np
import pytest

from lazyjax import empirical_ntk
from tests.helpers.networks_base import Independent, Interacting, cases
from tests.helpers.networks_independent import INDEPENDENT
from tests.helpers.networks_interacting import INTERACTING
from tests.helpers.oracles import naive_ntk

pytestmark = pytest.mark.once

# A few of each kind; all of them when slow tests are asked for.
QUICK = {
    "batch_norm_first_four_rows_equal",
    "softmax_over_the_batch",
    "mean_in_the_gradient_only",
    "constants_of_the_batch_s_shape",
    "experts_by_sorting_rows_and_back",
    "segments_offset_by_their_row",
}

ABOUT_ROWS = (
    r"(?i)\brows?\b.*(interact|independent|alone)|(interact|independent).*\brows?\b"
)


@pytest.mark.parametrize("case", cases(INTERACTING, QUICK))
def test_rows_that_interact_are_refused(case: Interacting) -> None:
    with pytest.raises(ValueError, match=ABOUT_ROWS):
        empirical_ntk(case.apply_fn, case.params, case.x)


@pytest.mark.parametrize("case", cases(INTERACTING, QUICK))
def test_rows_that_interact_give_nan_under_jit(case: Interacting) -> None:
    """Or are refused while tracing, where the program alone says enough."""
    compiled = jax.jit(lambda p, x: empirical_ntk(case.apply_fn, p, x))
    try:
        ntk = compiled(case.params, case.x)
    except ValueError as error:
        refusal = str(error)
    else:
        assert np.isnan(np.asarray(ntk, np.float64)).all()
        return
    assert re.search(ABOUT_ROWS, refusal)


@pytest.mark.parametrize("case", cases(INDEPENDENT, QUICK))
def test_independent_rows_are_accepted(case: Independent) -> None:
    ntk = empirical_ntk(case.apply_fn, case.params, case.x)
    _assert_close_to_oracle(case, ntk)


@pytest.mark.parametrize("case", cases(INDEPENDENT, QUICK))
def test_independent_rows_are_accepted_under_jit(case: Independent) -> None:
    compiled = jax.jit(lambda p, x: empirical_ntk(case.apply_fn, p, x))
    _assert_close_to_oracle(case, compiled(case.params, case.x))


def _assert_close_to_oracle(case: Independent, ntk: jax.Array) -> None:
    found = np.asarray(ntk, np.float64)
    assert np.isfinite(found).all()
    oracle = naive_ntk(case.apply_fn, case.params, case.x)
    assert found.shape == oracle.shape
    size = np.linalg.norm(oracle)
    assert size > 0
    assert np.linalg.norm(found - oracle) <= case.kernel_error * size
