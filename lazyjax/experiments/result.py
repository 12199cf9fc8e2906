"""What every experiment takes and returns."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Called with the share of the work that is done, from 0 to 1, and what comes next.
Progress: TypeAlias = Callable[[float, str], None]


@runtime_checkable
class Result(Protocol):
    """Outcome of an experiment: arrays that can be shown in three ways."""

    def tables(self) -> Sequence[Table]:
        """Tables to print, in order."""
        ...

    def figure(self) -> "Figure":
        """Figure to save; needs matplotlib."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Everything measured, for `lazyjax.report.json_bytes`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """An entry of the registry.

    Attributes:
        run: Function `(*, size, seed, progress) -> Result`.
        title: What it shows, in a few words.
        source: Where it was published.
    """

    run: Callable[..., Result]
    title: str
    source: str
