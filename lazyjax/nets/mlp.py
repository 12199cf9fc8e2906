"""Fully connected networks, plain and residual."""

from typing import Any

from lazyjax.architecture import Architecture
from lazyjax.architecture.kinds import complete
from lazyjax.nets._layered import Layered
from lazyjax.nets.build import build
from lazyjax.nets.network import Network, builder, check_num_features


def mlp(*, width: int, **options: Any) -> Network:
    r"""Fully connected network with `depth` hidden layers of `width` units.

    Inputs with several feature axes are flattened.

    Args:
        width: Units of each hidden layer; a linear model of depth 0 has none.
        **options: Fields of `lazyjax.Architecture`, where their formulas stand.

    Returns:
        The network. Its parameters are `{"layer_1": {"kernel": (d, width), "bias":
        (width,)}, ...}`, without `bias` if `b_std` is 0.

    Raises:
        ValueError: If an option is out of range, not one of its choices, or without
            meaning for this kind.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=32, depth=2, activation="tanh")
        >>> x = jnp.ones((5, 3))
        >>> params = net.init(jax.random.key(0), x)
        >>> net.apply(params, x).shape
        (5, 1)

    References:
        Jacot, Gabriel and Hongler (2018), arXiv:1806.07572; Yang and Hu (2021),
        arXiv:2011.14522 (equation numbers not checked).
    """
    return build(Architecture(kind="mlp", **options), width=width)


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
    return build(Architecture(kind="resnet", **options), width=width)


for _name in ("mlp", "resnet"):
    complete(_name, build=builder(Layered, check_num_features))
