"""A Gram matrix on disk, read as it is asked for."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lazyjax._brief import brief, summary
from lazyjax._checks import check_at_least, check_key
from lazyjax.files.archive import FileError
from lazyjax.grams.checks import GramAudit, GramCheck, audited, check_tiles
from lazyjax.grams.kernels import GramKernel
from lazyjax.grams.tile_files import Place, TileFiles, opened
from lazyjax.ntk.outputs import transposed
from lazyjax.typing import AnyArray, RandomKey

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GramStore:
    """A Gram matrix on disk, as `lazyjax.gram` writes it; nothing is held in memory.

    `store[i, j]` are entries of examples: numbers or slices of them, as of an array.
    Of a symmetric matrix, entries below the diagonal are read from those above.

    Attributes:
        files: Where its tiles are.
        source: Kernel and examples, if they are known: what `audit` needs.
    """

    files: TileFiles
    source: tuple[GramKernel, np.ndarray, np.ndarray] | None = None

    @classmethod
    def open(cls, path: str | Path) -> "GramStore":
        """The matrix in a folder, whether or not all of it is there.

        Args:
            path: The folder.

        Returns:
            The matrix.

        Raises:
            FileNotFoundError: If the folder holds none.
            ValueError: If what it holds is damaged or of another version.
        """
        return cls(opened(Path(path)))

    def __repr__(self) -> str:
        return summary(
            self, shape=self.shape, dtype=self.dtype.name, path=str(self.files.path)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        return tuple(self.files.array.shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of its numbers."""
        return self.files.array.dtype.numpy_dtype

    @property
    def is_symmetric(self) -> bool:
        """Whether it is of one batch with itself."""
        return self.files.is_symmetric

    @property
    def tile(self) -> Place:
        """Examples on both sides of a tile."""
        return self.files.tile

    @property
    def missing(self) -> list[Place]:
        """Tiles that are not there yet, or no more."""
        return [p for p in self.files.places if not self.files.is_written(p)]

    def __getitem__(
        self, index: tuple[int | slice, int | slice]
    ) -> np.ndarray | np.generic:
        """Entries of some pairs of examples."""
        if not isinstance(index, tuple) or len(index) != 2:
            raise IndexError(
                "a Gram matrix takes two indices, of examples on both sides, such as "
                f"`store[0, 10:20]`; got {brief(index)}."
            )
        wanted = [_examples(of, n) for of, n in zip(index, self.shape, strict=False)]
        found = self._block(*wanted)
        for axis in (1, 0):
            if not isinstance(index[axis], slice):
                found = found[:, 0] if axis else found[0]
        return found

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Entries of some examples with all others.

        Args:
            start: The first of them.
            stop: The one after the last.

        Returns:
            Their rows, `(stop - start, n2, *k)`.
        """
        return self._block(range(self.shape[0])[start:stop], range(self.shape[1]))

    def to_array(self) -> np.ndarray:
        """The whole matrix in memory.

        Returns:
            The matrix, `(n1, n2, *k)`.
        """
        return self.rows(0, self.shape[0])

    def to_xarray(self) -> "xarray.DataArray":
        """The whole matrix with named axes.

        Returns:
            The matrix, with axes "row", "column" and those of outputs.

        Raises:
            ImportError: If xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError(
                '`to_xarray` needs xarray: pip install "lazyjax[tables]".'
            ) from error
        names = ("row", "column", "output", "other_output")[: len(self.shape)]
        return xarray.DataArray(self.to_array(), dims=names)

    @property
    def flat_shape(self) -> tuple[int, int]:
        """Shape as a matrix, whose rows are outputs of examples, one after the other."""
        if len(self.shape) == 3:
            raise ValueError(
                "a Gram matrix of equal outputs, one for each, is no matrix: compute it "
                'with `outputs="full"` or "trace".'
            )
        k = 1 if len(self.shape) == 2 else self.shape[2]
        return self.shape[0] * k, self.shape[1] * k

    def __matmul__(self, right: AnyArray) -> np.ndarray:
        """Product with columns, tile by tile, in the wider of both precisions."""
        num_rows, num_columns = self.flat_shape
        if np.ndim(right) not in (1, 2) or np.shape(right)[0] != num_columns:
            raise ValueError(
                f"a product takes {num_columns} rows; got shape {np.shape(right)}."
            )
        columns = np.asarray(right)
        dtype = np.promote_types(self.dtype, columns.dtype)
        result = np.zeros((num_rows, *columns.shape[1:]), dtype)
        k = num_rows // self.shape[0]
        for place, tile in self._tiles(self.files.places):
            matrix = tile.astype(dtype)
            if matrix.ndim == 4:
                matrix = matrix.transpose(0, 2, 1, 3)
                matrix = matrix.reshape(k * tile.shape[0], k * tile.shape[1])
            rows, others = (
                slice(k * part.start, k * part.stop)
                for part in self.files.region(place)
            )
            result[rows] += matrix @ columns[others]
            if self.files.is_symmetric and place[0] != place[1]:
                result[others] += matrix.T @ columns[rows]
        return result

    def verify(self) -> GramCheck:
        """Read all tiles, and check what can be told from them alone.

        These are checksums, finiteness, symmetry, and the eigenvalues of a block of at
        most 512 examples.

        Returns:
            What was found. `lazyjax.gram` computes tiles that lack anew.
        """
        return check_tiles(self.files)

    def audit(self, num_entries: int, key: RandomKey) -> GramAudit:
        """Compute some entries anew, by the plainest way and in float64.

        Of networks, these are products of whole gradients, one example at a time.

        Args:
            num_entries: How many pairs of examples.
            key: Chooses them.

        Returns:
            The pairs, and the largest error.

        Raises:
            ValueError: If the kernel is not known, as of a store that was opened from
                its folder, or `num_entries` is not positive.
        """
        check_at_least("num_entries", num_entries, 1)
        check_key("key", key)
        if self.source is None:
            raise ValueError(
                "`audit` needs the kernel and its examples: it is there for what "
                "`lazyjax.gram` returns, and not for what is opened from a folder."
            )
        kernel, x1, x2 = self.source
        draws = [
            jax.random.randint(part, (num_entries,), 0, n)
            for part, n in zip(jax.random.split(key), self.shape, strict=False)
        ]
        pairs = np.stack(draws, axis=1)
        entries = np.stack([self[int(i), int(j)] for i, j in pairs])
        error = audited(entries, kernel, x1[pairs[:, 0]], x2[pairs[:, 1]])
        return GramAudit(
            pairs=tuple((int(i), int(j)) for i, j in pairs), largest_error=error
        )

    def _block(self, rows: range, columns: range) -> np.ndarray:
        result = np.empty((len(rows), len(columns), *self.shape[2:]), self.dtype)
        if not result.size:
            return result
        for place, tile in self._tiles(self._places(rows, columns)):
            region = self.files.region(place)
            _put(result, rows, columns, region, tile)
            if self.files.is_symmetric and place[0] != place[1]:
                _put(result, rows, columns, (region[1], region[0]), transposed(tile))
        return result

    def _tiles(self, places: list[Place]) -> Iterator[tuple[Place, np.ndarray]]:
        """Tiles as they are kept, all of which must be there and whole."""
        if not all(map(self.files.is_written, places)):
            raise ValueError(
                f"{self.files.path} lacks {len(self.missing)} of "
                f"{len(self.files.places)} tiles. `lazyjax.gram` with the same arguments "
                "goes on with them."
            )
        for place, tile in self.files.read(places):
            if tile is None:
                raise FileError(
                    f"Tile {place} of {self.files.path} is damaged. `lazyjax.gram` with "
                    "the same arguments computes it anew."
                )
            yield place, tile

    def _places(self, rows: range, columns: range) -> list[Place]:
        """Tiles that hold entries of these examples."""
        numbers = [
            sorted({i // size for i in examples})
            for examples, size in zip((rows, columns), self.files.tile, strict=True)
        ]
        pairs = {(i, j) for i in numbers[0] for j in numbers[1]}
        if self.files.is_symmetric:
            pairs = {(min(pair), max(pair)) for pair in pairs}
        return sorted(pairs)


def _examples(index: Any, n: int) -> range:
    if isinstance(index, slice):
        return range(n)[index]
    number = range(n)[index]  # raises where there is none
    return range(number, number + 1)


def _put(
    result: np.ndarray,
    rows: range,
    columns: range,
    region: tuple[slice, slice],
    tile: np.ndarray,
) -> None:
    """Entries of a tile, where they are wanted."""
    sides = []
    for examples, part in zip((rows, columns), region, strict=True):
        all_of_it = np.asarray(examples)
        at = np.flatnonzero((part.start <= all_of_it) & (all_of_it < part.stop))
        sides.append((at, all_of_it[at] - part.start))
    (at_rows, from_rows), (at_columns, from_columns) = sides
    result[np.ix_(at_rows, at_columns)] = tile[np.ix_(from_rows, from_columns)]
