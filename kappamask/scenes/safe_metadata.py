"""What the XML of a SAFE product says. Imports `catalogs` and what lies below it.

Read by the names of elements, whatever namespace and depth: those changed with the
format (Sentinel-2 Products Specification Document, versions 12 to 15), the names hardly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import TreeBuilder

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError

from kappamask.base.bands import AUXILIARY, BANDS, NAMES, get_band
from kappamask.base.errors import ItemError, ReadError
from kappamask.scenes.area import transformer
from kappamask.scenes.catalogs import OFFSET_FROM
from kappamask.scenes.items import view_of
from kappamask.scenes.scene import Bounds

MOST_ELEMENTS = 1_000_000  # of one file; real metadata have some 10 000
_IMAGES = ("IMAGE_FILE", "IMAGE_ID", "IMAGE_FILE_2A", "IMAGE_ID_2A")
_NAMES = ("PRODUCT_URI_2A", "PRODUCT_URI", "PRODUCT_URI_1C")
_BY_NUMBER = {str(number): band for number, band in enumerate(BANDS)}
_UTM = re.compile(r"EPSG:(32[67](?:0[1-9]|[1-5]\d|60))", re.ASCII)
_TIME = re.compile(r"(?:19[7-9]|20\d|21\d)\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z?", re.ASCII)
_QUANTITIES = (1.0, 1e6)  # DN per physical value
_PIXELS = (1, 1e6)  # along a side of a granule
FARTHEST = 2e7  # metres from the origin of a UTM zone
_QUANTIFICATION = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")


@dataclass(frozen=True)
class ProductMetadata:
    """What holds for the whole product."""

    name: str  # without .SAFE
    level: str  # "L1C" or "L2A"
    baseline: str | None  # "02.05"; None where it does not tell
    platform: str | None  # "sentinel-2a"
    time: np.datetime64  # start of sensing, UTC
    scales: Mapping[str, float]  # by band: physical value per DN
    offsets: Mapping[str, int] | None  # by band; None where none are listed
    footprint: tuple[tuple[float, float], ...]  # longitude, latitude of the area with data
    images: tuple[str, ...]  # names of image files that it should hold, without suffix
    cloud_cover: float | None = None  # percent; None where it does not tell

    def offset_of(self, band: str) -> int:
        """Tell what is added to the DN of a band.

        Raises
        ------
        ItemError
            If it is not listed although the baseline wants it, or the baseline is unknown.
        """
        if not get_band(band).is_reflectance:
            return 0
        if self.offsets is not None and band in self.offsets:
            return self.offsets[band]
        said = {} if self.baseline is None else {"s2:processing_baseline": self.baseline}
        baseline = view_of({"id": self.name, "properties": said, "assets": {}}).baseline
        if self.offsets is None and baseline < OFFSET_FROM:
            return 0
        raise ItemError(
            f"product {self.name}: from baseline {OFFSET_FROM} on the metadata list an offset of "
            f"every band, got none of {band} at baseline {baseline}: download it again, or pass "
            "dn_offset=-1000"
        )


@dataclass(frozen=True)
class TileMetadata:
    """What holds for one granule."""

    id: str
    tile: str  # MGRS, "32TPS"
    epsg: int
    left: float  # projected coordinates of the upper left corner
    top: float
    shapes: Mapping[int, tuple[int, int]]  # rows, columns by pixel size in metres
    sun_zenith: float  # degrees, mean of the granule
    sun_azimuth: float

    @property
    def bounds(self) -> Bounds:
        """Outer edges of its pixels."""
        gsd = min(self.shapes)
        rows, columns = self.shapes[gsd]
        return self.left, self.top - rows * gsd, self.left + columns * gsd, self.top

    @property
    def outline(self) -> tuple[tuple[float, float], ...]:
        """Ring around all pixels, longitude and latitude, whichever of them hold data."""
        left, bottom, right, top = self.bounds
        ring = [(left, bottom), (right, bottom), (right, top), (left, top)]
        xs, ys = zip(*ring, ring[0], strict=True)
        longitude, latitude = transformer(self.epsg, 4326).transform(xs, ys)
        return tuple(zip(map(float, longitude), map(float, latitude), strict=True))

    def place(self, gsd: int) -> dict[str, Any]:
        """Tell where its pixels of a size lie, in the words of `BandFile`."""
        height, width = self.shapes[gsd]
        corner = {"epsg": self.epsg, "left": self.left, "top": self.top}
        return {**corner, "height": height, "width": width}


def parse_product(content: bytes, *, where: str) -> ProductMetadata:
    """Read the product's own metadata.

    Raises
    ------
    ReadError
        If it is no XML, or defines entities.
    ItemError
        If something is missing without which pixels mean nothing; `where` names the file.
    """
    document = Document(content, where)
    level = re.fullmatch(r"Level-(1C|2A)p?", document.text("PROCESSING_LEVEL"))
    if level is None:
        raise ItemError(
            f"{where}: a product is of Level-1C or Level-2A, got "
            f"{document.text('PROCESSING_LEVEL')}: it cannot be read"
        )
    platform = re.fullmatch(r"Sentinel-?2([A-D])", document.text("SPACECRAFT_NAME", default=""))
    told = re.search(r"MTD_(?:MSI|SAF)L(1C|2A)", where.rpartition(":")[2])
    if told is not None and told[1] != level[1]:
        raise ItemError(
            f"{where}: a product is of the level that its metadata file is named after, got "
            f"Level-{level[1]}: download it again"
        )
    return ProductMetadata(
        name=document.text(*_NAMES).removesuffix(".SAFE"),
        level=f"L{level[1]}",
        baseline=document.text("PROCESSING_BASELINE", default="") or None,
        platform=f"sentinel-2{platform[1].lower()}" if platform else None,
        time=document.time("PRODUCT_START_TIME", "DATATAKE_SENSING_START"),
        scales=_scales(document, f"L{level[1]}"),
        offsets=_offsets(document),
        footprint=_footprint(document),
        images=tuple(
            (image.text or "").strip() for tag in _IMAGES for image in document.elements(tag)
        ),
        cloud_cover=_cloud_cover(document),
    )


def parse_tile(content: bytes, *, where: str) -> TileMetadata:
    """Read the metadata of one granule; errors as `parse_product`."""
    document = Document(content, where)
    identifier = document.text("TILE_ID", "TILE_ID_2A")
    tile = re.search(r"_T(\d{2}[A-Z]{3})(?=_|$)", identifier)
    code = _UTM.fullmatch(document.text("HORIZONTAL_CS_CODE"))
    if not (tile and code):
        raise ItemError(
            f"{where}: a granule names its MGRS tile and the EPSG code of a UTM zone, got "
            f"{identifier:.80} and {document.text('HORIZONTAL_CS_CODE'):.80}: download the product "
            "again"
        )
    sun = next(document.elements("Mean_Sun_Angle"), None)
    if sun is None:
        raise document.absent("Mean_Sun_Angle")
    return TileMetadata(
        id=identifier,
        tile=tile[1],
        epsg=int(code[1]),
        left=document.number("ULX", between=(-FARTHEST, FARTHEST)),
        top=document.number("ULY", between=(-FARTHEST, FARTHEST)),
        shapes=_shapes(document),
        sun_zenith=document.number("ZENITH_ANGLE", below=sun),
        sun_azimuth=document.number("AZIMUTH_ANGLE", below=sun),
    )


class _TooManyError(Exception):
    """An XML file whose elements would fill the memory."""


class _Builder(TreeBuilder):
    """Counts elements while it makes them: 100 MB may hold as many as memory does not."""

    count = 0

    def start(self, tag: Any, attrs: Any, /) -> Any:
        self.count += 1
        if self.count > MOST_ELEMENTS:
            raise _TooManyError
        return super().start(tag, attrs)


class Document:
    """One XML file, asked for elements by name."""

    def __init__(self, content: bytes, where: str) -> None:
        self.where = where
        try:
            parser = DefusedXMLParser(target=_Builder(), forbid_dtd=True)
            parser.feed(content)
            self.root: Any = parser.close()
        except _TooManyError:
            raise ReadError(
                f"metadata have at most {MOST_ELEMENTS} elements, {where} has more: it is no "
                "Sentinel-2 product"
            ) from None
        except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
            raise ReadError(
                f"{where} must be XML without document type and entities, got {error}: "
                "download the product again"
            ) from error

    def elements(self, tag: str, *, below: Any = None) -> Iterator[Any]:
        """Yield elements in the order of the file."""
        root = self.root if below is None else below
        yield from root.iterfind(f".//{{*}}{tag}")

    def text(self, *tags: str, default: str | None = None, below: Any = None) -> str:
        """Read the text of the first element that is there and says something."""
        for tag in tags:
            for element in self.elements(tag, below=below):
                if text := (element.text or "").strip():
                    return str(text)
        if default is not None:
            return default
        raise self.absent(tags[0])

    def number(
        self,
        *tags: str,
        default: float | None = None,
        below: Any = None,
        between: tuple[float, float] = (-1e9, 1e9),
    ) -> float:
        """Read a number from the first element that is there."""
        said = None if default is None else str(default)
        text = self.text(*tags, default=said, below=below)
        try:
            number = float(text)
        except ValueError:
            number = np.nan
        if not between[0] <= number <= between[1]:
            span = f" from {between[0]:g} to {between[1]:g}" if np.isfinite(number) else ""
            raise ItemError(
                f"{self.where}: {tags[0]} is a number{span}, got {text!r:.60}: download it again"
            )
        return number

    def time(self, *tags: str) -> np.datetime64:
        """Read a time in UTC."""
        text = self.text(*tags)
        if _TIME.fullmatch(text):  # numpy also takes "now" and "NaT", and turns years around
            with suppress(ValueError):
                return np.datetime64(text.removesuffix("Z"), "ns")
        raise ItemError(
            f"{self.where}: {tags[0]} is a time, got {text!r:.60}, and not "
            "YYYY-MM-DDTHH:MM:SS.sssZ: download it again"
        )

    def absent(self, tag: str) -> ItemError:
        """Say that an element is not there."""
        return ItemError(
            f"{self.where}: the metadata of a product say {tag}, found nothing: it is no "
            "Sentinel-2 product, or damaged: download it again"
        )


def _scales(document: Document, level: str) -> dict[str, float]:
    tags = _QUANTIFICATION if level == "L2A" else ("QUANTIFICATION_VALUE",)
    scales = dict.fromkeys(NAMES, 1 / document.number(*tags, between=_QUANTITIES))
    for band in AUXILIARY:
        tags = (f"{band.name}_QUANTIFICATION_VALUE", f"L2A_{band.name}_QUANTIFICATION_VALUE")
        told = document.number(*tags, default=band.dn_scale, between=_QUANTITIES)
        scales[band.name] = 1 / told
    return scales


def _shapes(document: Document) -> dict[int, tuple[int, int]]:
    """Read rows and columns by pixel size."""
    shapes = {}
    for size in document.elements("Size"):
        step = str(size.get("resolution"))
        if not re.fullmatch(r"[126]0", step, re.ASCII):
            raise ItemError(
                f"{document.where}: Size is told at a resolution of 10, 20 or 60 m, got "
                f"{step!r:.40}: download it again"
            )
        rows, columns = (
            document.number(tag, below=size, between=_PIXELS) for tag in ("NROWS", "NCOLS")
        )
        shapes[int(step)] = int(rows), int(columns)
    if not shapes:
        raise document.absent("Size")
    return shapes


def _offsets(document: Document) -> dict[str, int] | None:
    """Read the offsets; band_id counts the bands in the order of the band table."""
    offsets: dict[tuple[str, str], int] = {}
    for tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"):
        for element in document.elements(tag):
            try:
                band = _BY_NUMBER[element.get("band_id").strip()]
                offset = round(float(element.text))
            except (AttributeError, TypeError, ValueError, LookupError, OverflowError):
                band, offset = BANDS[0], 1
            if not -10000 <= offset <= 0 or offsets.get((tag, band.name), offset) != offset:
                raise ItemError(
                    f"{document.where}: {tag} has a band_id of 0 to {len(BANDS) - 1} and a number "
                    f"from -10000 to 0, one for each band, got {element.attrib} and "
                    f"{element.text!r:.60}: pass dn_offset=-1000 or 0"
                )
            offsets[tag, band.name] = offset
    return {name: offset for (_, name), offset in offsets.items()} or None


def _cloud_cover(document: Document) -> float | None:
    """Read the share of clouds: a search may ask for it, no pixel depends on it."""
    try:
        return document.number("Cloud_Coverage_Assessment", between=(0, 100))
    except ItemError:
        return None


def _footprint(document: Document) -> tuple[tuple[float, float], ...]:
    """Read the outline; it is stored as latitude, longitude[, height] in one list."""
    told = document.text("EXT_POS_LIST", default="").split()
    try:
        numbers = [float(text) for text in told]
    except ValueError:
        numbers = [np.nan]
    if not all(abs(number) < 1e5 for number in numbers):  # heights are in metres
        raise ItemError(
            f"{document.where}: EXT_POS_LIST are latitudes and longitudes, got {told!r:.80}: "
            "download it again"
        )
    step = 2 if numbers[:2] == numbers[-2:] else 3
    return tuple(zip(numbers[1::step], numbers[::step], strict=False))
