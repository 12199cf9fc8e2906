"""Bounds of the singular values of a network's Jacobian, from its kernel."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic import matrices as matrix_bounds
from lazyjax.certify.arithmetic.rounding import (
    UNIT_ROUNDOFF,
    gamma,
    root_up,
    round_up,
    unit_roundoff,
    upper_or_infinity,
)
from lazyjax.certify.bounds.branches import kernel_of
from lazyjax.certify.bounds.evaluation import Evaluation, Kernel
from lazyjax.certify.certificate import Rigor


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Bounds of the singular values of a Jacobian.

    Attributes:
        gram: Its kernel; if rounding is not accounted for, as if it were exact.
        sigma_min: Lower bound of the smallest.
        sigma_max: Upper bound of the largest.
    """

    gram: Kernel
    sigma_min: float
    sigma_max: float


def spectrum_of(evaluations: tuple[Evaluation, ...], rigor: Rigor) -> Spectrum:
    """Bounds of the singular values of a network's Jacobian.

    Args:
        evaluations: The network, with bounds of errors at any rigor: the error of the
            kernel decides whether it is singular.
        rigor: "proof" to account for rounding, else "float".

    Returns:
        The bounds.
    """
    unit, gram = unit_roundoff(rigor), kernel_of(evaluations)
    sigma_min = sigma_min_lower(gram, unit)
    if unit == 0:
        gram = Kernel(gram.value, 0.0)
    sigma_max = sigma_max_upper(gram, unit)
    if unit == 0:  # plain values may be an ulp on the wrong sides
        sigma_max = max(sigma_max, sigma_min)
    return Spectrum(gram, sigma_min, sigma_max)


def sigma_min_lower(gram: Kernel, unit: float) -> float:
    """Lower bound of the smallest singular value of the Jacobian with this kernel.

    Args:
        gram: The kernel and its error.
        unit: Unit roundoff to account for; 0 for the computed value, unless that is
            within its error of 0.

    Returns:
        The bound; 0 if none was found.
    """
    square = matrix_bounds.eig_min_lower(gram.value, unit)
    if unit == 0:
        # Solvers are off by a few roundings of the largest eigenvalue.
        size = matrix_bounds.symmetric_norm_upper(gram.value, UNIT_ROUNDOFF)
        own = gamma(len(gram.value), UNIT_ROUNDOFF) * size
        return math.sqrt(square) if square > gram.error + own else 0.0
    square = square - gram.error
    if not square > 0:
        return 0.0
    return math.sqrt(square * (1 - 4 * unit)) * (1 - 4 * unit)


def sigma_max_upper(gram: Kernel, unit: float) -> float:
    """Upper bound of the largest singular value of the Jacobian with this kernel."""
    square = max(matrix_bounds.eig_max_upper(gram.value, unit), 0) + gram.error
    return upper_or_infinity(float(root_up(square, 2, unit)))


def newton_norm_upper(
    gram: Kernel,
    residual: Float[np.ndarray, "nk"],
    error: float,
    sigma_min: float,
    unit: float,
) -> float:
    r"""Upper bound of $\lVert J^+ r\rVert$ for $r$ within `error` of `residual`.

    For any $q$ it is at most $(q^\top K q)^{1/2} + \lVert r - K q\rVert / \sigma_{\min}$,
    and $q$ is taken to be $K^{-1} r$ in floating point.

    Args:
        gram: Kernel.
        residual: Computed residual.
        error: Bound of its error.
        sigma_min: Lower bound of the smallest singular value.
        unit: Unit roundoff.

    Returns:
        The bound; infinity if the kernel is not known to be invertible.
    """
    if not sigma_min > 0:
        return math.inf
    try:
        q = np.linalg.solve(gram.value, residual)
    except np.linalg.LinAlgError:
        return math.inf
    count = len(q) + 4
    q_norm = matrix_bounds.frobenius_upper(q, unit)
    size = matrix_bounds.frobenius_upper(gram.value, unit) * q_norm
    image = gram.value @ q
    off = matrix_bounds.frobenius_upper(residual - image, unit)
    r_norm = matrix_bounds.frobenius_upper(residual, unit)
    rounded = gamma(count, unit) * (size + r_norm)
    left = round_up(off + rounded + error + gram.error * q_norm, 12, unit)
    square = (
        abs(float(q @ image))
        + (gamma(2 * count, unit) * size + gram.error * q_norm) * q_norm
    )
    root = math.sqrt(round_up(square, count + 12, unit))
    return upper_or_infinity(float(round_up(root + left / sigma_min, 6, unit)))
