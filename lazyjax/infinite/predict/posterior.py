"""Gaussian processes that infinitely wide networks are at initialization."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._checks import check_nonnegative
from lazyjax.infinite.predict.grams import (
    GaussianPrediction,
    Grams,
    check_gram,
    check_grams,
    check_kernel,
    check_scalar,
    symmetric_part,
)
from lazyjax.linalg import factorized, share_of, warn_of_dropped
from lazyjax.linalg.eigen import dot
from lazyjax.typing import AnyArray

_warn = partial(
    warn_of_dropped,
    remedy="Use float64, or `noise_sq` for contradictory targets.",
    stacklevel=2,
)


def posterior(
    nngp: Grams,
    y: Float[AnyArray, "n k"],
    *,
    noise_sq: float | Float[AnyArray, ""] = 0.0,
) -> GaussianPrediction:
    r"""Posterior of the Gaussian process that networks are at initialization.

    Mean $K_* (K + \sigma^2)^{-1} y$ and covariance
    $K_{**} - K_* (K + \sigma^2)^{-1} K_*^\top$, of noiseless outputs.

    Args:
        nngp: Covariances, as by `nngp_grams`.
        y: Targets at training inputs.
        noise_sq: Variance $\sigma^2$ of noise on targets.

    Returns:
        The posterior; if directions are dropped, with the pseudo-inverse.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, `noise_sq` is negative,
            or the kernel is clearly not symmetric or not positive semidefinite. Values
            are not checked under `jit`.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.predict import Grams, posterior
        >>> one = jnp.ones((1, 1))
        >>> it = posterior(Grams(train=one, cross=one, test=one), 2 * one, noise_sq=1.0)
        >>> it.mean.item(), it.variance.item()
        (1.0, 0.5)

    References:
        Rasmussen and Williams (2006), equations 2.23 and 2.24 (not checked).
    """
    check_grams("nngp", nngp, y)
    _check_noise(noise_sq, nngp.train)
    result, smallest = _posterior(nngp, jnp.asarray(y), noise_sq)
    check_kernel("nngp.train", nngp.train, smallest)
    _warn("nngp.train", result.num_dropped, result.dropped_share)
    return result


def log_marginal_likelihood(
    nngp_train: Float[AnyArray, "n n"],
    y: Float[AnyArray, "n k"],
    *,
    noise_sq: float | Float[AnyArray, ""] = 0.0,
) -> Float[Array, ""]:
    r"""Log density of targets under the Gaussian process, summed over outputs.

    Eigenvalues of $K + \sigma^2$ that are zero to rounding, by the rule of
    `lazyjax.linalg.semidefinite`, are raised to the cutoff: for singular kernels the result is
    finite but means little, as `posterior` tells by `num_dropped` and `dropped_share`.

    Args:
        nngp_train: Covariance $K$ at training inputs.
        y: Targets.
        noise_sq: Variance $\sigma^2$ of noise on targets.

    Returns:
        $-\frac12 \sum_a y_a^\top (K + \sigma^2)^{-1} y_a - \frac k2 \log\det(2 \pi (K +
        \sigma^2))$.

    Raises:
        ValueError: As `posterior` does.
        TypeError: As `posterior` does.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.predict import log_marginal_likelihood
        >>> round(log_marginal_likelihood(jnp.eye(1), jnp.zeros((1, 1))).item(), 4)
        -0.9189
    """
    check_gram("nngp_train", nngp_train, y)
    _check_noise(noise_sq, nngp_train)
    result, smallest, num_dropped, share = _log_likelihood(
        nngp_train, jnp.asarray(y), noise_sq
    )
    check_kernel("nngp_train", nngp_train, smallest)
    _warn("nngp_train", num_dropped, share)
    return result


@jax.jit
def _posterior(
    nngp: Grams, y: Array, noise_sq: float | Array
) -> tuple[GaussianPrediction, Array]:
    """The posterior, and the smallest eigenvalue of what was inverted."""
    matrix = factorized(_with_noise(nngp.train, noise_sq))
    test, cross = jnp.asarray(nngp.test), jnp.asarray(nngp.cross)
    y = y.astype(cross.dtype)
    num_outputs = y.shape[1]
    # One solve for all: its two ways are compiled once.
    solutions = matrix.solve(jnp.concatenate([y, cross.T], axis=1))
    result = GaussianPrediction(
        mean=dot(cross, solutions[:, :num_outputs]),
        covariance=symmetric_part(test - dot(cross, solutions[:, num_outputs:])),
        condition=matrix.condition,
        num_dropped=matrix.num_dropped,
        dropped_share=share_of(matrix.dropped_part(y), y),
    )
    return result, matrix.smallest


@jax.jit
def _log_likelihood(
    nngp_train: AnyArray, y: Array, noise_sq: float | Array
) -> tuple[Array, Array, Array, Array]:
    """The likelihood, the smallest eigenvalue, how many are dropped, and their share."""
    matrix = factorized(_with_noise(nngp_train, noise_sq))
    size, num_outputs = y.shape
    dropped = matrix.dropped_part(y)
    # Nothing dropped costs nothing, also where the cutoff vanishes beside zero.
    cutoff = jnp.maximum(matrix.cutoff, jnp.finfo(y.dtype).tiny)
    quadratic = jnp.sum(y * matrix.solve(y)) + jnp.sum(dropped**2) / cutoff
    log_det = size * math.log(2 * math.pi) + matrix.log_det()
    result = -(quadratic + num_outputs * log_det) / 2
    return result, matrix.smallest, matrix.num_dropped, share_of(dropped, y)


def _with_noise(gram: AnyArray, noise_sq: float | Array) -> Array:
    gram = jnp.asarray(gram)
    noise_sq = jnp.asarray(noise_sq, gram.dtype)
    return gram + noise_sq * jnp.eye(gram.shape[0], dtype=gram.dtype)


def _check_noise(noise_sq: float | AnyArray, gram: AnyArray) -> None:
    check_nonnegative("noise_sq", noise_sq, infinity_allowed=False)
    check_scalar("noise_sq", noise_sq)
    # A number of Python may overflow in the kernel's dtype.
    largest = float(jnp.finfo(gram.dtype).max)
    if isinstance(noise_sq, int | float) and noise_sq > largest:
        raise ValueError(
            f"`noise_sq` must be finite in the kernel's dtype, {gram.dtype}; got "
            f"{noise_sq}."
        )
