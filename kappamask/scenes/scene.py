"""A scene, read once from whatever gives it: what was seen, where and when, in which files.

Every source makes these values and all that follows uses them; imports `base` and `area`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kappamask.base.bands import get_band
from kappamask.base.errors import InputError
from kappamask.base.pixels import to_reflectance
from kappamask.scenes.area import transformer

RAISED = -1000  # offset under which arrays of stores are read as DN: values below 0 % are kept
_GROUPS = "measurements/reflectance|quality/atmosphere|conditions/mask/l2a_classification"
_ARRAY = re.compile(rf"(.+?)/((?:{_GROUPS})/r\d+m/\w+)(\?.*)?")
NO_TIME = np.datetime64("NaT", "ns")
PASS_HOURS = 2  # before or after half past ten; far north and south the orbit is at other hours
Bounds = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True, kw_only=True)
class BandFile:
    """The file of one band: where it lies, where its pixels lie, and what its numbers mean.

    The physical value of a digital number (DN) is ``(dn + dn_offset) * scale``: reflectance
    (1.0 = 100 %), aerosol optical thickness (AOT) or water vapour in cm (WVP).
    """

    band: str  # canonical name
    key: str = ""  # what its source calls it, such as the key of an asset
    href: str  # as the source gives it, or as GDAL opens it; absolute where that is known
    dn_offset: float  # added to the DN: 0 or -1000; of one's own raster any number
    scale: float  # physical value per DN: 1e-4 for reflectance, 1e-3 for AOT and WVP
    gsd: float  # metres per pixel; of a raster without a place pixels of its finest band
    nodata: float | None = 0  # DN that stands for no data, before the offset; None: untold
    own: bool = False  # a raster of one's own: numbers of any type, any number of bands
    index: int = 1  # of the band in the file
    halved: bool = False  # its pixels are 2 x 2 of the file's: an overview, a resolution level
    epsg: int | None = None
    left: float = 0.0  # projected coordinates of the upper left corner
    top: float = 0.0
    height: int = 0  # pixels; none where the source does not tell where they lie
    width: int = 0

    def __post_init__(self) -> None:
        """Check the numbers: a wrong one shifts every pixel of the cube."""
        allowed = self.own or (isinstance(self.dn_offset, int) and -10000 <= self.dn_offset <= 0)
        if not allowed or not np.isfinite(self.dn_offset):
            raise InputError(
                f"dn_offset of {self.band} is the integer 0 or -1000, got {self.dn_offset!r}"
            )
        if get_band(self.band).is_reflectance is False and self.dn_offset != 0:
            raise InputError(f"{self.band} takes no offset, got dn_offset={self.dn_offset}")
        if not self.href or not self.scale > 0 or not self.gsd > 0:
            raise InputError(f"an asset needs an href, a scale and a gsd above 0, got {self!r}")

    @property
    def bounds(self) -> Bounds | None:
        """Outer edges of its pixels; None where its source does not tell them."""
        if not self.height:
            return None
        bottom, right = self.top - self.height * self.gsd, self.left + self.width * self.gsd
        return self.left, bottom, right, self.top

    @property
    def dtype(self) -> np.dtype[Any]:
        """What its DN are read as: of one's own raster float32 with NaN for no data."""
        return np.dtype(np.float32 if self.own else np.uint16)

    def to_reflectance(self, dn: np.ndarray) -> np.ndarray:
        """Apply offset and scale; NaN where DN is 0, of one's own raster where it is NaN."""
        if self.own:
            return (dn + np.float32(self.dn_offset)) * np.float32(self.scale)
        return to_reflectance(dn, np.float32(self.dn_offset), np.float32(self.scale))

    def has_data(self, dn: np.ndarray) -> bool:
        """Tell whether any of the DN read is some."""
        return bool((np.isfinite(dn) if self.own else dn).any())


@dataclass(frozen=True)
class Frame:
    """Where the pixels of a raster lie that has no grid in metres with north up, if it tells."""

    crs_wkt: str | None = None
    transform: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # (column, row) -> x, y


@dataclass(frozen=True)
class Scene:
    """One scene: an item of a catalogue, a granule of a SAFE product, files of one's own.

    What a source does not tell is None, "" or, of times, NaT: of a scene that is only named,
    all but its id.
    """

    id: str
    time: np.datetime64 = NO_TIME  # of sensing, UTC, to the nanosecond
    level: str = ""  # "L1C" or "L2A"
    tile: str | None = None  # MGRS tile, "32TPS"
    platform: str | None = None  # "sentinel-2a"
    baseline: str | None = None  # processing baseline, "05.09"
    href: str | None = None  # where the item itself lies
    epsg: int | None = None  # that its files are in
    footprint: Any = field(default=None, repr=False)  # GeoJSON geometry, degrees
    sun: tuple[float, float] | None = None  # mean azimuth (from north) and elevation, degrees
    files: Mapping[str, BandFile] = field(default_factory=dict)  # by band
    profile: Any = field(default=None, repr=False)  # of the catalogue; see `catalogs.Profile`
    item: Any = field(default=None, repr=False, compare=False)  # what it was read from, to copy
    frame: Frame | None = None  # its pixels are counted, not placed in metres

    @property
    def bounds(self) -> Bounds | None:
        """Where its pixels lie, as the first of its files says that tells.

        Never from the bbox of an item, which is broken at the antimeridian.
        """
        edges = (file.bounds for file in self.files.values())
        return next((bounds for bounds in edges if bounds), None) if self.epsg else None

    def bounds_in(self, epsg: int) -> Bounds | None:
        """`bounds` in another CRS."""
        if (bounds := self.bounds) is None or self.epsg == epsg:
            return bounds
        left, bottom, right, top = transformer(self.epsg, epsg).transform_bounds(
            *bounds, densify_pts=21
        )
        return left, bottom, right, top

    @property
    def middle(self) -> tuple[float, float]:
        """Longitude and latitude of a point inside."""
        from shapely.geometry import shape

        point = shape(self.footprint).representative_point()
        return point.x, point.y

    @property
    def solar_day(self) -> np.datetime64:
        """The local date: one hour per 15 degrees east of Greenwich."""
        longitude, _ = self.middle
        shift = np.timedelta64(round(longitude / 15 * 3600), "s")
        day: np.datetime64 = (self.time + shift).astype("M8[D]")
        return day


def sun_of(scenes: Sequence[Scene]) -> tuple[float, float]:
    """Say where the sun stood on a date of some scenes: azimuth, elevation, degrees.

    The mean of what the scenes tell; else worked out of time and place, as good as the time is:
    old products tell that of the whole pass, minutes apart, which is 3 degrees. NaN without both,
    or where the time cannot be that of sensing, such as midnight for a date.
    """
    told = [scene.sun for scene in scenes if scene.sun is not None] or [
        sun_position(scene.time, *scene.middle)
        for scene in scenes
        if scene.footprint is not None and _is_of_sensing(scene)
    ]
    if not told:
        return np.nan, np.nan
    azimuths, elevations = np.transpose(told)
    mean = np.exp(1j * np.radians(azimuths)).mean()  # 359 and 1 degrees meet in the north
    return float(np.degrees(np.angle(mean)) % 360), float(np.mean(elevations))


def _is_of_sensing(scene: Scene) -> bool:
    """Tell whether a time is one at which Sentinel-2 passes: half past ten by the mean sun."""
    if np.isnat(scene.time):
        return False
    since_midnight = scene.time - scene.time.astype("M8[D]")
    hour = since_midnight / np.timedelta64(1, "h") + scene.middle[0] / 15
    return bool(abs((hour - 10.5 + 12) % 24 - 12) < PASS_HOURS)


def sun_position(time: np.datetime64, longitude: float, latitude: float) -> tuple[float, float]:
    """Compute where the sun stands: azimuth (from north, clockwise) and elevation, degrees.

    Astronomical Almanac, low precision formulas for the sun: good to 0.01 degrees from 1950 to
    2050. Without refraction.

    Examples
    --------
    >>> _, elevation = sun_position(np.datetime64("2022-06-21T12:02"), 0.0, 23.44)
    >>> round(elevation, 1)
    90.0
    """
    days = (time - np.datetime64("2000-01-01T12:00", "ns")) / np.timedelta64(1, "D")
    anomaly = np.radians(357.529 + 0.98560028 * days)
    mean = 280.459 + 0.98564736 * days
    ecliptic = np.radians(mean + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    tilt, north = np.radians(23.439 - 3.6e-7 * days), np.radians(latitude)
    ascension = np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic))
    declination = np.arcsin(np.sin(tilt) * np.sin(ecliptic))
    hour = np.radians(15 * (18.697374558 + 24.06570982441908 * days) + longitude) - ascension
    # Of a vector to the sun: up, to the east, to the north.
    across, along = np.cos(declination) * np.cos(hour), np.sin(declination)
    up = np.sin(north) * along + np.cos(north) * across
    azimuth = np.arctan2(
        -np.cos(declination) * np.sin(hour), np.cos(north) * along - np.sin(north) * across
    )
    return float(np.degrees(azimuth) % 360), float(np.degrees(np.arcsin(min(up, 1.0))))


def split_array(href: str) -> tuple[str, str] | None:
    """Split the address of an array of an EOPF store into those of the store and in it.

    Examples
    --------
    >>> split_array("https://host/S2A.zarr/measurements/reflectance/r10m/b02")
    ('https://host/S2A.zarr', 'measurements/reflectance/r10m/b02')
    >>> split_array("/data/B02.tif")
    """
    found = _ARRAY.fullmatch(href)
    return (found[1] + (found[3] or ""), found[2]) if found else None


def overlap(one: Bounds, other: Bounds) -> bool:
    """Tell whether two rectangles share an area.

    Examples
    --------
    >>> overlap((0, 0, 2, 2), (1, 1, 3, 3)), overlap((0, 0, 1, 1), (1, 0, 2, 1))
    (True, False)
    """
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def rounded(bounds: Bounds) -> tuple[int, ...]:
    """Give a rectangle in whole metres, as messages show it."""
    return tuple(round(edge) for edge in bounds)
