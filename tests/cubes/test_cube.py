"""Items to cubes: grids, offsets (invariant 2), engines held equal, mosaics, bad items."""

import functools
import json
import logging

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry import box, mapping
from support import bolzano

from kappamask import load_cube
from kappamask.base.bands import BY_NAME
from kappamask.base.errors import (
    InputError,
    ItemError,
    KappaMaskError,
    NoItemsError,
    UnknownNameError,
)
from kappamask.base.windows import Grid, snap_chunks
from kappamask.sample import SCENES, catalog_path
from kappamask.scenes.area import project
from kappamask.scenes.catalogs import Holding, Profile, resolve_assets
from kappamask.scenes.search import search

LEFT, TOP = 600000, 5000040
PLACE = {"left": LEFT, "top": TOP, "epsg": 32632}
BBOX = (10.27, 45.13, 10.29, 45.15)  # of the scenes made here
SIZE = 60  # 10 m pixels per side of the scenes made here
# odc's own warp makes in-memory rasters and warns that they have no place on the ground
odc_warns = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def write_raster(path, dn, step, *, left=LEFT, top=TOP, epsg=32632):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"height": dn.shape[0], "width": dn.shape[1], "count": 1, "dtype": "uint16"}
    place = {"crs": f"EPSG:{epsg}", "transform": Affine(step, 0, left, 0, -step, top)}
    with rasterio.open(path, "w", driver="GTiff", nodata=0, **shape, **place) as target:
        target.write(dn, 1)


def make_item(folder, name, *, bands=("B02", "B03", "B04", "B08"), baseline="02.09", **how):
    """An Earth Search style item over rasters of seeded random DN at native resolution."""
    place = {key: how.get(key, usual) for key, usual in PLACE.items()}
    rng = np.random.default_rng(how.get("seed", 0))
    assets = {}
    for band in bands:
        step = BY_NAME[band].gsd
        dn = rng.integers(1, 4000, (SIZE * 10 // step,) * 2).astype(np.uint16)
        path = folder / name / f"{band}.tif"
        write_raster(path, dn + np.uint16(how.get("shift", 0)), step, **place)
        assets[BY_NAME[band].common_name] = {
            "href": str(path),
            "proj:transform": [step, 0, place["left"], 0, -step, place["top"]],
            "proj:shape": list(dn.shape),
        }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": mapping(box(*BBOX)),
        "bbox": list(BBOX),
        "links": [],
        "assets": assets,
        "properties": {
            "datetime": how.get("time", "2022-06-02T10:16:00Z"),
            "proj:epsg": place["epsg"],
            "s2:product_type": "S2MSI2A",
            "s2:processing_baseline": baseline,
        },
    }


def read(item, band_key):
    with rasterio.open(item["assets"][band_key]["href"]) as source:
        return source.read(1)


# --- pixels ---------------------------------------------------------------------------------


@odc_warns
@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_coarse_bands_are_repeated_exactly(tmp_path, engine):
    """20 m and 60 m pixels keep their edges: km_predict stretched 85 px to 512 (fact 3)."""
    item = make_item(tmp_path, "S2A_one", bands=("B01", "B02", "B11"))
    cube = load_cube([item], engine=engine).isel(time=0)
    for band, key, factor in (("B01", "coastal", 6), ("B02", "blue", 1), ("B11", "swir16", 2)):
        expected = read(item, key).repeat(factor, 0).repeat(factor, 1) * np.float32(1e-4)
        np.testing.assert_allclose(cube.sel(band=band), expected, rtol=1e-6)
    assert cube.x.values[0] == LEFT + 5
    assert cube.y.values[0] == TOP - 5


@pytest.mark.slow
@odc_warns
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
@pytest.mark.parametrize("resolution", [10, 20])
def test_stackstac_and_odc_give_the_same_cube(scene, resolution):
    items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
    west, south, east, north = scene.bbox
    cut = (west, south, west + (east - west) * 0.6, south + (north - south) * 0.7)
    one, other = (
        load_cube(items, cut, engine=engine, resolution=resolution).compute()
        for engine in ("stackstac", "odc")
    )
    if resolution == 10:
        assert one.identical(other)
    else:  # two ways of asking GDAL for a mean round differently, by one DN at most
        assert one.coords.equals(other.coords)
        np.testing.assert_allclose(one, other, atol=1.01e-4)


@odc_warns
def test_the_two_engines_agree_on_mosaics_in_two_zones(tmp_path):
    items = [
        make_item(tmp_path, "S2A_a", seed=1),
        make_item(tmp_path, "S2A_b", seed=2, left=LEFT + 300),
        make_item(tmp_path, "S2A_c", seed=3, time="2022-06-03T10:16:00Z"),
    ]
    one, other = (load_cube(items, engine=engine).compute() for engine in ("stackstac", "odc"))
    assert one.sizes["time"] == 2
    assert one.identical(other)


def test_area_none_loads_all_of_the_items(tmp_path):
    items = [make_item(tmp_path, "S2A_a"), make_item(tmp_path, "S2A_b", left=LEFT + 600)]
    cube = load_cube(items)
    assert cube.sizes["x"] == 2 * SIZE
    assert not np.isnan(cube.values).any()


def test_outside_the_items_there_is_no_data(tmp_path):
    item = make_item(tmp_path, "S2A_a")
    cube = load_cube([item], (10.2695, 45.1405, 10.2755, 45.1455))
    values = cube.values
    assert np.isnan(values).any()
    assert np.isfinite(values).any()
    inside = (cube.x > LEFT) & (cube.x < LEFT + 600) & (cube.y < TOP) & (cube.y > TOP - 600)
    np.testing.assert_array_equal(
        np.isfinite(values), np.broadcast_to(inside.transpose("y", "x"), values.shape)
    )


def test_coarser_than_10_m_is_a_mean(tmp_path):
    item = make_item(tmp_path, "S2A_a", bands=("B02",))
    blocks = read(item, "blue").reshape(SIZE // 2, 2, SIZE // 2, 2).mean((1, 3))
    cube = load_cube([item], resolution=20)
    np.testing.assert_allclose(cube.values[0, 0], blocks * 1e-4, atol=0.51e-4)


def test_a_band_that_one_item_lacks_is_no_data_there(tmp_path):
    items = [
        make_item(tmp_path, "S2A_a"),
        make_item(tmp_path, "S2A_b", bands=("B02", "B11"), time="2022-06-12T10:16:00Z"),
    ]
    cube = load_cube(items)
    assert cube.band.values.tolist() == ["B02", "B03", "B04", "B08", "B11"]
    empty = np.isnan(cube.values).all((2, 3))
    assert empty.tolist() == [[False] * 4 + [True], [False, True, True, True, False]]


def test_auxiliary_layers_take_neither_offset_nor_the_scale_of_reflectance(tmp_path):
    item = make_item(tmp_path, "S2A_a", bands=("B02", "AOT"), baseline="05.09")
    cube = load_cube([item], bands=["AOT", "B02"])
    np.testing.assert_allclose(cube.values[0, 0], read(item, "aot") * 1e-3, rtol=1e-6)
    expected = (read(item, "blue").astype(int) - 1000) * 1e-4
    np.testing.assert_allclose(cube.values[0, 1], expected, atol=1e-7)


# --- invariant 2: offset --------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["04.00", "05.11"])
def test_one_scene_stored_at_two_baselines_gives_identical_cubes(tmp_path, baseline):
    """Complaint 1: km_predict #28, s2cloudless #36 #40 #94, PlanetaryComputer #134."""
    old = make_item(tmp_path, "S2A_old", baseline="02.14")
    new = make_item(tmp_path, "S2A_new", baseline=baseline, shift=1000)
    np.testing.assert_array_equal(load_cube([new]).values, load_cube([old]).values)


@pytest.mark.shared
def test_every_profile_gives_the_same_cube(shared_data):
    cubes = []
    for keys, collection in (
        (bolzano.EARTH_SEARCH, "sentinel-2-c1-l2a"),
        (bolzano.PLANETARY, "sentinel-2-l2a"),
        (bolzano.COPERNICUS, "sentinel-2-l2a"),
    ):
        item = bolzano.make_item(
            shared_data / "bolzano/S2_L2A_20220602", keys=keys, collection=collection
        )
        cubes.append(load_cube([item]))
    with rasterio.open(shared_data / "bolzano/S2_L2A_20220602/B04.tif") as source:
        dn = source.read(1)
    for cube in cubes:
        np.testing.assert_array_equal(cube.values, cubes[0].values)
        red = cube.sel(band="B04").values[0]
        np.testing.assert_allclose(red, (dn - 1000.0) * 1e-4, atol=1e-7)


def test_the_items_own_scale_and_offset_are_not_believed(tmp_path):
    item = make_item(tmp_path, "S2A_a", baseline="04.00")
    plain = load_cube([item]).values
    for asset in item["assets"].values():
        asset["raster:bands"] = [{"scale": 0.5, "offset": -0.7, "nodata": 17}]
    np.testing.assert_array_equal(load_cube([item]).values, plain)


def test_the_caller_may_give_the_offset(tmp_path):
    item = make_item(tmp_path, "S2A_a", baseline="")
    with pytest.raises(ItemError, match="S2A_a: its processing baseline is unknown"):
        load_cube([item])
    cube = load_cube([item], resolve=functools.partial(resolve_assets, dn_offset=-1000))
    expected = (read(item, "blue").astype(int) - 1000) * 1e-4
    np.testing.assert_allclose(cube.values[0, 0], expected, atol=1e-7)


def test_a_profile_of_the_users_own_reads_other_asset_keys(tmp_path):
    item = make_item(tmp_path, "S2A_a", bands=("B02",))
    item["assets"]["band_two"] = item["assets"].pop("blue")
    held = Holding(("s2",), {"B02": ("band_two",)})
    mine = Profile("mine", "https://stac.example", {"L2A": held})
    cube = load_cube([item], resolve=functools.partial(resolve_assets, profile=mine))
    assert cube.band.values.tolist() == ["B02"]


# --- dates ----------------------------------------------------------------------------------


def test_neighbours_of_one_solar_day_are_one_date_and_the_first_valid_pixel_wins(tmp_path):
    early = make_item(tmp_path, "S2A_a", time="2022-06-02T10:15:50Z", seed=1)
    late = make_item(tmp_path, "S2A_b", time="2022-06-02T10:16:05Z", seed=2, left=LEFT + 300)
    blue = read(early, "blue")
    blue[:5, -20:] = 0  # the swath of the first one ends here
    write_raster(tmp_path / "S2A_a" / "B02.tif", blue, 10)
    cube = load_cube([late, early], bands=["B02"])
    values = cube.values[0, 0]
    assert cube.sizes["time"] == 1
    assert str(cube.source_items.values[0]) == "S2A_a S2A_b"
    expected = np.zeros((SIZE, SIZE + 30), np.uint16)  # brute force, later one first
    expected[:, 30:] = read(late, "blue")
    expected[:, :SIZE] = np.where(blue > 0, blue, expected[:, :SIZE])
    np.testing.assert_allclose(values, np.where(expected, expected * 1e-4, np.nan), rtol=1e-6)


def test_the_solar_day_is_local_not_utc(tmp_path):
    """Near the antimeridian one pass crosses midnight UTC."""
    for west, zone, days in ((-0.5, 30, 2), (177, 60, 1), (-179, 1, 1)):
        corners = [[west, -17], [west + 1, -17], [west + 1, -16], [west, -17]]
        there = Transformer.from_crs(4326, 32700 + zone, always_xy=True)
        x, y = (round(value, -1) for value in there.transform(west + 0.75, -16.5))
        items = [
            make_item(tmp_path / str(zone), name, time=time, left=x, top=y, epsg=32700 + zone)
            for name, time in (("S2A_a", "2022-06-02T23:50:00Z"), ("S2A_b", "2022-06-03T00:10:00Z"))
        ]
        for item in items:
            item["geometry"] = {"type": "Polygon", "coordinates": [corners]}
        assert load_cube(items).sizes["time"] == days


def test_dates_are_in_order_whatever_the_order_of_items(tmp_path):
    items = [
        make_item(tmp_path, f"S2A_{day}", time=f"2022-06-{day}T10:16:00Z", seed=day)
        for day in (22, 12, 17)
    ]
    cube = load_cube(items)
    assert [str(name) for name in cube.source_items.values] == ["S2A_12", "S2A_17", "S2A_22"]
    np.testing.assert_allclose(cube.values[1, 0], read(items[2], "blue") * 1e-4, rtol=1e-6)


# --- grids ----------------------------------------------------------------------------------


def test_two_zones_in_one_cube_say_which_was_chosen(tmp_path, caplog):
    items = [
        make_item(tmp_path, "S2A_a"),
        make_item(tmp_path, "S2A_b", seed=1, time="2022-06-05T10:16:00Z"),
        make_item(tmp_path, "S2A_c", epsg=32633, left=130000, time="2022-06-07T10:16:00Z"),
    ]
    with caplog.at_level(logging.WARNING, logger="kappamask"):
        cube = load_cube(items)
    assert cube.rio.crs.to_epsg() == 32632
    assert "the cube is in EPSG:32632 as 2 of 3 items are" in caplog.text


@given(
    st.integers(1, 9000),
    st.integers(-(10**6), 10**6),
    st.integers(-(10**6), 10**6),
    st.sampled_from([256, 512, 768, 1536]),
)
def test_chunk_edges_lie_on_the_lattice(size, row, column, chunk):
    grid = Grid(32632, 10, column * 10, -row * 10, size, size)
    for sizes, origin in zip(snap_chunks(grid, chunk), (row, column), strict=True):
        assert sum(sizes) == size
        edges = origin + np.cumsum(sizes)[:-1]
        assert (edges % chunk == 0).all()
        assert max(sizes) <= (2048 if chunk == 1536 else chunk)


@given(
    st.floats(0, 1e6),
    st.floats(0, 1e7),
    st.floats(0.1, 5000),
    st.floats(0.1, 5000),
    st.sampled_from([10, 20, 60]),
)
def test_a_grid_covers_its_bounds_and_lies_on_the_items_pixels(left, bottom, width, height, step):
    bounds = (left, bottom, left + width, bottom + height)
    grid = Grid.covering(bounds, epsg=32632, resolution=step, anchor=(300000.0, 5000040.0))
    got = grid.bounds
    assert got[0] <= bounds[0] + 0.01
    assert got[1] <= bounds[1] + 0.01
    assert got[2] >= bounds[2] - 0.01
    assert got[3] >= bounds[3] - 0.01
    assert (grid.left - 300000) % step == 0
    assert (grid.top - 5000040) % step == 0
    assert grid.width <= width / step + 2


def test_an_area_across_the_antimeridian_is_small_on_its_grid():
    from kappamask.scenes.area import parse_area

    left, _, right, _ = project(parse_area((179.9, -17, -179.9, -16.9)), 32760).bounds
    assert right - left < 40_000


# --- bad input ------------------------------------------------------------------------------


def test_an_area_outside_the_items_names_both(tmp_path):
    item = make_item(tmp_path, "S2A_a")
    with pytest.raises(NoItemsError, match=r"outside all 1 items \(S2A_a...\)"):
        load_cube([item], (11, 46, 11.1, 46.1))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"items": []}, NoItemsError, "needs at least one item, got none"),
        ({"resolution": 0}, InputError, "metres per pixel, above 0, got 0"),
        ({"engine": "gdal"}, UnknownNameError, "unknown engine 'gdal': expected one of stackstac"),
        ({"chunks": 0}, InputError, "chunks is pixels per side"),
        ({"bands": ["B99"]}, UnknownNameError, "unknown band 'B99'"),
        ({"bands": ["B02", "B05"]}, ItemError, "item S2A_a: no asset for B05"),
        ({"bands": ["B02", "B02"]}, InputError, "each band may stand once, got B02"),
        ({"bands": ["B10"]}, KappaMaskError, "B10"),
        ({"crs": 4326}, InputError, "needs a projected CRS in metres"),
        ({"area": (1, 2, 3)}, InputError, "bbox"),
    ],
)
def test_bad_arguments_get_one_clear_error(tmp_path, change, error, message):
    arguments = {"items": [make_item(tmp_path, "S2A_a")]} | change
    with pytest.raises(error, match=message):
        load_cube(arguments.pop("items"), **arguments)


def test_two_levels_in_one_cube_are_refused(tmp_path):
    items = [make_item(tmp_path, "S2A_a"), make_item(tmp_path, "S2A_b")]
    items[1]["properties"]["s2:product_type"] = "S2MSI1C"
    with pytest.raises(InputError, match=r"got L2A \(S2A_a\) and L1C \(S2A_b\)"):
        load_cube(items)


def test_an_item_without_crs_says_what_to_pass(tmp_path):
    item = make_item(tmp_path, "S2A_a")
    del item["properties"]["proj:epsg"]
    with pytest.raises(ItemError, match="S2A_a does not tell its CRS"):
        load_cube([item])


def test_items_may_be_dicts_or_pystac(tmp_path):
    import pystac

    item = make_item(tmp_path, "S2A_a")
    both = [load_cube([one]) for one in (item, pystac.Item.from_dict(json.loads(json.dumps(item))))]
    assert both[0].identical(both[1])
