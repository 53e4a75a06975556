"""What process graphs are made of: the UDF's text, extents, options. Row 6: imports rows 0-1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from openeo.api.process import Parameter

from kappamask.base.errors import InputError
from kappamask.scenes.area import parse_area
from kappamask.scenes.dates import parse_dates

# The distance to clouds that best-pixel composites look for: a Gaussian, in pixels of 10 m.
KERNEL_SIGMA_PX, KERNEL_REACH_PX = 8, 20
# Batch jobs on Copernicus; the figures are those that WorldCereal uses with torch.
DEFAULT_JOB_OPTIONS: Mapping[str, Any] = {
    "executor-memory": "2g",
    "executor-memoryOverhead": "4g",
    "python-memory": "disable",
}
# Calendar periods that Copernicus takes in aggregate_temporal_period and apply_neighborhood.
PERIODS = ("day", "week", "dekad", "month", "season", "tropical-season", "year")
_FILE = "kappamask_udf.py"


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


def job_options(archives: Sequence[str] = (), **others: Any) -> dict[str, Any]:
    """Put the options of a batch job together.

    Parameters
    ----------
    archives
        Addresses of what `kappamask udf build` made, ``https://.../x.zip#folder`` with a
        folder of its own for each.
    **others
        Further options, with _ for -; they go before the default ones.

    Raises
    ------
    InputError
        If an address has no folder, or two have the same.

    Examples
    --------
    >>> job_options(["https://host/kappamask.zip#kappamask_library"], executor_memory="3g")
    {'executor-memory': '3g', 'executor-memoryOverhead': '4g', 'python-memory': 'disable',
     'udf-dependency-archives': ['https://host/kappamask.zip#kappamask_library']}
    """
    folders = [archive.partition("#")[2] for archive in archives]
    if not all(folders) or len(set(folders)) < len(folders):
        raise InputError(
            "each archive is unpacked to a folder of its own, given as 'https://.../x.zip#folder', "
            f"got {list(archives)}"
        )
    options = {**DEFAULT_JOB_OPTIONS, **{key.replace("_", "-"): others[key] for key in others}}
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


def spatial_extent(area: Any) -> Any:
    """Word an area as openEO does; a `Parameter` or an openEO bounding box stays.

    Examples
    --------
    >>> spatial_extent((11.3, 46.4, 11.4, 46.5))
    {'west': 11.3, 'south': 46.4, 'east': 11.4, 'north': 46.5}
    """
    if isinstance(area, Parameter) or (isinstance(area, dict) and "west" in area):
        return area
    return dict(zip(("west", "south", "east", "north"), parse_area(area).bounds, strict=True))


def temporal_extent(dates: Any) -> Any:
    """Word dates as openEO does, whose end is excluded; a `Parameter` stays.

    Examples
    --------
    >>> temporal_extent("2022-06-01/2022-06-30")
    ['2022-06-01T00:00:00Z', '2022-07-01T00:00:00Z']
    """
    if isinstance(dates, Parameter):
        return dates
    span = parse_dates(dates)
    ends = (span.start, span.end)
    return [None if end is None else end.isoformat().replace("+00:00", "Z") for end in ends]
