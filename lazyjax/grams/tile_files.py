"""Tiles in a zarr array, one chunk each: whole or not at all, each with a checksum.

The array is zarr of version 3, which other libraries read too. A chunk is the numbers of
a tile and their CRC-32C; chunks below the diagonal of a symmetric matrix are missing.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lazyjax.files.archive import FileError, header, reading, verified
from lazyjax.grams.lock import is_foreign

Place = tuple[int, int]  # numbers of a tile along rows and columns

_KIND = "Gram matrix"
_ADVICE = "Delete the folder to start anew."
# Tiles that are read at a time.
_READ_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class TileFiles:
    """A folder of tiles."""

    path: Path
    content: Mapping[str, Any]  # what the array says of itself
    array: Any  # of tensorstore

    @property
    def is_symmetric(self) -> bool:
        """Whether tiles below the diagonal are those above, mirrored."""
        return self.content["is_symmetric"]

    @property
    def tile(self) -> Place:
        """Examples on both sides of a tile."""
        rows, columns = self.array.chunk_layout.write_chunk.shape[:2]
        return rows, columns

    @property
    def places(self) -> list[Place]:
        """All tiles that are kept, row by row."""
        return tile_places(self.array.shape[:2], self.tile, self.is_symmetric)

    def written(self) -> set[Place]:
        """Tiles that are there."""
        return set(filter(self.is_written, self.places))

    def is_written(self, place: Place) -> bool:
        """Whether a tile is there."""
        return self._file(place).exists()

    def region(self, place: Place) -> tuple[slice, slice]:
        """Examples of a tile."""
        rows, columns = (
            slice(size * number, min(size * (number + 1), n))
            for size, number, n in zip(
                self.tile, place, self.array.shape[:2], strict=True
            )
        )
        return rows, columns

    def write(self, place: Place, tile: np.ndarray) -> Any:
        """Begin to write a tile; the answer waits for the end."""
        # A chunk at the edge would be read first, which must not fail.
        return self.array[self.region(place)].write(
            tile, can_reference_source_data_indefinitely=True
        )

    def read(
        self, places: Iterable[Place]
    ) -> Iterator[tuple[Place, np.ndarray | None]]:
        """Tiles in order; `None` for one that is damaged."""
        reads: list[tuple[Place, Any]] = []
        for place in places:
            reads.append((place, self.array[self.region(place)].read()))
            if len(reads) > _READ_AHEAD:
                yield self._finished(*reads.pop(0))
        for place, read in reads:
            yield self._finished(place, read)

    def _finished(self, place: Place, read: Any) -> tuple[Place, np.ndarray | None]:
        try:
            return place, read.result()
        except Exception as error:
            with reading(self._file(place), _ADVICE):
                self._file(place).read_bytes()
            if not isinstance(error, ValueError):
                raise
            return place, None  # its bytes can be read, and are not what was written

    def remove(self, places: Iterable[Place]) -> None:
        """Let go of tiles, and of what is left of any that was being written."""
        for place in places:
            self._file(place).unlink(missing_ok=True)
        for file in (self.path / "c").rglob("*.__lock"):
            file.unlink(missing_ok=True)

    def _file(self, place: Place) -> Path:
        rest = (0 for _ in self.array.shape[2:])
        return self.path.joinpath("c", *map(str, (*place, *rest)))


def tile_places(shape: tuple[int, ...], tile: Place, is_symmetric: bool) -> list[Place]:
    """Tiles of a matrix, row by row; of a symmetric one on and above the diagonal."""
    rows, columns = (math.ceil(n / size) for n, size in zip(shape, tile, strict=True))
    return [
        (i, j) for i in range(rows) for j in range(i if is_symmetric else 0, columns)
    ]


def holds_tiles(path: Path) -> bool:
    """Whether a folder holds a zarr array; a folder with anything else is refused."""
    if (path / "zarr.json").exists():
        return True
    if path.is_dir() and any(filter(is_foreign, path.iterdir())):
        raise ValueError(
            f"`path` must name a new folder, or one of a Gram matrix; {path} holds "
            "other files."
        )
    return False


def create(
    path: Path,
    content: Mapping[str, Any],
    shape: tuple[int, ...],
    tile: Place,
    dtype: Any,
) -> TileFiles:
    """A folder without tiles."""
    about = header(_KIND, content, {})
    chunk = [*tile, *shape[2:]]
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "create": True,
        # Also a tile that is NaN is there.
        "store_data_equal_to_fill_value": True,
        "metadata": {
            "shape": list(shape),
            "data_type": np.dtype(dtype).name,
            "fill_value": "NaN",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "attributes": {"lazyjax": about},
        },
    }
    return TileFiles(path, content, tensorstore().open(spec).result())


def opened(path: Path) -> TileFiles:
    """The folder that `create` made."""
    file = path / "zarr.json"
    if not file.exists():
        raise FileNotFoundError(f"{path} holds no Gram matrix: there is no {file}.")
    with reading(path, _ADVICE):
        attributes = json.loads(file.read_text()).get("attributes", {})
        if "lazyjax" not in attributes:
            raise FileError("it is a zarr array that lazyjax did not write")
        content = verified(_KIND, attributes["lazyjax"], {})
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "store_data_equal_to_fill_value": True,
    }
    return TileFiles(path, content, tensorstore().open(spec, open=True).result())


def tensorstore() -> Any:
    """The library, or an error that says how to get it."""
    try:
        import tensorstore
    except ImportError as error:
        raise ImportError(
            '`lazyjax.gram` needs tensorstore: pip install "lazyjax[store]".'
        ) from error
    return tensorstore
