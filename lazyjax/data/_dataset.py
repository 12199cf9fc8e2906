"""What a data set is, and how close to parallel its inputs are."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._checks import check_batch, check_floating
from lazyjax.files.results import Storable
from lazyjax.typing import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(Storable):
    """Inputs of unit norm and floating-point targets, for training and for testing.

    Attributes:
        x_train: Training inputs, one unit-norm row per example.
        y_train: Training targets, one row per example.
        x_test: Test inputs, disjoint from the training inputs; may have no rows.
        y_test: Test targets.
        description: What the data are, in a few words.
    """

    x_train: Float[Array, "n *d"]
    y_train: Float[Array, "n k"]
    x_test: Float[Array, "n_test *d"]
    y_test: Float[Array, "n_test k"]
    description: str = dataclasses.field(metadata={"static": True})


def split(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n k"],
    num_train: int,
    *,
    description: str,
    dtype: jax.typing.DTypeLike | None,
) -> Dataset:
    """Data set of the first `num_train` rows for training and the others for testing."""
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    inputs, targets = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    inputs = inputs / jnp.linalg.norm(inputs, axis=1, keepdims=True)
    return Dataset(
        x_train=inputs[:num_train],
        y_train=targets[:num_train],
        x_test=inputs[num_train:],
        y_test=targets[num_train:],
        description=description,
    )


def minimum_angle(x: Float[AnyArray, "n d"]) -> Float[Array, ""]:
    r"""Smallest angle between the lines through two rows of `x`, in radians.

    It is 0 for two parallel (or opposite) rows and at most $\pi/2$. The kernel of an
    infinitely wide two-layer ReLU network is positive definite if it is not 0.

    Args:
        x: At least two rows, none of them zero.

    Returns:
        The angle, accurate for small angles too; NaN if a row is zero.

    Raises:
        ValueError: If there are fewer than two rows.
        TypeError: If `x` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 3.0]])
        >>> float(minimum_angle(x))  # a quarter of pi
        0.7854

    References:
        Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054 (assumption of Theorem 3.1;
        numbering not checked).
    """
    check_batch("x", x)
    check_floating("x", x)
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(
            f"`x` must have shape (n, d) with n at least 2; got shape {x.shape}."
        )
    x = jnp.asarray(x)
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    cosine = jnp.abs(jnp.matmul(x, x.T, precision="highest"))
    cosine = jnp.where(jnp.eye(x.shape[0], dtype=bool), -jnp.inf, cosine)
    i, j = jnp.unravel_index(jnp.argmax(cosine), cosine.shape)
    # Near 0 the arc cosine loses half the digits; the chord does not.
    chord = jnp.minimum(
        jnp.linalg.norm(x[i] - x[j]),
        jnp.linalg.norm(x[i] + x[j]),
    )
    return 2 * jnp.arcsin(chord / 2)
