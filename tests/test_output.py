"""`kappamask.output` and `kappamask.stac_item`: files, and what is said of them."""

import hashlib
import json
import os
import resource
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import dask.array as da
import jsonschema
import numpy as np
import pystac
import pytest
import rasterio
import rasterio.shutil
import rioxarray  # noqa: F401  (registers the .rio accessor)
import shapely
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pystac.validation.local_validator import get_local_schema_cache
from rasterio.errors import RasterioIOError
from rasterio.warp import transform_bounds
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7
from rio_cogeo.cogeo import cog_validate

from kappamask import __version__, output
from kappamask.errors import InputError, ItemError, ReadError, WriteError
from kappamask.legend import LEGEND
from kappamask.output import write_mask
from kappamask.stac_item import read_source

NAMES = ["undefined", "clear", "cloud_shadow", "semi_transparent_cloud", "cloud", "missing"]
CORNER = (674990.0, 5154960.0)  # left, top: the Bolzano scene
FIRST = "2022-06-02T10:15:59.024"


def make_labels(codes, *, corner=CORNER, step=10.0, crs="EPSG:32632", first=FIRST, **attrs):
    """A label cube as predict_cube returns it, one date every five days."""
    codes = np.asarray(codes) if not isinstance(codes, da.Array) else codes
    count, rows, columns = codes.shape
    left, top = corner
    times = np.datetime64(first, "ns") + np.arange(count) * np.timedelta64(5, "D")
    return xr.DataArray(
        codes,
        dims=("time", "y", "x"),
        coords={
            "time": times,
            "y": top - step * (np.arange(rows) + 0.5),
            "x": left + step * (np.arange(columns) + 0.5),
        },
        attrs={
            "level": "L2A",
            "kappamask_model": "own-l2a",
            "kappamask_model_sha256": "ab" * 32,
            "transform": (step, 0.0, left, 0.0, -step, top),  # rioxarray makes a GeoTransform of it
            **attrs,
        },
    ).rio.write_crs(crs)


def random_codes(shape, *, seed=0):
    return np.random.default_rng(seed).integers(0, 6, shape, dtype=np.uint8)


def patchy_codes(shape, *, seed=0):
    """Codes in patches of 8 x 8 with some noise: overviews have something to decide."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 6, [-(-side // 8) for side in shape], dtype=np.uint8)
    codes = coarse.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]]
    noisy = rng.random(shape) < 0.3
    return np.where(noisy, rng.integers(0, 6, shape, dtype=np.uint8), codes)


def make_item(name, when, **properties):
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": when, **properties},
        "links": [{"rel": "self", "href": f"https://stac.example/items/{name}"}],
        "assets": {},
    }


def read_item(path):
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def derived_from(path):
    links = [link for link in read_item(path)["links"] if link["rel"] == "derived_from"]
    return [link["href"] for link in links if "model" not in link["href"]]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- the raster -----------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 1100),
    columns=st.integers(1, 1100),
    seed=st.integers(0, 99),
    codes=st.sampled_from([(1, 5), (0, 6), (5, 6), (4, 5)]),
)
@example(rows=1, columns=1, seed=0, codes=(0, 6))
@example(rows=1, columns=513, seed=0, codes=(0, 6))
@example(rows=513, columns=1, seed=0, codes=(0, 6))
@example(rows=513, columns=2, seed=0, codes=(0, 6))
@example(rows=513, columns=512, seed=0, codes=(0, 6))
@example(rows=1100, columns=512, seed=0, codes=(0, 6))
@example(rows=1100, columns=1025, seed=0, codes=(0, 6))
@example(rows=512, columns=512, seed=0, codes=(0, 6))
def test_save_then_load_is_identity(rows, columns, seed, codes):
    values = np.random.default_rng(seed).integers(*codes, (1, rows, columns), dtype=np.uint8)
    labels = make_labels(values)
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write_mask(labels, folder)
        with rasterio.open(path) as raster:
            np.testing.assert_array_equal(raster.read(), values)
            assert raster.crs == labels.rio.crs
            assert raster.xy(0, 0) == (labels.x[0], labels.y[0])
            assert raster.xy(rows - 1, columns - 1) == (labels.x[-1], labels.y[-1])
        # rasterio counts an overview's reduction along x only: a column has none to count.
        if columns > 1 or rows <= 512:
            assert cog_validate(path, strict=True, quiet=True) == (True, [], [])


def test_the_raster_is_a_cog_of_512_blocks_with_palette_and_names(tmp_path):
    (path,) = write_mask(make_labels(random_codes((1, 600, 700))), tmp_path)
    with rasterio.open(path) as raster:
        assert raster.profile["dtype"] == "uint8"
        assert raster.profile["compress"] == "deflate"
        assert raster.block_shapes == [(512, 512)]
        assert raster.nodata == 5
        assert raster.overviews(1) == [2]
        palette = raster.colormap(1)
        band_tags = raster.tags(1)
        tags = raster.tags()
    # The nodata entry is transparent to GDAL's readers; its colour is the legend's.
    assert {entry.label: palette[entry.label][:3] for entry in LEGEND} == {
        entry.label: entry.rgb for entry in LEGEND
    }
    assert band_tags["flag_meanings"].split() == NAMES
    assert band_tags["flag_values"] == "0, 1, 2, 3, 4, 5"
    assert tags["TIFFTAG_SOFTWARE"] == f"kappamask {__version__}"
    assert tags["TIFFTAG_COPYRIGHT"] == "Contains modified Copernicus Sentinel data 2022"
    assert (tags["model"], tags["model_sha256"]) == ("own-l2a", "ab" * 32)
    assert (tags["level"], tags["datetime"]) == ("L2A", f"{FIRST}000Z")


def test_gdal_reads_the_class_names_as_categories(tmp_path):
    (path,) = write_mask(make_labels(random_codes((1, 20, 20))), tmp_path)
    rasterio.shutil.copy(path, tmp_path / "copy.vrt", driver="VRT")  # a VRT spells them out
    text = (tmp_path / "copy.vrt").read_text()
    found = [part.split("<")[0] for part in text.split("<Category>")[1:]]
    assert found == [entry.title for entry in LEGEND]


def test_an_overview_holds_the_most_frequent_class(tmp_path):
    codes = patchy_codes((1040, 1300))
    (path,) = write_mask(make_labels(codes[None]), tmp_path)
    with rasterio.open(path, overview_level=0) as raster:
        overview = raster.read(1)
    assert overview.shape == (520, 650)
    blocks = codes.reshape(520, 2, 650, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    for block, got in zip(blocks[::7].tolist(), overview.ravel()[::7].tolist(), strict=True):
        votes = Counter(code for code in block if code != 5)  # no data does not vote
        assert votes.get(got) == max(votes.values()) if votes else got == 5, (block, got)


def test_the_same_labels_give_the_same_bytes_lazy_or_loaded(tmp_path):
    codes = random_codes((2, 300, 200))
    write_mask(make_labels(codes), tmp_path / "a")
    write_mask(make_labels(codes), tmp_path / "b")
    write_mask(make_labels(da.from_array(codes, chunks=(1, 64, 64))), tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_axes_that_run_the_other_way_are_turned_north_up(tmp_path):
    labels = make_labels(random_codes((1, 30, 20)))
    write_mask(labels, tmp_path / "usual")
    turned = labels.isel(y=slice(None, None, -1), x=slice(None, None, -1)).transpose("x", "y", ...)
    write_mask(turned, tmp_path / "turned")
    assert contents(tmp_path / "usual") == contents(tmp_path / "turned")


def test_a_single_date_needs_no_time_dim(tmp_path):
    labels = make_labels(random_codes((2, 30, 20)))
    write_mask(labels.isel(time=[1]), tmp_path / "cube")
    write_mask(labels.isel(time=1), tmp_path / "slice")
    assert contents(tmp_path / "cube") == contents(tmp_path / "slice")


# --- one date at a time ---------------------------------------------------------------------


def lazy_codes(count, events, *, broken=()):
    """A dask cube that notes which date is computed, and fails at the broken ones."""

    def compute(block_info=None):
        date = block_info[None]["chunk-location"][0]
        events.append(f"compute {date}")
        if date in broken:
            raise RasterioIOError(f"B04.tif of date {date} is truncated")
        return np.full((1, 8, 8), 1 + date % 5, dtype=np.uint8)

    return da.map_blocks(
        compute, chunks=((1,) * count, (8,), (8,)), dtype="uint8", meta=np.empty((0, 0, 0), "uint8")
    )


def test_dates_are_computed_and_written_one_at_a_time(tmp_path):
    events = []
    labels = make_labels(lazy_codes(3, events))
    paths = write_mask(labels, tmp_path, progress=lambda path: events.append(path.name[10:18]))
    assert events == [
        *("compute 0", "20220602"),
        *("compute 1", "20220607"),
        *("compute 2", "20220612"),
    ]
    assert [path.name for path in paths] == sorted(path.name for path in paths)
    assert isinstance(labels.data, da.Array)


def test_a_failed_date_is_named_at_the_end_and_the_others_are_kept(tmp_path):
    events = []
    with pytest.raises(ReadError) as caught:
        write_mask(make_labels(lazy_codes(3, events, broken=[1])), tmp_path)
    message = str(caught.value)
    for part in ("1 of 3", "2022-06-07T10:15:59", "B04.tif of date 1 is truncated", "overwrite=F"):
        assert part in message
    assert events == ["compute 0", "compute 1", "compute 2"]
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.tif"))) == 2


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    events = []
    with pytest.raises(ReadError):
        write_mask(make_labels(lazy_codes(3, events, broken=[1])), tmp_path)
    kept = contents(tmp_path)
    events.clear()
    paths = write_mask(make_labels(lazy_codes(3, events)), tmp_path, overwrite=False)
    assert events == ["compute 1"]
    assert len(paths) == 3
    assert kept.items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    "damage",
    ["truncated", "no item", "no json", "other model", "other grid", "other source", "other time"],
)
def test_a_date_that_is_not_complete_is_written_again(tmp_path, damage):
    labels = make_labels(random_codes((1, 40, 40)))
    (path,) = write_mask(labels, tmp_path / "good")
    changes = {"kappamask_model_sha256": "cd" * 32} if damage == "other model" else {}
    corner = (CORNER[0] + 10, CORNER[1]) if damage == "other grid" else CORNER
    old = make_labels(random_codes((1, 40, 40)), corner=corner, **changes)
    if damage == "other source":
        old = old.assign_coords(source_items=("time", ["S2A_of_an_older_baseline"]))
    if damage == "other time":
        old["time"] = old["time"] + np.timedelta64(5, "ms")
    (path,) = write_mask(old, tmp_path / "out")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "no item":
        path.with_suffix(".json").unlink()
    elif damage == "no json":
        path.with_suffix(".json").write_text("[1, 2")
    write_mask(labels, tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "good")


# --- nothing half-written -------------------------------------------------------------------


class BrokenDriver:
    """Stands in for rasterio's MemoryFile; its second raster fails while it is written."""

    opened = 0

    def __init__(self):
        self.memory = rasterio.io.MemoryFile()

    def __enter__(self):
        return self.memory.__enter__()

    def __exit__(self, *details):
        self.memory.__exit__(*details)
        type(self).opened += 1
        if self.opened == 2:
            raise RasterioIOError("the driver gave up")


def test_a_driver_that_fails_midway_leaves_nothing_of_its_date(tmp_path, monkeypatch):
    monkeypatch.setattr(BrokenDriver, "opened", 0)
    monkeypatch.setattr(output, "MemoryFile", BrokenDriver)
    labels = make_labels(random_codes((3, 40, 40)))
    with pytest.raises(WriteError, match=r"got the driver gave up for kappamask_20220607T.*\.tif"):
        write_mask(labels, tmp_path)
    monkeypatch.undo()
    write_mask(labels.isel(time=[0]), tmp_path / "first")
    first = contents(tmp_path / "first")
    shutil.rmtree(tmp_path / "first")
    assert contents(tmp_path) == first


@pytest.mark.parametrize("stop", [RasterioIOError("broken"), KeyboardInterrupt()])
def test_a_good_file_stays_when_writing_it_again_fails(tmp_path, monkeypatch, stop):
    write_mask(make_labels(random_codes((1, 40, 40))), tmp_path)
    before = contents(tmp_path)

    def fail(*_, **__):
        raise stop

    monkeypatch.setattr(output, "build_item", fail)
    with pytest.raises((WriteError, KeyboardInterrupt)):
        write_mask(make_labels(random_codes((1, 40, 40), seed=1)), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_stopped_between_moves_no_item_vouches_for_a_mixed_pair(tmp_path, monkeypatch, moved):
    write_mask(make_labels(random_codes((1, 40, 40))), tmp_path)
    labels = make_labels(random_codes((1, 40, 40), seed=1))
    moves, replace = [], Path.replace

    def stopping(self, target):
        if len(moves) == moved:
            raise KeyboardInterrupt
        moves.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_mask(labels, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob(".*"))
    (path,) = write_mask(labels, tmp_path, overwrite=False)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(), labels)


@contextmanager
def file_size_limit(size):
    """The system refuses to let any file grow beyond size: a full disk without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    write_mask(make_labels(random_codes((1, 200, 200))), tmp_path)
    before = contents(tmp_path)
    with file_size_limit(2048), pytest.raises(WriteError) as caught:
        write_mask(make_labels(random_codes((1, 200, 200), seed=1)), tmp_path)
    for part in ("File too large", "kappamask_20220602T101559_L2A.tif", str(tmp_path), "free some"):
        assert part in str(caught.value)
    assert contents(tmp_path) == before


@contextmanager
def as_nobody():
    """Root may write anywhere: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_is_found_before_anything_is_computed(tmp_path):
    events = []
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    with as_nobody(), pytest.raises(WriteError) as caught:
        write_mask(make_labels(lazy_codes(1, events)), folder)
    for part in ("Permission denied", str(folder), "choose another folder"):
        assert part in str(caught.value)
    assert not events
    assert not list(folder.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(WriteError, match="taken"):
        write_mask(make_labels(random_codes((1, 4, 4))), tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "x"


# --- the item -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def schemas(shared_data):
    """Core schemas from pystac, those of the extensions from the shared folder."""
    found = dict(get_local_schema_cache())
    for path in (shared_data / "stac-schemas").glob("*.json"):
        schema = json.loads(path.read_text())
        found[schema["$id"].removesuffix("#")] = schema
    resources = [
        (name, Resource.from_contents(schema, default_specification=DRAFT7))
        for name, schema in found.items()
    ]
    return found, Registry().with_resources(resources)


def validate(item, schemas):
    found, registry = schemas
    core = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
    for name in (core, *item["stac_extensions"]):
        jsonschema.Draft7Validator(found[name], registry=registry).validate(item)


def declared(item):
    return [name.split("/")[3] for name in item["stac_extensions"]]


ALL = ["classification", "eo", "file", "grid", "processing", "projection", "raster"]
SOURCE = make_item(
    "S2A_T32TPS_20220602T101559_L2A", "2022-06-02T10:15:59.024Z", platform="Sentinel-2A"
)
ITEM_CASES = {
    "plain": ({}, {}, set()),
    "all missing": ({"codes": np.full((1, 9, 9), 5, np.uint8)}, {}, {"eo"}),
    "no source": ({}, {"source_items": None}, {"grid"}),
    "degrees": ({"crs": "EPSG:4326", "corner": (11.25, 46.5), "step": 0.0001}, {}, set()),
    "no code": ({"crs": "+proj=laea +lat_0=50 +lon_0=10", "corner": (1000.0, 1000.0)}, {}, set()),
    "180 degrees": ({"crs": "EPSG:32601", "corner": (166000.0, 10000.0)}, {}, set()),
    "no model": ({"kappamask_model": None, "kappamask_model_sha256": None}, {}, set()),
}


@pytest.mark.shared
@pytest.mark.parametrize("case", ITEM_CASES)
def test_the_item_validates_offline(tmp_path, schemas, case):
    changes, arguments, absent = ITEM_CASES[case]
    labels = make_labels(**{"codes": random_codes((1, 9, 9)), **changes})
    (path,) = write_mask(labels, tmp_path, **{"source_items": [SOURCE], **arguments})
    item = read_item(path)
    validate(item, schemas)
    assert declared(item) == sorted(set(ALL) - absent)


@pytest.mark.shared
def test_the_validator_would_see_a_wrong_item(tmp_path, schemas):
    (path,) = write_mask(make_labels(random_codes((1, 9, 9))), tmp_path)
    item = read_item(path)
    item["assets"]["mask"]["classification:classes"][0]["color_hint"] = "#808080"
    with pytest.raises(jsonschema.ValidationError):
        validate(item, schemas)


def test_pystac_opens_the_item_and_finds_the_mask(tmp_path):
    (path,) = write_mask(make_labels(random_codes((1, 9, 9))), tmp_path, source_items=[SOURCE])
    item = pystac.Item.from_file(path.with_suffix(".json"))
    assert item.id == path.stem == "kappamask_20220602T101559_T32TPS_L2A"
    assert item.datetime.isoformat() == "2022-06-02T10:15:59.024000+00:00"
    assert Path(item.assets["mask"].get_absolute_href()) == path
    assert item.properties["platform"] == "sentinel-2a"
    assert item.properties["grid:code"] == "MGRS-32TPS"
    assert item.properties["processing:level"] == "L2A"
    assert item.properties["processing:software"] == {"kappamask": __version__}
    assert "own-l2a" in item.properties["processing:lineage"]


def test_the_item_tells_size_and_hash_of_the_file(tmp_path):
    (path,) = write_mask(make_labels(random_codes((1, 99, 99))), tmp_path)
    asset = read_item(path)["assets"]["mask"]
    assert asset["file:size"] == path.stat().st_size
    assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_item_counts_the_classes(tmp_path):
    codes = patchy_codes((70, 90))
    (path,) = write_mask(make_labels(codes[None]), tmp_path)
    item = read_item(path)
    classes = item["assets"]["mask"]["classification:classes"]
    assert [one["name"] for one in classes] == NAMES
    assert [one["value"] for one in classes if one["nodata"]] == [5]
    for one in classes:
        assert one["count"] == np.count_nonzero(codes == one["value"])
        assert one["percentage"] == pytest.approx(100 * np.mean(codes == one["value"]), abs=1e-4)
    seen = codes[codes != 5]
    cloudy = np.count_nonzero((seen == 4) | (seen == 3))
    assert item["properties"]["eo:cloud_cover"] == pytest.approx(100 * cloudy / seen.size, abs=1e-4)


def test_the_item_describes_the_grid_as_rasterio_reads_it(tmp_path):
    (path,) = write_mask(make_labels(random_codes((1, 30, 40)), step=20.0), tmp_path)
    item = read_item(path)
    properties = item["properties"]
    with rasterio.open(path) as raster:
        assert properties["proj:code"] == "EPSG:32632"
        assert properties["proj:shape"] == [raster.height, raster.width]
        assert properties["proj:transform"] == list(raster.transform)[:6]
        assert properties["proj:bbox"] == list(raster.bounds)
        expected = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
    assert item["assets"]["mask"]["raster:spatial_resolution"] == 20
    assert item["bbox"] == pytest.approx(expected, abs=2e-7)
    outline = shapely.geometry.shape(item["geometry"])
    assert outline.bounds == pytest.approx(item["bbox"])
    assert outline.is_valid
    assert outline.exterior.is_ccw


def test_the_footprint_of_a_full_tile_follows_its_edges(tmp_path):
    corner = (600000.0, 5200020.0)
    labels = make_labels(random_codes((1, 10, 10)), corner=corner, step=10980.0)
    (path,) = write_mask(labels, tmp_path)
    outline = shapely.geometry.shape(read_item(path)["geometry"])
    left, bottom, right, top = corner[0], corner[1] - 109800, corner[0] + 109800, corner[1]
    fine = shapely.segmentize(shapely.box(left, bottom, right, top), 100)
    degrees = rasterio.warp.transform("EPSG:32632", "EPSG:4326", *shapely.get_coordinates(fine).T)
    true_outline = shapely.Polygon(np.column_stack(degrees))
    assert outline.symmetric_difference(true_outline).area / true_outline.area < 1e-4


def test_a_footprint_across_180_degrees_is_cut_there(tmp_path):
    labels = make_labels(random_codes((1, 40, 60)), crs="EPSG:32601", corner=(166e3, 10e3))
    (path,) = write_mask(labels, tmp_path)
    item = read_item(path)
    west, south, east, north = item["bbox"]
    assert 179.9 < west < 180
    assert -180 < east < -179.9
    halves = shapely.geometry.shape(item["geometry"])
    assert halves.geom_type == "MultiPolygon"
    assert all(half.is_valid and half.exterior.is_ccw for half in halves.geoms)
    assert halves.bounds == pytest.approx((-180, south, 180, north))
    # 400 x 600 m near the equator, where a degree is about 111.3 by 110.6 km
    assert halves.area * 111.3 * 110.6 == pytest.approx(0.24, rel=0.01)


# --- sources --------------------------------------------------------------------------------


def test_ids_on_the_labels_say_which_items_made_a_date(tmp_path):
    items = [
        make_item("S2A_32TPS_20220602_0_L2A", "2022-06-02T10:15:59Z"),
        make_item("S2A_32TPT_20220602_0_L2A", "2022-06-02T10:15:45Z"),
        make_item("S2B_32TPS_20220607_0_L2A", "2022-06-07T10:15:59Z"),
    ]
    first, second, third = (item["id"] for item in items)
    labels = make_labels(random_codes((2, 9, 9))).assign_coords(
        source_items=("time", [f"{first} {second}", third])
    )
    pair, single = write_mask(labels, tmp_path, source_items=items)
    assert derived_from(pair) == [f"https://stac.example/items/{name}" for name in (first, second)]
    assert derived_from(single) == [f"https://stac.example/items/{third}"]
    # A tile stands in the name only where it is the only one.
    assert pair.name == "kappamask_20220602T101559_L2A.tif"
    assert single.name == "kappamask_20220607T101559_T32TPS_L2A.tif"
    # Without the items their ids still say where a mask is from.
    (one,) = write_mask(labels.isel(time=1), tmp_path)
    assert one == single
    assert derived_from(one) == [third]


def test_without_ids_an_item_belongs_to_its_solar_day(tmp_path):
    # At 179 degrees east the solar day begins at noon UTC.
    labels = make_labels(
        random_codes((2, 9, 9)), crs="EPSG:32760", corner=(6e5, 5e6), first="2022-06-02T22:10"
    )
    items = [
        make_item("same-solar-day", "2022-06-03T00:05:00Z"),
        make_item("next", "2022-06-07T22:10:10Z"),
        make_item("not-used", "2022-06-03T13:00:00Z"),
    ]
    first, second = write_mask(labels, tmp_path, source_items=items)
    assert derived_from(first) == ["https://stac.example/items/same-solar-day"]
    assert derived_from(second) == ["https://stac.example/items/next"]


def test_two_sensing_times_of_one_day_each_keep_their_nearest_item(tmp_path):
    labels = make_labels(random_codes((2, 9, 9)))
    labels["time"] = np.array(["2022-06-02T10:15:59", "2022-06-02T10:16:13"], "datetime64[ns]")
    items = [
        make_item("late", "2022-06-02T10:16:13.5Z"),
        make_item("early", "2022-06-02T12:15:58+02:00"),
    ]
    first, second = write_mask(labels, tmp_path, source_items=items)
    assert derived_from(first) == ["https://stac.example/items/early"]
    assert derived_from(second) == ["https://stac.example/items/late"]


def test_a_local_source_is_linked_relative_to_the_mask(tmp_path):
    local = {**SOURCE, "links": [{"rel": "self", "href": str(tmp_path / "catalog" / "a.json")}]}
    item = pystac.Item.from_dict(
        {
            **local,
            "bbox": [11, 46, 12, 47],
            "geometry": shapely.geometry.mapping(shapely.box(11, 46, 12, 47)),
        }
    )
    (path,) = write_mask(
        make_labels(random_codes((1, 9, 9))), tmp_path / "out", source_items=[item]
    )
    assert derived_from(path) == ["../catalog/a.json"]


def test_a_source_that_does_not_say_where_it_lies_is_named_by_its_id(tmp_path):
    labels = make_labels(random_codes((1, 9, 9)))
    (path,) = write_mask(labels, tmp_path, source_items=[{**SOURCE, "links": []}])
    assert derived_from(path) == [SOURCE["id"]]


def test_the_item_is_derived_from_the_model_too(tmp_path):
    (path,) = write_mask(make_labels(random_codes((1, 9, 9))), tmp_path)
    (link,) = read_item(path)["links"]
    assert (link["rel"], link["href"]) == ("derived_from", "urn:kappamask:model:own-l2a")
    assert read_item(path)["properties"]["kappamask:model_sha256"] == "ab" * 32


@pytest.mark.parametrize("named", [True, False])
def test_a_date_without_its_item_is_named(tmp_path, named):
    labels = make_labels(random_codes((2, 9, 9)))
    if named:
        labels = labels.assign_coords(source_items=("time", [SOURCE["id"], "S2B_lost"]))
    with pytest.raises(InputError, match="S2B_lost" if named else "2022-06-07T10:15:59"):
        write_mask(labels, tmp_path, source_items=[SOURCE])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["S2A_T32TPS", {}, {"id": "a", "properties": {"datetime": "?"}}])
def test_something_else_than_an_item_is_an_error(tmp_path, wrong):
    with pytest.raises(ItemError):
        write_mask(make_labels(random_codes((1, 9, 9))), tmp_path, source_items=[wrong])


@pytest.mark.shared
def test_real_items_give_tile_time_and_address(shared_data):
    read = {}
    for path in (shared_data / "stac-items").rglob("*.json"):
        document = json.loads(path.read_text())
        if document.get("type") == "Feature":
            read[document["id"]] = read_source(document)
    assert len(read) > 90
    assert all(source.time is not None for source in read.values())
    tiles = {
        "S2A_T13TDE_20240402T174230_L2A": "13TDE",
        "S2B_20EPT_20250731_0_L1C": "20EPT",
        "S2A_31NBJ_20190524_0_L2A": "31NBJ",
        "S2A_MSIL2A_20190101T000001_R116_T58UFE_20201007T214651": "58UFE",
        "S2A_MSIL2A_20200301T090901_N0500_R050_T35UPU_20230630T033416": "35UPU",
    }
    assert {name: read[name].tile for name in tiles} == tiles
    assert read["S2B_20EPT_20250731_0_L1C"].href.startswith("https://earth-search.aws.")


# --- what is refused ------------------------------------------------------------------------


def good():
    return make_labels(random_codes((2, 9, 9)))


def one_row(**changes):
    labels = make_labels(random_codes((1, 1, 9)))
    del labels["spatial_ref"].attrs["GeoTransform"]
    labels["spatial_ref"].attrs.update(changes)
    return labels


def uneven():
    labels = good()
    return labels.isel(x=[0, 1, 2, 5, 6])


def without_level():
    labels = good()
    del labels.attrs["level"]
    return labels


def no_crs():
    return good().drop_vars("spatial_ref")


def same_times():
    labels = good()
    labels["time"] = np.repeat(labels["time"].values[:1], 2)
    return labels


REFUSED = {
    "a numpy array": (lambda: good().values, "DataArray with dims"),
    "float labels": (lambda: good().astype("float32"), "uint8 class codes, got float32"),
    "a code beyond the legend": (lambda: good() + np.uint8(100), "0 to 5, got 105 on 2022-06-02"),
    "probabilities": (lambda: good().expand_dims("label"), r"dims \(time, y, x\)"),
    "no time": (lambda: good().isel(time=0, drop=True), "scalar time"),
    "time without dates": (lambda: good().assign_coords(time=[0, 1]), "time must hold dates"),
    "a missing date": (
        lambda: good().assign_coords(time=np.array(["2022-06-02", "NaT"], "datetime64[ns]")),
        "time must hold dates",
    ),
    "the same time twice": (same_times, "20220602T101559024000_L2A more than once"),
    "no dates": (lambda: good().isel(time=[]), r"got shape \(0, 9, 9\)"),
    "no pixels": (lambda: good().isel(x=[]), r"got shape \(2, 9, 0\)"),
    "no level": (without_level, "processing level"),
    "no CRS": (no_crs, "labels must have a CRS"),
    "no coordinates": (lambda: good().drop_vars("x"), "got no x"),
    "a gap": (uneven, "x must be evenly spaced"),
    "one row of unknown height": (one_row, "single coordinate along y"),
    "a transform of another pixel size": (
        lambda: one_row(GeoTransform="674990 20 0 5154960 0 -20"),
        "no GeoTransform that fits",
    ),
    "rotated": (lambda: one_row(GeoTransform="674990 10 2 5154960 2 -10"), "must not be rotated"),
    "outside the zone": (
        lambda: make_labels(random_codes((1, 9, 9)), corner=(1e9, 1e9)),
        "domain of the CRS",
    ),
    "beyond the pole": (
        lambda: make_labels(random_codes((1, 9, 9)), crs="EPSG:4326", corner=(1e6, 1e6)),
        "domain of the CRS",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_labels_are_refused_and_leave_nothing(tmp_path, case):
    make, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        write_mask(make(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_single_row_is_written_where_its_height_is_recorded(tmp_path):
    (path,) = write_mask(one_row(GeoTransform="0 10.0 0 0 0 -10.0"), tmp_path)
    with rasterio.open(path) as raster:
        assert raster.bounds == (*CORNER[:1], CORNER[1] - 10, CORNER[0] + 90, CORNER[1])


def test_times_within_one_second_get_names_of_their_own(tmp_path):
    labels = good()
    labels["time"] = labels["time"].values[:1] + np.array([0, 5], "timedelta64[ms]")
    assert [path.name for path in write_mask(labels, tmp_path)] == [
        "kappamask_20220602T101559024000_L2A.tif",
        "kappamask_20220602T101559029000_L2A.tif",
    ]


# --- real labels ----------------------------------------------------------------------------


@pytest.mark.shared
def test_the_bolzano_label_survives_with_all_that_is_said_of_it(tmp_path, shared_data, schemas):
    folder = shared_data / "bolzano" / "S2_L2A_20220602"
    with rasterio.open(folder / "B04.tif") as raster:
        transform, crs = raster.transform, raster.crs
    codes = read_unreferenced(folder / "label.tif")
    labels = make_labels(codes[None], corner=(transform.c, transform.f), crs=crs)
    (path,) = write_mask(labels, tmp_path, source_items=[SOURCE])
    validate(read_item(path), schemas)
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(path) as raster:
        assert (raster.transform, raster.crs) == (transform, crs)
        np.testing.assert_array_equal(raster.read(1), codes)
    west, south, east, north = read_item(path)["bbox"]
    assert west < 11.35 < east  # Bolzano, 46.50 N 11.35 E
    assert south < 46.50 < north


def read_unreferenced(path):
    """label.tif says nothing of where it lies, and rasterio warns of that."""
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path) as raster:
        return raster.read(1)
