"""Fields: polygons are cut out, many share one reading, tables and polygons open elsewhere."""

import json
import sqlite3

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from pyproj import Transformer
from rasterio.features import rasterize
from rasterio.windows import from_bounds
from shapely.geometry import Point, Polygon, box, mapping

import kappamask as km
from kappamask.base.windows import Grid
from kappamask.cli import main
from kappamask.cubes.cube import find_inside
from kappamask.jobs import MaskOptions, field_shares, fields, mask_items, stream
from kappamask.sample import AREA_L2A, catalog_path
from kappamask.scenes.fields import Field, split_regions
from kappamask.scenes.search import search

WEST, SOUTH, EAST, NORTH = AREA_L2A
CENTRE = (WEST + EAST) / 2, (SOUTH + NORTH) / 2
TRIANGLE = Polygon([(WEST, SOUTH), (EAST, SOUTH), (WEST, NORTH)])
DISC = Point(CENTRE).buffer(0.002)  # overlaps the triangle
TINY = box(CENTRE[0], CENTRE[1], CENTRE[0] + 1e-5, CENTRE[1] + 1e-5)  # a metre
QUERY = ["--catalog", str(catalog_path()), "--date", "2019-07"]
PLAIN = MaskOptions(pictures=False)


@pytest.fixture(scope="module")
def july():
    return search(AREA_L2A, "2019-07", catalog=catalog_path(), level="L2A")


@pytest.fixture(scope="module")
def whole(july, tmp_path_factory):
    """Masks of the whole rectangle: labels (date, y, x) and where their pixel centres lie."""
    report = mask_items(july, AREA_L2A, tmp_path_factory.mktemp("whole"), options=PLAIN)
    codes = []
    for path in report.masks:
        with rasterio.open(path) as raster:
            codes.append(raster.read(1))
            rows, columns = np.indices(raster.shape)
            xs, ys = rasterio.transform.xy(raster.transform, rows.ravel(), columns.ravel())
            there = Transformer.from_crs(raster.crs, 4326, always_xy=True)
            place = raster.transform
    return np.array(codes), there.transform(np.array(xs), np.array(ys)), place


def collection(**named):
    return {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": {"name": name}, "geometry": mapping(polygon)}
            for name, polygon in named.items()
        ],
    }


def brute_force(whole, polygon):
    """Shares of clear, shadow, thin, cloud, missing by looking where each centre lies."""
    codes, centres, _ = whole
    inside = shapely.contains_xy(polygon, *centres)
    return [[(date.ravel()[inside] == code).mean() for code in range(1, 6)] for date in codes]


def test_shares_of_fields_are_those_of_their_pixels_and_each_scene_is_labelled_once(
    july, whole, monkeypatch
):
    calls, label = [], stream.label_window
    monkeypatch.setattr(
        stream, "label_window", lambda *words, **named: calls.append(1) or label(*words, **named)
    )
    found = field_shares(july, collection(disc=DISC, triangle=TRIANGLE))
    assert len(calls) == len(july)
    assert not found.failed
    table = found.table
    assert list(table.columns) == ["field", "time", "pixels", *fields.SHARES]
    assert table["field"].tolist() == ["disc"] * 4 + ["triangle"] * 4
    for name, polygon in {"disc": DISC, "triangle": TRIANGLE}.items():
        shares = table.loc[table["field"] == name, list(fields.SHARES)].to_numpy()
        # edges between degrees and the grid are straight in one of them only
        np.testing.assert_allclose(shares, brute_force(whole, polygon), atol=2e-3)


def test_a_field_smaller_than_a_pixel_has_the_pixel_that_it_touches(july):
    table = field_shares(july[:1], TINY).table
    assert 1 <= table["pixels"][0] <= 4
    assert table[list(fields.SHARES)].sum(axis=1)[0] == pytest.approx(1)


def test_a_polygon_is_cut_out_of_mask_cover_and_name(july, whole, tmp_path):
    (path,) = mask_items(july[1:2], mapping(TRIANGLE), tmp_path, options=PLAIN).masks
    codes, centres, place = whole
    with rasterio.open(path) as raster:
        labels = raster.read(1)
        part = from_bounds(*raster.bounds, place).round().toslices()
    inside = shapely.contains_xy(TRIANGLE, *centres).reshape(codes[1].shape)[part]
    assert (labels[~inside] == 5).mean() > 0.99
    assert (labels[inside] == codes[1][part][inside]).mean() > 0.98  # of other surroundings
    item = json.loads(path.with_suffix(".json").read_text())
    seen = labels[labels != 5]
    assert item["properties"]["eo:cloud_cover"] == pytest.approx(
        100 * np.isin(seen, (3, 4)).mean(), abs=1e-3
    )
    again = mask_items(july[1:2], mapping(TRIANGLE), tmp_path, options=PLAIN)
    assert again.skipped == [path]
    (rectangle,) = mask_items(july[1:2], TRIANGLE.bounds, tmp_path, options=PLAIN).done
    assert rectangle != path


def test_a_cube_of_a_polygon_is_cut_and_its_labels_see_what_was_there(july):
    cube = km.load_cube(july[1:2], mapping(TRIANGLE))
    inside = find_inside(TRIANGLE, Grid(3035, 10, cube.x[0].item() - 5, cube.y[0].item() + 5,
                                        *cube.shape[2:]))  # fmt: skip
    assert (np.isfinite(cube).all("band")[0].to_numpy() == inside).all()
    labels = km.predict_cube(cube)[0].to_numpy()
    assert (labels[~inside] == 5).all()
    assert (labels[inside] != 5).all()
    # as the rectangle's, of which nothing was cut out: no cloud is drawn along the cut
    whole = cube.encoding["surroundings"]
    other = km.predict_cube(whole).sel(x=cube.x, y=cube.y)[0].to_numpy()
    assert (labels == other)[inside].mean() > 0.995
    np.testing.assert_array_equal(km.predict_cube(cube.load())[0].to_numpy(), labels)
    probabilities = km.predict_cube(cube, output="probabilities")[0]
    assert (np.isnan(probabilities).any("label").to_numpy() == ~inside).all()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Two fields in a GeoPackage in another CRS."""
    path = tmp_path_factory.mktemp("fields") / "fields.gpkg"
    frame = geopandas.GeoDataFrame(
        {"name": ["Große Wiese/1", "disc"]}, geometry=[TRIANGLE, DISC], crs=4326
    )
    frame.to_crs(32634).to_file(path, driver="GPKG", engine="pyogrio")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_stats_writes_a_table_that_other_tools_read(package, tmp_path, capsys, suffix):
    out = tmp_path / f"july{suffix}"
    assert main(["stats", *QUERY, "--area", str(package), "--out", str(out)]) == 0
    assert "8 rows of 2 fields" in capsys.readouterr().out
    table = pd.read_csv(out, parse_dates=["time"]) if suffix == ".csv" else pd.read_parquet(out)
    assert table["field"].unique().tolist() == ["Große Wiese/1", "disc"]
    assert table["time"].dt.strftime("%Y-%m-%d").iloc[0] == "2019-07-01"
    np.testing.assert_allclose(table[list(fields.SHARES)].sum(axis=1), 1, atol=1e-3)


def test_a_mask_of_each_field_has_its_name(package, tmp_path, capsys):
    words = ["mask", *QUERY[:-1], "2019-07-11", "--area", str(package), "--per-field"]
    assert main([*words, "--no-pictures", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    names = sorted(path.stem.split("_10m_")[1][:-7] for path in tmp_path.glob("*.tif"))
    assert names == ["Große-Wiese-1", "disc"]
    assert "area Große Wiese/1 at" in said.err
    assert "a polygon cut out" in said.err
    assert "2 done" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stats", *QUERY, "--bbox", "1,2,3,4", "--out", "t.xlsx"], "a table is .csv or .parquet"),
        (["vectorize", "none.tif", "--out", "t.kml"], "written as .gpkg or .geojson"),
        (["vectorize", "none.tif", "--classes", "clouds", "--out", "t.gpkg"], "did you mean cloud"),
    ],
)
def test_what_cannot_be_written_is_refused_first(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_fields_far_apart_are_read_as_regions_of_their_own():
    near = [box(11.3 + x, 46.48, 11.303 + x, 46.483) for x in (0, 0.01, 0.02)]
    far = box(-60, -10, -59.997, -9.997)
    known = [Field(str(place), one) for place, one in enumerate([*near, far])]
    assert [[one.name for one in group] for group in split_regions(known)] == [
        ["3"],
        ["0", "1", "2"],
    ]


def test_polygons_of_a_mask_give_the_mask_back_in_other_tools(july, tmp_path, capsys):
    (path,) = mask_items(july[1:2], mapping(TRIANGLE), tmp_path, options=PLAIN).masks
    out = tmp_path / "clouds.gpkg"
    assert main(["vectorize", str(path), "--out", str(out)]) == 0
    assert "clouds.gpkg" in capsys.readouterr().out
    frame = geopandas.read_file(out)
    with rasterio.open(path) as raster:
        labels, crs = raster.read(1), raster.crs
        pairs = zip(frame.geometry, frame["code"], strict=True)
        back = rasterize(pairs, labels.shape, fill=5, transform=raster.transform)
    np.testing.assert_array_equal(back, labels)
    assert frame.crs.to_epsg() == crs.to_epsg()
    assert frame["area_m2"].sum() == 100 * (labels != 5).sum()
    assert set(frame["class"]) <= {"clear", "cloud_shadow", "semi_transparent_cloud", "cloud"}
    assert frame["time"][0].startswith("2019-07-11T") or frame["time"][0].year == 2019
    with sqlite3.connect(out) as database:
        (layer,) = database.execute("select table_name, data_type from gpkg_contents").fetchall()
    assert layer == ("cloud_mask", "features")
    words = ["--classes", "cloud,semi_transparent_cloud", "--out", str(tmp_path / "c.geojson")]
    assert main(["vectorize", str(path), *words]) == 0
    degrees = geopandas.read_file(tmp_path / "c.geojson")
    assert set(degrees["code"]) <= {3, 4}
    assert degrees.to_crs(crs).area.sum() == pytest.approx(
        100 * np.isin(labels, (3, 4)).sum(), rel=1e-3
    )
