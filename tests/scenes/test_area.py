import json

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box, mapping, shape
from support.real_items import readable_items

from kappamask.base.errors import InputError, ItemError
from kappamask.scenes.area import check_size, cut_at_antimeridian, parse_area, tile_geometry
from kappamask.scenes.items import view_of

SQUARE = box(26.5, 58.3, 26.8, 58.4)


def feature(geometry):
    return {"type": "Feature", "properties": {}, "geometry": geometry}


@pytest.mark.parametrize(
    "area",
    [
        (26.5, 58.3, 26.8, 58.4),
        [26.5, 58.3, 26.8, 58.4],
        SQUARE,
        shapely.force_3d(SQUARE, 12.0),
        mapping(SQUARE),
        feature(mapping(SQUARE)),
        {"type": "FeatureCollection", "features": [feature(mapping(SQUARE))] * 2},
        {
            **mapping(SQUARE),
            "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
        },
        {**mapping(SQUARE), "crs": {"type": "name", "properties": {"name": "EPSG:4326"}}},
    ],
)
def test_every_form_of_one_area_is_the_same_polygon(area):
    parsed = parse_area(area)
    assert parsed.equals(SQUARE)
    assert not parsed.has_z


def test_a_geojson_file_is_read(tmp_path):
    path = tmp_path / "field.geojson"
    path.write_text(json.dumps(feature(mapping(SQUARE))), encoding="utf-8")
    assert parse_area(path).equals(SQUARE)
    assert parse_area(str(path)).equals(SQUARE)


def test_an_object_with_a_geo_interface_is_read():
    class Frame:
        __geo_interface__ = feature(mapping(SQUARE))

    assert parse_area(Frame()).equals(SQUARE)


def test_a_feature_collection_is_the_union_of_its_features():
    other = box(27, 58, 28, 59)
    collection = {
        "type": "FeatureCollection",
        "features": [feature(mapping(SQUARE)), feature(mapping(other))],
    }
    assert parse_area(collection).equals(SQUARE.union(other))


@given(
    st.floats(-179.9, 179.9),
    st.floats(-179.9, 179.9),
    st.floats(-89, 88),
    st.floats(0.01, 1),
)
def test_a_bbox_covers_its_longitudes_once_also_across_the_antimeridian(west, east, south, height):
    width = (east - west) % 360
    if west == east or (west > east and width > 180):  # refused: see below
        return
    parsed = parse_area((west, south, east, south + height))
    assert parsed.area == pytest.approx(width * (south + height - south), rel=1e-6)
    assert -180 <= parsed.bounds[0] <= parsed.bounds[2] <= 180
    middle = (west + width / 2 + 180) % 360 - 180
    assert parsed.buffer(1e-9).covers(shapely.Point(middle, south + height / 2))


def test_a_bbox_that_starts_at_the_antimeridian_is_one_box():
    assert parse_area((180, 10, -179, 11)).equals(box(-180, 10, -179, 11))


@pytest.mark.parametrize(
    ("area", "message"),
    [
        ((1, 2, 3), "4 numbers"),
        ((1, 2, 3, "north"), "4 numbers"),
        (None, "4 numbers"),
        ((10, 50, 11, 49), "south below north.*swap"),
        ((10, 50, 11, 50), "south below north"),
        ((10, 50, 10, 51), "a line: widen it"),
        ((600000, 5100000, 610000, 5110000), "projected coordinates"),
        ((10, 50, 11, 95), "-90..90"),
        ((179, 10, 181, 11), "west > east"),
        ((10, float("nan"), 11, 51), "finite"),
        ((11.4, 46.46, 11.29, 46.53), r"swap west and east, \(11.29, 46.46, 11.4, 46.53\)"),
        (shapely.Polygon(), "must not be empty"),
        (box(600000, 5100000, 610000, 5110000), "projected coordinates"),
        (shapely.Point(26, 58), "needs a surface.*Point"),
        (shapely.LineString([(26, 58), (27, 58)]), "needs a surface.*LineString"),
        (shapely.Polygon([(0, 0), (1, 1), (0, 1), (1, 0)]), "Self-intersection.*make_valid"),
        ({"coordinates": []}, "with a 'type'"),
        ({"type": "Polygone", "coordinates": []}, "cannot read GeoJSON"),
        ({"type": "Polygon"}, "cannot read GeoJSON"),
        ({"type": "Polygon", "coordinates": [[["a", "b"], [1, 2], [3, 4]]]}, "cannot read GeoJSON"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "cannot read GeoJSON"),
        ({"type": "Feature", "geometry": None}, "needs a geometry"),
        ({"type": "FeatureCollection", "features": []}, "must not be empty"),
        (
            {"type": "FeatureCollection", "features": [feature(mapping(shapely.Point(1, 2)))]},
            "needs a surface.*Point",
        ),
        (
            {
                **mapping(SQUARE),
                "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}},
            },
            "EPSG::32632: reproject",
        ),
    ],
)
def test_what_is_no_area_is_refused_with_the_rule(area, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        parse_area(area)


def test_files_that_are_no_geojson_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no area file at .*absent\.geojson"):
        parse_area(tmp_path / "absent.geojson")
    (tmp_path / "field.shp").write_bytes(b"\x00\x00\x27\x0a\xff\xfe")
    with pytest.raises(InputError, match=r"field\.shp cannot be read"):
        parse_area(tmp_path / "field.shp")
    (tmp_path / "list.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(InputError, match=r"list\.json"):
        parse_area(tmp_path / "list.json")
    with pytest.raises(InputError, match="cannot be read"):
        parse_area(tmp_path)


@given(st.floats(170, 179.9), st.floats(0.2, 20), st.floats(-80, 80), st.floats(0.1, 2))
def test_a_ring_that_jumps_is_cut_at_the_antimeridian(west, width, south, height):
    east = west + width - 360
    if east <= -180:
        return
    north = south + height
    ring = shapely.Polygon([(west, south), (east, south), (east, north), (west, north)])
    cut = cut_at_antimeridian(ring)
    assert cut.is_valid
    assert cut.symmetric_difference(parse_area((west, south, east, north))).area < 1e-9


def test_what_does_not_jump_is_not_cut():
    assert cut_at_antimeridian(SQUARE) is SQUARE
    two = parse_area((179, 10, -179, 11))
    assert cut_at_antimeridian(two) is two
    globe = box(-180, -90, 180, 90)
    assert cut_at_antimeridian(globe).equals(globe)


@pytest.mark.parametrize(
    ("area", "message"),
    [
        ((-9.2, 38.6, 9.0, 38.8), "a minus missing before 9"),
        ((36.8, -9.3, 37.0, 9.1), "a minus missing before 9.1"),
        (
            shapely.MultiPolygon([box(11.3, 46.48, 11.303, 46.483), box(-60, -10, -59.99, -9.99)]),
            "its 2 parts lie far apart: .*kappamask stats",
        ),
        ((10, 40, 13, 43), "got 835,304,935, 250 x 334 km.*a smaller area"),
    ],
)
def test_an_area_that_nobody_means_is_refused_with_what_was_perhaps_meant(area, message):
    with pytest.raises(InputError, match=f"at most 100,000,000 pixels.*{message}.*max_pixels=None"):
        check_size(area)
    check_size(area, max_pixels=None)


def test_a_large_area_in_large_pixels_and_one_across_the_antimeridian_pass():
    check_size((10, 40, 13, 43), resolution=60)
    check_size((179.9, -17, -179.9, -16.9))


# --- tiles ------------------------------------------------------------------------------------


@pytest.mark.shared
def test_tiles_lie_where_real_items_of_them_do(shared_data):
    number = 0
    for _, document in readable_items(shared_data / "stac-items").values():
        try:
            view = view_of(document)
            footprint = shapely.make_valid(cut_at_antimeridian(shape(view.geometry)))
        except (ItemError, AttributeError, TypeError):
            continue
        if view.tile and footprint.bounds[2] - footprint.bounds[0] < 90:
            number += 1
            assert tile_geometry(view.tile).buffer(0.2).covers(footprint.centroid), view.id
    assert number > 90


@pytest.mark.parametrize("tile", ["", "32", "61TPS", "32IPS", "32TIS", "32TAS", "32TPZ", "32UPS"])
def test_what_is_no_tile_is_refused(tile):
    with pytest.raises(InputError, match="got"):
        tile_geometry(tile)
