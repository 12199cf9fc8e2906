"""Kernels, their spectra, and those of weights."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from lazyjax.plot.style import COLORS, FONT, style_axes
from lazyjax.spectrum import WeightSpectrum
from lazyjax.typing import AnyArray


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
    axes.hist(values, bins, density=True, color=COLORS[1], alpha=0.35, label="measured")
    points = np.linspace(*found.edges, 400)
    axes.plot(
        points,
        found.bulk_density(points),
        color=COLORS[0],
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
    axes.legend(fontsize=FONT - 1, frameon=False)
    return axes


def eigenvalues(axes: Axes, spectra: Mapping[str, AnyArray]) -> Axes:
    """Eigenvalues of kernels by rank, on logarithmic axes.

    Args:
        axes: Where to draw.
        spectra: Eigenvalues of each kernel, by label; what is not positive is left out.

    Returns:
        The axes.
    """
    for color, label in zip(COLORS, spectra, strict=False):
        values = np.sort(np.asarray(spectra[label]))[::-1]
        values = values[values > 0]
        ranks = np.arange(1, values.size + 1)
        axes.plot(ranks, values, color=color, linewidth=1.8, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    style_axes(axes, xlabel="rank", ylabel="eigenvalue", title="Kernel")
    axes.legend(fontsize=FONT - 1, frameon=False)
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
    for color, label in zip(COLORS, series, strict=False):
        axes.plot(steps, series[label], color=color, linewidth=1.8, label=label)
    axes.set_ylim(0, 1)
    style_axes(axes, xlabel="step", ylabel="alignment", title="Kernel and targets")
    axes.legend(fontsize=FONT - 1, frameon=False)
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
            labelsize=FONT - 1
        )
    title = "Kernel" if labels is None else "Kernel, sorted by class"
    style_axes(axes, xlabel="", ylabel="", title=title)
    axes.grid(visible=False)
    return axes
