"""A folder of SAFE and EOPF products as collections, asked by the ordinary client over HTTP."""

from dataclasses import replace
from functools import partial

import numpy as np
import openeo
import pytest
import xarray as xr
from openeo.rest import OpenEoApiError
from support.eopf_stores import write_store
from support.openeo_server import serving
from support.safe_products import (
    EPSG,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Recipe,
    held,
    make_classes,
    make_dn,
    write_safe,
    zip_safe,
)
from support.stac_items import write_catalog

from kappamask import load_cube, open_safe, search
from kappamask.base.errors import CatalogError, ItemError, NoItemsError
from kappamask.openeo.server.settings import Settings

pytestmark = pytest.mark.slow

TILE = "32UPV"
L2A = Recipe("L2A", baseline="05.00", offset=-1000, scl=True, clouds=12.5)
L1C = Recipe("L1C", baseline="02.05", seed=1)
EXTENT = {
    "west": LEFT, "south": TOP - 10 * HEIGHT, "east": LEFT + 10 * WIDTH, "north": TOP, "crs": EPSG,
}  # fmt: skip
DAY = ["2017-04-30", "2017-05-01"]


def all_of(recipe, band):
    """DN of a band at 10 m, NaN for no data: written by the test, read by nobody."""
    gsd = min(size for name, size in held(recipe) if name == band)
    dn = make_dn(recipe, TILE, band, gsd).astype(float)
    dn[dn == 0] = np.nan
    return dn.repeat(gsd // 10, 0).repeat(gsd // 10, 1)


def write_some(folder, kind):
    """Write an L2A product of a kind, and an L1C one beside it that is a SAFE folder."""
    folder.mkdir()
    write_safe(folder, L1C)
    if kind in ("esa", "geozarr"):
        write_store(folder, L2A, kind)
        return
    product = write_safe(folder if kind == "safe" else folder.parent, L2A)
    if kind == "zip":
        zip_safe(product).rename(folder / "product.zip")


@pytest.fixture(scope="module", params=["safe", "zip", "esa", "geozarr"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp(kind) / "products"
    write_some(folder, kind)
    return folder


@pytest.fixture(scope="module")
def connection(folder, tmp_path_factory):
    with serving(Settings(str(folder), tmp_path_factory.mktemp("work"), port=0)) as url:
        yield openeo.connect(url)


def fetch_from(connection, folder, collection, bands):
    cube = connection.load_collection(collection, EXTENT, DAY, bands)
    cube.download(folder / "cube.nc", format="netCDF")
    with xr.open_dataset(folder / "cube.nc", decode_coords="all") as content:
        return content.load()


@pytest.fixture
def fetch(connection, tmp_path):
    return partial(fetch_from, connection, tmp_path)


def test_collections_are_told_as_the_products_hold_them(connection):
    assert connection.list_collection_ids() == ["SENTINEL2_L2A", "SENTINEL2_L1C"]
    for recipe, more in [(L2A, ["AOT", "SCL"]), (L1C, [])]:
        told = connection.describe_collection(f"SENTINEL2_{recipe.level}")
        there = [name for name in dict.fromkeys(name for name, _ in held(recipe)) if name != "AOT"]
        assert told["cube:dimensions"]["bands"]["values"] == [*there, *more]
        assert told["cube:dimensions"]["x"]["reference_system"] == EPSG
        low, high = told["cube:dimensions"]["x"]["extent"]
        assert LEFT - 300 < low < high < LEFT + 10 * WIDTH + 700
        assert [end[:10] for end in told["extent"]["temporal"]["interval"][0]] == ["2017-04-30"] * 2
        west, south, east, north = told["extent"]["spatial"]["bbox"][0]
        assert 10.37 < west < east < 10.43
        assert 49.6 < south < north < 49.65


def test_pixels_are_those_that_were_written(fetch):
    there = fetch("SENTINEL2_L2A", ["B02", "B05", "SCL"])
    for band in ("B02", "B05"):  # of 10 and 20 m
        np.testing.assert_array_equal(there[band][0], all_of(L2A, band))
    classes = make_classes(L2A, TILE).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(np.nan_to_num(there["SCL"][0]), classes)
    assert str(there["t"].values[0])[:10] == "2017-04-30"


def test_pixels_are_those_of_open_safe(fetch, folder):
    (path,) = [p for p in folder.iterdir() if "MSIL1C" not in p.name]
    own = open_safe(path)
    there = fetch("SENTINEL2_L2A", list(own.band.values))
    for band in own.band.values:
        expected = (own.sel(band=band).values * np.float32(10000)).round()
        np.testing.assert_array_equal(there[band], expected)


def test_the_other_level_is_a_collection_of_its_own(fetch):
    there = fetch("SENTINEL2_L1C", ["B10", "B08"])
    for band in ("B10", "B08"):
        np.testing.assert_array_equal(there[band][0], all_of(L1C, band))


def test_a_search_of_the_folder_gives_the_cube_of_the_product(folder):
    items = search(None, DAY[0], catalog=folder, tile=TILE)
    assert [item.properties["grid:code"] for item in items] == [f"MGRS-{TILE}"]
    (path,) = [p for p in folder.iterdir() if "MSIL1C" not in p.name]
    whole = open_safe(path)
    cube = load_cube(items, bands=list(whole.band.values))
    xr.testing.assert_equal(cube.drop_vars("source_items"), whole.drop_vars(
        ["source_items", "tile", "sun_zenith"]))  # fmt: skip


# --- what lies in folders -------------------------------------------------------------------


@pytest.fixture
def products(tmp_path):
    (tmp_path / "products").mkdir()
    return tmp_path / "products"


def search_all(folder, dates=DAY[0], **more):
    return search(None, dates, catalog=folder, tile=TILE, **more)


def test_clouds_are_asked_of_the_metadata(products, tmp_path):
    write_safe(products, L2A)
    assert search_all(products)[0].properties["eo:cloud_cover"] == 12.5
    with pytest.raises(NoItemsError, match=r"the least has 12\.5 %"):
        search_all(products, max_cloud_cover=10)
    with serving(Settings(str(products), tmp_path / "work", port=0)) as url:
        cube = openeo.connect(url).load_collection(
            "SENTINEL2_L2A", spatial_extent=EXTENT, temporal_extent=DAY, max_cloud_cover=10
        )
        with pytest.raises(OpenEoApiError, match=r"condition on eo:cloud_cover"):
            cube.download(tmp_path / "no.nc", format="netCDF")


def test_the_offset_is_the_one_that_the_product_lists(products):
    """Sen2Cor of one's own makes baseline 99.99, which says nothing of the offset."""
    recipe = replace(L2A, baseline="99.99")
    write_safe(products, recipe)
    cube = load_cube(search_all(products), bands=["B03"])
    np.testing.assert_allclose(cube[0, 0], all_of(recipe, "B03") / 10000, rtol=1e-6)


def test_a_product_with_several_tiles_is_several_items(products):
    far = (32632, LEFT + 50 * 240 * 10, TOP)
    recipe = Recipe("L1C", old=True, tiles={TILE: (EPSG, LEFT, TOP), "32UQV": far})
    write_safe(products, recipe)
    (item,) = search_all(products, level="L1C")
    assert item.bbox[2] < 10.43  # of what the product shows, its own part
    cube = load_cube([item], bands=["B04"])
    np.testing.assert_allclose(cube[0, 0], all_of(recipe, "B04") / 10000, rtol=1e-6)
    (other,) = search(None, DAY[0], catalog=products, tile="32UQV", level="L1C")
    dn = make_dn(recipe, "32UQV", "B04", 10)
    there = load_cube([other], bands=["B04"])[0, 0]
    np.testing.assert_allclose(there.fillna(0), dn / 10000, rtol=1e-6)


def test_a_product_and_its_archive_are_one_scene(products):
    zip_safe(write_safe(products, L2A))
    assert len(list(products.iterdir())) == 2
    assert len(search_all(products)) == 1


def test_a_damaged_product_is_left_out_by_name(products, caplog):
    write_safe(products, L2A)
    broken = products / "S2A_MSIL2A_20170430T103021_broken.zip"
    broken.write_bytes(b"PK")
    assert len(search_all(products)) == 1
    assert f"left out {broken}" in caplog.text


def test_a_folder_without_whole_products_says_why(products):
    with pytest.raises(CatalogError, match=r"catalog\.json, or products .*, got .*products"):
        search_all(products)
    product = write_safe(products, L2A)
    next(product.rglob("*_B02_10m.jp2")).unlink()
    with pytest.raises(Exception, match=r"lists .*B02_10m"):
        search_all(products)


def test_what_was_seen_at_other_times_is_not_read(products, monkeypatch):
    from kappamask.scenes import folder as module

    write_safe(products, L2A)
    read = []
    monkeypatch.setattr(module, "read_product", read.append)
    with pytest.raises(NoItemsError):
        search_all(products, "2018")
    assert read == []


def test_an_offset_that_is_none_is_refused(products):
    write_safe(products, L2A)
    (item,) = search_all(products)
    for wrong in ("-1000", 5, True, -1e4):
        item.assets["B02_10m"].extra_fields["kappamask:dn_offset"] = wrong
        with pytest.raises(ItemError, match=r"kappamask:dn_offset of asset 'B02_10m'"):
            load_cube([item], bands=["B02"])


@pytest.mark.parametrize("kind", ["esa", "geozarr"])
def test_items_of_an_eopf_catalogue_are_a_collection(kind, products, tmp_path):
    """Assets are arrays of stores, as in the catalogue `eopf`; the store says where they lie."""
    store = write_store(products, L2A, kind)
    classes = "conditions/mask/l2a_classification/r20m/scl"
    arrays = {
        "B02_10m": "measurements/reflectance/r10m/b02",
        "B8A_20m": "measurements/reflectance/r20m/b8a",
        "SCL_20m": classes,
    }
    corners = [(10.385, 49.625), (10.41, 49.625), (10.41, 49.638), (10.385, 49.625)]
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": L2A.name, "links": [],
        "collection": "sentinel-2-l2a", "bbox": [10.385, 49.625, 10.41, 49.638],
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"datetime": "2017-04-30T10:30:21Z"},
        "assets": {key: {"href": f"{store}/{array}"} for key, array in arrays.items()},
    }  # fmt: skip
    catalog = write_catalog(tmp_path / "stac", [item])
    with serving(Settings(str(catalog), tmp_path / "work", port=0)) as url:
        connection = openeo.connect(url)
        told = connection.describe_collection("SENTINEL2_L2A")
        assert told["cube:dimensions"]["bands"]["values"] == ["B02", "B8A", "SCL"]
        there = fetch_from(connection, tmp_path, "SENTINEL2_L2A", ["B02", "B8A", "SCL"])
    for band in ("B02", "B8A"):
        np.testing.assert_array_equal(there[band][0], all_of(L2A, band))
    classes = make_classes(L2A, TILE).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(np.nan_to_num(there["SCL"][0]), classes)
