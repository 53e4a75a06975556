"""A SAFE product: its granules, and which file serves a band at a resolution."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from kappamask.base.bands import NAMES, check_names, get_band
from kappamask.base.errors import InputError, NoItemsError, ReadError
from kappamask.scenes.area import parse_area, project_bounds
from kappamask.scenes.safe.archive import Archive, open_archive
from kappamask.scenes.safe.metadata import ProductMetadata, TileMetadata, parse_product, parse_tile
from kappamask.scenes.scene import BandFile, Scene

LOG = logging.getLogger(__name__)
RESOLUTIONS = (10, 20, 60)  # metres; each is a whole multiple of those before it
Held = tuple[str, int]  # band and pixel size in metres
_GRANULE = re.compile(r"GRANULE/([^/]+)/(?:MTD_TL|S2[A-D]_[A-Z]{4}_MTD_L(?:1C|2A)_TL_\w+)\.xml")
_IMAGE = re.compile(r".*_(B\d[0-9A]|AOT|WVP)(?:_([126]0)m)?")
_TILE = re.compile(r"(?:^|_)T(\d{2}[A-Z]{3})(?=_)")


@dataclass(frozen=True)
class Granule:
    """One tile of a product."""

    metadata: TileMetadata
    names: Mapping[Held, str]  # of files that are there
    listed: Mapping[Held, str]  # of files that should be

    def pick(self, band: str, resolution: int) -> int | None:
        """Choose among the files of a band for a cube of `resolution`; None if none will do.

        1. the product's own file at the resolution of the cube, not finer than the
        sensor sees; 2. the one at the sensor's own; 3. any finer one. A coarser one
        would only pretend to have the cube's resolution.
        """
        native = get_band(band).gsd
        held = sorted(gsd for name, gsd in self.names if name == band)
        order = [gsd for gsd in (resolution, native, *held) if gsd in held]
        return next((gsd for gsd in order if gsd <= max(resolution, native)), None)

    def absent(self, band: str) -> list[str]:
        """List a band's files that should be there, of resolutions that were kept at all."""
        kept = {gsd for name, gsd in self.names if get_band(name).is_reflectance}
        return [
            file
            for (name, gsd), file in self.listed.items()
            if name == band and gsd in kept and (name, gsd) not in self.names
        ]


@dataclass(frozen=True)
class Product:
    """A product, its metadata read."""

    archive: Archive
    metadata: ProductMetadata
    granules: tuple[Granule, ...]  # in order of tile

    def scenes(
        self,
        *,
        resolution: int = 10,
        bands: Sequence[str] | None = None,
        area: Any = None,
        tile: str | None = None,
        dn_offset: int | None = None,
    ) -> list[Scene]:
        """Say what is to be read, granule by granule; parameters as of `open_safe`."""
        if resolution not in RESOLUTIONS:
            raise InputError(
                f"a SAFE product is read at 10, 20 or 60 m per pixel, got {resolution!r}: choose "
                "one of them"
            )
        granules = select_granules(self, area=area, tile=tile)
        names = [choose_bands(self, granule, bands, resolution=resolution) for granule in granules]
        return [
            make_scene(self, granule, held, dn_offset=dn_offset)
            for granule, held in zip(granules, names, strict=True)
        ]


def read_product(path: str | os.PathLike[str]) -> Product:
    """Read the metadata of a SAFE product; no pixels.

    Raises
    ------
    InputError
        If it is none.
    ReadError
        If it is not there, damaged, or holds no granule.
    ItemError
        If its metadata lack something.

    Examples
    --------
    >>> read_product("S2A_MSIL1C_nowhere.SAFE")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.ReadError: no SAFE product at ...S2A_MSIL1C_nowhere.SAFE: check the path
    """
    archive = open_archive(path)
    where = f"{archive.location}: {archive.metadata}"
    metadata = parse_product(archive.read(archive.metadata), where=where)
    folders = {found[1]: name for name in archive.names if (found := _GRANULE.fullmatch(name))}
    granules = [
        read_granule(archive, folder, name, metadata.images) for folder, name in folders.items()
    ]
    if not granules:
        raise ReadError(
            f"{archive.location} must hold granules (GRANULE/.../MTD_TL.xml), found none: "
            "download the product again"
        )
    granules.sort(key=lambda granule: granule.metadata.tile)
    return Product(archive, metadata, tuple(granules))


def read_granule(archive: Archive, folder: str, name: str, images: Sequence[str]) -> Granule:
    """Read a granule's metadata and find its files."""
    metadata = parse_tile(archive.read(name), where=f"{archive.location}: {name}")
    prefix = f"GRANULE/{folder}/IMG_DATA/"
    jp2 = sorted(n for n in archive.names if n.startswith(prefix) and n.endswith(".jp2"))
    listed = [PurePosixPath(image).name for image in images]
    listed = [image for image in listed if tile_in(image) in (metadata.tile, None)]
    return Granule(metadata, index_images(jp2), index_images(listed))


def tile_in(name: str) -> str | None:
    """Find the MGRS tile in the name of a file.

    Examples
    --------
    >>> tile_in("T32UPV_20170430T103021_B04"), tile_in("S2A_OPER_A000734_T32TPS_B04")
    ('32UPV', '32TPS')
    """
    found = _TILE.search(name)
    return found[1] if found else None


def index_images(names: Sequence[str]) -> dict[Held, str]:
    """Tell band and pixel size of image files by their names; others are left out.

    Examples
    --------
    >>> index_images(["R20m/T32UPV_20170430T103021_B8A_20m.jp2", "T32UPV_20170430T103021_TCI.jp2"])
    {('B8A', 20): 'R20m/T32UPV_20170430T103021_B8A_20m.jp2'}
    """
    index = {}
    for name in names:
        if found := _IMAGE.fullmatch(PurePosixPath(name).name.removesuffix(".jp2")):
            band = get_band(found[1])
            index[band.name, int(found[2] or band.gsd)] = name
    return index


def select_granules(product: Product, *, area: Any, tile: str | None) -> list[Granule]:
    """Choose granules by tile and area; they are of one UTM zone.

    Raises
    ------
    InputError
        If the product has no such tile, or several zones are left.
    NoItemsError
        If the area lies outside.
    ReadError
        If a granule that the product lists is not there.
    """
    name, chosen = product.metadata.name, list(product.granules)
    held = [granule.metadata.tile for granule in chosen]
    listed = {tile_in(PurePosixPath(image).name) for image in product.metadata.images} - {None}
    wanted = {tile.upper().removeprefix("T")} if tile is not None else listed
    if tile is not None and not wanted <= {*held, *listed}:
        raise InputError(f"product {name} holds the tiles {', '.join(held)}, got tile={tile!r}")
    if gone := sorted(str(one) for one in wanted - set(held)):
        raise ReadError(
            f"product {name} lists granules of the tiles {', '.join(gone)}, which are not there: "
            f"download it again, or pass tile='{held[0]}' for one that is there"
        )
    if tile is not None:
        chosen = [granule for granule in chosen if granule.metadata.tile in wanted]
    if area is not None:
        geometry = parse_area(area)
        chosen = [granule for granule in chosen if _meets(granule.metadata, geometry)]
        if not chosen:
            raise NoItemsError(
                f"the area {tuple(round(edge, 4) for edge in geometry.bounds)} lies outside "
                f"product {name}, which covers {', '.join(held)}: check the area"
            )
    if len({granule.metadata.epsg for granule in chosen}) > 1:
        tiles = ", ".join(f"{g.metadata.tile} (EPSG:{g.metadata.epsg})" for g in chosen)
        raise InputError(
            f"a cube lies in one UTM zone, product {name} holds {tiles}: pass tile='{held[0]}' "
            "or a smaller area"
        )
    return chosen


def tile_bounds(tile: TileMetadata) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a granule."""
    gsd = min(tile.shapes)
    rows, columns = tile.shapes[gsd]
    return tile.left, tile.top - rows * gsd, tile.left + columns * gsd, tile.top


def _meets(tile: TileMetadata, geometry: Any) -> bool:
    left, bottom, right, top = project_bounds(geometry, tile.epsg)
    west, south, east, north = tile_bounds(tile)
    return left < east and west < right and bottom < north and south < top


def choose_bands(
    product: Product, granule: Granule, bands: Sequence[str] | None, *, resolution: int
) -> dict[str, int]:
    """Choose the pixel size of the file of every band.

    Raises
    ------
    InputError
        If the product holds a band only at a coarser resolution, or not at all.
    ReadError
        If files are absent that should be there.
    """
    level = product.metadata.level
    names = NAMES if bands is None else check_names(bands, level)
    picked = {name: granule.pick(name, resolution) for name in names}
    held = {name for name, _ in granule.names}
    lacking = [name for name, gsd in picked.items() if gsd is None]
    tile = f"tile {granule.metadata.tile} of product {product.metadata.name}"
    if gone := [file for name in lacking for file in granule.absent(name)]:
        raise ReadError(
            f"{tile} lists {', '.join(gone)}, which are not there: download it again, or leave "
            "their bands out with bands=[...]"
        )
    if coarse := [name for name in lacking if name in held]:
        there = min(gsd for name, gsd in granule.names if name in coarse)
        raise InputError(
            f"{tile} holds {', '.join(coarse)} only at {there} m, got a resolution of "
            f"{resolution} m: pass resolution={there} (kappamask mask: --resolution {there}), or "
            "download the finer files too"
        )
    if not held or (bands is not None and lacking):
        raise InputError(
            f"{tile} holds {', '.join(sorted(held)) or 'no image of a band'}, not "
            f"{', '.join(lacking)}: download it again or choose other bands"
        )
    return {name: gsd for name, gsd in picked.items() if gsd is not None}


def make_scene(
    product: Product, granule: Granule, held: Mapping[str, int], *, dn_offset: int | None
) -> Scene:
    """Say of every file where its pixels lie and what its DN mean."""
    metadata, tile = product.metadata, granule.metadata
    files = {}
    for name, gsd in held.items():
        if dn_offset is None or not get_band(name).is_reflectance:
            offset = metadata.offset_of(name)
        else:
            offset = dn_offset
        if gsd not in tile.shapes:
            raise ReadError(
                f"{tile.id}: the metadata must tell the size at {gsd} m, found only "
                f"{sorted(tile.shapes)}: download the product again"
            )
        height, width = tile.shapes[gsd]
        files[name] = BandFile(
            band=name,
            key=granule.names[name, gsd],
            href=product.archive.gdal_path(granule.names[name, gsd]),
            gsd=gsd,
            epsg=tile.epsg,
            left=tile.left,
            top=tile.top,
            height=height,
            width=width,
            dn_offset=offset,
            scale=metadata.scale_of(name),
        )
    ring = metadata.footprint
    footprint = {"type": "Polygon", "coordinates": [ring]} if len(ring) > 3 else None
    return Scene(
        # An old product's name tells no tile, and several granules share it.
        id=metadata.name if tile_in(f"{metadata.name}_") else tile.id,
        time=metadata.time,
        level=metadata.level,
        tile=tile.tile,
        platform=metadata.platform,
        baseline=metadata.baseline,
        footprint=footprint,
        sun=(tile.sun_azimuth, 90 - tile.sun_zenith),
        epsg=tile.epsg,
        files=files,
    )
