"""Random inputs on the unit sphere, the data of most theorems."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from lazyjax._checks import check_at_least, check_choice
from lazyjax.data._dataset import Dataset, split
from lazyjax.typing import RandomKey

_Targets = Literal["sign", "normal"]


def sphere(
    num_train: int,
    num_features: int,
    *,
    key: RandomKey,
    num_test: int = 0,
    targets: _Targets = "sign",
    dtype: jax.typing.DTypeLike | None = None,
) -> Dataset:
    r"""Inputs uniform on the unit sphere of $\mathbb R^d$ with targets of pure noise.

    Args:
        num_train: Number of training examples.
        num_features: The dimension $d$ of the space, at least 2: in one dimension all
            inputs are parallel.
        key: Source of randomness.
        num_test: Number of test examples; may be 0.
        targets: Independent "sign" ($\pm 1$ with equal probability) or standard
            "normal" numbers.
        dtype: Of inputs and targets; `None` means float64 if JAX has it enabled, else
            float32.

    Returns:
        The data set; targets have one column.

    Raises:
        ValueError: If a count is too small or `targets` unknown.
        TypeError: If a count is not an integer.

    Example:
        >>> import jax
        >>> data = sphere(20, 100, key=jax.random.key(0))
        >>> data.x_train.shape, data.y_train.shape
        ((20, 100), (20, 1))
    """
    check_at_least("num_train", num_train, 1)
    check_at_least("num_features", num_features, 2)
    check_at_least("num_test", num_test, 0)
    check_choice("targets", targets, get_args(_Targets))
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    num_total = num_train + num_test
    key_x, key_y = jax.random.split(key)
    sample = jax.random.rademacher if targets == "sign" else jax.random.normal
    return split(
        jax.random.normal(key_x, (num_total, num_features), dtype),
        sample(key_y, (num_total, 1), dtype),
        num_train,
        description=f"uniform on the sphere, random {targets} targets",
        dtype=dtype,
    )
