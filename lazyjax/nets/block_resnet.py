"""Residual networks of images in blocks of two convolutions, as ResNet-18 is."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from lazyjax.activations import activation_fn
from lazyjax.architecture import Architecture
from lazyjax.architecture.kinds import complete
from lazyjax.nets._layers import convolution, read_out, shortcut
from lazyjax.nets.build import build
from lazyjax.nets.network import Network, builder, check_image


def block_resnet(*, width: int, **options: Any) -> Network:
    r"""Residual network of blocks of two convolutions, without normalization.

    Its blocks are those of He et al. (2016), with the activation after the sum, of which
    no infinite-width kernel is known here: `lazyjax.infinite_ntk` refuses it.

    Args:
        width: What `width_factors` are multiples of.
        **options: Fields of `lazyjax.Architecture`, where their formulas stand; `depth`
            is odd.

    Returns:
        The network. Its parameters are laid out as those of `lazyjax.nets.cnn`, and
        `{"shortcut_5": {"kernel": (1, 1, channels, channels)}, ...}` for blocks that
        change the size of images or the number of channels, by their second layer.

    Raises:
        ValueError: If an option is out of range, not one of its choices, or without
            meaning for this kind.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.block_resnet(
        ...     width=4, depth=3, width_factors=(1, 2, 2), strides=(1, 2, 1)
        ... )
        >>> x = jnp.ones((5, 8, 8, 3))
        >>> sorted(net.init(jax.random.key(0), x))
        ['layer_1', 'layer_2', 'layer_3', 'layer_4', 'shortcut_3']

    References:
        He, Zhang, Ren and Sun (2016), arXiv:1512.03385 (equation numbers not checked).
    """
    return build(Architecture(**{"kind": "block_resnet", **options}), width=width)


class _BlockResNet(nn.Module):
    architecture: Architecture
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n k"]:
        spec = self.architecture

        def units(layer: int, z: Array) -> Array:
            return spec.activation_factor(layer) * activation_fn(spec.activation)(z)

        h = units(1, convolution(spec, 1, self.width, x))
        for first in range(2, spec.depth, 2):
            second = first + 1
            branch = units(first, convolution(spec, first, self.width, h))
            branch = convolution(spec, second, self.width, branch)
            stride = spec.stride(first) * spec.stride(second)
            if stride > 1 or branch.shape != h.shape:
                h = shortcut(spec, second, self.width, h, stride)
            h = units(second, h + spec.residual_scale * branch)
        return read_out(spec, self.width, h)


complete("block_resnet", build=builder(_BlockResNet, check_image))
