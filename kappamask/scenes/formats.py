"""Which formats files of pixels may have, and how they are opened. Imports `base` and rasterio.

GDAL knows a hundred formats, chooses by content whatever a file is called, and some of them name
other files, addresses or programs. So whoever opens a file says which formats it may have, and
nothing that lies beside it is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
