"""Files of single bands, read with patience: alone onto a grid that they fit, or for an engine.

A file that is not what its scene says is refused: pixels in the wrong place would be labelled,
and wrong. Imports `scenes` and `base`.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from secrets import token_hex
from threading import Lock, get_ident
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from kappamask.base import retry
from kappamask.base.bands import get_band
from kappamask.base.errors import InputError, ReadError
from kappamask.base.pixels import average_dn, is_lost, repeat_pixels
from kappamask.base.retry import GUARD, is_remote, without_query
from kappamask.base.windows import Grid
from kappamask.cubes.levels import Halved, open_overview
from kappamask.scenes.codestream import check_codestream
from kappamask.scenes.formats import ALONE, OWN, PIXELS, open_pixels
from kappamask.scenes.scene import BandFile, Bounds, Scene, rounded
from kappamask.scenes.zarr_store import ZarrBand, split_array

T = TypeVar("T")
# GDAL does not ask again: what is tried again, when and how often, is settled in `base.retry`,
# which waits as long as a busy server asks for. GDAL does not.
HTTP_OPTIONS = {
    "CPL_VSIL_CURL_USE_HEAD": "NO",  # half the requests where files are opened
    "GDAL_HTTP_MAX_RETRY": "0",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "20",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}
DTYPES = ("uint8", "uint16", "int16")  # that Sentinel-2 layers are stored in
LOST_M = 5120.0  # side of a square; where a scene begins, neighbouring bands end 2 km apart
# What GDAL remembers of a file on a server, it remembers for the whole process. So it is told by
# which jobs each was opened: what is another job's is read anew.
_OPENED: OrderedDict[str, set[str]] = OrderedDict()
_OPENED_LOCK = Lock()
_MOST_OPENED = 10_000  # files; of those before them GDAL remembers nothing either


# --- how files are opened ------------------------------------------------------------------


@dataclass(frozen=True)
class Access:
    """How the files of scenes are read, wherever they are read: it travels with the tasks."""

    # By address: what messages call a file, and what its scene says of it; of each such scene.
    claims: Mapping[str, Sequence[tuple[str, BandFile | None]]]
    options: Mapping[str, str]  # of GDAL
    job: str = field(default_factory=token_hex, compare=False)

    @classmethod
    def to(cls, scenes: Sequence[Scene]) -> Access:
        """Tell what scenes say of each file, and what their catalogues want of GDAL."""
        claims: defaultdict[str, list[tuple[str, BandFile | None]]] = defaultdict(list)
        options = ALONE | HTTP_OPTIONS
        for scene in scenes:
            options |= scene.profile.gdal_options if scene.profile else {}
            for file in scene.files.values():
                name = f"asset {file.key!r} ({file.band}) of item {scene.id}"
                claims[find_place(file.href)].append((name, file))
        if GUARD.get():
            options["GDAL_HTTP_PROXY"] = ""  # of the environment: none leads to this machine
        return cls(dict(claims), options)

    def only(self, href: str) -> Access:
        """Leave out what concerns other files."""
        return replace(self, claims={href: self.claims.get(href, ())})

    def name(self, href: str) -> str:
        """Tell what messages call a file."""
        return next((name for name, _ in self.claims.get(href, ())), "a file")

    def open(self, href: str) -> Any:
        """Open a file and check it; what another job read of it is read again.

        Raises
        ------
        ReadError
            As `check` and `open_pixels`.
        """
        if is_remote(href) and self._is_stale(href):
            self.forget(href)
        own = any(file and file.own for _, file in self.claims.get(href, ()))
        try:
            raster = open_pixels(href, OWN if own and not is_remote(href) else PIXELS)
            if own:  # what it tells of itself is all that is known
                return raster
            with ExitStack() as unless_whole:
                unless_whole.callback(raster.close)
                if raster.driver == "JP2OpenJPEG" and not is_remote(href):
                    check_codestream(href, raster.shape)
                unless_whole.pop_all()
        except ReadError as error:
            raise ReadError(f"{self.name(href)}: {error}") from error
        try:
            self.check(raster, href)
        except ReadError:
            raster.close()
            raise
        if any(file and file.halved for _, file in self.claims.get(href, ())):
            overview = open_overview(raster, href)
            if overview is not None:
                raster.close()
                return overview
        return raster

    def _is_stale(self, href: str) -> bool:
        with _OPENED_LOCK:
            jobs = _OPENED.setdefault(href, set())
            stale = bool(jobs) and self.job not in jobs
            jobs.add(self.job)
            while len(_OPENED) > _MOST_OPENED:
                _OPENED.popitem(last=False)
        return stale

    def check(self, raster: Any, href: str) -> None:
        """Compare an open file with what its scenes say.

        Raises
        ------
        ReadError
            If it is no layer of Sentinel-2, or lies elsewhere than a scene says.
        """
        got = f"got {raster.height} x {raster.width} pixels of {raster.dtypes[0]}"
        code, broken = raster.crs and raster.crs.to_epsg(), ""
        if raster.count != 1 or raster.dtypes[0] not in DTYPES:
            broken = f"must hold one band of uint16, {got} in {raster.count} bands"
        elif raster.crs is None:
            broken = f"must say where it lies, {got} without a CRS"
        for name, file in self.claims.get(href) or [("a file", None)]:
            bounds = file.bounds if file and file.epsg else None
            if not broken and file and file.epsg and code and code != file.epsg:
                broken = f"is in EPSG:{file.epsg} as its item says, got EPSG:{code}"
            if not broken and bounds and _are_apart(raster, bounds):
                broken = (
                    f"lies at {rounded(bounds)} as its item says (proj:transform, proj:shape), "
                    f"{got} at {rounded(raster.bounds)}"
                )
            if broken:
                raise ReadError(
                    f"{name} {broken} at {without_query(href)}: item and file do not belong "
                    "together, leave the item out"
                )

    def read(self, read: Callable[[], T], href: str, *, forget: Callable[[bool], object]) -> T:
        """Read from a file, again if its server may recover; files of this machine once.

        `forget` is called before it is read again: it closes the file and, if True is passed,
        drops what is remembered of it. Else the server was only busy, and would be asked once
        more for that.

        Raises
        ------
        ReadError
            If it cannot be read in the end; names file and reason. One that `read` raises is
            not tried again.
        """
        for tried in range(1, retry.FILES.tries + 1):
            try:
                return read()
            except ReadError:
                raise  # it can be read and is not what it should be
            # Attributes: stackstac takes it that a file has a CRS; one that is cut short has none.
            except (RasterioError, RuntimeError, OSError, AttributeError) as error:
                answer = retry.ask(href, proxy=self.options.get("GDAL_HTTP_PROXY"))
                if tried == retry.FILES.tries or not answer.may_change:
                    raise ReadError(
                        f"cannot read {self.name(href)} at {without_query(href)}: "
                        f"{retry.reason_of(error, answer)}{answer.remedy(tried)}"
                    ) from error
            forget(answer.may_be_cached)
            time.sleep(retry.FILES.wait(tried, answer.retry_after_s))
        raise AssertionError("there is at least one try")

    def forget(self, href: str) -> None:
        """Drop what GDAL remembers of a file on a server: that it is absent, and its bytes."""
        if not is_remote(href):
            return
        # GDAL forgets a file when it closes it, if told so before it opens it; it need not look
        # for the seven files that might lie beside it.
        with rasterio.Env(**{**self.options, "CPL_VSIL_CURL_NON_CACHED": "/vsi"}):
            try:
                open_pixels(href).close()
            except (RasterioError, OSError):
                return


def _are_apart(raster: Any, bounds: Bounds) -> bool:
    """Tell whether a file lies a pixel or more from where its item says."""
    off = np.abs(np.subtract(tuple(raster.bounds), bounds)).max()
    return bool(off > max(map(abs, raster.res)))


def find_place(href: str) -> str:
    """Give a path that begins in the working folder from the root: odc-stac takes no other.

    Examples
    --------
    >>> find_place("https://host/B02.tif"), find_place("/vsizip/a.zip/B02.jp2")
    ('https://host/B02.tif', '/vsizip/a.zip/B02.jp2')
    >>> find_place("B02.tif").endswith("/B02.tif")
    True
    """
    return href if "://" in href or href.startswith("/") else os.path.abspath(href)  # noqa: PTH100


# --- whole pixels, without warping ---------------------------------------------------------


class Reader(Protocol):
    """Where the DN of one scene come from."""

    def read(self, band: str, rows: slice, columns: slice) -> np.ndarray:
        """Read DN (y, x) uint16 of a window of a band's own pixels, 0 = no data."""

    def block_shape(self, band: str) -> tuple[int, int]:
        """Tell rows and columns of the blocks that a band is stored in."""


class FileReader:
    """Reads the files of one scene, with GDAL or zarr; opens each when it is first asked for.

    Threads may share it: each opens the files for itself, as GDAL wants. Use it in a
    ``with`` statement, which closes them.
    """

    def __init__(
        self, files: Mapping[str, BandFile], options: Mapping[str, str] = HTTP_OPTIONS
    ) -> None:
        self.files = files
        claims: defaultdict[str, list[tuple[str, BandFile | None]]] = defaultdict(list)
        for band, file in files.items():  # a raster of one's own may hold them all
            claims[file.href].append((f"band {band}", file))
        self.access = Access(claims, {**ALONE, **options})
        self._open: dict[tuple[int, str], Any] = {}

    def __enter__(self) -> Self:
        """Open nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what was opened."""
        for raster in self._open.values():
            raster.close()
        self._open.clear()

    def read(self, band: str, rows: slice, columns: slice) -> np.ndarray:
        """Read DN (y, x) of a window of a band's own pixels: uint16, 0 = no data.

        Of one's own raster float32 with NaN for no data.

        Raises
        ------
        ReadError
            If the file is gone, damaged, or not of the size its metadata say.
        """
        file = self.files[band]
        dn: np.ndarray = self._patiently(
            band,
            lambda raster: (
                raster.read(rows, columns)
                if isinstance(raster, ZarrBand | Halved)
                else _read_dn(raster, Window.from_slices(rows, columns), file)
            ),
        )
        return dn

    def read_small(
        self, band: str, rows: slice, columns: slice, shape: tuple[int, int]
    ) -> np.ndarray:
        """Read a window of a band's own pixels reduced to a shape, by the file's overviews.

        Good for pictures: what mean it is is the format's own affair.
        """
        file, window = self.files[band], Window.from_slices(rows, columns)
        dn: np.ndarray = self._patiently(
            band,
            lambda raster: (
                raster.read(rows, columns)[np.ix_(*(
                    (np.arange(size) + 0.5) * (span.stop - span.start) // size
                    for size, span in zip(shape, (rows, columns), strict=True)
                ))]
                if isinstance(raster, ZarrBand | Halved)
                else raster.read(
                    file.index, window=window, out_shape=shape, resampling=Resampling.average
                )
            ),
        )  # fmt: skip
        return dn

    def block_shape(self, band: str) -> tuple[int, int]:
        """Tell rows and columns of the blocks that a band is stored in."""
        index = self.files[band].index - 1
        rows, columns = self._patiently(
            band,
            lambda raster: (
                raster.block_shape if isinstance(raster, ZarrBand) else raster.block_shapes[index]
            ),
        )
        return int(rows), int(columns)

    def _patiently(self, band: str, use: Callable[[Any], Any]) -> Any:
        """Open and use a file, again if it lies on a server that may recover."""
        href = self.files[band].href

        def read() -> Any:
            with rasterio.Env(**self.access.options):
                return use(self._opened(band))

        def forget(cached: bool) -> None:
            if raster := self._open.pop((get_ident(), band), None):
                raster.close()
            if cached:
                self.access.forget(href)

        return self.access.read(read, href, forget=forget)

    def _opened(self, band: str) -> Any:
        key = get_ident(), band
        if key not in self._open:
            file = self.files[band]
            if split_array(file.href):
                self._open[key] = self._opened_array(file)
                return self._open[key]
            raster = self.access.open(file.href)
            kind = raster.dtypes[0]
            fits = file.own or kind == "uint16"
            if file.halved and raster.shape == (2 * file.height, 2 * file.width):
                raster = Halved.of(raster, file.href)
            if raster.shape != (file.height, file.width) or not fits:
                raster.close()
                raise ReadError(
                    f"{file.href} must hold {file.height} x {file.width} pixels of uint16, got "
                    f"{raster.shape[0]} x {raster.shape[1]} of {kind}: download it again"
                )
            self._open[key] = raster
        return self._open[key]

    def _opened_array(self, file: BandFile) -> ZarrBand:
        proxy = self.access.options.get("GDAL_HTTP_PROXY")
        array = ZarrBand(file.href, dn_offset=file.dn_offset, scale=file.scale, proxy=proxy)
        if array.shape != (file.height, file.width):
            raise ReadError(
                f"{without_query(file.href)} must hold {file.height} x {file.width} pixels as its "
                f"item says, got {array.shape}: leave the item out"
            )
        return array


def _read_dn(raster: Any, window: Window, file: BandFile) -> np.ndarray:
    """Read DN; where a file declares another number, or a mask, for no data, that is 0.

    Of one's own raster float32 with NaN there, and where the number stands that the user names.
    """
    if file.own:
        stored = raster.read(file.index, window=window, masked=file.nodata is None)
        empty = np.ma.getmaskarray(stored) if file.nodata is None else stored == file.nodata
        values: np.ndarray = np.ma.getdata(stored).astype(np.float32)
        if file.nodata is None and file.dn_offset and stored.dtype.kind in "iu":
            empty = empty | (values == 0)  # below an offset it was not measured
        values[empty] = np.nan
        return values
    plain = raster.nodata in (None, 0) and MaskFlags.per_dataset not in raster.mask_flag_enums[0]
    if plain:
        return raster.read(1, window=window)  # type: ignore[no-any-return]
    return raster.read(1, window=window, masked=True).filled(0)  # type: ignore[no-any-return]


def check_band(
    band: str,
    bands: Iterable[str],
    valid: Callable[[str], np.ndarray],
    *,
    where: str,
    resolution: float,
    whole: tuple[int, int],
) -> None:
    """Refuse a scene one band of which has no data where all others have it.

    Decoders give zeros for what is damaged, and zeros are "no data".

    Parameters
    ----------
    band
        The one that is looked at.
    bands
        All that were read of the scene.
    valid
        Gives (y, x) bool of a band, True where it has data; asked for others only if needed.
    where
        The item or product, for the message.
    resolution
        Metres per pixel.
    whole
        Rows and columns of the grid that this is a part of: a strip of a large one is too narrow
        to tell damage from where a scene begins.

    Raises
    ------
    ReadError
        If a square of `LOST_M` is lost, or as large a one as there is.
    """
    others = [other for other in bands if other != band and get_band(other).is_reflectance]
    step = max(round(LOST_M / resolution / 2), 1)
    if not (others and get_band(band).is_reflectance):
        return
    if is_lost(valid(band), map(valid, others), step=step, whole=whole):
        raise ReadError(
            f"bands of one scene have data in the same places, {band} of {where} has none where "
            "all others have: its file is damaged, download it again or leave the item out"
        )


@dataclass(frozen=True)
class Fit:
    """One axis of a file against the same axis of a grid.

    Both are counted in fine pixels, the smaller of the two.
    """

    start: int  # fine pixels from the file's edge to the grid's edge
    length: int  # pixels of the file
    repeat: int  # fine pixels per pixel of the file
    average: int  # fine pixels per pixel of the grid; it or `repeat` is 1

    @classmethod
    def along(cls, *, distance: float, length: int, gsd: float, resolution: float) -> Fit:
        """Fit an axis whose grid begins `distance` metres after the file does.

        Raises
        ------
        InputError
            If pixel edges do not meet.
        """
        fine = min(gsd, resolution)
        counts = (distance / fine, gsd / fine, resolution / fine)
        start, repeat, average = (round(count) for count in counts)
        if max(abs(count - round(count)) for count in counts) > 1e-6:
            raise InputError(
                f"pixels of {gsd:g} m must meet those of {resolution:g} m edge on edge, got a "
                f"distance of {distance:g} m: load it with load_cube, which warps"
            )
        return cls(start, length, repeat, average)

    def native(self, span: slice) -> slice:
        """Pixels of the file that a span of the grid needs; empty where the file ends."""
        fine = self._fine(span)
        start = min(max(fine.start // self.repeat, 0), self.length)
        return slice(start, max(start, min(-(-fine.stop // self.repeat), self.length)))

    def overlap(self, span: slice) -> tuple[slice, slice, int]:
        """Where a span of the grid lies in what `native` reads, in fine pixels.

        Gives the slice of those read, the slice of those wanted, and how many are wanted.
        """
        fine, native = self._fine(span), self.native(span)
        origin = native.start * self.repeat
        low, high = max(fine.start, origin), min(fine.stop, native.stop * self.repeat)
        there = slice(low - origin, high - origin), slice(low - fine.start, high - fine.start)
        return *there, fine.stop - fine.start

    def _fine(self, span: slice) -> slice:
        """Fine pixels, counted from the file's edge, of a span of the grid."""
        return slice(self.start + span.start * self.average, self.start + span.stop * self.average)


@dataclass(frozen=True)
class BandOnGrid:
    """One band's file and how it lies on a grid."""

    file: BandFile
    rows: Fit
    columns: Fit

    @classmethod
    def fit(cls, file: BandFile, grid: Grid) -> BandOnGrid:
        """Lay a file on a grid of the same CRS.

        Raises
        ------
        InputError
            If pixel edges do not meet.
        """
        sizes = {"gsd": file.gsd, "resolution": grid.resolution}
        return cls(
            file,
            Fit.along(distance=file.top - grid.top, length=file.height, **sizes),
            Fit.along(distance=grid.left - file.left, length=file.width, **sizes),
        )

    def read(self, reader: Reader, rows: slice, columns: slice) -> np.ndarray:
        """Read reflectance (y, x) float32 of a window of the grid, NaN = no data."""
        native = self.rows.native(rows), self.columns.native(columns)
        shape = rows.stop - rows.start, columns.stop - columns.start
        if any(span.start == span.stop for span in native):
            return np.full(shape, np.nan, np.float32)
        dn = reader.read(self.file.band, *native)
        if self.rows.average > 1:
            dn = average_dn(self._cut(dn, rows, columns, fill=0), self.rows.average)
            return self.file.to_reflectance(dn)
        reflectance = repeat_pixels(self.file.to_reflectance(dn), self.rows.repeat)
        return self._cut(reflectance, rows, columns, fill=np.nan)

    def _cut(self, fine: np.ndarray, rows: slice, columns: slice, *, fill: float) -> np.ndarray:
        """Cut a window of the grid out of fine pixels; `fill` where the file ends."""
        (from_rows, to_rows, height), (from_columns, to_columns, width) = (
            fit.overlap(span) for fit, span in ((self.rows, rows), (self.columns, columns))
        )
        inside = fine[from_rows, from_columns]
        if inside.shape == (height, width):
            return inside
        cut = np.full((height, width), fill, fine.dtype)
        cut[to_rows, to_columns] = inside
        return cut
