"""Fully connected residual networks."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from lazyjax.activations.functions import activation_fn
from lazyjax.architecture import Architecture
from lazyjax.nets._layers import check_num_features, dense, network_of, normalized
from lazyjax.nets.network import Network


def resnet(*, width: int, **options: Any) -> Network:
    r"""Fully connected residual network of Du et al. (2019b).

    Args:
        width: Units of each hidden layer.
        **options: Fields of `lazyjax.Architecture`, where their formulas stand.

    Returns:
        The network; its parameters are laid out as those of `lazyjax.nets.mlp`.

    Raises:
        ValueError: If an option is out of range, not one of its choices, or without
            meaning for this kind.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.resnet(width=32, depth=3, activation="softplus")
        >>> x = jnp.ones((5, 3))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (5, 1)

    References:
        Du, Lee, Li, Wang and Zhai (2019), arXiv:1811.03804, section 6 (not checked).
    """
    architecture = Architecture(kind="resnet", **options)
    module = _ResNet(architecture, width)
    return network_of(module, architecture, width, check_num_features)


class _ResNet(nn.Module):
    architecture: Architecture
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *d"]) -> Float[Array, "n k"]:
        spec = self.architecture
        phi = activation_fn(spec.activation)
        h = x.reshape(x.shape[0], -1)
        for layer in range(1, spec.num_layers):
            z = normalized(spec, dense(spec, layer, self.width, h))
            branch = spec.activation_factor(layer) * phi(z)
            h = branch if layer == 1 else h + branch
        return dense(spec, spec.num_layers, self.width, h)
