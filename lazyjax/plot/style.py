"""Figures, their style, and their images."""

import io

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# Okabe and Ito's palette, told apart by all common forms of colour vision.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FONT = 9.0


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
    axes.set_xlabel(xlabel, fontsize=FONT)
    axes.set_ylabel(ylabel, fontsize=FONT)
    axes.set_title(title, fontsize=FONT, loc="left")
    axes.tick_params(labelsize=FONT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def plain_numbers(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5, without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
