"""One writer at a time: a lock that the system lets go of when its process ends."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = ".lazyjax-lock"

# Record locks are a process's: they do not keep its own threads apart.
_held: set[str] = set()
_guard = threading.Lock()


@contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Context in which nobody else writes to a folder, which must exist.

    Args:
        folder: The folder, on a disk of this machine or one that it shares with others.

    Raises:
        ValueError: If somebody else writes to it just now.
    """
    name = os.path.realpath(folder)
    refused = ValueError(
        f"`path` is being written to by another run: {folder}. Wait for its end, or "
        "choose another folder."
    )
    with _guard:
        if name in _held:
            raise refused
        _held.add(name)
    try:
        with (folder / _NAME).open("a+b") as file:
            try:
                _lock(file.fileno())
            except (BlockingIOError, PermissionError) as error:
                raise refused from error
            yield
    finally:
        with _guard:
            _held.discard(name)


def _lock(file: int) -> None:
    """Lock an open file until it is closed, or refuse at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # Unlike `flock`, it is not passed on to processes that are forked.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_foreign(path: Path) -> bool:
    """Whether a path in a folder is there for another reason than the lock."""
    return path.name != _NAME
