"""How kernels, and targets, lie to one another."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from lazyjax._checks import check_at_least, check_floating
from lazyjax.linalg import eigh, frobenius_norm, singular_values
from lazyjax.typing import AnyArray


def center(kernel: Inexact[AnyArray, "n n"]) -> Inexact[Array, "n n"]:
    r"""Centred kernel $C K C$, $C = 1 - \mathbb{1} \mathbb{1}^\top / n$.

    It is the kernel of features from which their mean over examples is taken away: of
    the logarithm of a wave function at its own samples, that of stochastic
    reconfiguration.

    Args:
        kernel: One number for each pair of examples, real or complex.

    Returns:
        The centred kernel, whose rows and columns add up to zero.

    Raises:
        ValueError: If the kernel is not square.
        TypeError: If it is neither floating point nor complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> spectrum.center(jnp.eye(2)).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    check_floating("kernel", kernel, allow_complex=True)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"`kernel` must have shape (n, n); got {kernel.shape}.")
    rows = jnp.asarray(kernel) - jnp.mean(kernel, axis=0, keepdims=True)
    return rows - jnp.mean(rows, axis=1, keepdims=True)


def alignment(
    first: Float[AnyArray, "n n"],
    second: Float[AnyArray, "n n"],
    *,
    centered: bool = True,
) -> Float[Array, ""]:
    r"""Alignment $\langle A, B \rangle_F / (\lVert A \rVert_F \lVert B \rVert_F)$.

    Args:
        first: Kernel.
        second: Kernel of the same examples.
        centered: Whether both are centred first; then it is known as CKA.

    Returns:
        The alignment: between 0 and 1 for positive semidefinite kernels, NaN if one of
        them is zero, once centred.

    Raises:
        ValueError: If shapes differ, or are not square.
        TypeError: If a kernel is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> kernel = jnp.array([[2.0, 1.0], [1.0, 2.0]])
        >>> float(spectrum.alignment(kernel, jnp.eye(2), centered=False))
        0.894427

    References:
        Cortes, Mohri and Rostamizadeh (2012), JMLR 13, Definition 4 (number not
        checked).
    """
    _check_same_shape(first, second)
    centred = [center(kernel) for kernel in (first, second)]
    kernels = centred if centered else (first, second)
    first, second = (kernel / frobenius_norm(kernel) for kernel in kernels)
    return jnp.sum(first * second)


def target_alignment(
    kernel: Float[AnyArray, "n n"], y: Float[AnyArray, "n k"], *, centered: bool = True
) -> Float[Array, ""]:
    r"""Alignment of a kernel with targets: with the kernel $y y^\top$.

    Args:
        kernel: One number for each pair of examples.
        y: Targets.
        centered: Whether both are centred first.

    Returns:
        The alignment, between 0 and 1; NaN if all targets, or all rows of the kernel, are
        the same.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If an argument is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> y = jnp.array([[1.0], [-1.0], [0.0]])
        >>> float(spectrum.target_alignment(y @ y.T + 1, y))
        1.0
    """
    check_floating("y", y)
    if y.ndim != 2 or y.shape[0] != kernel.shape[0]:
        raise ValueError(
            f"`y` must have shape (n, k), with n = {kernel.shape[0]}; got {y.shape}."
        )
    if centered:
        # Before the product, in which a large mean would cover all else.
        y = y - jnp.mean(y, axis=0, keepdims=True)
    return alignment(kernel, jnp.matmul(y, y.T, precision="highest"), centered=centered)


def subspace_angles(
    first: Float[AnyArray, "n n"], second: Float[AnyArray, "n n"], num_directions: int
) -> Float[Array, " k"]:
    """Principal angles between the leading eigenspaces of two kernels.

    Args:
        first: Kernel.
        second: Kernel of the same examples.
        num_directions: Dimension `k` of the spaces.

    Returns:
        The angles in radians, ascending, from 0 to pi / 2. Where the k-th and the next
        eigenvalue are equal, the space is not unique.

    Raises:
        ValueError: If shapes differ, or there are fewer than `num_directions` rows.
        TypeError: If `num_directions` is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> angles = spectrum.subspace_angles(
        ...     jnp.diag(jnp.array([2.0, 1.0])), jnp.diag(jnp.array([1.0, 2.0])), 1
        ... )
        >>> round(float(angles[0]), 5)
        1.5708
    """
    check_at_least("num_directions", num_directions, 1)
    _check_same_shape(first, second)
    if num_directions > first.shape[0]:
        raise ValueError(
            f"`num_directions` must be at most the number of rows, {first.shape[0]}; got "
            f"{num_directions}."
        )
    a, b = (
        eigh(jnp.asarray(kernel)).vectors[:, -num_directions:]
        for kernel in (first, second)
    )
    cosines = jnp.matmul(a.T, b, precision="highest")
    # Small angles by their sines: cosines near 1 have no digits left for them.
    sines = singular_values(b - jnp.matmul(a, cosines, precision="highest"))[::-1]
    cosines = singular_values(cosines)
    return jnp.arctan2(sines, cosines)


def _check_same_shape(first: AnyArray, second: AnyArray) -> None:
    if first.shape != second.shape:
        raise ValueError(
            "`first` and `second` must be kernels of the same examples; got shapes "
            f"{first.shape} and {second.shape}."
        )
