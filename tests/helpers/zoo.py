"""Small networks that between them use parameters in every way, and their kernels."""

import functools
from typing import Any

import jax
import numpy as np

from tests.helpers import (
    oracles,
    zoo_control,
    zoo_conv,
    zoo_dense,
    zoo_frameworks,
    zoo_params,
    zoo_sequence,
)
from tests.helpers.zoo_base import ZOO

ROOMS = (zoo_dense, zoo_conv, zoo_sequence, zoo_params, zoo_control, zoo_frameworks)


NUM_ROWS1, NUM_ROWS2 = 3, 2


def batches(name: str, dtype: Any = np.float32) -> tuple[jax.Array, jax.Array]:
    """The two batches on which every network of the zoo is tried."""
    net = ZOO[name]
    return net.x(NUM_ROWS1, 0, dtype), net.x(NUM_ROWS2, 1, dtype)


def oracle(name: str, *, paired: bool) -> np.ndarray:
    """Full kernel of `batches(name)`, of the first with the second or with itself."""
    rows = _oracle(name)[:NUM_ROWS1]
    return rows[:, NUM_ROWS1:] if paired else rows[:, :NUM_ROWS1]


@functools.cache
def _oracle(name: str) -> np.ndarray:
    net = ZOO[name]
    x = np.concatenate([np.asarray(x) for x in batches(name)])
    return oracles.naive_ntk(net.apply_fn, net.params(), x)
