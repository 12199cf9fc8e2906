"""CIFAR-10, read from its binary version."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from lazyjax._checks import checked_path
from lazyjax.data._dataset import Dataset
from lazyjax.data._labelled import Choice, Labelled
from lazyjax.data._sources import SOURCES, missing
from lazyjax.files.archive import FileError, reading
from lazyjax.typing import RandomKey

_ADVICE = "Download it again: see `lazyjax data where cifar10`."
_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)
_ARCHIVE = "cifar-10-binary.tar.gz"
(_MD5,) = SOURCES["cifar10"].files.values()
_PER_FILE = 10_000
_PIXELS = (3, 32, 32)  # of a record, after its label


def cifar10(
    directory: str | Path,
    num_train: int = 100,
    *,
    num_test: int | None = 100,
    classes: tuple[int, ...] | None = None,
    balanced: bool = True,
    key: RandomKey | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> Dataset:
    r"""60,000 colour images of ten classes, 32 by 32 pixels, as rows of unit norm.

    They are read from the binary version of CIFAR-10, unpacked or not;
    `lazyjax.data.where("cifar10")` says from which files. Training and test examples
    are drawn without replacement from its 50,000 training and 10,000 test images.
    `x.reshape(-1, 32, 32, 3)` are the images.

    Args:
        directory: Folder that holds the archive or its files, itself or in
            `cifar-10-batches-bin` or `cifar10`.
        num_train: Number of training examples.
        num_test: Number of test examples; may be 0. `None` means all that are left.
        classes: Two classes `(a, b)` for targets $-1$ for `a` and $+1$ for `b`; three
            or more for one-hot rows of these; `None` for one-hot rows of ten. They are
            0 airplane, 1 automobile, 2 bird, 3 cat, 4 deer, 5 dog, 6 frog, 7 horse,
            8 ship and 9 truck.
        balanced: Whether the classes that take part occur equally often, up to one, in
            each set, as far as there are enough; otherwise any example is as likely.
        key: Chooses the examples and their order; `None` means `jax.random.key(0)`.
        dtype: Of inputs and targets; `None` means float64 if JAX has it enabled, else
            float32.

    Returns:
        The data set; targets have one column, or one for each class.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or an argument out of range.
        TypeError: If an argument is not of its kind.

    References:
        Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images,
        University of Toronto.
    """
    choice = Choice(
        num_train=num_train,
        num_test=num_test,
        classes=classes,
        balanced=balanced,
        key=key,
        dtype=dtype,
    )
    pools = _read(checked_path("directory", directory))
    return choice.among(*pools, kind="CIFAR-10", names=_NAMES)


def _read(directory: Path) -> tuple[Labelled, Labelled]:
    """All training and test images, of unpacked files if there are any."""
    places = SOURCES["cifar10"].places(directory)
    for folder in places:
        if any((folder / name).is_file() for name in (*_TRAIN, *_TEST)):
            contents = {}
            for name in (*_TRAIN, *_TEST):
                with reading(folder / name, _ADVICE):
                    contents[name] = (folder / name).read_bytes()
            return _pools(folder, contents)
    for folder in places:
        if (folder / _ARCHIVE).is_file():
            with reading(folder / _ARCHIVE, _ADVICE):
                return _pools(folder / _ARCHIVE, _unpacked(folder / _ARCHIVE))
    raise missing("cifar10", directory)


def _unpacked(path: Path) -> Mapping[str, bytes]:
    """Contents of the files of the archive, which must be the official one."""
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != _MD5:
        raise FileError(f"its MD5 checksum must be {_MD5}; it is {found}")
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            file = archive.extractfile(member)
            if file is not None and name in (*_TRAIN, *_TEST):
                contents[name] = file.read()
    return contents


def _pools(place: Path, contents: Mapping[str, bytes]) -> tuple[Labelled, Labelled]:
    """Training and test images, after a check of every record."""
    train, test = (
        [_records(place / name, contents[name]) for name in names]
        for names in (_TRAIN, _TEST)
    )
    return _pool(place, "training", train), _pool(place, "test", test)


def _records(path: Path, content: bytes) -> np.ndarray:
    """A row for each image of one file: its label, then its pixels."""
    row_bytes = 1 + int(np.prod(_PIXELS))
    with reading(path, _ADVICE):
        if len(content) != _PER_FILE * row_bytes:
            raise FileError(
                f"it must have {_PER_FILE * row_bytes} bytes, {_PER_FILE} records of "
                f"{row_bytes}; it has {len(content)}"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, row_bytes)
        largest = records[:, 0].max()
        if largest > 9:
            raise FileError(f"it has the label {largest}, which must be below 10")
    return records


def _pool(place: Path, part: str, batches: list[np.ndarray]) -> Labelled:
    records = np.concatenate(batches)
    label = records[:, 0]
    counts = np.bincount(label, minlength=10)
    with reading(place, _ADVICE):
        if (counts != len(label) // 10).any():
            raise FileError(
                f"every class must have {len(label) // 10} {part} images; it has from "
                f"{counts.min()} to {counts.max()}"
            )
    # Channels come last, as networks here read images.
    x = np.moveaxis(records[:, 1:].reshape(-1, *_PIXELS), 1, -1)
    return Labelled(x.reshape(len(x), -1), label)
