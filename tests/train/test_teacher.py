"""The teacher's views are blended without seams; a folder of tiny ONNX models stands for it."""

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.chip_files import make_chip

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError
from kappamask.train import teacher as room
from kappamask.train.chips import ask_teacher
from kappamask.train.teacher import SIZE, remember, teach

BLUE = NAMES.index("B02")


def write_model(path, bands, weights):
    """Write a 1 x 1 convolution of (1, bands, 256, 256) to logits (1, 3, 256, 256)."""
    shape = {"in": [1, bands, SIZE, SIZE], "out": [1, 3, SIZE, SIZE]}
    info = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in shape.items()
    }
    kernel = numpy_helper.from_array(weights[:, :, None, None], "kernel")
    node = helper.make_node("Conv", ["in", "kernel"], ["out"])
    graph = helper.make_graph([node], "tiny", [info["in"]], [info["out"]], [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A package of that name whose four networks look at single pixels: {bands: (3, bands)}."""
    package = tmp_path / "ukis_csmask"
    package.mkdir()
    (package / "__init__.py").write_text("")
    rng = np.random.default_rng(0)
    chosen = {bands: rng.normal(0, 1, (3, bands)).astype(np.float32) for bands in (4, 6)}
    for bands, values in chosen.items():
        statistics = {"img": [[0.1 + 0.01 * i for i in range(bands)], [0.05] * bands]}
        for level in ("l1c", "l2a"):
            write_model(package / f"model_{bands}b_{level}.onnx", bands, values)
            text = json.dumps({"data": {"dataset_statistics": statistics}})
            (package / f"model_{bands}b_{level}.json").write_text(text)
    monkeypatch.delitem(sys.modules, "ukis_csmask", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    room._open.cache_clear()
    yield chosen
    room._open.cache_clear()
    sys.modules.pop("ukis_csmask", None)


def by_hand(dn, weights, names):
    """Softmax of the same weights pixel by pixel: clear, shadow, cloud."""
    bands = dn[[NAMES.index(name) for name in names]] / 1e4
    mean = np.array([0.1 + 0.01 * i for i in range(len(names))])[:, None, None]
    logits = np.einsum("cb,byx->cyx", weights.astype(float), (bands - mean) / 0.05)
    share = np.exp(logits - logits.max(0))
    return (share / share.sum(0))[[0, 2, 1]]


SIX = ("B02", "B03", "B04", "B08", "B11", "B12")


@pytest.mark.parametrize("size", [40, 300])
def test_windows_are_blended_without_a_trace(weights, size):
    chip = make_chip(size=size)
    said = teach(chip.dn, level="L1C", resolution=60)  # one view, at its own resolution
    np.testing.assert_allclose(said, by_hand(chip.dn, weights[6], SIX), atol=1e-4)
    np.testing.assert_allclose(said.sum(0), 1, atol=1e-5)


def test_pixels_of_10_m_are_seen_in_three_ways(weights):
    chip = make_chip(size=50)
    coarse = chip.dn.reshape(13, 25, 2, 25, 2).mean((2, 4))
    views = [
        by_hand(chip.dn, weights[6], SIX),
        by_hand(coarse, weights[6], SIX).repeat(2, 1).repeat(2, 2),
        by_hand(coarse, weights[4], SIX[:4]).repeat(2, 1).repeat(2, 2),
    ]
    said = teach(chip.dn, level="L2A", resolution=10)
    np.testing.assert_allclose(said, np.mean(views, axis=0), atol=1e-4)
    odd = make_chip(size=51)
    assert teach(odd.dn, level="L2A", resolution=10).shape == (3, 51, 51)


def test_without_swir_four_bands_do_and_without_data_nothing_is_said(weights):
    chip = make_chip(size=40, bands=("B02", "B03", "B04", "B8A"))
    chip.dn[BLUE, :10] = 0
    said = teach(chip.dn, level="L1C", resolution=60)
    assert (said[:, :10] == 0).all()
    wanted = by_hand(chip.dn, weights[4], ("B02", "B03", "B04", "B8A"))
    np.testing.assert_allclose(said[:, 10:], wanted[:, 10:], atol=1e-4)


@pytest.mark.usefixtures("weights")
def test_answers_are_remembered_in_percent_until_the_chip_changes(tmp_path):
    path = tmp_path / "told" / "a.npy"
    chip = make_chip(size=40)
    first = remember(path, chip.dn, level="L1C", resolution=60)
    assert np.load(path).dtype == np.uint8
    truth = teach(chip.dn, level="L1C", resolution=60)
    np.testing.assert_allclose(first, truth, atol=0.0051)
    brighter = chip.dn + 3000  # the same size: the file is believed
    assert (remember(path, brighter, level="L1C", resolution=60) == first).all()
    assert remember(path, chip.dn[:, :20], level="L1C", resolution=60).shape == (3, 20, 40)


@pytest.mark.usefixtures("weights")
def test_only_algorithmic_labels_of_small_pixels_are_taught(tmp_path):
    kinds = {"net": 10.0, "scl+net": 60.0, "human": 10.0, "clear": 10.0}
    chips = [make_chip(k, kind=k, size=32, resolution=r) for k, r in kinds.items()]
    chips.append(make_chip("coarse", kind="net", size=32, resolution=120.0))
    taught = ask_teacher(chips, tmp_path / "told")
    assert [chip.evidence is not None for chip in taught] == [True, True, False, False, False]


def test_an_absent_teacher_says_what_to_install(monkeypatch):
    room._open.cache_clear()
    monkeypatch.setitem(sys.modules, "ukis_csmask", None)
    with pytest.raises(InputError, match=r"kappamask\[train\]"):
        teach(make_chip(size=8).dn, level="L1C", resolution=60)


@pytest.mark.parametrize("bands", [4, 6])
@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_the_real_teacher_is_called_as_the_tiny_one_is(bands, level):
    pytest.importorskip("ukis_csmask", reason="needs ukis-csmask, 145 MB: the extra `train`")
    room._open.cache_clear()
    session, mean, spread = room._open(bands, level)
    room._open.cache_clear()
    (asked,), (answered,) = session.get_inputs(), session.get_outputs()
    assert asked.shape[1:] == [bands, SIZE, SIZE]
    assert answered.shape[1:] == [3, SIZE, SIZE]
    assert mean.shape == spread.shape == (bands, 1, 1)
    assert 0.05 < float(mean.mean()) < 1  # of reflectance, not of DN
