"""How many examples a block of a kernel may hold within a stated memory."""

import math

from lazyjax._brief import brief
from lazyjax._checks import checked_bytes
from lazyjax.architecture import KINDS, Architecture
from lazyjax.infinite.duals.dual import is_closed_form
from lazyjax.infinite.recursion import reads_all_pairs

# A block's arrays should stay in cache: entries of each, in kernels over pixels too.
BLOCK_ENTRIES = 2**17

# What XLA holds at once on JAX 0.10 to 0.12, as `compiled.memory_analysis()` tells, in
# arrays: of the size of a block, of the coefficients of series, of the result.
_LIVE_BLOCKS = 8
_LIVE_COEFFICIENTS = 12_000
_LIVE_RESULTS = 3


def block_size(
    architecture: Architecture,
    shape: tuple[int, ...],
    num_rows: int,
    num_columns: int,
    itemsize: int,
    memory: int | str | None,
) -> int:
    """Most examples on each side of a block.

    Args:
        architecture: Description of the network.
        shape: Of an example.
        num_rows: Examples of the first batch.
        num_columns: Of the second.
        itemsize: Bytes of a number.
        memory: Bytes to be held at once beside the inputs; None for no limit.

    Returns:
        The number: blocks that stay in cache, or smaller ones if these are too large.

    Raises:
        ValueError: If blocks of one example are too large.
        TypeError: If `memory` is neither a number nor a text.
    """
    entries = pairs_of_pixels(architecture, shape)
    size = max(1, math.isqrt(BLOCK_ENTRIES // entries))
    if memory is None:
        return size
    limit = checked_bytes("memory", memory)

    def needed(size: int) -> int:
        blocks = _LIVE_BLOCKS * min(size, num_rows) * min(size, num_columns)
        is_flat = KINDS[architecture.kind].layers == "dense"
        num_pixels = 1 if is_flat else math.prod(shape[:-1])  # or times
        statistics = 3 * architecture.depth * (num_rows + num_columns)
        if not is_closed_form(architecture.activation):
            statistics += _LIVE_COEFFICIENTS * min(size, max(num_rows, num_columns))
        numbers = blocks * _padded(architecture, shape, entries)
        numbers += statistics * num_pixels
        return itemsize * (numbers + _LIVE_RESULTS * num_rows * num_columns)

    while size > 1 and needed(size) > limit:
        size -= 1
    if needed(size) > limit:
        raise ValueError(
            f"`memory` must be at least {needed(1)} bytes for the result, of "
            f"{num_rows} by {num_columns}, and kernels of one pair of examples, of "
            f"{entries} entries; got {brief(memory)}. Compute fewer rows at a time, or "
            "smaller images."
        )
    return size


def pairs_of_pixels(architecture: Architecture, shape: tuple[int, ...]) -> int:
    """Entries of the kernel of one pair of inputs: pixels, or pairs of them."""
    if not architecture.is_convolutional:
        return 1
    num_pixels = math.prod(shape[:-1])
    return num_pixels**2 if reads_all_pairs(architecture) else num_pixels


def _padded(architecture: Architecture, shape: tuple[int, ...], entries: int) -> int:
    """`entries` with those that convolutions put around images."""
    if not architecture.is_convolutional:
        return entries
    space = shape[:-1]
    extents = [
        size + sum(architecture.pads(size, axis, architecture.stride(1)))
        for axis, size in enumerate(space)
    ]
    grown = math.prod(extents) / math.prod(space)
    return math.ceil(entries * (grown**2 if reads_all_pairs(architecture) else grown))
