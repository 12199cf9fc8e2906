"""Sums over eigenvalues: trace, Frobenius norm, effective rank, entropy, determinant."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lazyjax._checks import check_at_least, check_nonnegative
from lazyjax.linalg import frobenius_norm
from lazyjax.spectrum.distribution import density
from lazyjax.spectrum.estimates import Estimate, exact, from_samples
from lazyjax.spectrum.operators import (
    MAX_DENSE,
    Kernel,
    ProductsFromDisk,
    checked_key,
    eigh,
    resolved,
)
from lazyjax.spectrum.operators.tiles import moments_on_disk


def trace(
    kernel: Kernel,
    *,
    key: Key[Array, ""] | None = None,
    num_samples: int = 64,
    max_dense: int = MAX_DENSE,
) -> Estimate:
    r"""Trace of a kernel, the sum of its eigenvalues.

    Of a large operator it is the mean of $z^\top A z$ over random signs $z$. Of an
    `NTKOperator`, `lazyjax.ntk_diagonal` gives it exactly, by one gradient an output.

    Args:
        kernel: Matrix, kernel or operator; see `lazyjax.spectrum`.
        key: Source of random vectors; needed for operators of more than `max_dense` rows.
        num_samples: Random vectors, at least 2; each takes one product.
        max_dense: Largest number of rows of an operator that is made into a matrix.

    Returns:
        The trace, exact if the kernel is a matrix, made into one, or a store, which is
        read once, tile by tile.

    Raises:
        ValueError: As `eigh` says, if a key is needed and there is none, or if
            `num_samples` is below 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> float(spectrum.trace(jnp.array([[2.0, 1.0], [1.0, 2.0]])).value)
        4.0

    References:
        Hutchinson (1990), Commun. Stat. Simul. Comput. 19, 433-450.
    """
    value, _, samples = _moments(kernel, key, num_samples, max_dense)
    if samples is None:
        return exact(value)
    return from_samples(samples, value, jnp.array([1.0, 0.0], value.dtype))


def frobenius(
    kernel: Kernel,
    *,
    key: Key[Array, ""] | None = None,
    num_samples: int = 64,
    max_dense: int = MAX_DENSE,
) -> Estimate:
    r"""Frobenius norm of a kernel, the root of the sum of its squared eigenvalues.

    Of a large operator it is the root of the mean of $\lVert A z \rVert^2$ over random
    signs $z$.

    Args:
        kernel: As in `trace`.
        key: As in `trace`.
        num_samples: As in `trace`.
        max_dense: As in `trace`.

    Returns:
        The norm, exact where the trace is.

    Raises:
        ValueError: As `trace` says.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> float(spectrum.frobenius(jnp.diag(jnp.array([3.0, 4.0]))).value)
        5.0
    """
    _, value, samples = _moments(kernel, key, num_samples, max_dense)
    if samples is None:
        return exact(value)
    gradient = jnp.array([0.0, 0.5], value.dtype) / jnp.where(value > 0, value, 1)
    return from_samples(samples, value, gradient)


def effective_rank(
    kernel: Kernel,
    *,
    key: Key[Array, ""] | None = None,
    num_samples: int = 64,
    max_dense: int = MAX_DENSE,
) -> Estimate:
    r"""Effective rank $(\operatorname{tr} A)^2 / \lVert A \rVert_F^2$ of a kernel.

    Also called participation ratio. It is the rank if all eigenvalues but those that are
    zero are equal, and less otherwise.

    Args:
        kernel: As in `trace`.
        key: As in `trace`.
        num_samples: As in `trace`.
        max_dense: As in `trace`.

    Returns:
        The effective rank, NaN if the kernel is zero; exact where the trace is.

    Raises:
        ValueError: As `trace` says.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> float(spectrum.effective_rank(jnp.eye(3)).value)
        3.0
    """
    total, norm, samples = _moments(kernel, key, num_samples, max_dense)
    value = (total / norm) ** 2
    if samples is None:
        return exact(value)
    gradient = jnp.stack([2 * total, -value]) / norm**2
    return from_samples(samples, value, gradient)


def entropy(
    kernel: Kernel,
    *,
    key: Key[Array, ""] | None = None,
    num_samples: int = 16,
    num_steps: int = 64,
    max_dense: int = MAX_DENSE,
) -> Estimate:
    r"""Von Neumann entropy $-\sum_i p_i \log p_i$, $p_i = \lambda_i / \operatorname{tr} A$.

    Its exponential is a number of eigenvalues, as the effective rank is.

    Args:
        kernel: As in `density`.
        key: As in `density`.
        num_samples: As in `density`.
        num_steps: As in `density`.
        max_dense: As in `density`.

    Returns:
        The entropy in nats, NaN if the kernel is zero; exact if the kernel is a matrix or
        made into one. The error of quadrature is not part of the standard error.

    Raises:
        ValueError: As `density` says.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> float(jnp.exp(spectrum.entropy(jnp.eye(3)).value))
        3.0
    """
    found = density(
        kernel,
        key=key,
        num_samples=num_samples,
        num_steps=num_steps,
        max_dense=max_dense,
    )
    size = kernel.shape[0] * (kernel.shape[2] if len(kernel.shape) == 4 else 1)
    nodes = jnp.maximum(found.nodes, 0)
    # x log x is 0 at 0.
    products = nodes * jnp.log(jnp.where(nodes > 0, nodes, 1))
    terms = jnp.stack([nodes, products], axis=-1)
    samples = size * jnp.sum(found.weights[..., None] * terms, axis=1)
    total, product = jnp.mean(samples, axis=0)
    value = jnp.log(total) - product / total
    if found.is_exact:
        return exact(value)
    gradient = jnp.stack([1 / total + product / total**2, -1 / total])
    return from_samples(samples, value, gradient)


def logdet(
    kernel: Kernel,
    *,
    ridge: float = 0.0,
    key: Key[Array, ""] | None = None,
    num_samples: int = 16,
    num_steps: int = 64,
    max_dense: int = MAX_DENSE,
) -> Estimate:
    r"""Log-determinant $\log \det (A + \mu I)$.

    Args:
        kernel: As in `density`.
        ridge: The $\mu$ that is added to every eigenvalue.
        key: As in `density`.
        num_samples: As in `density`.
        num_steps: As in `density`.
        max_dense: As in `density`.

    Returns:
        The log-determinant, $-\infty$ without a ridge if an eigenvalue is zero to
        rounding; exact if the kernel is a matrix or made into one. The error of
        quadrature is not part of the standard error.

    Raises:
        ValueError: As `density` says, if `ridge` is negative, or zero for an operator of
            more than `max_dense` rows, whose smallest eigenvalues are not resolved.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> float(spectrum.logdet(jnp.diag(jnp.array([1.0, jnp.e]))).value)
        1.0
    """
    check_nonnegative("ridge", ridge, infinity_allowed=False)
    matrix = resolved(kernel, max_dense)
    if isinstance(matrix, jax.Array):
        values, _, cutoff = eigh(matrix)
        values = jnp.where(values > cutoff, values, 0) + ridge
        return exact(jnp.sum(jnp.log(values)))
    if ridge == 0:
        raise ValueError(
            "`ridge` must be positive for an operator of more than `max_dense` rows: its "
            "smallest eigenvalues are not resolved; got 0."
        )
    found = density(
        kernel,
        key=key,
        num_samples=num_samples,
        num_steps=num_steps,
        max_dense=max_dense,
    )
    mean = found.mean(lambda nodes: jnp.log(jnp.maximum(nodes, 0) + ridge))
    size = matrix.shape[0]
    return Estimate(
        value=size * mean.value,
        standard_error=size * mean.standard_error,
        num_samples=mean.num_samples,
    )


def _moments(
    kernel: Kernel, key: Key[Array, ""] | None, num_samples: int, max_dense: int
) -> tuple[Array, Array, Float[Array, "samples 2"] | None]:
    r"""Trace and Frobenius norm, with samples of $\operatorname{tr} A$ and $A^2$, if any."""
    check_at_least("num_samples", num_samples, 2)
    found = resolved(kernel, max_dense)
    if isinstance(found, jax.Array):
        return jnp.trace(found), frobenius_norm(found), None
    if isinstance(found, ProductsFromDisk):
        # One pass over the matrix is less than two random vectors take.
        total, square = moments_on_disk(found.store)
        return (
            jnp.asarray(total, found.dtype),
            jnp.asarray(square**0.5, found.dtype),
            None,
        )
    samples = []
    for sample_key in jax.random.split(checked_key(key, found), num_samples):
        signs = jax.random.rademacher(sample_key, found.shape[:1], found.dtype)
        samples.append(_of_vector(signs, found.mv(signs)))
    samples = jnp.stack(samples)
    total, square = jnp.mean(samples, axis=0)
    return total, jnp.sqrt(square), samples


@jax.jit
def _of_vector(signs: Array, product: Array) -> Array:
    return jnp.stack([jnp.vdot(signs, product), jnp.vdot(product, product)])
