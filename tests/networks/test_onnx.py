"""onnxruntime beside torch: the same network, the same labels; files, choice of engine."""

import hashlib
import json
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.reflectance import FOUR, make_cube

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, WeightsError
from kappamask.base.legend import Label
from kappamask.networks import runners
from kappamask.networks.manifest import find_entry
from kappamask.networks.model import load_model
from kappamask.networks.onnx import build_graph
from kappamask.networks.runners import (
    OnnxRunner,
    available_threads,
    choose_engine,
    export_onnx,
    find_largest,
    is_there,
    open_onnx,
)
from kappamask.networks.unet import UNet
from kappamask.networks.weights import weights_of
from kappamask.predict.array import predict_array
from kappamask.predict.cube import predict_cube

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
    ("change", "widths", "message"),
    [
        (lambda w: w.pop("up.0.lift.weight"), (8, 12), "hold no up.0.lift.weight: they are of an"),
        (lambda w: w.update(extra=w["head.bias"]), (8, 12), "got .8, 12. and 1 weights more"),
        (lambda _: None, (8, 14), r"widths \[8, 14\], got \[8, 12\]"),
    ],
)
def test_weights_of_another_network_are_refused(change, widths, message):
    weights = arrays_of(make_network((8, 12)))
    change(weights)
    with pytest.raises(WeightsError, match=message):
        build_graph(weights, widths)


# --- labels -------------------------------------------------------------------------------------


def test_probabilities_of_both_engines_are_close_and_sum_to_one():
    scene = np.random.default_rng(0).random((13, 96, 80), dtype=np.float32)
    scene[:, 40:43] = np.nan
    models = [load_model("default", "L1C", precision, engine) for engine, precision in ENGINES]
    one, other = (
        predict_array(scene, NAMES, level="L1C", model=model, output="probabilities")
        for model in models
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(np.nansum(other, 0)[43:], 1, atol=1e-5)
    assert np.isnan(other[:, 40:43]).all()


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
def test_an_infinite_value_in_one_band_does_not_spread(engine, precision):
    """It is no data there, and elsewhere the labels are as with NaN."""
    model = load_model("default", "L2A", precision, engine)
    scene = np.random.default_rng(2).random((5, 64, 64), dtype=np.float32)
    expected = scene.copy()
    scene[4, 30, 30], expected[4, 30, 30] = np.inf, np.nan
    found, expected = (
        predict_array(values, [*FOUR, "B11"], level="L2A", model=model)
        for values in (scene, expected)
    )
    np.testing.assert_array_equal(found, expected)


@given(hnp.arrays(np.float32, (4, 3, 5), elements=st.floats(-200, 200, width=32)))
def test_argmax_and_softmax_are_those_of_torch(logits):
    runner = OnnxRunner(None)
    tensor = torch.from_numpy(logits)
    np.testing.assert_array_equal(find_largest(logits), logits.argmax(0))
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


def test_dask_never_mixes_up_the_results_of_two_engines():
    cube = make_cube(np.full((4, 32, 32), 0.1, np.float32), FOUR)
    models = [load_model("default", "L2A", precision, engine) for engine, precision in ENGINES]
    assert len({predict_cube(cube, model=model).data.name for model in models}) == 2


# --- choice of engine ---------------------------------------------------------------------------


@pytest.fixture
def shipped():
    return weights_of(find_entry("default", "L2A"))


def test_engines_say_what_they_are():
    model = load_model("default", "L2A", engine="onnx")
    assert model.runner.version == f"onnxruntime {onnxruntime.__version__}"
    assert (model.precision, model.device) == ("fp32", "cpu")
    assert load_model(engine="torch").runner.version == f"torch {torch.__version__}"
    with pytest.raises(InputError, match="has no torch module: engine='torch'"):
        model.network  # noqa: B018  the access itself fails


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"torch", "safetensors", "onnxruntime"}, "torch"),
        ({"torch", "onnxruntime"}, "onnx"),
        ({"onnxruntime"}, "onnx"),
    ],
)
def test_auto_takes_torch_if_it_is_there_with_its_weights(monkeypatch, shipped, there, expected):
    monkeypatch.setattr(runners, "is_there", there.__contains__)
    assert choose_engine(shipped)[0] == expected


def test_auto_takes_onnx_where_only_its_weights_are(tmp_path, shipped):
    assert choose_engine(replace(shipped, path=tmp_path / "net.safetensors")) == ("onnx", "fp32")


def test_neither_engine_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(runners, "is_there", lambda _: False)
    with pytest.raises(InputError, match=r"needs torch .* or onnxruntime, found neither: install"):
        load_model(precision="auto", engine="auto")


def test_a_mere_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "torchlike").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_there("torchlike")


def test_threads_are_at_least_one_and_heed_a_container(monkeypatch):
    assert available_threads() >= 1
    monkeypatch.setattr(runners.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(runners.Path, "read_text", lambda *_: "150000 100000\n")
    assert available_threads() == 2
    monkeypatch.setattr(runners.Path, "read_text", lambda *_: "max 100000\n")
    assert available_threads() == 64


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path, shipped):
    """A folder as in an archive: the exported network and its manifest, no safetensors."""
    content = export_onnx(shipped)
    weights = replace(shipped, path=tmp_path / shipped.path.name)
    path = weights.path.with_suffix(".onnx")
    path.write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "source_sha256": shipped.sha256}
    (tmp_path / "onnx.json").write_text(json.dumps({path.name: entry}))
    return weights


def test_an_exported_file_is_read_and_needs_nothing_else(exported, monkeypatch):
    monkeypatch.setattr(runners, "export_onnx", None)
    slots = np.random.default_rng(0).random((1, 13, 64, 64), dtype=np.float32)
    found = open_onnx(exported, threads=1).run(slots, [[1.0] * 14])
    expected = load_model("default", "L2A", engine="onnx").runner.run(slots, [[1.0] * 14])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("suffix", "content", "sha256", "message"),
    [
        (".onnx", b"changed", None, r"\.onnx has sha256 .* the manifest says"),
        (".none", b"", "0" * 64, r"exported from weights with sha256 .* build` again"),
        (".json", b"{", None, r"onnx\.json is no JSON"),
    ],
)
def test_what_is_not_the_export_of_these_weights_is_refused(
    exported, suffix, content, sha256, message
):
    for path in exported.path.parent.glob(f"*{suffix}"):
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        open_onnx(replace(exported, sha256=sha256 or exported.sha256))


def test_without_a_file_and_without_onnx_the_error_says_what_to_install(exported, monkeypatch):
    (exported.path.parent / "onnx.json").unlink()
    monkeypatch.delitem(sys.modules, "kappamask.networks.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"needs onnx: pip install 'kappamask\[onnx\]'"):
        open_onnx(exported)


def test_without_onnxruntime_the_error_says_what_to_install(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime .*pip install 'kappamask\[onnx\]'"):
        open_onnx(exported)
