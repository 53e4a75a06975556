"""`kappamask.outputs.label_cube`: what a label cube must be, and where its pixels lie."""

import json

import numpy as np
import odc.geo.xr  # noqa: F401  (registers the .odc accessor)
import pytest
import rasterio
from support.labels import CORNER, contents, make_labels, random_codes
from support.reflectance import FOUR, make_cube

from kappamask.base.errors import InputError
from kappamask.base.legend import Label
from kappamask.outputs.masks import write_mask
from kappamask.predict.cube import predict_cube


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


# --- what other libraries make of them ------------------------------------------------------


FIELD = {
    "type": "Polygon",
    "coordinates": [[[600000, 4999600], [600400, 4999600], [600200, 5000000], [600000, 4999600]]],
}
TOOLS = {
    "rio.clip": lambda labels: labels.rio.clip([FIELD]),
    "rio.reproject": lambda labels: labels.rio.reproject("EPSG:3035"),
    "odc.reproject": lambda labels: labels.odc.reproject("EPSG:3035"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("tool", TOOLS)
def test_outside_of_what_is_clipped_or_warped_is_missing(tmp_path, tool):
    labels = predict_cube(make_cube(np.full((4, 40, 40), 0.9, "float32"), FOUR)).compute()
    assert (labels == Label.CLOUD).all()
    made = TOOLS[tool](labels)
    assert np.unique(made).tolist() == [Label.CLOUD, Label.MISSING]
    (path,) = write_mask(made, tmp_path)
    item = json.loads(path.with_suffix(".json").read_text())
    assert item["properties"]["eo:cloud_cover"] == 100


# --- what is refused ------------------------------------------------------------------------


def good():
    return make_labels(random_codes((2, 9, 9)))


def one_row(**changes):
    labels = make_labels(random_codes((1, 1, 9)))
    del labels["spatial_ref"].attrs["GeoTransform"], labels.attrs["transform"]
    labels["spatial_ref"].attrs.update(changes)
    return labels


def one_column():
    return one_row().transpose("time", "x", "y").rename(x="y", y="x")


def uneven():
    labels = good()
    return labels.isel(x=[0, 1, 2, 5, 6])


def without_level():
    labels = good()
    del labels.attrs["level"]
    return labels


def no_crs():
    return good().drop_vars("spatial_ref")


def same_second():
    labels = good()
    labels["time"] = labels["time"].values[:1] + np.array([0, 5], "timedelta64[ms]")
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
    "the same second twice": (same_second, "20220602T101559_L2A_10m_.* more than once"),
    "no dates": (lambda: good().isel(time=[]), r"got shape \(0, 9, 9\)"),
    "no pixels": (lambda: good().isel(x=[]), r"got shape \(2, 9, 0\)"),
    "no level": (without_level, "processing level"),
    "no CRS": (no_crs, "labels must have a CRS"),
    "no coordinates": (lambda: good().drop_vars("x"), "the coordinate x at pixel centres"),
    "a gap": (uneven, "x must run in even steps"),
    "one row of unknown height": (one_row, "single coordinate along y"),
    "one column of unknown width": (one_column, "single coordinate along x"),
    "a transform of another pixel size": (
        lambda: one_row(GeoTransform="674990 20 0 5154960 0 -20"),
        "no GeoTransform that fits",
    ),
    "rotated": (
        lambda: one_row(GeoTransform="674990 10 2 5154960 2 -10"),
        "no GeoTransform that fits",
    ),
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


def test_pixels_lie_where_the_coordinates_say_not_where_an_old_transform_does(tmp_path):
    labels = make_labels(random_codes((1, 12, 18))).isel(x=slice(4, None, 2), y=slice(3, None))
    (path,) = write_mask(labels, tmp_path)  # its GeoTransform is that of the whole
    with rasterio.open(path) as raster:
        assert raster.res == (20, 10)
        assert raster.xy(0, 0) == (labels.x[0], labels.y[0])
        assert raster.xy(8, 6) == (labels.x[6], labels.y[8])
