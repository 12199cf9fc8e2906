"""Forecast learning curves beside those measured, at a size that takes seconds."""

import dataclasses

import numpy as np
import pytest

from lazyjax import plot, report
from lazyjax.experiments import EXPERIMENTS, Result, simon2023

pytestmark = [pytest.mark.once, pytest.mark.slow]

TINY = simon2023.Size(
    train_sizes=(20, 100),
    num_examples=300,
    num_draws=20,
    num_networks=2,
    width=256,
    num_steps=200,
)


@pytest.fixture(scope="module")
def result() -> simon2023.Simon2023Result:
    return simon2023.run(size=TINY, seed=1)


def test_forecasts_are_reproduced(result: simon2023.Simon2023Result):
    assert isinstance(result, Result)  # as the registry has it
    assert EXPERIMENTS["simon2023"].run is simon2023.run
    assert result.verdict.startswith("reproduced: ")
    # Networks come near, and fit what they are trained on.
    ratio = result.networks.mean(axis=1) / result.regression.mean(axis=1)
    assert np.all((ratio > 0.8) & (ratio < 1.4))
    assert result.network_losses[0].max() < 1e-4


def test_another_curve_is_not(result):
    """A forecast for labels that are unrelated to the digits."""
    shuffled = dataclasses.replace(
        result.curve, test_error=result.curve.test_error * 0 + 0.09
    )
    other = dataclasses.replace(result, curve=shuffled)
    assert other.verdict.startswith("not reproduced: ")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(result):
    again = simon2023.run(size=dataclasses.replace(TINY, num_networks=2), seed=1)
    assert report.json_bytes(again.summary()) == report.json_bytes(result.summary())


def test_it_can_be_shown(result):
    (table,) = result.tables()
    assert table.row_count == 2
    assert plot.png_bytes(result.figure()).startswith(b"\x89PNG")


@pytest.mark.usefixtures("own_errors")
def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="`size` must be one of 'quick', 'full'"):
        simon2023.run(size="huge")
    with pytest.raises(ValueError, match="`seed`"):
        simon2023.run(size=TINY, seed=-1)
