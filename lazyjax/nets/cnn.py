"""Convolutional networks, plain and residual."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from lazyjax.activations import activation_fn
from lazyjax.architecture import Architecture
from lazyjax.architecture.kinds import complete
from lazyjax.nets._layers import convolution, normalize, pool, read_out
from lazyjax.nets.build import build
from lazyjax.nets.network import Network, check_image, from_module


def cnn(*, width: int, **options: Any) -> Network:
    r"""Convolutional network of inputs (height, width, channels) or (length, channels).

    Args:
        width: Channels of each hidden layer.
        **options: Fields of `lazyjax.Architecture`, where their formulas stand.

    Returns:
        The network. Its parameters are `{"layer_1": {"kernel": (*filter_shape,
        channels, width), "bias": (width,)}, ...}`, those of the last layer `{"kernel":
        (features, k), "bias": (k,)}`; without `bias` if `b_std` is 0.

    Raises:
        ValueError: If an option is out of range or not one of its choices.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.cnn(width=16, depth=2, head="average")
        >>> x = jnp.ones((5, 8, 8, 3))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (5, 1)

    References:
        Arora, Du, Hu, Li, Salakhutdinov and Wang (2019), arXiv:1904.11955, for the
        kernel of its infinite width (equation numbers not checked).
    """
    return build(Architecture(kind="cnn", **options), width=width)


def conv_resnet(*, width: int, **options: Any) -> Network:
    r"""Convolutional residual network of Du et al. (2019b).

    Theirs has `pixel_scaling="none"`, `input_scaling="none"`, `filter_shape=(3,)` and
    `activation_scale="unit"`.

    Args:
        width: Channels of each hidden layer.
        **options: Fields of `lazyjax.Architecture`, where their formulas stand.

    Returns:
        The network; its parameters are laid out as those of `lazyjax.nets.cnn`.

    Raises:
        ValueError: If an option is out of range, not one of its choices, or without
            meaning for this kind.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.conv_resnet(width=16, depth=2, filter_shape=(3,))
        >>> x = jnp.ones((5, 8, 3))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (5, 1)

    References:
        Du, Lee, Li, Wang and Zhai (2019), arXiv:1811.03804, section 7 (not checked).
    """
    return build(Architecture(kind="conv_resnet", **options), width=width)


class _CNN(nn.Module):
    architecture: Architecture
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n k"]:
        spec = self.architecture
        phi = activation_fn(spec.activation)
        h = x
        for layer in range(1, spec.num_layers):
            z = normalize(spec, convolution(spec, layer, self.width, h))
            branch = spec.activation_factor(layer) * phi(z)
            h = h + branch if spec.is_residual and layer > 1 else branch
            if layer in spec.pool_after:
                h = pool(spec, h)
        return read_out(spec, self.width, h)


def _build(architecture: Architecture, width: int) -> Network:
    module = _CNN(architecture, width)
    return from_module(module, architecture, width, check_image)


complete("cnn", build=_build)
complete("conv_resnet", build=_build)
