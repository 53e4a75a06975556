"""What people call a cube, chips in batches, fills as numbers, and what is hardly reflectance."""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from support.reflectance import FOUR, make_cube, make_scene

from kappamask import composite, load_model, predict_array, predict_batch, predict_cube
from kappamask.base.errors import InputError, KappaMaskWarning
from kappamask.base.legend import Label

COMMON = ("blue", "green", "red", "nir")


def dataset(values, names=COMMON, **attrs):
    """A Dataset with a variable per band, as odc-stac and stores give it."""
    cube = make_cube(values, FOUR)
    layers = {
        name: cube.isel(band=place, drop=True).assign_attrs(attrs)
        for place, name in enumerate(names)
    }
    return xr.Dataset(layers).rio.write_crs(cube.rio.crs)


def dn_of(scene, offset=0, dtype="uint16"):
    """DN of reflectance, 0 where it is NaN."""
    return np.where(np.isnan(scene), 0, np.round(scene * 10000) - offset).astype(dtype)


@pytest.fixture(scope="module")
def scene():
    made = make_scene(FOUR, 70, 90)
    made = np.maximum(np.round(made * 10000), 1).astype("float32") * np.float32(1e-4)
    made[:, :20, :30] = np.nan
    return made


@pytest.fixture(scope="module")
def expected(scene):
    return predict_cube(make_cube(scene, FOUR)).values


SPELLINGS = {
    "a Dataset of common names": dataset,
    "a Dataset with other layers": lambda s: dataset(s).assign(SCL=dataset(s).red * 10, angle=1.0),
    "openEO's dims": lambda s: make_cube(s, FOUR).rename(time="t", band="bands"),
    "degrees by name": lambda s: make_cube(s, FOUR).rename(y="latitude", x="longitude"),
    "common names": lambda s: make_cube(s, FOUR).assign_coords(band=list(COMMON)),
    "a layer more": lambda s: xr.concat(
        [make_cube(s, FOUR), make_cube(s[:1], ["SCL"])], dim="band"
    ),
    "_FillValue": lambda s: make_cube(np.nan_to_num(s, nan=-9999), FOUR).assign_attrs(
        level="L2A", _FillValue=-9999
    ),
    "nodata": lambda s: dataset(np.nan_to_num(s, nan=7), nodata=7.0),
    "0 in all bands": lambda s: make_cube(np.nan_to_num(s, nan=0), FOUR),
    "-0.1 in all bands": lambda s: make_cube(np.nan_to_num(s, nan=-0.1), FOUR),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_cube_gets_the_labels_of_the_canonical_one(spelling, scene, expected):
    labels = predict_cube(SPELLINGS[spelling](scene), level="L2A")
    assert labels.dims == ("time", "y", "x")
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("offset", [0, -1000])
@pytest.mark.parametrize("lazy", [False, True])
def test_digital_numbers_with_their_scale_are_a_cube_too(scene, expected, offset, lazy):
    data = dataset(dn_of(scene, offset), nodata=0)
    data = data.chunk({"y": 33}) if lazy else data
    labels = predict_cube(data, level="L2A", scale=10000, offset=offset)
    np.testing.assert_array_equal(labels, expected)
    told = dataset(dn_of(scene, offset), scale_factor=1e-4, add_offset=offset * 1e-4)
    np.testing.assert_array_equal(predict_cube(told, level="L2A"), expected)


def test_a_composite_takes_a_dataset_as_well(scene):
    data = dataset(scene)
    labels = predict_cube(data, level="L2A")
    image = composite(data.assign_attrs(level="L2A"), labels)
    assert image.reflectance.dims[-2:] == ("y", "x")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (lambda s: dataset(s, ("a", "b", "c", "d")), {}, "a variable for each band .* got a, b"),
        (lambda s: dataset(s, ("B02", "blue", "red", "nir")), {}, "B02 more than once among"),
        (lambda s: dataset(dn_of(s)), {}, "pass scale=10000, and offset=-1000"),
        (dataset, {"offset": -1000}, "an offset goes with a scale"),
        (dataset, {"scale": 0}, "above 0, got 0"),
        (lambda s: [s], {}, "a cube is an xarray.DataArray or Dataset, got list"),
    ],
)
def test_a_dataset_that_is_no_cube_gets_one_clear_error(scene, data, options, message):
    with pytest.raises(InputError, match=message):
        predict_cube(data(scene), level="L2A", **options)


# --- no data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0.0, -0.1])
def test_fills_in_all_bands_are_missing_and_a_dark_band_is_not(fill):
    scene = make_scene(FOUR, 64, 64)
    scene[:, :, :20] = fill
    scene[1:, :, 20:40] = fill  # one band is seen
    scene[:, :, 40:50] = -0.0999  # a DN of 1
    codes = predict_array(scene, FOUR, level="L2A")
    assert (codes[:, :20] == Label.MISSING).all()
    assert (codes[:, 20:] != Label.MISSING).all()


# --- chips --------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["labels", "probabilities"])
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_batch_gives_what_each_chip_gets_alone(engine, output):
    chips = np.stack([make_scene(FOUR, 48, 64, seed) for seed in range(5)])
    chips[1, :, :, :40] = np.nan  # is fed less than the others
    chips[3] = np.nan
    model = load_model("default", "L2A", engine=engine)
    options = {"level": "L2A", "model": model, "output": output}
    found = predict_batch(chips, FOUR, **options)
    alone = np.concatenate([predict_batch(chip[None], FOUR, **options) for chip in chips])
    np.testing.assert_allclose(found, alone, atol=1e-5 if output == "probabilities" else 0)
    one_by_one = np.stack([predict_array(chip, FOUR, **options) for chip in chips])
    assert (found.shape, found.dtype) == (one_by_one.shape, one_by_one.dtype)
    missing = np.isnan if output == "probabilities" else lambda codes: codes == Label.MISSING
    np.testing.assert_array_equal(missing(found), missing(one_by_one))


@pytest.mark.slow
@pytest.mark.shared
def test_a_chip_alone_is_labelled_as_well_as_with_twice_the_mirrored_edges(shared_data):
    """Held against what it is in its surroundings; the network begins elsewhere on its grid."""
    scenes = [read_bolzano(shared_data, day) for day in ("20220602", "20220610")]
    expected = [predict_array(scene, FOUR, level="L2A") for scene in scenes]
    places = [(128, 128), (320, 480)]
    parts = [(slice(y, y + 256), slice(x, x + 256)) for y, x in places]
    chips = np.stack([scene[:, *part] for scene in scenes for part in parts])
    truth = np.stack([codes[part] for codes in expected for part in parts])
    batch = predict_batch(chips, FOUR, level="L2A")
    wide = np.stack([predict_array(chip, FOUR, level="L2A") for chip in chips])
    assert (batch == wide).mean() > 0.98
    assert (batch != truth).mean() < max(1.1 * (wide != truth).mean(), 0.01)


def read_bolzano(data, day):
    layers = []
    for band in FOUR:
        with rasterio.open(data / "bolzano" / f"S2_L2A_{day}" / f"{band}.tif") as source:
            layers.append((source.read(1).astype("float32") - 1000) / np.float32(10000))
    return np.stack(layers)


def test_many_chips_are_fed_in_a_few_calls(monkeypatch):
    calls = []
    model = load_model("default", "L2A")
    find = type(model.runner).find_largest
    monkeypatch.setattr("kappamask.predict.array.PIXELS_AT_ONCE", 4 * 64 * 64)
    monkeypatch.setattr(
        type(model.runner),
        "find_largest",
        lambda self, s, f: calls.append(len(s)) or find(self, s, f),
    )
    predict_batch(np.stack([make_scene(FOUR, 32, 32)] * 10), FOUR, level="L2A", model=model)
    assert calls == [4, 4, 2]


@pytest.mark.parametrize("shape", [(4, 32, 32), (2, 3, 32, 32), (2, 4, 32)])
def test_chips_of_another_shape_get_one_clear_error(shape):
    with pytest.raises(InputError, match=r"must be \(n, band, y, x\) with one name per band"):
        predict_batch(np.full(shape, 0.1, "float32"), FOUR, level="L2A")
    assert predict_batch(np.empty((0, 4, 8, 8), "float32"), FOUR, level="L2A").shape == (0, 8, 8)


# --- what is hardly meant -----------------------------------------------------------------------


FIELD = np.array([0.04, 0.07, 0.05, 0.3])[:, None, None] * np.ones((4, 256, 256))
OCEAN = np.array([0.05, 0.03, 0.02, 0.01])[:, None, None] * np.ones((4, 256, 256))


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (FIELD * 10, "look at the scale"),
        (FIELD / 10, "ten times too dark"),
        (FIELD[[0, 1, 3, 2]], "look at the order of the band names"),
        (FIELD[::-1], "look at the order of the band names"),
        (FIELD + 0.1, "look at the offset"),
        (FIELD, None),
        (OCEAN, None),
        (FIELD * 0 + 0.8, None),  # cloud
        (np.array([0.15, 0.2, 0.3, 0.4])[:, None, None] + FIELD * 0, None),  # desert
    ],
)
def test_what_hardly_can_be_is_one_warning(scene, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predict_array(scene.astype("float32"), FOUR, level="L2A")
    assert [one.category for one in caught] == [KappaMaskWarning] * (message is not None)
    assert message is None or message in str(caught[0].message)


# --- processes ----------------------------------------------------------------------------------


def label_in_child(engine):
    """Label in another process."""
    model = load_model("default", "L2A", engine=engine)
    return int(predict_array(make_scene(FOUR, 64, 64), FOUR, level="L2A", model=model).sum())


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_forked_children_label_as_their_parent_did(engine):
    before = label_in_child(engine)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        futures = [pool.submit(label_in_child, engine) for _ in range(2)]
        assert [future.result(timeout=120) for future in futures] == [before, before]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["spawn", "joblib"])
def test_fresh_processes_label_as_their_parent_did(way):
    before = label_in_child("torch")
    if way == "spawn":
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(label_in_child, ["torch", "torch"]))
    else:
        joblib = pytest.importorskip("joblib", reason="joblib is no dependency")
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            jobs = (joblib.delayed(label_in_child)("torch") for _ in range(2))
            found = joblib.Parallel(n_jobs=2, timeout=300)(jobs)
    assert found == [before, before]


class Chips:
    """A dataset of torch whose items are labelled where they are loaded."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return label_in_child("torch")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader_label_as_their_parent_did(start):
    from torch.utils.data import DataLoader

    before = label_in_child("torch")
    options = {"num_workers": 2, "batch_size": None, "timeout": 300}
    loader = DataLoader(Chips(), multiprocessing_context=start, **options)
    assert [int(found) for found in loader] == [before, before]
