"""Items to composites on disk: masks first, then the images. Imports the loop.

The masks are files like those of `kappamask mask`: every date is labelled once, whatever is
composed of it later, and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import ReadError, UnknownNameError
from kappamask.base.files import check_folder
from kappamask.base.legend import Label
from kappamask.composites import BUFFER_M
from kappamask.composites.cube import CLEAR_FRACTION, check_recipe, clear_of, composite
from kappamask.composites.methods import check_method
from kappamask.composites.ranking import Ranking
from kappamask.cubes.classes import load_classes
from kappamask.jobs.loop import MaskOptions, Report, draw_beside, in_bytes
from kappamask.jobs.masks import load, mask_items, outline_of
from kappamask.jobs.refined import read_masks
from kappamask.outputs.composites import UNSEEN, write_composite
from kappamask.outputs.records import Progress, read_item
from kappamask.plot import plot_before_after
from kappamask.plot.picture import TRUE_COLOR
from kappamask.predict.refine import FEWEST, refine
from kappamask.scenes.area import AreaLike
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.formats import open_layers
from kappamask.scenes.scene import Scene
from kappamask.scenes.sources import read_scenes

if TYPE_CHECKING:
    import xarray as xr

RECIPE = (  # options that `composite` takes as they are
    "method", "period", "buffer_m", "ranking", "fill", "min_observations", "max_observations",
    "percentile",
)  # fmt: skip
MASKS_BY = ("network", "scl")
MASKS = "masks"  # folder of the masks inside that of the composites
STACK_BYTES = 512 * 2**20  # reflectance of all dates of one chunk; chunks are read whole
CHUNKS = (1536, 1024, 512)  # of what is read; whole tiles of the usual COGs


@dataclass(frozen=True)
class CompositeOptions(MaskOptions):
    """What `compose_items` can be asked for beside area, items and folder."""

    method: str = "median"
    period: str | None = None
    buffer_m: Mapping[str, float] | None = field(default_factory=lambda: dict(BUFFER_M))
    ranking: Ranking | None = None
    refine: bool = True  # let three dates or more correct one another first
    quality: bool = True  # pass over haze and shade beside clouds, where another date is clear
    fill: str | None = None  # "least-cloudy": what no date shows clear
    min_observations: int = 1
    max_observations: int | None = None  # dates that a pixel is made of; reading ends with enough
    percentile: float = 50.0
    mask: str = "network"  # or "scl": the scene classification that L2A items hold
    bands: Sequence[str] | None = None  # of the image; None: every reflectance band


def compose_items(
    items: Sequence[Any],
    area: AreaLike | None,
    folder: str | Path,
    *,
    options: CompositeOptions | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], object] | None = None,
) -> Report:
    """Label every date of some items over an area and compose images without clouds.

    Parameters
    ----------
    items, area
        As `kappamask.load_cube` takes them.
    folder
        Made if absent. Gets the files of `write_composite` for every period, and the masks
        of all dates in its folder ``masks``. What is already there, complete and the same,
        is kept.
    options
        Method, period, buffers, bands; how dates are read and labelled.
    progress
        Called with a name, how many are done, and how many there are: after each date, then
        after each block of each image.
    tell
        Called with lines for people: what will be done, and the shares of each date.

    Returns
    -------
    Report
        Files, and the dates that failed with the reason: the images are of the others.

    Raises
    ------
    KappaMaskError
        If nothing can be done: bad arguments, unreadable items, a folder that cannot be
        written to, no date that could be labelled.

    Examples
    --------
    >>> import tempfile
    >>> from kappamask import search
    >>> from kappamask.sample import SCENES, catalog_path
    >>> scene = SCENES[1]
    >>> items = search(scene.bbox, "2019-07", catalog=catalog_path(), level=scene.level)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = compose_items(items, scene.bbox, folder)
    ...     len(report.masks), [path.name for path in report.images]
    (4, ['kappamask_20190701_20190731_T34TER_L2A_median_10m_...tif'])
    """
    options = options or CompositeOptions()
    folder = Path(folder)
    check_recipe(options.method, options.period, options.buffer_m)
    resolve = partial(resolve_assets, dn_offset=options.dn_offset)
    # Once, with all bands they hold, whatever the network takes.
    scenes, unreadable = read_scenes(items, also=options.bands or (), resolve=resolve)
    cube = _load(scenes, area, options)
    check_method(options.method, [str(name) for name in cube["band"].values])
    if options.mask not in MASKS_BY:
        raise UnknownNameError.of("mask", options.mask, list(MASKS_BY))
    check_folder(folder.absolute(), "composites")  # before anything is said or done
    if tell is not None:
        size = 2 * cube[0].size  # int16
        tell(
            f"composes {options.method}, {options.period or 'all dates'}: images of "
            f"{cube.sizes['band']} bands, up to {in_bytes(size)} each, to {folder.absolute()}"
        )
    report, by_network = Report(), options.mask == "network"
    if by_network:
        # Bands are those of the image; `composite` refines what it takes from these files.
        plain = replace(options, pictures=False, bands=None, refine=False)
        report = mask_items(
            scenes, area, folder / MASKS, options=plain, progress=progress, tell=tell
        )
    report.errors = dict(sorted((unreadable | report.errors).items()))
    if not report.masks and by_network:
        date, reason = next(iter(report.errors.items()))
        raise ReadError(
            f"a composite needs one date that can be labelled and kept, got none of "
            f"{len(report.errors)}: {date}: {reason}"
        )
    labels = read_masks(report.masks, cube) if by_network else _load_classes(cube, scenes, options)
    cube = cube.isel(time=np.isin(cube["time"].values, labels["time"].values))
    enough = _enough_dates(cube, labels, options)
    # By all dates, before some are left out: few have no witnesses among themselves.
    refined = options.refine and by_network and labels.sizes["time"] >= FEWEST
    used = refine(labels) if refined else labels
    image = composite(
        cube.isel(time=enough),
        used.isel(time=enough),
        refine=options.refine and by_network,
        quality=options.quality and by_network,
        **{name: getattr(options, name) for name in RECIPE},
    )
    if not by_network:
        image.attrs["mask"] = options.mask
    report.images = write_composite(
        image,
        folder,
        source_items=scenes,
        overwrite=options.overwrite,
        progress=progress,
        outline=outline_of(area, options),
    )
    if options.pictures and set(TRUE_COLOR) <= set(cube["band"].values):
        report.pictures = [
            draw_beside(path, partial(draw_period, cube, labels, path)) for path in report.images
        ]
    return report


def _load_classes(
    cube: xr.DataArray, scenes: Sequence[Scene], options: CompositeOptions
) -> xr.DataArray:
    """Load the classes that the items hold, on the pixels of a cube.

    Of the cube's own items: one that reaches only what is read around it would change the time
    of its day.
    """
    named = {name for names in cube["source_items"].values for name in str(names).split()}
    labels = load_classes(
        [scene.item for scene in scenes if scene.id in named],
        cube,
        resolution=options.resolution,
        engine=options.engine,
    )
    return labels.sel(time=np.isin(labels["time"].values, cube["time"].values))


def _enough_dates(
    cube: xr.DataArray, labels: xr.DataArray, options: CompositeOptions
) -> np.ndarray:
    """List the dates to read, the clearest first, until every pixel has enough: indices, in order.

    Only labels are read for it. All dates where nothing limits them, or each period has its own.
    Pixels that no date has, outside of a polygon or a tile, are not waited for. Labels by single
    dates do: refined, no pixel is clear less often.
    """
    dates = np.arange(labels.sizes["time"])
    most = options.max_observations
    if most is None or options.period is not None or CLEAR_FRACTION not in labels.coords:
        return dates
    clear = clear_of(cube, labels, buffer_m=options.buffer_m)
    counts = np.zeros(labels.shape[1:], np.uint16)
    seen = (labels != Label.MISSING).any("time").values
    kept: list[int] = []
    for date in np.argsort(-labels[CLEAR_FRACTION].values, kind="stable"):
        kept.append(int(date))
        counts += clear.isel(time=int(date)).values
        if (counts[seen] >= most).all():
            break
    return np.sort(kept)


def _load(
    scenes: Sequence[Scene], area: AreaLike | None, options: CompositeOptions
) -> xr.DataArray:
    """Load lazily, in the largest chunks whose stack of all dates stays within `STACK_BYTES`."""
    for edge in CHUNKS:
        # Labels come from files: nothing beside the area is needed.
        cube = load(scenes, area, options, bands=options.bands, chunks=edge, margin=0)
        dates, bands, rows, columns = cube.shape
        if 4 * dates * bands * min(edge, rows) * min(edge, columns) <= STACK_BYTES:
            break
    return cube


def draw_period(cube: xr.DataArray, labels: xr.DataArray, path: Path, picture: Path) -> Path:
    """Draw a composite that was written beside a date of it."""
    image = read_composite(path)
    start, end = image["time_bounds"].values[0]
    times = cube["time"].values
    inside = (times >= start) & (times <= end)
    scenes = cube.isel(time=inside).sel(band=list(TRUE_COLOR))
    return plot_before_after(scenes, labels.isel(time=inside), image, picture)


def read_composite(path: Path) -> xr.Dataset:
    """Read what `plot_before_after` needs of a composite that `write_composite` wrote."""
    import xarray as xr

    known = read_item(path)["properties"]
    span = [known[f"{end}_datetime"].removesuffix("Z") for end in ("start", "end")]
    observations = path.with_name(f"{path.stem}_observations.tif")
    with open_layers(path, mask_and_scale=True) as raster:
        visible = [raster.attrs["long_name"].index(name) for name in TRUE_COLOR]
        reflectance = raster.isel(band=visible).load().assign_coords(band=list(TRUE_COLOR))
    with open_layers(observations) as raster:
        counts = raster.squeeze("band", drop=True).load()
        counts = counts.where(counts != UNSEEN, 0)
    return xr.Dataset(
        {"reflectance": reflectance, "observations": counts},
        coords={"time_bounds": (("time", "bounds"), np.array([span], "M8[ns]"))},
        # the end that an item tells belongs to the period
        attrs={"method": known["kappamask:method"], "period": "whole"},
    )
