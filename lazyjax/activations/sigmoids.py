"""Sigmoids and smoothed ReLUs: activations whose moments have no closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.activations.registry import (
    ActivationSpec,
    Float64Activation,
    register_known,
)

# Largest errors up to here, of those with this `accurate_std`: the table of
# `lazyjax.infinite.duals.dual_activation`, at most 4e-4.
_TABULATED_STD = 4.0


def _sigmoid(u: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(u))
    return np.where(u >= 0, 1.0, small) / (1 + small)


def _tanh_derivative(u: np.ndarray) -> np.ndarray:
    t = np.tanh(u)
    return (1 - t) * (1 + t)


def _silu_derivative(u: np.ndarray) -> np.ndarray:
    s = _sigmoid(u)
    return s + u * s * _sigmoid(-u)


register_known(
    ActivationSpec(
        name="elu",
        fn=jax.nn.elu,
        breaks=(0.0,),
        float64=Float64Activation(
            lambda u: np.where(u > 0, u, np.expm1(np.minimum(u, 0))),
            lambda u: np.exp(np.minimum(u, 0)),
            1.0,
            1.0,
        ),
        is_increasing=False,
        is_analytic=False,
    ),
    ActivationSpec(
        name="sigmoid",
        fn=jax.nn.sigmoid,
        breaks=(),
        accurate_std=_TABULATED_STD,
        float64=Float64Activation(
            _sigmoid, lambda u: _sigmoid(u) * _sigmoid(-u), 0.25, 0.0962251
        ),
        is_increasing=True,
        is_analytic=True,
    ),
    ActivationSpec(
        name="silu",
        fn=jax.nn.silu,
        breaks=(),
        accurate_std=_TABULATED_STD,
        float64=Float64Activation(
            lambda u: u * _sigmoid(u), _silu_derivative, 1.0998394, 0.5
        ),
        is_analytic=True,
    ),
    ActivationSpec(
        name="softplus",
        fn=jax.nn.softplus,
        breaks=(),
        accurate_std=_TABULATED_STD,
        float64=Float64Activation(
            lambda u: np.maximum(u, 0) + np.log1p(np.exp(-np.abs(u))),
            _sigmoid,
            1.0,
            0.25,
        ),
        is_increasing=True,
        is_analytic=True,
    ),
    ActivationSpec(
        name="tanh",
        fn=jnp.tanh,
        breaks=(),
        accurate_std=_TABULATED_STD,
        float64=Float64Activation(np.tanh, _tanh_derivative, 1.0, 0.7698004),
        is_increasing=True,
        is_analytic=True,
    ),
)
