"""Items with fields that lie, are gone or are of another kind, and what they say all the same."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from support.real_items import readable_items

from fuzz.mutate import HOSTILE, WORSE, mutated
from kappamask.sample import catalog_path

# What is worth a try in a field of this name.
TIMES = [
    "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "1600-01-01T00:00:00Z", 20240601,
    1612011210000, "2024-W23-4", "now", "today", "NaT", "2024-02-30T00:00:00Z", "2024-06-01",
    "2024-06-01T10:00:00", "2024-06-01T10:00:00+05:30", "2024-06-01 10:00", "2024-06-01T24:00:00Z",
    "2024-06-01T10:00:60Z", "2024-06-01T10:00:00.123456789Z", "-2024-06-01T10:00:00Z",
]  # fmt: skip
BASELINES = [
    "02.04", "03.01", "04.00", "05.10", "0400", "0301", "99.99", "5.1", "04", 4.0, 5.09, 3.01,
    "\u0660\u0662.\u0660\u0664", "v05.09", " 05.09", "05.09\n", "N0510", "-4.00", "4.00.0",
    "00.01", "0x400",
]  # fmt: skip
FLAGS = [True, False, "true", "false", "True", 0, 1, None, [], "no"]
CODES = [
    "EPSG:0", "EPSG:99999", "EPSG:4326", "EPSG:32632", "32632", "epsg:32601", "ESRI:102008",
    "IAU_2015:30100", "EPSG:-32632", 32632, 32632.0, 32632.5, 0, 10**12, "EPSG:3857", "EPSG:",
]  # fmt: skip
SHAPES = [[0, 0], [-1, 5], [10**9, 10**9], [10**400, 2], [1.5, 2], ["100", "100"], [100], [1, 1],
          [100, 100, 3], [True, True], [10**6, 1], [[100], [100]], [100, None]]  # fmt: skip
TRANSFORMS = [
    [10, 0, 0, 0, -10, 0], [0, 0, 0, 0, 0, 0], [10, 1, 600000, 1, -10, 5000000], [10], [1e308] * 6,
    [10, 0, 600000, 0, 10, 5000000], ["10", 0, 600000, 0, -10, 5000000], [1e-9, 0, 0, 0, -1e-9, 0],
    [10, 0, 600000, 0, -10, 5000000, 0, 0, 1], [10, 0, None, 0, -10, 5000000], [-10, 0, 0, 0, 10,
    0],
]  # fmt: skip
GEOMETRIES = [
    {"type": "Point", "coordinates": [11, 46]}, {"type": "Polygon", "coordinates": []},
    {"type": "Polygon", "coordinates": [[[11, 46], [12, 46], [12, 47], [11, 46]]]},
    {"type": "Polygon", "coordinates": [[[11, 46], [12, 47]]]},
    {"type": "Polygon", "coordinates": [[[1e300, 46], [12, 46], [12, 47], [1e300, 46]]]},
    {"type": "GeometryCollection", "geometries": []}, {"type": "Polygon"},
    {"type": "Polygon", "coordinates": [[[None, 46], [12, 46], [12, 47], [None, 46]]]},
    {"type": "MultiPolygon", "coordinates": [[[[179, 0], [-179, 0], [-179, 1], [179, 0]]]]},
    {"type": "Polygon", "coordinates": "x"}, {"type": "Feature", "geometry": None},
]  # fmt: skip
_BASELINES = (
    "s2:processing_baseline", "sentinel2:processing_baseline", "sentinel:processing_baseline",
    "processing_baseline", "processing:version",
)  # fmt: skip
TARGETS = {
    **dict.fromkeys(("datetime", "start_datetime", "created", "s2:generation_time",
                     "sentinel2:generation_time", "processing:datetime"), TIMES),
    **dict.fromkeys(_BASELINES, BASELINES),
    **dict.fromkeys(("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"), FLAGS),
    "proj:code": CODES,
    "proj:epsg": CODES,
    "proj:shape": SHAPES,
    "proj:transform": TRANSFORMS,
    "geometry": GEOMETRIES,
    "coordinates": [one.get("coordinates") for one in GEOMETRIES],
    "gsd": [0, -10, 10, 20, 60, "10", "ten", 1e-300, 1e300, True, [10]],
    "bbox": [[0, 0, 0, 0], [1e300] * 4, [11, 46], ["a", "b", "c", "d"]],
    "eo:cloud_cover": [-1, 101, 10**400, "20", True, float("nan")],
    "href": ["", "/", "B02.tif", "http://[", "//", "s3://x/y.jp2", "R10m/x_10m.jp2", 5, None,
    "\x00"],
    "id": ["", "x", 5, "a b", "S2A_MSIL1C_20170216T101101_N0204_R022_T33UUU_20170216T101105",
           "S2A_MSIL2A_20230611T101601_N0509_R065_T32TPS_20230611T162001", ["x"]],
    "collection": ["sentinel-2-l1c", "sentinel-2-l2a", 5, ["x"], "landsat-c2-l2"],
    "links": [None, "x", [None], [{}], [{"rel": "self"}], [{"rel": "self", "href": 5}], {"a": 1}],
}  # fmt: skip
HREFS = "/nowhere"


@cache
def sample_items():
    """The 13 embedded items, their hrefs absolute."""
    found = []
    for path in sorted(catalog_path().parent.glob("sentinel-2-*/*/*.json")):
        document = json.loads(path.read_text("utf-8"))
        for asset in document["assets"].values():
            asset["href"] = str(path.parent / asset["href"].removeprefix("./"))
        found.append(document | {"links": []})
    return found


@cache
def real_items():
    """The readable ones of the real items; none where they are not there."""
    folder = Path(__file__).resolve().parents[3] / "shared/data/stac-items"
    return [document for _, document in readable_items(folder).values()] if folder.is_dir() else []


def weight(path):
    """Choose fields that are read more often than others."""
    if path[0] in ("stac_extensions", "stac_version", "links") and len(path) > 1:
        return 0
    if path[0] == "assets" and len(path) > 3 and path[2] not in ("proj:transform", "proj:shape"):
        return 0
    if path[0] == "geometry" and len(path) > 3:
        return 0 if sum(part for part in path if isinstance(part, int)) % 3 else 1
    if path[-1] in TARGETS:
        return 4
    return 3 if len(path) == 1 else 1


def changed(documents):
    """Give one of the documents with one to three fields changed."""
    return st.integers(0, len(documents) - 1).flatmap(
        lambda number: mutated(
            documents[number], targets=TARGETS, values=HOSTILE + WORSE, weights=weight
        )
    )


# --- a naive reading -----------------------------------------------------------------------

_NAMES = (
    "s2:product_uri", "sentinel:product_id", "s2:product_title", "sentinel2:product_title",
    "s2:tile_id",
)  # fmt: skip


def properties_of(document):
    """What an item says, if it is one."""
    found = document.get("properties")
    return found if isinstance(found, dict) else {}


def offsets_said(document):
    """Which offsets an item can be said to have, by anything that it says.

    Empty where it says nothing that can be read.
    """
    properties, said = properties_of(document), set()
    for name in _BASELINES:
        told = re.fullmatch(r"\s*([0-9]{1,2})\.?([0-9]{2})\s*", str(properties.get(name)))
        if told:
            said.add(f"{int(told[1]):02d}.{told[2]}")
    for text in [*(properties.get(name) for name in _NAMES), document.get("id")]:
        if told := re.search(r"_N([0-9]{2})\.?([0-9]{2})", str(text)):
            said.add(f"{told[1]}.{told[2]}")
    return {-1000 if baseline >= "04.00" else 0 for baseline in said - {"99.99"}}


def offset_flag(document):
    """The first flag that the catalogue sets."""
    for name in ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"):
        if (flag := properties_of(document).get(name)) is not None:
            return flag
    return None


def times_said(document):
    """The time that an item tells, by a plain pattern; None where that does not know."""
    for name in ("datetime", "start_datetime"):
        text = properties_of(document).get(name)
        if isinstance(text, str) and (
            told := re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", text, re.ASCII)
        ):
            try:
                time = datetime.strptime(told[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
            except ValueError:
                return None
            return time if 1970 <= time.year < 2200 else None  # others are no time of a scene
        if text:
            return None
    return None
