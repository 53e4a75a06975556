"""Composite files: rasters with an item beside them, read back as others read them."""

import json

import dask.array as da
import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from rasterio.errors import RasterioIOError
from rio_cogeo.cogeo import cog_validate
from support.labels import contents, file_size_limit, make_item, make_pair, read_item
from support.stac_schemas import validate

import kappamask as km
from kappamask.base.errors import InputError, ReadError, WriteError
from kappamask.base.legend import LEGEND
from kappamask.outputs import cog

BANDS = ("B02", "B04", "B08")
DAYS = ("2022-06-02", "2022-06-20", "2022-08-03")


def make_image(shape=(3, 40, 30), *, period="month", seed=0, method="median", cut=None, lazy=None):
    """A composite of noise over June and August; nothing lies in July."""
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random(shape) < 0.5, 1, 4)
    cube, labels = make_pair(codes, bands=BANDS)
    cube = cube.copy(data=rng.normal(0.2, 0.2, cube.shape).astype(np.float32))
    times = np.array(DAYS[: shape[0]], "M8[ns]") + np.timedelta64(36959024, "ms")
    ids = [f"S2A_T32TPS_{day.replace('-', '')}T101559_L2A" for day in DAYS[: shape[0]]]
    cube = cube.assign_coords(time=times, source_items=("time", ids))
    labels = labels.assign_coords(time=times)
    if lazy is not None:
        cube = cube.copy(data=lazy(cube.data))
    elif cut:
        cube, labels = (array.chunk({"y": cut, "x": cut}) for array in (cube, labels))
    return km.composite(cube, labels, method=method, period=period, buffer_m={"cloud": 10})


def sources():
    return [
        make_item(f"S2A_T32TPS_{day.replace('-', '')}T101559_L2A", f"{day}T10:15:59.024Z")
        for day in DAYS
    ]


def read(path, band=None):
    with rasterio.open(path) as raster:
        return raster.read(band) if band else raster.read()


@pytest.mark.parametrize("cut", [None, 7])
def test_save_then_load_is_identity(tmp_path, cut):
    image = make_image(cut=cut)
    paths = km.write_composite(image, tmp_path)
    assert [path.name.partition("_10m_")[0] for path in paths] == [
        "kappamask_20220601_20220630_T32TPS_L2A_median",
        "kappamask_20220801_20220831_T32TPS_L2A_median",  # July is empty
    ]
    for path, month in zip(
        paths, (image.isel(time=0).load(), image.isel(time=2).load()), strict=True
    ):
        stored = read(path)
        assert stored.dtype == np.int16
        with rasterio.open(path) as raster:
            values = np.where(stored == raster.nodata, np.nan, stored * raster.scales[0])
            assert raster.descriptions == BANDS
            assert raster.crs == month.rio.crs
            assert raster.xy(0, 0) == (month.x[0], month.y[0])
            assert raster.tags()["method"] == "median"
        np.testing.assert_allclose(values, month.reflectance, atol=0.5001e-4)
        assert (values < 0).any()  # deep shadow is not lost
        observations = read(path.with_name(f"{path.stem}_observations.tif"), 1)
        np.testing.assert_array_equal(observations, month.observations)
        days = read(path.with_name(f"{path.stem}_date.tif"), 1)
        expected = month.date.values.astype("M8[D]").astype(int)
        np.testing.assert_array_equal(days, np.where(np.isnat(month.date), 0, expected))
        for name in (path, *path.parent.glob(f"{path.stem}_*.tif")):
            assert cog_validate(name, strict=True, quiet=True) == (True, [], [])


def test_rioxarray_reads_reflectance_by_itself(tmp_path):
    import rioxarray

    image = make_image()
    path, _ = km.write_composite(image, tmp_path)
    with rioxarray.open_rasterio(path, mask_and_scale=True) as found:
        np.testing.assert_allclose(found, image.reflectance[0], atol=0.5001e-4)


@pytest.mark.shared
def test_the_item_is_valid_stac_and_tells_what_came_out(tmp_path, schemas):
    image = make_image(method="best-pixel").load()
    path, _ = km.write_composite(image, tmp_path, source_items=sources())
    item = read_item(path)
    validate(item, schemas)
    assert pystac.Item.from_dict(item).id == path.stem
    known = item["properties"]
    assert known["datetime"] is None
    assert known["start_datetime"] == "2022-06-01T00:00:00.000Z"
    assert known["end_datetime"] == "2022-06-30T23:59:59.999Z"
    assert known["proj:code"] == "EPSG:32632"
    assert known["grid:code"] == "MGRS-32TPS"
    assert (known["kappamask:method"], known["kappamask:period"]) == ("best-pixel", "month")
    assert json.loads(known["kappamask:ranking"])["reach_m"] == 200
    seen = image.observations.values[0]
    assert known["kappamask:never_clear"] == (seen == 0).sum() == image.never_clear.values[0]
    assert known["kappamask:mean_observations"] == pytest.approx(seen.mean(), abs=1e-4)
    assert [link["title"] for link in item["links"]] == [
        "Source item S2A_T32TPS_20220602T101559_L2A",
        "Source item S2A_T32TPS_20220620T101559_L2A",
        "Model own",
    ]
    asset = item["assets"]["reflectance"]
    assert (asset["raster:scale"], asset["nodata"], asset["data_type"]) == (1e-4, -32768, "int16")
    assert [band["eo:common_name"] for band in asset["bands"]] == ["blue", "red", "nir"]
    for asset in item["assets"].values():
        assert (tmp_path / asset["href"]).stat().st_size == asset["file:size"]
    assert item["assets"]["observations"]["statistics"]["maximum"] == seen.max()


def test_without_ids_in_the_cube_an_item_belongs_to_its_period(tmp_path):
    image = make_image().drop_vars("source_items")
    paths = km.write_composite(image, tmp_path, source_items=sources())
    titles = [[link["title"] for link in read_item(path)["links"]] for path in paths]
    assert [len(found) for found in titles] == [3, 2]  # the model is one of them


def test_the_whole_range_ends_with_its_last_date_at_midnight_too(tmp_path):
    cube, labels = make_pair(np.ones((2, 2, 2)), bands=BANDS)
    midnight = np.array(["2022-06-02", "2022-06-30"], "M8[ns]")
    pair = (array.assign_coords(time=midnight) for array in (cube, labels))
    (path,) = km.write_composite(km.composite(*pair), tmp_path)
    assert path.name.startswith("kappamask_20220602_20220630_L2A_median_")
    assert read_item(path)["properties"]["end_datetime"] == "2022-06-30T00:00:00.000Z"


def test_south_up_is_written_north_up(tmp_path):
    image = make_image()
    up = slice(None, None, -1)
    km.write_composite(image, tmp_path / "a")
    km.write_composite(image.isel(y=up, x=up), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_complete_periods_are_kept_and_others_are_made_again(tmp_path):
    paths = km.write_composite(make_image(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def write(image):
        old = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
        km.write_composite(image, tmp_path, overwrite=False)
        new = {path.name: path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.json"))}
        return [name[10:18] for name, time in new.items() if old.get(name) != time]

    assert write(make_image()) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert write(make_image().isel(x=slice(1, None))) == ["20220601", "20220801"]  # beside them
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert write(make_image()) == []
    assert write(make_image().assign_attrs(buffer_cloud_m=20.0)) == ["20220601", "20220801"]
    assert write(make_image().assign_attrs(buffer_cloud_m=20.0, kappamask_model="other"))
    write(make_image())
    paths[1].with_suffix(".json").unlink()
    assert write(make_image()) == ["20220801"]
    paths[0].with_name(f"{paths[0].stem}_date.tif").unlink()
    assert write(make_image()) == ["20220601"]


def test_a_period_that_cannot_be_read_is_named_and_the_others_are_written(tmp_path):
    def lazy(values):
        def block(block, block_info=None):
            if block_info[0]["chunk-location"][0] == 2:  # the date of August
                raise RasterioIOError("B04.tif is truncated")
            return block

        return da.map_blocks(block, da.from_array(values, chunks=(1, 3, 20, 30)), dtype="f4")

    image = make_image(lazy=lazy)
    with pytest.raises(ReadError, match=r"1 of 2: kappamask_20220801.*B04.tif is truncated"):
        km.write_composite(image, tmp_path)
    assert sorted(path.name[10:18] for path in tmp_path.iterdir()) == ["20220601"] * 4


def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(tmp_path):
    km.write_composite(make_image(), tmp_path)
    before = contents(tmp_path)
    with file_size_limit(3000), pytest.raises(WriteError, match="free some"):
        km.write_composite(make_image(seed=1), tmp_path)
    assert contents(tmp_path) == before


def test_a_file_that_does_not_hold_what_was_written_is_found(tmp_path, monkeypatch):
    def forget(self, *_):
        self.checksums.append(([1], rasterio.windows.Window(0, 0, 5, 5), 1))

    monkeypatch.setattr(cog.Draft, "__setitem__", forget)
    with pytest.raises(WriteError, match="does not hold what was written"):
        km.write_composite(make_image(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_progress_counts_the_blocks_of_each_period(tmp_path):
    said = []
    image = make_image(cut=20)
    km.write_composite(image, tmp_path, progress=lambda *words: said.append(words))
    assert [words[1:] for words in said] == [(n, 4) for n in (1, 2, 3, 4)] * 2


def test_every_pixel_is_read_once_for_the_three_files(tmp_path):
    seen = []

    def lazy(values):
        def note(block):
            seen.append(block.shape)
            return block

        blocks = da.from_array(values, chunks=(1, 3, 20, 30))
        return da.map_blocks(note, blocks, dtype="f4", meta=np.empty((0, 0, 0, 0), "f4"))

    km.write_composite(make_image(period=None, lazy=lazy), tmp_path)
    assert len(seen) == 3 * 2  # dates x blocks


REFUSED = {
    "a data array": (lambda image: image.reflectance, "a composite is a Dataset"),
    "a mask": (lambda image: image[["observations"]], "without reflectance, date"),
    "one period without the dim": (lambda image: image.isel(time=0), r"isel\(time=\[0\]\)"),
    "water vapour": (lambda image: image.assign_coords(band=["B02", "WVP", "B08"]), "got WVP"),
    "no level": (lambda image: image.assign_attrs(level=None), "level"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, case):
    change, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        km.write_composite(change(make_image()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_labels_of_every_class_go_into_the_count(tmp_path):
    """From codes on one side to the numbers of the item on the other, by hand."""
    codes = np.array([[[entry.label for entry in LEGEND]] * 2], np.uint8)
    cube, labels = make_pair(codes, bands=BANDS)
    (path,) = km.write_composite(km.composite(cube, labels, buffer_m=None), tmp_path)
    known = read_item(path)["properties"]
    assert known["kappamask:never_clear"] == 8  # of the ten with data
    assert known["kappamask:never_clear_percentage"] == pytest.approx(80, abs=1e-3)


def test_a_dataset_of_another_making_does_as_well(tmp_path):
    image = make_image().load()
    other = xr.Dataset(image.data_vars, image.coords, image.attrs)
    assert km.write_composite(other, tmp_path)
