"""What all pictures share: colors that can be told apart by the color-blind and in gray."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alphaedit_plugin.common.files import replacing

# Okabe and Ito's palette, in an order that can be told apart in gray.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"  # a second way to tell curves apart
HATCH = "///"
DPI = 150


def colour(number: int) -> str:
    """The color of the ``number``-th thing; after the last they start over."""
    return PALETTE[number % len(PALETTE)]


def marker(number: int) -> str:
    """The marker of the ``number``-th thing."""
    return MARKERS[number % len(MARKERS)]


def blank(width: float, height: float) -> Figure:
    """An empty figure, in inches, drawn without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, grid: bool = True) -> None:
    """Remove the frame at the top and right, and add a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)


def count_edits(axes: Axes) -> None:
    """Label the x axis with sequential edits, in whole numbers."""
    axes.set_xlabel("sequential edits")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=DPI, format="png")
