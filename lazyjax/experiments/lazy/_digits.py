"""Networks trained on a few digits at one rate, which several experiments share."""

import dataclasses
from typing import Any

from lazyjax.architecture import Architecture
from lazyjax.data import Dataset, digits
from lazyjax.infinite import infinite_ntk
from lazyjax.linalg import eigvalsh
from lazyjax.sweeps import Sweep, sweep
from lazyjax.typing import RandomKey


def odd_against_even(num_train: int, key: RandomKey, num_test: int = 0) -> Dataset:
    """Digits, odd (+1) against even (-1), with pixels of mean square 1."""
    found = digits(num_train, num_test=num_test, classes="parity", key=key)
    scale = found.x_train.shape[1] ** 0.5
    return dataclasses.replace(
        found, x_train=scale * found.x_train, x_test=scale * found.x_test
    )


def unit_rate(architecture: Architecture, data: Dataset) -> float:
    """Learning rate 1/λmax of the kernel at infinite width: half the largest stable one."""
    return 1 / float(eigvalsh(infinite_ntk(architecture, data.x_train))[-1])


def trained(
    architecture: Architecture, data: Dataset, rate: float, **options: Any
) -> Sweep:
    """Sweep at one learning rate, over widths, seeds and perhaps output scales."""
    return sweep(
        architecture, data.x_train, data.y_train, learning_rates=[rate], **options
    ).sel(learning_rate=rate)
