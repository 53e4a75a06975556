"""SAFE products to scenes: their granules, which file serves a band. Imports what lies below."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from kappamask.base.bands import NAMES, check_names, get_band
from kappamask.base.errors import InputError, NoItemsError, ReadError
from kappamask.scenes.archives import Archive, open_archive
from kappamask.scenes.area import AreaLike, parse_area, project
from kappamask.scenes.safe_metadata import (
    ProductMetadata,
    TileMetadata,
    parse_product,
    parse_tile,
)
from kappamask.scenes.scene import BandFile, Scene, overlap

RESOLUTIONS = (10, 20, 60)  # metres; each is a whole multiple of those before it
Held = tuple[str, int]  # band and pixel size in metres
# A granule's metadata are told by what they hold: the open archive calls them metadata.xml.
_GRANULE = re.compile(r"GRANULE/([^/]+)/([^/]+)\.xml", re.IGNORECASE)
_USUAL = re.compile(r"MTD_TL|S2[A-D]_[A-Z]{4}_MTD_L(?:1C|2A)_TL_\w+")
_IMAGES = (".jp2", ".tif", ".tiff")  # Planetary Computer has its SAFE trees in TIFF
_IMAGE = re.compile(r".*_(B\d[0-9A]|AOT|WVP)(?:_([126]0)m)?")
_CLASSES = re.compile(r"_SCL_20m\.\w+$")
CLASSES_GSD = 20  # metres
_TILE = re.compile(r"(?:^|_)T(\d{2}[A-Z]{3})(?=_)")


# --- granules ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Granule:
    """One tile of a product."""

    metadata: TileMetadata
    names: Mapping[Held, str]  # of files that are there
    listed: Mapping[Held, str]  # of files that should be
    classes: str | None = None  # the file of the scene classification (SCL) at 20 m

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
        area: AreaLike | None = None,
        tile: str | None = None,
        dn_offset: int | None = None,
        apart: bool = False,
    ) -> list[Scene]:
        """Say what is to be read, granule by granule; parameters and errors as of `open_safe`.

        `apart`: each granule is for itself, so they may lie in several UTM zones.
        """
        if resolution not in RESOLUTIONS:
            raise InputError(
                f"a SAFE product is read at 10, 20 or 60 m per pixel, got {resolution!r}: choose "
                "one of them"
            )
        chosen = self._select(area=area, tile=tile, apart=apart)
        sizes = [self._choose_bands(granule, bands, resolution) for granule in chosen]
        return [
            self._scene(granule, held, dn_offset)
            for granule, held in zip(chosen, sizes, strict=True)
        ]

    def _select(self, *, area: AreaLike | None, tile: str | None, apart: bool) -> list[Granule]:
        """Choose granules by tile and area; they are of one UTM zone, unless `apart`."""
        name, chosen = self.metadata.name, list(self.granules)
        held = [granule.metadata.tile for granule in chosen]
        listed = {_tile_in(PurePosixPath(image).name) for image in self.metadata.images} - {None}
        wanted = {tile.upper().removeprefix("T")} if tile is not None else listed
        if tile is not None and not wanted <= {*held, *listed}:
            raise InputError(f"product {name} holds the tiles {', '.join(held)}, got tile={tile!r}")
        if gone := sorted(str(one) for one in wanted - set(held)):
            raise ReadError(
                f"product {name} lists granules of the tiles {', '.join(gone)}, which are not "
                f"there: download it again, or pass tile='{held[0]}' for one that is there"
            )
        if tile is not None:
            chosen = [granule for granule in chosen if granule.metadata.tile in wanted]
        if area is not None:
            geometry = parse_area(area)
            chosen = [
                granule
                for granule in chosen
                if overlap(project(geometry, granule.metadata.epsg).bounds, granule.metadata.bounds)
            ]
            if not chosen:
                raise NoItemsError(
                    f"the area {tuple(round(edge, 4) for edge in geometry.bounds)} lies outside "
                    f"product {name}, which covers {', '.join(held)}: check the area"
                )
        if not apart and len({granule.metadata.epsg for granule in chosen}) > 1:
            tiles = ", ".join(f"{g.metadata.tile} (EPSG:{g.metadata.epsg})" for g in chosen)
            raise InputError(
                f"a cube lies in one UTM zone, product {name} holds {tiles}: pass tile='{held[0]}' "
                "or a smaller area"
            )
        return chosen

    def _choose_bands(
        self, granule: Granule, bands: Sequence[str] | None, resolution: int
    ) -> dict[str, int]:
        """Choose the pixel size of the file of every band."""
        level = self.metadata.level
        names = NAMES if bands is None else check_names(bands, level)
        picked = {name: granule.pick(name, resolution) for name in names}
        held = {name for name, _ in granule.names}
        lacking = [name for name, gsd in picked.items() if gsd is None]
        tile = f"tile {granule.metadata.tile} of product {self.metadata.name}"
        if gone := [file for name in lacking for file in granule.absent(name)]:
            raise ReadError(
                f"{tile} lists {', '.join(gone)}, which are not there: download it again, or leave "
                "their bands out with bands=[...] (kappamask mask: --bands B02,B03,B04,B08)"
            )
        if coarse := [name for name in lacking if name in held]:
            there = min(gsd for name, gsd in granule.names if name in coarse)
            raise InputError(
                f"{tile} holds {', '.join(coarse)} only at {there} m, got a resolution of "
                f"{resolution} m: pass resolution={there} (kappamask mask: --resolution {there}), "
                "or download the finer files too"
            )
        if not held or (bands is not None and lacking):
            raise InputError(
                f"{tile} holds {', '.join(sorted(held)) or 'no image of a band'}, not "
                f"{', '.join(lacking)}: download it again or choose other bands"
            )
        return {name: gsd for name, gsd in picked.items() if gsd is not None}

    def _scene(self, granule: Granule, held: Mapping[str, int], dn_offset: int | None) -> Scene:
        """Say of every file where its pixels lie and what its DN mean."""
        metadata, tile = self.metadata, granule.metadata
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
            files[name] = BandFile(
                band=name,
                key=granule.names[name, gsd],
                href=self.archive.gdal_path(granule.names[name, gsd]),
                gsd=gsd,
                dn_offset=offset,
                scale=metadata.scales[name],
                **tile.place(gsd),
            )
        ring, sun = metadata.footprint, (tile.sun_azimuth, 90 - tile.sun_zenith)
        footprint = {"type": "Polygon", "coordinates": [ring]} if len(ring) > 3 else None
        return Scene(
            # An old product's name tells no tile, and several granules share it.
            id=metadata.name if _tile_in(f"{metadata.name}_") else tile.id,
            time=metadata.time,
            level=metadata.level,
            tile=tile.tile or None,
            platform=metadata.platform,
            baseline=metadata.baseline,
            footprint=footprint,
            sun=None if np.isnan(sun[0] + sun[1]) else sun,
            epsg=tile.epsg,
            files=files,
        )


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
    where = f"{archive.shown}: {archive.metadata}"
    metadata = parse_product(archive.read(archive.metadata), where=where)
    granules = [
        _read_granule(archive, folder, name, metadata.images)
        for folder, name in _find_granules(archive).items()
    ]
    if not granules:
        raise ReadError(
            f"{archive.shown} must hold granules (GRANULE/.../MTD_TL.xml, or another XML file "
            "with a TILE_ID), found none: "
            "download the product again"
        )
    granules.sort(key=lambda granule: granule.metadata.tile)
    return Product(archive, metadata, tuple(granules))


def _find_granules(archive: Archive) -> dict[str, str]:
    """Find the metadata of each granule by its folder: the usual names first, then by content."""
    found: dict[str, str] = {}
    names = {name: told for name in sorted(archive.names) if (told := _GRANULE.fullmatch(name))}
    for name, told in sorted(names.items(), key=lambda one: not _USUAL.fullmatch(one[1][2])):
        usual = _USUAL.fullmatch(told[2])
        if told[1] not in found and (usual or b"TILE_ID" in archive.read(name)):
            found[told[1]] = name
    return found


def _read_granule(archive: Archive, folder: str, name: str, images: Sequence[str]) -> Granule:
    """Read a granule's metadata and find its files."""
    metadata = parse_tile(archive.read(name), where=f"{archive.shown}: {name}")
    prefix = f"GRANULE/{folder}/IMG_DATA/"
    held = sorted(n for n in archive.names if n.startswith(prefix) and n.lower().endswith(_IMAGES))
    listed = [PurePosixPath(image).name for image in images]
    listed = [image for image in listed if _tile_in(image) in (metadata.tile, None)]
    classes = next((n for n in held if _CLASSES.search(n)), None)
    return Granule(metadata, _index_images(held), _index_images(listed), classes)


def _tile_in(name: str) -> str | None:
    """Find the MGRS tile in the name of a file, in the format of today or the one before."""
    found = _TILE.search(name)
    return found[1] if found else None


def _index_images(names: Sequence[str]) -> dict[Held, str]:
    """Tell band and pixel size of image files by their names; others are left out."""
    index = {}
    for name in names:
        stem = re.sub(r"\.(?:jp2|tiff?)$", "", PurePosixPath(name).name, flags=re.IGNORECASE)
        if found := _IMAGE.fullmatch(stem):
            band = get_band(found[1])
            index[band.name, int(found[2] or band.gsd)] = name
    return index
