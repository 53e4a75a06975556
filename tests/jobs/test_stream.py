"""Streaming: the same masks as predict_cube, each pixel decoded once, little memory, no debris."""

import json
import os
import re
import socket
import subprocess
import sys
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin
from support.safe_products import EPSG, LEFT, TOP, Recipe, degrees, write_jp2, write_safe

from kappamask import Label, load_cube, open_safe, predict_cube, write_mask
from kappamask.base.bands import BY_NAME
from kappamask.base.errors import InputError, ReadError
from kappamask.base.windows import Grid, Lattice, plan_windows
from kappamask.cli import main
from kappamask.cubes.cube import choose_grid
from kappamask.cubes.native import BandOnGrid
from kappamask.cubes.rasters import FileReader
from kappamask.jobs import MaskOptions, mask_files, mask_items, mask_product, stream
from kappamask.jobs.masks import record_of
from kappamask.jobs.stream import Cells, stream_labels
from kappamask.networks.manifest import find_entry
from kappamask.networks.model import open_model
from kappamask.outputs.records import write_record
from kappamask.predict.array import make_task
from kappamask.scenes.products import read_product
from kappamask.scenes.scene import BandFile, Scene

LATTICE = Lattice(core=64, margin=32, whole=96)  # several windows in a small scene
SCENE = Recipe(shape=(240, 360))
EAST = {"32UPV": (EPSG, LEFT, TOP), "32UQV": (EPSG, LEFT + 3000, TOP)}


@pytest.fixture(scope="module")
def model():
    """The default network in small windows."""
    return open_model(replace(find_entry("default", "L1C"), lattice=LATTICE), "L1C")


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    return write_safe(tmp_path_factory.mktemp("safe"), SCENE)


def item_of(recipe):
    """What the masks of a product link to, as an item."""
    return {
        "type": "Feature",
        "id": recipe.name,
        "geometry": None,
        "links": [],
        "properties": {
            "datetime": "2017-04-30T10:30:21.026Z",
            "platform": "sentinel-2a",
            "grid:code": "MGRS-32UPV",
            "view:sun_azimuth": 165.25,
            "view:sun_elevation": 54.5,
        },
        "assets": {},
    }


def files_in(folder):
    """Files by name, without the code of the area: a cube does not tell what polygon it is of."""
    code = re.compile(rb"(?<=m_)[0-9a-f]{6}(?=[._\"])")
    return {
        code.sub(b"", path.name.encode()): code.sub(b"", path.read_bytes())
        for path in folder.iterdir()
    }


AREA = degrees(LEFT + 330, TOP - 2030, LEFT + 2990, TOP - 90)  # begins inside coarse pixels


def write_masks_of(cube, model, folder, items):
    """Write labels and snow as the library does, date by date of a cube; give the labels."""
    labels, snow = (predict_cube(cube, model=model, output=one) for one in ("labels", "snow"))
    write_mask(labels, folder, source_items=items, snow=snow)
    return labels


# --- the same masks -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("area", [None, AREA], ids=["whole", "area"])
@pytest.mark.parametrize("resolution", [10, 20])
def test_files_are_those_of_predict_cube_byte_for_byte(product, model, tmp_path, resolution, area):
    cube = open_safe(product, resolution=resolution, area=area)
    labels = write_masks_of(cube, model, tmp_path / "cube", [item_of(SCENE)])
    assert resolution > 10 or len(labels.chunks[1]) * len(labels.chunks[2]) > 4
    options = MaskOptions(model=model, resolution=resolution)
    (path,) = mask_product(product, tmp_path / "stream", area=area, options=options)
    with rasterio.open(path) as raster:
        assert len(np.unique(raster.read(1))) > 1  # there is something to be equal
    assert files_in(tmp_path / "stream") == files_in(tmp_path / "cube")


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_strip_gets_the_same_labels(shared_data, model, tmp_path):
    (folder,) = shared_data.glob("safe/S2A_MSIL1C_*.SAFE")
    area = degrees(600000 + 6000, 5500020 - 3000, 600000 + 9500, 5500020 - 600)
    (path,) = mask_product(folder, tmp_path, area=area, options=MaskOptions(model=model))
    labels = predict_cube(open_safe(folder, area=area), model=model).values[0]
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(1), labels)
    assert {int(Label.MISSING), int(Label.CLEAR)} <= set(np.unique(labels))


def test_a_product_without_any_data_never_calls_the_network(tmp_path, model, monkeypatch):
    recipe = Recipe(shape=(180, 180))
    folder = write_safe(tmp_path, recipe)
    for path in folder.glob("GRANULE/*/IMG_DATA/*.jp2"):
        with rasterio.open(path) as raster:
            place = raster.crs, raster.transform
            nothing = np.zeros(raster.shape, np.uint16)
        write_jp2(path, nothing, *place, block=recipe.block)
    monkeypatch.setattr(stream, "predict_window", None)
    (mask,) = mask_product(folder, tmp_path / "out", options=MaskOptions(model=model))
    with rasterio.open(mask) as raster:
        assert (raster.read(1) == Label.MISSING).all()


def jp2(recipe, gsd):
    height, width = (size * 10 // gsd for size in recipe.shape)
    return {
        "driver": "JP2OpenJPEG",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint16",
        "crs": EPSG,
        "transform": from_origin(LEFT, TOP, gsd, gsd),
    }


# --- decoding -------------------------------------------------------------------------------


class CountingReader(FileReader):
    """Counts how often each pixel of each band is decoded."""

    def __init__(self, files):
        super().__init__(files)
        self.decoded = {
            name: np.zeros((file.height, file.width), int) for name, file in files.items()
        }

    def read(self, band, rows, columns):
        self.decoded[band][rows, columns] += 1
        return super().read(band, rows, columns)


@pytest.mark.parametrize("area", [None, AREA], ids=["whole", "area"])
def test_every_pixel_is_decoded_once_and_only_those_of_the_area(product, model, area):
    (scene,) = read_product(product).scenes(area=area)
    grid = choose_grid([scene], area, resolution=10, within=True)
    task = make_task(tuple(scene.files), level="L1C", model=model, output="labels")
    with CountingReader(scene.files) as reader:
        strips = list(stream_labels(scene, grid, task, reader=reader).rows)
    assert sum(map(len, strips)) == grid.height
    for name, counts in reader.decoded.items():
        band = BandOnGrid.fit(scene.files[name], grid)
        wanted = np.zeros_like(counts)
        wanted[
            band.rows.native(slice(0, grid.height)), band.columns.native(slice(0, grid.width))
        ] = 1
        np.testing.assert_array_equal(counts, wanted, err_msg=name)


class ZeroReader:
    """A scene of any size without data, stored in blocks of 64 pixels."""

    def read(self, band, rows, columns):
        assert band in BY_NAME
        return np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint16)

    def block_shape(self, band):
        assert band in BY_NAME
        return 64, 64


def empty_scene(height, width=512):
    """Describe a scene that `ZeroReader` reads, and its grid."""
    files = {
        name: BandFile(
            band=name,
            href=f"{name}.jp2",
            dn_offset=0,
            scale=1e-4,
            gsd=band.gsd,
            left=LEFT,
            top=TOP,
            height=height * 10 // band.gsd,
            width=width * 10 // band.gsd,
        )
        for name, band in BY_NAME.items()
        if "L1C" in band.levels
    }
    time = np.datetime64("2017-04-30T10:30:21", "ns")
    scene = Scene(
        "S2A_a", time, "L1C", tile="32UPV", platform="sentinel-2a", epsg=EPSG, files=files
    )
    return scene, Grid(EPSG, 10, LEFT, TOP, height, width)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height_of_a_scene(model, monkeypatch, tmp_path):
    monkeypatch.setattr("kappamask.jobs.stream.CELL_M", 640)
    task = make_task(tuple(empty_scene(60)[0].files), level="L1C", model=model, output="labels")
    peaks = []
    for height in (60 * 8, 60 * 32):
        scene, grid = empty_scene(height)
        tracemalloc.start()
        strips = stream_labels(scene, grid, task, reader=ZeroReader())
        write_record(record_of([scene], grid, task, MaskOptions()), strips, tmp_path / f"{height}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    bytes_per_row = sum(2 * grid.width * (10 / file.gsd) ** 2 for file in scene.files.values())
    assert peaks[1] - peaks[0] < 0.15 * bytes_per_row * 60 * (32 - 8)  # lists of windows grow


def test_cells_are_forgotten_after_their_last_window():
    scene, grid = empty_scene(600)
    bands = {name: BandOnGrid.fit(file, grid) for name, file in scene.files.items()}
    windows = list(plan_windows(grid.height, grid.width, origin=grid.origin, lattice=LATTICE))
    with ThreadPoolExecutor(1) as threads:
        cells = Cells(ZeroReader(), bands, windows, threads)
        for window in windows:
            cells.prefetch(window)
            for name, band in bands.items():
                band.read(cells, window.rows.read, window.columns.read)
                assert any(cell[0] == name for cell in cells.decoded)
            cells.release(window)
    assert not cells.decoded


# --- interruptions and damage -----------------------------------------------------------------


def test_an_interrupted_run_leaves_nothing_and_a_finished_one_is_kept(product, model, tmp_path):
    def interrupt(_, done, _total):
        if done == 3:
            raise KeyboardInterrupt

    options = MaskOptions(model=model)
    with pytest.raises(KeyboardInterrupt):
        mask_product(product, tmp_path, options=options, progress=interrupt)
    assert not list(tmp_path.iterdir())

    (path,) = mask_product(product, tmp_path, options=options)
    times = {each: each.stat().st_mtime_ns for each in tmp_path.iterdir()}
    assert len(times) == 3
    seen = []
    assert mask_product(
        product, tmp_path, options=options, progress=lambda *told: seen.append(told)
    ) == [path]
    assert not seen
    assert {each: each.stat().st_mtime_ns for each in tmp_path.iterdir()} == times
    mask_product(product, tmp_path, options=replace(options, overwrite=True))
    assert path.stat().st_mtime_ns > times[path]


def test_what_a_killed_run_left_is_removed_by_the_next(product, model, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".kappamask-{socket.gethostname()}-{gone.pid}-abc"
    other = tmp_path / f".kappamask-{socket.gethostname()}-{os.getppid()}-abc"
    elsewhere = tmp_path / f".kappamask-another.host-{gone.pid}-abc"
    for folder in (left, other, elsewhere):
        folder.mkdir()
        (folder / "half.tif").write_bytes(b"x")
    mask_product(product, tmp_path, options=MaskOptions(model=model))
    assert not left.exists()
    assert other.exists()  # its process lives
    assert elsewhere.exists()  # nobody here can tell


def cut_short(folder, band):
    path = next(folder.glob(f"GRANULE/*/IMG_DATA/*_{band}.jp2"))
    path.write_bytes(path.read_bytes()[:2000])


def test_every_tile_of_an_old_product_gets_a_mask_and_a_damaged_one_is_named(tmp_path, model):
    recipe = Recipe(old=True, tiles=EAST, shape=(120, 120))
    folder = write_safe(tmp_path, recipe)
    out, options = tmp_path / "out", MaskOptions(model=model)
    paths = mask_product(folder, out, options=options)
    assert [path.name.split("_")[2] for path in paths] == ["T32UPV", "T32UQV"]
    with rasterio.open(paths[1]) as raster:
        assert raster.bounds.left == LEFT + 3000
        labels = predict_cube(open_safe(folder, tile="32UQV"), model=model)
        np.testing.assert_array_equal(raster.read(1), labels.values[0])

    paths[1].unlink()
    for path in folder.glob("GRANULE/*UQV*/IMG_DATA/*_B08.jp2"):
        path.write_bytes(b"")
    with pytest.raises(ReadError, match=r"errors in 1 of 2: tile 32UQV: cannot read .*B08"):
        mask_product(folder, out, options=options)
    assert [path.name.split("_")[2] for path in out.glob("*.tif")] == ["T32UPV"]


def test_a_grid_in_another_zone_is_refused(model):
    scene, grid = empty_scene(60)
    task = make_task(tuple(scene.files), level="L1C", model=model, output="labels")
    with pytest.raises(InputError, match="EPSG:32633: use load_cube"):
        stream_labels(scene, replace(grid, epsg=32633), task)


# --- items of a catalogue ---------------------------------------------------------------------


def write_item(folder, day, *, left=LEFT, bands=("B02", "B03", "B04", "B08", "B11"), seed=0):
    """Write one item with its GeoTIFFs, 200 x 300 pixels of 10 m."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    assets = {}
    for name in bands:
        gsd = BY_NAME[name].gsd
        profile = jp2(Recipe(shape=(200, 300)), gsd) | {
            "driver": "GTiff",
            "transform": from_origin(left, TOP, gsd, gsd),
            "nodata": 0,
        }
        dn = rng.integers(1000, 7000, (profile["height"], profile["width"]), dtype=np.uint16)
        dn[: len(dn) // 4] = 0
        path = folder / f"{day}_{left}_{name}.tif"
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(dn, 1)
        assets[name] = {
            "href": str(path),
            "proj:transform": list(profile["transform"][:6]),
            "proj:shape": list(dn.shape),
        }
    outline = degrees(left, TOP - 2000, left + 3000, TOP)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"S2A_T32UPV_{day}_{left}",
        "geometry": shapely.geometry.mapping(outline),
        "bbox": outline.bounds,
        "links": [],
        "properties": {
            "datetime": f"2017-{day}T10:30:21.026Z",
            "platform": "sentinel-2a",
            "proj:epsg": EPSG,
            "s2:product_type": "S2MSI1C",
            "s2:processing_baseline": "04.00",
        },
        "assets": assets,
    }


BEYOND = degrees(LEFT + 2000, TOP - 2600, LEFT + 4500, TOP - 1500)  # half of it without files


@pytest.mark.slow
@pytest.mark.parametrize("area", [None, AREA, BEYOND], ids=["whole", "area", "beyond"])
def test_items_of_local_files_get_the_same_masks(tmp_path, model, area, monkeypatch):
    items = [write_item(tmp_path, day, seed=seed) for seed, day in enumerate(("05-01", "05-11"))]
    items.append(write_item(tmp_path, "05-21", left=LEFT - 60000))  # misses the areas
    items = items[:2] if area is None else items
    write_masks_of(load_cube(items, area), model, tmp_path / "cube", items)
    monkeypatch.setattr("kappamask.jobs.masks.load_scenes", None)  # not needed
    paths = mask_files(items, tmp_path / "stream", area=area, options=MaskOptions(model=model))
    assert len(paths) == 2
    assert files_in(tmp_path / "stream") == files_in(tmp_path / "cube")


def test_whole_tiles_of_local_files_are_streamed_by_the_loop(tmp_path, model, monkeypatch):
    items = [write_item(tmp_path, day, seed=seed) for seed, day in enumerate(("05-01", "05-11"))]
    write_masks_of(load_cube(items), model, tmp_path / "cube", items)
    monkeypatch.setattr("kappamask.jobs.masks.load_scenes", None)  # not needed
    options = MaskOptions(model=model, pictures=False)
    report = mask_items(items, None, tmp_path / "loop", options=options)
    assert len(report.done) == 2
    assert files_in(tmp_path / "loop") == files_in(tmp_path / "cube")


@pytest.mark.parametrize("fill", [0, 65535])
def test_what_a_file_declares_as_no_data_is_missing(tmp_path, model, fill):
    item = write_item(tmp_path, "05-01")
    for asset in item["assets"].values():
        with rasterio.open(asset["href"]) as raster:
            dn, profile = raster.read(), raster.profile
        with rasterio.open(asset["href"], "w", **profile | {"nodata": fill}) as raster:
            raster.write(np.where(dn == 0, fill, dn))
    write_masks_of(load_cube([item]), model, tmp_path / "cube", [item])
    mask_files([item], tmp_path / "stream", options=MaskOptions(model=model))
    assert files_in(tmp_path / "stream") == files_in(tmp_path / "cube")


def test_a_file_that_lies_elsewhere_than_its_item_says_is_refused(tmp_path, model):
    item = write_item(tmp_path, "05-01")
    with rasterio.open(item["assets"]["B04"]["href"], "r+") as raster:
        raster.transform = from_origin(LEFT + 50, TOP, 10, 10)
    with pytest.raises(ReadError, match="item and file do not belong together"):
        mask_files([item], tmp_path / "stream", options=MaskOptions(model=model))


@pytest.mark.slow
def test_dates_that_cannot_be_streamed_are_read_by_load_cube(tmp_path, model):
    items = [
        write_item(tmp_path, "05-01"),
        write_item(tmp_path, "05-11"),
        write_item(tmp_path, "05-11", left=LEFT + 1500, seed=1),  # joined with the one before
        write_item(tmp_path, "05-21", left=LEFT + 5),  # between the pixels
    ]
    items[0]["assets"]["B02"]["href"] = Path(items[0]["assets"]["B02"]["href"]).as_uri()
    write_masks_of(load_cube(items), model, tmp_path / "cube", items)
    paths = mask_files(items, tmp_path / "stream", options=MaskOptions(model=model))
    assert len(paths) == 3
    assert files_in(tmp_path / "stream") == files_in(tmp_path / "cube")


# --- command line ---------------------------------------------------------------------------


def test_mask_takes_a_product_and_an_area(tmp_path, capsys):
    folder = write_safe(tmp_path, Recipe(shape=(180, 240)))
    out = tmp_path / "out"
    assert main(["mask", str(folder), "--out", str(out)]) == 0
    (path,) = out.glob("*.tif")
    assert (
        f"1 done, 0 skipped (finished before), 0 failed: masks in {out}" in capsys.readouterr().out
    )
    with rasterio.open(path) as raster:
        assert raster.shape == (180, 240)
    west, south, east, north = degrees(LEFT + 600, TOP - 1200, LEFT + 1200, TOP - 600).bounds
    words = ["--bbox", f"{west},{south},{east},{north}", "--resolution", "20", "--no-pictures"]
    assert main(["mask", str(folder), "--out", str(tmp_path / "part"), *words]) == 0
    (part,) = (tmp_path / "part").glob("*.tif")
    item = json.loads(part.with_suffix(".json").read_text())
    assert all(30 <= size <= 33 for size in item["properties"]["proj:shape"])  # north is not up
    assert item["properties"]["platform"] == "sentinel-2a"


def test_a_product_of_60_m_files_names_the_word_to_add(tmp_path, capsys):
    folder = write_safe(tmp_path, Recipe(level="L2A", gsds=(60,)))
    assert main(["mask", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "--resolution 60" in capsys.readouterr().err
    words = ["--out", str(tmp_path / "out"), "--resolution", "60", "--no-pictures"]
    assert main(["mask", str(folder), *words]) == 0


def test_windows_cover_the_scene_once():
    """A guard of the tests themselves: the small lattice cuts the scene into many windows."""
    windows = list(plan_windows(*SCENE.shape, lattice=LATTICE))
    counts = Counter((window.rows.start, window.columns.start) for window in windows)
    assert len(counts) == len(windows) > 12
