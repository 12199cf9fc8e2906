"""Exponentials, sines and cosines as activations."""

from operator import methodcaller

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.activations.moments import Moments, root_and_covariance
from lazyjax.activations.registry import (
    ActivationSpec,
    Float64Activation,
    register_known,
)


def _exp(q11: Array, q12: Array, q22: Array) -> Moments:
    moment = jnp.exp((q11 + q22) / 2 + q12)
    return moment, moment


def _gaussian(q11: Array, q12: Array, q22: Array) -> Moments:
    r"""Moments of $\exp(-u^2)$."""
    root, clipped = root_and_covariance(q11, q12, q22, 2)
    return 1 / root, 4 * clipped / root**3


def _sin(q11: Array, q12: Array, q22: Array) -> Moments:
    return _sin_moment(q11, q12, q22), _cos_moment(q11, q12, q22)


def _cos(q11: Array, q12: Array, q22: Array) -> Moments:
    return _cos_moment(q11, q12, q22), _sin_moment(q11, q12, q22)


def _sin_moment(q11: Array, q12: Array, q22: Array) -> Array:
    mean = (q11 + q22) / 2
    # sinh(q12) exp(-mean), without overflow and without cancellation near 0.
    is_small = jnp.abs(q12) < 1
    small = jnp.sinh(jnp.where(is_small, q12, 0)) * jnp.exp(-mean)
    large = (jnp.exp(q12 - mean) - jnp.exp(-q12 - mean)) / 2
    return jnp.where(is_small, small, large)


def _cos_moment(q11: Array, q12: Array, q22: Array) -> Array:
    mean = (q11 + q22) / 2
    return (jnp.exp(q12 - mean) + jnp.exp(-q12 - mean)) / 2


register_known(
    ActivationSpec(
        name="cos",
        fn=jnp.cos,
        breaks=(),
        moments=_cos,
        float64=Float64Activation(np.cos, lambda u: -np.sin(u), 1.0, 1.0),
        is_increasing=False,
        is_analytic=True,
        stax=methodcaller("Cos"),
    ),
    ActivationSpec(
        name="exp",
        fn=jnp.exp,
        breaks=(),
        moments=_exp,
        float64=Float64Activation(np.exp, np.exp),
        is_analytic=True,
    ),
    ActivationSpec(
        name="gaussian",
        fn=lambda u: jnp.exp(-jnp.square(u)),
        breaks=(),
        moments=_gaussian,
        float64=Float64Activation(
            lambda u: np.exp(-(u * u)),
            lambda u: -2 * u * np.exp(-(u * u)),
            0.8577639,
            2.0,
        ),
        is_increasing=False,
        is_analytic=True,
    ),
    ActivationSpec(
        name="sin",
        fn=jnp.sin,
        breaks=(),
        moments=_sin,
        float64=Float64Activation(np.sin, np.cos, 1.0, 1.0),
        is_increasing=False,
        is_analytic=True,
        stax=methodcaller("Sin"),
    ),
)
