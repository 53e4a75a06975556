"""The manifest, the weights' file, the network with its normalisation (invariant 4)."""

import hashlib
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

import kappamask
from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, UnknownNameError, WeightsError
from kappamask.base.windows import plan_windows
from kappamask.networks.manifest import find_entry, read_registry
from kappamask.networks.model import load_model, open_model
from kappamask.networks.normalisation import Normalisation
from kappamask.networks.unet import UNet, unshuffle
from kappamask.networks.weights import read_weights

PACKAGE = Path(kappamask.__file__).parent


def test_every_shipped_model_has_its_hash_its_figures_and_is_small():
    default, models = read_registry()
    assert set(default) == {"L1C", "L2A"}
    total = 0
    ours = [entry for entry in models.values() if entry.shipped]
    for entry in ours:
        content = (PACKAGE / "networks" / "weights" / entry.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256
        assert entry.metrics
        assert entry.licence == "Apache-2.0"
        total += len(content)
    assert total <= 10e6
    shipped = {path.name for path in (PACKAGE / "networks" / "weights").glob("*.safetensors")}
    assert shipped == {entry.file for entry in ours}


def test_a_model_is_loaded_once_per_process_and_pickles_as_its_name():
    model = load_model("default", "L2A", "fp32")
    assert load_model("default", "L2A", "fp32") is model
    packed = pickle.dumps(model)
    assert len(packed) < 500
    assert pickle.loads(packed) is model  # noqa: S301  packed one line above


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown model 'u-net': expected one of default, "):
        load_model("u-net")
    with pytest.raises(InputError, match="precision must be one of auto, bf16, fp32, got 'int8'"):
        load_model(precision="int8")
    with pytest.raises(InputError, match="'L1C' or 'L2A', got 'L2B'"):
        load_model(level="L2B")


def test_a_model_for_another_level_is_refused():
    with pytest.raises(InputError, match="was made for L2A, the input is L1C: choose another"):
        load_model("kappamask-2021-l2a", "L1C")
    with pytest.raises(InputError, match="was made for L2A, the input is L1C: choose another"):
        open_model(replace(find_entry("default", "L2A"), levels=("L2A",)), "L1C")


# --- weights ----------------------------------------------------------------------------------


def digest(content):
    return hashlib.sha256(content).hexdigest()


def test_weights_are_read_back_as_they_were_saved(tmp_path):
    weights = {"w": torch.randn(3, 4), "b": torch.arange(5)}
    content = save(weights)
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    read = read_weights(path, digest(content))
    assert all(torch.equal(read[key], value) for key, value in weights.items())


def test_a_pickle_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    for protocol in (2, 4):
        path = tmp_path / "w.safetensors"
        path.write_bytes(pickle.dumps(Trap(), protocol))
        with pytest.raises(WeightsError, match="is a pickle or a zip, which can run code"):
            read_weights(path, digest(path.read_bytes()))
    assert not (tmp_path / "owned").exists()


def test_a_zip_with_paths_that_climb_out_is_never_unpacked(tmp_path):
    path = tmp_path / "w.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../owned", "x")
    with pytest.raises(WeightsError, match="is a pickle or a zip"):
        read_weights(path, digest(path.read_bytes()))


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_weights_are_refused_by_their_hash(tmp_path, damage):
    content = bytearray(save({"w": torch.randn(30)}))
    expected = digest(bytes(content))
    if damage == "cut":
        content = content[:-10]
    else:
        content[-3] ^= 1
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"the manifest says {expected}"):
        read_weights(path, expected)


def test_a_file_that_is_no_safetensors_says_so(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(WeightsError, match="no valid safetensors file"):
        read_weights(path, digest(path.read_bytes()))


def test_absent_weights_say_so(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot read the weights .*none\.safetensors"):
        read_weights(tmp_path / "none.safetensors", "0" * 64)


# --- network ----------------------------------------------------------------------------------


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


def test_a_cloud_keeps_its_label_however_large_it_is():
    """Complaint 6: OmniCloudMask #9 #22, the middle of a large cloud called clear."""
    bands = ["B02", "B03", "B04", "B08"]
    for size in (300, 900):
        scene = np.full((4, size, size), 0.75, np.float32)
        scene += np.random.default_rng(0).normal(0, 0.02, scene.shape).astype(np.float32)
        labels = kappamask.predict_array(scene, bands, level="L2A")
        assert (labels == kappamask.Label.CLOUD).mean() > 0.99


def test_unshuffle_is_torchs_pixel_unshuffle():
    x = torch.randn(2, 5, 8, 6)
    assert torch.equal(unshuffle(x), torch.nn.functional.pixel_unshuffle(x, 2))


def test_folding_the_batch_normalisation_changes_nothing():
    torch.manual_seed(0)
    network = UNet((8, 12, 16))
    x, flags = torch.randn(2, 13, 32, 48), torch.ones(2, 14)
    network.train()
    network(x, flags)  # moves the running statistics away from 0 and 1
    network.eval()
    with torch.inference_mode():
        before = network(x, flags)
        after = network.fold()(x, flags)
    assert before.shape == (2, 4, 32, 48)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def precisions_agree(reflectance, bands, level):
    """Share of pixels to which bf16 and fp32 give the same label."""
    one, other = (
        kappamask.predict_array(
            reflectance, bands, level=level, model=load_model("default", level, precision)
        )
        for precision in ("bf16", "fp32")
    )
    return (one == other).mean()


@pytest.mark.shared
@pytest.mark.parametrize("date", ["20220602", "20220605", "20220617"])
def test_bf16_and_fp32_agree_on_99_8_percent_of_labels(shared_data, date):
    """Invariant 4, on the dates of Bolzano with most class borders."""
    import rasterio

    layers = []
    for band in ("B02", "B03", "B04", "B08"):
        with rasterio.open(shared_data / f"bolzano/S2_L2A_{date}" / f"{band}.tif") as source:
            layers.append((source.read(1).astype(np.float32) - 1000) / 10000)
    assert precisions_agree(np.stack(layers), ["B02", "B03", "B04", "B08"], "L2A") >= 0.998


def test_bf16_and_fp32_agree_on_99_8_percent_of_every_date_of_the_sample():
    """Invariant 4, date by date: 10 000 pixels of broken cloud are the hardest."""
    from kappamask.sample import SCENES, catalog_path
    from kappamask.scenes.search import search

    for scene in SCENES:
        items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
        cube = kappamask.load_cube(items, scene.bbox).compute()
        for date in cube:
            share = precisions_agree(date.values, cube.band.values.tolist(), scene.level)
            assert share >= 0.998, date.time.values


def test_biases_are_exact_in_bf16_and_the_logits_stay():
    torch.manual_seed(0)
    network = UNet((8, 12, 16)).train()
    x, flags = torch.randn(2, 13, 32, 48), torch.rand(2, 14)
    for _ in range(20):
        network(x, flags)
    for name, values in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(values, std=0.3)
    network = network.fold()
    network.last[0].bias.data[0] = 0
    with torch.inference_mode():
        before = network(x, flags)
        after = network.make_biases_exact()(x, flags)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    units = [module for module in network.modules() if type(module).__name__ == "ConvUnit"]
    for bias in (unit[0].bias for unit in units):
        torch.testing.assert_close(bias, bias.bfloat16().float(), rtol=1e-6, atol=0)
    lowered = network.to_bf16()
    assert {values.dtype for values in lowered.first.parameters()} == {torch.bfloat16}
    assert {values.dtype for values in lowered.head.parameters()} == {torch.float32}
    with torch.inference_mode():
        assert lowered(x.bfloat16(), flags).dtype == torch.float32


def test_band_by_band_normalisation_is_the_whole_one():
    """`fill` normalises one band at a time; the oracle normalises all at once."""
    rng = np.random.default_rng(0)
    scene = rng.random((13, 37, 50), dtype=np.float32)
    scene[2, 3:9] = np.nan
    (window,) = plan_windows(37, 50, origin=(5, 9))
    entry = load_model().entry
    slots = torch.zeros(1, 13, window.rows.size, window.columns.size)
    entry.normalisation.fill(slots, list(scene), NAMES, window)
    pads = [(span.pad_before, span.pad_after) for span in (window.rows, window.columns)]
    padded = np.pad(scene, [(0, 0), *pads], mode="symmetric")
    torch.testing.assert_close(slots, entry.normalisation(torch.from_numpy(padded)[None]))
