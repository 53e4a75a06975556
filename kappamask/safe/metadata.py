"""What the XML of a SAFE product says. Imports `bands`, `items`, `catalogs` and `errors`.

Read by the names of elements, whatever namespace and depth: those changed with the
format (Sentinel-2 Products Specification Document, versions 12 to 15), the names hardly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from kappamask.bands import BANDS, get_band
from kappamask.catalogs import OFFSET_FROM
from kappamask.errors import ItemError, ReadError
from kappamask.items import baseline_of

_IMAGES = ("IMAGE_FILE", "IMAGE_ID", "IMAGE_FILE_2A", "IMAGE_ID_2A")
_NAMES = ("PRODUCT_URI_2A", "PRODUCT_URI", "PRODUCT_URI_1C")
_QUANTIFICATION = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")


@dataclass(frozen=True)
class ProductMetadata:
    """What holds for the whole product."""

    name: str  # without .SAFE
    level: str  # "L1C" or "L2A"
    baseline: str | None  # "02.05"; None where it does not tell
    platform: str | None  # "sentinel-2a"
    time: np.datetime64  # start of sensing, UTC
    quantification: Mapping[str, float]  # DN per physical value: of reflectance, "AOT", "WVP"
    offsets: Mapping[str, int] | None  # by band; None where none are listed
    footprint: tuple[tuple[float, float], ...]  # longitude, latitude of the area with data
    images: tuple[str, ...]  # names of image files that it should hold, without suffix

    def scale_of(self, band: str) -> float:
        """Tell the physical value per DN of a band."""
        return 1 / self.quantification["reflectance" if get_band(band).is_reflectance else band]

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
        baseline = baseline_of({"id": self.name, "properties": said, "assets": {}})
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
    return ProductMetadata(
        name=document.text(*_NAMES).removesuffix(".SAFE"),
        level=f"L{level[1]}",
        baseline=document.text("PROCESSING_BASELINE", default="") or None,
        platform=f"sentinel-2{platform[1].lower()}" if platform else None,
        time=document.time("PRODUCT_START_TIME", "DATATAKE_SENSING_START"),
        quantification=_quantification(document, f"L{level[1]}"),
        offsets=_offsets(document),
        footprint=_footprint(document),
        images=tuple(text.strip() for tag in _IMAGES for text in document.texts(tag)),
    )


def parse_tile(content: bytes, *, where: str) -> TileMetadata:
    """Read the metadata of one granule; errors as `parse_product`."""
    document = Document(content, where)
    identifier = document.text("TILE_ID", "TILE_ID_2A")
    tile = re.search(r"_T(\d{2}[A-Z]{3})(?=_|$)", identifier)
    code = re.fullmatch(r"EPSG:(\d+)", document.text("HORIZONTAL_CS_CODE"))
    if not (tile and code):
        raise ItemError(
            f"{where}: a granule names its MGRS tile and an EPSG code, got {identifier} and "
            f"{document.text('HORIZONTAL_CS_CODE')}: download the product again"
        )
    sun = document.only("Mean_Sun_Angle")
    sizes = {
        int(size.get("resolution")): (
            int(document.number("NROWS", below=size)),
            int(document.number("NCOLS", below=size)),
        )
        for size in document.elements("Size")
    }
    return TileMetadata(
        id=identifier,
        tile=tile[1],
        epsg=int(code[1]),
        left=document.number("ULX"),
        top=document.number("ULY"),
        shapes=sizes,
        sun_zenith=document.number("ZENITH_ANGLE", below=sun),
        sun_azimuth=document.number("AZIMUTH_ANGLE", below=sun),
    )


class Document:
    """One XML file, asked for elements by name."""

    def __init__(self, content: bytes, where: str) -> None:
        self.where = where
        try:
            self.root: Any = fromstring(content, forbid_dtd=True)
        except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
            raise ReadError(
                f"{where} must be XML without document type and entities, got {error}: "
                "download the product again"
            ) from error

    def elements(self, tag: str, *, below: Any = None) -> Iterator[Any]:
        """Yield elements in the order of the file."""
        root = self.root if below is None else below
        yield from root.iterfind(f".//{{*}}{tag}")

    def texts(self, tag: str, *, below: Any = None) -> Iterator[str]:
        """Yield the texts of elements."""
        return (element.text or "" for element in self.elements(tag, below=below))

    def only(self, tag: str) -> Any:
        """Find the first element of a name."""
        for element in self.elements(tag):
            return element
        raise self._absent(tag)

    def text(self, *tags: str, default: str | None = None, below: Any = None) -> str:
        """Read the text of the first element that is there and says something."""
        for tag in tags:
            for text in self.texts(tag, below=below):
                if text.strip():
                    return text.strip()
        if default is not None:
            return default
        raise self._absent(tags[0])

    def number(self, *tags: str, default: float | None = None, below: Any = None) -> float:
        """Read a finite number from the first element that is there."""
        said = None if default is None else str(default)
        text = self.text(*tags, default=said, below=below)
        try:
            number = float(text)
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise ItemError(f"{self.where}: {tags[0]} is a number, got {text!r}: download it again")
        return number

    def time(self, *tags: str) -> np.datetime64:
        """Read a time in UTC."""
        text = self.text(*tags)
        try:
            return np.datetime64(text.removesuffix("Z"), "ns")
        except ValueError:
            raise ItemError(f"{self.where}: {tags[0]} is a time, got {text!r}") from None

    def _absent(self, tag: str) -> ItemError:
        return ItemError(
            f"{self.where}: the metadata of a product say {tag}, found nothing: it is no "
            "Sentinel-2 product, or damaged: download it again"
        )


def _quantification(document: Document, level: str) -> dict[str, float]:
    tags = _QUANTIFICATION if level == "L2A" else ("QUANTIFICATION_VALUE",)
    values = {"reflectance": document.number(*tags)}
    for name in ("AOT", "WVP"):
        tags = (f"{name}_QUANTIFICATION_VALUE", f"L2A_{name}_QUANTIFICATION_VALUE")
        values[name] = document.number(*tags, default=get_band(name).dn_scale)
    if wrong := {name: value for name, value in values.items() if not value > 0}:
        raise ItemError(f"{document.where}: quantification values are above 0, got {wrong}")
    return values


def _offsets(document: Document) -> dict[str, int] | None:
    """Read the offsets; band_id counts the bands in the order of the band table."""
    offsets = {}
    for tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"):
        for element in document.elements(tag):
            try:
                band, offset = BANDS[int(element.get("band_id"))], float(element.text)
            except (TypeError, ValueError, IndexError):
                raise ItemError(
                    f"{document.where}: {tag} has a band_id of 0 to {len(BANDS) - 1} and a number, "
                    f"got {element.attrib} and {element.text!r}: pass dn_offset=-1000 or 0"
                ) from None
            offsets[band.name] = round(offset)
    return offsets or None


def _footprint(document: Document) -> tuple[tuple[float, float], ...]:
    """Read the outline; it is stored as latitude, longitude[, height] in one list."""
    numbers = [float(text) for text in document.text("EXT_POS_LIST", default="").split()]
    step = 2 if numbers[:2] == numbers[-2:] else 3
    return tuple(zip(numbers[1::step], numbers[::step], strict=False))
