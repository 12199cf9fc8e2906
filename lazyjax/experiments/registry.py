"""The experiments that there are: one record each, open to those of others."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@runtime_checkable
class Result(Protocol):
    """Outcome of an experiment: arrays that can be shown in three ways."""

    def tables(self) -> Sequence[Table]:
        """Tables to print, in order."""
        ...

    def figure(self) -> "Figure":
        """Figure to save; needs matplotlib."""
        ...

    def summary(self) -> dict[str, Any]:
        """Everything measured, for `lazyjax.report.json_bytes`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment that `lazyjax reproduce` can run.

    Attributes:
        name: What it is called by; also the stem of the files that it writes.
        title: What it shows, in a few words.
        source: Where it was published.
        run: Function `(*, size, seed, progress) -> Result`.
        sizes: Names of sizes that `run` takes, of which the first is the default.
        extras: Extras of lazyjax that it needs beside "plot", such as "data".
    """

    name: str
    title: str
    source: str
    run: Callable[..., Result]
    sizes: tuple[str, ...]
    extras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"`name` must be a Python identifier; got {self.name!r}.")
        if not self.sizes:
            raise ValueError("`sizes` must name one size at least.")


_registered: dict[str, Experiment] = {}

EXPERIMENTS: Mapping[str, Experiment] = types.MappingProxyType(_registered)
"""All registered experiments by name."""


def register(experiment: Experiment) -> Experiment:
    """Add an experiment to `EXPERIMENTS`.

    Args:
        experiment: The experiment.

    Returns:
        The experiment.

    Raises:
        ValueError: If there is another of that name.
    """
    known = _registered.setdefault(experiment.name, experiment)
    if known != experiment:
        raise ValueError(
            f"`experiment` must have a name of its own; {experiment.name!r} is "
            f"{known.title!r} already."
        )
    return experiment
