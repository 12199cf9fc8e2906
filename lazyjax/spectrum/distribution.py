"""How eigenvalues are distributed."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lazyjax._checks import check_at_least, check_flag, check_positive
from lazyjax.files.results import Storable
from lazyjax.linalg import eigvalsh
from lazyjax.spectrum.estimates import Estimate, exact, from_samples
from lazyjax.spectrum.operators import (
    MAX_DENSE,
    Kernel,
    check_eigenvalues,
    checked_key,
    resolved,
)
from lazyjax.spectrum.operators.lanczos import lanczos
from lazyjax.typing import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Density(Storable):
    """Share of eigenvalues at each of some nodes, for each random vector.

    Attributes:
        nodes: Ritz values, or the eigenvalues themselves in a single row.
        weights: Share of eigenvalues at each; rows add up to 1.
        is_exact: Whether nodes are the eigenvalues.
    """

    nodes: Float[Array, "samples nodes"]
    weights: Float[Array, "samples nodes"]
    is_exact: bool = dataclasses.field(metadata={"static": True})

    def mean(self, fn: Callable[[Array], Array]) -> Estimate:
        r"""Mean of a function over eigenvalues, $\operatorname{tr} f(A) / m$.

        Args:
            fn: Function of one eigenvalue, applied to arrays. It should be smooth, such
                that polynomials of twice as many degrees as there were steps follow it:
                the error of that is not part of the standard error.

        Returns:
            The mean.
        """
        samples = jnp.sum(self.weights * fn(self.nodes), axis=1)
        value = jnp.mean(samples)
        if self.is_exact:
            return exact(value)
        return from_samples(samples[:, None], value, jnp.ones(1, value.dtype))

    def cumulative(self, points: Float[AnyArray, " points"]) -> Estimate:
        """Share of eigenvalues up to each point.

        Args:
            points: Where.

        Returns:
            The shares. Their errors are those over random vectors: between nodes, a
            spectrum without gaps is resolved no finer than the nodes are.
        """

        def share(point: Array) -> Estimate:
            return self.mean(lambda nodes: (nodes <= point).astype(nodes.dtype))

        points = jnp.asarray(points)
        return jax.vmap(share)(points)

    def smoothed(self, points: Float[AnyArray, " points"], *, width: float) -> Estimate:
        """Density, smoothed by Gaussians.

        Args:
            points: Where.
            width: Standard deviation of the Gaussians, in units of eigenvalues.

        Returns:
            The density at each point; it integrates to 1.

        Raises:
            ValueError: If `width` is not positive.
        """
        check_positive("width", width)

        def at(point: Array) -> Estimate:
            return self.mean(
                lambda nodes: jax.scipy.stats.norm.pdf(nodes, point, width)
            )

        return jax.vmap(at)(jnp.asarray(points))


def density(
    kernel: Kernel,
    *,
    key: Key[Array, ""] | None = None,
    num_samples: int = 16,
    num_steps: int = 64,
    max_dense: int = MAX_DENSE,
    semidefinite: bool = True,
) -> Density:
    """Distribution of the eigenvalues of a kernel, by stochastic Lanczos quadrature.

    Args:
        kernel: Matrix, kernel or operator; see `lazyjax.spectrum`.
        key: Source of random vectors; needed for operators of more than `max_dense` rows.
        num_samples: Random vectors, at least 2.
        num_steps: Products with the operator for each.
        max_dense: Largest number of rows of an operator that is made into a matrix.
        semidefinite: Whether negative eigenvalues are refused; Hessians have them.

    Returns:
        The distribution: exact if the kernel is a matrix or made into one.

    Raises:
        ValueError: As `eigh` says, if a key is needed and there is none, or if a number
            is too small.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> found = spectrum.density(jnp.diag(jnp.array([1.0, 1.0, 4.0])))
        >>> found.cumulative(jnp.array([0.0, 2.0])).value.tolist()
        [0.0, 0.666667]

    References:
        Ubaru, Chen and Saad (2017), SIAM J. Matrix Anal. Appl. 38, 1075-1099.
    """
    check_flag("semidefinite", semidefinite)
    check_at_least("num_samples", num_samples, 2)
    check_at_least("num_steps", num_steps, 1)
    found = resolved(kernel, max_dense)
    if isinstance(found, jax.Array):
        values = eigvalsh(found)[None]
        if semidefinite:
            check_eigenvalues(values)
        return Density(
            nodes=values,
            weights=jnp.full_like(values, 1 / values.size),
            is_exact=True,
        )
    samples = []
    for sample_key in jax.random.split(checked_key(key, found), num_samples):
        section = lanczos(found, num_steps, sample_key)
        samples.append((section.values, section.weights))
    nodes, weights = map(jnp.stack, zip(*samples, strict=True))
    if semidefinite:
        check_eigenvalues(nodes)
    return Density(nodes=nodes, weights=weights, is_exact=False)
