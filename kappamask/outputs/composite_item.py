"""The STAC item of a composite. Row 5: imports `stac_item` and what that may; no pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.transform import array_bounds

from kappamask import __version__
from kappamask.base.bands import BY_NAME
from kappamask.outputs.stac_item import MEDIA_TYPE, build_links, footprint, grid_fields
from kappamask.scenes.scene import Scene

EXTENSIONS = {
    "eo": "2.0.0", "file": "2.1.0", "grid": "1.1.0",
    "processing": "1.2.0", "projection": "2.0.0", "raster": "2.0.0",
}  # fmt: skip
# Reflectance is stored as a signed integer: dark water and deep shadow are below 0 after the
# correction of the atmosphere, and unsigned numbers would lose them or take them for no data.
SCALE, NODATA = 0.0001, -32768
EPOCH = np.datetime64("1970-01-01", "D")  # dates are stored as days since then; 0 is no date
PARTS = ("reflectance", "observations", "date")


@dataclass(frozen=True)
class CompositeRecord:
    """All that is known of one composite before it is computed."""

    start: np.datetime64  # UTC
    end: np.datetime64  # the last moment that belongs to it
    crs: CRS
    transform: Affine
    shape: tuple[int, int]
    level: str
    bands: tuple[str, ...]
    recipe: dict[str, Any]  # method, period, buffers, ranking, as `composite` says them
    model: str | None
    model_sha256: str | None
    sources: tuple[Scene, ...]

    @property
    def name(self) -> str:
        """Of the files, without suffix; also the item's id.

        First and last day come first, so that names sort by date.
        """
        days = [re.sub("-", "", str(moment)[:10]) for moment in (self.start, self.end)]
        tile = [f"T{self.tile}"] if self.tile else []
        return "_".join(["kappamask", *days, *tile, self.level, self.recipe["method"]])

    @property
    def tile(self) -> str | None:
        """The MGRS tile, if every source lies in one and the same."""
        tiles = {source.tile for source in self.sources}
        return tiles.pop() if len(tiles) == 1 else None

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Outer edges: left, bottom, right, top in units of the CRS."""
        return array_bounds(*self.shape, self.transform)  # type: ignore[no-any-return]

    @property
    def span(self) -> tuple[str, str]:
        """First and last moment as RFC 3339 wants them."""
        first, last = (
            f"{np.datetime_as_string(moment, unit='ms')}Z" for moment in (self.start, self.end)
        )
        return first, last

    @property
    def credit(self) -> str:
        """The sentence that the Copernicus licence asks for."""
        years = sorted({moment[:4] for moment in self.span})
        return f"Contains modified Copernicus Sentinel data {'-'.join(years)}"

    def file_name(self, part: str) -> str:
        """Name the file of one of `PARTS`."""
        return f"{self.name}.tif" if part == "reflectance" else f"{self.name}_{part}.tif"


@dataclass(frozen=True)
class Coverage:
    """How often the pixels of a composite were seen clear."""

    pixels: int
    never_clear: int
    observations: int  # of all pixels together
    most: int  # of one pixel

    @property
    def fields(self) -> dict[str, Any]:
        """The same in the properties of the item."""
        return {
            "kappamask:never_clear": self.never_clear,
            "kappamask:never_clear_percentage": round(100 * self.never_clear / self.pixels, 4),
            "kappamask:mean_observations": round(self.observations / self.pixels, 4),
        }


def build_composite_item(
    record: CompositeRecord, coverage: Coverage, files: dict[str, dict[str, Any]], *, folder: Path
) -> dict[str, Any]:
    """Describe one composite as a STAC 1.1 item.

    ``datetime`` is null, as of everything that was made of a span of time, and
    ``start_datetime`` and ``end_datetime`` are the period, not the first and last pixel.

    Parameters
    ----------
    record
        What the composite is.
    coverage
        What came out.
    files
        Size and checksum of the file of each of `PARTS`.
    folder
        Where the item will lie.
    """
    geometry, bbox = footprint(record)
    unused = set() if record.tile else {"grid"}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
            for name, version in EXTENSIONS.items()
            if name not in unused
        ],
        "id": record.name,
        "geometry": geometry,
        "bbox": bbox,
        "properties": {
            **fixed_properties(record),
            "title": f"Cloud-free composite {record.span[0][:10]} to {record.span[1][:10]}",
            "description": record.credit,
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "processing:level": record.level,
            "processing:software": {"kappamask": __version__},
            "processing:lineage": _lineage(record),
            **coverage.fields,
        },
        "links": build_links(record, folder=folder),
        "assets": {part: _asset(record, part, files[part], coverage) for part in PARTS},
    }


def fixed_properties(record: CompositeRecord) -> dict[str, Any]:
    """Say what is known before anything is computed: composites that agree in it are the same."""
    optional = {
        "grid:code": f"MGRS-{record.tile}" if record.tile else None,
        "kappamask:model": record.model,
        "kappamask:model_sha256": record.model_sha256,
        **{f"kappamask:{name}": value for name, value in record.recipe.items()},
    }
    return {
        "datetime": None,
        "start_datetime": record.span[0],
        "end_datetime": record.span[1],
        **grid_fields(record),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _lineage(record: CompositeRecord) -> str:
    recipe = record.recipe
    return (
        f"{recipe['method']} of Sentinel-2 {record.level} reflectance where "
        f"{record.model or 'an unnamed model'} says clear, {recipe['buffer_cloud_m']:g} m from "
        f"clouds and {recipe['buffer_shadow_m']:g} m from shadows, by kappamask {__version__}"
    )


def _asset(
    record: CompositeRecord, part: str, file: dict[str, Any], coverage: Coverage
) -> dict[str, Any]:
    about: dict[str, dict[str, Any]] = {
        "reflectance": {
            "title": "Cloud-free reflectance",
            "roles": ["data", "reflectance"],
            "data_type": "int16",
            "nodata": NODATA,
            "unit": "1",
            "raster:scale": SCALE,
            "raster:offset": 0,
            "bands": [_band(name) for name in record.bands],
        },
        "observations": {
            "title": "Dates that could be used",
            "roles": ["metadata"],
            "data_type": "uint16",
            "statistics": {
                "minimum": 0 if coverage.never_clear else 1,
                "maximum": coverage.most,
                "mean": round(coverage.observations / coverage.pixels, 4),
            },
        },
        "date": {
            "title": "Date of the pixel, in days since 1970-01-01",
            "description": "The date chosen, or the middle one of those blended; 0 is none",
            "roles": ["metadata", "date"],
            "data_type": "uint16",
            "nodata": 0,
            "unit": "d",
        },
    }
    asset = {
        "href": f"./{record.file_name(part)}",
        "type": MEDIA_TYPE,
        **about[part],
        **file,
        "raster:sampling": "area",
    }
    if record.crs.is_projected:
        step = (record.transform.a - record.transform.e) / 2
        asset["raster:spatial_resolution"] = step * record.crs.linear_units_factor[1]
    return asset


def _band(name: str) -> dict[str, Any]:
    band = BY_NAME[name]
    fields: dict[str, Any] = {"name": name, "eo:common_name": band.common_name}
    if band.wavelength_nm is not None:
        fields["eo:center_wavelength"] = round(band.wavelength_nm / 1000, 6)  # micrometres
    return fields
