"""What describes an experiment: its claim, sizes, measurement, verdict and pictures."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax._checks import check_at_least
from lazyjax.data import SOURCES, Dataset, digits, mnist
from lazyjax.experiments.judgement import Judgement
from lazyjax.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is computed. Experiments derive from it, and add fields of their own.

    Fields that are integers must be positive. `widths`, if there is such a field, is a
    tuple of increasing widths; that and `num_seeds` can be set from the command line.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not isinstance(value, bool):
                check_at_least(field.name, value, 1)
        widths = getattr(self, "widths", (1,))
        if not widths or any(a >= b for a, b in itertools.pairwise(widths)):
            raise ValueError(
                f"`widths` must be one or more increasing widths; got {widths}."
            )
        check_at_least("widths[0]", widths[0], 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a measurement needs to know beside its size.

    Attributes:
        seed: Chooses examples and initializations.
        progress: Called with the share that is done, and what comes next.
        data_dir: Folder of data sets that do not come with lazyjax.
    """

    seed: int = 0
    progress: Progress = lambda share, message: None
    data_dir: Path | None = None

    @property
    def key(self) -> Array:
        """Random key of the seed."""
        return jax.random.key(self.seed)

    def part(self, start: float, end: float) -> Progress:
        """Progress of a part of the work, which runs between two shares of the whole."""
        return lambda share, message: self.progress(
            start + (end - start) * share, message
        )

    def digits(self, num_train: int, **options: Any) -> Dataset:
        """Handwritten digits: of MNIST where `data_dir` has it, else of 8 by 8 pixels.

        Args:
            num_train: Number of training examples.
            **options: Of `lazyjax.data.digits` and `lazyjax.data.mnist` alike.

        Returns:
            The data set, whose description says which they are.

        Raises:
            FileNotFoundError: If some files of MNIST are there, and others missing.
            ValueError: If a file is damaged, or an option is out of range.
        """
        folder = self.data_dir
        if folder is not None and any(
            any(place.glob("*images-idx3-ubyte*"))
            for place in SOURCES["mnist"].places(folder)
        ):
            return mnist(folder, num_train, key=self.key, **options)
        return digits(num_train, key=self.key, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
    """A negative control: the experiment with a premise of the claim broken.

    Attributes:
        what: What is broken, such as "labels are shuffled".
        change: Makes of a size the one that breaks it. The verdict must be "not
            reproduced".
    """

    what: str
    change: Callable[[Any], Any]


def contradicted(
    x: Float[Array, "n d"], y: Float[Array, "n k"]
) -> tuple[Float[Array, "n d"], Float[Array, "n k"]]:
    """Examples of which the last repeats the first, with the opposite label.

    Args:
        x: Inputs, at least two.
        y: Labels of both signs.

    Returns:
        Inputs and labels that no function fits.
    """
    return x.at[-1].set(x[0]), y.at[-1].set(-y[0])


CONTRADICTION = Control(
    what="an input comes twice, with opposite labels",
    change=lambda size: dataclasses.replace(size, is_contradicted=True),
)
"""Control of claims that all labels are fitted: sizes have a field `is_contradicted`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A published experiment: what is claimed, how it is measured, when it is reproduced.

    Attributes:
        name: What it is called by; also the stem of the files that it writes.
        title: What it shows, in a few words.
        source: Where it was published.
        claim: What the source claims, and where in it.
        sizes: Sizes by name, of which the first is the default.
        measure: Function `(size, conditions)` that returns what was measured, a frozen
            dataclass of arrays.
        verdict: Judges what was measured, by thresholds that do not depend on it.
        tables: Tables of what was measured, in the order to print.
        figure: Figure of what was measured; needs matplotlib.
        control: The negative control.
        extras: Extras of lazyjax that it needs beside "plot", such as "data".
        numbers: What of the measurement is written to the file of numbers; `None` means
            all its fields.
    """

    name: str
    title: str
    source: str
    claim: str
    sizes: Mapping[str, Any]
    measure: Callable[[Any, Conditions], Any]
    verdict: Callable[[Any], Judgement]
    tables: Callable[[Any], Sequence[Table]]
    figure: Callable[[Any], "Figure"]
    control: Control
    extras: tuple[str, ...] = ()
    numbers: Callable[[Any], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        letters = self.name.replace("-", "").replace("_", "")
        if not (letters.isalnum() and letters.isascii() and self.name[0].isalnum()):
            raise ValueError(
                "`name` must be of letters, digits, hyphens and underscores, for files "
                f"are named by it; got {self.name!r}."
            )
        if not self.sizes:
            raise ValueError("`sizes` must name one size at least.")
