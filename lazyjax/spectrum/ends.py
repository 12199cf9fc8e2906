"""The largest and the smallest eigenvalue."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lazyjax._checks import check_at_least
from lazyjax.linalg import condition as condition_of
from lazyjax.spectrum.estimates import ConfidenceInterval
from lazyjax.spectrum.operators import (
    MAX_DENSE,
    Kernel,
    LinearOperator,
    check_eigenvalues,
    checked_key,
    eigh,
    resolved,
)
from lazyjax.spectrum.operators.lanczos import KrylovSection, lanczos


class Extremes(NamedTuple):
    """Enclosures of the smallest and the largest eigenvalue."""

    smallest: ConfidenceInterval
    largest: ConfidenceInterval


def extremes(
    kernel: Kernel,
    *,
    key: Key[Array, ""] | None = None,
    num_steps: int = 100,
    confidence: float = 0.999,
    max_dense: int = MAX_DENSE,
) -> Extremes:
    r"""Smallest and largest eigenvalue of a positive semidefinite kernel.

    Of a matrix they are enclosed by the residual of its decomposition. Of an operator,
    Lanczos iteration from a random vector gives Ritz values, between which and the ends
    of the spectrum there is, with the given confidence, no more than $\epsilon
    (\lambda_{\max} - \lambda_{\min})$, $\epsilon = (\log(1.648 \sqrt m / \delta) / (2 q -
    1))^2$ for $m$ rows, $q$ steps and a failure probability of $\delta$ at either end.
    Widths are dominated by this bound; Ritz values are mostly much nearer.

    Args:
        kernel: Matrix, kernel or operator; see `lazyjax.spectrum`.
        key: Source of the first vector; needed for operators of more than `max_dense`
            rows.
        num_steps: Products with the operator.
        confidence: Probability that both intervals hold their eigenvalues.
        max_dense: Largest number of rows of an operator that is made into a matrix.

    Returns:
        `smallest` and `largest`.

    Raises:
        ValueError: If `confidence` is not between 0 and 1, or as `eigh` says, or if a key
            is needed and there is none.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> ends = spectrum.extremes(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> float(ends.smallest.value), float(ends.largest.value)
        (1.0, 3.0)

    References:
        Kuczynski and Wozniakowski (1992), SIAM J. Matrix Anal. Appl. 13, 1094-1122,
        Theorem 4.2 (number and constant not checked).
    """
    check_at_least("num_steps", num_steps, 1)
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1; got {confidence}.")
    found = resolved(kernel, max_dense)
    if isinstance(found, jax.Array):
        return _of_matrix(found)
    section = lanczos(found, num_steps, checked_key(key, found))
    check_eigenvalues(section.values)
    (smallest, below), (largest, above) = (
        _with_residual(found, section, at) for at in (0, -1)
    )
    size, steps = found.shape[0], section.values.size
    part = _relative_gap(size, steps, (1 - confidence) / 2)
    gap = part * (largest - smallest) if part < math.inf else jnp.inf
    return Extremes(
        ConfidenceInterval(
            value=smallest,
            lower=jnp.maximum(smallest - jnp.maximum(gap, below), 0),
            upper=smallest + below,
            confidence=confidence,
        ),
        ConfidenceInterval(
            value=largest,
            lower=largest - above,
            upper=largest + jnp.maximum(gap, above),
            confidence=confidence,
        ),
    )


def condition(
    kernel: Kernel,
    *,
    key: Key[Array, ""] | None = None,
    num_steps: int = 100,
    confidence: float = 0.999,
    max_dense: int = MAX_DENSE,
) -> ConfidenceInterval:
    """Condition of a positive semidefinite kernel: largest over smallest eigenvalue.

    Args:
        kernel: As in `extremes`.
        key: As in `extremes`.
        num_steps: As in `extremes`.
        confidence: As in `extremes`.
        max_dense: As in `extremes`.

    Returns:
        The condition; infinite where the smallest eigenvalue is zero to rounding.

    Raises:
        ValueError: As `extremes` says.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import spectrum
        >>> float(spectrum.condition(jnp.diag(jnp.array([1.0, 8.0]))).value)
        8.0
    """
    ends = extremes(
        kernel,
        key=key,
        num_steps=num_steps,
        confidence=confidence,
        max_dense=max_dense,
    )
    (smallest, largest) = ends
    return ConfidenceInterval(
        value=_ratio(largest.value, smallest.value),
        lower=_ratio(largest.lower, smallest.upper),
        upper=_ratio(largest.upper, smallest.lower),
        confidence=smallest.confidence,
    )


def _of_matrix(matrix: Float[Array, "m m"]) -> Extremes:
    values, _, cutoff = eigh(matrix)
    # Zero to rounding is zero: no digit of the computed value is right.
    smallest = jnp.where(values[0] > cutoff, values[0], 0)

    def enclosed(value: Array) -> ConfidenceInterval:
        return ConfidenceInterval(
            value=value,
            lower=jnp.maximum(value - cutoff, 0),
            upper=value + cutoff,
            confidence=1.0,
        )

    return Extremes(enclosed(smallest), enclosed(values[-1]))


def _with_residual(
    operator: LinearOperator, section: KrylovSection, at: int
) -> tuple[Array, Array]:
    """A Ritz value, and how far its vector is from an eigenvector, measured."""
    value = section.values[at]
    vector = section.vectors[:, at] @ section.basis
    return value, jnp.linalg.norm(operator.mv(vector) - value * vector)


def _relative_gap(size: int, num_steps: int, failure: float) -> float:
    """Distance of Ritz values to the ends of the spectrum, over their own distance."""
    if num_steps == size:
        return 0.0
    part = (math.log(1.648 * math.sqrt(size) / failure) / (2 * num_steps - 1)) ** 2
    # The spectrum is wider than what is seen of it by that part at either end.
    return part / (1 - 2 * part) if part < 0.5 else math.inf


def _ratio(largest: Array, smallest: Array) -> Array:
    return condition_of(smallest, largest, jnp.where(smallest > 0, 0, 1))
