"""Many fields: a mask of each, or one table of what share of each was seen on each date."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from kappamask.base.errors import InputError, KappaMaskError, NoItemsError, ReadError, needs_extra
from kappamask.base.files import publish, staging
from kappamask.base.legend import LEGEND, PREDICTED, Label
from kappamask.base.pixels import count_codes
from kappamask.base.windows import Grid
from kappamask.cubes.cube import find_inside
from kappamask.jobs.loop import Date, MaskOptions, Report
from kappamask.jobs.masks import dates_of, mask_items
from kappamask.outputs.cog import Strips
from kappamask.outputs.records import Progress, try_each
from kappamask.scenes.area import AreaLike, project
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.fields import Field, read_fields, split_regions
from kappamask.scenes.scene import Scene
from kappamask.scenes.sources import listed, read_scenes

if TYPE_CHECKING:
    import pandas as pd

SHARES = tuple(LEGEND[code].name for code in (*PREDICTED, Label.MISSING))
FORMATS = (".csv", ".parquet")


def mask_fields(
    items: Sequence[Any],
    fields: AreaLike,
    folder: str | Path,
    *,
    options: MaskOptions | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], object] | None = None,
) -> Report:
    """Label every date of some items over each of many fields and write a mask of each.

    As `mask_items`; names of files hold those of the fields.

    Parameters
    ----------
    items
        As `kappamask.load_cube` takes them.
    fields
        As `kappamask.scenes.fields.read_fields` takes them.
    folder, options, progress, tell
        As in `mask_items`.

    Returns
    -------
    Report
        Of all fields together.

    Raises
    ------
    KappaMaskError
        As `mask_items`.

    Examples
    --------
    >>> import tempfile
    >>> from kappamask import search
    >>> from kappamask.sample import SCENES, catalog_path
    >>> scene = SCENES[1]
    >>> items = search(scene.bbox, "2019-07-11", catalog=catalog_path(), level=scene.level)
    >>> fields = {"type": "Feature", "properties": {"name": "north"},
    ...           "geometry": box(*scene.bbox).buffer(-0.002).__geo_interface__}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = mask_fields(items, fields, folder, options=MaskOptions(pictures=False))
    ...     [path.name for path in report.masks]
    ['kappamask_20190711T000000_T34TER_L2A_10m_north_...tif']
    """
    options = options or MaskOptions()
    whole = Report()
    shown = [(item, _footprint(item)) for item in listed(items)]
    for one in read_fields(fields):
        near = _near(shown, [one])
        if not near:
            whole.errors[one.name] = NoItemsError("no item shows this field")
            continue
        named = replace(options, field=one.name)
        report = mask_items(near, one.geometry, folder, options=named, progress=progress, tell=tell)
        for part in ("masks", "skipped", "pictures"):
            getattr(whole, part).extend(getattr(report, part))
        whole.errors |= {f"{one.name}, {date}": why for date, why in report.errors.items()}
    return whole


@dataclass(frozen=True)
class FieldTable:
    """What share of each field was seen on each date."""

    table: pd.DataFrame  # a row per field and date, as `field_shares` says
    failed: Mapping[str, str] = field(default_factory=dict)  # date: why

    def write(self, path: str | Path) -> Path:
        """Write it as CSV or Parquet, whole or not at all.

        Raises
        ------
        InputError
            If the suffix is neither.
        ExtraError
            If what writes Parquet is not installed.
        WriteError
            If the folder cannot be written to.
        """
        path = Path(path)
        check_format(path)
        if path.suffix == ".csv":
            dates = self.table["time"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
            content = self.table.assign(time=dates).to_csv(index=False, float_format="%.4f")
            parts = content.encode()
        else:
            parts = self.table.to_parquet(index=False)
        with staging(path.absolute().parent, path.name) as aside:
            publish(aside, {path: parts})
        return path


def check_format(path: Path) -> None:
    """Refuse a table that cannot be written, before anything is read."""
    if path.suffix not in FORMATS:
        raise InputError(f"a table is {' or '.join(FORMATS)}, got {path.name}: choose one of them")
    if path.suffix == ".parquet":
        with needs_extra("fields", "a Parquet file"):
            import pyarrow as pa  # noqa: F401  what writes it


def field_shares(
    items: Sequence[Any],
    fields: AreaLike,
    *,
    options: MaskOptions | None = None,
    progress: Progress | None = None,
) -> FieldTable:
    """Tell what share of each field is clear, shadow, thin cloud, cloud or missing on each date.

    Fields that lie together are labelled together, with what lies around them: each scene is
    read once, however many fields it shows.

    Parameters
    ----------
    items
        As `kappamask.load_cube` takes them.
    fields
        Polygons with names: a file of GeoJSON or GeoPackage, a GeoDataFrame, one polygon; see
        `kappamask.scenes.fields.read_fields`.
    options
        Model, resolution, engine, offset.
    progress
        Called after each date with its name, dates done, dates in all of a group of fields.

    Returns
    -------
    FieldTable
        Its ``table`` has ``field``, ``time`` (UTC), ``pixels`` (whose centres lie in the field)
        and, from 0 to 1 of these, ``clear``, ``cloud_shadow``, ``semi_transparent_cloud``,
        ``cloud`` and ``missing``; sorted by field and time.

    Raises
    ------
    KappaMaskError
        If nothing can be done for any date: bad arguments, unreadable items.

    Examples
    --------
    >>> from kappamask import search
    >>> from kappamask.sample import SCENES, catalog_path
    >>> scene = SCENES[1]
    >>> items = search(scene.bbox, "2019-07-01", catalog=catalog_path(), level=scene.level)
    >>> table = field_shares(items, scene.bbox).table
    >>> table[["field", "clear"]].values.tolist()
    [['1', 1.0]]
    """
    import pandas as pd

    options = replace(options or MaskOptions(), pictures=False)
    known = read_fields(fields)
    resolve = partial(resolve_assets, dn_offset=options.dn_offset)
    scenes, unreadable = read_scenes(items, options.network_bands, resolve=resolve)
    shown = [(scene, _footprint(scene)) for scene in scenes]
    errors = dict(unreadable)
    rows: list[dict[str, Any]] = []
    for group in split_regions(known):
        if near := _near(shown, group):
            found, failed = _count_region(near, group, options, progress)
            rows += found
            errors |= failed
    if not rows and errors:
        raise ReadError(f"one date must be readable, got none: {next(iter(errors.values()))}")
    if not rows:
        raise NoItemsError(
            f"no item of {len(scenes)} shows one of {len(known)} fields: search with their area"
        )
    order = {one.name: place for place, one in enumerate(known)}
    table = pd.DataFrame(rows)
    places = table.assign(place=table["field"].map(order)).sort_values(["place", "time"]).index
    failures = {date: str(error) for date, error in errors.items()}
    return FieldTable(table.loc[places].reset_index(drop=True), failures)


def _footprint(item: Any) -> BaseGeometry | None:
    """Give where an item or scene lies, mended where it crosses itself; None: it does not tell."""
    held = item.get("geometry") if isinstance(item, Mapping) else None
    told = getattr(item, "footprint", None) or getattr(item, "geometry", None) or held
    return shape(told).buffer(0) if told else None


def _near(shown: Sequence[tuple[Any, BaseGeometry | None]], fields: Sequence[Field]) -> list[Any]:
    """Keep the items that show one of some fields, and those that tell no footprint."""
    return [
        item
        for item, there in shown
        if there is None or any(there.intersects(one.geometry) for one in fields)
    ]


def _count_region(
    scenes: Sequence[Scene],
    fields: Sequence[Field],
    options: MaskOptions,
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], dict[str, KappaMaskError]]:
    """Label each date of a region once; count the classes of all its fields."""
    bounds = np.array([one.geometry.bounds for one in fields])
    area = box(*bounds[:, :2].min(0), *bounds[:, 2:].max(0))
    dates = dates_of(scenes, area, options)
    pieces = list(_cut_pieces(fields, dates[0]))

    def count(date: Date) -> list[dict[str, Any]]:
        labels = _whole(date.pixels())
        rows = []
        for one, window, inside in pieces:
            counts = count_codes(labels[window][inside], where=f"on {date.name}")
            if counts[Label.MISSING] == counts.sum() and not _reaches(date, one):
                continue  # of another tile of the region
            shares = counts[[*PREDICTED, Label.MISSING]] / counts.sum()
            known = {"field": one.name, "time": date.record.time.astype("M8[ns]")}
            rows.append(
                known | {"pixels": int(counts.sum())} | dict(zip(SHARES, shares, strict=True))
            )
        return rows

    def on_tried(name: str) -> None:
        if progress is not None:
            names = [date.name for date in dates]
            progress(name, names.index(name) + 1, len(dates))

    work = {date.name: partial(count, date) for date in dates}
    made, failed = try_each(work, on_tried=on_tried)
    return [row for rows in made.values() for row in rows], failed


def _cut_pieces(fields: Sequence[Field], date: Date) -> Any:
    """Give of each field its window in the labels, and bool (y, x) of what lies inside there."""
    placement = date.record.placement
    rows, columns = placement.shape
    step, left, top = placement.transform.a, placement.transform.c, placement.transform.f
    crs: Any = placement.crs  # of items there is one
    epsg = int(crs.to_epsg())
    for one in fields:
        west, south, east, north = project(one.geometry, epsg).bounds
        first = max(0, int((top - north) // step)), max(0, int((west - left) // step))
        last = min(rows, int(-((south - top) // step))), min(columns, int(-((left - east) // step)))
        grid = Grid(epsg, step, left + first[1] * step, top - first[0] * step,
                    last[0] - first[0], last[1] - first[1])  # fmt: skip
        window = np.s_[first[0] : last[0], first[1] : last[1]]
        yield one, window, find_inside(one.geometry, grid)


def _reaches(date: Date, one: Field) -> bool:
    found = (source.footprint for source in date.record.sources)
    return any(print_ is None or shape(print_).intersects(one.geometry) for print_ in found)


def _whole(pixels: Any) -> np.ndarray:
    """Compute labels (y, x), whatever form they come in; snow is left out."""
    if isinstance(pixels, Strips):
        codes = np.concatenate(list(pixels.rows), axis=-2)
    else:
        codes = np.asarray(pixels.compute() if hasattr(pixels, "compute") else pixels)
    plane: np.ndarray = codes[0] if codes.ndim == 3 else codes
    return plane
