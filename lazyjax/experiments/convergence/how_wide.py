r"""How wide a network must be to fit: by theorems, by certificate, and by trying.

The back-of-the-envelope question of readers of such theorems: given the number of
examples, how many parameters? Theorems on random starts are evaluated on the data, widths
are certified for one start, and the smallest that trains to zero loss is found by
doubling. The last is extrapolated to a large data set as a power of the number of
examples.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax.certify.widths import order_of_magnitude, width_table
from lazyjax.data import sphere
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import (
    CONTRADICTION,
    Conditions,
    Experiment,
    Size,
    contradicted,
)
from lazyjax.laziness import SlopeFit, log_log_slope

# Theorems are out of reach if all ask for this many times the width that does.
FAR = 1000.0
BYTES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class HowWideSize(Size):
    """How much is computed.

    Attributes:
        train_sizes: Numbers of examples, at least two.
        num_features: Dimension of inputs.
        max_width: Largest width tried.
        num_starts: Networks of each width, whose geometric mean is extrapolated.
        target_train: Examples of the data set that is extrapolated to.
        target_features: Numbers of an image there.
        target_classes: Its classes.
        is_contradicted: Whether one input comes twice, with opposite labels.
    """

    train_sizes: tuple[int, ...] = (8, 16, 32)
    num_features: int = 16
    max_width: int = 16384
    num_starts: int = 2
    target_train: int = 50_000
    target_features: int = 512 * 512 * 3
    target_classes: int = 1000
    is_contradicted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class HowWide:
    """Widths for every number of examples; infinite where there is none.

    Attributes:
        train_sizes: Numbers of examples.
        theorems: Names of theorems.
        required: Widths that they ask for; NaN where a width is not known in full.
        certified: Smallest width certified, of each start.
        fitting: Smallest power of two that trains to zero loss, of each start.
        law: Power of the number of examples in `fitting`.
        target: Examples, features and classes of the data set extrapolated to.
    """

    train_sizes: tuple[int, ...]
    theorems: tuple[str, ...]
    required: Float[np.ndarray, "sizes theorems"]
    certified: Float[np.ndarray, "sizes starts"]
    fitting: Float[np.ndarray, "sizes starts"]
    law: SlopeFit
    target: tuple[int, int, int]

    @property
    def extrapolated(self) -> tuple[float, float, float]:
        """Width for the target's outputs, and the ends of its 95 % interval."""
        num_train, _, num_classes = self.target
        # A width fits as many numbers as there are examples times outputs.
        away = math.log(num_train * num_classes) - np.mean(np.log(self.train_sizes))
        centre = float(np.mean(np.log(self.fitting)))
        slopes = (self.law.slope, self.law.low, self.law.high)
        return tuple(math.exp(centre + float(slope) * away) for slope in slopes)  # pyright: ignore[reportReturnType]


def measure(size: HowWideSize, conditions: Conditions) -> HowWide:
    """The table of widths for each number of examples and start."""
    required, certified, fitting = [], [], []
    names: tuple[str, ...] = ()
    total = len(size.train_sizes) * size.num_starts
    for number, num_train in enumerate(size.train_sizes):
        key = jax.random.fold_in(conditions.key, num_train)
        data = sphere(num_train, size.num_features, key=key)
        x, y = data.x_train, data.y_train
        if size.is_contradicted:
            x, y = contradicted(x, y)
        for start in range(size.num_starts):
            done = number * size.num_starts + start
            table = width_table(
                x,
                y,
                key=jax.random.fold_in(key, start),
                max_width=size.max_width,
                rigor="float",
                progress=conditions.part(done / total, (done + 1) / total),
            )
            certified.append(math.inf if table.certified is None else table.certified)
            fitting.append(math.inf if table.converged is None else table.converged)
        names = tuple(needed.theorem for needed in table.requirements)
        widths = [needed.width for needed in table.requirements]
        required.append([math.nan if w is None else w for w in widths])
    shape = (len(size.train_sizes), size.num_starts)
    found = np.array(fitting, float).reshape(shape)
    known = jnp.asarray(np.where(np.isfinite(found), found, np.nan), jnp.float32)
    return HowWide(
        train_sizes=size.train_sizes,
        theorems=names,
        required=np.array(required, float),
        certified=np.array(certified, float).reshape(shape),
        fitting=found,
        law=log_log_slope(jnp.asarray(size.train_sizes, jnp.float32), known),
        target=(size.target_train, size.target_features, size.target_classes),
    )


def verdict(found: HowWide) -> Judgement:
    """Some width fits, and every theorem asks for far more."""
    ratio = found.required / found.fitting.max(axis=1, keepdims=True)
    return Judgement.of(
        [
            Check(
                statement="share of starts for which some width fits",
                measured=float(np.mean(np.isfinite(found.fitting))),
                sense="at least",
                threshold=1.0,
            ),
            Check(
                statement="median width that theorems ask for, over that which fits,",
                measured=float(np.nanmedian(ratio)),
                sense="at least",
                threshold=FAR,
            ),
        ],
        "Theorems whose formulas have no constant are taken with a constant of 1.",
    )


def tables(found: HowWide) -> list[Table]:
    """Widths by source; the data set that is extrapolated to."""
    show = lambda values: order_of_magnitude(float(np.exp(np.mean(np.log(values)))))
    rows = [
        [name, *("unknown" if np.isnan(w) else order_of_magnitude(w) for w in widths)]
        for name, widths in zip(found.theorems, found.required.T, strict=True)
    ]
    rows.append(["certified for a start (mean)", *map(show, found.certified)])
    rows.append(["fits when trained (mean)", *map(show, found.fitting)])
    num_train, num_features, num_classes = found.target
    target = [
        [
            which,
            order_of_magnitude(width),
            order_of_magnitude(width * (num_features + num_classes)),
            f"{width * (num_features + num_classes) * BYTES / 1e9:.3g} GB",
            f"{6 * width * (num_features + num_classes) * num_train:.1e}",
        ]
        for which, width in zip(
            ("extrapolated", "95 % from", "to"), found.extrapolated, strict=True
        )
    ]
    law = found.law
    return [
        report.table(
            "Width of a hidden layer, to fit n examples",
            ["by", *(f"n = {n}" for n in found.train_sizes)],
            rows,
            caption="Theorems are evaluated on the data, with failure probability 0.1.",
        ),
        report.table(
            f"{num_train:,} images of {num_features:,} numbers, {num_classes:,} classes",
            ["width that fits", "width", "parameters", "memory", "operations an epoch"],
            target,
            caption=(
                f"Measured widths grow like n^{float(law.slope):.2f} "
                f"({float(law.low):.2f} to {float(law.high):.2f}); n is taken times the "
                "number of classes. A long way to extrapolate, from independent "
                "inputs: an order of magnitude at best."
            ),
        ),
    ]


def figure(found: HowWide):
    """All widths against the number of examples."""
    from lazyjax import plot

    figure = plot.figure(width=5.2, height=4.0)
    axes = figure.subplots()
    sizes = np.asarray(found.train_sizes, float)
    known = found.required[:, ~np.isnan(found.required).any(axis=0)]
    plot.curves(
        axes,
        sizes,
        {
            "certified for one start": found.certified,
            "fits when trained": found.fitting,
        },
        log="xy",
        guides={
            "least of the theorems": known.min(axis=1),
            "median of the theorems": np.median(known, axis=1),
        },
    )
    plot.style_axes(
        axes,
        xlabel="examples $n$",
        ylabel="width, mean ± standard error",
        title="Width that is enough",
    )
    return figure


EXPERIMENT = Experiment(
    name="how-wide",
    title="How wide a network must be to fit",
    source="The question of readers of Du et al. (2019), arXiv:1810.02054, and others",
    claim="Widths for which theorems on random starts promise zero loss are far beyond "
    "those that reach it: powers of n of 4 to 24, where a few units do.",
    sizes={
        "quick": HowWideSize(),
        "brief": HowWideSize(train_sizes=(4, 8), num_features=8, max_width=512),
        "full": HowWideSize(
            train_sizes=(8, 16, 32, 64, 128, 256), num_features=64, num_starts=5
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=CONTRADICTION,
)
