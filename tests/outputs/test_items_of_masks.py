"""`kappamask.outputs.stac_item`: what is said of a mask, read back as others read it."""

import hashlib
from pathlib import Path

import jsonschema
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from rasterio.warp import transform_bounds
from rio_cogeo.cogeo import cog_validate
from support.labels import (
    NAMES,
    SOURCE,
    derived_from,
    make_labels,
    patchy_codes,
    random_codes,
    read_item,
    read_unreferenced,
)
from support.stac_schemas import validate

from kappamask import __version__
from kappamask.outputs.masks import write_mask

# --- the item -------------------------------------------------------------------------------


def declared(item):
    return [name.split("/")[3] for name in item["stac_extensions"]]


ALL = ["classification", "eo", "file", "grid", "processing", "projection", "raster"]
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
    assert item.id == path.stem
    assert item.id.startswith("kappamask_20220602T101559_T32TPS_L2A_10m_")
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
