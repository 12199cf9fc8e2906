"""Files that are there whole or not at all, and checks that they can be written.

Only the standard library is needed, so that the command line loads it at once.
"""

import contextlib
import os
import secrets
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

# Who writes passes through the entrance, which stays shut in the end, and is then the
# only one inside.
_entrance, _inside = threading.Lock(), threading.Lock()


def end_writing(timeout: float) -> None:
    """Wait for a file that is just being written, and let none be begun ever after.

    For the end of the process, which would leave a part of a file otherwise.

    Args:
        timeout: Seconds to wait at most.
    """
    _entrance.acquire(timeout=timeout)
    _inside.acquire(timeout=timeout)


def write_files(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write all files or, if anything goes wrong before the end, none.

    Everything is written under temporary names beside its place first; only then do
    the files take their names, each in one move that leaves the old or the new one.
    Links are followed, as if the files were opened.

    Args:
        contents: What to write, by path; the folders must exist.

    Raises:
        OSError: If a folder does not exist or cannot be written to.
    """
    places = {path: Path(os.path.realpath(path)) for path in contents}
    temporary = {
        path: place.with_name(f".lazyjax-{secrets.token_hex(8)}")
        for path, place in places.items()
    }
    with _entrance:
        pass
    with _inside:
        try:
            for path, content in contents.items():
                with temporary[path].open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for path, name in temporary.items():
                name.replace(places[path])
        finally:
            for name in temporary.values():
                name.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write one file, whole or not at all, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_files({path: content})


def check_folder(name: str, folder: Path) -> None:
    """Refuse a folder that no file could be written to, before there is anything to write.

    It is tried, and nothing is left of the trial: permissions alone do not tell.

    Args:
        name: Argument that names the folder.
        folder: The folder; it may be missing.

    Raises:
        ValueError: If it cannot be made or written to.
    """
    made: list[Path] = []
    try:
        for part in (*reversed(folder.absolute().parents), folder.absolute()):
            if part.is_dir():
                continue
            if os.path.lexists(part):
                raise ValueError(
                    f"`{name}` must name a folder, or a new one; {part} is not a folder."
                )
            part.mkdir()
            made.append(part)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        shown = str(folder) if len(str(folder)) < 300 else f"{str(folder)[:300]}..."
        raise ValueError(
            f"`{name}` must name a folder that can be made and written to; {shown}: "
            f"{error.strerror}."
        ) from error
    finally:
        for part in reversed(made):
            with contextlib.suppress(OSError):  # somebody else may use it by now
                part.rmdir()


def check_file(name: str, path: Path) -> None:
    """Refuse a file that could not be written, before there is anything to write."""
    problem = None
    try:
        if path.is_dir():
            problem = "is a folder"
        elif path.exists() and not path.is_file():
            problem = "is no regular file"
        elif path.exists() and not os.access(path, os.W_OK):
            problem = "is not writable"
    except OSError as error:
        problem = f"cannot be looked at: {error.strerror}"
    if problem is not None:
        raise ValueError(f"`{name}` must name a file to write; {path} {problem}.")
    check_folder(name, Path(os.path.realpath(path)).parent)
