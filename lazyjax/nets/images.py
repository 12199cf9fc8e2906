"""Networks of images that are known by name, without BatchNorm."""

from typing import Any

from lazyjax.nets.block_resnet import block_resnet
from lazyjax.nets.cnn import cnn
from lazyjax.nets.network import Network


def vgg11(*, width: int = 64, **options: Any) -> Network:
    r"""VGG-11 for small images, as Chizat et al. (2019) train it.

    Eight convolutions of `width` times 1, 2, 4, 4, 8, 8, 8 and 8 channels, with maxima
    over windows after layers 1, 2, 4, 6 and 8, and one output layer: images of 32 to 63
    pixels become one pixel. Smaller ones are refused unless `pool_after` has fewer
    layers. `(4, 6, 8)` is right for 8 pixels: pooled as soon as after `(1, 2, 4)` they
    fit too, but then filters read zeros but for 1 pixel of 9, and each of the last four
    layers divides the size of what it reads by 3. The start is that of He et al. (2015).

    Max pooling has no infinite-width kernel; with `pooling="average"`
    `lazyjax.infinite_ntk` has that of the network.

    Args:
        width: Channels of the first layer: 64 times the widening factor $k$.
        **options: Fields of `lazyjax.Architecture` of a "cnn", with the values above as
            defaults.

    Returns:
        The network, that `lazyjax.nets.cnn` makes of these options. Of images of
        $c$ channels, with width $w$ and $k$ outputs, it has $9 w (c + 250 w) + 8 w k$
        weights if each axis ends in one pixel.

    Raises:
        ValueError: If an option is out of range or not one of its choices.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.vgg11(width=4, num_outputs=10)
        >>> x = jnp.ones((2, 32, 32, 3))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (2, 10)

    References:
        Simonyan and Zisserman (2015), arXiv:1409.1556; Chizat, Oyallon and Bach (2019),
        arXiv:1812.07956, and their code, edouardoyallon/lazy-training-CNN: channels,
        pools and output layer are those of `cnn/models.py` and `cnn/train.py`; He et al.
        (2015), arXiv:1502.01852 (equation numbers not checked).
    """
    usual = {
        "depth": 8,
        "width_factors": (1, 2, 4, 4, 8, 8, 8, 8),
        "pool_after": (1, 2, 4, 6, 8),
        "pooling": "max",
        "w_std": 2**0.5,
    }
    return cnn(width=width, **{**usual, **options})


def resnet18(*, width: int = 64, **options: Any) -> Network:
    r"""ResNet-18 for small images, without BatchNorm, as Chizat et al. (2019) train it.

    A convolution and eight blocks of two, of `width` times 1, 2, 4 and 8 channels; the
    first of the second, third and fourth pair of blocks halves images. The output layer
    reads the mean over pixels, so that images of any size will do. The start is that of
    He et al. (2015), and branches are multiplied by $1 / \sqrt 8$, so that eight of
    them add up to a sum of order 1: at width 8, outputs of noise of 32 pixels, unit
    variance, have a mean square of 9, and of 652 with `residual_scale=1.0`, which is
    theirs. Strided convolutions of even images pad one
    pixel after them and none before, where PyTorch's ResNet-18 does the opposite.

    It has no infinite-width kernel here (see `lazyjax.nets.block_resnet`);
    `lazyjax.nets.conv_resnet` has.

    Args:
        width: Channels of the first layer: 64 times the widening factor $k$.
        **options: Fields of `lazyjax.Architecture` of a "block_resnet", with the
            values above as defaults.

    Returns:
        The network, that `lazyjax.nets.block_resnet` makes of these options.

    Raises:
        ValueError: If an option is out of range, not one of its choices, or without
            meaning for this kind.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.resnet18(width=4, num_outputs=10)
        >>> x = jnp.ones((2, 8, 8, 1))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (2, 10)

    References:
        He, Zhang, Ren and Sun (2016), arXiv:1512.03385; Chizat, Oyallon and Bach (2019),
        arXiv:1812.07956, and their code, edouardoyallon/lazy-training-CNN: channels,
        strides and shortcuts are those of `cnn/models.py`; He et al. (2015),
        arXiv:1502.01852; Hayou et al. (2021), arXiv:2010.12859, for branches divided by
        the root of their number (equation numbers not checked).
    """
    usual = {
        "depth": 17,
        "width_factors": (1,) * 5 + (2,) * 4 + (4,) * 4 + (8,) * 4,
        "strides": (1,) * 5 + (2, 1, 1, 1) * 3,
        "head": "average",
        "w_std": 2**0.5,
        "residual_scale": 8**-0.5,
    }
    return block_resnet(width=width, **{**usual, **options})
