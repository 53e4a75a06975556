"""onnxruntime beside torch: the same network, the same labels; files, choice of engine."""

import hashlib
import json
import pickle
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import kappamask
from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, WeightsError
from kappamask.base.legend import Label
from kappamask.base.windows import plan_windows
from kappamask.networks import runners
from kappamask.networks.manifest import find_entry
from kappamask.networks.model import load_model
from kappamask.networks.onnx import build_graph
from kappamask.networks.runners import (
    OnnxRunner,
    available_threads,
    choose_engine,
    export_onnx,
    is_there,
    open_onnx,
)
from kappamask.networks.unet import UNet
from kappamask.networks.weights import weights_of
from kappamask.predict.array import predict_array
from kappamask.predict.cube import predict_cube

FOUR = ["B02", "B03", "B04", "B08"]
ENGINES = [("torch", "fp32"), ("onnx", "fp32")]


def make_network(widths, seed=0):
    """A network whose running statistics have moved away from 0 and 1."""
    torch.manual_seed(seed)
    network = UNet(widths)
    network.train()
    network(torch.randn(2, 13, 64, 96), torch.rand(2, 14))
    return network.eval()


def arrays_of(network):
    return {name: values.numpy() for name, values in network.state_dict().items()}


# --- the graph ----------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(8, 12, 16), (4, 6, 6, 8, 10)])
def test_the_graph_is_the_torch_network_at_any_size(widths):
    network = make_network(widths)
    session = onnxruntime.InferenceSession(build_graph(arrays_of(network), widths))
    for height, width in ((64, 96), (32, 160)):
        x, flags = torch.randn(1, 13, height, width), torch.rand(1, 14)
        with torch.inference_mode():
            expected = network(x, flags).numpy()
        (logits,) = session.run(["logits"], {"slots": x.numpy(), "flags": flags.numpy()})
        assert logits.shape == (1, 4, height, width)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_same_weights_give_the_same_bytes():
    weights = arrays_of(make_network((8, 12)))
    turned = dict(reversed(weights.items()))
    assert build_graph(weights, (8, 12)) == build_graph(turned, (8, 12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("up.0.lift.weight"), "hold no up.0.lift.weight: they are of another"),
        (lambda w: w.update(extra=w["head.bias"]), "got .8, 12. and 1 weights more"),
    ],
)
def test_weights_of_another_network_are_refused(change, message):
    weights = arrays_of(make_network((8, 12)))
    change(weights)
    with pytest.raises(WeightsError, match=message):
        build_graph(weights, (8, 12))


def test_other_widths_than_the_manifest_says_are_refused():
    with pytest.raises(WeightsError, match=r"widths \[8, 14\], got \[8, 12\]"):
        build_graph(arrays_of(make_network((8, 12))), (8, 14))


# --- labels -------------------------------------------------------------------------------------


def agreement(reflectance, bands, level):
    """Share of pixels to which both engines give the same label."""
    one, other = (
        predict_array(
            reflectance, bands, level=level, model=load_model("default", level, precision, engine)
        )
        for engine, precision in ENGINES
    )
    return (one == other).mean()


def test_onnx_and_torch_agree_on_99_9_percent_of_the_sample():
    from kappamask.sample import SCENES, catalog_path
    from kappamask.scenes.search import search

    for scene in SCENES:
        items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
        cube = kappamask.load_cube(items, scene.bbox).compute()
        for date in cube:
            share = agreement(date.values, cube.band.values.tolist(), scene.level)
            assert share >= 0.999


@pytest.mark.shared
def test_onnx_and_torch_agree_on_99_9_percent_of_a_cloudy_scene(shared_data):
    import rasterio

    layers = []
    for band in FOUR:
        with rasterio.open(shared_data / "bolzano/S2_L2A_20220602" / f"{band}.tif") as source:
            layers.append((source.read(1).astype(np.float32) - 1000) / 10000)
    assert agreement(np.stack(layers), FOUR, "L2A") >= 0.999


def test_probabilities_of_both_engines_are_close_and_sum_to_one():
    scene = np.random.default_rng(0).random((13, 96, 80), dtype=np.float32)
    scene[:, 40:43] = np.nan
    one, other = (
        predict_array(
            scene,
            NAMES,
            level="L1C",
            model=load_model("default", "L1C", precision, engine),
            output="probabilities",
        )
        for engine, precision in ENGINES
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(np.nansum(other, 0)[43:], 1, atol=1e-5)
    assert np.isnan(other[:, 40:43]).all()


def test_numpy_is_fed_what_torch_is_fed():
    """Up to the last digits: torch's square root is not the nearest number."""
    scene = np.random.default_rng(1).random((4, 300, 41), dtype=np.float32)
    scene[0, 5:9] = np.nan
    scene[1, 7] = np.inf
    scene[2, 8] = -0.3
    (window,) = plan_windows(300, 41, origin=(9, 30))
    normalise = find_entry("default", "L2A").normalisation
    size = (1, 13, window.rows.size, window.columns.size)
    tensor, array = torch.zeros(size), np.zeros(size, np.float32)
    normalise.fill(tensor, list(scene), FOUR, window)
    normalise.fill(array, list(scene), FOUR, window)
    np.testing.assert_allclose(array, tensor.numpy(), atol=2e-6)
    np.testing.assert_array_equal(array == 0, tensor.numpy() == 0)
    assert np.isfinite(array).all()


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
def test_an_infinite_value_in_one_band_does_not_spread(engine, precision):
    """It is no data there, and elsewhere the labels are as with NaN."""
    model = load_model("default", "L2A", precision, engine)
    bands = [*FOUR, "B11"]
    scene = np.random.default_rng(2).random((5, 64, 64), dtype=np.float32)
    scene[4, 30, 30] = np.inf
    expected = scene.copy()
    expected[4, 30, 30] = np.nan
    np.testing.assert_array_equal(
        predict_array(scene, bands, level="L2A", model=model),
        predict_array(expected, bands, level="L2A", model=model),
    )


@given(hnp.arrays(np.float32, (4, 3, 5), elements=st.floats(-200, 200, width=32)))
def test_argmax_and_softmax_are_those_of_torch(logits):
    runner = OnnxRunner(None)
    tensor = torch.from_numpy(logits)
    np.testing.assert_array_equal(runner.argmax(logits), logits.argmax(0))
    np.testing.assert_allclose(runner.softmax(logits), tensor.softmax(0).numpy(), atol=1e-6)


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
@pytest.mark.parametrize("sides", [(40, 0, 0, 33), (0, 7, 64, 0), (1, 1, 1, 1)])
def test_no_data_around_a_scene_changes_nothing_inside(engine, precision, sides):
    """Back ends pad the edge of a cube with NaN: it must not become a line of thin cloud."""
    top, bottom, left, right = sides
    model = load_model("default", "L2A", precision, engine)
    scene = np.random.default_rng(3).random((4, 150, 130), dtype=np.float32)
    padded = np.pad(scene, [(0, 0), (top, bottom), (left, right)], constant_values=np.nan)
    labels = predict_array(padded, FOUR, level="L2A", model=model)
    alone = predict_array(scene, FOUR, level="L2A", model=model, origin=(top, left))
    np.testing.assert_array_equal(labels[top : top + 150, left : left + 130], alone)
    assert (labels == Label.MISSING).sum() == labels.size - alone.size


# --- choice of engine ---------------------------------------------------------------------------


def test_a_model_pickles_with_engine_precision_and_threads():
    model = load_model("default", "L1C", "fp32", "onnx", 1)
    packed = pickle.dumps(model)
    assert len(packed) < 500
    again = pickle.loads(packed)  # noqa: S301  packed one line above
    assert again is model
    assert (again.engine, again.precision, again.level, again.threads) == ("onnx", "fp32", "L1C", 1)
    assert load_model("default", "L1C", "fp32", "torch") is not model


def test_engines_say_what_they_are():
    model = load_model("default", "L2A", engine="onnx")
    assert model.runner.version == f"onnxruntime {onnxruntime.__version__}"
    assert (model.precision, model.device) == ("fp32", "cpu")
    assert load_model(engine="torch").runner.version == f"torch {torch.__version__}"
    with pytest.raises(InputError, match="has no torch module: engine='torch'"):
        model.network  # noqa: B018  the access itself fails


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "tensorflow"}, "engine must be one of auto, torch, onnx, got 'tensorflow'"),
        ({"engine": "onnx", "precision": "bf16"}, "onnxruntime computes in fp32, got precision"),
        ({"threads": 0}, "at least one thread, got 0"),
    ],
)
def test_bad_choices_get_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        load_model(**arguments)


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"torch", "safetensors", "onnxruntime"}, "torch"),
        ({"torch", "onnxruntime"}, "onnx"),
        ({"onnxruntime"}, "onnx"),
    ],
)
def test_auto_takes_torch_if_it_is_there_with_its_weights(monkeypatch, there, expected):
    monkeypatch.setattr(runners, "is_there", there.__contains__)
    assert choose_engine(weights_of(find_entry("default", "L2A")))[0] == expected


def test_auto_takes_onnx_where_only_its_weights_are(tmp_path):
    weights = weights_of(find_entry("default", "L2A"))
    assert choose_engine(replace(weights, path=tmp_path / "net.safetensors")) == ("onnx", "fp32")


def test_neither_engine_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(runners, "is_there", lambda _: False)
    with pytest.raises(InputError, match=r"needs torch .* or onnxruntime, found neither: install"):
        load_model(precision="auto", engine="auto")


def test_a_mere_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "torchlike").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_there("torchlike")


def test_dask_never_mixes_up_the_results_of_two_engines():
    import rioxarray  # noqa: F401  registers .rio
    import xarray as xr

    cube = xr.DataArray(
        np.full((1, 4, 32, 32), 0.1, np.float32),
        dims=("time", "band", "y", "x"),
        coords={"band": FOUR, "y": -10.0 * np.arange(32), "x": 10.0 * np.arange(32)},
        attrs={"level": "L2A"},
    ).rio.write_crs(32632)
    names = {
        predict_cube(cube, model=load_model("default", "L2A", precision, engine)).data.name
        for engine, precision in ENGINES
    }
    assert len(names) == 2


def test_threads_are_at_least_one_and_heed_a_container(monkeypatch):
    assert available_threads() >= 1
    monkeypatch.setattr(runners.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(runners.Path, "read_text", lambda *_: "150000 100000\n")
    assert available_threads() == 2
    monkeypatch.setattr(runners.Path, "read_text", lambda *_: "max 100000\n")
    assert available_threads() == 64


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path):
    """A folder as in an archive: the exported network and its manifest, no safetensors."""
    weights = weights_of(find_entry("default", "L2A"))
    content = export_onnx(weights)
    path = tmp_path / weights.path.with_suffix(".onnx").name
    path.write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "source_sha256": weights.sha256}
    (tmp_path / "onnx.json").write_text(json.dumps({path.name: entry}))
    return replace(weights, path=tmp_path / weights.path.name)


def test_an_exported_file_is_read_and_needs_nothing_else(exported, monkeypatch):
    monkeypatch.setattr(runners, "export_onnx", None)
    slots = np.random.default_rng(0).random((1, 13, 64, 64), dtype=np.float32)
    found = open_onnx(exported, threads=1).run(slots, [1.0] * 14)
    expected = load_model("default", "L2A", engine="onnx").runner.run(slots, [1.0] * 14)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_changed_file_is_refused_by_its_hash(exported):
    path = exported.path.with_suffix(".onnx")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(WeightsError, match=r"\.onnx has sha256 .* the manifest says"):
        open_onnx(exported)


def test_a_file_of_other_weights_is_refused(exported):
    other = replace(exported, sha256="0" * 64)
    with pytest.raises(
        WeightsError, match=r"was exported from weights with sha256 .* build` again"
    ):
        open_onnx(other)


def test_a_damaged_manifest_is_refused(exported):
    (exported.path.parent / "onnx.json").write_text("{")
    with pytest.raises(WeightsError, match=r"onnx\.json is no JSON"):
        open_onnx(exported)


def test_without_a_file_and_without_onnx_the_error_says_what_to_install(exported, monkeypatch):
    import sys

    (exported.path.parent / "onnx.json").unlink()
    monkeypatch.delitem(sys.modules, "kappamask.networks.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"needs onnx: pip install 'kappamask\[onnx\]'"):
        open_onnx(exported)
