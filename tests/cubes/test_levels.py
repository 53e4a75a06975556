"""Coarser pixels out of overviews and resolution levels: where they lie, what is missing."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from support.rasters import write_raster

from kappamask import load_cube
from kappamask.base.windows import Grid
from kappamask.cubes.levels import at_grid
from kappamask.cubes.rasters import FileReader
from kappamask.scenes.scene import BandFile, Scene

EPSG, LEFT, TOP = 32632, 600000, 5500020
HEIGHT, WIDTH = 512, 768
FORMS = {
    "COG": {"driver": "COG", "blocksize": 256, "nodata": 0, "overview_resampling": "average"},
    "JP2": {
        "driver": "JP2OpenJPEG",
        "QUALITY": "100",
        "REVERSIBLE": "YES",
        "RESOLUTIONS": 3,
        "BLOCKXSIZE": 256,
        "BLOCKYSIZE": 256,
    },
}


def ramp():
    """DN that grow along both axes, so that a pixel tells where it lies: (y, x) uint16."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (1000 + 4 * y + 2 * x).astype(np.uint16)


def means(dn):
    """Mean of the 2 x 2 pixels with data, by hand; NaN where there are none."""
    blocks = np.where(dn == 0, np.nan, dn).reshape(HEIGHT // 2, 2, WIDTH // 2, 2)
    counts = np.isfinite(blocks).sum((1, 3))
    return np.where(counts, np.nansum(blocks, (1, 3)) / np.maximum(counts, 1), np.nan)


def scene_of(path, **fields):
    place = {"epsg": EPSG, "left": LEFT, "top": TOP, "height": HEIGHT, "width": WIDTH}
    file = BandFile(band="B02", href=str(path), gsd=10, dn_offset=0, scale=1e-4, **place | fields)
    ring = [[9, 49], [10, 49], [10, 50], [9, 50], [9, 49]]
    return Scene(
        id="one",
        time=np.datetime64("2022-06-02T10:00", "ns"),
        level="L2A",
        epsg=EPSG,
        footprint={"type": "Polygon", "coordinates": [ring]},
        files={"B02": file},
    )


def write(folder, dn, form, **options):
    path = folder / f"B02.{'jp2' if form == 'JP2' else 'tif'}"
    place = {"crs": EPSG, "transform": from_origin(LEFT, TOP, 10, 10)}
    write_raster(path, dn[None], **{**place, **FORMS[form], **options})
    with rasterio.open(path) as raster:
        assert 2 in raster.overviews(1)
    return path


GRID = Grid(EPSG, 20, LEFT, TOP, HEIGHT // 2, WIDTH // 2)


def read(scene, rows=slice(0, HEIGHT // 2), columns=slice(0, WIDTH // 2)):
    with FileReader(at_grid(scene, GRID).files) as reader:
        return reader.read("B02", rows, columns)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_coarse_pixels_lie_where_the_fine_ones_do(tmp_path, form, engine):
    """Samples of a wavelet left where they are would be 3 DN too dark, a quarter of a pixel."""
    dn = ramp()
    scene = scene_of(write(tmp_path, dn, form))
    (whole,) = load_cube([scene], resolution=20, engine=engine).values[:, 0] * 1e4
    assert whole.shape == (GRID.height, GRID.width)
    off = whole - means(dn)
    assert np.abs(off).max() <= 1.01  # a wavelet of whole numbers rounds twice
    assert abs(off.mean()) < 0.51
    np.testing.assert_array_equal(np.rint(whole), read(scene))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_missing_is_missing_and_what_lies_beside_is_the_mean(tmp_path, form):
    """A wavelet would mix data and zeros up to two pixels away."""
    dn = ramp()
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    dn[row + column < 301] = 0  # the slanted end of a pass, at an odd pixel
    dn[400:407, 500:503] = 0
    found = read(scene_of(write(tmp_path, dn, form)))
    wanted = means(dn)
    np.testing.assert_array_equal(found == 0, np.isnan(wanted))
    near = found[: 300 // 2, : 300 // 2]
    there = near > 0
    np.testing.assert_allclose(near[there], wanted[:150, :150][there], atol=0.51)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(100, 102), slice(300, 302)),  # 2 x 2 pixels, one of the coarse ones
        (slice(101, 103), slice(300, 302)),
        (slice(101, 103), slice(301, 303)),
        (slice(100, 101), slice(None)),  # rows and columns that a wavelet keeps, and drops
        (slice(101, 102), slice(None)),
        (slice(255, 256), slice(None)),  # the last of a block
        (slice(None), slice(256, 257)),
        (slice(None), slice(301, 302)),
    ],
)
@pytest.mark.parametrize("spread", [0, 300])
def test_thin_gaps_are_neither_filled_nor_do_they_darken(tmp_path, rows, columns, spread):
    """Where pixels are missing a wavelet leaves values, up to 1469 DN too low."""
    noise = np.random.default_rng(0).normal(0, spread, (HEIGHT, WIDTH))
    dn = (ramp() + noise).clip(1).astype(np.uint16)
    dn[rows, columns] = 0
    scene = scene_of(write(tmp_path, dn, "JP2"))
    wanted = np.nan_to_num(means(dn))
    found = read(scene)
    np.testing.assert_array_equal(found == 0, wanted == 0)
    touched = ((dn == 0).reshape(HEIGHT // 2, 2, WIDTH // 2, 2)).any((1, 3))
    np.testing.assert_allclose(found[touched], wanted[touched], atol=0.51)


def test_glints_are_no_gaps(tmp_path):
    """Beside a roof or a wave that shines a wavelet falls to 0: no reason to decode all pixels."""
    noise = np.random.default_rng(0).normal(0, 30, (HEIGHT, WIDTH))
    dn = (1000 + noise).astype(np.uint16)
    dn[20:250:40, 20:250:40] = 14000
    dn[400:402, 500:502] = 0  # missing, in another block
    dn[300:380, 100:140] = 5000  # a cloud, and a gap beside it
    dn[340:342, 140:142] = 0
    path = write(tmp_path, dn, "JP2")
    with rasterio.open(path, overview_level=0) as level:
        assert (level.read(1)[:128, :128] == 0).sum() > 20
    found, wanted = read(scene_of(path)), rounded(means(dn))
    glints, hole = np.s_[:128, :128], np.s_[128:, 128:256]
    assert found[glints].min() > 800
    assert (found[glints] != wanted[glints]).mean() > 0.5  # of the level, which holds no means
    np.testing.assert_array_equal(found[hole], wanted[hole])  # of all pixels, as one is missing
    assert found[200, 250] == found[170, 70] == 0


@pytest.mark.parametrize("form", FORMS)
def test_any_window_gives_the_same_pixels(tmp_path, form):
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 6000, (HEIGHT, WIDTH)).astype(np.uint16)
    dn[:100, :300] = 0
    scene = scene_of(write(tmp_path, dn, form))
    whole = read(scene)
    for rows, columns in ((slice(3, 200), slice(120, 260)), (slice(127, 129), slice(0, 384))):
        np.testing.assert_array_equal(read(scene, rows, columns), whole[rows, columns])


def with_overview(path, dn, resampling, *, nodata=0):
    """Write a GeoTIFF and mark its overview: pixels that are changed once it is made."""
    place = {"crs": EPSG, "transform": from_origin(LEFT, TOP, 10, 10), "nodata": nodata}
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    write_raster(path, dn[None], **place, **tiles)
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2], Resampling[resampling])
    marked = dn.copy()
    marked[300:310, :20] = 7
    with rasterio.open(path, "r+") as raster:
        raster.write(marked, 1)
    return marked


def rounded(wanted):
    return np.nan_to_num(np.floor(wanted + 0.5))


@pytest.mark.parametrize("engine", ["stackstac", "odc"])
@pytest.mark.parametrize(
    "resampling", ["average", "nearest", "bilinear", "cubic", "gauss", "lanczos", "mode", "rms"]
)
def test_overviews_are_read_only_where_they_hold_means(tmp_path, resampling, engine):
    """GDAL's default for a COG is cubic; nearest pixels lie half a pixel off."""
    dn = (
        (ramp() + np.random.default_rng(0).normal(0, 200, (HEIGHT, WIDTH)))
        .clip(1)
        .astype(np.uint16)
    )
    dn[:, 300:] = 0  # nothing is told by the middle
    path = tmp_path / "B02.tif"
    marked = with_overview(path, dn, resampling)
    wanted = rounded(means(dn if resampling == "average" else marked))
    scene = scene_of(path)
    np.testing.assert_allclose(read(scene), wanted, atol=1)
    cube = load_cube([scene], resolution=20, engine=engine, chunks=100)
    np.testing.assert_allclose(cube.fillna(0).values[0, 0] * 1e4, wanted, atol=1.01)


def test_overviews_are_read_only_where_no_data_was_left_out_of_them(tmp_path):
    """Without a declared 0 they hold means of data and zeros: then all pixels are averaged."""
    dn = ramp()
    dn[:, :301] = 0
    path = tmp_path / "B02.tif"
    marked = with_overview(path, dn, "average", nodata=None)
    np.testing.assert_array_equal(read(scene_of(path)), rounded(means(marked)))


def test_overviews_that_tell_nothing_are_left(tmp_path):
    """Even ground is its own mean, however an overview was made."""
    path = tmp_path / "B02.tif"
    dn = np.full((HEIGHT, WIDTH), 2500, np.uint16)
    marked = with_overview(path, dn, "nearest")
    np.testing.assert_array_equal(read(scene_of(path)), rounded(means(marked)))


@pytest.mark.parametrize("resolution", [40, 80, 100, 200])
def test_bands_that_do_not_divide_the_pixels_are_warped_beside_levels(tmp_path, resolution):
    """Those of 60 m have no pixels that make up 80 m: an engine takes means, by their share."""
    y, x = np.mgrid[:480, :480]
    fine = (1000 + 4 * y + 2 * x).astype(np.uint16)
    broad = np.random.default_rng(0).integers(1, 6000, (80, 80)).astype(np.uint16)
    place = {"crs": EPSG, "transform": from_origin(LEFT, TOP, 60, 60), "RESOLUTIONS": 1}
    path = tmp_path / "B01.jp2"
    write_raster(path, broad[None], **{**FORMS["JP2"], **place})
    scene = scene_of(write(tmp_path, fine, "JP2"), height=480, width=480)
    sizes = {"gsd": 60, "height": 80, "width": 80}
    b01 = replace(scene.files["B02"], band="B01", href=str(path), **sizes)
    scene = replace(scene, files=scene.files | {"B01": b01})

    cube = load_cube([scene], resolution=resolution, bands=["B01", "B02"])
    found = cube.values[0] * 1e4
    step, count = resolution // 10, 4800 // resolution
    repeated = np.repeat(np.repeat(broad, 6, axis=0), 6, axis=1)
    for band, pixels in zip(found, (repeated, fine), strict=True):
        wanted = pixels.reshape(count, step, count, step).mean((1, 3))
        np.testing.assert_allclose(band, wanted, atol=0.51)
    alone = load_cube([scene], resolution=resolution, bands=["B02"])
    np.testing.assert_allclose(alone.values[0, 0] * 1e4, found[1], atol=2.01)  # levels


def test_files_stay_as_they_are_where_coarse_pixels_would_not_meet_the_grid():
    scene = scene_of("/B02.tif")
    halved = at_grid(scene, GRID).files["B02"]
    assert (halved.gsd, halved.height, halved.width) == (20, HEIGHT // 2, WIDTH // 2)
    assert halved.bounds == scene.files["B02"].bounds
    for grid in (
        replace(GRID, resolution=10),
        replace(GRID, resolution=30),
        replace(GRID, left=LEFT + 10),
        replace(GRID, epsg=32633),
    ):
        assert at_grid(scene, grid) == scene
    odd = scene_of("/B02.tif", height=HEIGHT - 1)
    assert at_grid(odd, GRID) == odd
    assert at_grid(at_grid(scene, GRID), GRID) == at_grid(scene, GRID)
    assert at_grid(scene, replace(GRID, resolution=60)).files["B02"].halved
