"""The network of an architecture."""

import dataclasses

from lazyjax.architecture import Architecture
from lazyjax.nets.block_resnet import block_resnet
from lazyjax.nets.cnn import cnn, conv_resnet
from lazyjax.nets.mlp import mlp
from lazyjax.nets.network import Network
from lazyjax.nets.resnet import resnet
from lazyjax.nets.rnn import rnn
from lazyjax.nets.vit import vit_of

_FACTORIES = {
    "mlp": mlp,
    "resnet": resnet,
    "cnn": cnn,
    "conv_resnet": conv_resnet,
    "rnn": rnn,
    "block_resnet": block_resnet,
}


def build(architecture: Architecture, *, width: int) -> Network:
    """Network that `architecture` describes, at one width.

    Args:
        architecture: The description.
        width: Units, or channels, of each hidden layer.

    Returns:
        The network, equal to the one that the function named like the kind returns.

    Raises:
        ValueError: If `width` is not positive, or the kind not one of `lazyjax.nets`.
        TypeError: If `width` is not an integer.

    Example:
        >>> import lazyjax
        >>> spec = lazyjax.Architecture(kind="resnet", depth=2)
        >>> build(spec, width=8) == lazyjax.nets.resnet(width=8, depth=2)
        True
    """
    if architecture.kind == "vit":  # whose function has other defaults
        return vit_of(architecture, width)
    if architecture.kind not in _FACTORIES:
        raise ValueError(
            f"`architecture` must be of a kind in {(*_FACTORIES, 'vit')}; got "
            f"{architecture.kind!r}."
        )
    options = {
        field.name: getattr(architecture, field.name)
        for field in dataclasses.fields(architecture)
        if getattr(architecture, field.name) != field.default
    }
    options.pop("kind", None)
    return _FACTORIES[architecture.kind](width=width, **options)
