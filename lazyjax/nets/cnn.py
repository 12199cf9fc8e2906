"""Convolutional networks, plain and residual."""

from typing import Any

from lazyjax.architecture import Architecture
from lazyjax.architecture.kinds import complete
from lazyjax.nets._layered import Layered
from lazyjax.nets.build import build
from lazyjax.nets.network import Network, builder, check_image


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


for _name in ("cnn", "conv_resnet"):
    complete(_name, build=builder(Layered, check_image))
