"""MNIST, read from files in the idx format."""

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from lazyjax._checks import checked_path
from lazyjax.data._dataset import Dataset
from lazyjax.data._labelled import Choice, Labelled
from lazyjax.data._sources import SOURCES, missing
from lazyjax.files.archive import FileError, reading
from lazyjax.typing import RandomKey

_ADVICE = "Download it again: see `lazyjax data where mnist`."
_TRAIN, _TEST, _BOTH = "train-", "t10k-", ""
_NAMES = tuple(map(str, range(10)))


def mnist(
    directory: str | Path,
    num_train: int = 100,
    *,
    num_test: int | None = 100,
    classes: tuple[int, ...] | Literal["parity"] | None = None,
    balanced: bool = True,
    key: RandomKey | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> Dataset:
    r"""70,000 handwritten digits, 28 by 28 pixels, as rows of unit norm.

    They are read from files in the idx format, compressed by gzip or not;
    `lazyjax.data.where("mnist")` says which. Training and test examples are drawn
    without replacement from the training and the test files or, of a single pair of
    files, both from these. `x.reshape(-1, 28, 28, 1)` are the images.

    Args:
        directory: Folder that holds the files, itself or in `mnist` or `MNIST/raw`.
        num_train: Number of training examples.
        num_test: Number of test examples; may be 0. `None` means all that are left.
        classes: As in `lazyjax.data.digits`.
        balanced: As in `lazyjax.data.digits`.
        key: As in `lazyjax.data.digits`.
        dtype: As in `lazyjax.data.digits`.

    Returns:
        The data set; targets have one column, or one for each class.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or an argument out of range.
        TypeError: If an argument is not of its kind.

    References:
        LeCun, Bottou, Bengio and Haffner (1998), Gradient-Based Learning Applied to
        Document Recognition, Proceedings of the IEEE 86.
    """
    choice = Choice(
        num_train=num_train,
        num_test=num_test,
        classes=classes,
        balanced=balanced,
        key=key,
        dtype=dtype,
    )
    folder, prefixes = _found(checked_path("directory", directory))
    pools = [_read_pair(folder, prefix) for prefix in prefixes]
    return choice.among(*pools, kind="MNIST digits", names=_NAMES)


def _found(directory: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that holds files, and how the names of its pairs begin."""
    for folder in SOURCES["mnist"].places(directory):
        for prefixes in ((_TRAIN, _TEST), (_BOTH,)):
            if any(any(_files(folder, f"{prefixes[0]}{kind}")) for kind in _KINDS):
                return folder, prefixes
    raise missing("mnist", directory)


_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Files of that name, not compressed or compressed."""
    return (path for path in (folder / name, folder / f"{name}.gz") if path.is_file())


def _read_pair(folder: Path, prefix: str) -> Labelled:
    paths = []
    for kind in _KINDS:
        path = next(_files(folder, f"{prefix}{kind}"), None)
        if path is None:
            raise FileNotFoundError(
                f"{folder} must hold {prefix}{kind}, or {prefix}{kind}.gz. {_ADVICE}"
            )
        paths.append(path)
    with reading(paths[0], _ADVICE):
        images = read_idx(paths[0], num_axes=3)
        if images.shape[1:] != (28, 28) or not len(images):
            raise FileError(
                f"it must hold images of 28 by 28 pixels, not {images.shape}"
            )
    with reading(paths[1], _ADVICE):
        label = read_idx(paths[1], num_axes=1)
        if len(label) != len(images):
            raise FileError(
                f"it has {len(label)} labels for the {len(images)} images of "
                f"{paths[0].name}"
            )
        if label.max() > 9:
            raise FileError(f"it has the label {label.max()}, which must be below 10")
    return Labelled(images.reshape(len(images), -1), label)


def read_idx(path: Path, *, num_axes: int) -> np.ndarray:
    """The bytes of a file in the idx format, compressed by gzip or not, as an array."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    magic, start = bytes((0, 0, 8, num_axes)), 4 + 4 * num_axes
    if content[:4] != magic or len(content) < start:
        raise FileError(
            f"it must begin with the magic number 0x{magic.hex()} and {num_axes} sizes; "
            f"it begins with 0x{content[:4].hex()} and has {len(content)} bytes"
        )
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise FileError(
            f"it must have {expected} bytes, as its header says ({shape}); it has "
            f"{len(content)}"
        )
    return np.frombuffer(content[start:], np.uint8).reshape(shape)
