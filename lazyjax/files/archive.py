"""Named arrays in files that know their kind and notice damage; nothing is pickled.

A file has a header: format, kind, a checksum over everything, and what its writer adds.
All reading goes through `reading` and `verified`, so that a bad file is one error.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from lazyjax.files.writing import write_file

Arrays: TypeAlias = dict[str, np.ndarray]

FORMAT = 3
"""Version of the layout of all files."""

_HEADER = "meta"

RESERVED = (_HEADER, "file")
"""Names that no array can have: that of the header, and an argument of `numpy.savez`."""


class FileError(ValueError):
    """A file that is damaged, or that this version of lazyjax does not read."""


@contextmanager
def reading(path: object, advice: str) -> Iterator[None]:
    """Whatever goes wrong while a file is read, as one error that names it, and advice."""
    try:
        yield
    except FileNotFoundError:
        raise
    except FileError as error:
        raise FileError(f"{path} cannot be used: {error}. {advice}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{path} cannot be read: {reason}. {advice}") from error
    except Exception as error:  # a damaged file makes parsers raise anything
        reason = f"{type(error).__name__}: {error}".rstrip(": .")
        raise FileError(f"{path} is damaged ({reason}). {advice}") from error


def checksum(about: Mapping[str, Any], arrays: Arrays) -> str:
    """Number that changes with any name, number or shape."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.name, array.shape)).encode())
        digest.update(np.ascontiguousarray(_plain(array)).data)
    return digest.hexdigest()


def header(kind: str, content: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """What a file says of itself."""
    assert not {"format", "class", "checksum"} & content.keys()
    about = {"format": FORMAT, "class": kind, **content}
    return about | {"checksum": checksum(about, arrays)}


def verified(kind: str, about: Any, arrays: Arrays) -> dict[str, Any]:
    """The header of a file that is read, if it is whole and of that kind."""
    about = dict(about)
    version = about.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise FileError(
            f"it was written by a newer version of lazyjax, in format {version}; this "
            f"one reads format {FORMAT}"
        )
    if version != FORMAT:
        raise FileError(
            f"it is not in format {FORMAT}, the one that this version of lazyjax reads"
        )
    if about.pop("checksum", None) != checksum(about, arrays):
        raise FileError("its content is not what was written")
    found = about.pop("class", None)
    if found != kind:
        raise FileError(f"it is no file of a {kind}, but of a {found}")
    del about["format"]
    return about


def write_npz(
    path: Path, kind: str, content: Mapping[str, Any], arrays: Arrays
) -> None:
    """Write arrays and what describes them as an archive that `numpy.load` reads too."""
    foreign = {k: v.dtype.name for k, v in arrays.items() if v.dtype.kind == "V"}
    kept = {
        k: np.asarray(v, order="C").view(f"u{v.dtype.itemsize}") if k in foreign else v
        for k, v in arrays.items()
    }
    about = header(kind, dict(content) | {"dtypes": foreign}, kept)
    buffer = io.BytesIO()
    np.savez(buffer, **kept, **{_HEADER: np.array(json.dumps(about))})  # pyright: ignore[reportArgumentType]
    write_file(path, buffer.getbuffer())


def read_npz(path: Path, kind: str, *, advice: str) -> tuple[dict[str, Any], Arrays]:
    """What `write_npz` wrote."""
    with reading(path, advice):
        raw = path.read_bytes()
        if not zipfile.is_zipfile(io.BytesIO(raw)):  # NumPy would advise to unpickle it
            raise FileError("it is no archive of arrays")
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            arrays = dict(archive)
        about = json.loads(str(arrays.pop(_HEADER))) if _HEADER in arrays else {}
        content = verified(kind, about, arrays)
        for name, dtype in content.pop("dtypes").items():
            arrays[name] = arrays[name].view(getattr(ml_dtypes, dtype))
        return content, arrays


def _plain(array: np.ndarray) -> np.ndarray:
    """The array in one byte order and with one NaN, as text keeps no more of it."""
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.kind == "f" and np.isnan(array).any():
        return np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return array
