"""Files of single bands, read with patience: as their own pixels lie, or for an engine.

A file that is not what its scene says is refused: pixels in the wrong place would be labelled,
and wrong. Imports `scenes` and `base`.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from secrets import token_hex
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from kappamask.base import retry
from kappamask.base.errors import ReadError
from kappamask.base.retry import GUARD, is_remote, without_query
from kappamask.cubes.levels import Halved, open_overview
from kappamask.scenes.formats import ALONE, OWN, PIXELS, check_codestream, open_pixels
from kappamask.scenes.scene import BandFile, Bounds, Scene, rounded, split_array

if TYPE_CHECKING:
    from kappamask.scenes.zarr_store import ZarrBand

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
# What GDAL remembers of a file on a server, it remembers for the whole process. So it is told by
# which jobs each was opened: what is another job's is read anew.
_OPENED: OrderedDict[str, deque[str]] = OrderedDict()
_OPENED_LOCK = Lock()
_MOST_OPENED = 10_000  # files; of those before them GDAL remembers nothing either
_MOST_JOBS = 100  # of one file; one before them reads it anew


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
            overview = open_overview(raster, href, job=self.job)
            if overview is not None:
                raster.close()
                return overview
        return raster

    def _is_stale(self, href: str) -> bool:
        with _OPENED_LOCK:
            jobs = _OPENED.setdefault(href, deque(maxlen=_MOST_JOBS))
            stale = bool(jobs) and self.job not in jobs
            if self.job not in jobs:
                jobs.append(self.job)
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
    ``with`` statement, which closes them. `access` is of the job that it is a part of.
    """

    def __init__(self, files: Mapping[str, BandFile], access: Access | None = None) -> None:
        self.files = files
        claims: defaultdict[str, list[tuple[str, BandFile | None]]] = defaultdict(list)
        for band, file in files.items():  # a raster of one's own may hold them all
            claims[file.href].append((f"band {band}", file))
        self.access = replace(access or Access({}, ALONE | HTTP_OPTIONS), claims=claims)
        self._open: dict[tuple[int, str], _GdalBand | Halved | ZarrBand] = {}

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
        return self._patiently(band, lambda raster: raster.read(rows, columns))

    def read_small(
        self, band: str, rows: slice, columns: slice, shape: tuple[int, int]
    ) -> np.ndarray:
        """Read a window of a band's own pixels reduced to a shape, by the file's overviews.

        Good for pictures: what mean it is is the format's own affair.
        """

        def read(raster: _GdalBand | Halved | ZarrBand) -> np.ndarray:
            if isinstance(raster, _GdalBand):
                return raster.read_small(rows, columns, shape)
            places = (  # of every so many pixels
                (2 * np.arange(size) + 1) * (span.stop - span.start) // (2 * size)
                for size, span in zip(shape, (rows, columns), strict=True)
            )
            return raster.read(rows, columns)[np.ix_(*places)]

        return self._patiently(band, read)

    def block_shape(self, band: str) -> tuple[int, int]:
        """Tell rows and columns of the blocks that a band is stored in."""
        return self._patiently(band, lambda raster: raster.block_shape)

    def _patiently(self, band: str, use: Callable[[_GdalBand | Halved | ZarrBand], T]) -> T:
        """Open and use a file, again if it lies on a server that may recover."""
        href = self.files[band].href

        def read() -> T:
            with rasterio.Env(**self.access.options):
                return use(self._opened(band))

        def forget(cached: bool) -> None:
            if raster := self._open.pop((get_ident(), band), None):
                raster.close()
            if cached:
                self.access.forget(href)

        return self.access.read(read, href, forget=forget)

    def _opened(self, band: str) -> _GdalBand | Halved | ZarrBand:
        key, file = (get_ident(), band), self.files[band]
        if key not in self._open:
            raster: _GdalBand | Halved | ZarrBand
            if split_array(file.href):
                from kappamask.scenes.zarr_store import ZarrBand

                raster = ZarrBand(file, proxy=self.access.options.get("GDAL_HTTP_PROXY"))
            else:
                opened = self.access.open(file.href)
                raster = _GdalBand(file, opened)
                if file.halved and opened.shape == (2 * file.height, 2 * file.width):
                    raster = Halved.of(opened, file.href)
            if raster.shape != (file.height, file.width):
                raster.close()
                raise ReadError(
                    f"{without_query(file.href)} must hold {file.height} x {file.width} pixels, "
                    f"got {' x '.join(map(str, raster.shape))}: download it again, or leave its "
                    "item out"
                )
            self._open[key] = raster
        return self._open[key]


class _GdalBand:
    """One band of an open file, read as `ZarrBand` reads an array."""

    def __init__(self, file: BandFile, raster: Any) -> None:
        self.file, self.raster, self.close, self.shape = file, raster, raster.close, raster.shape
        self.block_shape: tuple[int, int] = raster.block_shapes[file.index - 1]
        if not file.own and raster.dtypes[0] != "uint16":
            raster.close()
            raise ReadError(
                f"{file.href} must hold pixels of uint16, got {raster.dtypes[0]}: download it again"
            )

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read DN; where a file declares another number, or a mask, for no data, that is 0.

        Of one's own raster float32 with NaN there, and where the number stands that the user
        names.
        """
        file, raster, window = self.file, self.raster, Window.from_slices(rows, columns)
        if not file.own:
            masks = raster.mask_flag_enums[0]
            plain = raster.nodata in (None, 0) and MaskFlags.per_dataset not in masks
            dn: np.ndarray = raster.read(1, window=window, masked=not plain)
            return dn if plain else np.ma.filled(dn, 0)
        stored = raster.read(file.index, window=window, masked=file.nodata is None)
        empty = np.ma.getmaskarray(stored) if file.nodata is None else stored == file.nodata
        values: np.ndarray = np.ma.getdata(stored).astype(np.float32)
        if file.nodata is None and file.dn_offset and stored.dtype.kind in "iu":
            empty = empty | (values == 0)  # below an offset it was not measured
        values[empty] = np.nan
        return values

    def read_small(self, rows: slice, columns: slice, shape: tuple[int, int]) -> np.ndarray:
        """Read a window reduced to a shape, by the file's overviews."""
        dn: np.ndarray = self.raster.read(
            self.file.index,
            window=Window.from_slices(rows, columns),
            out_shape=shape,
            resampling=Resampling.average,
        )
        return dn
