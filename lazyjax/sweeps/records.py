"""What was recorded of each member, while a sweep runs."""

from collections.abc import Iterable

import numpy as np

from lazyjax.files.archive import Arrays
from lazyjax.sweeps.program import PARAMS


class Records:
    """Arrays of each member by name; those of parameters differ in shape."""

    def __init__(self, num_members: int) -> None:
        self._num_members = num_members
        self._rows: dict[str, list[np.ndarray | None]] = {}

    def put(self, members: np.ndarray, arrays: Arrays) -> None:
        """Record the results of one call, in which a member may occur twice."""
        for name, array in arrays.items():
            rows = self._rows.setdefault(name, [None] * self._num_members)
            for member, row in zip(members, array, strict=True):
                rows[member] = row

    def has(self, members: np.ndarray) -> bool:
        """Whether something is recorded of each member."""
        rows = self._rows.get("loss")
        return rows is not None and all(rows[member] is not None for member in members)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of what is recorded of one member, by name; but for parameters."""
        return {
            name: rows[0].shape
            for name, rows in self._rows.items()
            if rows[0] is not None and not name.startswith(PARAMS)
        }

    def stacked(self, name: str, members: Iterable[int] | None = None) -> np.ndarray:
        """The arrays of all members, or of some, along a first axis."""
        chosen = range(self._num_members) if members is None else members
        stack = np.stack([np.asarray(self._rows[name][member]) for member in chosen])
        # NumPy's files know no bfloat16: in float32 its values are exact.
        return stack.astype(np.float32) if stack.dtype.kind == "V" else stack
