"""Whether a JPEG 2000 file of this machine holds all that its header says. Imports `base`.

OpenJPEG gives zeros for tiles that it does not find, and zeros are "no data". So the header is
held against the tile parts that follow it, each of which tells its tile and its length.
ISO/IEC 15444-1, annexes A (codestream) and I (boxes).
"""

from __future__ import annotations

import struct
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from kappamask.base.errors import ReadError

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_SOC, _SIZ, _COD, _QCD, _SOT = 0xFF4F, 0xFF51, 0xFF52, 0xFF5C, 0xFF90  # markers
_MOST_BOXES, _MOST_SEGMENTS = 100, 1000
_MOST_TILES = 65_535  # by the standard


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
