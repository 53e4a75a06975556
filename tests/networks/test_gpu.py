"""The network on a GPU: the labels of the processor. Skips where torch finds none."""

import numpy as np
import pytest
import torch
from support.reflectance import make_scene

from kappamask import load_model, predict_array, predict_batch
from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError
from kappamask.networks import runners
from kappamask.networks.runners import has_bf16

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


@needs_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_labels_of_a_gpu_are_those_of_the_processor(precision):
    scene = make_scene(NAMES, 512, 768)
    on_gpu = load_model(level="L1C", precision=precision, device="cuda")
    assert on_gpu.device == "cuda"
    assert on_gpu.runner.make_slots(1, 32, 32).is_pinned()
    wanted = predict_array(
        scene, NAMES, level="L1C", model=load_model(level="L1C", precision="fp32", device="cpu")
    )
    found = predict_array(scene, NAMES, level="L1C", model=on_gpu)
    assert (found == wanted).mean() >= (0.998 if precision == "bf16" else 0.999)


@needs_gpu
def test_chips_go_to_a_gpu_together():
    chips = np.stack([make_scene(NAMES, 256, 256)] * 8)
    found = predict_batch(chips, NAMES, level="L1C", model=load_model(level="L1C", device="cuda"))
    assert (found == found[0]).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"needs a GPU that torch .* finds, got none"):
        load_model(level="L1C", device="cuda")


def test_a_device_is_one_that_there_is():
    with pytest.raises(InputError, match="device must be one of auto, cpu, cuda, got 'tpu'"):
        load_model(level="L1C", device="tpu")
    with pytest.raises(InputError, match="onnxruntime computes on the processor"):
        load_model(level="L1C", engine="onnx", device="cuda")
    assert load_model(level="L1C", device="cpu").device == "cpu"


def test_a_processor_is_not_taken_for_a_gpu_in_its_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert has_bf16()
    assert not has_bf16("cpu")


@pytest.mark.parametrize(
    ("avx", "amx", "intel", "gains"),
    [(1, 0, 1, False), (1, 0, 0, True), (1, 1, 1, True), (0, 1, 1, True), (0, 0, 0, False)],
)
def test_bf16_is_taken_where_it_is_faster(monkeypatch, avx, amx, intel, gains):
    """AVX-512 BF16 without AMX is slower than fp32 on Intel's processors."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx), raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx), raising=False)
    monkeypatch.setattr(runners, "is_intel", lambda: bool(intel))
    assert has_bf16("cpu") == gains
