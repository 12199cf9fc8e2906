"""Kernels of several outputs as matrices, and back."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Inexact

from lazyjax._checks import check_at_least
from lazyjax.typing import AnyArray


def gram_matrix(
    ntk: Inexact[AnyArray, "n1 n2 *kk"],
) -> Inexact[Array, "rows columns"]:
    r"""Matrix of a kernel `(n1, n2, k, k)`, or `(n1, n2)`, which it is already.

    Row `i * k + a` belongs to output `a` of example `i`: the matrix acts on outputs
    `(n2, k)` flattened. `kernel_blocks` is the inverse.

    An `infinite_ntk` $\Theta$ has the shape `(n1, n2)`, one number for each pair of
    examples: in the limit, outputs have equal kernels and none with one another. So the
    `empirical_ntk` of a wide network, in the ntk parameterization, comes near to

    * $\Theta$ as `outputs="pseudo"`, as a class index, or, with one output, as its matrix;
    * $k \Theta$ as `outputs="trace"`;
    * $\Theta \otimes I_k$, `jnp.kron(theta, jnp.eye(k))`, as the matrix of all outputs.

    Args:
        ntk: Kernel.

    Returns:
        The matrix, of shape `(n1 * k, n2 * k)`, or `(n1, n2)`.

    Raises:
        ValueError: If the kernel has another shape.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> from lazyjax.linalg import gram_matrix
        >>> gram_matrix(jnp.arange(4.0).reshape(1, 1, 2, 2)).tolist()
        [[0.0, 1.0], [2.0, 3.0]]
        >>> net, x = lazyjax.nets.mlp(width=4096), jnp.array([[1.0, 0.5], [0.0, 2.0]])
        >>> ntk = lazyjax.empirical_ntk(net.apply, net.init(jax.random.key(0), x), x)
        >>> limit = lazyjax.infinite_ntk(net.architecture, x)
        >>> bool(jnp.allclose(gram_matrix(ntk), limit, rtol=0.1))
        True
    """
    ntk = jnp.asarray(ntk)
    if ntk.ndim == 2:
        return ntk
    if ntk.ndim != 4 or ntk.shape[2] != ntk.shape[3]:
        raise ValueError(
            '`ntk` must have shape (n1, n2, k, k), that of `outputs="full"` or "flat", or '
            f"(n1, n2); got {ntk.shape}."
        )
    n1, n2, k, _ = ntk.shape
    split = jax.typeof(ntk).sharding  # over explicit axes of a mesh, if there are any
    out = NamedSharding(split.mesh, PartitionSpec(*split.spec[:2]))
    return jnp.reshape(
        jnp.transpose(ntk, (0, 2, 1, 3)),
        (n1 * k, n2 * k),
        out_sharding=out if any(split.spec) else None,
    )


def kernel_blocks(
    matrix: Float[AnyArray, "rows columns"], num_outputs: int
) -> Float[Array, "n1 n2 k k"]:
    """Kernel `(n1, n2, k, k)` of a matrix `(n1 * k, n2 * k)`: undoes `gram_matrix`.

    Args:
        matrix: Matrix, the outputs of each example side by side.
        num_outputs: Number of outputs `k`.

    Returns:
        The kernel, a block of outputs for each pair of examples.

    Raises:
        TypeError: If `num_outputs` is not an integer.
        ValueError: If `num_outputs` is not positive, or does not divide both sizes of the
            matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.linalg import gram_matrix, kernel_blocks
        >>> theta = jnp.array([[2.0, 1.0], [1.0, 3.0]])  # as `infinite_ntk`
        >>> ntk = kernel_blocks(jnp.kron(theta, jnp.eye(2)), 2)
        >>> ntk[0, 1].tolist(), bool((gram_matrix(ntk)[::2, ::2] == theta).all())
        ([[1.0, 0.0], [0.0, 1.0]], True)
    """
    check_at_least("num_outputs", num_outputs, 1)
    matrix = jnp.asarray(matrix)
    if matrix.ndim != 2 or any(size % num_outputs for size in matrix.shape):
        raise ValueError(
            "`matrix` must have two sizes that `num_outputs` divides; got shape "
            f"{matrix.shape} and {num_outputs} outputs."
        )
    rows, columns = matrix.shape
    blocks = matrix.reshape(
        rows // num_outputs, num_outputs, columns // num_outputs, num_outputs
    )
    return jnp.transpose(blocks, (0, 2, 1, 3))
