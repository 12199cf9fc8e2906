"""Warnings about singular kernels, and errors about matrices that are no kernels."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lazyjax.typing import AnyArray

# Largest product of time and cutoff at which directions below the cutoff have not moved.
_SMALL_PROGRESS = 0.01

# Share of the targets beyond which dropping it is worth a warning.
_SMALL_SHARE = 1e-3


class SingularKernelWarning(UserWarning):
    """A singular kernel cannot fit a part of the targets, which was dropped."""


def share_of(
    part: Float[Array, "*batch n m"], whole: Float[AnyArray, "*batch n m"]
) -> Float[Array, "*batch"]:
    """Sum of squares of `part` over that of `whole`; 0 if both are zero."""
    largest = jnp.max(jnp.abs(jnp.asarray(whole)), axis=(-2, -1), keepdims=True)
    scale = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    squares = [jnp.sum(jnp.square(a / scale), axis=(-2, -1)) for a in (part, whole)]
    return squares[0] / jnp.where(squares[1] > 0, squares[1], 1)


def is_long(
    time: Float[Array, "*times"], cutoff: Float[Array, "*batch"]
) -> Bool[Array, "*times"]:
    """Whether a time of gradient flow is too long for eigenvalues up to the cutoff."""
    # Their directions may have decayed by then or not: they are taken not to have moved,
    # as at infinite time. Of a kernel of zeros the cutoff is 0.
    return jnp.isinf(time) | (
        jnp.where(jnp.isinf(time), 0, time) * cutoff > _SMALL_PROGRESS
    )


def check_semidefinite(
    name: str,
    *,
    asymmetry: Float[AnyArray, ""],
    smallest: Float[AnyArray, ""],
    scale: Float[AnyArray, ""],
) -> None:
    """Check that a matrix is a kernel up to rounding, where values are known: not in `jit`."""
    # Given are the Frobenius norm of its difference from its transpose, its smallest
    # eigenvalue and its Frobenius norm.
    tolerance = float(jnp.finfo(scale.dtype).eps) ** 0.5
    if _known_false(asymmetry <= tolerance * scale):
        raise ValueError(
            f"`{name}` must be symmetric, a kernel of the training points with "
            f"themselves; it differs from its transpose by {asymmetry:.2g} in Frobenius "
            "norm."
        )
    if _known_false(smallest >= -tolerance * scale):
        raise ValueError(
            f"`{name}` must be positive semidefinite; its smallest eigenvalue is "
            f"{smallest:.2g}, beyond what rounding explains."
        )


def _known_false(condition: Any) -> bool:
    """Whether `condition` is false, where its value is known: not under `jit`."""
    try:
        return not bool(condition)
    except jax.errors.ConcretizationTypeError:
        return False


def warn_of_dropped(
    name: str,
    num_dropped: Int[Array, ""],
    share: Float[Array, ""],
    *,
    remedy: str,
    stacklevel: int,
) -> None:
    """Warn of targets that are not fitted, where values are known: not under `jit`."""
    try:
        known_share, known_number = float(share), int(num_dropped)
    except jax.errors.ConcretizationTypeError:
        return
    if known_share > _SMALL_SHARE:
        warnings.warn(
            f"`{name}` is singular to rounding: {known_number} of its directions are "
            f"dropped, and with them {known_share:.2g} of the targets' sum of squares, "
            f"which is not fitted. {remedy}",
            SingularKernelWarning,
            stacklevel=stacklevel + 1,
        )
