"""Figures: valid images of what was passed, without pyplot's global state."""

import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify, forecast, plot, spectrum
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
        "del sys.modules['lazyjax.plot'], sys.modules['matplotlib.axes']\n"
        "sys.modules['matplotlib.axes'] = None\n"
        "try:\n    import lazyjax.plot\n"
        "except ImportError as e:\n    print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert 'pip install "lazyjax[plot]"' in done.stdout


def test_learning_curves_show_forecast_and_means():
    kernel, y = np.eye(50) + 1, np.ones((50, 2))
    curve = forecast.learning_curve(kernel, y, sizes=[5, 20])
    axes: Any = plot.figure().subplots()
    measured = np.array([[1.0, 3.0], [2.0, 2.0]])
    assert plot.learning_curve(axes, curve, {"measured": measured}) is axes
    assert texts(axes) == ["forecast", "measured"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), curve.test_error.sum(axis=1))
    points = axes.containers[0].lines[0]
    np.testing.assert_allclose(points.get_ydata(), [2, 2])


def test_weight_spectra_show_bulk_and_spikes():
    matrix = np.random.default_rng(0).normal(size=(200, 100))
    matrix += 5 * np.ones((200, 100)) / 10
    found = spectrum.weights({"w": matrix})["w"]
    axes: Any = plot.weight_spectrum(plot.figure().subplots(), found)
    assert texts(axes) == ["measured", "independent entries", "1 beyond the bulk"]
    area = sum(bar.get_height() * bar.get_width() for bar in axes.patches)
    assert area == pytest.approx(1)


def test_kernels_are_sorted_by_class():
    labels = np.array([1, 0, 1, 0, 2])
    kernel = (labels[:, None] == labels).astype(float)
    axes: Any = plot.kernel(plot.figure().subplots(), kernel, labels)
    image = np.asarray(axes.images[0].get_array())
    ordered = np.sort(labels)
    np.testing.assert_array_equal(image, ordered[:, None] == ordered)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2"]
    assert axes.get_xticks().tolist() == [0.5, 2.5, 4]


def test_eigenvalues_and_alignments_are_labelled():
    axes: Any = plot.eigenvalues(
        plot.figure().subplots(), {"a": np.array([0.0, 1.0, 4.0])}
    )
    assert axes.lines[0].get_ydata().tolist() == [4, 1]
    axes = plot.alignment(
        plot.figure().subplots(), np.arange(2), {"layer 1": np.arange(2) / 2}
    )
    assert texts(axes) == ["layer 1"]


def test_certificates_fall_below_one_where_they_hold():
    def at(holds, margin):
        assumption = certify.Assumption(name="a", statement="a", holds=holds)
        return certify.Certificate(
            theorem="t", conclusion="c", assumptions=(assumption,), margin=margin
        )

    run = certify.TrainingCertificates(
        steps=np.array([0, 1, 2, 3]),
        loss=np.ones(4),
        certificates=(
            at(None, -np.inf),
            at(None, -9.0),
            at(True, 0.5),
            at(True, 0.9),
        ),
        params=None,
        diverged_at=-1,
    )
    axes: Any = plot.figure().subplots()
    plot.certificates(axes, {"run": run})
    limit, curve, earliest = axes.lines
    assert set(limit.get_ydata()) == {1}
    np.testing.assert_allclose(curve.get_xydata(), [[1, 10], [2, 0.5], [3, 0.1]])
    np.testing.assert_allclose(earliest.get_xydata(), [[2, 0.5]])
    assert texts(axes) == ["run"]
    assert plot.png_bytes(axes.figure)[:4] == b"\x89PNG"
