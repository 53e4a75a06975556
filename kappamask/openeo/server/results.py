"""Result files and what STAC says of them. May import `engine.save`, xarray and rioxarray.

Files are looked at once, in the process that wrote them; the server keeps what was
found as JSON and opens no raster.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

LOG = logging.getLogger(__name__)
MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff",
    ".tiff": "image/tiff; application=geotiff",
    ".nc": "application/x-netcdf",
    ".json": "application/json",
    ".geojson": "application/geo+json",
    ".png": "image/png",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".zip": "application/zip",
    ".tar": "application/x-tar",
}
OTHER_TYPE = "application/octet-stream"
EXTENSIONS = [
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
]
_DAY = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?:T(\d{2}):?(\d{2}):?(\d{2}))?(?!\d)")


def write_result(result: Any, folder: Path) -> list[Path]:
    """Bring whatever a graph ends in into files: it need not end in save_result.

    Parameters
    ----------
    result
        Paths that were written, an xarray object, or anything that JSON holds.
    folder
        Where the file goes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.read_text() for path in write_result(8.5, Path(folder))]
    ['8.5']
    """
    if isinstance(result, Path):
        return [result]
    if isinstance(result, list | tuple) and result and all(isinstance(p, Path) for p in result):
        return list(result)
    from kappamask.openeo.engine.save import kind_of, save_result

    if kind_of(result) == "raster":
        return save_result(result, "netCDF", folder=folder)
    return save_result(result, "JSON", {"filename_prefix": "result"}, folder=folder)


def collect_files(paths: Iterable[Path], folder: Path) -> list[dict[str, Any]]:
    """Describe result files: name, size, type and, where known, place and time.

    A name is relative to the folder. What is no regular file inside it is left out.
    """
    described = []
    for path in paths:
        roots = [root for root in (folder, folder.resolve()) if path.is_relative_to(root)]
        name = (path.relative_to(roots[0]) if roots else path).as_posix()
        inside = find_inside(folder, name)
        if inside is None:
            LOG.warning("left out %s: no regular file in the result folder", path)
            continue
        kind = MEDIA_TYPES.get(inside.suffix.lower(), OTHER_TYPE)
        known = {"name": name, "bytes": inside.stat().st_size, "type": kind}
        described.append(known | look_into(inside))
    return described


def are_written(said: list[Any], folder: Path) -> bool:
    """Tell whether files are there, and described as `collect_files` does.

    The process that wrote them says so, in which code of clients may speak, too.

    Examples
    --------
    >>> are_written([{"name": "../etc/passwd", "type": "text/csv", "bytes": 1}], Path("/usr"))
    False
    """
    job, kinds = dict.fromkeys(("id", "created"), ""), {*MEDIA_TYPES.values(), OTHER_TYPE}
    try:
        for file in said:
            to_item(job, file, "")
            if find_inside(folder, file["name"]) is None or file["type"] not in kinds:
                return False
        to_collection(job, said, "")
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return True


def find_inside(folder: Path, name: str) -> Path | None:
    """Give the path of a regular file below a folder that no link leads to; None for all else.

    Examples
    --------
    >>> [find_inside(Path("/usr"), name) for name in ("../etc/passwd", "/etc/passwd", "bin", "")]
    [None, None, None, None]
    """
    path, parts = folder, PurePosixPath(name).parts
    for part in parts:
        path = path / part
        if part in {"..", "/"} or path.is_symlink():
            return None
    return path if path.is_file() else None


def look_into(path: Path) -> dict[str, Any]:
    """Read place and time of a raster; empty for other files and what cannot be read."""
    if path.suffix.lower() not in {".tif", ".tiff", ".nc"}:
        return {}
    import numpy as np
    import rioxarray  # noqa: F401  registers .rio
    import xarray as xr
    from rasterio.warp import transform_bounds

    try:
        engine = None if path.suffix.lower() == ".nc" else "rasterio"
        found: dict[str, Any] = {}
        with xr.open_dataset(path, decode_coords="all", engine=engine) as opened:
            content = opened.set_coords([name for name in ("spatial_ref", "crs") if name in opened])
            tags = [str(band.attrs.get("datetime", "")) for band in content.data_vars.values()]
            times = find_times(" ".join(tags)) or find_times(path.stem)
            for name in ("t", "time"):
                if name in content.coords and np.issubdtype(content[name].dtype, np.datetime64):
                    values = np.sort(content[name].values.ravel())
                    times = [f"{np.datetime_as_string(value, unit='s')}Z" for value in values]
            if times:
                found |= {"start": times[0], "end": times[-1]}
            if {"x", "y"} <= set(content.dims):
                found["shape"] = [content.sizes["y"], content.sizes["x"]]
                found["transform"] = list(content.rio.transform())[:6]
                if (crs := content.rio.crs) is not None:
                    bbox = transform_bounds(crs, "EPSG:4326", *content.rio.bounds())
                    found["bbox"] = [round(value, 7) for value in bbox]
                    found |= {"code": f"EPSG:{epsg}"} if (epsg := crs.to_epsg()) else {}
    except Exception as error:  # noqa: BLE001  a file that lacks a description is still a result
        LOG.warning("cannot describe %s: %s", path.name, error)
        return {}
    return found


def find_times(text: str) -> list[str]:
    """Find dates in a text, as RFC 3339 in UTC, in order of time.

    Examples
    --------
    >>> find_times("openEO_2022-06-02Z"), find_times("mask_20220602T101559_L2A")
    (['2022-06-02T00:00:00Z'], ['2022-06-02T10:15:59Z'])
    """
    found = []
    for parts in _DAY.findall(text):
        try:
            year, month, day, hour, minute, second = (int(part or 0) for part in parts)
            time = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            continue  # digits that are no date
        found.append(time.isoformat().replace("+00:00", "Z"))
    return sorted(found)


# --- STAC -----------------------------------------------------------------------------------


def to_collection(
    job: dict[str, Any],
    files: Sequence[dict[str, Any]],
    url: str,
    sign: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Describe the results of a batch job as a STAC collection with all assets.

    Parameters
    ----------
    job
        With id, title, description and created, as the API gives it.
    files
        What `collect_files` found.
    url
        Of the results: ``.../jobs/{job_id}/results``.
    sign
        Makes links of files, and the canonical one, work without the token.
    """
    boxes = [file["bbox"] for file in files if "bbox" in file] or [[-180, -90, 180, 90]]
    wests, souths, easts, norths = zip(*boxes, strict=True)
    starts = [file["start"] for file in files if "start" in file] or [job["created"]]
    ends = [file["end"] for file in files if "end" in file] or [job["created"]]
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": job["id"],
        "title": job.get("title") or f"Results of batch job {job['id']}",
        "description": job.get("description") or "Results of a batch job of kappamask serve.",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [[min(wests), min(souths), max(easts), max(norths)]]},
            "temporal": {"interval": [[min(starts), max(ends)]]},
        },
        "openeo:status": "finished",
        "assets": {file["name"]: _to_asset(file, url, sign) for file in files},
        "links": [
            _link("self", url),
            _link("canonical", sign(url)),
            *(_link("item", f"{url}/items/{file['name']}") for file in files),
        ],
    }


def to_item(
    job: dict[str, Any], file: dict[str, Any], url: str, sign: Callable[[str], str] = str
) -> dict[str, Any]:
    """Describe one result file as a STAC item; arguments as above."""
    start, end = (file.get(key, job["created"]) for key in ("start", "end"))
    span = {} if start == end else {"start_datetime": start, "end_datetime": end}
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": re.sub(r"[^\w.-]+", "_", file["name"]),
        "collection": job["id"],
        "geometry": None,
        "properties": {"datetime": start if start == end else None, **span},
        "assets": {file["name"]: _to_asset(file, url, sign)},
        "links": [
            _link("self", f"{url}/items/{file['name']}"),
            *(_link(rel, url) for rel in ("collection", "parent")),
        ],
    }
    if "bbox" in file:
        west, south, east, north = file["bbox"]
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        item |= {"bbox": file["bbox"], "geometry": {"type": "Polygon", "coordinates": [ring]}}
    return item


def _link(rel: str, href: str) -> dict[str, str]:
    kind = "geo+json" if "/results/items/" in href else "json"
    return {"rel": rel, "href": href, "type": f"application/{kind}"}


def _to_asset(file: dict[str, Any], url: str, sign: Callable[[str], str]) -> dict[str, Any]:
    known = [key for key in ("code", "shape", "transform") if key in file]
    return {
        "href": sign(f"{url}/assets/{file['name']}"),
        "type": file["type"],
        "title": file["name"],
        "roles": ["data"],
        "file:size": file["bytes"],
        **{f"proj:{key}": file[key] for key in known},
    }
