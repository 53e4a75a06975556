"""The openEO UDF: its text as back ends run it, chunk shapes, scales, masks (invariant 3)."""

import logging
from pathlib import Path

import numpy as np
import openeo
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from openeo.metadata import (
    Band,
    BandDimension,
    CollectionMetadata,
    CubeMetadata,
    SpatialDimension,
    TemporalDimension,
)
from openeo.udf import UdfData, XarrayDataCube, execute_local_udf, run_udf_code
from openeo.udf.run_code import load_module_from_string

from kappamask.base.bands import NAMES, canonical_name, find_bands
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.legend import PREDICTED, Label
from kappamask.base.pixels import dilate
from kappamask.networks.model import load_model
from kappamask.networks.runners import available_threads
from kappamask.predict.array import predict_array
from kappamask.predict.chunk import OUTPUT_BANDS, find_origin, to_mask
from kappamask.predict.cube import lattice_origin

FILE = Path(__file__).parents[2] / "udf/kappamask_udf.py"
TEXT = FILE.read_text("utf-8")
FOUR = ["B02", "B03", "B04", "B08"]
DATES = np.array(["2022-06-02", "2022-06-05", "2022-06-07"], "M8[ns]")


def make_dn(bands=4, height=96, width=80, seed=0):
    """Ground with bright blobs as a back end stores it: whole numbers in floating point."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((bands, height // 16 + 1, width // 16 + 1)) * 2000
    scene = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    return np.rint(scene + 6000 * (scene[:1] > 1400) + rng.normal(300, 60, scene.shape)).clip(1)


def make_chunk(dates=2, bands=FOUR, dtype=np.float32, **size):
    """(t, bands, y, x) as Copernicus hands it out with the whole time axis."""
    values = np.stack([make_dn(len(bands), seed=date, **size) for date in range(dates)])
    return xr.DataArray(
        values.astype(dtype),
        dims=("t", "bands", "y", "x"),
        coords={
            "t": DATES[:dates],
            "bands": list(bands),
            "y": np.linspace(5e6, 4.99e6, values.shape[2], dtype=np.float32),
            "x": np.linspace(6e5, 6.1e5, values.shape[3], dtype=np.float32),
        },
    )


def run(cube, text=TEXT, **context):
    """As a back end does: by text, through the client's own runner."""
    data = UdfData(datacube_list=[XarrayDataCube(cube)], user_context=context)
    (result,) = run_udf_code(text, data).get_datacube_list()
    return result.get_array()


def own_model(level="L2A"):
    """The model that the UDF loads here."""
    return load_model("default", level, threads=available_threads())


def expect(dn, bands=FOUR, *, level="L2A", output="labels", offset=0, origin=(0, 0)):
    """The reference: the same numbers through `predict_array`."""
    reflectance = (np.float32(dn) + np.float32(offset)) * np.float32(1e-4)
    model = own_model(level)
    return predict_array(reflectance, bands, level=level, model=model, output=output, origin=origin)


# --- the text -----------------------------------------------------------------------------------


def test_back_ends_find_the_entry_point_by_name_arguments_and_annotations():
    assert "from __future__" not in TEXT
    space = load_module_from_string(TEXT)
    annotations = space["apply_datacube"].__annotations__
    assert annotations == {"cube": xr.DataArray, "context": dict, "return": xr.DataArray}
    assert callable(space["apply_metadata"])
    assert len(TEXT) < 20_000  # it travels in every process graph


def test_the_text_runs_in_a_fresh_namespace_with_an_empty_or_no_context():
    cube = make_chunk(1)
    for context in ({}, None, {"model": None, "threads": None}):
        space = {}
        exec(TEXT, space)  # noqa: S102  what back ends do
        result = space["apply_datacube"](cube, context)
        np.testing.assert_array_equal(result.values[0, 0], expect(cube.values[0]))


def test_it_works_without_the_client(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openeo.udf", None)
    space = {}
    exec(TEXT, space)  # noqa: S102  what back ends do
    assert space["log_to_job"] is None
    assert space["apply_datacube"](make_chunk(1), {}).shape == (1, 1, 96, 80)


def test_its_tables_are_those_of_the_library():
    assert load_module_from_string(TEXT)["OUTPUT_BANDS"] == OUTPUT_BANDS


def test_it_says_once_per_worker_what_it_used(caplog):
    caplog.set_level(logging.INFO, "openeo.udf.debug.user")
    text = TEXT + "\n# a text of its own, as a new worker reads it\n"
    for date in range(3):
        run(make_chunk(1, height=32 + date, width=32), text)
    said = [record for record in caplog.records if record.name == "openeo.udf.debug.user"]
    assert len(said) == 1
    used = said[0].data
    assert {"kappamask", "model", "sha256", "engine", "precision", "threads"} <= set(used)
    assert used["engine"].split()[0] in ("torch", "onnxruntime")
    assert used["model"] in said[0].getMessage()


# --- chunk shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_date_without_a_time_axis(dtype):
    """Window size P1D: (bands, y, x), the date in the attributes."""
    cube = make_chunk(1, dtype=dtype).isel(t=0, drop=True).assign_attrs(t="2022-06-02")
    result = run(cube)
    assert result.dims == ("bands", "y", "x")
    assert result.dtype == np.float32
    assert result.attrs["t"] == "2022-06-02"
    np.testing.assert_array_equal(result.values[0], expect(cube.values))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_whole_time_axis(dtype):
    cube = make_chunk(3, dtype=dtype)
    result = run(cube)
    assert result.dims == ("t", "bands", "y", "x")
    assert result.dtype == np.float32
    assert result["bands"].values.tolist() == ["cloud_labels"]
    for name in ("t", "y", "x"):
        np.testing.assert_array_equal(result[name], cube[name])
    for date in range(3):
        np.testing.assert_array_equal(result.values[date, 0], expect(cube.values[date]))


@pytest.mark.parametrize(
    "dims", [("x", "y", "bands", "t"), ("bands", "t", "y", "x"), ("t", "bands", "x", "y")]
)
def test_dims_in_any_order_are_kept(dims):
    cube = make_chunk()
    result = run(cube.transpose(*dims))
    assert result.dims == dims
    np.testing.assert_array_equal(result.transpose(*cube.dims), run(cube))


def test_other_names_of_dims_are_kept():
    cube = make_chunk().rename(t="time", bands="band")
    result = run(cube)
    assert result.dims == ("time", "band", "y", "x")
    assert result["band"].values.tolist() == ["cloud_labels"]


def test_the_nan_around_a_cube_is_missing_and_changes_nothing_inside():
    """Back ends pad the edge of the whole cube: size 768, overlap 128, here smaller."""
    cube = make_chunk(1)
    padded = cube.pad(y=(128, 128), x=(128, 128))
    result = run(padded, output="labels").values[0, 0]
    np.testing.assert_array_equal(result[128:-128, 128:-128], expect(cube.values[0]))
    assert (result == Label.MISSING).sum() == result.size - cube[0, 0].size
    mask = run(padded, output="mask", buffer_px=3).values[0, 0]
    assert set(np.unique(mask)) <= {0, 1}
    assert mask[:128].all()
    inside = run(cube, output="mask", buffer_px=3).values[0, 0]
    np.testing.assert_array_equal(mask[128:-128, 128:-128], inside)


def test_a_chunk_without_data_needs_no_network():
    empty = xr.full_like(make_chunk(1), np.nan)
    assert (run(empty) == Label.MISSING).all()
    assert (run(empty, output="mask") == 1).all()
    assert run(empty, output="probabilities").isnull().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.drop_vars("bands"), r"with named bands, got \('t', 'bands', 'y', 'x'\)"),
        (lambda c: c.rename(y="lat"), r"has dimensions \(t, bands, y, x\)"),
        (lambda c: c.expand_dims("realisation"), "rename or reduce the others"),
        (lambda c: c.isel(bands=[0, 1, 2]), "missing B08 or B8A, .* are called B02, B03, B04"),
    ],
)
def test_a_chunk_of_another_shape_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(change(make_chunk(1)))


# --- where the lattice begins -------------------------------------------------------------------


def centres(start, step, count):
    """Pixel centres, the first pixel begins at `start`."""
    return start + step * (np.arange(count) + 0.5)


@given(
    top=st.integers(0, 1_000_000),
    left=st.integers(-50_000, 100_000),
    step=st.sampled_from([10, 20, 60]),
    sizes=st.tuples(st.integers(2, 1100), st.integers(2, 1100)),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_origin_is_that_of_the_exact_cube(top, left, step, sizes, dtype):
    """In UTM, north up, to the pixel, whatever the precision."""
    y, x = centres(top * 10, -step, sizes[0]), centres(left * 10, step, sizes[1])
    exact = xr.DataArray(np.empty(sizes), dims=("y", "x"), coords={"y": y, "x": x})
    assert find_origin(y.astype(dtype), x.astype(dtype)) == lattice_origin(exact)


def test_a_grid_between_the_metres_has_an_origin_too():
    x = centres(5271982.57655193, 10, 1024)  # the sample of EPSG:3035
    assert find_origin(None, x.astype(np.float32))[1] == 527198


X = centres(600_000, 10, 1024).astype(np.float32)
UNTOLD = {
    "absent": None,
    "pixel numbers": np.arange(1024),
    "degrees": centres(11.3, 0.00009, 1024).astype(np.float32),
    "stretched over the overlap": np.linspace(600_005, 607_675, 1024, dtype=np.float32),
    "counted twice": np.linspace(598_725, 611_515, 1024, dtype=np.float32),
    "uneven": np.where(np.arange(1024) < 500, X, X + 4),
    "shuffled": X[::-1][np.argsort(np.sin(X))],
    "all the same": np.full(1024, 600_005.0),
    "zeros": np.zeros(1024),
    "no numbers": np.full(1024, np.nan),
    "one number": np.where(np.arange(1024) == 5, X, np.nan),
    "one pixel": X[:1],
    "no pixel": X[:0],
    "infinite": np.array([np.inf, -np.inf, np.inf]),
    "beyond the earth": np.array([-1e308, 1e308]),
    "far out for float32": centres(9e7, 10, 1024).astype(np.float32),
    "dates": np.arange("2022-06-02", "2022-06-09", dtype="M8[D]"),
    "words": np.array(["a", "b", "c"]),
    "objects": np.array([600_005, 600_015], dtype=object),
    "a table": np.stack([X, X]),
}


@pytest.mark.parametrize("lie", UNTOLD)
def test_coordinates_that_cannot_be_true_begin_at_the_chunk(lie):
    assert find_origin(UNTOLD[lie], X) == (0, 60_000)
    assert find_origin(X, UNTOLD[lie]) == (60_000, 0)


def test_padding_without_coordinates_is_counted():
    padded = np.concatenate([np.full(128, np.nan), X, np.full(128, np.nan)])
    assert find_origin(padded, None) == (60_000 - 128, 0)


def place(cube, y, x):
    return cube.assign_coords(y=y.astype(np.float32), x=x.astype(np.float32))


def test_the_lattice_is_that_of_the_projected_grid():
    """And hence the same in every chunk, wherever that begins; without coordinates it is not."""
    cube = make_chunk(1, height=256, width=192)
    row, column = -515_463, 67_595
    y, x = centres(5_154_630, -10, 256), centres(675_950, 10, 192)
    expected = expect(cube.values[0], origin=(row, column))
    np.testing.assert_array_equal(run(place(cube, y, x)).values[0, 0], expected)
    assert (expected != expect(cube.values[0])).any()
    part = place(cube, y, x)[..., 37:, 11:]
    there = expect(part.values[0], origin=(row + 37, column + 11))
    np.testing.assert_array_equal(run(part).values[0, 0], there)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.drop_vars(["y", "x"]),
        lambda c: c.assign_coords(x=UNTOLD["degrees"][: c.sizes["x"]]),
        lambda c: c.assign_coords(y=[f"row {row}" for row in range(c.sizes["y"])]),
    ],
)
def test_a_chunk_with_wrong_or_no_coordinates_is_labelled_all_the_same(change):
    cube = make_chunk(1)
    np.testing.assert_array_equal(run(change(cube)).values[0, 0], expect(cube.values[0]))


# --- execute_local_udf --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nc", ".json"])
def test_it_runs_on_a_file_through_execute_local_udf(tmp_path, suffix):
    path = tmp_path / f"cube{suffix}"
    cube = make_chunk(2)
    kept = cube if suffix == ".nc" else cube.drop_vars("t")  # the client writes no dates to JSON
    XarrayDataCube(kept).save_to_file(path)
    udf = openeo.UDF.from_file(FILE, context={"output": "labels"})
    (result,) = execute_local_udf(udf, path, fmt=suffix[1:].replace("nc", "netcdf")).datacube_list
    result = result.get_array()
    assert result.dims == ("t", "bands", "y", "x")
    for date in range(2):
        np.testing.assert_array_equal(result.values[date, 0], expect(cube.values[date]))


def test_all_bands_of_the_other_level():
    cube = make_chunk(1, NAMES)
    udf = openeo.UDF(TEXT, context={"level": "L1C"})
    (result,) = execute_local_udf(udf, cube).datacube_list
    expected = expect(cube.values[0], NAMES, level="L1C")
    np.testing.assert_array_equal(result.get_array().values[0, 0], expected)


@pytest.mark.shared
def test_a_real_scene_is_labelled_as_predict_array_does(shared_data):
    """Invariant 3 on one window: Bolzano, raw DN of baseline 04.00."""
    import rasterio

    layers = []
    for band in FOUR:
        with rasterio.open(shared_data / "bolzano/S2_L2A_20220602" / f"{band}.tif") as source:
            layers.append(source.read(1)[:640, :704].astype(np.float32))
    dn = np.stack(layers)
    cube = xr.DataArray(dn, dims=("bands", "y", "x"), coords={"bands": FOUR})
    cube = cube.assign_coords(y=np.arange(640), x=np.arange(704)).expand_dims(t=DATES[:1])
    udf = openeo.UDF(TEXT, context={"offset": -1000})
    (result,) = execute_local_udf(udf, cube).datacube_list
    np.testing.assert_array_equal(result.get_array().values[0, 0], expect(dn, offset=-1000))


# --- outputs ------------------------------------------------------------------------------------


def test_labels_hold_no_nan_and_the_mask_is_zeros_and_ones_with_missing_masked():
    cube = make_chunk(1)
    cube[0, 1, 10:14] = np.nan
    labels, mask = run(cube).values[0, 0], run(cube, output="mask").values[0, 0]
    assert (labels[10:14] == Label.MISSING).all()
    assert set(np.unique(labels)) <= {1, 2, 3, 4, 5}
    assert run(cube, output="mask")["bands"].values.tolist() == ["cloud_mask"]
    np.testing.assert_array_equal(mask, (labels != Label.CLEAR).astype(np.float32))


def test_the_buffer_grows_clouds_and_shadows_by_discs_but_not_missing():
    labels = np.full((40, 50), int(Label.CLEAR))
    labels[5, 5], labels[20, 30], labels[33, 8] = 4, 2, 3
    labels[:, 48:] = Label.MISSING
    mask = to_mask(labels, 3)
    rows, columns = np.mgrid[:40, :50]
    near = [np.hypot(rows - y, columns - x) <= 3 for y, x in ((5, 5), (20, 30), (33, 8))]
    expected = near[0] | near[1] | near[2] | (labels == Label.MISSING)
    np.testing.assert_array_equal(mask, expected.astype(np.float32))


def test_probabilities_come_with_one_band_per_class():
    cube = make_chunk(1)
    cube[0, 1, 10:14] = np.nan
    result = run(cube, output="probabilities")
    assert tuple(result["bands"].values) == OUTPUT_BANDS["probabilities"]
    assert len(OUTPUT_BANDS["probabilities"]) == len(PREDICTED)
    expected = expect(cube.values[0], output="probabilities")
    np.testing.assert_array_equal(result.values[0], expected)
    assert np.isnan(result.values[0, :, 10:14]).all()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_dilation_is_what_brute_force_says(seed, radius):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 24, 2)
    selected = rng.random((height, width)) < rng.uniform(0, 0.2)
    rows, columns = np.mgrid[:height, :width]
    expected = np.zeros_like(selected)
    for y, x in zip(*np.nonzero(selected), strict=True):
        expected |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    before = selected.copy()
    np.testing.assert_array_equal(dilate(selected, radius), expected)
    np.testing.assert_array_equal(selected, before)


@pytest.mark.parametrize("radius", [-1, 1.5])
def test_a_buffer_is_a_whole_number_of_pixels(radius):
    with pytest.raises(InputError, match=f"whole number of pixels, 0 or more, got {radius}"):
        dilate(np.ones((2, 2), bool), radius)


# --- what the numbers mean ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "context"),
    [(1e-4, {"scale": 1}), (1, {}), (1e-2, {"scale": 100}), (1, {"scale": 10000.0, "offset": 0.0})],
)
def test_every_scale_gives_the_same_labels(factor, context):
    cube = make_chunk(1, dtype=np.float64)
    result = run(cube * factor, **context).values
    assert (result == run(cube).values).mean() >= 0.999


def test_raw_dn_of_baseline_4_say_so_with_an_offset():
    cube = make_chunk(1)
    np.testing.assert_array_equal(run(cube + 1000, offset=-1000), run(cube))


def test_zero_is_no_data_where_the_offset_is_still_in_the_numbers():
    cube = make_chunk(1) + 1000
    cube[0, 2, 4:9] = 0
    labels = run(cube, offset=-1000).values[0, 0]
    assert (labels[4:9] == Label.MISSING).all()
    assert (labels == Label.MISSING).sum() == 5 * 80


def test_zero_in_all_bands_is_no_data_and_in_one_band_is_a_dark_pixel():
    cube = make_chunk(1)
    cube[0, 2, 4:9] = 0
    cube[0, :, 20:22] = 0
    labels = run(cube).values[0, 0]
    assert (labels == Label.MISSING).sum() == 2 * 80
    assert (labels[20:22] == Label.MISSING).all()


@pytest.mark.parametrize(
    ("factor", "context", "message"),
    [
        (1, {"scale": 1}, r"got values from \d+ to \d+ with scale 1, which look like DN: pass sc"),
        (1, {"scale": 100}, r"got values from \d+ to \d+ with scale 100, which look like DN"),
        (1e-4, {}, r"from 0\.\d+ to [01]\.\d+ with scale 10000, which look like reflectance: pass"),
    ],
)
def test_a_scale_that_does_not_fit_is_refused_with_the_numbers_seen(factor, context, message):
    with pytest.raises(InputError, match=message):
        run(make_chunk(1) * factor, **context)


def test_a_few_dark_pixels_at_the_edge_of_an_orbit_are_no_reason_to_refuse():
    cube = xr.full_like(make_chunk(1), np.nan)
    cube[0, :, 0, 0] = 3
    cube[0, :, 1, 0] = 0
    assert (run(cube) == Label.MISSING).sum() == cube[0, 0].size - 1


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"bufer_px": 2}, "the context may hold scale, .* got bufer_px: correct or remove it"),
        ({"output": "clouds"}, "one of labels, mask, probabilities, snow, got 'clouds'"),
        ({"level": "L3"}, "must be 'L1C' or 'L2A', got 'L3'"),
        ({"model": "best"}, "unknown model 'best'"),
        ({"output": "mask", "buffer_px": -1}, "whole number of pixels"),
        *(({"scale": scale}, "scale must be above 0") for scale in (0, -1, np.nan)),
    ],
)
def test_a_bad_context_gets_one_clear_error(context, message):
    with pytest.raises((ValueError, UnknownNameError), match=message):
        run(make_chunk(1), **context)


# --- bands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bands",
    [
        ["B02_10m", "B03_10m", "B04_10m", "B08_10m"],
        ["blue", "green", "red", "nir"],
        ["b02", "b03", "b04", "b08"],
        ["B2", "B3", "B4", "B8"],
        ["TOC-B02_10M", "TOC-B03_10M", "TOC-B04_10M", "TOC-B08_10M"],
    ],
)
def test_bands_as_each_back_end_spells_them(bands):
    cube = make_chunk(1)
    np.testing.assert_array_equal(run(cube.assign_coords(bands=bands)), run(cube))


def test_order_and_other_layers_do_not_matter():
    bands = ["SCL", "B08", "sunAzimuthAngles", "B04", "AOT", "B02", "WVP", "B03", "dataMask"]
    cube = make_chunk(1, bands)
    expected = expect(cube.sel(bands=FOUR).values[0])
    np.testing.assert_array_equal(run(cube).values[0, 0], expected)


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [
        ("B8A", "B8A"),
        ("B08A", "B8A"),
        ("b8a_20m", "B8A"),
        ("nir08", "B8A"),
        ("nir", "B08"),
        ("B1", "B01"),
        ("S2-L2A-B12", "B12"),
        ("rededge071", "B05"),
        ("WVP_10m", "WVP"),
        ("cirrus", "B10"),
    ],
)
def test_a_band_has_many_spellings(spelled, canonical):
    assert canonical_name(spelled) == canonical


@pytest.mark.parametrize("name", ["B13", "B00", "B9A", "SCL", "B02_15m", "mean_B02", "", "BA"])
def test_what_is_no_band_is_unknown(name):
    with pytest.raises(UnknownNameError, match="unknown band"):
        canonical_name(name)


def test_two_names_of_one_band_are_refused():
    with pytest.raises(InputError, match="got B02 more than once; the bands are called blue, B02"):
        find_bands(["blue", "B02", "B03", "B04", "B08"], "L2A")


# --- metadata -----------------------------------------------------------------------------------


def make_metadata(kind, *dims):
    axes = [SpatialDimension(name=name, extent=[]) for name in "xy"]
    dimensions = [*axes, TemporalDimension(name="t", extent=[]), *dims]
    return kind(dimensions=dimensions, **({} if kind is CubeMetadata else {"metadata": {}}))


@pytest.mark.parametrize("kind", [CubeMetadata, CollectionMetadata])
@pytest.mark.parametrize("output", [*OUTPUT_BANDS, None])
def test_apply_metadata_tells_the_bands_that_come_out(kind, output):
    change = load_module_from_string(TEXT)["apply_metadata"]
    context = {} if output is None else {"output": output}
    bands = BandDimension(name="bands", bands=[Band(name) for name in FOUR])
    changed = change(make_metadata(kind, bands), context)
    assert tuple(changed.band_names) == OUTPUT_BANDS[output or "labels"]
    chunk = make_chunk(1, bands=[*FOUR, "B11"])
    assert changed.band_names == run(chunk, **context)["bands"].values.tolist()
    assert changed.dimension_names() == ["x", "y", "t", "bands"]
    left_out = change(make_metadata(kind), context)  # by a back end
    assert left_out.band_names == changed.band_names
