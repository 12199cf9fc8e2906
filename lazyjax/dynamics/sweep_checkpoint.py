"""Results of a sweep's calls on disk, so that a sweep that was cut short goes on."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lazyjax.dynamics import sweep_files
from lazyjax.dynamics.sweep_files import Arrays

_FINGERPRINT = "sweep.json"
_INDICES = "members"


def digest(content: bytes | str | np.ndarray) -> str:
    """Short name of some content that other content does not have."""
    if isinstance(content, np.ndarray):
        header = f"{content.dtype}{content.shape}".encode()
        content = header + np.ascontiguousarray(content).tobytes()
    elif isinstance(content, str):
        content = content.encode()
    return hashlib.sha256(content).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder with one file for each call that is done, and whose sweep they are of."""

    folder: Path

    def open(self, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
        """Start, or go on with the sweep that the folder is of.

        Args:
            fingerprint: Everything that results depend on, by argument.
            resume: Whether there may be results already.

        Raises:
            ValueError: If there are and may not be, or they are of another sweep.
        """
        path = self.folder / _FINGERPRINT
        wanted = json.loads(json.dumps(fingerprint))
        if not path.exists():
            sweep_files.write_whole(
                path, (json.dumps(wanted, indent=1) + "\n").encode()
            )
            return
        if not resume:
            raise ValueError(
                f"`checkpoint` holds a sweep already: {self.folder}. Pass "
                "`resume=True` to go on with it, or another folder."
            )
        found = json.loads(path.read_text())
        differing = [
            name
            for name in sorted(wanted.keys() | found.keys())
            if wanted.get(name) != found.get(name)
        ]
        if differing:
            raise ValueError(
                f"`checkpoint` holds another sweep: {self.folder} was made with another "
                f"{', '.join(differing)}."
            )

    def write(self, members: np.ndarray, records: Arrays) -> None:
        """Keep the results of one call.

        Args:
            members: Indices of its members.
            records: Their results, along the first axis.
        """
        content = sweep_files.npz_bytes({_INDICES: members} | records)
        sweep_files.write_whole(self.folder / f"{digest(members)}.npz", content)

    def read(self) -> Iterator[tuple[np.ndarray, Arrays]]:
        """What was written, call by call."""
        for path in sorted(self.folder.glob("[!.]*.npz")):
            records = sweep_files.read_npz(path)
            yield records.pop(_INDICES), records
