"""Results of a sweep on disk, chunk by chunk, so that one that was cut short goes on."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lazyjax.dynamics.training.fingerprint import differences
from lazyjax.dynamics.training.program_digest import content_digest
from lazyjax.files.archive import Arrays, read_npz, write_npz
from lazyjax.files.writing import check_folder

_KIND = "chunk of a sweep"
_INDICES = "members"


def kept_files(folder: Path) -> list[Path]:
    """Files of a folder that hold results of a sweep, one for each chunk."""
    return sorted(folder.glob("chunk-*.npz"))


def check_checkpoint(folder: Path, *, resume: bool) -> None:
    """Refuse, before any work, a folder that results cannot be written to."""
    if not os.path.isdir(folder) or not kept_files(folder):
        check_folder("checkpoint", folder)
    elif not resume:
        raise ValueError(
            f"`checkpoint` holds a sweep already: {folder}. Pass `resume=True` to go on "
            "with it, or another folder."
        )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder with one file for each chunk, which tells what sweep it is of."""

    folder: Path
    fingerprint: Mapping[str, Any]  # everything that results depend on, by argument

    def write(self, members: np.ndarray, records: Arrays) -> None:
        """Keep the results of one chunk."""
        path = self.folder / f"chunk-{content_digest(members)[:32]}.npz"
        content = {"fingerprint": self.fingerprint}
        write_npz(path, _KIND, content, {_INDICES: members} | records)

    def read(self) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Indices of members, and their results, chunk by chunk."""
        wanted = json.loads(json.dumps(self.fingerprint))
        for path in kept_files(self.folder):
            content, records = read_npz(
                path, _KIND, advice="Delete it, and its members are trained again."
            )
            if content["fingerprint"] != wanted:
                which = " and another ".join(
                    differences(content["fingerprint"], wanted)
                )
                raise ValueError(
                    f"`checkpoint` holds another sweep: {path} was made with another "
                    f"{which}. Choose another folder, or delete this one to start anew."
                )
            yield records.pop(_INDICES), records
