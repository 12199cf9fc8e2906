"""How many examples and outputs are taken at a time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lazyjax.batches import num_rows
from lazyjax.jaxpr.held import made_bytes
from lazyjax.ntk.outputs import Pairs
from lazyjax.ntk.requests.memory import Budget
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.trees import tree_size
from lazyjax.typing import Method

# Where cotangents of all outputs and examples hold more, outputs are taken in chunks...
_MANY_BYTES = 2**27
# ...whose cotangents hold so much: less is quicker, but the forward pass is each chunk's.
_CHUNK_BYTES = 2**24
# Fewest outputs of a chunk whose forward pass costs little beside its backward passes.
_FEW_OUTPUTS = 4
# Compilers hold up to so much more than a program shows, for alignment and copies.
_EXCESS = 1.25
# A rough bound on what is held may be so many times too small.
_ROUGH = 8


class Tile(NamedTuple):
    """Most examples of each batch, and directions in output space, at a time."""

    examples: int
    directions: int


def fitting(
    tiles: list[Tile],
    held: Callable[[Tile], int],
    rough: Callable[[Tile], int],
    budget: Budget,
) -> Tile | None:
    """The first of ever smaller tiles that fits into memory, if one does."""
    # Programs are traced to tell what they hold, which takes time: not where there is
    # room for far more.
    limit = budget.limit
    if limit is None or _ROUGH * rough(tiles[0]) <= limit:
        return tiles[0]
    is_within = lambda tile: _EXCESS * held(tile) <= limit
    if is_within(tiles[0]):
        return tiles[0]
    if not is_within(tiles[-1]):
        return None
    too_large, fits = 0, len(tiles) - 1
    while fits - too_large > 1:
        middle = (too_large + fits) // 2
        if is_within(tiles[middle]):
            fits = middle
        else:
            too_large = middle
    return tiles[fits]


def rough_bytes(request: KernelRequest, method: Method, tile: Tile) -> int:
    """About what is held for a tile, from the network's program alone."""
    program = jax.make_jaxpr(request.apply_fn)(request.params, request.x1)
    of_example = made_bytes(program) // num_rows(request.x1)
    num_sides = 1 if request.x2 is None else 2
    num_examples = num_sides * min(tile.examples, num_rows(request.x1))
    size = num_examples * of_example * (1 + tile.directions)
    itemsize = jnp.dtype(request.f.dtype).itemsize
    of_gradient = tree_size(request.params) * itemsize
    times = {"jacobian": num_examples * tile.directions, "vjp": tile.directions}
    return size + times.get(method, 0) * of_gradient


def outputs_at_a_time(request: KernelRequest, method: Method) -> int:
    """How many directions in output space are best taken at a time."""
    # All, unless their cotangents would take much memory and the form of the kernel
    # needs no pairs of different outputs.
    number, num_outputs = request.num_directions, request.f.shape[1]
    if request.pairs == "full":
        return number
    num_examples = num_rows(request.x1)
    num_examples += 0 if request.x2 is None else num_rows(request.x2)
    of_one = num_examples * max(4, jnp.dtype(request.f.dtype).itemsize)
    if of_one * number * num_outputs <= _MANY_BYTES:
        return number
    num_params = tree_size(request.params) if method == "jacobian" else 0
    most = max(1, _CHUNK_BYTES // (of_one * (num_outputs + num_params)))
    return _evenly(number, most)


def smaller_tiles(most: Tile, pairs: Pairs) -> list[Tile]:
    """Tiles from the largest to the smallest, in the order of what they cost."""
    # Each pair of tiles takes a forward pass, and a backward pass for each direction: for
    # all pairs of directions it matters how many examples and directions a tile has
    # together, and else how many examples, unless directions are few.
    few = 1 if pairs == "full" else min(_FEW_OUTPUTS, most.directions)
    directions = [_evenly(most.directions, m) for m in _halves(most.directions)]
    examples = [_evenly(most.examples, m) for m in _halves(most.examples)]
    many = [d for d in directions if d >= few] or [most.directions]
    if pairs == "full":
        tiles = [Tile(e, most.directions) for e in examples]
        tiles += [Tile(1, d) for d in directions]
    else:
        tiles = [Tile(most.examples, d) for d in many]
        tiles += [Tile(e, many[-1]) for e in examples]
        tiles += [Tile(1, d) for d in directions if d < many[-1]]
    return list(dict.fromkeys(tiles))


def _halves(number: int) -> list[int]:
    return [number, *(_halves(-(-number // 2)) if number > 1 else [])]


def _evenly(number: int, most: int) -> int:
    """Size of parts, of at most so many, that are about equally large."""
    return math.ceil(number / math.ceil(number / most))
