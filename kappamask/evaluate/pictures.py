"""Pictures of what masks say, as PNG, and reliability as SVG. Imports row 0-6 and this package."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from kappamask.base.legend import Label
from kappamask.evaluate.calibration import TOP, Reliability
from kappamask.evaluate.peers import Peer
from kappamask.evaluate.scores import Answers
from kappamask.plot.picture import TRUE_COLOR, label_colors, outlined, reduce_labels, true_color
from kappamask.train.chips import SLOT, Chip

LARGEST = 770  # pixels along the longer side of a picture
COLUMNS = 8  # of a sheet of small scenes
SIDE, EDGE = 220, 36  # of a reliability plot: the square, and room for its axes


@dataclass(frozen=True)
class Panel:
    """One picture with its words."""

    caption: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Plate:
    """Panels that show the same pixels."""

    title: str
    panels: tuple[Panel, ...]


def plate(title: str, chip: Chip, masks: Sequence[Peer], answers: Answers, *, drawn: bool) -> Plate:
    """Show one chip: true colour, the labels where they were drawn, and every mask's word.

    The first mask is outlined on true colour, too; a mask that cannot label the chip is left out.
    """
    factor = max(1, -(-max(chip.label.shape) // LARGEST))
    colors = colors_of(chip, factor)
    panels = [panel("true colour", colors)]
    if drawn:
        panels.append(panel("labels", label_colors(reduce_labels(chip.label, factor=factor))))
    for mask in masks:
        answer = answers.ask(mask, chip)
        if isinstance(answer, str):
            continue
        codes = reduce_labels(answer.codes, factor=factor)
        if mask is masks[0]:
            panels.append(panel(f"{mask.name}, outlines", outlined(colors, codes, width=1)))
        panels.append(panel(mask.name, label_colors(codes)))
    return Plate(title, tuple(panels))


def sheet(title: str, chips: Sequence[Chip], masks: Sequence[Peer], answers: Answers) -> Plate:
    """Show many scenes of one size, half as large: true colour, labels, and every mask's word."""
    colors = [colors_of(chip, 2) for chip in chips]
    labels = [label_colors(reduce_labels(chip.label, factor=2)) for chip in chips]
    panels = [panel("true colour", lay_out(colors)), panel("labels", lay_out(labels))]
    for mask in masks:
        heard = [answers.ask(mask, chip) for chip in chips]
        if all(isinstance(answer, str) for answer in heard):
            continue
        nothing = np.full_like(chips[0].label, Label.UNDEFINED)
        codes = [nothing if isinstance(answer, str) else answer.codes for answer in heard]
        said = [label_colors(reduce_labels(code, factor=2)) for code in codes]
        panels.append(panel(mask.name, lay_out(said)))
    return Plate(title, tuple(panels))


def colors_of(chip: Chip, factor: int) -> np.ndarray:
    """Draw a chip in true colour, (y, x, 3) uint8, `factor` pixels averaged along each side."""
    import xarray as xr

    bands = [SLOT[name] for name in TRUE_COLOR]
    cube = xr.DataArray(
        chip.reflectance()[bands], dims=("band", "y", "x"), coords={"band": list(TRUE_COLOR)}
    )
    return true_color(cube, level=chip.level, factor=factor)


def lay_out(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Lay pictures of one size (y, x, 3) side by side with white lines between them.

    Examples
    --------
    >>> lay_out([np.zeros((4, 4, 3), np.uint8)] * 9).shape
    (12, 48, 3)
    """
    white = np.full_like(pictures[0], 255)
    count = -(-len(pictures) // COLUMNS) * COLUMNS
    filled = [*pictures, *([white] * (count - len(pictures)))]
    padded = [np.pad(one, ((1, 1), (1, 1), (0, 0)), constant_values=255) for one in filled]
    rows = [np.hstack(padded[i : i + COLUMNS]) for i in range(0, count, COLUMNS)]
    return np.vstack(rows)


def panel(caption: str, colors: np.ndarray) -> Panel:
    """Encode colours (y, x, 3) uint8."""
    from matplotlib.image import imsave

    stream = io.BytesIO()
    imsave(stream, np.ascontiguousarray(colors), format="png", pil_kwargs={"optimize": True})
    return Panel(caption, stream.getvalue(), colors.shape[1], colors.shape[0])


def reliability_svg(curve: Reliability) -> str:
    """Draw one reliability plot: hits against confidence, and how many pixels stand behind.

    Examples
    --------
    >>> from kappamask.evaluate.metrics import Figure
    >>> curve = Reliability(
    ...     "net", "val", TOP, (1, 3), (0.4, 0.9), (0.5, 1.0), Figure(0.1, None, None), 2
    ... )
    >>> reliability_svg(curve).count("<circle")
    2
    """
    bins, whole = len(curve.pixels), max(1, sum(curve.pixels))
    bars, dots, line = [], [], []
    for index, (count, sure, right) in enumerate(
        zip(curve.pixels, curve.confidence, curve.hits, strict=True)
    ):
        high = SIDE * count / whole
        left = EDGE + SIDE * index / bins
        bars.append(
            f'<rect x="{left:.1f}" y="{SIDE - high + 10:.1f}" width="{SIDE / bins - 1:.1f}" '
            f'height="{high:.1f}" fill="#d9dde3"/>'
        )
        if sure is not None and right is not None:
            x, y = EDGE + SIDE * sure, 10 + SIDE * (1 - right)
            line.append(f"{x:.1f},{y:.1f}")
            dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#3d348b"/>')
    title = f"{curve.mask}, {curve.dataset}: {curve.of.replace('_', ' ')}"
    ece = "-" if curve.ece.value is None else f"{curve.ece.value:.3f}"
    drawing = "".join(
        [*bars, f'<polyline points="{" ".join(line)}" fill="none" stroke="#3d348b"/>']
    )
    return frame_plot(drawing + "".join(dots), title=title, ece=ece)


def frame_plot(drawing: str, *, title: str, ece: str) -> str:
    """Put a square, a diagonal and words around the drawing of a reliability plot."""
    middle, bottom = EDGE + SIDE / 2, SIDE + 10
    words = (
        (EDGE, bottom + 14, "start", "0"),
        (EDGE + SIDE, bottom + 14, "end", "1"),
        (middle, bottom + 14, "middle", "confidence"),
        (middle, bottom + 32, "middle", escape(title)),
        (middle, bottom + 46, "middle", f"ECE {ece}"),
    )
    texts = [f'<text x="{x}" y="{y}" text-anchor="{at}">{text}</text>' for x, y, at, text in words]
    upright = f'<text x="12" y="{bottom / 2}" transform="rotate(-90 12 {bottom / 2})"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE + EDGE + 12}" '
        f'height="{SIDE + 62}" font-family="sans-serif" font-size="11" role="img" '
        f'aria-label="{escape(title, quote=True)}, ECE {ece}">'
        f"{drawing}"
        f'<rect x="{EDGE}" y="10" width="{SIDE}" height="{SIDE}" fill="none" stroke="#888"/>'
        f'<line x1="{EDGE}" y1="{bottom}" x2="{EDGE + SIDE}" y2="10" stroke="#888" '
        'stroke-dasharray="4 3"/>'
        f'{upright} text-anchor="middle">share of hits</text>'
        f"{''.join(texts)}</svg>"
    )


def shown_curves(curves: Sequence[Reliability]) -> list[Reliability]:
    """Choose the curves worth a plot: of the most probable class, and of each class on `val`."""
    return [curve for curve in curves if curve.of == TOP or curve.dataset == "val"]
