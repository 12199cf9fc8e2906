"""The result of a sweep: arrays with labelled axes, and their statistics over seeds."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float, Int

from lazyjax._brief import brief
from lazyjax._checks import check_choice
from lazyjax.files.results import Storable
from lazyjax.files.tables import OBSERVED, STEP, LabelledArrays, Tabular, observed
from lazyjax.files.writing import check_file
from lazyjax.sweeps.csv_files import Axes, Label, read_csv, write_csv
from lazyjax.typing import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut(Storable):
    """A member that a statistic leaves out, by its labels.

    Attributes:
        labels: Such as `{"width": 64, "seed": 3}`, for the axes that there are.
        diverged_at: First step at which its loss was not finite; -1 if it always was,
            but not the quantity asked for.
    """

    labels: dict[str, Label]
    diverged_at: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverSeeds(Storable):
    """Mean of a quantity over the seeds that did not diverge.

    Attributes:
        name: The quantity.
        axes: Labels of the leading axes, which are those of the sweep without "seed".
        mean: Mean over the seeds that count; NaN where there is none.
        standard_error: Of the mean; NaN where fewer than two seeds count.
        count: How many seeds count.
        left_out: The members that do not, and why.
    """

    name: str
    axes: Axes
    mean: Float[np.ndarray, "*axes_and_shape"]
    standard_error: Float[np.ndarray, "*axes_and_shape"]
    count: Int[np.ndarray, "*axes"]
    left_out: tuple[LeftOut, ...]

    def explain(self) -> str:
        """How many members the mean is of, and which it leaves out."""
        total = int(self.count.sum()) + len(self.left_out)
        if not self.left_out:
            return f"{self.name}: mean of all {total} members."
        lines = [f"{self.name}: {len(self.left_out)} of {total} members are left out:"]
        for member in self.left_out:
            where = ", ".join(f"{k} {v:g}" for k, v in member.labels.items())
            why = (
                f"diverged at step {member.diverged_at}"
                if member.diverged_at >= 0
                else f"{self.name} is not finite"
            )
            lines.append(f"  {where or 'the only one'}: {why}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Tabular, Storable):
    r"""Training runs over widths, seeds, output scales and learning rates.

    Arrays are NumPy's, on the host, and have the axes named in `axes` first.

    Attributes:
        axes: Labels along each leading axis: "width", "seed", "alpha" and
            "learning_rate", as far as none was selected.
        loss: Loss $R(\alpha h)$ at every step, from before the first update to after
            the last. What was minimized is this over $\alpha^2$.
        diverged_at: First step at which the loss was not finite; -1 if there was none.
        observed_at: Steps at which the observers looked.
        observations: What each observer saw, by name (of a pytree, its leaves by
            `name/path`), stacked along those steps.
        params: Trained parameters by width, without padding, with the other axes
            first; `None` if they were not asked for.

    Example:
        >>> import numpy as np
        >>> result = Sweep(
        ...     axes={"width": (4, 8), "seed": (0, 1)},
        ...     loss=np.array([[[1.0], [3.0]], [[5.0], [np.inf]]]),
        ...     diverged_at=np.array([[-1, -1], [-1, 0]]),
        ...     observed_at=np.array([0]),
        ...     observations={},
        ... )
        >>> result.sel(width=4).loss[:, -1].tolist()
        [1.0, 3.0]
        >>> result.mean().mean[:, -1].tolist(), result.mean().count.tolist()
        ([2.0, 5.0], [2, 1])
        >>> print(result.explain())
        1 of 4 members diverged; their losses are not finite:
          width 8: 1 of 2, the first at step 0
        >>> print(result.mean().explain())
        loss: 1 of 4 members are left out:
          width 8, seed 1: diverged at step 0
    """

    _suffixes: ClassVar = (".npz", ".json", ".csv")

    axes: Axes
    loss: Float[np.ndarray, "*axes num_losses"]
    diverged_at: Int[np.ndarray, "*axes"]
    observed_at: Int[np.ndarray, "num_observed"]
    observations: dict[str, np.ndarray]
    params: dict[int, Params] | None = None

    def _headline(self) -> dict[str, Any]:
        num_diverged = int(np.sum(self.diverged_at >= 0))
        return {"shape": self.shape, "num_diverged": num_diverged}

    def _labelled(self) -> LabelledArrays:
        axes, steps = tuple(self.axes), range(self.loss.shape[-1])
        return LabelledArrays(
            labels={**self.axes, STEP: steps, OBSERVED: self.observed_at},
            arrays={
                "loss": ((*axes, STEP), self.loss),
                **observed(self.observations, (*axes, OBSERVED)),
                "diverged_at": (axes, self.diverged_at),
            },
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the labelled axes."""
        return tuple(map(len, self.axes.values()))

    def sel(self, **labels: Label | Sequence[Label]) -> "Sweep":
        """The members with some labels: `sel(width=64, alpha=[1, 10])`.

        Args:
            **labels: For each axis named, one label, which drops the axis, or several,
                which stay in the order given.

        Returns:
            A sweep of these members alone.

        Raises:
            ValueError: If there is no such axis or label.
        """
        result = self
        for name, wanted in labels.items():
            check_choice("labels", name, result.axes)
            result = result._select(name, wanted)
        return result

    def _select(self, name: str, wanted: Label | Sequence[Label]) -> "Sweep":
        known = self.axes[name]
        is_one = np.ndim(wanted) == 0
        chosen: list[Any] = np.atleast_1d(np.asarray(wanted)).tolist()
        for label in chosen:
            if label not in known:
                raise ValueError(
                    f"`{name}` must be among {', '.join(f'{k:g}' for k in known)}; got "
                    f"{brief(label)}."
                )
        if not chosen:
            raise ValueError(
                f"`{name}` must name one label at least; got {brief(wanted)}."
            )
        indices = [known.index(label) for label in chosen]

        def take(array: np.ndarray, axes: Sequence[str] = tuple(self.axes)) -> Any:
            taken = np.take(array, indices[0] if is_one else indices, axes.index(name))
            return np.asarray(taken)

        axes = dict(self.axes) | {name: tuple(known[i] for i in indices)}
        if is_one:
            del axes[name]
        params = self.params
        if params is not None and name == "width":
            params = {width: params[width] for width in chosen}
        elif params is not None:
            others = [axis for axis in self.axes if axis != "width"]
            params = jax.tree.map(lambda leaf: take(leaf, others), params)
        return dataclasses.replace(
            self,
            axes=axes,
            loss=take(self.loss),
            diverged_at=take(self.diverged_at),
            observations={k: take(v) for k, v in self.observations.items()},
            params=params,
        )

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names that `mean` takes: "loss", and the observations of numbers."""
        real = [k for k, v in self.observations.items() if v.dtype.kind in "fiub"]
        return ("loss", *real)

    def mean(self, name: str = "loss") -> OverSeeds:
        """Mean and standard error over seeds, of a quantity at every step.

        A member whose loss ceased to be finite, or whose quantity is not finite
        throughout, is left out, at all steps; the result counts and names these.

        Args:
            name: "loss" or an observation.

        Returns:
            The statistics.

        Raises:
            ValueError: If there is no such quantity, or no axis of seeds.
        """
        check_choice("name", name, self.quantities)
        if "seed" not in self.axes:
            raise ValueError(
                "`mean` is over seeds, and this sweep has no such axis any more: one "
                "seed was selected."
            )
        axis = list(self.axes).index("seed")
        values = self.loss if name == "loss" else self.observations[name]
        values = values.astype(np.result_type(values.dtype, np.float32))
        inner = tuple(range(len(self.axes), values.ndim))
        counts = (self.diverged_at < 0) & np.isfinite(values).all(axis=inner)
        count = np.asarray(counts.sum(axis))
        weight = counts.reshape(counts.shape + (1,) * len(inner))
        total = count.reshape(count.shape + (1,) * len(inner)).astype(values.dtype)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(weight, values, 0).sum(axis) / total
            deviation = np.where(weight, values - np.expand_dims(mean, axis), 0)
            variance = np.square(deviation).sum(axis) / (total - 1)
            standard_error = np.where(total > 1, np.sqrt(variance / total), np.nan)
        return OverSeeds(
            name=name,
            axes={k: v for k, v in self.axes.items() if k != "seed"},
            mean=np.asarray(mean),
            standard_error=standard_error,
            count=count,
            left_out=self._members(~counts),
        )

    def standard_error(
        self, name: str = "loss"
    ) -> Float[np.ndarray, "*axes_and_shape"]:
        """Standard error of `mean(name)`.

        Args:
            name: "loss" or an observation.

        Returns:
            The error, with the leading axes of the sweep but for "seed".
        """
        return self.mean(name).standard_error

    @property
    def diverged(self) -> tuple[LeftOut, ...]:
        """The members whose loss ceased to be finite."""
        return self._members(self.diverged_at >= 0)

    def explain(self) -> str:
        """How many members diverged, when, and up to which learning rates none did.

        Returns:
            A line for each width at which some did.
        """
        total, count = self.diverged_at.size, len(self.diverged)
        if not count:
            return f"None of {total} members diverged."
        lines = [f"{count} of {total} members diverged; their losses are not finite:"]
        for width in self.axes.get("width", (None,)):
            part = self if width is None else self.sel(width=width)
            steps = [member.diverged_at for member in part.diverged]
            if steps:
                where = "" if width is None else f"width {width}: "
                lines.append(
                    f"  {where}{len(steps)} of {part.diverged_at.size}, the first at "
                    f"step {min(steps)}{part._stable_rates()}"
                )
        return "\n".join(lines)

    def _stable_rates(self) -> str:
        """The learning rates up to which no member diverged, if there are several."""
        rates = sorted(self.axes.get("learning_rate", ()))
        if len(rates) < 2:
            return ""
        diverged = [bool(self.sel(learning_rate=rate).diverged) for rate in rates]
        if diverged[0]:
            return f"; some at the lowest learning rate, {rates[0]:g}"
        return f"; none at learning rates up to {rates[diverged.index(True) - 1]:g}"

    def _members(self, which: np.ndarray) -> tuple[LeftOut, ...]:
        return tuple(
            LeftOut(
                labels={k: self.axes[k][i] for k, i in zip(self.axes, at, strict=True)},
                diverged_at=int(self.diverged_at[tuple(at)]),
            )
            for at in np.argwhere(which)
        )

    def save(self, path: str | Path) -> Path:
        """Write to a file that `Sweep.load` reads, in the form its suffix names.

        Args:
            path: Ends in ".npz", ".json" or ".csv". A CSV file has one row for each
                number, with its labels, and no parameters.

        Returns:
            The path.

        Raises:
            ValueError: If the suffix is another, parameters would be lost, or the file
                cannot be written.
        """
        path = self._checked_path(path)
        if path.suffix != ".csv":
            return super().save(path)
        if self.params is not None:
            raise ValueError(
                "`path` must not end in .csv, for such a file holds no trained "
                "parameters; leave them out with `dataclasses.replace(sweep, "
                "params=None)`."
            )
        check_file("path", path)
        arrays = {
            "loss": self.loss,
            "diverged_at": self.diverged_at,
            "observed_at": self.observed_at,
        }
        arrays |= {f"observations/{k}": v for k, v in self.observations.items()}
        write_csv(path, self.axes, arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Sweep":
        """Read what `save` wrote.

        Args:
            path: Ends in ".npz", ".json" or ".csv".

        Returns:
            The sweep, equal to the one saved.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the suffix is another, or the file is damaged, was changed, or
                is of another version of lazyjax.
        """
        path = cls._checked_path(path)
        if path.suffix != ".csv":
            return super().load(path)
        axes, arrays = read_csv(path)
        observations = {
            name.removeprefix("observations/"): arrays.pop(name)
            for name in list(arrays)
            if name.startswith("observations/")
        }
        fields: dict[str, Any] = arrays  # what is left, by field
        return cls(axes=axes, observations=observations, **fields)
