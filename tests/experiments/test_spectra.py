"""Weights and kernels, lazy and rich; Hessians."""

import numpy as np
import pytest

from lazyjax.experiments import Result
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = [pytest.mark.once, pytest.mark.slow]


@pytest.fixture(scope="module", params=["spectra", "hessian"])
def result(request: pytest.FixtureRequest) -> Result:
    return checked_run(request.param, word="reproduced")


def test_they_are_reproduced(result: Result):
    found = result.measured
    if result.experiment.name == "spectra":
        # Rich tails are heavier than those of noise, and kernels have more directions.
        exponents = {name: q[..., 2] for name, q in found.quantities.items()}
        assert np.all(exponents["rich"] < exponents["start"] - 0.5)
        np.testing.assert_allclose(exponents["lazy"], exponents["start"], rtol=0.02)
        ranks = {name: kernel[..., 0] for name, kernel in found.kernel.items()}
        assert np.all(ranks["rich"][:, -1] > 2 * ranks["rich"][:, 0])
        np.testing.assert_allclose(ranks["lazy"][:, -1], ranks["lazy"][:, 0], rtol=0.02)
    else:
        assert float(found.slope.low) < -0.5 < float(found.slope.high)
        # The rest of the Hessian, made of residuals, is there before training only.
        assert found.nodes[0].min() < -0.01 * found.largest[0]
        assert found.nodes[-1].min() > -0.1 * found.largest[-1]


@pytest.mark.parametrize("name", ["spectra", "hessian"])
def test_controls_are_not(name: str):
    check_control(name)


def test_the_same_seed_gives_the_same_numbers(result: Result):
    check_repeatable(result.experiment.name, result)
