"""The network of an architecture."""

import dataclasses

from lazyjax._checks import check_at_least
from lazyjax.architecture import KINDS, Architecture
from lazyjax.nets.network import Network, symmetrize


def build(architecture: Architecture, *, width: int) -> Network:
    """Network that `architecture` describes, at one width.

    Args:
        architecture: The description.
        width: Units, or channels, of each hidden layer.

    Returns:
        The network, equal to the one that the function named like the kind returns.

    Raises:
        ValueError: If `width` is not positive or does not fit the kind, or the kind has
            no finite networks.
        TypeError: If `width` is not an integer.

    Example:
        >>> import lazyjax
        >>> spec = lazyjax.Architecture(kind="resnet", depth=2)
        >>> build(spec, width=8) == lazyjax.nets.resnet(width=8, depth=2)
        True
    """
    check_at_least("width", width, 1)
    build_fn = KINDS[architecture.kind].build
    if build_fn is None:
        raise ValueError(
            f"`architecture` must be of a kind that says how to build its networks; "
            f"{architecture.kind!r} does not."
        )
    single = dataclasses.replace(architecture, symmetrized=False)
    network = build_fn(single, width)
    return symmetrize(network) if architecture.symmetrized else network
