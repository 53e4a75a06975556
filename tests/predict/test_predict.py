"""Arrays and cubes to labels: invariants 1 (lattice), 3 (doors), 4 (precision) and 6 (no data)."""

from dataclasses import replace
from functools import cache

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import bolzano
from support.reflectance import FOUR, LEFT, TOP, make_cube, make_scene

from kappamask import load_cube
from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.legend import LEGEND, PREDICTED, Label
from kappamask.base.windows import Lattice, plan_windows
from kappamask.networks.model import load_model
from kappamask.predict.array import predict_array
from kappamask.predict.cube import lattice_origin, predict_cube

SMALL = Lattice(core=96, margin=32, whole=128, stride=32)


def in_small_windows(level="L2A"):
    """Give the shipped model with many small windows, so that a small scene is cut."""
    model = load_model("default", level)
    return replace(model, entry=replace(model.entry, lattice=SMALL))


def brute_force(scene, bands, level, origin):
    """The definition, in plain numpy: pad to the grid, one call a window, crop."""
    import torch

    model = load_model("default", level)
    dtype = torch.bfloat16 if model.precision == "bf16" else torch.float32
    flags = torch.tensor([[*(name in bands for name in NAMES), level == "L1C"]]).to(dtype)
    labels = np.zeros(scene.shape[1:], np.uint8)
    for window in plan_windows(*labels.shape, origin=origin, lattice=SMALL):
        slots = np.full((1, 13, *labels.shape), np.nan, np.float32)
        slots[0, [NAMES.index(name) for name in bands]] = scene
        pads = [(0, 0), (0, 0)]
        pads += [(span.pad_before, span.pad_after) for span in (window.rows, window.columns)]
        read = slots[:, :, window.rows.read, window.columns.read]
        padded = np.pad(read, pads, mode="symmetric")
        x = model.entry.normalisation(torch.from_numpy(padded)).to(dtype)
        with torch.inference_mode():
            codes = model.network(x, flags)[0].argmax(0).numpy().astype(np.uint8) + 1
        top, left = window.rows.pad_before, window.columns.pad_before
        inner = codes[top : top + read.shape[2], left : left + read.shape[3]]
        labels[window.rows.core, window.columns.core] = inner[window.rows.crop, window.columns.crop]
    return labels


# --- invariant 1: lattice -----------------------------------------------------------------


@cache
def cut_cube():
    """A cube that small windows cut, and its labels by definition."""
    cube = make_cube(make_scene(FOUR, 211, 260), FOUR, left=LEFT + 130, top=TOP - 70)
    return cube, brute_force(cube.values[0], FOUR, "L2A", lattice_origin(cube))


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(chunks=st.tuples(st.integers(20, 300), st.integers(20, 300), st.integers(1, 4)))
def test_any_chunking_gives_the_same_labels_bit_for_bit(chunks):
    cube, expected = cut_cube()
    y, x, band = chunks
    chunked = cube.chunk({"time": 1, "band": band, "y": y, "x": x})
    labels = predict_cube(chunked, model=in_small_windows())
    np.testing.assert_array_equal(labels.values[0], expected)


@pytest.mark.slow
def test_several_dates_in_one_chunk_keep_their_order():
    scene = np.stack([make_scene(FOUR, 140, 150, seed) for seed in range(3)])
    model = in_small_windows()
    cube = make_cube(scene, FOUR).chunk({"time": 3, "y": 64, "x": 150})
    together = predict_cube(cube, model=model)
    for date in range(3):
        one = predict_cube(make_cube(scene[date], FOUR), model=model)
        np.testing.assert_array_equal(together.values[date], one.values[0])


@pytest.mark.parametrize(
    ("reflectance", "share"),
    [(0.03, 1), (0.1, 1), (0.3, 1), (0.6, 1), (0.06, 0.998)],  # of the last it is not sure
)
def test_constant_input_shows_no_seams(reflectance, share):
    """Where the network wavers, rounding may decide a pixel, but no line of them."""
    cube = make_cube(np.full((4, 300, 300), reflectance, np.float32), FOUR)
    inner = predict_cube(cube, model=in_small_windows()).values[0, 64:-64, 64:-64]
    counts = np.bincount(inner.ravel())
    assert counts.max() >= share * inner.size
    odd = inner != counts.argmax()
    assert max(odd.mean(0).max(), odd.mean(1).max()) < 0.1


# --- invariant 3: doors -------------------------------------------------------------------


def test_array_and_cube_agree_bit_for_bit():
    cube = make_cube(make_scene(NAMES, 150, 170), NAMES, level="L1C", left=LEFT + 50)
    array = predict_array(cube.values[0], NAMES, level="L1C", origin=lattice_origin(cube))
    np.testing.assert_array_equal(predict_cube(cube).values[0], array)


def test_the_order_of_bands_does_not_matter():
    """Complaint 11: s2cloudless #44 #92, results that nobody could reproduce."""
    scene = make_scene(NAMES, 64, 64)
    turned = predict_array(scene[::-1], NAMES[::-1], level="L1C")
    np.testing.assert_array_equal(turned, predict_array(scene, NAMES, level="L1C"))


def test_probabilities_sum_to_one_and_their_maximum_is_the_label():
    scene = make_scene(FOUR, 80, 90)
    scene[:, :7] = np.nan
    cube = make_cube(scene, FOUR)
    probabilities, labels = predict_cube(cube, output="probabilities"), predict_cube(cube)
    assert probabilities.dims == ("time", "label", "y", "x")
    assert probabilities.label.values.tolist() == [LEGEND[code].name for code in PREDICTED]
    values = probabilities.values[0]
    assert np.isnan(values[:, :7]).all()
    np.testing.assert_allclose(values[:, 7:].sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(values[:, 7:].argmax(0) + 1, labels.values[0, 7:])


def test_time_may_be_absent_dims_in_any_order_bands_more():
    cube = make_cube(make_scene([*FOUR, "AOT"], 40, 50), [*FOUR, "AOT"])
    expected = predict_cube(cube.sel(band=FOUR)).values
    turned = predict_cube(cube.transpose("x", "y", "time", "band"))
    np.testing.assert_array_equal(turned.transpose("time", "y", "x").values, expected)
    alone = predict_cube(cube.isel(time=0, drop=True))
    assert alone.dims == ("y", "x")
    np.testing.assert_array_equal(alone.values, expected[0])


def test_a_cube_on_ascending_y_is_labelled_as_it_lies():
    cube = make_cube(make_scene(FOUR, 64, 64), FOUR)
    labels = predict_cube(cube.isel(y=slice(None, None, -1)))
    assert labels.y.values[0] < labels.y.values[-1]
    assert labels.shape == (1, 64, 64)


def test_the_result_is_lazy_and_one_task_per_window():
    """Nothing is read or computed before it is asked for, and the graph stays small."""
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    source = da.zeros((5, 13, 3072, 3072), np.float32, chunks=(1, -1, 1536, 1536)).map_blocks(
        read, dtype=np.float32, meta=np.empty((0, 0, 0, 0), np.float32)
    )
    cube = make_cube(source, NAMES, level="L1C", left=1536 * 10 * 40, top=1536 * 10 * 300)
    labels = predict_cube(cube)
    assert not reads
    own = [key for key in labels.data.dask if str(key[0]).startswith("kappamask-labels")]
    assert len(own) == 5 * 4
    assert labels.chunks == ((1,) * 5, (1536, 1536), (1536, 1536))


def test_what_is_in_memory_is_neither_copied_nor_read_before_it_is_labelled():
    cube = make_cube(np.stack([make_scene(FOUR, 90, 80, seed) for seed in range(2)]), FOUR)
    labels = predict_cube(cube)
    held = [block for block in dict(labels.__dask_graph__()).values() if hasattr(block, "dtype")]
    assert [np.shares_memory(block, cube.values) for block in held] == [True, True]
    chunked = predict_cube(cube.chunk({"time": 1, "y": 31}))
    np.testing.assert_array_equal(labels.values, chunked.values)
    assert predict_cube(cube).data.name != labels.data.name  # the array may be another by then


def test_labels_are_cf_flags_and_name_their_model():
    labels = predict_cube(make_cube(make_scene(FOUR, 40, 40), FOUR))
    assert labels.attrs["flag_values"].tolist() == [1, 2, 3, 4, 5]
    assert labels.attrs["flag_meanings"].split()[-1] == "missing"
    assert labels.attrs["level"] == "L2A"
    assert labels.attrs["kappamask_model_sha256"] == load_model().entry.sha256
    assert labels.rio.crs.to_epsg() == 32632


# --- invariant 6: no data -----------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_missing_is_where_a_required_band_is_missing_and_only_there(seed):
    rng = np.random.default_rng(seed)
    bands = ["B11", "B02", "B8A", "B03", "B04"]
    scene = make_scene(bands, 50, 60, seed=1)
    for layer in scene:
        layer[rng.random(layer.shape) < rng.uniform(0, 0.3)] = rng.choice([np.nan, np.inf])
    labels = predict_array(scene, bands, level="L2A")
    np.testing.assert_array_equal(labels == Label.MISSING, ~np.isfinite(scene[1:]).all(0))
    assert set(np.unique(labels)) <= {1, 2, 3, 4, 5}


def test_a_window_without_data_costs_no_call_of_the_network(monkeypatch):
    def forbidden(*_):
        raise AssertionError("the network was called")

    monkeypatch.setattr(type(load_model()), "batch_largest", forbidden)
    labels = predict_array(np.full((4, 70, 80), np.nan, np.float32), FOUR, level="L2A")
    assert (labels == Label.MISSING).all()


def test_one_pixel_gets_a_label():
    labels = predict_cube(make_cube(np.full((4, 1, 1), 0.05, np.float32), FOUR))
    assert labels.shape == (1, 1, 1)
    assert labels.values.item() in (1, 2, 3, 4)


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c * 10000, r"looks like DN: pass \(DN \+ offset\) / 10000"),
        (lambda c: (c * 10000).astype("int16"), r"got int16, which looks like DN"),
        (lambda c: c.isel(band=[0, 1, 2]), r"missing B08 or B8A, got B02, B03, B04"),
        (lambda c: c.isel(band=[1, 2, 3]), r"missing B02"),
        (lambda c: c.isel(x=[]), r"at least one pixel, band and date, got .*'x': 0"),
        (lambda c: c.isel(time=[]), r"at least one pixel, band and date"),
        (lambda c: c.rename(x="column"), r"has dims \(time, band, y, x\), got .*column"),
        (lambda c: c.drop_vars("spatial_ref"), r"needs a coordinate reference system, got none"),
        (lambda c: c.assign_attrs(level="L3"), r"must be 'L1C' or 'L2A', got 'L3'"),
        (lambda c: c.assign_attrs(level=""), r"must be 'L1C' or 'L2A', got ''"),
        (lambda c: c.drop_vars("band"), r"names its bands in cube.coords\['band'\]"),
        (lambda c: c.drop_vars("x"), r"needs the coordinate x at pixel centres"),
        (lambda c: c.isel(x=[0, 1, 5]), r"x must run in even steps, got steps from 10 to 40"),
        (lambda c: c.isel(band=[0, 1, 2, 3, 3]), r"each band may stand once, got B08"),
    ],
)
def test_a_bad_cube_gets_one_clear_error(change, message):
    cube = change(make_cube(make_scene(FOUR, 20, 20), FOUR))
    with pytest.raises(InputError, match=message):
        predict_cube(cube).compute()


def test_dn_hidden_in_one_window_of_a_lazy_cube_is_refused_when_computed():
    scene = make_scene(FOUR, 40, 40)
    scene[2, 30, 30] = 1200
    labels = predict_cube(make_cube(scene, FOUR).chunk({"y": 20}))
    with pytest.raises(InputError, match="got 1200 in B04"), dask.config.set(scheduler="sync"):
        labels.compute()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bands": ["B02", "B03", "B04", "B99"]}, UnknownNameError, "unknown band 'B99'"),
        ({"bands": ["B02", "B03", "B04"]}, InputError, r"shape \(4, 8, 8\) and 3 names"),
        ({"model": "best"}, UnknownNameError, "unknown model 'best': expected one of default"),
        ({"output": "mask"}, InputError, "output must be one of labels, probabilities"),
        ({"bands": ["B02", "B03", "B04", "B10"]}, InputError, "B10 does not exist at level L2A"),
        ({"origin": (0, 0.5)}, InputError, r"a whole row and column, got \(0, 0.5\)"),
    ],
)
def test_bad_arguments_get_one_clear_error(arguments, error, message):
    given_arguments = {"bands": FOUR, "level": "L2A"} | arguments
    with pytest.raises(error, match=message):
        predict_array(np.zeros((4, 8, 8), np.float32), **given_arguments)


def test_a_model_of_another_level_is_refused():
    scene, model = np.zeros((4, 8, 8), np.float32), load_model(level="L1C")
    with pytest.raises(InputError, match="loaded for L1C, the input is L2A"):
        predict_array(scene, FOUR, level="L2A", model=model)


# --- invariants 1 and 3 on real pixels ----------------------------------------------------------


@pytest.fixture(scope="module")
def real_scene():
    """The embedded L1C scene with all bands, 768 x 1536, and where it lies on the lattice."""
    from kappamask.sample import SCENES, catalog_path
    from kappamask.scenes.search import search

    scene = SCENES[0]
    items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
    return load_cube(items).isel(time=0).compute()


def shifted_agreement(cube, shift):
    """Share of equal labels among pixels 128 px inside an area and the same area moved."""
    down, right = shift
    height, width = cube.sizes["y"] - down, cube.sizes["x"] - right
    one = predict_cube(cube.isel(y=slice(0, height), x=slice(0, width))).values
    other = predict_cube(cube.isel(y=slice(down, None), x=slice(right, None))).values
    one, other = one[down:, right:], other[: height - down, : width - right]
    inner = np.s_[128:-128, 128:-128]
    return (one[inner] == other[inner]).mean()


@pytest.mark.slow
@pytest.mark.parametrize("shift", [(1, 1), (37, 201)])
def test_a_shifted_area_agrees_on_99_9_percent(real_scene, shift):
    assert shifted_agreement(real_scene, shift) >= 0.999


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("shift", [(17, 90), (32, 3)])
def test_a_shifted_area_agrees_on_99_9_percent_of_a_cloudy_scene(shared_data, shift):
    item = bolzano.make_item(shared_data / "bolzano/S2_L2A_20220602")
    assert shifted_agreement(load_cube([item]).isel(time=0).compute(), shift) >= 0.999


@pytest.mark.slow
def test_other_windows_with_an_overlap_of_128_px_agree_on_99_8_percent(real_scene):
    """What an openEO back end does: chunks of 512 px, each with 128 px around it."""
    whole = predict_cube(real_scene).values
    values, bands = real_scene.values, real_scene.band.values.tolist()
    pieces = np.zeros_like(whole)
    for top in range(0, 768, 256):
        for left in range(0, 1536, 512):
            rows = slice(max(top - 128, 0), min(top + 384, 768))
            columns = slice(max(left - 128, 0), min(left + 640, 1536))
            piece = predict_array(values[:, rows, columns], bands, level="L1C")
            inner = piece[top - rows.start :, left - columns.start :][:256, :512]
            pieces[top : top + 256, left : left + 512] = inner
    assert (pieces == whole).mean() >= 0.998
