"""NetCDF and Zarr, read back by xarray, GDAL, netCDF4, a CF checker."""

import json
import subprocess
import sys
from pathlib import Path

import dask.array as da
import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.errors import RasterioIOError
from support.labels import file_size_limit, make_labels, make_pair, random_codes

import kappamask as km
from kappamask.base.errors import InputError, ReadError, WriteError
from kappamask.base.legend import Label

pytest.importorskip("zarr", reason="needs kappamask[formats]")

WRITERS = {"nc": km.write_netcdf, "zarr": km.write_zarr}


def write(data, folder, kind, name="june"):
    return WRITERS[kind](data, folder / f"{name}.{kind}")


def open_again(path, decode_coords="all"):
    engine = "zarr" if path.suffix == ".zarr" else "netcdf4"
    return xr.open_dataset(path, engine=engine, decode_coords=decode_coords)


def make_image():
    cube, labels = make_pair(np.array([[[1, 4, 1]] * 2, [[1, 4, 2]] * 2]), bands=("B02", "B08"))
    cube = cube.assign_coords(source_items=("time", ["a b", "c"]))
    return km.composite(cube, labels, period="day", buffer_m=None)


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_come_back_as_classes_and_go_on_as_masks(tmp_path, kind):
    labels = make_labels(random_codes((3, 40, 30)))
    path = write(labels, tmp_path, kind)
    with open_again(path) as found:
        again = found.labels.load()
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_array_equal(again.time, labels.time)  # to the millisecond
    assert again.rio.crs == labels.rio.crs
    assert again.rio.transform() == labels.rio.transform(recalc=True)
    names = dict(zip(again.attrs["flag_values"], again.attrs["flag_meanings"].split(), strict=True))
    assert names == {
        1: "clear", 2: "cloud_shadow", 3: "semi_transparent_cloud", 4: "cloud", 5: "missing"
    }  # fmt: skip
    masks = km.write_mask(again, tmp_path / "masks")
    originals = km.write_mask(labels, tmp_path / "originals")
    assert [path.read_bytes() for path in masks] == [path.read_bytes() for path in originals]


@pytest.mark.parametrize("decode_coords", [True, "all"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_cube_comes_back_as_a_cube(tmp_path, kind, decode_coords):
    cube, _ = make_pair(np.ones((2, 5, 6)), bands=("B02", "B03", "B04", "B08"))
    cube[0, 1, 2, 3] = np.nan
    with open_again(write(cube.chunk({"y": 2}), tmp_path, kind), decode_coords) as found:
        again = found.reflectance.load()
        np.testing.assert_array_equal(km.predict_cube(found), km.predict_cube(cube))
    np.testing.assert_array_equal(again, cube)
    assert again.dtype == np.float32
    assert again.dims == cube.dims
    assert again.band.values.tolist() == cube.band.values.tolist()
    np.testing.assert_array_equal(km.predict_cube(again), km.predict_cube(cube))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_composite_comes_back_with_its_dates_and_can_be_written(tmp_path, kind):
    image = make_image()
    with open_again(write(image, tmp_path, kind)) as found:
        again = found.load()
    for name in image.data_vars:
        np.testing.assert_array_equal(again[name], image[name])
        assert again[name].dtype == image[name].dtype
    np.testing.assert_array_equal(again.time_bounds, image.time_bounds)
    assert again.source_items.values.tolist() == ["a b", "c"]
    assert {name: again.attrs[name] for name in image.attrs} == image.attrs
    written = km.write_composite(again, tmp_path / "cogs")
    assert [path.name[10:18] for path in written] == ["20220602", "20220603"]


@pytest.mark.parametrize("kind", WRITERS)
def test_chunks_of_any_size_and_direction_are_written(tmp_path, kind):
    codes = random_codes((2, 50, 40))
    lazy = make_labels(da.from_array(codes, chunks=((1, 1), (3, 30, 17), (40,))))
    with open_again(write(lazy, tmp_path, kind)) as found:
        np.testing.assert_array_equal(found.labels, codes)
    upside_down = lazy.isel(y=slice(None, None, -1))
    with open_again(write(upside_down, tmp_path, kind, "up")) as found:
        np.testing.assert_array_equal(found.labels.sel(y=lazy.y), codes)


def test_netcdf4_reads_the_words_of_cf(tmp_path):
    path = write(make_labels(random_codes((2, 30, 20))), tmp_path, "nc")
    with netCDF4.Dataset(path) as found:
        labels, mapping = found["labels"], found["spatial_ref"]
        assert found.Conventions == "CF-1.11"
        assert labels.dtype == labels.flag_values.dtype == np.uint8
        assert not hasattr(labels, "_FillValue")  # missing is a class
        assert labels.grid_mapping == "spatial_ref"
        assert mapping.grid_mapping_name == "transverse_mercator"
        assert mapping.crs_wkt.startswith("PROJCS")
        assert found["x"].standard_name == "projection_x_coordinate"
        assert (found["y"].units, found["y"].axis) == ("metre", "Y")
        assert found["time"].standard_name == "time"
        times = netCDF4.num2date(found["time"][:], found["time"].units, found["time"].calendar)
        assert str(times[0]) == "2022-06-02 10:15:59.024000"


def test_gdal_reads_the_netcdf_where_it_lies(tmp_path):
    labels = make_labels(random_codes((1, 30, 20)))
    path = write(labels, tmp_path, "nc")
    with rasterio.Env() as environment:
        if "netCDF" not in environment.drivers():
            pytest.skip("this GDAL reads no NetCDF")
    with rasterio.open(f"netcdf:{path}:labels") as raster:
        assert raster.transform == labels.rio.transform(recalc=True)
        assert raster.crs.to_epsg() == 32632
        np.testing.assert_array_equal(raster.read(), labels)


CHECKED = {
    "labels": lambda: make_labels(random_codes((2, 30, 20))),
    "cube": lambda: make_pair(np.ones((2, 5, 6)))[0],
    "composite": make_image,
}


@pytest.fixture(scope="module")
def found_by_checker(tmp_path_factory):
    """What the CF checker says of each file; one process for all, it takes seconds to start."""
    pytest.importorskip("compliance_checker", reason="needs compliance-checker")
    folder = tmp_path_factory.mktemp("cf")
    paths = {what: str(write(make(), folder, "nc", what)) for what, make in CHECKED.items()}
    report = folder / "report.json"
    checker = ["-W", "ignore", Path(sys.executable).parent / "compliance-checker"]
    arguments = ["-t", "cf:1.11", "-f", "json_new", "-o", report, *paths.values()]
    said = subprocess.run(
        [sys.executable, *checker, *arguments], capture_output=True, text=True, check=False
    )
    assert report.exists(), said.stdout + said.stderr
    found = json.loads(report.read_text())
    return {what: found[path]["cf:1.11"] for what, path in paths.items()}


@pytest.mark.parametrize("what", CHECKED)
def test_the_cf_checker_finds_no_error(found_by_checker, what):
    found = found_by_checker[what]
    errors = [message for group in found["high_priorities"] for message in group["msgs"]]
    assert errors == [], found


def test_an_old_file_is_replaced_whole_or_not_at_all(tmp_path):
    for kind in WRITERS:
        write(make_labels(random_codes((1, 40, 30))), tmp_path, kind)
        path = write(make_labels(random_codes((1, 20, 30))), tmp_path, kind)
        with open_again(path) as found:
            assert found.labels.shape == (1, 20, 30)
        with file_size_limit(1000), pytest.raises(WriteError, match=f"june.{kind}"):
            write(make_labels(random_codes((1, 200, 300))), tmp_path, kind)
        with open_again(path) as found:
            assert found.labels.load().shape == (1, 20, 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["june.nc", "june.zarr"]


def broken(_):
    raise RasterioIOError("B04.tif is truncated")


@pytest.mark.parametrize("kind", WRITERS)
def test_pixels_that_cannot_be_read_are_no_fault_of_the_folder(tmp_path, kind):
    lazy = da.map_blocks(
        broken, da.zeros((1, 8, 8), dtype="u1"), dtype="u1", meta=np.empty((0, 0, 0), "u1")
    )
    with pytest.raises(ReadError, match=r"B04.tif is truncated"):
        write(make_labels(lazy), tmp_path, kind)
    assert not list(tmp_path.iterdir())


def test_bad_input_is_refused(tmp_path):
    labels = make_labels(random_codes((1, 4, 4)))
    with pytest.raises(InputError, match="DataArray or a Dataset, got ndarray"):
        km.write_netcdf(labels.values, tmp_path / "a.nc")
    with pytest.raises(InputError, match="must have a CRS"):
        km.write_netcdf(labels.drop_vars("spatial_ref"), tmp_path / "a.nc")
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="replaces only another one"):
        km.write_zarr(labels, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_single_pixel_keeps_its_place(tmp_path):
    labels = make_labels(np.ones((1, 1, 1), np.uint8))
    with open_again(write(labels, tmp_path, "nc")) as found:
        assert found.labels.values.item() == Label.CLEAR
        assert (found.x.item(), found.y.item()) == (labels.x.item(), labels.y.item())
