"""Snow on clear ground: one answer at every door, people's snow, and no word without B11."""

import json

import numpy as np
import pytest
import rasterio
from PIL import Image
from support.reflectance import FOUR, make_cube, make_scene

import kappamask as km
import kappamask.accessor
from kappamask.base.errors import InputError
from kappamask.base.legend import SNOW_LEGEND, Label, Snow
from kappamask.cli import main
from kappamask.networks.model import load_model
from kappamask.predict.array import predict_array
from kappamask.predict.chunk import Digits, Wanted, label_chunk
from kappamask.predict.snow import find_snow, snow_bands
from kappamask.sample import AREA_L2A, catalog_path
from kappamask.train.chips import SLOT, read_chips

BANDS = [*FOUR, "B8A", "B11"]


def make_snow(seed=0):
    """Ground, bright blobs, and the left half made icy in B11; the top rows without B11 or data."""
    scene = make_scene(BANDS, 96, 112, seed=seed)
    scene[BANDS.index("B11"), :, :56] = 0.02
    scene[BANDS.index("B11"), :4] = np.nan
    scene[:, :2] = np.nan
    return scene


def by_hand(labels, scene):
    """The definition, pixel by pixel."""
    codes = np.zeros(labels.shape, np.uint8)
    for place, label in np.ndenumerate(labels):
        green, infrared, swir = (
            float(scene[BANDS.index(name)][place]) for name in ("B03", "B8A", "B11")
        )
        if label == Label.MISSING or (label == Label.CLEAR and np.isnan(swir)):
            codes[place] = 255
        elif label != Label.CLEAR:
            codes[place] = 205
        elif (green - max(swir, 0)) > 0.4 * (green + max(swir, 0)) > 0 and infrared > 0.11:
            codes[place] = 100
    return codes


def test_every_door_gives_the_snow_that_the_definition_gives():
    scene = make_snow()
    labels = predict_array(scene, BANDS, level="L2A")
    expected = by_hand(labels, scene)
    assert set(np.unique(expected)) == {entry.label for entry in SNOW_LEGEND}
    found = predict_array(scene, BANDS, level="L2A", output="snow")
    np.testing.assert_array_equal(found, expected)

    cube = make_cube(scene, BANDS, left=0, top=0)
    for snow in (km.predict_cube(cube, output="snow"), cube.kappamask.snow()):
        np.testing.assert_array_equal(snow.values[0], expected)
        assert snow.attrs["flag_values"].tolist() == [0, 100, 205, 255]
        assert snow.attrs["flag_meanings"].split()[:2] == ["no_snow", "snow"]
    chunk = label_chunk(
        scene, BANDS, model=load_model(), digits=Digits(1, 0), wanted=Wanted("snow")
    )
    assert chunk.dtype == np.float32
    np.testing.assert_array_equal(chunk[0], expected)


def test_the_infrared_may_be_the_wide_band_and_the_sum_may_be_nothing():
    assert snow_bands(("B03", "B08", "B11")) == ("B03", "B11", "B08")
    dark = np.float32([[-0.02, 0.0, 0.3]])
    codes = find_snow(np.full((1, 3), 1, np.uint8), dark, np.float32([[0.02, 0, 0.05]]), dark)
    assert codes.tolist() == [[0, 0, 100]]


def without_swir(door):
    scene, cube = make_scene(FOUR, 32, 32), make_cube(make_scene(FOUR, 32, 32), FOUR)
    model = load_model()
    doors = {
        "array": lambda: predict_array(scene, FOUR, level="L2A", output="snow"),
        "cube": lambda: km.predict_cube(cube, output="snow"),
        "accessor": cube.kappamask.snow,
        "chunk": lambda: label_chunk(
            scene, FOUR, model=model, digits=Digits(1, 0), wanted=Wanted("snow")
        ),
    }
    return doors[door]()


@pytest.mark.parametrize("door", ["array", "cube", "accessor", "chunk"])
def test_without_b11_one_error_says_what_to_load(door):
    with pytest.raises(InputError, match=r"B11 .*got B02, B03, B04, B08: load B11 too"):
        without_swir(door)


@pytest.mark.parametrize(
    "take",
    [
        lambda _, snow, folder: km.write_mask(snow, folder),
        lambda cube, snow, _: km.composite(cube, snow),
        lambda cube, snow, folder: km.quicklook(cube[0], snow[0], folder / "a.png"),
        lambda cube, snow, folder: km.plot.plot_series(cube, snow, folder / "a.png"),
        lambda _, snow, folder: km.plot.plot_calendar(snow, folder / "a.png"),
    ],
)
def test_snow_is_not_taken_for_labels(take, tmp_path):
    cube = make_cube(np.stack([make_snow(), make_snow(1)]), BANDS)
    with pytest.raises(InputError, match="got codes of snow"):
        take(cube, km.predict_cube(cube, output="snow"), tmp_path)


def test_a_file_of_cf_says_what_its_codes_mean(tmp_path):
    import xarray as xr

    cube = make_cube(make_snow(), BANDS)
    path = km.write_netcdf(km.predict_cube(cube, output="snow"), tmp_path / "snow.nc")
    with xr.open_dataset(path) as found:
        assert found.snow.attrs["flag_meanings"] == "no_snow snow hidden missing"


# --- masks --------------------------------------------------------------------------------------


def make_masks(folder, *words):
    """Mask one date of the sample with `kappamask mask`, and read the item."""
    box = ",".join(map(str, AREA_L2A))
    query = ["--bbox", box, "--date", "2019-07-11", "--catalog", str(catalog_path())]
    assert main(["mask", *query, "--out", str(folder), *words]) == 0
    (item,) = folder.glob("*.json")
    return json.loads(item.read_text())


def counted(path):
    with rasterio.open(path) as source:
        codes = source.read(1)
        assert source.nodata == 255
        assert source.tags(1)["flag_meanings"] == "no_snow snow hidden missing"
    return {code.name.lower(): int((codes == code).sum()) for code in Snow}, codes


@pytest.fixture
def loose(monkeypatch):
    """Let half of the ground be snow: nothing in the sample is."""
    monkeypatch.setattr("kappamask.predict.snow.LEAST_NDSI", -0.3)
    monkeypatch.setattr("kappamask.predict.snow.LEAST_INFRARED", 0.15)


@pytest.mark.usefixtures("loose")
def test_masks_tell_the_snow_cover_and_keep_snow_where_it_is_asked_for(tmp_path, monkeypatch):
    item = make_masks(tmp_path / "a", "--snow")
    counts, codes = counted(next((tmp_path / "a").glob("*_snow.tif")))
    seen = codes.size - counts["missing"]
    assert 0 < counts["snow"] < seen
    cover = item["properties"]["eo:snow_cover"]
    assert cover == round(100 * counts["snow"] / seen, 4)
    classes = {c["name"]: c["count"] for c in item["assets"]["snow"]["classification:classes"]}
    assert classes == counts
    with rasterio.open(tmp_path / "a" / item["assets"]["mask"]["href"]) as mask:
        assert ((mask.read(1) == Label.CLEAR) == (codes < 200)).all()

    monkeypatch.setattr("kappamask.jobs.masks._streamable", lambda *_: None)  # by dask
    other = make_masks(tmp_path / "b")
    assert other["properties"]["eo:snow_cover"] == cover
    assert list(other["assets"]) == ["mask"]
    assert not list((tmp_path / "b").glob("*_snow.tif"))
    with Image.open(next((tmp_path / "b").glob("*.png"))) as picture:
        painted = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    pink = bytes.fromhex(next(e.color for e in SNOW_LEGEND if e.label == Snow.SNOW))
    assert (painted == list(pink)).all(1).sum() > 1000

    again = make_masks(tmp_path / "b", "--snow")  # finished, but without
    assert "snow" in again["assets"]
    np.testing.assert_array_equal(counted(next((tmp_path / "b").glob("*_snow.tif")))[1], codes)


# --- people's snow ------------------------------------------------------------------------------


@pytest.mark.shared
def test_what_people_call_clear_is_snow_where_it_is_and_nowhere_else(shared_data):
    """Complaint 5, snow: by the labels that people drew, whatever a network says."""
    table = shared_data / "people" / "people.csv"
    drawn = [read_chips(table.parent, split, table=table) for split in ("train", "val", "test")]
    shares = {}
    for chip in (one for chips in drawn for one in chips if one.name.startswith("l8b_")):
        reflectance = chip.reflectance()
        bands = [reflectance[SLOT[name]] for name in snow_bands(chip.bands)]
        clear = chip.label == Label.CLEAR
        if clear.mean() > 0.05:
            snow = find_snow(chip.label, *bands)
            shares[chip.name] = (snow == Snow.SNOW)[clear].mean()
    frozen = {"l8b_snowice_00_1415", "l8b_water_01_0922"}  # firn; sea ice
    assert min(shares.pop(name) for name in frozen) > 0.99
    assert len(shares) >= 10
    assert max(shares.values()) < 0.005


@pytest.mark.shared
@pytest.mark.parametrize("day", ["2018-01-12", "2018-01-27", "2018-02-08"])
def test_alps_in_winter_are_snow(shared_data, day):
    with rasterio.open(shared_data / "series" / "oetztal_snow" / f"{day}.tif") as source:
        dn, names = source.read(), source.descriptions
    scene = np.where(dn > 0, dn / np.float32(1e4), np.float32(np.nan))
    bands = [scene[names.index(name)] for name in snow_bands(names)]
    labels = np.where((dn > 0).all(0), Label.CLEAR, Label.MISSING).astype(np.uint8)
    snow = find_snow(labels, *bands)
    assert (snow == Snow.SNOW).sum() / np.isin(snow, (Snow.SNOW, Snow.NO_SNOW)).sum() > 0.97
