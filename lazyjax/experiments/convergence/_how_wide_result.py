"""What `how-wide` found: widths and parameters, as tables and as a figure."""

import dataclasses

import numpy as np
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax._brief import in_bytes
from lazyjax.certify.widths import BYTES_PER_PARAMETER, du2019b, order_of_magnitude
from lazyjax.experiments.convergence._capacity import Capacity, Images
from lazyjax.laziness import SlopeFit

KINDS: dict[str, du2019b.NetworkKind] = {
    "fully connected": "mlp",
    "ResNet": "resnet",
    "convolutional ResNet": "conv_resnet",
}
# Operations a second of one accelerator; weights, gradients and momenta.
OPERATIONS, COPIES = 1e14, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class HowWide:
    """Widths for each number of examples; infinite where there is none.

    Attributes:
        train_sizes: Numbers of examples.
        theorems: Names of theorems.
        depths: Hidden layers of their networks.
        required: Widths that they ask for; NaN if unknown, or if they do not apply.
        certified: Smallest width certified of the fewest examples, with one hidden
            layer.
        fitting: Smallest width that is trained to a fit.
        params: Its parameters.
        epochs: Steps until it fits.
        laws: Power of the numbers to be fitted in `params`, for each kind.
        depth: Hidden layers of what is trained.
        num_classes: Numbers to be fitted of each example.
        target: What is extrapolated to.
    """

    train_sizes: tuple[int, ...]
    theorems: tuple[str, ...]
    depths: tuple[int, ...]
    required: Float[np.ndarray, "theorems sizes"]
    certified: float
    fitting: Float[np.ndarray, "kinds sizes starts"]
    params: Float[np.ndarray, "kinds sizes starts"]
    epochs: Float[np.ndarray, "kinds sizes starts"]
    laws: tuple[SlopeFit, ...]
    depth: int
    num_classes: int
    target: Images

    @property
    def numbers(self) -> Float[np.ndarray, "sizes"]:
        """Numbers to be fitted: one for each class of each example."""
        return self.num_classes * np.asarray(self.train_sizes, float)

    def extrapolated(self, kind: int) -> Float[np.ndarray, "3"]:
        """Parameters for the target, and the ends of their 95 % interval.

        Returns:
            The three numbers. Small networks need more for each number to be fitted, so
            that the power is below 1. As that cannot go on, there is one for each at
            least, and the upper end is no less than what the most examples took.
        """
        away = np.log(self.target.numbers) - np.mean(np.log(self.numbers))
        centre = np.mean(np.log(self.params[kind]))
        law = self.laws[kind]
        powers = np.array([law.slope, law.low, law.high], float)
        for_each = np.mean(self.params[kind, -1]) / self.numbers[-1]
        least = self.target.numbers * np.array([1.0, 1.0, for_each])
        return np.maximum(np.exp(centre + away * powers), least)

    def required_of_target(self) -> Float[np.ndarray, "theorems"]:
        """Widths that theorems ask for, if their powers of n go on to the target."""
        logs, sizes = np.log(self.required), np.log(self.train_sizes)
        powers = (logs[:, -1] - logs[:, 0]) / (sizes[-1] - sizes[0])
        away = np.log(self.target.number) - sizes[-1]
        return np.exp(np.minimum(logs[:, -1] + powers * away, 700.0))


def tables(found: HowWide) -> list[Table]:
    """Widths by source; the data set that is extrapolated to."""
    show = lambda width: "none" if np.isnan(width) else order_of_magnitude(width)
    target, rows, costs = found.target, [], []
    for name, depth, widths, last in zip(
        found.theorems,
        found.depths,
        found.required,
        found.required_of_target(),
        strict=True,
    ):
        kind = "conv_resnet" if "convolutional" in name else "mlp"
        count = Capacity.of(kind, target, depth=depth).num_params(last)
        rows.append([name, *map(show, widths), show(last), show(count)])
    blank = [""] * (len(found.train_sizes) + 1)
    rows.append(["certified, one hidden layer", show(found.certified), *blank])
    for i, (name, kind) in enumerate(KINDS.items()):
        capacity = Capacity.of(kind, target, depth=found.depth)
        params = found.extrapolated(i)
        width = capacity.width(params[0])
        count = capacity.num_params(width)
        means = np.exp(np.mean(np.log(found.fitting[i]), axis=-1))
        rows.append([f"fits: {name}", *map(show, [*means, width, count])])
        epochs = float(np.exp(np.mean(np.log(found.epochs[i, -1]))))
        hours = epochs * capacity.operations(width) / OPERATIONS / 3600
        memory = in_bytes(COPIES * BYTES_PER_PARAMETER * count)
        numbers = [f"{each:.1e}" for each in (*params, count, hours)]
        power = f"{float(found.laws[i].slope):.2f}"
        costs.append([name, power, *numbers[:4], memory, numbers[4]])
    there = f"n = {target.number:,}"
    return [
        report.table(
            "Width of a hidden layer, to fit n images",
            ["by", *(f"n = {n}" for n in found.train_sizes), there, "parameters"],
            rows,
            caption="Theorems are for the first class against the others, with failure "
            "probability 0.1; none where one does not apply, or states no width. "
            f"{there} follows the powers of n that were found.",
        ),
        report.table(
            f"{target.number:,} images of {target.num_pixels:,} pixels by "
            f"{target.num_channels} channels, {target.num_classes:,} classes",
            [
                *("what fits", "power", "by it", "95 % from", "to"),
                *("parameters\nof a network", "memory", "hours"),
            ],
            costs,
            caption=f"Powers of parameters in the numbers to be fitted, {target.numbers:.0e} "
            "here. At least one for each is taken, and in the upper end as many as at the most images. A network has width 1 at least, and as many units as classes less "
            "one. Memory of weights, gradients and momenta; hours at "
            f"{OPERATIONS:.0e} operations a second, for as many epochs as were measured. "
            "A long way to extrapolate, from noise: orders of magnitude.",
        ),
    ]


def figure(found: HowWide):
    """Widths by source, and parameters against the numbers to be fitted."""
    from lazyjax import plot
    from lazyjax.plot.style import COLORS

    figure = plot.figure(height=3.6)
    left, right = figure.subplots(1, 2)
    known = found.required[~np.isnan(found.required).any(axis=1)]
    sizes = np.asarray(found.train_sizes, float)
    series = {f"fits: {name}": found.fitting[i] for i, name in enumerate(KINDS)}
    plot.curves(
        left,
        sizes,
        series,
        log="xy",
        guides={"median of theorems": np.median(known, axis=0)},
    )
    plot.style_axes(
        left, xlabel="images $n$", ylabel="width", title="Widths that are enough"
    )
    # To the right, what is extrapolated; side by side, for bars hide each other.
    plot.curves(
        right, found.numbers, {name: found.params[i] for i, name in enumerate(KINDS)}
    )
    for i, color in zip(range(len(KINDS)), COLORS, strict=False):
        middle, low, high = found.extrapolated(i)
        error = [[middle - low], [high - middle]]
        beside = found.target.numbers * 1.5 ** (i - 1)
        right.errorbar(beside, middle, error, color=color, marker="o", capsize=2)
    ends = [found.numbers[0], found.target.numbers]
    right.plot(ends, ends, color="0.35", linestyle=":", label="one for each")
    right.set(xscale="log", yscale="log")
    right.legend(fontsize=8, frameon=False)
    plot.style_axes(
        right,
        xlabel="numbers to be fitted, images times classes",
        ylabel="parameters, and 95 % where extrapolated",
        title="Parameters that fit",
    )
    return figure
