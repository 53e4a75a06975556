"""What an output is, its STAC item, whether it is there, and how it is written. Imports `scenes`.

Masks and composites differ in their `Record` only.
"""

from __future__ import annotations

import json
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, mapping
from shapely.geometry.base import BaseGeometry
from shapely.geometry.polygon import orient

from kappamask import __version__
from kappamask.base.errors import (
    InputError,
    KappaMaskError,
    ReadError,
    ResourceError,
    WriteError,
    limits_named,
    redact,
)
from kappamask.base.files import check_folder, move_in, read_json, staging
from kappamask.outputs.cog import (
    BlockError,
    Layer,
    Placement,
    describe_file,
    write_layers,
)
from kappamask.scenes.area import cut_at_antimeridian, transformer
from kappamask.scenes.scene import Scene

LOG = logging.getLogger(__name__)
TILE_M = 109_800  # metres of a side of every tile of Sentinel-2
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
Progress = Callable[[str, int, int], object]
MEDIA_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = {  # of the STAC item: prefix of their fields, version
    "classification": ("classification:", "2.0.0"),
    "eo": ("eo:", "2.0.0"),
    "file": ("file:", "2.1.0"),
    "grid": ("grid:", "1.1.0"),
    "processing": ("processing:", "1.2.0"),
    "projection": ("proj:", "2.0.0"),
    "raster": ("raster:", "2.0.0"),
    "view": ("view:", "1.0.0"),
}
EDGE_PIECES = 8  # per side of a footprint; 110 km in UTM then lie within 3 m of the true edge


@dataclass(frozen=True)
class Outline:
    """The polygon that an output was cut out of its rectangle by."""

    geometry: BaseGeometry  # degrees
    name: str = ""  # that a person gave it

    @property
    def words(self) -> str:
        """Its name as a file's name may hold it."""
        return re.sub(r"[^\w.]+", "-", self.name).strip("-.")[:40]


@dataclass(frozen=True)
class Record(ABC):
    """All that is known of one output before it is computed."""

    PARTS: ClassVar[tuple[str, ...]]  # its assets, a file each; the first one names the others

    placement: Placement
    level: str  # "L1C" or "L2A"
    model: str | None
    model_sha256: str | None
    sources: tuple[Scene, ...]
    # What was cut out of the rectangle; None for all of it.
    outline: Outline | None = field(default=None, kw_only=True)

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of `PARTS` that are kept."""
        return self.PARTS

    @property
    @abstractmethod
    def short_name(self) -> str:
        """When, which tile and which level: of an output that is a whole tile, its name."""

    @property
    def name(self) -> str:
        """Of the files, without suffix; also the item's id: `short_name`, and what of the tile.

        An area and a pixel size that are not those of a tile stand at the end, the area as a
        hash of its grid and outline: two fields in one folder keep their files.
        """
        return "_".join([self.short_name, *_place_words(self.placement, self.tile, self.outline)])

    @property
    @abstractmethod
    def moments(self) -> tuple[str, ...]:
        """When it was seen, or from when to when, as RFC 3339 wants it."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Properties of the item that tell this very output from any other."""

    @property
    def bands(self) -> tuple[str, ...]:
        """What the bands are, as its item lists them."""
        return ()

    @abstractmethod
    def layers(self, pixels: Any) -> list[Layer]:
        """Say how the pixels of each part are stored."""

    @abstractmethod
    def measure(self, paths: Sequence[Path], layers: Sequence[Layer]) -> Any:
        """Read back what the item tells of the pixels, or take what their layers counted."""

    @abstractmethod
    def properties(self, found: Any) -> dict[str, Any]:
        """Say the record, and what was measured, in the words of STAC."""

    @abstractmethod
    def assets(self, found: Any) -> dict[str, dict[str, Any]]:
        """Say what each part holds."""

    def companions(self) -> dict[str, str]:
        """Texts that lie beside the rasters, by file name."""
        return {}

    def file_name(self, part: str, *, name: str | None = None) -> str:
        """Name the file of one of `PARTS`, of this record or of one by another `name`."""
        name = name or self.name
        return f"{name}.tif" if part == self.PARTS[0] else f"{name}_{part}.tif"

    @property
    def tile(self) -> str | None:
        """The MGRS tile, if every source lies in one and the same."""
        tiles = {source.tile for source in self.sources}
        return tiles.pop() if len(tiles) == 1 else None

    @property
    def credit(self) -> str:
        """The sentence that the Copernicus licence asks for."""
        years = sorted({moment[:4] for moment in self.moments})
        return f"Contains modified Copernicus Sentinel data {'-'.join(years)}".strip()

    def tags(self, before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
        """Tags of the files: those of every record, with its own before and after its model."""
        return {
            "TIFFTAG_SOFTWARE": f"kappamask {__version__}",
            "TIFFTAG_COPYRIGHT": self.credit,
            **before,
            "level": self.level,
            "model": self.model or "",
            **after,
            "source_items": " ".join(source.id for source in self.sources),
        }

    @property
    def optional(self) -> dict[str, Any]:
        """Properties of the item that some records lack."""
        return {
            "grid:code": f"MGRS-{self.tile}" if self.tile else None,
            "kappamask:model": self.model,
            "kappamask:model_sha256": self.model_sha256,
        }

    def about(self, title: str) -> dict[str, Any]:
        """Say in STAC's words what every output of kappamask is."""
        return {
            "title": title,
            "description": self.credit,
            "constellation": "sentinel-2",
            "instruments": ["msi"],
        }

    def processing(self, lineage: str) -> dict[str, Any]:
        """Say in STAC's words how it was made."""
        return {
            "processing:level": self.level,
            "processing:software": {"kappamask": __version__},
            "processing:lineage": f"{lineage} by kappamask {__version__}",
        }


def _place_words(placement: Placement, tile: str | None, outline: Outline | None) -> list[str]:
    """Say in a file's name where its pixels lie, as far as the tile does not."""
    if placement.crs is None:
        return []
    step, sides = placement.transform.a, (float(TILE_M), float(TILE_M))
    unit = "m" if placement.crs.is_projected else "deg"
    left, bottom, right, top = placement.bounds
    if tile and not outline and unit == "m" and (right - left, top - bottom) == sides:
        return [] if step == 10 else [f"{step:g}m"]
    said = [placement.crs.to_string(), list(placement.transform[:6]), list(placement.shape)]
    said += [outline.geometry.wkt] if outline else []
    code = sha256(json.dumps(said).encode()).hexdigest()[:6]
    name = [outline.words] if outline and outline.words else []
    return [f"{step:.6g}{unit}", *name, code]


def grid_fields(placement: Placement) -> dict[str, Any]:
    """Say where the pixels lie in the words of the projection extension."""
    if placement.crs is None:
        return {"proj:code": None, "proj:shape": list(placement.shape)}
    authority = placement.crs.to_authority()
    fields = {
        "proj:code": ":".join(authority) if authority else None,
        "proj:shape": list(placement.shape),
        "proj:transform": [float(number) for number in placement.transform[:6]],
        "proj:bbox": [float(number) for number in placement.bounds],
    }
    if authority is None:
        fields["proj:wkt2"] = placement.crs.to_wkt(version="WKT2_2019")
    return fields


def told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not known."""
    return {name: value for name, value in fields.items() if value is not None}


# --- writing ------------------------------------------------------------------------------------


def write_record(
    record: Record,
    pixels: Any,
    folder: Path,
    *,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write one output: rasters, what lies beside them and, last, the item that vouches for them.

    Parameters
    ----------
    pixels
        What ``record.layers`` takes; lazy, they are computed block by block.
    folder
        Absolute; made if absent.
    overwrite
        False keeps the output if it is complete, and computes nothing.
    progress
        Called after each block with the record's name, blocks done, blocks in all.

    Raises
    ------
    KappaMaskError
        If the pixels cannot be computed, as their source says.
    ResourceError
        If memory or threads run out.
    WriteError
        If the folder cannot be written to. What was there before stays, and nothing
        half-written is left.
    """
    if not overwrite and (there := find_complete(record, folder)):
        return there
    (path,) = write_together([record], [pixels], folder, progress=progress)
    return path


def write_together(
    records: Sequence[Record],
    pixels: Sequence[Any],
    folder: Path,
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Write outputs of one grid as `write_record` does; what they share is computed once."""
    own = [record.layers(some) for record, some in zip(records, pixels, strict=True)]
    first, done = records[0], count(1)

    def on_block() -> None:
        if progress is not None:
            progress(first.name, next(done), getattr(own[0][0].pixels, "npartitions", 0))

    try:
        with limits_named(), staging(folder, first.file_name(first.PARTS[0])) as aside:
            made = iter(write_layers(list(chain(*own)), aside, first.placement, on_block=on_block))
            for record, layers in zip(records, own, strict=True):
                paths = list(islice(made, len(record.parts)))
                item = build_item(record, paths, layers, folder=folder)
                text = json.dumps(item, indent=2, ensure_ascii=False) + "\n"
                texts = {**record.companions(), f"{record.name}.json": text}
                for name, content in texts.items():
                    (aside / name).write_text(content, encoding="utf-8")
                _tell_replaced(record, folder)
                move_in(aside, [folder / name for name in (*(path.name for path in paths), *texts)])
    except BlockError as error:
        cause = error.__cause__
        if isinstance(cause, OSError | RuntimeError) and not isinstance(cause, KappaMaskError):
            raise ReadError(str(cause)) from cause
        raise (cause or error) from None
    return [folder / record.file_name(record.PARTS[0]) for record in records]


def try_each(
    work: Mapping[Key, Callable[[], Result]],
    *,
    stop: tuple[type[KappaMaskError], ...] = (),
    on_tried: Callable[[Key], object] | None = None,
) -> tuple[dict[Key, Result], dict[Key, KappaMaskError]]:
    """Do one work after another; keep the error of one that fails, and go on with the others.

    Errors that all others would meet too end it: `ResourceError` and those of `stop`.

    Returns
    -------
    tuple
        What those gave that succeeded, and the errors of the others.

    Examples
    --------
    >>> def fail():
    ...     raise ReadError("truncated")
    >>> try_each({"June": lambda: "june.tif", "July": fail})
    ({'June': 'june.tif'}, {'July': ReadError('truncated')})
    """
    made: dict[Key, Result] = {}
    failed: dict[Key, KappaMaskError] = {}
    for key, do in work.items():
        try:
            made[key] = do()
        except KappaMaskError as error:
            if isinstance(error, (ResourceError, *stop)):
                raise
            failed[key] = error
        if on_tried is not None:
            on_tried(key)
    return made, failed


def write_each(
    outputs: Mapping[str, tuple[Record, Any]],
    folder: str | Path,
    *,
    kind: str,
    unit: str,
    **how: Any,
) -> list[Path]:
    """Write one output after another; name at the end those that cannot be computed.

    Parameters
    ----------
    outputs
        Of the same class: record and pixels, by the name that an error gives them.
    folder, how
        As `write_record` takes them.
    kind, unit
        What they are, and what one of them is of, for an error.

    Raises
    ------
    ReadError
        After all were tried.
    WriteError
        If the folder cannot be written to; found out before anything is computed.
    """
    folder = Path(folder).absolute()
    check_folder(folder, kind)
    work = {
        name: partial(write_record, record, pixels, folder, **how)
        for name, (record, pixels) in outputs.items()
    }
    made, failed = try_each(work, stop=(WriteError, InputError))
    if failed:
        raise name_failed(
            failed, len(work), unit=unit, again="repeat with overwrite=False to try"
        ) from next(iter(failed.values()))
    return list(made.values())


def name_failed(
    failed: Mapping[str, KappaMaskError], total: int, *, unit: str, again: str
) -> ReadError:
    """Say which of several outputs could not be computed, and why."""
    reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
    return ReadError(
        f"every {unit} must be readable, got errors in {len(failed)} of {total}: {reasons}. "
        f"The others are written: {again} only these again"
    )


def find_complete(record: Record, folder: Path) -> Path | None:
    """Find this very output, written before: time, grid, model and sources agree.

    It may have the name that versions before 0.2 gave, which told no area.

    Returns
    -------
    Path or None
        Of its first part.
    """
    names = [record.name] if record.outline else [record.name, record.short_name]
    found = (name for name in names if _is_complete(record, folder, name))
    return next((folder / record.file_name(record.PARTS[0], name=name) for name in found), None)


def _tell_replaced(record: Record, folder: Path) -> None:
    """Say it where an output of this name was made otherwise and gives way."""
    try:
        known = json.loads((folder / f"{record.name}.json").read_text(encoding="utf-8"))
        before = dict(known["properties"])
    except (OSError, ValueError, LookupError, TypeError):
        return
    wanted = json.loads(json.dumps(record.identity))
    other = [name for name, value in wanted.items() if before.get(name) != value]
    if other:
        LOG.warning(
            "replaced %s, which was made otherwise: %s",
            record.name,
            ", ".join(f"{name} {before.get(name)}, now {wanted[name]}" for name in other),
        )


def _is_complete(record: Record, folder: Path, stem: str) -> bool:
    wanted = json.loads(json.dumps(record.identity))
    # Titles hold the ids of the sources; addresses change with the server that is asked.
    titles = [link["title"] for link in build_links(record, folder=folder)]
    try:
        item = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
        known, assets = item["properties"], item["assets"]
        bands = [band["name"] for band in assets[record.PARTS[0]].get("bands", ())]
        return bool(
            all(known.get(name) == value for name, value in wanted.items())
            and [link["title"] for link in item["links"]] == titles
            and bands == list(record.bands)
            and all(
                assets[part]["file:size"]
                == (folder / record.file_name(part, name=stem)).stat().st_size
                for part in record.parts
            )
        )
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


def read_item(output: Path) -> Any:
    """Read the STAC item beside the first file of an output; errors as of `read_json`."""
    return read_json(output.with_suffix(".json"))


# --- the item -----------------------------------------------------------------------------------


def build_item(
    record: Record, paths: Sequence[Path], layers: Sequence[Layer], *, folder: Path
) -> dict[str, Any]:
    """Describe one output as a STAC 1.1 item.

    ``created`` and ``updated`` are left out on purpose: the same pixels give the
    same bytes on any day. `paths` are the files of its parts, made of `layers`, and local source
    items are linked relative to the folder where it will lie.
    """
    found = record.measure(paths, layers)
    geometry, bbox = footprint(record.placement) if record.placement.crs else (None, None)
    properties = record.properties(found)
    fields = record.assets(found)
    assets = {
        part: _asset(record.placement, fields[part], path)
        for part, path in zip(record.parts, paths, strict=True)
    }
    said = json.dumps([properties, assets])
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
            for name, (prefix, version) in EXTENSIONS.items()
            if f'"{prefix}' in said
        ],
        "id": record.name,
        "geometry": geometry,
        **told({"bbox": bbox}),
        "properties": properties,
        "links": build_links(record, folder=folder),
        "assets": assets,
    }


def _asset(placement: Placement, fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    asset = {
        "href": f"./{path.name}",
        "type": MEDIA_TYPE,
        **fields,
        **describe_file(path),
        "raster:sampling": "area",
    }
    crs, transform = placement.crs, placement.transform
    if crs and crs.is_projected:  # the resolution is in metres by definition
        step = (transform.a - transform.e) / 2
        asset["raster:spatial_resolution"] = step * crs.linear_units_factor[1]
    return asset


def build_links(record: Record, *, folder: Path) -> list[dict[str, str]]:
    """Link an output in `folder` to its source items and its model, all ``derived_from``."""
    links = [
        {
            "rel": "derived_from",
            "href": _link_href(source, folder),
            "type": "application/geo+json",
            "title": f"Source item {source.id}",
        }
        for source in record.sources
    ]
    if record.model:
        # Models have names and hashes, not addresses: a URN points at the registry entry.
        urn = f"urn:kappamask:model:{record.model}"
        links.append({"rel": "derived_from", "href": urn, "title": f"Model {record.model}"})
    return links


def _link_href(source: Scene, folder: Path) -> str:
    # 1. an id, if the item does not say where it lies  2. a local file, so that the
    #    two folders can move together  3. the address, without what signs it
    if source.href is None:
        return source.id
    if Path(source.href).is_absolute():
        return Path(os.path.relpath(source.href, folder)).as_posix()
    return redact(source.href)


def footprint(placement: Placement) -> tuple[dict[str, Any], list[float]]:
    """Outline an output as GeoJSON wants it: geometry and bbox in degrees.

    One across 180 degrees is cut there, and its bbox has west above east
    (RFC 7946, sections 3.1.9 and 5.2). Exteriors run counter-clockwise.

    Raises
    ------
    InputError
        If the coordinates lie outside the domain of the CRS.
    """
    left, bottom, right, top = placement.bounds
    longest = max(right - left, top - bottom)
    ring = shapely.segmentize(shapely.box(left, bottom, right, top), longest / EDGE_PIECES)
    to_degrees = transformer(placement.crs.to_wkt(), 4326)
    longitude, latitude = to_degrees.transform(*shapely.get_coordinates(ring).T)
    if not (np.isfinite(longitude).all() and np.abs(latitude).max() <= 90):
        raise InputError(
            f"x and y must lie in the domain of the CRS, got {placement.bounds} in "
            f"{placement.crs.to_string()}: check that the CRS belongs to these coordinates"
        )
    longitude = np.round(longitude, 7)  # an edge at 180 does not cross it
    longitude = np.where(longitude > 180, longitude - 360, longitude)
    outline = cut_at_antimeridian(Polygon(np.column_stack([longitude, latitude])))
    outline = shapely.transform(outline, lambda points: np.round(points, 7))
    parts = [orient(part) for part in getattr(outline, "geoms", [outline])]
    wests, souths, easts, norths = zip(*(part.bounds for part in parts), strict=True)
    geometry = parts[0] if len(parts) == 1 else MultiPolygon(parts)
    return mapping(geometry), [max(wests), min(souths), min(easts), max(norths)]
