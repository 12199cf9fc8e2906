"""Experiments are run here, by name or by record."""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from rich.table import Table

from lazyjax import report
from lazyjax._checks import check_at_least, check_choice, checked_path
from lazyjax.experiments.judgement import Judgement
from lazyjax.experiments.record import Conditions, Experiment, Size
from lazyjax.experiments.registry import EXPERIMENTS
from lazyjax.progress import Progress, progress_reporter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Outcome of an experiment.

    Attributes:
        experiment: What was run.
        settings: What determines the numbers: size, seed, control and versions.
        measured: What was measured, a dataclass of the experiment's own.
        verdict: Whether the claim is reproduced.
    """

    experiment: Experiment
    settings: dict[str, Any]
    measured: Any
    verdict: Judgement

    def tables(self) -> Sequence[Table]:
        """Tables to print, in order."""
        return self.experiment.tables(self.measured)

    def figure(self) -> "Figure":
        """Figure to save; needs matplotlib."""
        return self.experiment.figure(self.measured)

    def summary(self) -> dict[str, Any]:
        """Everything of it, for `lazyjax.report.json_bytes`.

        Returns:
            Claim, settings, verdict, tables and numbers: the same for the same seed.
        """
        numbers = self.experiment.numbers or report.to_json
        return {
            **{
                name: getattr(self.experiment, name)
                for name in ("name", "title", "source", "claim")
            },
            "settings": self.settings,
            "verdict": self.verdict.to_dict(),
            "tables": [report.table_contents(table) for table in self.tables()],
            "measured": numbers(self.measured),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """All that is chosen before an experiment runs.

    Attributes:
        experiment: What to run.
        size: How much is computed, by the experiment or its control.
        seed: Chooses examples and initializations.
        is_control: Whether a premise of the claim is broken.
        data_dir: Folder of data sets that do not come with lazyjax.
    """

    experiment: Experiment
    size: Any
    seed: int = 0
    is_control: bool = False
    data_dir: Path | None = None

    def settings(self) -> dict[str, Any]:
        """Plain data that determine the numbers: what is equal need not run again."""
        control = self.experiment.control
        return {
            "experiment": self.experiment.name,
            "size": report.to_json(dataclasses.asdict(self.size)),
            "seed": self.seed,
            "control": control.what if self.is_control else None,
            "data_dir": None if self.data_dir is None else str(self.data_dir),
            "precision": str(jnp.result_type(float)),
            "device": jax.devices()[0].device_kind,
            "lazyjax": importlib.metadata.version("lazyjax"),
            "jax": jax.__version__,
        }

    def run(self, progress: Progress) -> Result:
        """What is measured, and whether the claim is reproduced."""
        measured = self.experiment.measure(
            self.size,
            Conditions(seed=self.seed, progress=progress, data_dir=self.data_dir),
        )
        progress(1.0, "done")
        return Result(
            experiment=self.experiment,
            settings=self.settings(),
            measured=measured,
            verdict=self.experiment.verdict(measured),
        )


def plan(
    experiment: Experiment,
    *,
    size: str | Size = "quick",
    seed: int = 0,
    widths: Sequence[int] | None = None,
    num_seeds: int | None = None,
    control: bool = False,
    data_dir: str | Path | None = None,
) -> PlannedRun:
    """What `run` with these arguments would do; bad ones are refused."""
    chosen: Any = size
    if isinstance(size, str):
        check_choice("size", size, experiment.sizes)
        chosen = experiment.sizes[size]
    given: dict[str, Any] = {"widths": widths, "num_seeds": num_seeds}
    changes = {name: value for name, value in given.items() if value is not None}
    for name in changes:
        if not hasattr(chosen, name):
            raise ValueError(f"`{name}` must be None: {experiment.name} has no {name}.")
    if "widths" in changes:
        changes["widths"] = tuple(changes["widths"])
    chosen = dataclasses.replace(chosen, **changes)
    check_at_least("seed", seed, 0)
    if data_dir is not None:
        data_dir = checked_path("data_dir", data_dir)
        if not data_dir.is_dir():
            raise FileNotFoundError(f"`data_dir` must be a folder; {data_dir} is none.")
    return PlannedRun(
        experiment=experiment,
        size=experiment.control.change(chosen) if control else chosen,
        seed=seed,
        is_control=control,
        data_dir=data_dir,
    )


def run(
    experiment: str | Experiment,
    *,
    size: str | Size = "quick",
    seed: int = 0,
    widths: Sequence[int] | None = None,
    num_seeds: int | None = None,
    control: bool = False,
    data_dir: str | Path | None = None,
    progress: bool | Progress = False,
) -> Result:
    """Outcome of a published experiment.

    Args:
        experiment: Name in `EXPERIMENTS`, or an experiment.
        size: Name of one of its sizes, or a size.
        seed: Chooses examples and initializations.
        widths: In place of those of the size.
        num_seeds: In place of that of the size.
        control: Whether to run the negative control instead, in which a premise of the
            claim is broken.
        data_dir: Folder of data sets that do not come with lazyjax.
        progress: As in `lazyjax.sweep`.

    Returns:
        What was measured, and whether the claim is reproduced.

    Raises:
        ValueError: If `experiment` or `size` is unknown, `seed` negative, or the size has
            no widths or seeds to replace.
        TypeError: If an argument is of the wrong type.
        FileNotFoundError: If there is no folder `data_dir`.
        ImportError: If a package is missing that the experiment needs.

    Example:
        >>> run("du2019", size="brief", seed=1).verdict.word  # doctest: +SKIP
        'reproduced'
    """
    if isinstance(experiment, str):
        check_choice("experiment", experiment, EXPERIMENTS)
        experiment = EXPERIMENTS[experiment]
    planned = plan(
        experiment,
        size=size,
        seed=seed,
        widths=widths,
        num_seeds=num_seeds,
        control=control,
        data_dir=data_dir,
    )
    with progress_reporter(progress, experiment.name) as reporter:
        return planned.run(reporter)
