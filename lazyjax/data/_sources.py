"""Data sets that are not part of lazyjax: what to download, and where to put it."""

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path

from lazyjax._checks import check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Files that a data set is read from, which each user downloads once.

    Attributes:
        title: What it is.
        page: Where it is described, and offered for download.
        files: Address of each file to download, and its MD5 checksum.
        size: Of the downloads together, in words.
        folders: Names of the folders, below the one that is given, that may hold them.
        layout: What must lie there in the end.
        checked: What is compared when files are read.
    """

    title: str
    page: str
    files: Mapping[str, str]
    size: str
    folders: tuple[str, ...]
    layout: str
    checked: str

    def places(self, directory: Path) -> tuple[Path, ...]:
        """Folders that may hold the files: the one that is given, and some below it."""
        return (directory, *(directory / name for name in self.folders))


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"

SOURCES: Mapping[str, Source] = types.MappingProxyType(
    {
        "cifar10": Source(
            title="CIFAR-10, binary version: 60,000 colour images of 32 by 32 pixels",
            page="https://www.cs.toronto.edu/~kriz/cifar.html",
            files={
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": (
                    "c32a1d4ab5d03f1284b67883e8d87530"
                )
            },
            size="162 MB",
            folders=("cifar-10-batches-bin", "cifar10"),
            layout=(
                "either the archive as it is, cifar-10-binary.tar.gz, or the folder "
                "cifar-10-batches-bin that it unpacks to, with data_batch_1.bin to "
                "data_batch_5.bin and test_batch.bin"
            ),
            checked=(
                "the MD5 checksum of the archive; of unpacked files, that each has "
                "10,000 records of 3,073 bytes, labels below 10, and all classes "
                "equally often in training and in test images"
            ),
        ),
        "mnist": Source(
            title="MNIST: 70,000 handwritten digits of 28 by 28 pixels",
            page="https://ossci-datasets.s3.amazonaws.com/mnist",
            files={
                f"{_MNIST}train-images-idx3-ubyte.gz": (
                    "f68b3c2dcbeaaa9fbdd348bbdeb94873"
                ),
                f"{_MNIST}train-labels-idx1-ubyte.gz": (
                    "d53e105ee54ea40749a09fcbcd1e9432"
                ),
                f"{_MNIST}t10k-images-idx3-ubyte.gz": (
                    "9fb629c4189551a2d022fa330f9573f3"
                ),
                f"{_MNIST}t10k-labels-idx1-ubyte.gz": (
                    "ec29112dd5afa0611ce80d1b7f02629c"
                ),
            },
            size="12 MB",
            folders=("mnist", "MNIST/raw"),
            layout=(
                "these four files, unpacked or not; or one pair, images-idx3-ubyte and "
                "labels-idx1-ubyte, that both training and test images are drawn from"
            ),
            checked=(
                "magic numbers, that files are as long as their headers say, one label "
                "below 10 for each image of 28 by 28 pixels, and the checksum that "
                "compressed files carry"
            ),
        ),
    }
)
"""Data sets by the name of their function in `lazyjax.data`."""


def where(name: str) -> str:
    """What to download for a data set, and where to put it.

    Args:
        name: "cifar10" or "mnist".

    Returns:
        Some lines of text.

    Raises:
        ValueError: If there is no such data set.

    Example:
        >>> print(where("mnist").splitlines()[0])
        MNIST: 70,000 handwritten digits of 28 by 28 pixels
    """
    check_choice("name", name, SOURCES)
    source = SOURCES[name]
    places = " or ".join(f"DIR/{folder}" for folder in source.folders)
    return "\n".join(
        [
            source.title,
            f"  described at   {source.page}",
            f"  to download    {source.size}, with MD5 checksums",
            *(f"    {address}  {md5}" for address, md5 in source.files.items()),
            f"  put into       a folder DIR of yours, or {places}:",
            f"    {source.layout}",
            f"  checked        {source.checked}",
            f'  read by        lazyjax.data.{name}("DIR"), and by commands with '
            "--data-dir DIR or with LAZYJAX_DATA_DIR=DIR in the environment",
        ]
    )


def missing(name: str, directory: Path) -> FileNotFoundError:
    """The error that a folder does not hold a data set."""
    state = "no files of it" if directory.is_dir() else "no such folder"
    return FileNotFoundError(
        f"`directory` must hold {name}; {directory}: {state}. `lazyjax data where "
        f"{name}` says what to download and where to put it."
    )
