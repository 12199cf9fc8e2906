"""Kernels on training and test inputs, and the predictions made from them."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lazyjax._checks import check_finite, check_floating, check_targets
from lazyjax.architecture import Architecture
from lazyjax.files.results import Storable
from lazyjax.infinite.kernels import infinite_nngp, infinite_ntk
from lazyjax.linalg import check_semidefinite, frobenius_norm
from lazyjax.typing import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grams(Storable):
    """One kernel on training and test inputs.

    Attributes:
        train: Training inputs with themselves.
        cross: Test inputs with training inputs.
        test: Test inputs with themselves.
    """

    train: Float[AnyArray, "n n"]
    cross: Float[AnyArray, "m n"]
    test: Float[AnyArray, "m m"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianPrediction(Storable):
    r"""Gaussian distribution of outputs at test inputs.

    Attributes:
        mean: Mean of each output.
        covariance: Covariance between test inputs, the same for every output.
        condition: Largest over smallest eigenvalue of the matrix that was inverted (or
            would be at infinite time), infinite if directions are dropped; an estimate
            from below, by less than a factor of 2, where nothing but a solve is needed.
        num_dropped: Its eigenvalues that are zero to rounding, by the rule of
            `lazyjax.linalg.semidefinite`: what they belong to is not fitted at all, but at
            times too short for them to matter, up to 0.01 over the cutoff.
        dropped_share: Share of the sum of squares of the targets that lies there. Where
            it is not fitted, a share above 1e-3 is warned of, where values are known:
            under `jit`, look here.
    """

    mean: Float[Array, "m k"]
    covariance: Float[Array, "m m"]
    condition: Float[Array, ""]
    num_dropped: Int[Array, ""]
    dropped_share: Float[Array, ""]

    @property
    def variance(self) -> Float[Array, " m"]:
        """Variance at each test input; negative by rounding, if at all."""
        return jnp.diagonal(self.covariance)


def nngp_grams(
    architecture: Architecture,
    x_train: Float[AnyArray, "n *d"],
    x_test: Float[AnyArray, "m *d"],
) -> Grams:
    """`infinite_nngp` on training and test inputs.

    Args:
        architecture: Description of the network.
        x_train: Training inputs.
        x_test: Test inputs.

    Returns:
        The three Gram matrices.
    """
    return _grams(partial(infinite_nngp, architecture), x_train, x_test)


def ntk_grams(
    architecture: Architecture,
    x_train: Float[AnyArray, "n *d"],
    x_test: Float[AnyArray, "m *d"],
    *,
    width: int | None = None,
) -> Grams:
    """`infinite_ntk` on training and test inputs.

    Args:
        architecture: Description of the network.
        x_train: Training inputs.
        x_test: Test inputs.
        width: Units of each layer, for "standard" parameterization only.

    Returns:
        The three Gram matrices.
    """
    return _grams(partial(infinite_ntk, architecture, width=width), x_train, x_test)


def _grams(kernel: Callable[..., Array], x_train: AnyArray, x_test: AnyArray) -> Grams:
    return Grams(
        train=kernel(x_train), cross=kernel(x_test, x_train), test=kernel(x_test)
    )


def symmetric_part(matrix: Array) -> Array:
    """Mean of a matrix and its transpose."""
    return (matrix + matrix.T) / 2


def check_gram(name: str, gram: AnyArray, y: AnyArray) -> None:
    """Check that a kernel is a square matrix that fits the targets."""
    check_floating(name, gram)
    check_finite(name, gram)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0:
        raise ValueError(f"`{name}` must be a square matrix; got shape {gram.shape}.")
    check_targets("y", y, gram.shape[0], y.shape[-1] if y.ndim == 2 else 1)


def check_grams(name: str, grams: object, y: AnyArray) -> None:
    """Check the three kernels that predictions read."""
    if not isinstance(grams, Grams):
        raise TypeError(
            f"`{name}` must be Grams, as by `nngp_grams`; got {type(grams).__name__}."
        )
    check_gram(f"{name}.train", grams.train, y)
    n = grams.train.shape[0]
    for field, gram in (("cross", grams.cross), ("test", grams.test)):
        check_floating(f"{name}.{field}", gram)
        check_finite(f"{name}.{field}", gram)
    m = grams.cross.shape[0]
    if grams.cross.shape != (m, n) or grams.test.shape != (m, m):
        raise ValueError(
            f"`{name}` must have shapes (n, n), (m, n) and (m, m); got "
            f"{grams.train.shape}, {grams.cross.shape} and {grams.test.shape}."
        )


def check_kernel(name: str, gram: AnyArray, smallest: Array) -> None:
    """Check that a kernel is symmetric and positive semidefinite to rounding."""
    gram = jnp.asarray(gram)
    check_semidefinite(
        name,
        asymmetry=frobenius_norm(gram - gram.T),
        smallest=smallest,
        scale=frobenius_norm(gram),
    )


def check_scalar(name: str, value: float | AnyArray) -> None:
    """Check that `value` is one number."""
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"`{name}` must be one number; got shape {jnp.shape(value)}. Map over "
            "several with `jax.vmap`."
        )
