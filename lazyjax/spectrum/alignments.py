"""Alignments and angles between kernels, and of kernels with targets.

Alignments and angles are of one number for each pair of examples, `(n, n)`. Of a kernel
of several outputs, `(n, n, k, k)`, that is its sum over equal outputs.
"""

from typing import overload

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Key

from lazyjax._checks import check_at_least, check_floating
from lazyjax.linalg import eigh, frobenius_norm, singular_values
from lazyjax.ntk.operator import NTKOperator
from lazyjax.spectrum.operators import (
    MAX_DENSE,
    Kernel,
    LinearOperator,
    MatrixOnDisk,
    as_operator,
    checked_key,
    formed,
)
from lazyjax.spectrum.operators.lanczos import lanczos
from lazyjax.spectrum.operators.tiles import (
    alignment_by_tiles,
    pairs_of,
    pairs_of_targets,
)
from lazyjax.spectrum.operators.views import (
    CenteredOperator,
    outputs_of,
    summed_over_outputs,
)
from lazyjax.typing import AnyArray

# Angle by which leading eigenvectors of an operator may be off.
RESOLUTION = 0.01


@overload
def center(kernel: Inexact[AnyArray, "n n *kk"]) -> Inexact[Array, "n n *kk"]: ...
@overload
def center(kernel: LinearOperator | MatrixOnDisk) -> CenteredOperator: ...
def center(kernel: Kernel) -> Inexact[Array, "n n *kk"] | CenteredOperator:
    r"""Centred kernel $C K C$, $C = 1 - \mathbb{1} \mathbb{1}^\top / n$.

    It is the kernel of features from which their mean over examples is taken away: of
    the logarithm of a wave function at its own samples, that of stochastic
    reconfiguration.

    Args:
        kernel: One number for each pair of examples, real or complex, or one for each
            pair of outputs too; or a store or an operator.

    Returns:
        The centred kernel, whose rows and columns add up to zero over examples. Of a
        store or an operator, an operator, which `lazyjax.spectrum` takes.

    Raises:
        ValueError: If the kernel is not square.
        TypeError: If it is neither floating point nor complex, nor an operator.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> spectrum.center(jnp.eye(2)).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    if not isinstance(kernel, AnyArray):
        return CenteredOperator(as_operator("kernel", kernel), outputs_of(kernel))
    check_floating("kernel", kernel, allow_complex=True)
    if kernel.ndim not in (2, 4) or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            f"`kernel` must have shape (n, n) or (n, n, k, k); got {kernel.shape}."
        )
    rows = jnp.asarray(kernel) - jnp.mean(kernel, axis=0, keepdims=True)
    return rows - jnp.mean(rows, axis=1, keepdims=True)


def alignment(
    first: Kernel,
    second: Kernel,
    *,
    centered: bool = True,
    max_dense: int = MAX_DENSE,
) -> Float[Array, ""]:
    r"""Alignment $\langle A, B \rangle_F / (\lVert A \rVert_F \lVert B \rVert_F)$.

    Args:
        first: Matrix, kernel, store or `NTKOperator`.
        second: The same of the same examples.
        centered: Whether both are centred first; then it is known as CKA.
        max_dense: Largest number of examples of a store or an operator that is made into
            a matrix. Of more, tiles are read or computed one after the other.

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
    _check_same_examples(first, second)
    a = _in_memory("first", first, max_dense)
    b = _in_memory("second", second, max_dense)
    if a is not None and b is not None:
        return _alignment(a, b, centered)
    pairs = pairs_of("first", first), pairs_of("second", second)
    return jnp.asarray(alignment_by_tiles(*pairs, centered=centered), first.dtype)


def target_alignment(
    kernel: Kernel,
    y: Float[AnyArray, "n k"],
    *,
    centered: bool = True,
    max_dense: int = MAX_DENSE,
) -> Float[Array, ""]:
    r"""Alignment of a kernel with targets: with the kernel $y y^\top$.

    Args:
        kernel: Matrix, kernel, store or `NTKOperator`.
        y: Targets.
        centered: Whether both are centred first.
        max_dense: As in `alignment`.

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
    n = _num_examples("kernel", kernel)
    if y.ndim != 2 or y.shape[0] != n:
        raise ValueError(f"`y` must have shape (n, k), with n = {n}; got {y.shape}.")
    if centered:
        # Before the product, in which a large mean would cover all else.
        y = y - jnp.mean(y, axis=0, keepdims=True)
    matrix = _in_memory("kernel", kernel, max_dense)
    if matrix is not None:
        products = jnp.matmul(y, y.T, precision="highest")
        return _alignment(matrix, products, centered)
    pairs = pairs_of("kernel", kernel), pairs_of_targets(y)
    return jnp.asarray(alignment_by_tiles(*pairs, centered=centered), kernel.dtype)


def subspace_angles(
    first: Kernel,
    second: Kernel,
    num_directions: int,
    *,
    key: Key[Array, ""] | None = None,
    num_steps: int = 100,
    max_dense: int = MAX_DENSE,
) -> Float[Array, " k"]:
    """Principal angles between the leading eigenspaces of two kernels.

    Args:
        first: Matrix, kernel, store or operator.
        second: The same of the same examples.
        num_directions: Dimension `k` of the spaces.
        key: Source of random vectors; needed for stores and operators of more than
            `max_dense` examples, whose leading eigenvectors are found by Lanczos'
            iteration.
        num_steps: Products with each of those.
        max_dense: As in `alignment`.

    Returns:
        The angles in radians, ascending, from 0 to pi / 2. Where the k-th and the next
        eigenvalue are equal, the space is not unique.

    Raises:
        ValueError: If shapes differ, there are fewer than `num_directions` rows, or
            `num_steps` products do not show the leading space to 0.01 radians.
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
    check_at_least("num_steps", num_steps, 1)
    n = _check_same_examples(first, second)
    if num_directions > n:
        raise ValueError(
            f"`num_directions` must be at most the number of examples, {n}; got "
            f"{num_directions}."
        )
    spaces = []
    for name, kernel in (("first", first), ("second", second)):
        matrix = _in_memory(name, kernel, max_dense)
        if matrix is not None:
            spaces.append(eigh(matrix).vectors[:, -num_directions:])
        else:
            operator = summed_over_outputs(name, kernel)
            checked = checked_key(key, operator)
            spaces.append(_leading(name, operator, num_directions, num_steps, checked))
    a, b = spaces
    cosines = jnp.matmul(a.T, b, precision="highest")
    # Small angles by their sines: cosines near 1 have no digits left for them.
    sines = singular_values(b - jnp.matmul(a, cosines, precision="highest"))[::-1]
    cosines = singular_values(cosines)
    return jnp.arctan2(sines, cosines)


def _alignment(
    first: Float[Array, "n n"], second: Float[Array, "n n"], centered: bool
) -> Float[Array, ""]:
    if centered:
        first, second = center(first), center(second)
    first, second = (kernel / frobenius_norm(kernel) for kernel in (first, second))
    return jnp.sum(first * second)


def _leading(
    name: str,
    operator: LinearOperator,
    num_directions: int,
    num_steps: int,
    key: Key[Array, ""],
) -> Float[Array, "n k"]:
    """Leading eigenvectors, if the iteration shows them."""
    section = lanczos(operator, num_steps, key)
    num_steps = section.values.size
    chosen = section.vectors[:, -num_directions:]
    vectors = jnp.matmul(section.basis.T, chosen, precision="highest")
    products = jnp.stack([operator.mv(column) for column in vectors.T], axis=1)
    values = section.values[-num_directions:]
    residual = frobenius_norm(products - vectors * values[None])
    gap = values[0] - section.values[-num_directions - 1 :][0]
    # Davis and Kahan's bound of the sine of the angle between the spaces.
    if num_steps <= num_directions or not residual <= RESOLUTION * gap:
        raise ValueError(
            f"`num_steps` must be larger: {num_steps} products do not tell the "
            f"{num_directions} leading eigenvectors of `{name}` from the others."
        )
    return vectors


def _in_memory(name: str, kernel: Kernel, max_dense: int) -> Float[Array, "n n"] | None:
    """One number for each pair of examples as a matrix, unless those are too many."""
    if isinstance(kernel, AnyArray):
        check_floating(name, kernel)
        _num_examples(name, kernel)
        matrix = jnp.asarray(kernel)
        return jnp.trace(matrix, axis1=2, axis2=3) if matrix.ndim == 4 else matrix
    n = _num_examples(name, kernel)
    if n > max_dense:
        return None
    operator = as_operator(name, kernel)
    if not isinstance(kernel, MatrixOnDisk | NTKOperator):
        return jnp.asarray(formed(operator))
    every = slice(0, n)
    entries = pairs_of(name, kernel).entries(every, every)
    return jnp.asarray(entries, operator.dtype)


def _num_examples(name: str, kernel: Kernel) -> int:
    """Examples of a kernel of one batch with itself."""
    if not isinstance(kernel, AnyArray):
        as_operator(name, kernel)  # refuses what is none
    shape = tuple(kernel.shape)
    is_of_pairs = isinstance(kernel, AnyArray | MatrixOnDisk)
    if (len(shape) != 2 and not (is_of_pairs and len(shape) == 4)) or (
        shape[0] != shape[1] or shape[0] == 0
    ):
        raise ValueError(
            f"`{name}` must have shape (n, n) or (n, n, k, k), and n > 0; got {shape}."
        )
    return shape[0] if is_of_pairs else shape[0] // outputs_of(kernel)


def _check_same_examples(first: Kernel, second: Kernel) -> int:
    sizes = _num_examples("first", first), _num_examples("second", second)
    if sizes[0] != sizes[1]:
        raise ValueError(
            "`first` and `second` must be kernels of the same examples; got "
            f"{sizes[0]} and {sizes[1]} of them."
        )
    return sizes[0]
