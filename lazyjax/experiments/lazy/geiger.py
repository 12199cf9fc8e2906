r"""Lazy training against feature learning, in the plane of width and output scale.

Networks $\alpha (h(w) - h(w_0))$ are trained on $\alpha^{-2} R$, in "ntk"
parameterization, and their regime is read off the relative drift of the kernel. Where it
is `LEVEL`, the regimes meet: at $\alpha^* \propto \text{width}^{-1/2}$, so that in
the wide limit every fixed $\alpha$ is lazy.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.dynamics import observers
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.lazy._digits import odd_against_even, trained, unit_rate
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import SlopeFit, log_log_slope, mean_and_sem
from lazyjax.typing import Parameterization

CLAIMED, ALLOWANCE = -0.5, 0.15
LEVEL = 0.5  # relative drift at which regimes meet


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeigerSize(Size):
    r"""How much is computed.

    Attributes:
        widths: Increasing widths.
        num_seeds: Networks of each.
        alphas: Increasing output scales, from learning features to lazy training.
        depth: Hidden layers.
        num_train: Training examples.
        num_steps: Steps of descent at a tenth of the rate 1/λmax of infinite width.
        parameterization: "ntk", for which the claim is made, or another.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    num_seeds: int = 5
    alphas: tuple[float, ...] = tuple(2.0**k for k in range(-6, 4))
    depth: int = 1
    num_train: int = 16
    num_steps: int = 400
    parameterization: Parameterization = "ntk"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geiger:
    """Drift over the plane, and where it passes `LEVEL`.

    Attributes:
        widths: Of the networks.
        alphas: Output scales, increasing.
        drift: Of the kernel, relative to that at the start.
        loss: After training, over that before.
        crossover: Output scale at which the drift is `LEVEL`, interpolated; NaN where
            it does not pass it.
        slope: Power of the width in the crossover.
    """

    widths: tuple[int, ...]
    alphas: tuple[float, ...]
    drift: Float[np.ndarray, "widths seeds alphas"]
    loss: Float[np.ndarray, "widths seeds alphas"]
    crossover: Float[np.ndarray, "widths seeds"]
    slope: SlopeFit


def measure(size: GeigerSize, conditions: Conditions) -> Geiger:
    """Drift over widths, seeds and output scales, by one sweep."""
    data = odd_against_even(size.num_train, conditions.key)
    architecture = Architecture(
        depth=size.depth,
        activation="tanh",
        w_std=1.5,
        parameterization=size.parameterization,
    )
    runs = trained(
        architecture,
        data,
        0.1 * unit_rate(architecture, data),
        widths=size.widths,
        num_seeds=size.num_seeds,
        key=conditions.key,
        alphas=size.alphas,
        num_steps=size.num_steps,
        center=True,
        observe=[observers.ntk_drift],
        progress=conditions.progress,
    )
    drift = runs.observations["ntk_drift"][..., -1]
    crossover = np.array(
        [[_crossover(size.alphas, row) for row in rows] for rows in drift], drift.dtype
    )
    return Geiger(
        widths=size.widths,
        alphas=size.alphas,
        drift=drift,
        loss=runs.loss[..., -1] / runs.loss[..., 0],
        crossover=crossover,
        slope=log_log_slope(jnp.asarray(size.widths, drift.dtype), crossover),
    )


def _crossover(alphas: tuple[float, ...], drift: Float[np.ndarray, "alphas"]) -> float:
    """Where the drift falls below `LEVEL` for good, on logarithmic axes."""
    above = np.flatnonzero(~(drift <= LEVEL))
    if not above.size or above[-1] + 1 == len(alphas):
        return math.nan
    low = above[-1]
    ends = np.log(drift[low : low + 2])
    share = (ends[0] - math.log(LEVEL)) / (ends[0] - ends[1])
    return float(alphas[low] * (alphas[low + 1] / alphas[low]) ** share)


def verdict(found: Geiger) -> Judgement:
    """Whether the crossover falls like the root of the width."""
    return Judgement.of(
        [
            Check.of_exponent(
                "exponent of the crossover in the width",
                found.slope,
                CLAIMED,
                ALLOWANCE,
            )
        ]
    )


def tables(found: Geiger) -> list[Table]:
    """The crossover by width, and the drift at both ends."""
    low, high = (f"drift at alpha = {found.alphas[end]:.3g}" for end in (0, -1))
    exponent = report.with_error(float(found.slope.slope), float(found.slope.slope_sem))
    return [
        report.means_table(
            f"Crossover, where the drift is {LEVEL:g}",
            "width",
            found.widths,
            {
                "crossover": found.crossover,
                low: found.drift[..., 0],
                high: found.drift[..., -1],
            },
            caption=f"Exponent of the crossover: {exponent}; claimed {CLAIMED:g}.",
        )
    ]


def figure(found: Geiger):
    """The phase diagram, and the drift of all widths against one variable."""
    from lazyjax import plot

    figure = plot.figure(height=3.6)
    left, right = figure.subplots(1, 2)
    widths = np.asarray(found.widths, float)
    drift = np.exp(np.mean(np.log(found.drift), axis=1))
    image = left.pcolormesh(
        widths, found.alphas, drift.T, norm="log", cmap="viridis", shading="nearest"
    )
    bar = figure.colorbar(image, ax=left)
    bar.set_label("relative drift of the kernel", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    mean, sem = (np.asarray(a) for a in mean_and_sem(found.crossover))
    left.errorbar(
        widths,
        mean,
        sem,
        color="white",
        fmt="o",
        markersize=4,
        label=f"drift {LEVEL:g}",
    )
    guide = mean[-1] * (widths / widths[-1]) ** CLAIMED
    left.plot(
        widths, guide, color="white", linestyle=":", label=r"slope $-\frac{1}{2}$"
    )
    left.legend(fontsize=8, loc="lower left", facecolor="0.3", labelcolor="white")
    left.set_xscale("log", base=2)
    left.set_yscale("log", base=2)
    plot.style_axes(
        left,
        xlabel="width $m$",
        ylabel=r"output scale $\alpha$",
        title="Features are learnt below, not above",
    )
    mean, sem = (np.asarray(a) for a in mean_and_sem(np.moveaxis(found.drift, 1, -1)))
    for i, width in enumerate(found.widths):
        shade = str(0.75 - 0.75 * i / max(1, len(found.widths) - 1))
        scaled = np.asarray(found.alphas) * width**0.5
        right.errorbar(
            scaled, mean[i], sem[i], color=shade, marker=".", label=f"width {width}"
        )
    right.axhline(LEVEL, color="#D55E00", linestyle=":", label=f"drift {LEVEL:g}")
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.legend(fontsize=8, frameon=False)
    plot.style_axes(
        right,
        xlabel=r"$\alpha \sqrt{m}$",
        ylabel="relative drift of the kernel",
        title="One variable for all widths",
    )
    return figure


EXPERIMENT = Experiment(
    name="geiger",
    title="Lazy training and feature learning in the plane of width and output scale",
    source="Geiger, Spigler, Jacot and Wyart (2020), arXiv:1906.08034",
    claim="In the plane of width h and output scale alpha, lazy training and feature "
    "learning meet at an alpha that falls like h^(-1/2) (section not checked).",
    sizes={
        "quick": GeigerSize(),
        "brief": GeigerSize(
            widths=(64, 512), num_seeds=6, alphas=tuple(2.0**k for k in range(-5, 2))
        ),
        "full": GeigerSize(
            widths=(64, 128, 256, 512, 1024, 2048, 4096),
            num_seeds=10,
            alphas=tuple(2.0 ** (k / 2) for k in range(-14, 7)),
            depth=3,
            num_train=256,
            num_steps=4000,
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=Control(
        what="maximal update parameterization, whose regimes do not depend on the width",
        change=lambda size: dataclasses.replace(
            size,
            alphas=tuple(alpha * size.widths[0] ** 0.5 for alpha in size.alphas),
            parameterization="mup",
        ),
    ),
    extras=("data",),
)
