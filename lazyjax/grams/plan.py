"""How a Gram matrix is computed within a memory: tiles, rows held, work, space."""

import dataclasses
import math
import time

import jax
import numpy as np

from lazyjax._brief import in_bytes
from lazyjax.files.results import Storable
from lazyjax.grams.kernels import NUM_BLOCKS, GramKernel, GramShape, TileProgram
from lazyjax.grams.strips import known_program, num_evaluated, strips
from lazyjax.grams.tile_files import tile_places

# What a process needs beside arrays: compiled programs, buffers; but no larger a share.
_RESERVED_BYTES, _RESERVED_SHARE = 2**27, 4
# Larger tiles hardly make quicker products; and a tile is what is lost at a sudden end.
_MOST_EXAMPLES = 1024
_MOST_BYTES = 2**26


@dataclasses.dataclass(frozen=True, kw_only=True)
class GramPlan(Storable):
    """How a Gram matrix will be computed.

    Attributes:
        shape: Of the matrix.
        dtype: Of its numbers.
        is_symmetric: Whether only tiles on and above the diagonal are kept.
        tile: Examples on both sides of a tile.
        num_tiles: How many tiles there are.
        num_rows_held: Blocks of rows that are held while columns pass by.
        passes: How often an example is evaluated, on average.
        gflop: Operations in 1e9, if they are known.
        gigabytes: Space on disk in 1e9 bytes.
        memory: Bytes that are held at most, beside the examples.
        seconds: Time by that of one tile here; `None` if it was not taken.
    """

    shape: tuple[int, ...]
    dtype: str
    is_symmetric: bool
    tile: tuple[int, int]
    num_tiles: int
    num_rows_held: int
    passes: float
    gflop: float | None
    gigabytes: float
    memory: int
    seconds: float | None = None

    @property
    def num_examples(self) -> int:
        """Examples of both batches, or of the one."""
        return self.shape[0] if self.is_symmetric else sum(self.shape[:2])

    def gram_shape(self, mesh: tuple[int, int]) -> GramShape:
        """Sizes of matrix and tiles, on a mesh of devices."""
        num_rows, num_columns = self.shape[:2]
        return GramShape(num_rows, num_columns, self.is_symmetric, self.tile, mesh)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        kept = ", upper triangle" if self.is_symmetric else ""
        work = "unknown" if self.gflop is None else f"{self.gflop:.4g} GFLOP"
        lines = [
            f"matrix   {size}, {self.dtype}{kept}",
            f"tiles    {self.num_tiles} of {self.tile[0]} x {self.tile[1]} examples",
            f"work     {work}; each example is evaluated {self.passes:.3g} times",
            f"memory   {in_bytes(self.memory)}, {self.num_rows_held} blocks of rows held",
            f"on disk  {self.gigabytes:.3g} GB",
        ]
        if self.seconds is not None:
            lines.append(f"time     about {self.seconds:.3g} s on this machine alone")
        return "\n".join(lines)


def plan_of(
    kernel: GramKernel,
    x1: np.ndarray,
    x2: np.ndarray | None,
    memory: int,
    *,
    name: str,
    mesh: tuple[int, int],
    tile: tuple[int, int] | None,
) -> tuple[GramPlan, TileProgram]:
    """The plan, and the program it was made with; refused if no tile fits into memory."""
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    entry = kernel.entry(x1)
    number = math.prod(entry.shape)
    whole = GramShape(n1, n2, x2 is None, (1, 1), mesh)
    bytes_of_entry = number * entry.dtype.itemsize
    size = max(tile or (_first_size(kernel, x1, whole, bytes_of_entry, memory),))
    while True:
        found = tile or tuple(_balanced(n, size, math.prod(mesh)) for n in (n1, n2))
        shape = whole._replace(tile=found)
        program = known_program(kernel, shape, x1, memory, name)
        cost = program.cost
        held = (memory - cost.column - cost.other) // max(1, cost.row)
        if held >= 1:
            break
        if tile is not None or size == 1:
            raise ValueError(
                f"`memory` must be at least {in_bytes(_with_reserve(cost.total))} for "
                f"tiles of {found[0]} by {found[1]} examples; it is less."
            )
        size = size // 2
    places = tile_places((n1, n2), shape.tile, shape.is_symmetric)
    num_blocks = max(i for i, _ in places) + 1
    held = min(held, num_blocks)
    evaluated = num_evaluated(strips(places, held), shape.is_symmetric)
    examples = evaluated * max(shape.tile) / (n1 if x2 is None else n1 + n2)
    bytes_of_tile = math.prod(shape.tile) * bytes_of_entry
    plan = GramPlan(
        shape=(n1, n2, *entry.shape),
        dtype=np.dtype(entry.dtype).name,
        is_symmetric=shape.is_symmetric,
        tile=shape.tile,
        num_tiles=len(places),
        num_rows_held=held,
        passes=examples,
        gflop=kernel.gflop(x1, shape, examples),
        gigabytes=len(places) * bytes_of_tile / 1e9,
        memory=held * cost.row + cost.column + cost.other,
    )
    return plan, program


def timed(
    plan: GramPlan, program: TileProgram, batches: tuple[np.ndarray, np.ndarray]
) -> GramPlan:
    """The plan with the time that it takes by that of one tile, which is computed."""
    seconds = []
    for _ in range(2):  # the first time is that of more than computing
        start = time.perf_counter()
        rows, columns = (
            program.parts(x[:size], axis)
            for axis, (x, size) in enumerate(zip(batches, plan.tile, strict=True))
        )
        jax.block_until_ready((rows, columns))
        middle = time.perf_counter()
        jax.block_until_ready(program.tile(rows, columns, is_same=False))
        seconds = [(middle - start) / sum(plan.tile), time.perf_counter() - middle]
    examples = plan.passes * plan.num_examples
    total = seconds[0] * examples + seconds[1] * plan.num_tiles
    return dataclasses.replace(plan, seconds=total)


def usable(memory: int) -> int:
    """Bytes for arrays, of those that the process may take."""
    return memory - min(_RESERVED_BYTES, memory // _RESERVED_SHARE)


def _with_reserve(size: int) -> int:
    """Bytes of which so many are usable."""
    return size + min(_RESERVED_BYTES, size // (_RESERVED_SHARE - 1) + 1)


def _first_size(
    kernel: GramKernel, x: np.ndarray, shape: GramShape, entry_bytes: int, memory: int
) -> int:
    """Examples on a side of a tile, before it is known what its program needs."""
    most_bytes = min(_MOST_BYTES, memory // 16)
    of_example = max(1, kernel.bytes_of_example(x, shape, memory))
    size = min(
        _MOST_EXAMPLES,
        max(shape.num_rows, shape.num_columns),
        math.isqrt(max(1, most_bytes // entry_bytes)),
        memory // (NUM_BLOCKS * of_example),
    )
    return max(1, size)


def _balanced(n: int, size: int, multiple: int) -> int:
    """The least size of blocks of which as few cover `n`, a multiple of devices."""
    size = math.ceil(n / math.ceil(n / min(n, size)))
    return multiple * math.ceil(size / multiple)
