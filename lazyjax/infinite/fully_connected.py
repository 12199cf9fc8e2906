r"""Recursions for infinitely wide fully connected networks.

With $\Sigma^l$ the covariance of pre-activations $z^l$ and $H^l$ the second moment of
activations $h^l$ of two inputs ($H^0 = x \cdot x' / d$, or $x \cdot x'$),

$$\Sigma^l = w^2 H^{l-1} + b^2, \qquad H^l = E[\phi(u)\phi(v)], \qquad
  \Theta^l = w^2 E[\phi'(u)\phi'(v)] \, \Theta^{l-1} + s_l H^{l-1} + t_l,$$

with $(u, v) \sim N(0, \Sigma)$ of the layer before. The parameterization and the choice
of trained layers only enter the scales $s_l, t_l$ of what layer $l$ itself contributes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.architecture import Architecture
from lazyjax.infinite.dual import dual_activation, dual_derivative, dual_variance


class Covariance(NamedTuple):
    """Covariance of two batches, the variances shaped to broadcast against it."""

    q11: Float[Array, "n1 1"]
    q12: Float[Array, "n1 n2"]
    q22: Float[Array, "1 n2"]


def fully_connected_nngp(
    architecture: Architecture,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"] | None,
) -> Float[Array, "n1 n2"]:
    """Covariance of outputs over initializations, in the parameterization "ntk"."""
    last = _hidden_moments(architecture, x1, x2)
    return _pre_activations(architecture, last).q12


def fully_connected_ntk(
    architecture: Architecture,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"] | None,
    width: int | None,
) -> Float[Array, "n1 n2"]:
    """Neural tangent kernel; `width` is that of the "standard" parameterization."""
    scales = _gradient_scales(architecture, x1.shape[1], width)
    scales = jnp.asarray(scales, x1.dtype)
    if architecture.trained == "last":
        weight, bias = scales[-1]
        return weight * _hidden_moments(architecture, x1, x2).q12 + bias
    match_diagonal = partial(_match_diagonal, is_symmetric=x2 is None)
    moments = _input_moments(architecture, x1, x2)
    weight, bias = scales[0]

    def layer(
        carry: tuple[Covariance, Array], scale: Array
    ) -> tuple[tuple[Covariance, Array], None]:
        moments, ntk = carry
        z = match_diagonal(_pre_activations(architecture, moments))
        moments = match_diagonal(_activations(architecture, z))
        slope = dual_derivative(architecture.activation, *z)
        weight, bias = scale
        ntk = float(architecture.w_std) ** 2 * slope * ntk + weight * moments.q12 + bias
        return (moments, ntk), None

    start = (moments, weight * moments.q12 + bias)
    (_, ntk), _ = jax.lax.scan(layer, start, scales[1:])
    return ntk


def _gradient_scales(
    architecture: Architecture, num_features: int, width: int | None
) -> np.ndarray:
    """Scales (s, t) of every layer's own contribution, 0 where it is not trained."""
    scales = np.zeros((architecture.num_layers, 2))
    for layer in range(1, architecture.num_layers + 1):
        if not architecture.is_trained(layer):
            continue
        if architecture.parameterization == "standard":
            # The gradient is that in W itself: every unit counts with weight 1.
            first = 1 if architecture.input_scaling == "none" else num_features
            has_bias = float(architecture.b_std > 0)
            scales[layer - 1] = first if layer == 1 else width, has_bias
        else:
            scales[layer - 1] = architecture.w_std**2, architecture.b_std**2
    return scales


def _input_moments(
    architecture: Architecture,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"] | None,
) -> Covariance:
    y = x1 if x2 is None else x2
    moments = Covariance(
        q11=jnp.sum(x1**2, axis=1)[:, None],
        q12=jnp.matmul(x1, y.T, precision=jax.lax.Precision.HIGHEST),
        q22=jnp.sum(y**2, axis=1)[None, :],
    )
    if architecture.input_scaling == "fan_in":
        moments = Covariance(*(q / x1.shape[1] for q in moments))
    return _match_diagonal(moments, x2 is None)


def _hidden_moments(
    architecture: Architecture,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"] | None,
) -> Covariance:
    """Second moments of the last hidden layer, or of the inputs if there is none."""
    match_diagonal = partial(_match_diagonal, is_symmetric=x2 is None)

    def layer(moments: Covariance, _: None) -> tuple[Covariance, None]:
        z = match_diagonal(_pre_activations(architecture, moments))
        return match_diagonal(_activations(architecture, z)), None

    start = _input_moments(architecture, x1, x2)
    return jax.lax.scan(layer, start, length=architecture.depth)[0]


def _pre_activations(architecture: Architecture, moments: Covariance) -> Covariance:
    w_sq, b_sq = float(architecture.w_std) ** 2, float(architecture.b_std) ** 2
    return Covariance(*(w_sq * q + b_sq for q in moments))


def _activations(architecture: Architecture, z: Covariance) -> Covariance:
    phi = architecture.activation
    return Covariance(
        q11=dual_variance(phi, z.q11),
        q12=dual_activation(phi, *z),
        q22=dual_variance(phi, z.q22),
    )


def _match_diagonal(moments: Covariance, is_symmetric: bool) -> Covariance:
    """Covariances, where that of an input with itself is exactly its variance."""
    if not is_symmetric:
        return moments
    # Else rounding makes correlations of 1 - eps, where kinks cost sqrt(eps).
    is_diagonal = jnp.eye(moments.q11.shape[0], dtype=bool)
    return moments._replace(q12=jnp.where(is_diagonal, moments.q11, moments.q12))
