"""Tiles of some block rows and columns, for which each block is evaluated once."""

import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax._brief import brief
from lazyjax.grams.kernels import GramKernel, GramShape, TileProgram
from lazyjax.grams.tile_files import Place
from lazyjax.ntk.outputs import transposed

# Share of the largest entry, and units of rounding, by which a kernel may differ from its
# own transpose.
_ASYMMETRY, _ROUNDINGS = 2.0**-10, 16


@runtime_checkable
class Blocks(Protocol):
    """Blocks of examples by number."""

    def __getitem__(self, number: int, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class BlocksOf:
    """Blocks of one batch."""

    x: np.ndarray
    size: int

    def __getitem__(self, number: int) -> np.ndarray:
        return self.x[self.size * number : self.size * (number + 1)]


def blocks_of(
    batches: tuple[np.ndarray, np.ndarray], tile: Place
) -> tuple[BlocksOf, BlocksOf]:
    """Blocks of both batches."""
    return BlocksOf(batches[0], tile[0]), BlocksOf(batches[1], tile[1])


@dataclasses.dataclass(frozen=True)
class Strip:
    """A task: tiles between some blocks of rows, which are held, and some of columns."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    wanted: frozenset[Place]


def strips(
    places: Sequence[Place], num_rows_held: int, num_columns: int | None = None
) -> list[Strip]:
    """Tiles in strips of at most so many rows, and columns if that is given."""
    found = []
    rows = sorted({i for i, _ in places})
    for held in _chunks(rows, num_rows_held):
        columns = sorted({j for i, j in places if i in held})
        for some in _chunks(columns, num_columns or len(columns)):
            wanted = frozenset((i, j) for i, j in places if i in held and j in some)
            if wanted:
                found.append(Strip(tuple(held), tuple(some), wanted))
    return found


def num_evaluated(found: Sequence[Strip], is_symmetric: bool) -> int:
    """Blocks that are evaluated for some strips."""
    return sum(
        len(strip.rows)
        + sum(1 for j in strip.columns if not (is_symmetric and j in strip.rows))
        for strip in found
    )


def tiles_of(
    kernel: GramKernel,
    program: TileProgram,
    shape: GramShape,
    blocks: tuple[Blocks, Blocks],
    strip: Strip,
    memory: int,
) -> Iterator[tuple[Place, np.ndarray]]:
    """Tiles of a strip; where devices run out of memory, by less at a time."""
    left = set(strip.wanted)
    try:
        for place, tile in _tiles(program, shape, blocks, strip):
            left.discard(place)
            yield place, tile
        return
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if len(strip.rows) == 1 and max(shape.tile) == 1:
            raise
    if len(strip.rows) > 1:
        for held in _chunks(strip.rows, len(strip.rows) // 2):
            wanted = frozenset(place for place in left if place[0] in held)
            less = Strip(tuple(held), strip.columns, wanted)
            yield from tiles_of(kernel, program, shape, blocks, less, memory)
        return
    yield from _by_quarters(kernel, shape, blocks, sorted(left), memory)


def _by_quarters(
    kernel: GramKernel,
    shape: GramShape,
    blocks: tuple[Blocks, Blocks],
    places: Sequence[Place],
    memory: int,
) -> Iterator[tuple[Place, np.ndarray]]:
    """Tiles that are each put together of smaller ones."""
    num_rows, num_columns = shape.tile
    less = shape._replace(tile=(math.ceil(num_rows / 2), math.ceil(num_columns / 2)))
    program = None
    for place in places:
        i, j = place
        is_same = shape.is_symmetric and i == j
        halves = blocks_of((blocks[0][i], blocks[1][j]), less.tile)
        if program is None:
            program = kernel.program(halves[0].x, less, memory)
        sizes = [math.ceil(len(half.x) / half.size) for half in halves]
        quarters = [
            (a, b)
            for a in range(sizes[0])
            for b in range(a if is_same else 0, sizes[1])
        ]
        strip = Strip(
            tuple(range(sizes[0])), tuple(range(sizes[1])), frozenset(quarters)
        )
        part = less._replace(is_symmetric=is_same)
        found = dict(tiles_of(kernel, program, part, halves, strip, memory))
        for a, b in quarters:
            if is_same and a != b:
                found[b, a] = transposed(found[a, b])
        rows = [
            np.concatenate([found[a, b] for b in range(sizes[1])], axis=1)
            for a in range(sizes[0])
        ]
        yield place, np.concatenate(rows)


def _tiles(
    program: TileProgram,
    shape: GramShape,
    blocks: tuple[Blocks, Blocks],
    strip: Strip,
) -> Iterator[tuple[Place, np.ndarray]]:
    held: dict[int, Any] = {}
    begun: list[tuple[Place, Any]] = []  # one tile that is being computed

    def made(number: int, axis: int) -> Any:
        return program.parts(blocks[axis][number], axis)

    def finished() -> Iterator[tuple[Place, np.ndarray]]:
        while begun:
            place, array = begun.pop()
            yield place, _host_tile(array, shape, blocks, place)

    for j in strip.columns:
        partners = [i for i in strip.rows if (i, j) in strip.wanted]
        column = None
        for i in partners:
            if i not in held:
                yield from finished()  # else both would be held while parts are made
                held[i] = made(i, 0)
            if column is None:
                yield from finished()
                if shape.is_symmetric and j in strip.rows:
                    held[j] = column = held[j] if j in held else made(j, 0)
                else:
                    column = made(j, 1)
            is_same = shape.is_symmetric and i == j
            array = program.tile(held[i], column, is_same=is_same)
            yield from finished()
            begun.append(((i, j), array))
            del array
    yield from finished()


def _host_tile(
    array: Any, shape: GramShape, blocks: tuple[Blocks, Blocks], place: Place
) -> np.ndarray:
    """A tile without padding; one on the diagonal exactly symmetric."""
    num_rows, num_columns = (
        len(side[number]) for side, number in zip(blocks, place, strict=True)
    )
    tile = np.asarray(array)[:num_rows, :num_columns]
    if tile.shape[:2] != (num_rows, num_columns):
        raise ValueError(
            f"`kernel` must return a row for each of {num_rows} examples and a column "
            f"for each of {num_columns}; got shape {tile.shape}."
        )
    if not shape.is_symmetric or place[0] != place[1]:
        return tile
    other = transposed(tile)
    excess, largest = np.max(np.abs(tile - other)), np.max(np.abs(tile))
    if excess > max(_ASYMMETRY, _ROUNDINGS * jnp.finfo(tile.dtype).eps) * largest:
        raise ValueError(
            "`kernel` must be symmetric where `x2` is left out; entries differ from "
            f"those mirrored by {brief(float(excess))} of {brief(float(largest))}. Pass "
            "`x2=x1` for one that is not."
        )
    return (tile + other) / np.asarray(2, tile.dtype)


def _chunks(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[i : i + size] for i in range(0, len(numbers), max(1, size))]


def compute(
    kernel: GramKernel,
    shape: GramShape,
    blocks: tuple[Mapping[int, np.ndarray], Mapping[int, np.ndarray]],
    strip: Strip,
    memory: int,
    name: str,
    is_x64: bool,
) -> list[tuple[Place, np.ndarray]]:
    """All tiles of a strip: what a worker does, with 64-bit types or without."""
    x = next(iter(blocks[0].values()))
    with jax.enable_x64(is_x64):  # another thread or process may have it otherwise
        program = known_program(kernel, shape, x, memory, name)
        return list(tiles_of(kernel, program, shape, blocks, strip, memory))


# The last program of this process, which tasks of one matrix have in common.
_known: dict[tuple[Any, ...], TileProgram] = {}
_making = threading.Lock()


def known_program(
    kernel: GramKernel, shape: GramShape, x: np.ndarray, memory: int, name: str
) -> TileProgram:
    """The program of a kernel that has this name, made once in a process."""
    if not kernel.is_compiled:
        return kernel.program(x, shape, memory)
    key = name, shape, memory
    with _making:
        if key not in _known:
            _known.clear()
            _known[key] = kernel.program(x, shape, memory)
        return _known[key]
