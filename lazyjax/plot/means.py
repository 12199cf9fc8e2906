"""Quantities against an abscissa: means over seeds with their errors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from lazyjax.laziness import SlopeFit, mean_and_sem
from lazyjax.plot.style import COLORS, FONT, MARKERS, plain_numbers
from lazyjax.typing import AnyArray


def loss_curves(
    axes: Axes,
    time: AnyArray,
    exact: Mapping[str, AnyArray],
    linear: Mapping[str, AnyArray],
    bound: AnyArray,
    *,
    bound_label: str,
) -> None:
    """Losses over training time: exact (solid), linearized (dashed) and bounded.

    Curves are means over seeds, with the range of the exact ones shaded.

    Args:
        axes: Where to draw.
        time: Positive abscissa, `(num_points,)`.
        exact: Losses `(seeds, num_points)` of each group of seeds, by label.
        linear: The same for the linearized model.
        bound: Upper bound on the loss, `(num_points,)`.
        bound_label: Its label.
    """
    time = np.asarray(time)
    axes.plot(time, np.asarray(bound), color="black", linewidth=1, label=bound_label)
    for color, label in zip(COLORS, exact, strict=False):
        losses, predicted = np.asarray(exact[label]), np.asarray(linear[label])
        axes.fill_between(
            time, losses.min(0), losses.max(0), color=color, alpha=0.2, linewidth=0
        )
        axes.plot(time, losses.mean(0), color=color, linewidth=1.8, label=label)
        axes.plot(
            time,
            predicted.mean(0),
            color=color,
            linewidth=1.4,
            linestyle=(0, (3, 1.5)),
            label=f"{label}, linearized",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize=FONT - 1, frameon=False, loc="lower left")


def curves(
    axes: Axes,
    x: AnyArray,
    series: Mapping[str, AnyArray],
    *,
    log: str = "",
    guides: Mapping[str, AnyArray] | None = None,
    is_marked: bool = True,
) -> None:
    """Quantities against an abscissa: means over seeds and their standard errors.

    Args:
        axes: Where to draw.
        x: Abscissa, `(num_points,)`.
        series: Values `(num_points,)`, or `(num_points, seeds)`, by label; at most
            seven.
        log: Which axes are logarithmic: "", "x", "y" or "xy".
        guides: What theory says, `(num_points,)` by label, as dotted lines.
        is_marked: Whether points are marked, with bars for errors; else errors are
            shaded.

    Raises:
        ValueError: If there are more series than colours.
    """
    if len(series) > len(COLORS):
        raise ValueError(
            f"`series` must be at most {len(COLORS)} to be told apart; got "
            f"{len(series)}."
        )
    x = np.asarray(x)
    for color, marker, label in zip(COLORS, MARKERS, series, strict=False):
        values = np.asarray(series[label], float).reshape(len(x), -1)
        if is_marked:
            mean = means_with_errors(axes, x, values, color, marker, label)
            axes.plot(x, mean, color=color, linewidth=1.2)
            continue
        mean, sem = (np.asarray(array, float) for array in mean_and_sem(values))
        axes.plot(x, mean, color=color, linewidth=1.6, label=label)
        if values.shape[1] > 1:
            low, high = mean - sem, mean + sem
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    dashes = (":", (0, (4, 2)), (0, (6, 2, 1, 2)))
    for dash, (label, values) in zip(
        dashes * len(guides or ()), (guides or {}).items(), strict=False
    ):
        axes.plot(x, values, color="0.35", linewidth=1.1, linestyle=dash, label=label)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 300 * low:
            plain_numbers(axes.yaxis)
    if is_marked and len(x) <= 10:
        axes.set_xticks(x, [f"{value:g}" for value in x.tolist()])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=FONT - 1, frameon=False)


def estimates(
    axes: Axes,
    x: AnyArray,
    series: Mapping[str, tuple[AnyArray, AnyArray]],
    *,
    spread: float = 1.0,
) -> None:
    """Estimates with their standard errors, as points.

    Args:
        axes: Where to draw.
        x: Abscissa, `(num_points,)`.
        series: Estimates and standard errors, `(num_points,)` each, by label.
        spread: Factor between the abscissas at which one series and the next are drawn,
            so that bars do not hide one another.
    """
    middle = (len(series) - 1) / 2
    for number, (label, (value, sem)) in enumerate(series.items()):
        axes.errorbar(
            np.asarray(x) * spread ** (number - middle),
            np.asarray(value),
            yerr=np.asarray(sem),
            color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linestyle="none",
            linewidth=1,
            capsize=2,
            label=label,
        )


def scaling(
    axes: Axes,
    width: AnyArray,
    series: Mapping[str, AnyArray],
    fits: Mapping[str, SlopeFit],
    *,
    theory_slope: float,
    theory_label: str,
) -> None:
    """Quantities against width on logarithmic axes, with fitted and theoretical slopes.

    Points are means over seeds, bars their standard errors, lines the fits.

    Args:
        axes: Where to draw.
        width: Abscissa, `(num_widths,)`.
        series: Values `(num_widths, seeds)` by label.
        fits: Power law of each series, by the same labels.
        theory_slope: Slope of a guide line below the points.
        theory_label: Its label.
    """
    width = np.asarray(width)
    ends = np.array([width[0], width[-1]], float)
    lowest = np.inf
    for color, marker, label in zip(COLORS, MARKERS, series, strict=False):
        slope, intercept = float(fits[label].slope), float(fits[label].intercept)
        sign = "\N{MINUS SIGN}" if slope < 0 else ""
        named = f"{label}: {sign}{abs(slope):.2f} ± {float(fits[label].slope_sem):.2f}"
        mean = means_with_errors(axes, width, series[label], color, marker, named)
        axes.plot(ends, np.exp(intercept) * ends**slope, color=color, linewidth=1.2)
        lowest = min(lowest, (mean * (width / width[0]) ** -theory_slope).min())
    guide = 0.6 * lowest * (ends / ends[0]) ** theory_slope
    axes.plot(ends, guide, color="0.45", linewidth=1, linestyle=":", label=theory_label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(width, [str(int(w)) for w in width])
    axes.xaxis.minorticks_off()
    plain_numbers(axes.yaxis)
    low, high = axes.get_ylim()
    # Room above the points, for the legend.
    axes.set_ylim(low, high * (high / low) ** 0.45)
    axes.legend(fontsize=FONT - 1, frameon=False, loc="upper right")


def means_with_errors(
    axes: Axes, x: Any, values: AnyArray, color: str, marker: str, label: str
) -> np.ndarray:
    """Draw means over the last axis with their standard errors, and return the means."""
    mean, sem = (np.asarray(array, float) for array in mean_and_sem(values))
    axes.errorbar(
        x,
        mean,
        yerr=sem,
        color=color,
        marker=marker,
        markersize=4,
        linestyle="none",
        linewidth=1,
        capsize=2,
        label=label,
    )
    return mean
