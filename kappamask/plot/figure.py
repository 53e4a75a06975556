"""What all pictures share: numbers, colours, files. Row 5."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kappamask import __version__
from kappamask.base.files import publish, staging
from kappamask.base.legend import LEGEND, Label

DPI = 128  # a power of two: pixels / DPI * DPI is exact
EDGE = "#404040"  # around colours that are nearly white


def percent(value: float) -> str:
    """Write a percentage; what is there is never 0."""
    return "< 0.1 %" if 0 < value < 0.05 else f"{value:.1f} %"


def class_patches(shares: np.ndarray | None = None) -> list[Patch]:
    """Make the entries of a legend; undefined only where `shares` (6,) holds some of it."""
    return [
        Patch(facecolor=f"#{entry.color}", edgecolor=EDGE, linewidth=0.6, label=entry.title)
        for entry in LEGEND
        if entry.label != Label.UNDEFINED or (shares is not None and shares[entry.label])
    ]


def show_pixels(axes: Axes, colors: np.ndarray) -> None:
    """Show a picture (y, x, 3) without axes, with a thin frame."""
    axes.imshow(colors, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(color=EDGE, linewidth=0.6)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": f"kappamask {__version__}"})
    with staging(path.parent, path.name) as aside:
        publish(aside, {path: buffer.getvalue()})
    return path
