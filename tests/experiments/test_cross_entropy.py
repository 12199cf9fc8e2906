"""Drifts of kernels under cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.experiments import Result
from lazyjax.experiments.lazy import cross_entropy
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def result() -> Result:
    return checked_run("cross-entropy", word="reproduced")


def test_the_loss_is_that_of_soft_labels():
    f, y = np.array([[0.3], [-1.2]]), np.array([[1.0], [-1.0]])
    share = 1 / (1 + np.exp(-f))
    label = np.where(y > 0, 0.8, 0.2)
    expected = -np.mean(label * np.log(share) + (1 - label) * np.log(1 - share))
    args = jnp.asarray(f, jnp.float32), jnp.asarray(y, jnp.float32)
    loss = cross_entropy._log_loss(*args, softness=0.2)
    assert float(loss) == pytest.approx(np.log(expected), rel=1e-5)
    # Far beyond the last loss there is nothing to gain, and nothing breaks.
    value, slope = jax.value_and_grad(cross_entropy._log_loss)(
        1e3 * args[1], args[1], softness=0.0
    )
    assert float(value) == cross_entropy.LAST_LOG_LOSS
    assert not np.any(slope)


@pytest.mark.slow
def test_the_kernel_moves_without_end_for_hard_labels_only(result: Result):
    drift = {name: found[..., -1] for name, found in result.measured.drift.items()}
    hard, soft, held = (drift[name] for name in cross_entropy.SCHEMES)
    assert hard.min() > 10 * max(soft[-1].max(), held[-1].max())
    # Along training it grows by orders of magnitude, at the largest width too.
    along = result.measured.drift["hard labels"][-1]
    assert np.all(along[:, -1] > 100 * along[:, 1])


@pytest.mark.slow
def test_soft_labels_that_are_hard_are_not_reproduced():
    assert check_control("cross-entropy").verdict.decisive.measured > 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(result: Result):
    check_repeatable("cross-entropy", result)
