"""Figures of experiments, built as objects: no display and no global state needed."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

try:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
except ImportError as error:
    raise ImportError(
        '`lazyjax.plot` needs matplotlib: pip install "lazyjax[plot]".'
    ) from error

from lazyjax.certify import TrainingCertificates
from lazyjax.forecast import LearningCurve
from lazyjax.laziness import SlopeFit, mean_and_sem
from lazyjax.spectrum import WeightSpectrum
from lazyjax.typing import AnyArray

# Okabe and Ito's palette, told apart by all common forms of colour vision.
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_FONT = 9.0


def figure(*, width: float = 7.2, height: float = 3.3) -> Figure:
    """Empty figure, sized in inches for the full width of a page.

    Args:
        width: In inches.
        height: In inches.

    Returns:
        The figure.

    Example:
        >>> figure(width=3.5).get_size_inches().tolist()
        [3.5, 3.3]
    """
    return Figure(figsize=(width, height), layout="constrained")


def png_bytes(figure: Figure, *, dpi: int = 200) -> bytes:
    """PNG image of `figure`, as the bytes of a file.

    Args:
        figure: What to draw.
        dpi: Dots per inch.

    Returns:
        The file's content.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def style_axes(axes: Axes, *, xlabel: str, ylabel: str, title: str) -> None:
    """Labels, title and quiet lines of one panel.

    Args:
        axes: The panel.
        xlabel: Quantity and unit of the abscissa.
        ylabel: Quantity and unit of the ordinate.
        title: What the panel shows.
    """
    axes.set_xlabel(xlabel, fontsize=_FONT)
    axes.set_ylabel(ylabel, fontsize=_FONT)
    axes.set_title(title, fontsize=_FONT, loc="left")
    axes.tick_params(labelsize=_FONT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


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
    for color, label in zip(_COLORS, exact, strict=False):
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
    axes.legend(fontsize=_FONT - 1, frameon=False, loc="lower left")


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
    if len(series) > len(_COLORS):
        raise ValueError(
            f"`series` must be at most {len(_COLORS)} to be told apart; got "
            f"{len(series)}."
        )
    x = np.asarray(x)
    for color, marker, label in zip(_COLORS, _MARKERS, series, strict=False):
        values = np.asarray(series[label], float).reshape(len(x), -1)
        if is_marked:
            mean = _means(axes, x, values, color, marker, label)
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
            _plain_numbers(axes.yaxis)
    if is_marked and len(x) <= 10:
        axes.set_xticks(x, [f"{value:g}" for value in x.tolist()])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=_FONT - 1, frameon=False)


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
            color=_COLORS[number % len(_COLORS)],
            marker=_MARKERS[number % len(_MARKERS)],
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
    for color, marker, label in zip(_COLORS, _MARKERS, series, strict=False):
        slope, intercept = float(fits[label].slope), float(fits[label].intercept)
        sign = "\N{MINUS SIGN}" if slope < 0 else ""
        named = f"{label}: {sign}{abs(slope):.2f} ± {float(fits[label].slope_sem):.2f}"
        mean = _means(axes, width, series[label], color, marker, named)
        axes.plot(ends, np.exp(intercept) * ends**slope, color=color, linewidth=1.2)
        lowest = min(lowest, (mean * (width / width[0]) ** -theory_slope).min())
    guide = 0.6 * lowest * (ends / ends[0]) ** theory_slope
    axes.plot(ends, guide, color="0.45", linewidth=1, linestyle=":", label=theory_label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(width, [str(int(w)) for w in width])
    axes.xaxis.minorticks_off()
    _plain_numbers(axes.yaxis)
    low, high = axes.get_ylim()
    # Room above the points, for the legend.
    axes.set_ylim(low, high * (high / low) ** 0.45)
    axes.legend(fontsize=_FONT - 1, frameon=False, loc="upper right")


def _plain_numbers(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5, without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _means(
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


def weight_spectrum(axes: Axes, found: WeightSpectrum, *, num_bins: int = 60) -> Axes:
    """Eigenvalues of a weight matrix, with the Marchenko-Pastur bulk and spikes.

    Args:
        axes: Where to draw.
        found: From `lazyjax.spectrum.weights`.
        num_bins: Of the histogram.

    Returns:
        The axes.
    """
    values = found.eigenvalues
    bins = np.linspace(0, max(values[-1], found.edges[1]) * 1.02, num_bins + 1)
    axes.hist(
        values, bins, density=True, color=_COLORS[1], alpha=0.35, label="measured"
    )
    points = np.linspace(*found.edges, 400)
    axes.plot(
        points,
        found.bulk_density(points),
        color=_COLORS[0],
        linewidth=1.8,
        label="independent entries",
    )
    spikes = values[len(values) - found.num_spikes :]
    if found.num_spikes:
        label = f"{found.num_spikes} beyond the bulk"
        axes.plot(
            spikes,
            0 * spikes,
            "v",
            color="black",
            markersize=5,
            clip_on=False,
            label=label,
        )
    style_axes(
        axes, xlabel="eigenvalue of $W^T W / N$", ylabel="density", title="Weights"
    )
    axes.legend(fontsize=_FONT - 1, frameon=False)
    return axes


def eigenvalues(axes: Axes, spectra: Mapping[str, AnyArray]) -> Axes:
    """Eigenvalues of kernels by rank, on logarithmic axes.

    Args:
        axes: Where to draw.
        spectra: Eigenvalues of each kernel, by label; what is not positive is left out.

    Returns:
        The axes.
    """
    for color, label in zip(_COLORS, spectra, strict=False):
        values = np.sort(np.asarray(spectra[label]))[::-1]
        values = values[values > 0]
        ranks = np.arange(1, values.size + 1)
        axes.plot(ranks, values, color=color, linewidth=1.8, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    style_axes(axes, xlabel="rank", ylabel="eigenvalue", title="Kernel")
    axes.legend(fontsize=_FONT - 1, frameon=False)
    return axes


def learning_curve(
    axes: Axes, curve: LearningCurve, measured: Mapping[str, AnyArray] | None = None
) -> Axes:
    """Forecast test error against the size of the training set.

    Args:
        axes: Where to draw.
        curve: From `lazyjax.forecast.learning_curve`; errors are summed over outputs.
        measured: Errors `(sizes, draws)` by label, drawn as means with standard errors.

    Returns:
        The axes.
    """
    expected = np.sum(curve.test_error, axis=1)
    axes.plot(curve.sizes, expected, color="black", linewidth=1.6, label="forecast")
    named = (measured or {}).items()
    for color, marker, (label, values) in zip(_COLORS, _MARKERS, named, strict=False):
        _means(axes, curve.sizes, values, color, marker, label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    style_axes(
        axes, xlabel="training examples", ylabel="test error", title="Learning curve"
    )
    axes.legend(fontsize=_FONT - 1, frameon=False)
    return axes


def alignment(axes: Axes, steps: AnyArray, series: Mapping[str, AnyArray]) -> Axes:
    """Alignments along training.

    Args:
        axes: Where to draw.
        steps: Abscissa.
        series: Alignments at each, by label, such as `target_alignment` of each layer.

    Returns:
        The axes.
    """
    for color, label in zip(_COLORS, series, strict=False):
        axes.plot(steps, series[label], color=color, linewidth=1.8, label=label)
    axes.set_ylim(0, 1)
    style_axes(axes, xlabel="step", ylabel="alignment", title="Kernel and targets")
    axes.legend(fontsize=_FONT - 1, frameon=False)
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
        color = _COLORS[index % len(_COLORS)]
        marker = _MARKERS[index // len(_COLORS) % len(_MARKERS)]
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
    axes.legend(fontsize=_FONT - 1, frameon=False)
    return axes


def kernel(axes: Axes, matrix: AnyArray, labels: AnyArray | None = None) -> Axes:
    """A kernel as an image, examples sorted by class.

    Args:
        axes: Where to draw.
        matrix: One number for each pair of examples.
        labels: Class of each example; `None` keeps their order.

    Returns:
        The axes.
    """
    matrix = np.asarray(matrix)
    if labels is not None:
        labels = np.asarray(labels)
        order = np.argsort(labels, kind="stable")
        matrix, labels = matrix[np.ix_(order, order)], labels[order]
        classes, starts, counts = np.unique(
            labels, return_index=True, return_counts=True
        )
        for start in starts[1:]:
            axes.axhline(start - 0.5, color="white", linewidth=0.5)
            axes.axvline(start - 0.5, color="white", linewidth=0.5)
        axes.set_xticks(starts + (counts - 1) / 2, [str(c) for c in classes])
        axes.set_yticks(starts + (counts - 1) / 2, [str(c) for c in classes])
    # Its diagonal would hide all else.
    off_diagonal = matrix[~np.eye(len(matrix), dtype=bool)]
    low, high = np.percentile(off_diagonal, [1, 99]) if off_diagonal.size else (0, 1)
    image = axes.imshow(matrix, vmin=low, vmax=high, cmap="viridis")
    if axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(
            labelsize=_FONT - 1
        )
    title = "Kernel" if labels is None else "Kernel, sorted by class"
    style_axes(axes, xlabel="", ylabel="", title=title)
    axes.grid(visible=False)
    return axes
