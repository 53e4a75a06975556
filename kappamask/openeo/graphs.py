"""Process graphs for the ordinary openeo client: masks that chain on.

Each function returns an `openeo.DataCube`; nothing is sent before the caller does so.
The text of the UDF is inlined, so that a graph is complete by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import openeo
from openeo import UDF, DataCube
from openeo.api.process import Parameter
from openeo.processes import ProcessBuilder, array_element, if_, or_

from kappamask.base.bands import bands_of_level
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.composites import periods
from kappamask.predict.chunk import OUTPUT_BANDS
from kappamask.scenes.area import parse_area
from kappamask.scenes.dates import Interval, parse_dates

Method = Literal["median", "best-pixel"]
RUNTIME = "Python"  # never "Python-Jep"
WINDOW_PX = 768  # pixels labelled at once
REFINED_PX = 512  # where all dates of a window are labelled together: they share the memory
OVERLAP_PX = 128  # read on every side and discarded: what the network sees
# The distance to clouds that best-pixel composites look for: a Gaussian, in pixels of 10 m.
KERNEL_SIGMA_PX, KERNEL_REACH_PX = 8, 20
# Of the workers; without it a back end runs the UDF in the Python that it likes best, in which
# the compiled parts of the archives do not load.
PYTHON = "3.11"
# Batch jobs on Copernicus; the figures are those that WorldCereal uses with torch.
DEFAULT_JOB_OPTIONS: Mapping[str, Any] = {
    "image-name": f"python{PYTHON.replace('.', '')}",
    "executor-memory": "2g",
    "executor-memoryOverhead": "4g",
    "python-memory": "disable",
}
# Calendar periods that Copernicus takes in aggregate_temporal_period and apply_neighborhood; of
# dekads its driver loses the first dates when the interval begins after the 11th of a month.
PERIODS = tuple(
    name for name in periods.PERIODS if name not in ("hour", "dekad", "decade", "decade-ad")
)
# Reflectance that parts clouds from clear ground best in 94 000 pixels of the training chips.
BRIGHT_BLUE = 0.10
_FILE = "kappamask_udf.py"


class Context(TypedDict, total=False):
    """What the UDF can be told; a `Parameter` may stand for each value."""

    level: Any  # "L2A" or "L1C"
    scale: Any  # reflectance = (value + offset) / scale; 10000 as on Copernicus
    offset: Any  # 0 where load_collection has applied it, -1000 for raw DN from baseline 04.00 on
    model: Any  # a name that `kappamask models` lists, or "default"
    buffer_px: Any  # of masks: pixels by which clouds and shadows are grown
    refine: Any  # let all dates, and the sun where its bands are loaded, correct one another
    threads: Any  # that the engine may use
    python: str  # of the workers, as the archives were built for: `PYTHON`


def cloud_labels(datacube: DataCube, **context: Unpack[Context]) -> DataCube:
    """Label every pixel of a cube on a back end.

    Parameters
    ----------
    datacube
        Sentinel-2 bands at 10 m, blue, green, red and a near infrared at least; in
        one load node of its own.
    **context
        What the values mean and which network labels them, see `Context`.

    Returns
    -------
    openeo.DataCube
        (t, bands, y, x) with the band ``cloud_labels``: 1 clear, 2 cloud shadow,
        3 semi-transparent cloud, 4 cloud, 5 missing.

    Examples
    --------
    >>> cube = DataCube.load_collection("SENTINEL2_L2A", bands=["B02", "B03", "B04", "B08"])
    >>> [node["process_id"] for node in cloud_labels(cube).flat_graph().values()]
    ['load_collection', 'apply_neighborhood']
    """
    return apply_udf(datacube, "labels", **context)


def cloud_probabilities(datacube: DataCube, **context: Unpack[Context]) -> DataCube:
    """Compute the probability of each class on a back end; arguments as for `cloud_labels`.

    Returns
    -------
    openeo.DataCube
        (t, bands, y, x), bands clear, cloud_shadow, semi_transparent_cloud, cloud;
        no data where data is missing.

    Examples
    --------
    >>> cube = DataCube.load_collection("SENTINEL2_L2A", bands=["B02", "B03", "B04", "B08"])
    >>> graph = cloud_probabilities(cube).flat_graph()
    >>> graph["applyneighborhood1"]["arguments"]["context"]["output"]
    'probabilities'
    """
    return apply_udf(datacube, "probabilities", **context)


def snow(datacube: DataCube, **context: Unpack[Context]) -> DataCube:
    """Find snow on clear ground on a back end; arguments as for `cloud_labels`, with B11.

    Returns
    -------
    openeo.DataCube
        (t, bands, y, x) with the band ``snow``: 0 none, 100 snow, 205 hidden by cloud or
        cloud shadow, 255 missing.

    Examples
    --------
    >>> bands = ["B02", "B03", "B04", "B08", "B11"]
    >>> cube = DataCube.load_collection("SENTINEL2_L2A", bands=bands)
    >>> graph = snow(cube).flat_graph()
    >>> graph["applyneighborhood1"]["arguments"]["context"]["output"]
    'snow'
    """
    return apply_udf(datacube, "snow", **context)


def cloud_mask(datacube: DataCube, **context: Unpack[Context]) -> DataCube:
    """Make a mask of clouds on a back end, ready for ``optical.mask(...)``.

    Arguments as for `cloud_labels`.

    Returns
    -------
    openeo.DataCube
        (t, y, x): 1 where there is shadow, cloud of any thickness or no data, else 0.
        Never no data: back ends disagree on what that means in a mask.

    Examples
    --------
    >>> extent = {"west": 11.3, "south": 46.4, "east": 11.4, "north": 46.5}
    >>> dates = ["2022-06-01", "2022-07-01"]
    >>> seen = DataCube.load_collection(
    ...     "SENTINEL2_L2A", None, extent, dates, ["B02", "B03", "B04", "B08"])
    >>> optical = DataCube.load_collection("SENTINEL2_L2A", None, extent, dates, ["B04", "B08"])
    >>> monthly = optical.mask(cloud_mask(seen)).aggregate_temporal_period("month", "median")
    """
    return _drop_bands(apply_udf(datacube, "mask", **context))


def cloud_free_composite(  # noqa: PLR0913  the contract fixes the first five
    connection: openeo.Connection | None,
    area: Any,
    dates: Any,
    *,
    method: Method = "median",
    period: Any = None,
    bands: Any = ("B02", "B03", "B04", "B08"),
    mask_bands: Any = None,
    max_cloud_cover: Any = None,
    **context: Unpack[Context],
) -> DataCube:
    """Compose images without clouds on a back end.

    Parameters
    ----------
    connection
        Of the ordinary client; None builds the graph only.
    area
        As `kappamask.search` takes it; its bounding box is loaded. Or a bounding box
        as openEO words it.
    dates
        A list of two is an interval as `load_collection` takes it, whose end is excluded; a
        text is what `kappamask.search` takes ("2022-06", "2022-06-01/2022-06-30"), whose
        last day is included.
    method
        ``"median"`` of what is clear; or ``"best-pixel"``: all bands of the clear date
        that is farthest from clouds, the earliest of several.
    period
        One image for each of these, see `PERIODS`; None: one of all dates.
    bands
        Of the composite. They are a load node of their own, into which a back end can
        push the mask: what is cloudy is not read.
    mask_bands
        What the network sees; None: all bands of the level that the back end has.
    max_cloud_cover
        Percent, of the whole item; items above it are left out.
    **context
        As for `cloud_labels`; `level` also names the collection. ``refine=False`` labels each
        date by itself, in larger windows.

    Returns
    -------
    openeo.DataCube
        (bands, y, x), with t before them if there is a period.

    Raises
    ------
    UnknownNameError, InputError
        If an argument breaks its rule.

    Examples
    --------
    >>> june = cloud_free_composite(None, (11.3, 46.4, 11.4, 46.5), "2022-06")
    >>> [node["process_id"] for node in june.flat_graph().values()]
    ['load_collection', 'load_collection', 'apply_neighborhood', 'reduce_dimension', 'mask',
     'reduce_dimension']
    """
    if method not in get_args(Method):
        raise UnknownNameError.of("method", str(method), list(get_args(Method)))
    if isinstance(period, str) and period not in PERIODS:
        raise UnknownNameError.of("period", period, list(PERIODS))
    level = str(context.get("level", "L2A"))
    context = {"refine": True, **context}
    seen = _held_bands(connection, level) if mask_bands is None else mask_bands

    def load(names: Any) -> DataCube:
        arguments: dict[str, Any] = {
            "spatial_extent": _spatial_extent(area),
            "temporal_extent": _temporal_extent(dates),
            "bands": names if isinstance(names, Parameter) else list(names),
            "max_cloud_cover": max_cloud_cover,
        }
        if connection is None:
            return DataCube.load_collection(f"SENTINEL2_{level}", **arguments)
        return connection.load_collection(f"SENTINEL2_{level}", **arguments)

    optical, clouds = load(bands), apply_udf(load(seen), "mask", **context)
    ranked = _rank(clouds, period) if method == "best-pixel" else clouds
    masked = optical.mask(_drop_bands(ranked))
    reducer = "median" if method == "median" else "first"
    if period is None:
        return masked.reduce_dimension(dimension="t", reducer=reducer)
    return masked.aggregate_temporal_period(period=period, reducer=reducer, dimension="t")


def threshold_mask(datacube: DataCube, *, scale: float = 10000, buffer_px: int = 4) -> DataCube:
    """Make a coarse mask of clouds with ordinary processes, for back ends without `run_udf`.

    What is bright in blue, grown. It takes snow, sand and roofs for clouds, and finds neither
    shadows nor thin clouds: cloud against not-cloud, dice is .90 to .94 on three scenes that
    people labelled (On-Cloud-N, L2A).

    Parameters
    ----------
    datacube
        Sentinel-2 L2A with B02.
    scale
        Number that stands for a reflectance of 1.
    buffer_px
        Pixels by which clouds are grown, by `apply_kernel`; 0: not at all, without that process.

    Returns
    -------
    openeo.DataCube
        (t, y, x): 1 where there is cloud, else 0; no data where B02 has none.

    Examples
    --------
    >>> cube = DataCube.load_collection("SENTINEL2_L2A", bands=["B02"])
    >>> [node["process_id"] for node in threshold_mask(cube).flat_graph().values()]
    ['load_collection', 'reduce_dimension', 'apply_kernel', 'apply']
    """
    limit = BRIGHT_BLUE * scale
    bright = datacube.reduce_dimension(
        dimension="bands", reducer=lambda data: array_element(data, label="B02") > limit
    )
    if not buffer_px:
        return bright
    grown = bright.apply_kernel(np.ones((2 * buffer_px + 1,) * 2).tolist())
    return grown.apply(lambda x: x > 0)


# --- parts ---------------------------------------------------------------------------------


def apply_udf(datacube: DataCube, output: Any, **context: Unpack[Context]) -> DataCube:
    """Run the UDF on windows of each date; `output`, too, may be a `Parameter`.

    Raises
    ------
    UnknownNameError
        If the context holds something that the UDF does not know.

    Examples
    --------
    >>> cube = DataCube.load_collection("SENTINEL2_L2A", bands=["B02", "B03", "B04", "B08"])
    >>> graph = apply_udf(cube, "labels", level="L2A").flat_graph()
    >>> graph["applyneighborhood1"]["arguments"]["context"]["output"]
    'labels'
    """
    unknown = sorted(set(context) - set(Context.__annotations__))
    if unknown:
        raise UnknownNameError.of("option", unknown[0], list(Context.__annotations__))
    version = context.pop("python", PYTHON)
    told = {"level": "L2A", "scale": 10000, "offset": 0, "model": "default", **context}
    result = datacube.apply_neighborhood(
        process=UDF(udf_code(), RUNTIME, version=version, context={"from_parameter": "context"}),
        size=_window(refined=context.get("refine", False)),
        overlap=_pixels(OVERLAP_PX),
        context={**told, "output": output},
    )
    metadata = datacube.metadata
    if metadata is not None and metadata.has_band_dimension() and str(output) in OUTPUT_BANDS:
        labels = list(OUTPUT_BANDS[output])
        metadata = metadata.rename_labels(metadata.band_dimension.name, target=labels)
    return DataCube(result.result_node(), connection=datacube.connection, metadata=metadata)


def _window(*, refined: Any) -> Any:
    """Size of what is labelled at once: all dates, or one; of a `Parameter` the caller decides.

    Examples
    --------
    >>> [entry["dimension"] for entry in _window(refined=True)]
    ['x', 'y']
    """
    dates = _pixels(REFINED_PX)  # without a size in t, a window comes with all its dates
    date = [*_pixels(WINDOW_PX), {"dimension": "t", "value": "P1D"}]
    if isinstance(refined, Parameter):
        return if_(refined, accept=dates, reject=date)
    return dates if refined else date


def _pixels(count: int) -> list[dict[str, Any]]:
    return [{"dimension": dim, "value": count, "unit": "px"} for dim in ("x", "y")]


def _held_bands(connection: openeo.Connection | None, level: str) -> list[str]:
    """List the bands of a level; of those of a back end, what its collection names."""
    names = list(bands_of_level(level))
    if connection is None:
        return names
    dimensions = connection.describe_collection(f"SENTINEL2_{level}").get("cube:dimensions", {})
    told = next((d["values"] for d in dimensions.values() if d.get("type") == "bands"), names)
    return [name for name in names if name in told] or names


def _drop_bands(datacube: DataCube) -> DataCube:
    """Take the only band; all back ends do that, as it is what ``cube.band(...)`` means."""
    return datacube.reduce_dimension(
        dimension="bands", reducer=lambda data: array_element(data, index=0)
    )


def _rank(clouds: DataCube, period: Any) -> DataCube:
    """Mask every date but the best ones: 0 where a pixel is clear and least cloudy around, else 1.

    One mask for both, as a second one would have the back end run the network again.
    """

    def is_not_lowest(data: ProcessBuilder) -> ProcessBuilder:
        lowest = data.min()
        return data.array_apply(lambda x: or_(x != lowest, x >= 1))  # from 1 on it is cloudy itself

    nearness = clouds.apply_kernel(cloud_kernel().tolist())
    if period is None:
        return nearness.apply_dimension(dimension="t", process=is_not_lowest)
    size = [*_pixels(1), {"dimension": "t", "value": period}]
    return nearness.apply_neighborhood(is_not_lowest, size=size, overlap=[])


# --- what a user of graphs needs besides ----------------------------------------------------


@cache
def udf_code() -> str:
    """Read the text of the UDF, from the wheel or from a clone.

    Raises
    ------
    InputError
        If the installation holds none.

    Examples
    --------
    >>> "def apply_datacube(cube: xarray.DataArray, context: dict)" in udf_code()
    True
    """
    here = Path(__file__).resolve()
    for path in (here.with_name(_FILE), here.parents[2] / "udf" / _FILE):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise InputError(f"{_FILE} must lie beside {here}, or in udf/ of a clone: reinstall kappamask")


def job_options(
    archives: Sequence[str] = (), *, python: str = PYTHON, **others: Any
) -> dict[str, Any]:
    """Put the options of a batch job together.

    Parameters
    ----------
    archives
        Addresses of what `kappamask udf build` made, ``https://.../x.zip#folder`` with a
        folder of its own for each.
    python
        Version for which they were made; give the same to `cloud_mask` and its like.
    **others
        Further options, with _ for -; they go before the default ones.

    Raises
    ------
    InputError
        If an address has no folder, or two have the same.

    Examples
    --------
    >>> job_options(["https://host/kappamask.zip#kappamask_library"], executor_memory="3g")
    {'image-name': 'python311', 'executor-memory': '3g', 'executor-memoryOverhead': '4g',
     'python-memory': 'disable',
     'udf-dependency-archives': ['https://host/kappamask.zip#kappamask_library']}
    """
    folders = [archive.partition("#")[2] for archive in archives]
    if not all(folders) or len(set(folders)) < len(folders):
        raise InputError(
            "each archive is unpacked to a folder of its own, given as 'https://.../x.zip#folder', "
            f"got {list(archives)}"
        )
    image = {"image-name": f"python{python.replace('.', '')}"}
    named = {key.replace("_", "-"): value for key, value in others.items()}
    options = {**DEFAULT_JOB_OPTIONS, **image, **named}
    return options | ({"udf-dependency-archives": list(archives)} if archives else {})


def cloud_kernel() -> np.ndarray:
    """Weights that turn a mask into the nearness of clouds: at least 1 in a cloud, else below 1.

    A Gaussian that sums to 1, and 1 more in the middle: whatever is clear comes before
    whatever is not.

    Examples
    --------
    >>> kernel = cloud_kernel()
    >>> kernel.shape, round(float(kernel.sum()), 3), bool(kernel[20, 20] > 1)
    ((41, 41), 2.0, True)
    """
    steps = np.arange(-KERNEL_REACH_PX, KERNEL_REACH_PX + 1)
    line = np.exp(-0.5 * (steps / KERNEL_SIGMA_PX) ** 2)
    kernel: np.ndarray = np.outer(line, line)
    kernel = np.round(kernel / kernel.sum(), 7)
    kernel[KERNEL_REACH_PX, KERNEL_REACH_PX] += 1
    return kernel


def _spatial_extent(area: Any) -> Any:
    """Word an area as openEO does; a `Parameter` or an openEO bounding box stays.

    Examples
    --------
    >>> _spatial_extent((11.3, 46.4, 11.4, 46.5))
    {'west': 11.3, 'south': 46.4, 'east': 11.4, 'north': 46.5}
    """
    if isinstance(area, Parameter) or (isinstance(area, dict) and "west" in area):
        return area
    return dict(zip(("west", "south", "east", "north"), parse_area(area).bounds, strict=True))


def _temporal_extent(dates: Any) -> Any:
    """Word dates as openEO does, whose end is excluded; a `Parameter` or an interval of it stays.

    Examples
    --------
    >>> _temporal_extent(["2022-06-01", "2022-07-01"])
    ['2022-06-01T00:00:00Z', '2022-07-01T00:00:00Z']
    >>> _temporal_extent("2022-06-01/2022-06-30")
    ['2022-06-01T00:00:00Z', '2022-07-01T00:00:00Z']
    """
    if isinstance(dates, Parameter):
        return dates
    if isinstance(dates, list | tuple) and len(dates) == 2:
        span = Interval(*(None if end in (None, "..") else parse_dates(end).start for end in dates))
    else:
        span = parse_dates(dates)
    ends = (span.start, span.end)
    return [None if end is None else end.isoformat().replace("+00:00", "Z") for end in ends]
