"""The table of faults: how each is set up, and what a user may expect of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
from rasterio.io import MemoryFile
from rasterio.shutil import copy

from faults import signer
from faults.flips import flip_noticed
from faults.scene import DN, FAULTY, LEFT, SIZE, TOP, encode, encode_jp2, item_id
from faults.server import Trouble, World

SURVIVED = "survived"  # labels are those of a run without faults
SKIPPED = "skipped"  # the date is named with item and asset; the others are there
REFUSED = "refused"  # one line, and nothing is written
FILE = f"/{item_id(FAULTY)}/B03"  # green on the date in the middle
ASSET = "asset 'green' (B03)"


@dataclass(frozen=True)
class Fault:
    """One row."""

    name: str
    arrange: Callable[[World], object]
    expected: str  # of `kappamask mask`
    told: tuple[str, ...] = ()  # what the line that the user sees holds
    least_wait_s: float = 0.0  # after the last refusal, nothing is asked for so long
    python: str | None = None  # what is expected of search, load_cube, predict_cube, if other
    engine: str = "stackstac"
    limit_s: float = 0.8  # how long an answer is waited for
    rounds: int = 1  # in which failed dates are tried again
    both_doors: bool = True  # False: only `kappamask mask`, where a fault takes seconds
    most_requests: int = 30  # for the faulty path

    @property
    def of_python(self):
        """What the Python door shall do: an item that cannot be read is an error there."""
        return self.python or (SURVIVED if self.expected == SURVIVED else REFUSED)


def on_path(kind, path, name, what, expected, *, told=(), **options):
    """Make a fault of what a server answers for a path."""
    own = {field.name for field in fields(Fault)} & options.keys()
    fault = {key: options.pop(key) for key in own}
    trouble = {"path": path, "what": what, **options}

    def arrange(world):
        world.troubles.append(Trouble(**trouble))

    return Fault(f"{kind}: {name}", arrange, expected, told, **fault)


def on_file(name, what, expected, *, told=(), **options):
    """Make a fault of one file."""
    told = (item_id(FAULTY), ASSET, *told) if expected == SKIPPED else told
    return on_path("file", FILE, name, what, expected, told=told, **options)


on_search = partial(on_path, "catalogue", "^/search")  # a fault of the catalogue's search


def on_item(name, change, expected, told=(), *, known_as=None):
    """Make a fault of one item's words."""

    def arrange(world):
        world.ignores = ("intersects",)  # what has no geometry cannot be searched for by one
        (item,) = (item for item in world.items if item["id"] == item_id(FAULTY))
        change(item)

    if expected == SKIPPED:
        told = (known_as or item_id(FAULTY), *told)
    return Fault(f"item: {name}", arrange, expected, told)


def paged(name, paging, expected, told=()):
    """Make a fault of paging."""

    def arrange(world):
        world.paging = paging

    return Fault(f"catalogue: {name}", arrange, expected, told)


# --- files of other kinds ----------------------------------------------------------------


def other_file(name, make, told=()):
    """Make a fault of a file that is whole, and another one."""
    return on_file(name, "other", SKIPPED, times=None, content=make(), told=told)


GREEN = DN[1, 1]
VRT = (  # it would be read from where it says
    f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><SRS>EPSG:32632</SRS><GeoTransform>'
    f"{LEFT},10,0,{TOP},0,-10</GeoTransform><VRTRasterBand dataType='UInt16' band='1'>"
    "<SimpleSource><SourceFilename>/vsicurl/http://127.0.0.1:9/x.tif</SourceFilename>"
    "</SimpleSource></VRTRasterBand></VRTDataset>"
)


def with_huge_tiles():
    """Let TileWidth and TileLength say the largest that TIFF takes."""
    content = bytearray(encode(GREEN))
    for tag in (322, 323):
        at = content.index(struct.pack("<HHI", tag, 3, 1))
        content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 2**31 - 16)
    return bytes(content)


def with_overviews_elsewhere():
    """Name another file for the overviews, as GDAL takes it from inside a GeoTIFF."""
    with MemoryFile(encode(GREEN)) as memory, TemporaryDirectory() as folder:
        path = Path(folder) / "x.tif"
        with memory.open() as raster:
            copy(raster, path, driver="GTiff")
        with rasterio.open(path, "r+") as raster:
            raster.update_tags(ns="OVERVIEWS", OVERVIEW_FILE="/etc/passwd")
        return path.read_bytes()


def with_other_jp2_tiles():
    """Let a JP2 say tiles of 32 pixels, of which one follows: the others decode to zeros."""
    content = bytearray(encode_jp2(GREEN))
    at = content.index(b"\xff\x51") + 22
    content[at : at + 8] = struct.pack(">2I", 32, 32)
    return bytes(content)


def lost(name, make, suffix="tif"):
    """Make a fault of a band that has no data where the others have it."""

    def arrange(world):
        world.fill(suffix=suffix)
        world.troubles.append(Trouble(FILE, "other", times=None, content=make()))

    return Fault(f"file: {name}", arrange, SKIPPED, (item_id(FAULTY), "B03"))


FLIPPED = flip_noticed(encode(GREEN))


def jp2(*troubles):
    """Serve all dates as JP2, one of them spoiled."""

    def arrange(world):
        world.fill(suffix="jp2")
        world.troubles += [Trouble(FILE, what, times=None) for what in troubles]

    return arrange


# --- signatures --------------------------------------------------------------------------


def expiring(*, ahead_s, renewed):
    """Give files out to signed requests only; the clock of the server runs ahead.

    On one date, what is signed first has expired when it is used.
    """

    def arrange(world):
        world.signed, world.clock_s = True, ahead_s
        later = ahead_s + 60 if renewed else ahead_s - 1
        signer.arrange(item_id(FAULTY), lasts_s=(ahead_s - 1, later), others_s=ahead_s + 60)

    return arrange


# --- items -------------------------------------------------------------------------------

UNTOLD = item_id(FAULTY).replace("_N0400", "")


def drop_baseline(item):
    del item["properties"]["s2:processing_baseline"]
    item["id"] = UNTOLD


def in_assets(**values):
    """Give every asset other words; those of None are taken out."""

    def change(item):
        for asset in item["assets"].values():
            asset.update(values)
            for key in [key for key in values if values[key] is None]:
                del asset[key]

    return change


def moved(metres):
    return [10, 0, LEFT + metres, 0, -10, TOP]


BUSY = {"Retry-After": "1"}
ALWAYS = {"times": None}
SHORT = {"times": None, "limit_s": 0.4, "rounds": 0, "both_doors": False}
SECOND = {"times": None, "lasts_s": 0.95, "both_doors": False}
FAULTS = (
    on_file("403, always", "status", SKIPPED, status=403, told=("HTTP 403", "expired"), **ALWAYS),
    on_file("403, once", "status", SURVIVED, status=403),
    on_file("404, always", "status", SKIPPED, status=404, told=("HTTP 404", "gone"), **ALWAYS),
    on_file("404, once", "status", SURVIVED, status=404),
    on_file("429 with Retry-After, for a second", "status", SURVIVED, status=429, headers=BUSY,
            least_wait_s=0.9, **SECOND),
    on_file("429 with Retry-After, always", "status", SKIPPED, status=429,
            headers={"Retry-After": "0"}, told=("HTTP 429", "in 3 tries"), **ALWAYS),
    on_file("500, twice", "status", SURVIVED, times=2),
    on_file("500, always", "status", SKIPPED, told=("HTTP 500", "in 3 tries"), **ALWAYS),
    on_file("503 with Retry-After, for a second", "status", SURVIVED, status=503, headers=BUSY,
            least_wait_s=0.9, **SECOND),
    on_file("503, always", "status", SKIPPED, status=503, told=("HTTP 503",), **ALWAYS),
    on_file("500, twice (odc-stac)", "status", SURVIVED, times=2, engine="odc"),
    on_file("404, always (odc-stac)", "status", SKIPPED, status=404, told=("HTTP 404",),
            engine="odc", **ALWAYS),
    on_file("connection closed unanswered, twice", "reset", SURVIVED, times=2),
    on_file("connection dropped in a range, twice", "drop", SURVIVED, times=2),
    on_file("connection dropped in a range, always", "drop", SKIPPED, methods=("GET",), **ALWAYS),
    on_file("stall beyond the time-out, once", "stall", SURVIVED, methods=("GET",)),
    on_file("stall beyond the time-out, always", "stall", SKIPPED, told=("no answer",), **SHORT),
    on_file("COG cut short, twice", "cut", SURVIVED, times=2),
    on_file("COG cut short, always", "cut", SKIPPED, **ALWAYS),
    on_file("a flipped bit that DEFLATE notices, twice", "other", SURVIVED, content=FLIPPED,
            times=2),
    on_file("a flipped bit that DEFLATE notices, always", "other", SKIPPED, content=FLIPPED,
            **ALWAYS),
    Fault("file: JP2, no fault", jp2(), SURVIVED),
    Fault("file: JP2 cut short, always", jp2("cut"), SKIPPED, (item_id(FAULTY), ASSET)),
    other_file("empty", bytes),
    other_file("a web page", lambda: b"<html>Please sign in</html>"),
    other_file("a VRT that names an address", VRT.encode, ("supported file format",)),
    other_file("overviews that lie elsewhere", with_overviews_elsewhere, ("overviews",)),
    other_file("tiles of 2^31 pixels", with_huge_tiles, ("2147483632",)),
    lost("zeros where other bands have data", lambda: encode(np.zeros_like(GREEN))),
    lost("JP2 with other tile sizes", with_other_jp2_tiles, "jp2"),
    other_file("half the rows", lambda: encode(GREEN[: SIZE // 2]), ("64 x 128 pixels",)),
    other_file("2 km to the east", lambda: encode(GREEN, left=LEFT + 2000), ("item says",)),
    other_file("another zone", lambda: encode(GREEN, epsg=32633), ("EPSG:32633",)),
    other_file("without a CRS", lambda: encode(GREEN, epsg=None)),
    other_file("floating point", lambda: encode(GREEN.astype("float32")), ("float32",)),
    Fault("signature expired, the catalogue renews", expiring(ahead_s=60, renewed=True), SURVIVED,
          python=REFUSED),
    Fault("signature expired, not renewed", expiring(ahead_s=60, renewed=False), SKIPPED,
          (item_id(FAULTY), "HTTP 403", "expired")),
    on_search("403", "status", REFUSED, status=403, told=("HTTP 403",), **ALWAYS),
    on_search("404", "status", REFUSED, status=404, told=("HTTP 404",), **ALWAYS),
    on_search("429 with Retry-After, for a second", "status", SURVIVED, status=429, headers=BUSY,
              least_wait_s=0.9, **SECOND),
    on_search("429, always", "status", REFUSED, status=429, told=("too many requests",), **ALWAYS),
    on_search("500, twice", "status", SURVIVED, times=2),
    on_search("503, always", "status", REFUSED, status=503, told=("HTTP 503", "tries"), **ALWAYS),
    on_search("connection closed unanswered, twice", "reset", SURVIVED, times=2),
    on_search("connection dropped in an answer, once", "drop", SURVIVED),
    on_search("connection dropped in an answer, always", "drop", REFUSED,
              told=("connection",), **ALWAYS),
    on_search("stall beyond the time-out, once", "stall", SURVIVED),
    on_search("stall beyond the time-out, always", "stall", REFUSED, told=("no answer",), **SHORT),
    paged("empty pages between full ones", "empty pages", SURVIVED),
    paged("the last page leads to the first", "repeats", SURVIVED, ("repeats its pages",)),
    on_search("an answer that unpacks to 96 MB", "bomb", REFUSED, told=("at most 64 MB",),
              both_doors=False, limit_s=20.0, **ALWAYS),
    paged("the last page without end", "never ends", SURVIVED, ("repeats its pages",)),
    paged("empty pages without end", "empty without end", SURVIVED, ("repeats its pages",)),
    on_item("no asset for red", lambda item: item["assets"].pop("red"), SKIPPED, ("B04",)),
    on_item("an asset without address", lambda item: item["assets"]["green"].update(href=""),
            SKIPPED, ("'green'",)),
    on_item("no baseline", drop_baseline, SKIPPED, ("baseline",), known_as=UNTOLD),
    on_item("no grid (proj:transform, proj:shape)",
            in_assets(**{"proj:transform": None, "proj:shape": None}), SURVIVED),
    on_item("another scale and offset (raster:bands)",
            in_assets(**{"raster:bands": [{"scale": 0.0002, "offset": -0.7, "nodata": 77}]}),
            SURVIVED),
    on_item("another zone (proj:epsg)",
            lambda item: item["properties"].update({"proj:epsg": 32633}), SKIPPED,
            ("EPSG:32633",)),
    on_item("200 km to the east (proj:transform)",
            in_assets(**{"proj:transform": moved(200_000)}), SKIPPED, ("geometry",)),
    on_item("100 m to the east (proj:transform)", in_assets(**{"proj:transform": moved(100)}),
            SKIPPED, ("as its item says",)),
    on_item("half the rows (proj:shape)", in_assets(**{"proj:shape": [SIZE // 2, SIZE]}),
            SKIPPED, ("as its item says",)),
    on_item("no geometry", lambda item: item.update(geometry=None), SKIPPED, ("geometry",)),
)  # fmt: skip
