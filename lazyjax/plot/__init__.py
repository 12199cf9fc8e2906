"""Figures of experiments, built as objects: no display and no global state needed."""

try:
    import matplotlib.axes as _axes  # noqa: F401
except ImportError as error:
    raise ImportError(
        '`lazyjax.plot` needs matplotlib: pip install "lazyjax[plot]".'
    ) from error

from lazyjax.plot.means import (
    curves as curves,
    estimates as estimates,
    loss_curves as loss_curves,
    scaling as scaling,
)
from lazyjax.plot.outlooks import (
    calibration as calibration,
    certificates as certificates,
    learning_curve as learning_curve,
)
from lazyjax.plot.spectra import (
    alignment as alignment,
    eigenvalues as eigenvalues,
    kernel as kernel,
    weight_spectrum as weight_spectrum,
)
from lazyjax.plot.style import (
    figure as figure,
    png_bytes as png_bytes,
    style_axes as style_axes,
)
