"""Exponentials, sines and cosines as activations."""

from operator import methodcaller

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.activations.moments import Moments, root_and_covariance
from lazyjax.activations.registry import ActivationSpec, register_known


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
        value=np.cos,
        derivative=lambda u: -np.sin(u),
        slope_bound=1.0,
        curvature_bound=1.0,
        is_increasing=False,
        stax=methodcaller("Cos"),
    ),
    ActivationSpec(
        name="exp",
        fn=jnp.exp,
        breaks=(),
        moments=_exp,
        value=np.exp,
        derivative=np.exp,
    ),
    ActivationSpec(
        name="gaussian",
        fn=lambda u: jnp.exp(-jnp.square(u)),
        breaks=(),
        moments=_gaussian,
        value=lambda u: np.exp(-(u * u)),
        derivative=lambda u: -2 * u * np.exp(-(u * u)),
        slope_bound=0.8577639,
        curvature_bound=2.0,
        is_increasing=False,
        is_analytic=True,
    ),
    ActivationSpec(
        name="sin",
        fn=jnp.sin,
        breaks=(),
        moments=_sin,
        value=np.sin,
        derivative=np.cos,
        slope_bound=1.0,
        curvature_bound=1.0,
        is_increasing=False,
        stax=methodcaller("Sin"),
    ),
)
