"""Which formats files of pixels may have, and how they are opened. Imports `base` and rasterio.

GDAL knows a hundred formats, chooses by content whatever a file is called, and some of them name
other files, addresses or programs. So whoever opens a file says which formats it may have, and
nothing that lies beside it is read.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rasterio._path import _parse_path
from rasterio.env import Env, ensure_env_with_credentials
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader

from kappamask.base.errors import ReadError
from kappamask.base.files import check_regular
from kappamask.base.retry import is_remote, without_query

if TYPE_CHECKING:
    import xarray as xr

# Of one's own raster: whoever needs its place asks for that. Once for all, as threads open files.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=r"kappamask\.")
# GDAL's names of what Sentinel-2 comes in, and of what users name themselves: VRT names other
# files, so it is none of strangers.
PIXELS = ("GTiff", "JP2OpenJPEG")
OWN = (*PIXELS, "VRT", "ENVI", "HFA", "PNG")
# Neither overviews, masks and metadata that lie beside a file, nor a look at what lies there.
# Blocks are decoded by the thread that asks: GDAL 3.10 loses the errors of its own threads, and a
# JP2 tile that cannot be decoded is whatever stood in the memory; where memory is short, it waits
# for them for ever.
ALONE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_NUM_THREADS": "1",
}
_LARGEST_SIDE = 1_000_000  # pixels; Sentinel-2 has 10980
_LARGEST_BLOCK = 2**27  # pixels: all of a band of Sentinel-2 in one, and no more
SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_SOC, _SIZ, _COD, _QCD, _SOT = 0xFF4F, 0xFF51, 0xFF52, 0xFF5C, 0xFF90  # markers
_MOST_BOXES, _MOST_SEGMENTS = 100, 1000
_MOST_TILES = 65_535  # by the standard


def open_pixels(href: str, formats: Sequence[str] = PIXELS, **options: Any) -> DatasetReader:
    """Open a raster of named formats, whatever it is called, and look at its sizes.

    Parameters
    ----------
    href
        As GDAL takes it: path, address, ``/vsi...``.
    formats
        GDAL's names of the formats that it may have; `OWN` only for what the user names.
    options
        Of GDAL's driver.

    Returns
    -------
    rasterio.io.DatasetReader
        To be used in a ``with`` statement. No thread shares it.

    Raises
    ------
    ReadError
        If it is no regular file, names other files, or lies about its sizes.
    rasterio.errors.RasterioIOError
        If it is not there, or of another format.

    Examples
    --------
    >>> from kappamask.sample import catalog_path
    >>> with open_pixels(str(next(catalog_path().parent.rglob("*.tif")))) as raster:
    ...     raster.driver
    'GTiff'
    """
    if not href.startswith("/vsi") and not is_remote(href):
        check_regular(Path(href.removeprefix("file://")))
    elif href.startswith("/vsistdin"):
        raise ReadError(f"pixels are read from files, got {href}: give the path of one")
    with Env(**ALONE):
        raster: DatasetReader = _open(href, formats=list(formats), options=options)
    try:
        _check_header(raster, href)
    except ReadError:
        raster.close()
        raise
    return raster


def open_layers(path: Path, **options: Any) -> xr.DataArray:
    """Open a GeoTIFF that this package wrote as a lazy array (band, y, x), as rioxarray does.

    Raises
    ------
    ReadError
        If it is no regular file.
    """
    import rioxarray

    check_regular(path)
    with Env(**ALONE):
        found: xr.DataArray = rioxarray.open_rasterio(path, driver="GTiff", **options)
    return found


@ensure_env_with_credentials  # type: ignore[untyped-decorator]  # as `rasterio.open`, which takes one format only
def _open(href: str, *, formats: list[str], options: dict[str, Any]) -> DatasetReader:
    return DatasetReader(_parse_path(href), driver=formats, sharing=False, **options)


def _check_header(raster: DatasetReader, href: str) -> None:
    """Refuse other files' names, and sizes for which memory would be asked before a pixel."""
    if "OVERVIEW_FILE" in raster.tags(ns="OVERVIEWS"):
        raise ReadError(
            f"a file of pixels is read alone, {without_query(href)} names another one for its "
            "overviews: it is no product of Sentinel-2, leave it out"
        )
    rows, columns = max(raster.block_shapes, default=(1, 1), key=lambda shape: shape[0] * shape[1])
    size = f"{raster.height} x {raster.width} pixels in blocks of {rows} x {columns}"
    if max(raster.shape) > _LARGEST_SIDE or rows * columns > _LARGEST_BLOCK:
        raise ReadError(
            f"a file of pixels has at most {_LARGEST_SIDE} pixels per side and "
            f"{_LARGEST_BLOCK} in a block, {without_query(href)} says {size}: it is damaged, "
            "download it again or leave its item out"
        )


# --- whether a JPEG 2000 file is whole -----------------------------------------------------
#
# OpenJPEG gives zeros for tiles that it does not find, and zeros are "no data". So the header is
# held against the tile parts that follow it, each of which tells its tile and its length.
# ISO/IEC 15444-1, annexes A (codestream) and I (boxes).


class _BrokenError(Exception):
    """What contradicts what in a codestream."""


def check_codestream(href: str, shape: tuple[int, int]) -> None:
    """Refuse a JPEG 2000 file whose header and tiles do not belong together; others pass.

    Parameters
    ----------
    href
        As GDAL takes it. What lies on a server is not looked at: it would be fetched twice.
    shape
        Rows and columns that GDAL found.

    Raises
    ------
    ReadError
        If sizes, tiles, resolution levels or lengths contradict one another.

    Examples
    --------
    >>> check_codestream("https://host/B02.jp2", (10980, 10980))
    """
    try:
        path, member = _split(href)
        state = path.stat()
        found, broken = _inspect(path, member, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile):
        return  # GDAL says what is wrong with it
    if not broken and found not in (None, shape):
        broken = f"it is of {found} pixels, GDAL reads {shape}"
    if broken:
        raise ReadError(f"{href} contradicts itself, {broken}: it is damaged, download it again")


def _split(href: str) -> tuple[Path, str | None]:
    """Tell the file of this machine and, of an archive, its member."""
    if not href.startswith("/vsizip/"):
        return Path(href.removeprefix("file://")), None
    inner = href.removeprefix("/vsizip/")
    path, _, member = inner[1:].rpartition("}/") if inner[0] == "{" else inner.partition(".zip/")
    return Path(path if inner[0] == "{" else f"{path}.zip"), member


@lru_cache(maxsize=4096)  # a file is opened for every chunk of a cube
def _inspect(
    path: Path, member: str | None, _changed: int, size: int
) -> tuple[tuple[int, int] | None, str]:
    """Give rows and columns, None if it is no JPEG 2000, and what contradicts itself."""
    try:
        if member is None:
            with path.open("rb") as file:
                return _read_sizes(file, size), ""
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return _read_sizes(file, archive.getinfo(member).file_size), ""
    except _BrokenError as error:
        return None, str(error)


def _read_sizes(file: IO[bytes], size: int) -> tuple[int, int] | None:
    start, end = _find_codestream(file, size)
    if end is None:
        return None
    file.seek(start)
    if _take(file, ">H") != (_SOC,):
        raise _BrokenError("its codestream does not begin with its start")
    tiles, shape = _read_main_header(file)
    _check_parts(file, tiles, end)
    return shape


def _find_codestream(file: IO[bytes], size: int) -> tuple[int, int | None]:
    """Tell where the codestream begins and ends; no end without one."""
    head = file.read(len(SIGNATURE))
    if head[:4] == b"\xff\x4f\xff\x51":
        return 0, size
    at = len(SIGNATURE)
    for _ in range(_MOST_BOXES if head == SIGNATURE else 0):
        file.seek(at)
        length, kind = _take(file, ">I4s")
        start = at + 8
        if length == 1:
            (length,), start = _take(file, ">Q"), at + 16
        end = at + length if length else size  # 0: the last one, up to the end
        if kind == b"jp2c":
            if end > size:
                raise _BrokenError(f"its pixels end at byte {end}, the file has {size}")
            return start, end
        if end <= at or end >= size:
            raise _BrokenError("it holds no pixels")
        at = end
    return 0, None


def _read_main_header(file: IO[bytes]) -> tuple[int, tuple[int, int]]:
    """Read up to the first tile part: how many tiles there are, and rows and columns."""
    tiles, shape, levels, steps = 0, (0, 0), None, None
    for _ in range(_MOST_SEGMENTS):
        marker, length = _take(file, ">HH")
        if marker == _SOT:
            file.seek(-4, 1)
            if levels is not None and steps is not None and steps != 3 * levels + 1:
                raise _BrokenError(f"its {levels} resolution levels have {steps} step sizes")
            if tiles:
                return tiles, shape
            break
        segment = file.read(length - 2) if length >= 2 else b""
        if len(segment) < length - 2 or length < 2:
            raise _BrokenError("its header ends too early")
        if marker == _SIZ and len(segment) >= 36:
            tiles, shape = _count_tiles(struct.unpack(">8I", segment[2:34]))
        elif marker == _COD and len(segment) >= 6:
            levels = segment[5]
        elif marker == _QCD and segment:
            style, rest = segment[0] & 31, len(segment) - 1
            steps = {0: rest, 2: rest // 2}.get(style)  # 1: the others are derived from one
    raise _BrokenError("its header says no size")


def _count_tiles(sizes: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    width, height, left, top, tile_width, tile_height, tile_left, tile_top = sizes
    if not (tile_width and tile_height and tile_left <= left < width and tile_top <= top < height):
        raise _BrokenError("its header says no size")
    across, down = -(-(width - tile_left) // tile_width), -(-(height - tile_top) // tile_height)
    if across * down > _MOST_TILES:
        raise _BrokenError(f"its header says {across * down} tiles")
    return across * down, (height - top, width - left)


def _check_parts(file: IO[bytes], tiles: int, end: int) -> None:
    """See that every tile is there and all parts of them end where the codestream does."""
    seen: set[int] = set()
    at = file.tell()
    while at + 12 <= end:
        file.seek(at)
        marker, _, tile, length = _take(file, ">HHHI")
        if marker != _SOT:
            break
        if tile >= tiles:
            raise _BrokenError(f"its header says {tiles} tiles, tile {tile} follows")
        seen.add(tile)
        at = at + length if length else end  # 0: the last one, up to the end
        if at > end or 0 < length < 14:
            raise _BrokenError(f"tile {tile} says {length} bytes, the codestream ends at {end}")
    if len(seen) < tiles:
        raise _BrokenError(f"its header says {tiles} tiles, {len(seen)} follow")


def _take(file: IO[bytes], form: str) -> tuple[Any, ...]:
    content = file.read(struct.calcsize(form))
    if len(content) < struct.calcsize(form):
        raise _BrokenError("it ends too early")
    return struct.unpack(form, content)
