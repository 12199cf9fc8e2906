"""The error function and GELU as activations."""

import math
from functools import partial
from operator import methodcaller

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.activations.moments import (
    Moments,
    arctan2,
    correlation,
    root_and_covariance,
)
from lazyjax.activations.registry import (
    ActivationSpec,
    Float64Activation,
    register_known,
)


def _erf_moments(q11: Array, q12: Array, q22: Array) -> Moments:
    root, clipped = root_and_covariance(q11, q12, q22, 2)
    return 2 / jnp.pi * arctan2(2 * clipped, root), 4 / jnp.pi / root


def _gelu_moments(q11: Array, q12: Array, q22: Array) -> Moments:
    r"""Moments of $u \Phi(u)$, by Stein's lemma and Price's theorem."""
    root, clipped = root_and_covariance(q11, q12, q22, 1)
    both_above = 1 / 4 + arctan2(clipped, root) / (2 * jnp.pi)  # E[Phi(u) Phi(v)]
    inverses = 1 / (1 + q11) + 1 / (1 + q22)
    # q11 q22 - q12^2 = root^2 - 1 - q11 - q22
    rho, product = correlation(q11, q12, q22)
    left = product**2 * (1 - rho) * (1 + rho)
    inner = left + clipped**2 * inverses
    moment = clipped * both_above + inner / (2 * jnp.pi * root)
    slope = both_above + clipped / (2 * jnp.pi * root) * (
        2 * inverses - 1 + inner / root**2
    )
    return moment, slope


def _erf(u: np.ndarray) -> np.ndarray:
    # NumPy has none; that of the C library is called number by number.
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(u), np.float64)


def _normal_cdf(u: np.ndarray) -> np.ndarray:
    return (1 + _erf(u / math.sqrt(2))) / 2


def _gelu_derivative(u: np.ndarray) -> np.ndarray:
    density = np.exp(-(u * u) / 2) / math.sqrt(2 * math.pi)
    return _normal_cdf(u) + u * density


register_known(
    ActivationSpec(
        name="erf",
        fn=jax.lax.erf,
        breaks=(),
        moments=_erf_moments,
        float64=Float64Activation(
            _erf,
            lambda u: 2 / math.sqrt(math.pi) * np.exp(-(u * u)),
            1.1283792,
            0.9678829,
        ),
        is_increasing=True,
        is_analytic=True,
        stax=methodcaller("Erf"),
    ),
    ActivationSpec(
        name="gelu",
        fn=partial(jax.nn.gelu, approximate=False),
        breaks=(),
        moments=_gelu_moments,
        float64=Float64Activation(
            lambda u: u * _normal_cdf(u), _gelu_derivative, 1.1289042, 0.7978846
        ),
        is_analytic=True,
        stax=methodcaller("Gelu"),
    ),
)
