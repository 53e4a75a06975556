"""What all pictures share: a sheet on which parts stand, the legend, the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kappamask import __version__
from kappamask.base.files import publish, staging
from kappamask.base.legend import LEGEND, Label
from kappamask.plot.picture import OUTLINES, SNOW_COLOR

DPI = 128  # a power of two: pixels / DPI * DPI is exact
EDGE = "#404040"  # around colours that are nearly white
HEADING = 11  # points


def percent(value: float) -> str:
    """Write a percentage; what is there is never 0."""
    return "< 0.1 %" if 0 < value < 0.05 else f"{value:.1f} %"


class Picture(type(Path())):  # type: ignore[misc]  # the path class of this system
    """The path of a PNG, which a notebook shows as the picture."""

    def _repr_png_(self) -> bytes | None:
        return self.read_bytes() if self.is_file() else None


class Sheet:
    """A figure whose parts stand at screen pixels from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        """Make it empty and white."""
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Make room for a drawing."""
        bottom = 1 - (top + height) / self.height
        box = left / self.width, bottom, width / self.width, height / self.height
        return self.figure.add_axes(box)

    def show(
        self, left: float, top: float, width: float, height: float, colors: np.ndarray
    ) -> None:
        """Show a picture (y, x, 3) without ticks, with a thin frame."""
        axes = self.axes(left, top, width, height)
        axes.imshow(colors, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(color=EDGE, linewidth=0.6)

    def write(self, left: float, top: float, words: str, *, size: int = 9, **how: Any) -> None:
        """Write words as they are; unless told otherwise, they stand above `top`."""
        at = left / self.width, 1 - top / self.height
        self.figure.text(*at, words, fontsize=size, parse_math=False, **{"va": "bottom"} | how)

    def explain(
        self,
        left: float,
        columns: int,
        shares: np.ndarray,
        *,
        full: bool,
        snow: float | None = None,
    ) -> None:
        """Put the legend at the bottom; undefined only where `shares` (6,) holds some of it.

        In full it says what share each class has, and what the outlines are. Of the share that
        is clear `snow` may be told apart.
        """
        handles: list[Patch | Line2D] = [
            Patch(
                facecolor=f"#{entry.color}",
                edgecolor=EDGE,
                linewidth=0.6,
                label=entry.title + (f" {percent(100 * shares[entry.label])}" if full else ""),
            )
            for entry in LEGEND
            if entry.label != Label.UNDEFINED or shares[entry.label]
        ]
        if snow is not None:
            words = f"snow, of clear {percent(100 * snow)}"
            color = f"#{SNOW_COLOR}"
            patch = Patch(facecolor=color, edgecolor=EDGE, linewidth=0.6, label=words)
            handles.insert(1, patch)
        if full:
            handles += [
                Line2D([], [], color=f"#{color}", label=name) for name, _, color in OUTLINES
            ]
        self.figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(left / self.width, 6 / self.height),
            borderaxespad=0,
            borderpad=0,
            ncols=columns,
            frameon=False,
            fontsize=9,
        )

    def save(self, path: str | Path) -> Picture:
        """Write it as PNG, whole or not at all; the same figure gives the same bytes."""
        path = Picture(path)
        content, about = io.BytesIO(), {"Software": f"kappamask {__version__}"}
        # zlib's default takes twice as long for a tenth of the size
        FigureCanvasAgg(self.figure).print_png(
            content, metadata=about, pil_kwargs={"compress_level": 3}
        )
        with staging(path.parent, path.name) as aside:
            publish(aside, {path: content.getvalue()})
        return path
