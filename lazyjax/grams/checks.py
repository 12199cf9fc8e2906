"""Whether a Gram matrix on disk is what it should be: read through, or recomputed."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from lazyjax.files.results import Storable
from lazyjax.grams.kernels import GramKernel
from lazyjax.grams.tile_files import Place, TileFiles
from lazyjax.ntk.outputs import transposed

# Examples of the principal block whose eigenvalues are taken.
_EXAMPLES = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class GramCheck(Storable):
    """What reading all tiles told.

    Attributes:
        num_tiles: How many there are to be.
        missing: Tiles that are not there.
        damaged: Tiles whose checksum is another than that of what was written.
        not_finite: Tiles with NaN or infinite entries.
        asymmetric: Tiles on the diagonal that differ from their transposes.
        eig_min: Smallest eigenvalue of the block of some examples, evenly spaced: that
            of the whole is no larger. `None` for a matrix of two batches, or one that is
            not whole.
        eig_max: The largest of that block; that of the whole is no smaller.
        num_examples: Examples of that block; of several outputs, it holds traces.
        dtype: Of the matrix.
    """

    _derived: ClassVar[tuple[str, ...]] = ("holds",)

    num_tiles: int
    missing: tuple[Place, ...]
    damaged: tuple[Place, ...]
    not_finite: tuple[Place, ...]
    asymmetric: tuple[Place, ...]
    eig_min: float | None
    eig_max: float | None
    num_examples: int
    dtype: str

    @property
    def holds(self) -> bool:
        """Whether all tiles are there, whole and finite, and eigenvalues not negative."""
        wrong = (self.missing, self.damaged, self.not_finite, self.asymmetric)
        return not any(wrong) and not self.is_indefinite

    @property
    def is_indefinite(self) -> bool:
        """Whether an eigenvalue is more negative than rounding explains."""
        if self.eig_min is None or self.eig_max is None:
            return False
        rounding = float(jnp.finfo(self.dtype).eps) * self.num_examples
        return not self.eig_min >= -rounding * abs(self.eig_max)

    def explain(self) -> str:
        """The same in words.

        Returns:
            Some lines.
        """
        counts = {
            "missing": self.missing,
            "damaged": self.damaged,
            "not finite": self.not_finite,
            "not symmetric": self.asymmetric,
        }
        lines = [
            f"{len(places)} of {self.num_tiles} tiles {word}: {_some(places)}"
            for word, places in counts.items()
            if places
        ]
        if not lines:
            lines = [f"all {self.num_tiles} tiles are there, whole and finite"]
        if self.eig_min is not None:
            sign = " (negative)" if self.is_indefinite else ""
            lines.append(
                f"smallest eigenvalue of the block of {self.num_examples} examples: "
                f"{self.eig_min:.4g}{sign}; largest {self.eig_max:.4g}"
            )
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GramAudit(Storable):
    """Entries computed anew in float64, by the plainest way.

    Attributes:
        pairs: Numbers of both examples, pair by pair.
        largest_error: The largest difference, in units of the geometric mean of what
            both examples have on the diagonal.
    """

    pairs: tuple[Place, ...]
    largest_error: float


def check_tiles(files: TileFiles) -> GramCheck:
    """All tiles, read through."""
    written = files.written()
    found: dict[str, list[Place]] = {"damaged": [], "not_finite": [], "asymmetric": []}
    for place, tile in files.read(sorted(written)):
        if tile is None:
            found["damaged"].append(place)
            continue
        if not np.isfinite(tile).all():
            found["not_finite"].append(place)
        is_diagonal = files.is_symmetric and place[0] == place[1]
        if is_diagonal and not np.array_equal(tile, transposed(tile), equal_nan=True):
            found["asymmetric"].append(place)
    places = {name: tuple(those) for name, those in found.items()}
    missing = tuple(place for place in files.places if place not in written)
    is_whole = not (missing or places["damaged"] or places["not_finite"])
    n = files.array.shape[0]
    number = min(n, _EXAMPLES) if files.is_symmetric and is_whole else 0
    eigenvalues = None
    if number:
        examples = np.unique(np.linspace(0, n - 1, number).astype(int))
        eigenvalues = np.linalg.eigvalsh(_principal_block(files, examples))
    return GramCheck(
        num_tiles=len(files.places),
        missing=missing,
        **places,
        eig_min=None if eigenvalues is None else float(eigenvalues[0]),
        eig_max=None if eigenvalues is None else float(eigenvalues[-1]),
        num_examples=number,
        dtype=files.array.dtype.name,
    )


def _principal_block(files: TileFiles, examples: np.ndarray) -> np.ndarray:
    """Entries among some examples, in float64; of several outputs their traces."""
    n = len(examples)
    block = np.zeros((n, n))
    for place, tile in files.read(sorted(files.written())):
        assert tile is not None
        sides = []
        for part in files.region(place):
            at = np.flatnonzero((part.start <= examples) & (examples < part.stop))
            sides.append((at, examples[at] - part.start))
        (rows, from_rows), (columns, from_columns) = sides
        if not (rows.size and columns.size):
            continue
        entries = tile[np.ix_(from_rows, from_columns)].astype(np.float64)
        if entries.ndim == 4:
            entries = np.einsum("ijaa->ija", entries)
        if entries.ndim == 3:
            entries = entries.sum(axis=-1)
        block[np.ix_(rows, columns)] = entries
        block[np.ix_(columns, rows)] = entries.T
    return block


def audited(
    matrix: np.ndarray,
    kernel: GramKernel,
    rows: np.ndarray,
    columns: np.ndarray,
) -> float:
    """Error of entries, one for each row and column, beside those computed anew."""
    errors = []
    for entry, x, y in zip(matrix, rows, columns, strict=True):
        expected = kernel.reference(x[None], y[None])[0, 0]
        own = [np.max(np.abs(kernel.reference(z[None], z[None]))) for z in (x, y)]
        scale = math.sqrt(own[0] * own[1])
        error = float(np.max(np.abs(entry.astype(np.float64) - expected)))
        errors.append(error / scale if scale else error)
    return float(np.max(errors))


def _some(places: tuple[Place, ...]) -> str:
    shown = ", ".join(map(str, places[:5]))
    return shown + (", ..." if len(places) > 5 else "")
