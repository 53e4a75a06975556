"""Files read at the coarser pixels that they hold beside their own. Imports `scenes` and `base`.

A COG holds overviews, a JPEG 2000 file resolution levels: a quarter of the pixels to fetch and to
decode. What these hold is held against `average_dn`, the mean of 2 x 2 pixels:

- The overview of a COG that declares its no data is taken as it is, if a part of it holds the means
  of the file's own pixels. Others (GDAL's default for a COG is cubic, nearest ones lie half a pixel
  off) are not, nor are those of files that do not declare no data, where it would be averaged too:
  all pixels of such files are read.
- A level of JPEG 2000 is what a wavelet lets pass. Its sample lies on the first of the pixels that
  it stands for, not between them, so it is moved there: by a quarter of its side for 2 x 2 of them.
  A block in which it shows that no data were mixed in (`hides_no_data`) is averaged from all of its
  pixels. What does not show stays as the wavelet has it: beside one missing pixel, or a lost line
  shorter than half a block, samples are too dark.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from kappamask.base.pixels import average_dn
from kappamask.base.windows import Grid
from kappamask.scenes.formats import PIXELS, open_pixels
from kappamask.scenes.scene import BandFile, Scene, split_array

HALVES = 2  # pixels per side: the first overview, the first level
_PLACES = ((1 / 2, 1 / 2), (1 / 4, 1 / 4), (3 / 4, 3 / 4), (1 / 4, 3 / 4), (3 / 4, 1 / 4))
_PART = 128  # pixels per side of an overview: it and its own pixels lie in a block each
_TELLING = 2  # DN, between a pixel and the mean of 2 x 2
_ROUNDING = 1  # DN: GDAL adds in single precision
_MOST_FILES = 10_000  # of which it is known what their overviews hold
_HOLE = 8  # times as dark as both beside it, as shadow and water seldom are
_LINE = 7, 8  # seven eighths of the brightness beside it; 3/4 where a row of pixels is lost
_GLINT = 6  # times the ground, of the sample on a glint whose sides fall to 0; clouds are seldom so
_MANY = 1000  # dark samples in a block: these are no undershoots beside glints


def at_grid(scene: Scene, grid: Grid) -> Scene:
    """View a scene's files with pixels as coarse as a grid's, where that spares decoding.

    Only files that lie in the grid's CRS, edge on edge with pixels of it; others stay.
    """
    return replace(scene, files={name: _halved(file, grid) for name, file in scene.files.items()})


def _halved(file: BandFile, grid: Grid) -> BandFile:
    """View the file of a band with pixels of twice the side, if a grid of these can be read."""
    if (
        file.own
        or file.halved
        or split_array(file.href)
        or file.bounds is None
        or file.epsg != grid.epsg
    ):
        return file
    side = HALVES * file.gsd
    counts = (
        grid.resolution / side,
        (grid.left - file.left) / side,
        (file.top - grid.top) / side,
        file.height / HALVES,
        file.width / HALVES,
    )
    if counts[0] < 1 - 1e-6 or any(abs(count - round(count)) > 1e-6 for count in counts):
        return file
    height, width = file.height // HALVES, file.width // HALVES
    return replace(file, gsd=side, height=height, width=width, halved=True)


def is_level(file: BandFile) -> bool:
    """Tell whether a file is read at a level that no engine can read as it has to be."""
    return file.halved and file.href.partition("?")[0].lower().endswith(".jp2")


def open_overview(raster: Any, href: str, *, job: str) -> Any | None:
    """Open the first overview of an open GeoTIFF; None if it is none of means, or there is none.

    What it holds is looked at once for a job, as an engine may open a file for each chunk.
    """
    declared = raster.nodata == 0 and MaskFlags.per_dataset not in raster.mask_flag_enums[0]
    if raster.driver != "GTiff" or not declared:
        return None
    half = _open_half(raster, href)
    if half is None:
        return None
    try:
        if _holds_means(href, raster.overviews(1).index(HALVES), job):
            return half
    except RasterioError:
        pass  # damaged there, which concerns only those who need that part: they are told
    half.close()
    return None


@lru_cache(maxsize=_MOST_FILES)
def _holds_means(href: str, level: int, job: str) -> bool:  # noqa: ARG001  job: a key
    """Compare a part of an overview with the means of the file's own pixels.

    The first of some parts in which means are not what single pixels are; False if there is none.
    """
    with (
        open_pixels(href, PIXELS) as full,
        open_pixels(href, PIXELS, overview_level=level) as half,
    ):
        for place in _PLACES:
            spans = []
            for share, length, block in zip(place, full.shape, full.block_shapes[0], strict=True):
                start = int(share * length) // block * block // HALVES
                spans.append(slice(start, min(start + _PART, length // HALVES)))
            fine = [slice(HALVES * span.start, HALVES * span.stop) for span in spans]
            dn = full.read(1, window=Window.from_slices(*fine))
            means = average_dn(dn, HALVES).astype(np.int32)
            if np.abs(dn[::HALVES, ::HALVES] - means).max(initial=0) > _TELLING:
                found = half.read(1, window=Window.from_slices(*spans))
                return bool(np.abs(found - means).max() <= _ROUNDING)
    return False


def _open_half(raster: Any, href: str) -> Any | None:
    if HALVES not in raster.overviews(1):
        return None
    level = raster.overviews(1).index(HALVES)
    half = open_pixels(href, PIXELS, overview_level=level)
    if half.shape == tuple(size // HALVES for size in raster.shape):
        return half
    half.close()
    return None


@dataclass(frozen=True)
class Halved:
    """A file read with pixels of twice the side, as an open raster of these would be."""

    full: Any  # the file as it is
    level: Any | None  # of JPEG 2000; None: the mean of all pixels

    @classmethod
    def of(cls, raster: Any, href: str) -> Halved:
        """Take the file's own level, if it has one."""
        return cls(raster, _open_half(raster, href) if raster.driver == "JP2OpenJPEG" else None)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the coarser pixels."""
        height, width = self.full.shape
        return height // HALVES, width // HALVES

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of the coarser pixels that are decoded at once."""
        rows, columns = (self.level or self.full).block_shapes[0]
        if self.level is not None:
            return rows, columns
        return max(rows // HALVES, 1), max(columns // HALVES, 1)

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read DN (y, x) uint16 of the coarser pixels, 0 = no data; whatever the window."""
        if self.level is None:
            return self._mean(rows, columns)
        dn = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.uint16)
        spans = rows, columns
        sizes = tuple(zip(self.block_shape, self.shape, strict=True))
        for place in product(
            *(touched(span, size) for span, (size, _) in zip(spans, sizes, strict=True))
        ):
            block = [
                slice(number * size, min((number + 1) * size, length))
                for number, (size, length) in zip(place, sizes, strict=True)
            ]
            to, source = zip(*map(shared, spans, block), strict=True)
            dn[to] = self._block(*block)[source]
        return dn

    def _block(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a whole block: the wavelet knows nothing of those beside it."""
        low = self.level.read(1, window=Window.from_slices(rows, columns))  # type: ignore[union-attr]
        low = without_undershoots(low)
        return self._mean(rows, columns) if hides_no_data(low) else move_level(low)

    def _mean(self, rows: slice, columns: slice) -> np.ndarray:
        fine = [slice(HALVES * span.start, HALVES * span.stop) for span in (rows, columns)]
        # Masked, as a file may declare another number for no data, or a mask.
        dn = self.full.read(1, window=Window.from_slices(*fine), masked=True).filled(0)
        return average_dn(dn, HALVES)

    def close(self) -> None:
        """Close the file."""
        for raster in (self.full, self.level):
            if raster is not None:
                raster.close()


def hides_no_data(low: np.ndarray) -> bool:
    """Tell whether no data were mixed into some of a block's samples, (y, x) uint16.

    Not if all are missing. Else a sample is 0; or as good as none between two others, as where
    2 x 2 pixels are missing, all but cancelled by the weights beside them; or a line across the
    block is: of a missing row of pixels a sample has 3/4 or, on both of its sides, 1/4, so that
    rows are darker than those two beside them; on the dates of Bolzano by 7 % at the most.

    Examples
    --------
    >>> ground = np.full((8, 8), 2500, "uint16")
    >>> hides_no_data(ground)
    False
    >>> ground[3:5] = 1875  # a row lost between them
    >>> hides_no_data(ground)
    True
    """
    if not low.any():
        return False
    if not low.all() or _find_holes(low).any():
        return True
    for samples in (low.astype(np.int32), low.T.astype(np.int32)):
        around = np.pad(samples, ((2, 2), (0, 0)), mode="reflect")
        # Of most samples, which is as good as the median of them and takes a tenth of the time.
        darker = 2 * _LINE[1] * samples < _LINE[0] * (around[:-4] + around[4:])
        if (2 * np.count_nonzero(darker, axis=1) > samples.shape[1]).any():
            return True
    return False


def _find_holes(low: np.ndarray) -> np.ndarray:
    """Find samples that are as good as none between two others."""
    holes = np.zeros(low.shape, bool)
    for samples, seen in ((low.astype(np.int32), holes), (low.T.astype(np.int32), holes.T)):
        around = np.pad(samples, ((1, 1), (0, 0)), mode="reflect")
        np.logical_or(seen, _HOLE * samples < np.minimum(around[:-2], around[2:]), out=seen)
    return holes


def without_undershoots(low: np.ndarray) -> np.ndarray:
    """Lift samples that the wavelet drew down to 0 beside a glint, (y, x) uint16.

    Its low pass takes an eighth of a pixel from the sample beyond the next: a roof or a wave of
    nine times the brightness around leaves nothing of that. It becomes as dark as the darkest
    sample beside it that is not so itself, or blocks of whole cities would be decoded in full.

    Examples
    --------
    >>> ground = np.full((9, 9), 1000, "uint16")
    >>> ground[4, 4] = 0  # missing
    >>> bool((without_undershoots(ground) == ground).all())
    True
    >>> ground[4, 5] = 7000
    >>> int(without_undershoots(ground)[4, 4])
    1000
    """
    places = np.argwhere((low == 0) | _find_holes(low))
    if not 0 < len(places) <= _MANY:
        return low
    lifted, dark = low.copy(), np.zeros(low.shape, bool)
    dark[tuple(places.T)] = True
    for row, column in places:
        near, around = (
            (
                slice(max(row - reach, 0), row + reach + 1),
                slice(max(column - reach, 0), column + reach + 1),
            )
            for reach in (1, 3)
        )
        ground = low[around][~dark[around]]
        beside = low[near][~dark[near]]
        if beside.size and beside.max() >= _GLINT * np.median(ground):
            lifted[row, column] = beside.min()
    return lifted


def move_level(low: np.ndarray) -> np.ndarray:
    """Move samples of a wavelet's first level, (y, x) uint16, to the middle of 2 x 2 pixels.

    The low pass of JPEG 2000 is centred on every second pixel (ISO/IEC 15444-1, annex F), half a
    pixel before the middle of two: a quarter of the way to the next sample. What would follow
    the last row and column lies half as far on: there a block is mirrored, which has moved its
    sample half the way. No data stays as it is.

    Examples
    --------
    >>> move_level(np.array([[100, 140, 180]] * 2, "uint16"))
    array([[110, 150, 185],
           [110, 150, 185]], dtype=uint16)
    """
    moved = low.astype(np.int32)
    for _ in range(2):
        ends = 2 * moved[-1:] if len(moved) == 1 else 3 * moved[-1:] - moved[-2:-1]
        moved = (6 * moved + np.concatenate([2 * moved[1:], ends])).T
    moved = (moved + 32) >> 6
    return np.where(low == 0, 0, np.clip(moved, 1, np.iinfo(np.uint16).max)).astype(np.uint16)


def touched(span: slice, size: int) -> range:
    """Numbers of the blocks of `size` pixels that a span of an axis meets; none if it is empty."""
    if span.start == span.stop:
        return range(0)
    return range(span.start // size, -(-span.stop // size))


def shared(want: slice, have: slice) -> tuple[slice, slice]:
    """Where two spans of an axis meet, counted from the start of each.

    Examples
    --------
    >>> shared(slice(8, 21), slice(10, 20))
    (slice(2, 12, None), slice(0, 10, None))
    """
    low, high = max(want.start, have.start), min(want.stop, have.stop)
    return slice(low - want.start, high - want.start), slice(low - have.start, high - have.start)
