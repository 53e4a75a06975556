"""The manifest, the network with its normalisation, its precisions (invariant 4)."""

import hashlib
import os
import pickle
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from support.reflectance import FOUR

import kappamask
from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.windows import plan_windows
from kappamask.networks.manifest import find_entry, read_registry
from kappamask.networks.model import load_model, open_model
from kappamask.networks.normalisation import Normalisation
from kappamask.networks.runners import find_largest
from kappamask.networks.unet import ConvUnit, UNet, unshuffle

WEIGHTS = Path(kappamask.__file__).parent / "networks" / "weights"


def test_every_shipped_model_has_its_hash_its_figures_and_is_small():
    default, models = read_registry()
    assert set(default) == {"L1C", "L2A"}
    ours = [entry for entry in models.values() if entry.shipped]
    assert {path.name for path in WEIGHTS.glob("*.safetensors")} == {entry.file for entry in ours}
    assert sum((WEIGHTS / entry.file).stat().st_size for entry in ours) <= 10e6
    for entry in ours:
        content = (WEIGHTS / entry.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256
        assert entry.metrics
        assert entry.licence == "Apache-2.0"


@pytest.mark.parametrize("settings", [("L2A", "fp32", "torch"), ("L1C", "fp32", "onnx", 1)])
def test_a_model_is_loaded_once_per_process_and_pickles_as_its_name(settings):
    model = load_model("default", *settings)
    assert load_model("default", *settings) is model
    found = (model.level, model.precision, model.engine, model.threads)
    assert found[: len(settings)] == settings
    packed = pickle.dumps(model)
    assert len(packed) < 500
    assert pickle.loads(packed) is model  # noqa: S301  packed one line above


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("u-net",), UnknownNameError, "unknown model 'u-net': expected one of default, "),
        (("default", "L2B"), InputError, "'L1C' or 'L2A', got 'L2B'"),
        (("kappamask-2021-l2a", "L1C"), InputError, "was made for L2A, the input is L1C: choose"),
        (("default", "L2A", "int8"), InputError, "must be one of auto, bf16, fp32, got 'int8'"),
        (("default", "L2A", "auto", "tf"), InputError, "one of auto, torch, onnx, got 'tf'"),
        (("default", "L2A", "bf16", "onnx"), InputError, "onnxruntime computes in fp32, got"),
        (("default", "L2A", "auto", "auto", 0), InputError, "at least one thread, got 0"),
    ],
)
def test_bad_choices_get_one_clear_error(arguments, error, message):
    with pytest.raises(error, match=message):
        load_model(*arguments)


def test_an_entry_of_ones_own_for_another_level_is_refused():
    with pytest.raises(InputError, match="was made for L2A, the input is L1C: choose another"):
        open_model(replace(find_entry("default", "L2A"), levels=("L2A",)), "L1C")


# --- normalisation ------------------------------------------------------------------------------


def test_normalisation_is_fixed_and_absent_is_zero():
    normalise = Normalisation(mean=tuple([0.3] * 13), std=tuple([0.2] * 13))
    x = torch.full((1, 13, 2, 2), 0.25)
    x[0, 3] = torch.nan
    x[0, 4] = -0.2  # below the offset: as dark as can be
    out = normalise(x)
    assert torch.allclose(out[0, 0], torch.tensor((0.5 - 0.3) / 0.2))
    assert (out[0, 3] == 0).all()
    assert torch.allclose(out[0, 4], torch.tensor(-0.3 / 0.2))
    with pytest.raises(InputError, match="13 means and 13 positive spreads, got 2"):
        Normalisation(mean=(1.0, 2.0), std=tuple([1.0] * 13))


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_band_by_band_normalisation_is_the_whole_one(make):
    """`fill` normalises one band at a time; the oracle normalises all at once.

    Numpy up to the last digits: torch's square root is not the nearest number.
    """
    scene = np.random.default_rng(0).random((13, 300, 50), dtype=np.float32)
    scene[2, 3:9] = np.nan
    scene[1, 7], scene[4, 8] = np.inf, -0.3
    (window,) = plan_windows(300, 50, origin=(5, 9))
    normalisation = load_model().entry.normalisation
    size = (1, 13, window.rows.size, window.columns.size)
    slots = make(size, dtype=torch.float32 if make is torch.zeros else np.float32)
    slots[:] = 7  # room of any content
    normalisation.fill(slots, list(scene[:-2]), NAMES[:-2], window)
    scene[-2:] = np.nan  # absent
    pads = [(span.pad_before, span.pad_after) for span in (window.rows, window.columns)]
    padded = np.pad(scene, [(0, 0), *pads], mode="symmetric")
    expected = normalisation(torch.from_numpy(padded)[None])
    exact = {} if make is torch.zeros else {"atol": 2e-6, "rtol": 0}
    torch.testing.assert_close(torch.as_tensor(slots), expected, **exact)
    assert ((torch.as_tensor(slots) == 0) == (expected == 0)).all()


# --- network ----------------------------------------------------------------------------------


def test_a_cloud_keeps_its_label_however_large_it_is():
    """Complaint 6: OmniCloudMask #9 #22, the middle of a large cloud called clear."""
    for size in (300, 900):
        scene = np.full((4, size, size), 0.75, np.float32)
        scene += np.random.default_rng(0).normal(0, 0.02, scene.shape).astype(np.float32)
        labels = kappamask.predict_array(scene, FOUR, level="L2A")
        assert (labels == kappamask.Label.CLOUD).mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_unshuffle_is_torchs_pixel_unshuffle(dtype):
    x = torch.randn(2, 5, 8, 6).to(dtype)
    assert torch.equal(unshuffle(x), torch.nn.functional.pixel_unshuffle(x, 2))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_fewer_passes_over_the_memory_change_no_logits(memory_format):
    """With gradients every layer is torch's own; without, layers are fused and written over."""
    torch.manual_seed(1)
    network = UNet((8, 12, 16)).fold().to(memory_format=memory_format)
    for part in network.parameters():
        torch.nn.init.normal_(part, std=0.2)
    x, flags = torch.randn(2, 13, 32, 48), torch.rand(2, 14)
    given = x.clone()
    plain = network(x, flags).detach()
    with torch.inference_mode():
        lean = network(x, flags)
    assert plain.std() > 0.1
    torch.testing.assert_close(lean, plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(x, given)


def test_the_largest_of_four_is_the_first_of_equal_ones():
    logits = np.random.default_rng(3).integers(0, 4, (4, 50, 60)).astype(np.float32)
    assert np.array_equal(find_largest(logits), logits.argmax(0))
    assert np.array_equal(find_largest(logits[:, 5:-3, 7:]), logits[:, 5:-3, 7:].argmax(0))


def test_a_network_finds_the_largest_of_its_logits_the_first_of_equal_ones():
    torch.manual_seed(0)
    network = UNet((8, 12)).fold()
    x, flags = torch.randn(2, 13, 32, 48), torch.rand(2, 14)
    with torch.inference_mode():
        network.head.weight *= 1000
        logits = network(x, flags).numpy()
        assert np.array_equal(network.find_largest(x, flags), logits.argmax(1))
        assert len(np.unique(logits.argmax(1))) == 4
        network.head.weight.zero_()
        network.head.bias[:] = torch.randint(2, (16,))
        logits = network(x, flags).numpy()
        assert np.array_equal(network.find_largest(x, flags), logits.argmax(1))


def test_folding_and_exact_biases_change_no_logits():
    """Folded batch normalisation; then biases that are numbers of bf16, for `to_bf16`."""
    torch.manual_seed(0)
    network = UNet((8, 12, 16)).train()
    x, flags = torch.randn(2, 13, 32, 48), torch.rand(2, 14)
    for _ in range(20):
        network(x, flags)  # moves the running statistics away from 0 and 1
    for name, values in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(values, std=0.3)
    with torch.inference_mode():
        before = network.eval()(x, flags)
    network.fold()
    with torch.inference_mode():
        folded = network(x, flags)
    assert before.shape == (2, 4, 32, 48)
    torch.testing.assert_close(folded, before, rtol=1e-4, atol=1e-4)
    network.last.conv.bias.data[0] = 0
    with torch.inference_mode():
        before = network(x, flags)
        after = network.make_biases_exact()(x, flags)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    for unit in (module for module in network.modules() if isinstance(module, ConvUnit)):
        bias = unit.conv.bias
        torch.testing.assert_close(bias, bias.bfloat16().float(), rtol=1e-6, atol=0)
    lowered = network.to_bf16()
    assert {values.dtype for values in lowered.first.parameters()} == {torch.bfloat16}
    assert {values.dtype for values in lowered.head.parameters()} == {torch.float32}
    with torch.inference_mode():
        assert lowered(x.bfloat16(), flags).dtype == torch.float32


# --- what computes makes no difference ----------------------------------------------------------

EXACT = ("fp32", "torch")
OTHERS = {("bf16", "torch"): 0.998, ("fp32", "onnx"): 0.999}


def check_agreement(reflectance, bands, level):
    """bf16 gives 99.8 %, onnxruntime 99.9 % of the labels of torch in fp32."""
    expected, *found = (
        kappamask.predict_array(
            reflectance, bands, level=level, model=load_model("default", level, precision, engine)
        )
        for precision, engine in (EXACT, *OTHERS)
    )
    for labels, share in zip(found, OTHERS.values(), strict=True):
        assert (labels == expected).mean() >= share


@pytest.mark.shared
@pytest.mark.parametrize("date", ["20220602", "20220605", "20220617"])
def test_precisions_and_engines_agree_on_cloudy_dates(shared_data, date):
    """Invariant 4, on the dates of Bolzano with most class borders."""
    layers = []
    for band in FOUR:
        with rasterio.open(shared_data / f"bolzano/S2_L2A_{date}" / f"{band}.tif") as source:
            layers.append((source.read(1).astype(np.float32) - 1000) / 10000)
    check_agreement(np.stack(layers), FOUR, "L2A")


@pytest.mark.slow
def test_precisions_and_engines_agree_on_every_date_of_the_sample():
    """Invariant 4, date by date: 10 000 pixels of broken cloud are the hardest."""
    from kappamask.sample import SCENES, catalog_path
    from kappamask.scenes.search import search

    for scene in SCENES:
        items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
        for date in kappamask.load_cube(items, scene.bbox).compute():
            check_agreement(date.values, date.band.values.tolist(), scene.level)


FREED = """
import resource
import numpy as np
from kappamask import load_model

def fetch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [np.ones(24 * 2**20, np.uint8) for _ in range(5)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

load_model(level="L2A").start()
print(fetch(), fetch())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("asked", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_what_a_window_frees_is_kept_unless_the_user_says_otherwise(tmp_path, asked):
    """Counted in pages that the system had to give: 120 MB are there the second time."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC")}
    command = [sys.executable, "-c", FREED]
    said = subprocess.run(
        command, env=known | asked, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, again = map(int, said.stdout.split())
    if first == again == 0:
        pytest.skip("this system counts no pages")
    assert first > 50
    assert (again > first / 2) == bool(asked)
