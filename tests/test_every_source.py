"""One scene through every source that people have: STAC, SAFE, both Zarrs, GeoTIFF, an array."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import dask
import numpy as np
import pystac
import pytest
import rasterio
import shapely
import xarray as xr
from pyproj import Transformer
from rasterio.env import get_gdal_config
from rasterio.shutil import copy
from rasterio.transform import from_origin
from support import file_server
from support.eopf_stores import write_store
from support.rasters import write_raster
from support.safe_products import EPSG, LEFT, TOP, Recipe, held, make_dn, write_safe, zip_safe

import kappamask as km
from kappamask.base.bands import BY_NAME
from kappamask.base.errors import InputError, ItemError, ReadError
from kappamask.cli import main
from kappamask.cubes.cube import choose_grid
from kappamask.cubes.native import read_small
from kappamask.jobs import MaskOptions, mask_products
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.eopf import read_store

pytest.importorskip("zarr", reason="needs kappamask[formats]")

SHAPE = HEIGHT, WIDTH = 120, 150
RECIPE = Recipe(level="L2A", baseline="05.11", offset=-1000, shape=SHAPE)
BANDS = [band for band, gsd in held(RECIPE) if BY_NAME[band].gsd == gsd and band != "AOT"]
KINDS = {"esa": {}, "geozarr": {}, "geozarr sharded": {"sharded": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write the scene in every form."""
    root = tmp_path_factory.mktemp("sources")
    write_safe(root, RECIPE)
    for kind, options in KINDS.items():
        write_store(root / kind, RECIPE, kind.split()[0], **options)
    layers = {band: stored(band) for band in BANDS}
    place = {"crs": EPSG, "transform": from_origin(LEFT, TOP, 10, 10)}
    stack = np.stack([grown(layers[band], BY_NAME[band].gsd) for band in BANDS])
    write_raster(root / "stack.tif", stack, BANDS, nodata=0, **place)
    copy(root / "stack.tif", root / "stack.vrt", driver="VRT")
    for band, dn in layers.items():
        gsd = BY_NAME[band].gsd
        place["transform"] = from_origin(LEFT, TOP, gsd, gsd)
        write_raster(root / "items" / f"{band}.tif", dn[None], nodata=0, **place)
    return root


def stored(band):
    """DN as they lie in files of baseline 05.11."""
    dn = make_dn(RECIPE, "32UPV", band, BY_NAME[band].gsd)
    return np.where(dn == 0, 0, dn + 1000).astype(np.uint16)


def grown(dn, gsd):
    return np.repeat(np.repeat(dn, gsd // 10, 0), gsd // 10, 1)


def as_item(folder, href=None):
    """The scene as an item of a catalogue; or the arrays of a store as one."""
    corners = shapely.box(LEFT + 1, TOP - 10 * HEIGHT + 1, LEFT + 10 * WIDTH - 1, TOP - 1)
    degrees = Transformer.from_crs(EPSG, 4326, always_xy=True)
    outline = shapely.transform(corners, degrees.transform, interleaved=False)
    assets = {}
    for band in BANDS:
        gsd = BY_NAME[band].gsd
        assets[f"{band}_{gsd}m"] = {
            "href": f"{href}/measurements/reflectance/r{gsd}m/{band.lower()}"
        } if href else {
            "href": str(folder / "items" / f"{band}.tif"),
            "proj:transform": [gsd, 0, LEFT, 0, -gsd, TOP],
            "proj:shape": [HEIGHT * 10 // gsd, WIDTH * 10 // gsd],
        }  # fmt: skip
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": RECIPE.name,
        "geometry": shapely.geometry.mapping(outline),
        "bbox": outline.bounds,
        "links": [],
        "properties": {
            "datetime": "2017-04-30T10:30:21.026Z",
            "proj:epsg": EPSG,
            "processing:version": "05.11",
        },
        "assets": assets,
    }


def an_array(_):
    layers = [grown(stored(band), BY_NAME[band].gsd) for band in BANDS]
    dn = np.stack(layers).astype("float32")
    return np.where(dn == 0, np.nan, (dn - 1000) * np.float32(1e-4))


def a_dataset(folder):
    """Variables of a stack as rioxarray opens it, and odc-stac names them."""
    stack = xr.open_dataset(folder / "stack.tif", engine="rasterio", mask_and_scale=False)
    layers = stack.band_data.assign_coords(band=BANDS).to_dataset("band")
    return layers.rename({"B02": "blue", "B03": "green", "B04": "red"})


SOURCES = {
    "STAC": lambda f: km.load_cube([as_item(f)], bands=BANDS),
    "STAC by odc": lambda f: km.load_cube([as_item(f)], bands=BANDS, engine="odc"),
    "SAFE": lambda f: km.open_safe(f / f"{RECIPE.name}.SAFE"),
    "own GeoTIFF": lambda f: km.open_raster(f / "stack.tif", level="L2A", offset=-1000),
    "own VRT": lambda f: km.open_raster(f / "stack.vrt", level="L2A", offset=-1000),
    "a file per band": lambda f: km.open_raster(
        [f / "items" / f"{band}.tif" for band in BANDS], level="L2A", offset=-1000
    ),
    **{kind: lambda f, k=kind: km.open_safe(f / k / f"{RECIPE.name}.zarr") for kind in KINDS},
    "arrays as items": lambda f: km.load_cube(
        [as_item(f, f / "esa" / f"{RECIPE.name}.zarr")], bands=BANDS
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_one_mask_bit_for_bit(folder, source):
    cube = SOURCES[source](folder)
    assert list(cube.band.values) == BANDS
    np.testing.assert_array_equal(cube.squeeze().values, an_array(folder))
    place = {"level": "L2A", "origin": (-TOP // 10, LEFT // 10)}
    for output in ("labels", "probabilities"):  # of noise few labels differ, probabilities all
        expected = km.predict_array(an_array(folder), BANDS, output=output, **place)
        found = km.predict_cube(cube, output=output).squeeze()
        rounding = 0 if output == "labels" else 1e-7  # where an array lies in memory may round it
        np.testing.assert_allclose(found, expected, atol=rounding, rtol=0)
    assert len(np.unique(expected)) > 1000


@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_a_thread_keeps_no_options_of_a_catalogue(folder, engine):
    """Its endpoint of buckets would be that of others."""
    with dask.config.set(scheduler="synchronous"):
        km.load_cube([as_item(folder)], bands=["B02", "B05"], engine=engine).compute()
    assert get_gdal_config("AWS_S3_ENDPOINT") is None


def test_one_item_alone_and_a_collection_of_features_are_lists(folder):
    item = as_item(folder)
    expected = km.load_cube([item], bands=["B02"]).load()
    for items in (item, {"type": "FeatureCollection", "features": [item]}):
        xr.testing.assert_identical(km.load_cube(items, bands=["B02"]).load(), expected)


@pytest.mark.slow
def test_what_is_hardly_meant_is_one_line_of_the_command(tmp_path):
    layers = np.full((4, 160, 160), [[[500]], [[700]], [[600]], [[3000]]], "uint16")
    write_raster(tmp_path / "mine.tif", layers, ["B02", "B03", "B04", "B08"])
    words = ["mask", str(tmp_path / "mine.tif"), "--level", "L2A", "--scale", "1000"]
    command = [sys.executable, "-m", "kappamask", *words, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stderr.splitlines() if "warning" in line.lower()]
    assert line.startswith("kappamask: warning: reflectance hardly passes 1.5")


def test_a_dataset_gives_the_same_mask(folder):
    labels = km.predict_cube(a_dataset(folder), level="L2A", scale=10000, offset=-1000)
    expected = km.predict_cube(SOURCES["SAFE"](folder)).squeeze()
    np.testing.assert_array_equal(labels, expected)


def test_the_command_masks_all_of_them_alike(folder, tmp_path, capsys):
    """Products, folders of them and rasters in one call; stopped and repeated it goes on."""
    words = [f"{folder}/{RECIPE.name}.SAFE", *(f"{folder}/{kind}" for kind in KINDS)]
    words += [f"{folder}/stack.tif", "--level", "L2A", "--offset", "-1000"]
    out = tmp_path / "masks"
    command = ["mask", *words, "--out", str(out)]
    assert main(command) == 0
    assert "5 done, 0 skipped (finished before), 0 failed" in capsys.readouterr().out
    masks = sorted(out.glob("*.tif"))
    assert len(masks) == len(list(out.glob("*.png"))) == 5
    codes = [rasterio.open(mask).read() for mask in masks]
    for other in codes[1:]:
        np.testing.assert_array_equal(codes[0], other)
    assert main(command) == 0
    assert "0 done, 5 skipped" in capsys.readouterr().out
    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0


# --- stores ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "level", "baseline"),
    [
        ("esa", "L1C", "02.05"),
        ("esa", "L2A", "05.11"),
        ("geozarr", "L1C", "05.11"),
        ("geozarr", "L2A", "02.05"),
    ],
)
@pytest.mark.parametrize("smooth", [False, True])
def test_a_store_is_the_product_that_it_was_made_of(tmp_path, kind, level, baseline, smooth):
    offset = -1000 if baseline > "04" else None
    recipe = Recipe(level=level, baseline=baseline, offset=offset, shape=SHAPE, smooth=smooth)
    paths = write_safe(tmp_path, recipe), write_store(tmp_path / "zarr", recipe, kind)
    same = ("product", "platform", "processing_baseline", "level")
    for resolution in (10, 20, 60):
        expected, found = (km.open_safe(path, resolution=resolution).load() for path in paths)
        by_level = by_levels(expected, level, resolution)
        exact = (cube.sel(band=~by_level).drop_vars("time") for cube in (found, expected))
        xr.testing.assert_equal(*exact)
        # A level of JPEG 2000 is no mean: of a plane it is one, of noise it is not (decision 0017).
        np.testing.assert_array_equal(*(np.isnan(cube.values) for cube in (found, expected)))
        if smooth:
            np.testing.assert_allclose(found.values, expected.values, atol=1.01e-4, rtol=0)
        assert abs(found.time.values - expected.time.values).max() < np.timedelta64(1, "s")
        assert [found.attrs.get(key) for key in same] == [expected.attrs.get(key) for key in same]


def by_levels(cube, level, resolution):
    """Which bands of a product in JPEG 2000 have no file of this or a coarser size between."""
    sizes = [BY_NAME[str(name)].gsd for name in cube.band.values]
    only_fine = [level == "L1C" or str(name) == "B08" for name in cube.band.values]
    return np.array([one and gsd < resolution for one, gsd in zip(only_fine, sizes, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_on_a_server_is_read_when_it_is_asked_for(folder, kind):
    root = folder / kind / f"{RECIPE.name}.zarr"
    files = file_server.Files(
        {
            f"/{root.name}/{path.relative_to(root).as_posix()}": path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
    )
    with file_server.serve(files):
        cube = km.open_safe(f"{files.url}/{root.name}")
        chunks = [path for path in files.asked if "/r10m/b0" in path and path[-1].isdigit()]
        assert not chunks  # nothing but metadata before it is computed
        np.testing.assert_array_equal(cube.values[0], an_array(folder))
        item = as_item(folder, f"{files.url}/{root.name}")
        again = km.load_cube([item], bands=BANDS)
        np.testing.assert_array_equal(again.values[0], an_array(folder))
        files.content = dict.fromkeys(files.content, b"no")
        with pytest.raises(ReadError, match=r"cannot read .*zarr"):
            km.open_safe(f"{files.url}/{root.name}")


def test_a_picture_of_a_store_takes_every_so_many_pixels(folder):
    (scene,) = read_store(folder / "esa" / f"{RECIPE.name}.zarr").scenes(bands=["B02", "B05"])
    small = read_small(scene, ["B02", "B05"], choose_grid([scene], None, resolution=10), 5)
    assert small.shape == (2, HEIGHT // 5, WIDTH // 5)
    whole = an_array(folder)[[BANDS.index("B02"), BANDS.index("B05")]]
    np.testing.assert_array_equal(small[0], whole[0, 2::5, 2::5])
    assert np.isin(small[1], whole[1][np.isfinite(whole[1])]).mean() > 0.9


def test_dn_are_as_they_are_stored_where_the_caller_says_the_offset(folder):
    item = as_item(folder, folder / "esa" / f"{RECIPE.name}.zarr")
    raw = km.load_cube(item, bands=["B02"], resolve=partial(resolve_assets, dn_offset=0))
    dn = stored("B02")
    expected = np.where(dn == 0, np.nan, dn.astype("float32") * np.float32(1e-4))
    np.testing.assert_array_equal(raw.values[0, 0], expected)


def test_collections_of_openeo_hold_arrays_of_stores(folder):
    from kappamask.openeo.engine.load import build

    item = pystac.Item.from_dict(as_item(folder, folder / "geozarr" / f"{RECIPE.name}.zarr"))
    cube = build([item], None, ["B02", "B05"], resolve=resolve_assets)
    expected = np.round(an_array(folder)[[BANDS.index("B02"), BANDS.index("B05")]] * 10000)
    np.testing.assert_array_equal(cube.transpose("t", "bands", "y", "x").values[0], expected)


def test_a_store_in_another_zone_is_warped_to_the_nearest_pixel(folder):
    other = km.load_cube([as_item(folder)], bands=["B02"], crs=32633)
    item = as_item(folder, folder / "esa" / f"{RECIPE.name}.zarr")
    found = km.load_cube([item], bands=["B02"], crs=32633)
    assert found.shape == other.shape
    same = np.isclose(found.values, other.values, equal_nan=True)
    assert same.mean() > 0.97  # GDAL's transformer is off by up to an eighth of a pixel
    with pytest.raises(InputError, match="averaged where they lie only"):
        km.load_cube([item], bands=["B02"], crs=32633, resolution=20).compute()


def broken_store(tmp_path, kind):
    import zarr

    path = write_store(tmp_path, RECIPE, "esa")
    if kind == "no Sentinel-2":
        shutil.rmtree(path)
        zarr.create_group(path).create_array("temperature", data=np.zeros(3))
    elif kind == "nothing":
        shutil.rmtree(path)
        path.mkdir()
        (path / ".zgroup").write_text("{")
    elif kind == "no place":
        for file in (*path.rglob(".zattrs"), path / ".zmetadata"):
            file.write_text(file.read_text().replace("proj:epsg", "proj:none"))
    elif kind == "a chunk":
        next(path.rglob("r10m/b04/0.0")).write_bytes(b"no")
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("no Sentinel-2", InputError, "holds measurements/reflectance.*does not"),
        ("nothing", (ReadError, InputError), "damaged|no Zarr"),
        ("no place", ItemError, "tells proj:epsg and proj:transform"),
        ("a chunk", ReadError, "cannot read .*b04.*damaged"),
    ],
)
def test_a_store_that_is_no_product_gets_one_clear_error(tmp_path, kind, error, message):
    path = broken_store(tmp_path, kind)
    with pytest.raises(error, match=message):
        km.open_safe(path).compute()


@pytest.mark.slow
@pytest.mark.shared
def test_structures_of_seven_real_stores_are_read(shared_data, tmp_path):
    """Metadata alone, written back as stores: names, groups, attributes are those of real ones."""
    for path in sorted((shared_data / "stac-items" / "eopf_zarr_structure").glob("*.json")):
        document = json.loads(path.read_text())
        name = path.stem.partition("__")[2]
        store = tmp_path / path.stem.partition("__")[0] / f"{name}.zarr"
        write_structure(store, document)
        product = read_store(store)
        level = name[4:].split("_")[0].removeprefix("MSI")
        assert (product.metadata.level, product.metadata.name) == (level, name)
        assert product.metadata.baseline == "05.11"
        assert product.granules[0].metadata.tile == name.split("_T")[1][:5]
        (scene,) = product.scenes()
        assert scene.bounds[2] - scene.bounds[0] == 109800
        assert {file.dn_offset for file in scene.files.values()} == {-1000}
        assert len(scene.files) == (13 if level == "L1C" else 12)
        assert scene.footprint is not None


def write_structure(store, document):
    """Write the metadata of a store as they lie on disk; no chunks."""
    zarr_3 = document["zarr_format"] == 3
    for path, node in nodes(document):
        folder = store / path
        folder.mkdir(parents=True, exist_ok=True)
        told = {key: value for key, value in node.items() if key not in ("members", "attributes")}
        told.setdefault("zarr_format", document["zarr_format"])
        if zarr_3:
            told |= {"attributes": node.get("attributes", {})}
            (folder / "zarr.json").write_text(json.dumps(told))
            continue
        (folder / ".zattrs").write_text(json.dumps(node.get("attributes", {})))
        kind = ".zarray" if "shape" in node else ".zgroup"
        (folder / kind).write_text(json.dumps(told if "shape" in node else {"zarr_format": 2}))


def nodes(node, path=""):
    yield path, node
    for name, inner in (node.get("members") or {}).items():
        yield from nodes(inner, f"{path}/{name}".lstrip("/"))


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_product_on_a_server_is_read_where_it_lies(folder, safe, packed, caplog):
    caplog.set_level("DEBUG", "fsspec")
    names = [path.relative_to(safe).as_posix() for path in safe.rglob("*") if path.is_file()]
    places = "".join(f'<fileLocation href="./{name}"/>' for name in names)
    (safe / "manifest.safe").write_text(f"<manifest>{places}</manifest>")
    paths = [zip_safe(safe)] if packed else [safe / name for name in (*names, "manifest.safe")]
    content = {f"/{path.relative_to(safe.parent).as_posix()}": path.read_bytes() for path in paths}
    files = file_server.Files(content)
    with file_server.serve(files):
        address = f"{files.url}/{safe.name}".replace(".SAFE", ".zip" if packed else ".SAFE")
        cube = km.open_safe(address, bands=BANDS)
        assert not any(path.endswith(".jp2") for path in files.asked)
        np.testing.assert_array_equal(cube.values[0], an_array(folder))
        files.asked.clear()
        with dask.config.set(scheduler="synchronous"):
            km.open_safe(address, bands=["B02"], chunks=32).compute()
        pixels = [path for path in files.asked if path.endswith(("B02_10m.jp2", ".zip"))]
        assert len(pixels) < 20  # of 20 chunks: they are one job, and share what was fetched
        for query in ("?token", "?sig=token"):
            signed = km.open_safe(address + query, bands=["B02"], chunks=32)
            np.testing.assert_array_equal(signed.values[0, 0], an_array(folder)[BANDS.index("B02")])
            with pytest.raises(ReadError, match=r"not there|no parts") as caught:
                km.open_safe(address.replace("/S2A", "/S2B") + query)
            assert "token" not in str(caught.value)
        assert "token" not in caplog.text
    with pytest.raises(InputError, match="an https or an s3 address, got ftp://host"):
        km.open_safe("ftp://host/S2A_MSIL2A.SAFE")


# --- rasters --------------------------------------------------------------------------------------


def raster(
    tmp_path, name="mine.tif", dtype="uint16", bands=("B02", "B03", "B04", "B08"), **options
):
    layers = np.full((4, 40, 50), 1500, dtype)
    options = {"crs": EPSG, "transform": from_origin(LEFT, TOP, 10, 10)} | options
    write_raster(tmp_path / name, layers, bands, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"bands": ()}, {"level": "L2A"}, r"4 bands and names none .*bands=\['B02'"),
        ({}, {}, "does not say its processing level: pass level="),
        ({"dtype": "float32"}, {"level": "L2A"}, "float32 and no scale: pass scale=1"),
        ({}, {"level": "L2A", "bands": ["B02"]}, "every band has a name, got .*B02.* for 4 bands"),
        ({"bands": ("B02", "B03", "B04", "B05")}, {"level": "L2A"}, "missing B08 or B8A"),
        ({}, {"level": "L2A", "scale": 0}, "above 0, got 0"),
        ({}, {"level": "L3"}, "must be 'L1C' or 'L2A'"),
    ],
)
def test_what_a_raster_does_not_say_is_asked_for_by_name(tmp_path, options, arguments, message):
    with pytest.raises(InputError, match=message):
        km.open_raster(raster(tmp_path, **options), **arguments)


def test_a_raster_says_what_it_can(tmp_path):
    path = raster(tmp_path, bands=("blue", "green", "red", "nir"))
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = [1e-4] * 4, [-0.1] * 4
        target.update_tags(level="L1C")
    cube = km.open_raster(path)
    assert cube.attrs["level"] == "L1C"
    np.testing.assert_allclose(cube.values, 0.05, rtol=1e-6)
    assert cube.rio.crs.to_epsg() == EPSG


@pytest.mark.parametrize("place", ["none", "degrees", "turned"])
def test_a_raster_without_a_grid_in_metres_is_masked_where_it_lies(tmp_path, place, folder):
    with rasterio.open(folder / "stack.tif") as source:
        layers = source.read()
    grids = {
        "none": {"crs": None},
        "degrees": {"crs": 4326, "transform": from_origin(10.4, 49.6, 1e-4, 9e-5)},
        "turned": {"crs": EPSG, "transform": rasterio.Affine(10, 3, LEFT, 3, -10, TOP)},
    }
    options = {key: value for key, value in grids[place].items() if value is not None}
    write_raster(tmp_path / "mine.tif", layers, BANDS, nodata=0, **options)
    told = MaskOptions(raster=None)
    told = MaskOptions(raster=told_of(level="L2A", offset=-1000))
    report = mask_products([tmp_path / "mine.tif"], tmp_path / "out", options=told)
    (mask,) = report.masks
    assert mask.name.startswith("kappamask_mine_L2A")
    with rasterio.open(mask) as found, rasterio.open(tmp_path / "mine.tif") as source:
        assert (found.crs, found.transform, found.shape) == (
            source.crs,
            source.transform,
            source.shape,
        )
        expected = km.predict_array(an_array(None), BANDS, level="L2A")
        np.testing.assert_array_equal(found.read(1), expected)
    item = json.loads(mask.with_suffix(".json").read_text())
    assert item["properties"]["datetime"] is None
    assert (item["geometry"] is None) == (place == "none")
    cube = km.open_raster(tmp_path / "mine.tif", level="L2A", offset=-1000)
    assert km.predict_cube(cube).shape == expected.shape


def told_of(**words):
    from kappamask.scenes.products import Told

    return Told(**words)


# --- products -------------------------------------------------------------------------------------


@pytest.fixture
def safe(folder, tmp_path):
    return shutil.copytree(folder / f"{RECIPE.name}.SAFE", tmp_path / f"{RECIPE.name}.SAFE")


def rename_images(safe, suffix):
    for path in [*safe.rglob("*.jp2")]:
        path.rename(path.with_suffix(suffix))


def write_tiffs(safe):
    for path in [*safe.rglob("*.jp2")]:
        with rasterio.open(path) as source:
            place = {"crs": source.crs, "transform": source.transform}
            write_raster(path.with_suffix(".tif"), source.read(), **place)
        path.unlink()


def rename_metadata(safe):
    (tile,) = safe.glob("GRANULE/*/MTD_TL.xml")
    tile.rename(tile.with_name("metadata.xml"))
    (tile.parent / "inspire.xml").write_text("<other/>")


@pytest.mark.parametrize(
    "change",
    [
        lambda safe: rename_images(safe, ".JP2"),
        write_tiffs,
        rename_metadata,
    ],
)
def test_names_of_files_do_not_matter(folder, safe, change):
    change(safe)
    expected = SOURCES["SAFE"](folder)
    xr.testing.assert_equal(km.open_safe(safe).load(), expected.load())


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_whose_name_is_no_utf_8_is_read(safe, tmp_path, packed):
    strange = str(tmp_path).encode() + b"/M\xe4sk"
    inside = os.fsdecode(strange)
    Path(inside).mkdir()
    if packed:
        shutil.make_archive(f"{inside}/product", "zip", safe.parent, safe.name)
        path = f"{inside}/product.zip"
    else:
        path = shutil.copytree(safe, f"{inside}/{safe.name}")
    words = ["mask", path, "--no-pictures", "--bands", "B02,B03,B04,B08"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.tif"))) == 1


def test_two_strips_of_one_pass_both_stay(safe, tmp_path):
    """ESA cuts a pass into two products of one tile; the names differ at their end only."""
    other = tmp_path / "other" / safe.name.replace("T103024.SAFE", "T152233.SAFE")
    shutil.copytree(safe, other)
    text = (other / "MTD_MSIL2A.xml").read_text()
    (other / "MTD_MSIL2A.xml").write_text(text.replace(RECIPE.name, other.stem))
    options = MaskOptions(bands=["B02", "B03", "B04", "B08"], pictures=False)
    first = mask_products([safe], tmp_path / "out", options=options)
    second = mask_products([other], tmp_path / "out", options=options)
    again = mask_products([safe, other], tmp_path / "out", options=options)
    names = [path.name for path in (*first.masks, *second.masks)]
    assert len(set(names)) == 2
    assert "_20170430T152233" in names[1]
    assert [path.name for path in again.skipped] == names
    together = mask_products([tmp_path], tmp_path / "both", options=options)
    assert len(together.masks) == 1  # the folder holds one; the other lies deeper
    apart = mask_products([safe, other], tmp_path / "apart", options=options)
    assert len(set(apart.masks)) == 2


def test_each_tile_of_a_product_is_masked_in_its_own_zone(tmp_path):
    tiles = {"32UPV": (EPSG, LEFT, TOP), "33UVR": (32633, 399960, TOP)}
    recipe = Recipe(level="L1C", old=True, baseline="02.05", shape=(60, 60), tiles=tiles)
    quiet = MaskOptions(pictures=False)
    report = mask_products([write_safe(tmp_path, recipe)], tmp_path / "out", options=quiet)
    codes = [rasterio.open(mask).crs.to_epsg() for mask in report.masks]
    assert codes == [EPSG, 32633]
    one = replace(quiet, tile="33UVR")
    (mask,) = mask_products([tmp_path], tmp_path / "one", options=one).masks
    assert "33UVR" in mask.name


def test_one_product_that_fails_is_named_and_the_others_are_kept(safe, tmp_path, capsys):
    broken = shutil.copytree(safe, tmp_path / "broken.SAFE")
    (broken / "MTD_MSIL2A.xml").write_text("<no")
    words = ["mask", str(broken), str(safe), "--out", str(tmp_path / "out"), "--no-pictures"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "1 done, 0 skipped (finished before), 1 failed" in said.out
    assert "broken.SAFE failed" in said.err


def test_bands_and_the_level_of_a_product_can_be_named(safe, tmp_path, capsys):
    for path in safe.rglob("*B12*.jp2"):
        path.unlink()
    words = ["mask", str(safe), "--no-pictures", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 1
    assert "--bands B02,B03,B04,B08" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "a"), "--bands", "B02,B03,B04,B08,B11"]) == 0
    assert (
        main([*words, str(tmp_path / "b"), "--bands", "B02,B03,B04,B08", "--resolution", "20"]) == 0
    )
    assert main([*words, str(tmp_path / "c"), "--level", "L1C"]) == 2
    assert "is of level L2A, got level L1C" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*words, str(tmp_path / "c"), "--date", "2022-06"])
