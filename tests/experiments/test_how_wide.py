"""Widths that fit, and what networks cost at widths that none can be built of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.experiments.convergence import how_wide
from lazyjax.experiments.convergence._capacity import Capacity, Images
from lazyjax.laziness import log_log_slope
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once

SMALL = Images(number=6, num_pixels=4, num_channels=2, num_classes=3)


def found(fitting=(4.0, 10.0), params=(200.0, 800.0), required=(1e9, 1e15)):
    """A measurement made up, the same for all kinds and both starts."""
    both = lambda pair: np.broadcast_to(np.array(pair)[None, :, None], (3, 2, 2)).copy()
    numbers = jnp.array([64.0, 256.0])
    return how_wide.HowWide(
        train_sizes=(16, 64),
        theorems=("a theorem", "another, without a width"),
        depths=(1, 2),
        required=np.array([required, (np.nan, np.nan)]),
        certified=40.0,
        fitting=both(fitting),
        params=both(params),
        epochs=both((100.0, 300.0)),
        laws=(log_log_slope(numbers, np.repeat([params], 2, 0).T.astype(np.float32)),)
        * 3,
        depth=2,
        num_classes=4,
        target=how_wide.TARGET,
    )


@pytest.mark.parametrize("kind", ["mlp", "resnet", "conv_resnet"])
def test_parameters_are_those_of_a_network_that_is_built(kind):
    capacity = Capacity.of(kind, SMALL, depth=3)
    x, y = SMALL.random(jax.random.key(0))
    assert x.shape == (6, 4, 2)
    np.testing.assert_allclose(jnp.sum(y, axis=1), 0, atol=1e-6)
    network = lazyjax.nets.build(capacity.architecture, width=7)
    params = network.init(jax.random.key(1), x)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert capacity.num_params(7) == count
    assert capacity.width(count) == pytest.approx(7, rel=1e-9)
    assert network.apply(params, x).shape == y.shape


def test_the_example_of_the_readers_is_counted_by_hand():
    # Two hidden layers of width w: 786,432 w + w^2 + 1000 w weights, no biases.
    plain = Capacity.of("mlp", how_wide.TARGET, depth=2)
    assert plain.num_params(999) == 786_432 * 999 + 999**2 + 1000 * 999
    assert plain.operations(2) == 6 * 50_000 * (786_432 * 2 + 4 + 2000)
    # Filters of 3 pixels, used at each of 512^2; the readout reads all pixels.
    pixels = 512 * 512
    conv = Capacity.of("conv_resnet", how_wide.TARGET, depth=2)
    assert conv.num_params(5) == 3 * 3 * 5 + 3 * 25 + pixels * 5 * 1000
    assert conv.operations(1) == 6 * 50_000 * pixels * (9 + 3 + 1000)
    # Of 1,000 classes outputs have rank 999, and widths are 1 at least.
    assert plain.width(1.0) == 999
    assert conv.width(1.0) == 1
    assert conv.width(np.inf) == plain.num_params(np.inf) == np.inf


def test_power_laws_are_followed_to_the_target():
    result = found()
    # 200 to 800 parameters for 64 to 256 numbers: 3.125 for each.
    assert result.extrapolated(0)[0] == pytest.approx(3.125 * 5e7, rel=1e-3)
    # Fewer than one for each cannot be.
    less = found(params=(200.0, 220.0))
    assert less.extrapolated(0)[0] == 5e7
    # Nor is it certain that fewer will do than did.
    slow = found(params=(200.0, 400.0))
    assert slow.extrapolated(0)[2] == pytest.approx(400 / 256 * 5e7)
    # A theorem of the power n^10.
    power = np.log(1e6) / np.log(4)
    expected = 1e15 * (50_000 / 64) ** power
    assert result.required_of_target()[0] == pytest.approx(expected, rel=1e-9)
    assert np.isnan(result.required_of_target()[1])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "reproduced"),
        ({"fitting": (4.0, np.inf), "params": (200.0, np.inf)}, "not reproduced"),
        ({"params": (200.0, 26_000.0)}, "not reproduced"),
        ({"params": (20.0, 100.0)}, "not reproduced"),
        ({"required": (10.0, 100.0)}, "not reproduced"),
    ],
)
def test_verdict(changes, word):
    result = found(**changes)
    assert how_wide.verdict(result).word == word
    assert [table.row_count for table in how_wide.tables(result)] == [6, 3]
    assert len(how_wide.figure(result).axes) == 2


@pytest.mark.slow
def test_quick_is_reproduced_and_its_control_is_not():
    result = checked_run("how-wide", word="reproduced", size="quick")
    check_repeatable("how-wide", result, size="quick")
    broken = check_control("how-wide", size="quick")
    assert not np.isfinite(broken.measured.fitting).any()
