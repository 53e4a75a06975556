"""Pictures of what masks say, as PNG, and reliability as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kappamask.base.legend import Label
from kappamask.evaluate.metrics import Reliability
from kappamask.evaluate.peers import Peer
from kappamask.evaluate.scores import Answers
from kappamask.plot.picture import TRUE_COLOR, label_colors, outlined, reduce_labels, true_color
from kappamask.train.chips import SLOT, Chip

LARGEST = 770  # pixels along the longer side of a picture
COLUMNS = 8  # of a sheet of small scenes


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

    The same curve gives the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    title = f"{curve.mask}, {curve.dataset}: {curve.of.replace('_', ' ')}"
    ece = "-" if curve.ece.value is None else f"{curve.ece.value:.3f}"
    edges = np.linspace(0, 1, len(curve.pixels) + 1)
    points = [
        (sure, right)
        for sure, right in zip(curve.confidence, curve.hits, strict=True)
        if sure is not None and right is not None
    ]
    with mpl.rc_context({"svg.hashsalt": title, "font.size": 8, "svg.fonttype": "none"}):
        figure = Figure(figsize=(3, 3.2), layout="constrained")
        axes = figure.add_subplot(
            xlabel="confidence", ylabel="share of hits", xlim=(0, 1), ylim=(0, 1), aspect="equal"
        )
        axes.set_title(f"{title}\nECE {ece}", fontsize=8)
        shares = np.array(curve.pixels) / max(1, sum(curve.pixels))
        axes.bar(edges[:-1], shares, width=0.9 / len(shares), align="edge", color="#d9dde3")
        axes.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1)
        axes.plot(*np.array(points).reshape(-1, 2).T, "o-", color="#3d348b", gid="hits")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()[stream.getvalue().index("<svg") :]
