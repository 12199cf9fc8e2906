"""Figures: valid images of what was passed, without pyplot's global state."""

import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import plot
from lazyjax.laziness import log_log_slope

pytestmark = pytest.mark.once

WIDTHS = np.array([64, 128, 256])


def scaling_axes() -> Any:
    axes: Any = plot.figure().subplots()
    values = 2 * WIDTHS[:, None] ** -0.5 * np.array([[0.9, 1.0, 1.1]])
    values = jnp.asarray(values, jnp.float32)
    fit = log_log_slope(jnp.asarray(WIDTHS, jnp.float32), values)
    plot.scaling(
        axes, WIDTHS, {"a": values}, {"a": fit}, theory_slope=-0.5, theory_label="th"
    )
    return axes, np.asarray(values)


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_scaling_shows_means_fit_and_guide():
    axes, values = scaling_axes()
    points = axes.containers[0].lines[0]
    np.testing.assert_allclose(points.get_ydata(), np.mean(values, 1), rtol=1e-6)
    fitted, guide = (line for line in axes.lines if len(line.get_xdata()) == 2)
    for line in (fitted, guide):
        slope = np.diff(np.log(line.get_ydata())) / np.diff(np.log(line.get_xdata()))
        np.testing.assert_allclose(slope, -0.5, rtol=1e-4)
    assert (guide.get_ydata() < np.mean(values, 1).min() * np.array([3, 1])).all()
    assert any("\N{MINUS SIGN}0.50 ± " in text for text in texts(axes))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["64", "128", "256"]


def test_legend_of_scaling_covers_no_point():
    axes, values = scaling_axes()
    figure = axes.figure
    figure.draw_without_rendering()
    box = axes.get_legend().get_window_extent()
    for x, y in zip(WIDTHS, np.max(values, 1), strict=True):
        assert not box.contains(*axes.transData.transform((x, y)))


def test_loss_curves_show_every_group_its_linear_model_and_the_bound():
    axes: Any = plot.figure().subplots()
    time = np.arange(1, 5.0)
    losses = np.array([[1.0, 0.5, 0.25, 0.1], [2.0, 1.5, 1.25, 1.1]])
    plot.loss_curves(
        axes,
        time,
        exact={"w": losses},
        linear={"w": losses / 2},
        bound=np.exp(-time),
        bound_label="bound",
    )
    assert texts(axes) == ["bound", "w", "w, linearized"]
    drawn = [line.get_ydata() for line in axes.lines]
    for shown, expected in zip(
        drawn, (np.exp(-time), losses.mean(0), losses.mean(0) / 2), strict=True
    ):
        np.testing.assert_allclose(shown, expected)


def test_png_is_an_image_of_the_size_asked_for():
    image = plot.png_bytes(plot.figure(width=2.0, height=1.0), dpi=100)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(image[16:20]) == 200
    assert int.from_bytes(image[20:24]) == 100


def test_pyplot_is_not_imported_and_missing_matplotlib_says_how_to_get_it():
    code = (
        "import sys, lazyjax.plot\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "del sys.modules['lazyjax.plot']\n"
        "sys.modules['matplotlib.axes'] = None\n"
        "try:\n    import lazyjax.plot\n"
        "except ImportError as e:\n    print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert 'pip install "lazyjax[plot]"' in done.stdout
