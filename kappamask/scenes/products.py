"""Products and rasters of one's own, as people name them: which kind one is, and its scenes.

Of a raster is taken from the file: size, place, band names in its descriptions, no data, its own
scale and offset. Nothing is guessed: what a file does not say is asked for by name. Imports the
modules of `scenes` for each kind, and `base`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from kappamask.base.bands import canonical_name, check_level, check_network_bands, get_band
from kappamask.base.errors import InputError, ReadError, UnknownNameError
from kappamask.base.files import spelled
from kappamask.base.retry import is_remote, without_query
from kappamask.scenes import safe
from kappamask.scenes.archives import PRODUCT_METADATA
from kappamask.scenes.eopf import is_store, read_store
from kappamask.scenes.formats import OWN, PIXELS, open_pixels
from kappamask.scenes.safe import Product
from kappamask.scenes.scene import NO_TIME, BandFile, Frame, Scene

RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".nc", ".png")
_NAMED = re.compile(r"(?:^|[^A-Za-z0-9])(B\d{1,2}A?)(?=[^A-Za-z0-9]|$)", re.IGNORECASE)
_ASK_BANDS = (
    "name them in order with bands=['B02', 'B03', 'B04', 'B08'] (kappamask mask: --bands "
    "B02,B03,B04,B08), '-' for one that is none"
)


def read_product(path: str | os.PathLike[str]) -> Product:
    """Read the metadata of a SAFE or EOPF Zarr product, here or at an https or s3 address.

    Errors as of `open_safe`.
    """
    return read_store(path) if is_store(path) else safe.read_product(path)


def find_products(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """List products and rasters, in order; of a folder that is none, what lies in it.

    Raises
    ------
    ReadError
        If there is nothing at a path, or no product in a folder.
    """
    found: list[str] = []
    for path in (os.fspath(path) for path in paths):
        if is_remote(path) or not Path(path).is_dir() or _is_product(Path(path)):
            found.append(path)
            continue
        inside = [str(one) for one in sorted(Path(path).iterdir()) if _is_product(one)]
        if not inside:
            # a folder of another name may be a product that is damaged: its error says more
            safe.read_product(path)
            raise ReadError(f"no product lies in {path}: check the path")
        found += inside
    return found


def _is_product(path: Path) -> bool:
    if path.is_dir():
        return is_store(path) or any(PRODUCT_METADATA.fullmatch(one.name) for one in path.iterdir())
    return path.suffix.lower() in (".zip", *RASTERS)


def is_raster(path: str) -> bool:
    """Tell whether a path is that of a raster of one's own, and of no product.

    Examples
    --------
    >>> is_raster("stack.TIF"), is_raster("S2A.SAFE"), is_raster("https://host/S2A.zarr")
    (True, False, False)
    """
    return path.partition("?")[0].lower().endswith(RASTERS)


# --- rasters of one's own --------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What the user says of a raster, as of `kappamask.open_raster`; None: the file says it."""

    bands: Sequence[str] | None = None
    level: str | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    time: Any = None


def read_raster(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], told: Told
) -> Scene:
    """Read what one or several files of one scene say of themselves; no pixels.

    Errors as of `kappamask.open_raster`.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not paths:
        raise InputError("a scene is read from one file or more, got none: pass their paths")
    hrefs = [_href(one) for one in paths]
    heads = [_Head(href) for href in hrefs]
    names = _band_names(heads, told.bands)
    level = _level(heads, told.level)
    kept = {name: place for place, name in names.items() if name is not None}
    check_network_bands(list(kept), level)
    frame, epsg, corner, steps = _place(heads)
    files = {}
    for name in sorted(kept, key=list(kept).index):
        number, index = kept[name]
        head = heads[number]
        scale, offset = _meaning(head, index, name, told)
        files[name] = BandFile(
            band=name,
            key=f"band {index} of {Path(head.href).name}",
            href=head.href,
            dn_offset=offset,
            scale=1 / scale,
            gsd=steps[number],
            nodata=told.nodata,
            own=True,
            index=index,
            epsg=epsg,
            left=corner[0],
            top=corner[1],
            height=head.height,
            width=head.width,
        )
    return Scene(
        id=_identity(hrefs),
        time=NO_TIME if told.time is None else np.datetime64(told.time, "ns"),
        level=level,
        epsg=epsg,
        footprint=_footprint(heads[0]) if frame is None else None,
        files=files,
        frame=frame,
    )


class _Head:
    """What a file says of itself."""

    def __init__(self, href: str) -> None:
        from rasterio.errors import RasterioError

        self.href = href
        try:
            with open_pixels(href, PIXELS if is_remote(href) else OWN) as raster:
                self.height, self.width = raster.shape
                self.dtypes, self.descriptions = raster.dtypes, raster.descriptions
                self.scales, self.offsets = raster.scales, raster.offsets
                self.crs, self.transform = raster.crs, raster.transform
                self.bounds, self.tags = raster.bounds, raster.tags()
        except ReadError:
            raise
        except (RasterioError, OSError) as error:
            raise ReadError(
                f"cannot read {without_query(href)}: {without_query(str(error)):.200}: give a "
                "product or a raster that GDAL reads"
            ) from error

    @property
    def is_placed(self) -> bool:
        """Tell whether it lies on a grid of square pixels in metres, with north up."""
        a, b, _, d, e, _ = self.transform[:6]
        return bool(
            self.crs
            and self.crs.is_projected
            and self.crs.to_epsg()
            and self.crs.linear_units_factor[1] == 1
            and b == d == 0
            and a > 0
            and abs(a + e) <= 1e-6 * a
        )


def _href(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if is_remote(text) or text.startswith("/vsi"):
        return text
    return str(spelled(Path(text).expanduser().absolute()))


def _band_names(
    heads: Sequence[_Head], bands: Sequence[str] | None
) -> dict[tuple[int, int], str | None]:
    """Tell which band of which file is which, in order; None: none that is known."""
    places = [(n, i + 1) for n, head in enumerate(heads) for i in range(len(head.dtypes))]
    if bands is None:
        said = [_said(heads[number], index) for number, index in places]
        known = {band for band in said if band is not None}
        if not known:
            raise InputError(
                f"{heads[0].href} holds {len(places)} bands and names none of Sentinel-2's: "
                f"{_ASK_BANDS}"
            )
        return dict(zip(places, said, strict=True))
    if isinstance(bands, str) or len(bands) != len(places):
        raise InputError(
            f"every band has a name, got {bands!r} for {len(places)} bands of "
            f"{', '.join(Path(head.href).name for head in heads)}: {_ASK_BANDS}"
        )
    names = [None if name in (None, "", "-") else canonical_name(name) for name in bands]
    return dict(zip(places, names, strict=True))


def _said(head: _Head, index: int) -> str | None:
    """Read a band's name in its description; of a file of one band in the file's name."""
    texts = [head.descriptions[index - 1] or ""]
    if len(head.dtypes) == 1 and (found := _NAMED.search(Path(head.href).stem)):
        texts.append(found[1])
    for text in texts:
        try:
            return canonical_name(text)
        except UnknownNameError:
            continue
    return None


def _level(heads: Sequence[_Head], level: str | None) -> str:
    told = level or next((head.tags["level"] for head in heads if head.tags.get("level")), None)
    if told is None:
        raise InputError(
            f"{heads[0].href} does not say its processing level: pass level='L1C' (top of "
            "atmosphere) or 'L2A' (surface) (kappamask mask: --level)"
        )
    return check_level(told)


def _meaning(head: _Head, index: int, name: str, told: Told) -> tuple[float, float]:
    """Tell scale and offset of a band: reflectance is ``(value + offset) / scale``."""
    scale, offset = told.scale, told.offset
    own = head.scales[index - 1], head.offsets[index - 1]
    if scale is None and own not in ((1.0, 0.0), (0.0, 0.0)):
        scale, said = 1 / own[0], own[1] / own[0]
        offset = said if offset is None else offset
    if scale is None:
        if not get_band(name).is_reflectance:
            scale = get_band(name).dn_scale
        elif np.dtype(head.dtypes[index - 1]).kind in "iu":
            scale = 10000.0
        else:
            raise InputError(
                f"{head.href} holds {head.dtypes[index - 1]} and no scale: pass scale=1 for "
                "reflectance (1.0 = 100 %), scale=10000 for digital numbers (kappamask mask: "
                "--scale)"
            )
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"a scale is DN per unit of reflectance, above 0, got {scale}: pass 10000")
    return float(scale), float(offset or 0)


def _place(
    heads: Sequence[_Head],
) -> tuple[Frame | None, int, tuple[float, float], list[float]]:
    """Tell frame, CRS, corner and pixel size of each file, and that they are of one place."""
    first = min(heads, key=lambda head: -head.width)
    if first.is_placed:
        epsg = int(first.crs.to_epsg())
        for head in heads:
            apart = np.abs(np.subtract(head.bounds, first.bounds)).max()
            if not head.is_placed or head.crs.to_epsg() != epsg or apart > first.transform.a:
                raise InputError(
                    f"the bands of a scene cover one area in one CRS, got {head.href} at "
                    f"{tuple(head.bounds)} and {first.href} at {tuple(first.bounds)}: cut or warp "
                    "them to one area first"
                )
        corner = float(first.transform.c), float(first.transform.f)
        return None, epsg, corner, [float(head.transform.a) for head in heads]
    steps = []
    for head in heads:
        ratio = first.width / head.width
        if ratio != int(ratio) or head.height * ratio != first.height:
            raise InputError(
                f"the bands of a scene cover one area, got {head.height} x {head.width} pixels in "
                f"{head.href} and {first.height} x {first.width} in {first.href}: pass bands of "
                "one size, or of a whole fraction of it"
            )
        steps.append(float(ratio))
    wkt = first.crs.to_wkt() if first.crs else None
    return Frame(wkt, tuple(first.transform[:6])), 0, (0.0, 0.0), steps


def _footprint(head: _Head) -> Any:
    from rasterio.warp import transform_geom
    from shapely.geometry import box, mapping

    return transform_geom(head.crs, "EPSG:4326", mapping(box(*head.bounds)))


def _identity(hrefs: Sequence[str]) -> str:
    """Name a scene after its file; after what the names of several share."""
    stems = [Path(without_query(href)).stem for href in hrefs]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    shared = "".join(letters[0] for letters in same).rstrip("_-. B")
    name = stems[0] if len(stems) == 1 else shared or stems[0]
    return re.sub(r"[^\w.-]+", "-", name) or "raster"
