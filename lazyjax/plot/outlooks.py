"""What is known before training ends: learning curves and certificates."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from lazyjax.certify import TrainingCertificates
from lazyjax.forecast import Calibration, LearningCurve
from lazyjax.plot.means import means_with_errors
from lazyjax.plot.style import COLORS, FONT, MARKERS, plain_numbers, style_axes
from lazyjax.typing import AnyArray


def learning_curve(
    axes: Axes, curve: LearningCurve, measured: Mapping[str, AnyArray] | None = None
) -> Axes:
    """Forecast test error against the size of the training set, of networks dashed.

    Args:
        axes: Where to draw.
        curve: From `lazyjax.forecast.learning_curve`; errors are summed over outputs.
        measured: Errors `(sizes, draws)` by label, drawn as means with standard errors.

    Returns:
        The axes.
    """
    expected = np.sum(curve.test_error, axis=1)
    axes.plot(curve.sizes, expected, color="black", linewidth=1.6, label="forecast")
    if curve.seed_variance is not None:
        of_network = np.sum(curve.network_error, axis=1)
        axes.plot(curve.sizes, of_network, "k--", linewidth=1.2, label="of one network")
    named = (measured or {}).items()
    for color, marker, (label, values) in zip(COLORS, MARKERS, named, strict=False):
        means_with_errors(axes, curve.sizes, values, color, marker, label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    style_axes(
        axes, xlabel="training examples", ylabel="test error", title="Learning curve"
    )
    axes.legend(fontsize=FONT - 1, frameon=False)
    return axes


def calibration(axes: Axes, runs: Mapping[str, Calibration]) -> Axes:
    """Losses of runs (solid) beside their forecasts (dashed), as shares of the first.

    Args:
        axes: Where to draw.
        runs: From `lazyjax.forecast.calibration`, by label.

    Returns:
        The axes.
    """
    for color, (label, run) in zip(COLORS * len(runs), runs.items(), strict=False):
        steps, start = np.arange(len(run.measured)), run.measured[0]
        axes.plot(steps, run.measured / start, color=color, linewidth=1.6, label=label)
        axes.plot(
            steps,
            run.forecast / start,
            color=color,
            linewidth=1.4,
            linestyle=(0, (3, 1.5)),
            label=f"{label}, forecast",
        )
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("log")
    style_axes(axes, xlabel="step", ylabel="share of the loss left", title="Training")
    axes.legend(fontsize=FONT - 1, frameon=False)
    return axes


def certificates(axes: Axes, runs: Mapping[str, TrainingCertificates]) -> Axes:
    """How near certificates are to holding, along training.

    The ordinate is 1 - margin, which falls below 1 where a certificate holds; a large
    marker is at the earliest step that is certified. Where no bound is known, there is
    no point.

    Args:
        axes: Where to draw.
        runs: From `lazyjax.certify.along`, by label.

    Returns:
        The axes.
    """
    axes.axhline(1, color="black", linewidth=1)
    for index, (label, run) in enumerate(runs.items()):
        color = COLORS[index % len(COLORS)]
        marker = MARKERS[index // len(COLORS) % len(MARKERS)]
        left = 1 - run.margin
        shown = np.isfinite(left) & (left > 0)
        axes.plot(
            run.steps[shown],
            left[shown],
            color=color,
            marker=marker,
            markersize=3,
            linewidth=1.2,
            label=label,
        )
        held = (run.steps == run.earliest) & shown
        axes.plot(run.steps[held], left[held], marker, color=color, markersize=8)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_yscale("log")
    style_axes(
        axes,
        xlabel="step",
        ylabel="1 - margin",
        title="Certified below 1",
    )
    axes.legend(fontsize=FONT - 1, frameon=False)
    return axes
