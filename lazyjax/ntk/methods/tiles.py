"""Kernels in tiles, of some examples and some outputs, where memory asks for it."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.batches import num_rows
from lazyjax.jaxpr.held import held_bytes
from lazyjax.ntk.contract.factors import working_dtype
from lazyjax.ntk.methods.sizes import (
    Tile,
    fitting,
    outputs_at_a_time,
    rough_bytes,
    smaller_tiles,
)
from lazyjax.ntk.outputs import Directions, Pairs, transposed
from lazyjax.ntk.requests.memory import (
    Budget,
    check_result_fits,
    refuse_work,
    result_bytes,
)
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import Method

# Where examples are spread over devices, tiles are gathered, and split again at the end.
_COPIES = 2


class Examples(NamedTuple):
    """Examples of the rows or of the columns, and their directions in output space."""

    x: Any
    along: Directions

    @property
    def num_examples(self) -> int:
        """Examples of the side."""
        return num_rows(self.x)

    def part(
        self, start: Any, examples: int, first: Any, directions: int
    ) -> "Examples":
        """Some examples and directions, from the given ones on."""
        return Examples(
            jax.tree.map(
                lambda leaf: lax.dynamic_slice_in_dim(leaf, start, examples), self.x
            ),
            self.along.of_examples(start, examples).some(first, directions),
        )

    def padded(self, size: int) -> "Examples":
        """With directions that are zero, up to a multiple of their number."""
        number = math.ceil(self.along.number / size) * size
        return self._replace(along=self.along.padded(number))


# Kernels, as a pytree of arrays, between two sides; of one with itself if they are one.
KernelsOf = Callable[[Examples, Examples], Any]


def in_tiles(
    kernels_of: Callable[[KernelRequest], Any],
    request: KernelRequest,
    *,
    method: Method,
    budget: Budget,
    num_kernels: int = 1,
    num_directions: int | None = None,
) -> Any:
    """Kernels of a network, in as many tiles as the memory asks for."""
    # At most `num_directions` at a time; by default as many as are quickest.
    check_result_fits(request, budget, num_kernels=num_kernels)
    both = request.directions
    rows = Examples(request.x1, both[0])
    columns = rows if request.x2 is None else Examples(request.x2, both[1])

    def of_sides(rows: Examples, columns: Examples) -> Any:
        own = rows is columns
        part = dataclasses.replace(
            request,
            x1=rows.x,
            x2=None if own else columns.x,
            outputs=request.pairs,
            along=(rows.along, rows.along if own else columns.along),
        )
        return kernels_of(part)

    kernels = in_tiles_of_sides(
        of_sides,
        rows,
        columns,
        request.pairs,
        num_directions=num_directions or outputs_at_a_time(request, method),
        result=result_bytes(request, num_kernels),
        is_spread=request.is_spread,
        rough=lambda tile: rough_bytes(request, method, tile),
        budget=budget,
    )
    if kernels is None:
        kernels = refuse_work(request, method, budget)
    return kernels


def in_tiles_of_sides(
    kernels_of: KernelsOf,
    rows: Examples,
    columns: Examples,
    pairs: Pairs,
    *,
    num_directions: int,
    result: int,
    is_spread: bool,
    rough: Callable[[Tile], int],
    budget: Budget,
) -> Any | None:
    """Kernels between two sides, in the largest tiles that fit; `None` if none do."""
    # `result` is their bytes, and `rough` a guess at what a tile takes beside them.
    counts = rows.along.number, columns.along.number
    whole = Tile(max(rows.num_examples, columns.num_examples), max(counts))

    def held(tile: Tile) -> int:
        of_tile = _held_by_tile(kernels_of, rows, columns, tile, pairs)
        size = of_tile if tile == whole else of_tile + result
        return _COPIES * size if is_spread else size

    tile = fitting(
        smaller_tiles(whole._replace(directions=num_directions), pairs),
        held,
        lambda tile: rough(tile) + 3 * result,
        budget,
    )
    if tile is None:
        return None
    if tile == whole:
        return kernels_of(rows, columns)
    return tiled(kernels_of, rows, columns, tile, pairs)


def _held_by_tile(
    kernels_of: KernelsOf, rows: Examples, columns: Examples, tile: Tile, pairs: Pairs
) -> int:
    """Bytes that a tile takes, within itself or between two."""
    first, second = (_of_size(side, tile) for side in (rows, columns))
    is_one = columns is rows and _is_one_block(rows, tile, pairs)

    def own(start: Array) -> Any:
        part = rows.part(start, first.examples, start, first.directions)
        return kernels_of(part, part)

    def between(start: Array) -> Any:
        one = rows.part(start, first.examples, start, first.directions)
        return kernels_of(
            one, columns.part(start, second.examples, start, second.directions)
        )

    programs = [own] if columns is rows else []
    programs += [] if is_one else [between]
    traced = [jax.make_jaxpr(program)(jnp.int32(0)) for program in programs]
    mirrored = 0 if is_one else max(_total_bytes(program) for program in traced)
    return mirrored + max(map(held_bytes, traced))


def _total_bytes(program: Any) -> int:
    return sum(aval.size * aval.dtype.itemsize for aval in program.out_avals)


def _of_size(side: Examples, tile: Tile) -> Tile:
    """A tile, no larger than a side."""
    return Tile(
        min(tile.examples, side.num_examples), min(tile.directions, side.along.number)
    )


def _is_one_block(side: Examples, tile: Tile, pairs: Pairs) -> bool:
    """Whether tiles of a symmetric kernel are all on its diagonal."""
    is_whole = tile.examples >= side.num_examples
    return is_whole and (pairs != "full" or tile.directions >= side.along.number)


def tiled(
    kernels_of: KernelsOf,
    rows: Examples,
    columns: Examples,
    tile: Tile,
    pairs: Pairs,
) -> Any:
    """Kernels, written tile by tile."""
    # The last part of a side starts earlier, so that all are of one size. A tile of a
    # symmetric kernel is written with its mirror image, and those of parts with themselves
    # come last: they make what parts have in common symmetric.
    is_symmetric = columns is rows
    if pairs == "trace":
        rows = rows.padded(tile.directions)
        columns = rows if is_symmetric else columns.padded(tile.directions)
    writer = _Writer(kernels_of, rows, columns, tile, pairs)
    first, second = writer.starts(rows), writer.starts(columns)
    kernels = writer.zeros()
    if not is_symmetric:
        return writer.written(kernels, itertools.product(first, second))
    if len(first) > 1:
        between = itertools.combinations(first, 2)
        kernels = writer.written(kernels, between, is_mirrored=True)
    return writer.written(kernels, ((start, start) for start in first), is_own=True)


Start = tuple[int, int]  # example and direction


@dataclasses.dataclass(frozen=True, eq=False)
class _Writer:
    """Computes tiles of kernels, and writes them where they belong."""

    kernels_of: KernelsOf
    rows: Examples
    columns: Examples
    tile: Tile
    pairs: Pairs

    def starts(self, side: Examples) -> list[Start]:
        """Where the parts of a side start; directions are parts of their own if paired."""
        size = _of_size(side, self.tile)
        examples = _starts(side.num_examples, size.examples)
        if self.pairs != "full":
            return [(start, 0) for start in examples]
        directions = _starts(side.along.number, size.directions)
        return list(itertools.product(examples, directions))

    def zeros(self) -> Any:
        """Kernels of both sides that nothing has been written to."""
        zero = jnp.zeros((2,), jnp.int32)
        of_tile = jax.eval_shape(lambda s: self._kernels((s, s), own=False), zero)
        counts = self.rows.along.number, self.columns.along.number
        ends = {"full": counts, "diagonal": counts[:1]}.get(self.pairs, ())
        shape = (self.rows.num_examples, self.columns.num_examples, *ends)
        return jax.tree.map(lambda k: jnp.zeros(shape, k.dtype), of_tile)

    def written(
        self,
        kernels: Any,
        pairs_of_starts: Iterable[tuple[Start, Start]],
        *,
        is_mirrored: bool = False,
        is_own: bool = False,
    ) -> Any:
        """Kernels with some tiles written."""
        corners = jnp.asarray(list(pairs_of_starts), jnp.int32)

        def write(kernels: Any, corner: Array) -> tuple[Any, None]:
            new = lax.optimization_barrier(self._kernels(corner, own=is_own))
            place = functools.partial(self._placed, corner)
            kernels = jax.tree.map(place, kernels, new)
            if is_mirrored:
                place = functools.partial(self._placed, corner[::-1])
                mirrored = jax.tree.map(transposed, new)
                kernels = jax.tree.map(place, kernels, mirrored)
            return kernels, None

        return lax.scan(write, kernels, corners)[0]

    def _placed(self, corner: Array, kernel: Array, new: Array) -> Array:
        (row, first), (column, second) = corner
        start = (row, column, first, second)[: kernel.ndim]
        return lax.dynamic_update_slice(
            kernel, new, start, allow_negative_indices=False
        )

    def _kernels(self, corner: Any, *, own: bool) -> Any:
        """Kernels of one tile: of all directions, if they are not paired."""
        (row, first), (column, second) = corner

        def some(first: Any, second: Any) -> Any:
            rows = self.rows.part(row, *self._take(self.rows, first))
            if own:
                return self.kernels_of(rows, rows)
            columns = self.columns.part(column, *self._take(self.columns, second))
            return self.kernels_of(rows, columns)

        if self.pairs == "full":
            return some(first, second)
        chunk = lambda start: some(start, start)
        return in_chunks(
            chunk, self.rows.along.number, self.tile.directions, self.pairs
        )

    def _take(self, side: Examples, first: Any) -> tuple[int, Any, int]:
        size = _of_size(side, self.tile)
        return size.examples, first, size.directions


def _starts(number: int, size: int) -> list[int]:
    """Where parts of one size start that cover so many; the last may start earlier."""
    return [min(start, number - size) for start in range(0, number, size)]


def in_chunks(
    kernels_of: Callable[[Any], Any], number: int, size: int, pairs: Pairs
) -> Any:
    """Kernels of equal directions, from those of so many, by where these start."""
    if size >= number:
        return kernels_of(0)
    starts = jnp.asarray(_starts(number, size))
    if pairs == "diagonal":
        kernels = lax.map(kernels_of, starts)
        return jax.tree.map(lambda k: _joined(k, number), kernels)
    like = jax.eval_shape(kernels_of, starts[0])
    zeros = jax.tree.map(lambda k: jnp.zeros(k.shape, working_dtype(k.dtype)), like)
    plus = lambda total, kernel: total + kernel.astype(total.dtype)
    add = lambda total, start: (jax.tree.map(plus, total, kernels_of(start)), None)
    totals, _ = lax.scan(add, zeros, starts)
    return jax.tree.map(lambda total, k: total.astype(k.dtype), totals, like)


def _joined(kernels: Array, number: int) -> Array:
    """Kernels `(parts, ..., size)` as one of all directions, the last axis."""
    size = kernels.shape[-1]
    last = number - size * (kernels.shape[0] - 1)  # that only the last part has
    whole = jnp.moveaxis(kernels[:-1], 0, -2).reshape(*kernels.shape[1:-1], -1)
    return jnp.concatenate([whole, kernels[-1][..., size - last :]], axis=-1)
