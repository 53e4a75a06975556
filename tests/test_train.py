"""Training: simulated clouds obey their physics and labels, and the loop learns and resumes."""

import csv

import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import load_file

from kappamask.bands import NAMES
from kappamask.legend import Label
from kappamask.networks.unet import UNet
from kappamask.train import chips as chips_room
from kappamask.train import fit as fit_room
from kappamask.train.chips import Chip, Crops, distrust, drop_bands, read_chips
from kappamask.train.fit import IGNORED, Settings, fit, loss_of, to_target
from kappamask.train.simulate import (
    CloudField,
    coarsen,
    fractal_noise,
    label_field,
    render,
    simulate,
    to_top_of_atmosphere,
)

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
B02, B04, B08, B10, B11 = (NAMES.index(name) for name in ("B02", "B04", "B08", "B10", "B11"))


def make_field(albedo=0.0, shadow=0.0, size=8, **other):
    settings = {"angstrom": 0.0, "swir": (0.8, 0.6), "cirrus": 0.5} | other
    full = torch.full((size, size), 1.0)
    return CloudField(albedo=albedo * full, shadow=shadow * full, **settings)


GROUND = torch.full((13, 8, 8), 0.1)


def test_without_a_cloud_nothing_changes():
    seen = render(GROUND, make_field(), np.random.default_rng(0), level="L1C")
    torch.testing.assert_close(seen, GROUND)


def test_a_cloud_brightens_and_a_shadow_darkens_every_band():
    rng = np.random.default_rng(0)
    cloud = render(GROUND, make_field(albedo=0.5), rng, level="L1C")
    assert (cloud > GROUND).all()
    shadow = render(GROUND, make_field(shadow=0.5), rng, level="L2A") / 1.25  # its highest gain
    assert (shadow[[B02, B04, B08, B11]] < GROUND[0]).all()
    assert (shadow[B08] < shadow[B02]).all()  # skylight is blue


def test_haze_is_brighter_in_blue_and_cirrus_shows_in_b10_at_l1c():
    rng = np.random.default_rng(0)
    haze = render(GROUND, make_field(albedo=0.1, angstrom=1.2), rng, level="L1C")
    assert (haze[B02] > haze[B08]).all()
    assert (haze[B08] > haze[B11]).all()
    low, high = (
        render(GROUND, make_field(albedo=0.1, cirrus=c), np.random.default_rng(1), level="L1C")
        for c in (0.0, 1.0)
    )
    assert (high[B10] - low[B10] > 0.02).all()


def test_labels_follow_thickness_and_doubt_stands_between():
    albedo = torch.tensor([[0.0, 0.08, 0.15, 0.3, 0.6, 0.0, 0.0]])
    shadow = torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.5, 0.12, 0.5]])
    label = label_field(CloudField(albedo, shadow, 0.0, (1.0, 1.0), 0.0))
    assert label.tolist() == [[
        Label.CLEAR, Label.UNDEFINED, Label.SEMI_TRANSPARENT, Label.UNDEFINED, Label.CLOUD,
        Label.UNDEFINED, Label.CLOUD_SHADOW,
    ]]  # fmt: skip


def test_coarse_bands_are_constant_over_their_own_pixels():
    scene = coarsen(torch.rand(13, 36, 36), 10)
    for index, size in ((B11, 2), (0, 6)):
        blocks = scene[index].reshape(36 // size, size, 36 // size, size)
        assert (blocks == blocks[:, :1, :, :1]).all()
    assert len(scene[B02].unique()) > 1000


def test_absent_bands_stay_absent_and_l1c_gets_its_cirrus_band():
    rng = np.random.default_rng(0)
    surface = torch.full((13, 64, 64), torch.nan)
    surface[[1, 2, 3, 7]] = 0.1
    toa = to_top_of_atmosphere(surface, rng)
    scene, label = simulate(toa, rng, level="L1C", resolution=10)
    assert scene.isfinite().flatten(1).any(1).nonzero().flatten().tolist() == [1, 2, 3, 7, B10]
    assert label.shape == (64, 64)
    assert toa[1].mean() > 0.13  # blue sky light


def test_noise_has_unit_variance_and_its_own_scale():
    rng = np.random.default_rng(0)
    fine, coarse = (fractal_noise(128, rng, slope=2.2, outer=outer) for outer in (4, 100))
    assert abs(float(fine.std()) - 1) < 0.01

    def roughness(noise):
        return float((noise[1:] - noise[:-1]).std())

    assert roughness(fine) > 2 * roughness(coarse)


def make_chip(name="a", kind="clear", size=64, bands=NAMES, label=Label.CLEAR, seed=0):
    rng = np.random.default_rng(seed)
    dn = np.zeros((13, size, size), np.uint16)
    for band in bands:
        dn[NAMES.index(band)] = rng.integers(300, 1500, (size, size))
    return Chip(name, dn, np.full((size, size), label, np.uint8), "L1C", 10.0, kind)


def test_a_single_networks_shadows_and_faint_clouds_are_not_believed():
    chip = make_chip(kind="net", label=Label.CLOUD_SHADOW)
    chip.label[:32] = Label.CLOUD
    chip.dn[B02, :16] = 5000
    label = distrust(chip).label
    assert (label[:16] == Label.CLOUD).all()
    assert (label[16:32] == Label.SEMI_TRANSPARENT).all()
    assert (label[32:] == Label.UNDEFINED).all()


def test_dropping_bands_keeps_what_a_mask_needs():
    rng = np.random.default_rng(0)
    x = torch.rand(13, 4, 4)
    kept = [drop_bands(x, rng).isfinite().flatten(1).all(1) for _ in range(200)]
    assert all(k[[1, 2, 3]].all() and (k[7] or k[8]) for k in kept)
    assert min(int(k.sum()) for k in kept) == 4
    assert max(int(k.sum()) for k in kept) == 13


def test_crops_quilt_small_chips_and_simulate_rare_classes():
    groups = {"g": [make_chip(str(seed), seed=seed) for seed in range(3)]}
    stream = iter(Crops(groups, size=100, seed=1))
    seen = set()
    for _ in range(40):
        x, flags, label = next(stream)
        assert x.shape == (13, 100, 100)
        assert flags.shape == (14,)
        assert flags[13] == 1
        seen |= set(label.unique().tolist())
    assert {1, 2, 3, 4} <= seen


def test_undefined_pixels_do_not_count_in_the_loss():
    logits = torch.randn(1, 4, 8, 8)
    label = torch.full((1, 8, 8), int(Label.CLEAR))
    label[:, :4] = Label.UNDEFINED
    target = to_target(label)
    assert (target[:, :4] == IGNORED).all()
    changed = logits.clone()
    changed[:, :, :4] += 5
    torch.testing.assert_close(loss_of(changed, target), loss_of(logits, target))
    perfect = torch.zeros(1, 4, 8, 8)
    perfect[:, 0] = 30
    assert loss_of(perfect, target) < loss_of(-perfect, target)


@pytest.fixture
def folder(tmp_path):
    """Four tiny chips laid out as in ../shared/data."""
    with (tmp_path / "chips.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "split", "label_kind", "level", "resolution_m"])
        for number, split in enumerate(["train", "train", "val", "train"]):
            chip = make_chip(f"c{number}", seed=number)
            kind = "none" if number == 3 else "clear"
            writer.writerow([f"{chip.name}.tif", split, kind, "L1C", 10])
            options = {"driver": "GTiff", "height": 64, "width": 64}
            path = tmp_path / f"{chip.name}.tif"
            with rasterio.open(path, "w", count=13, dtype="uint16", **options) as target:
                target.write(chip.dn)
                for index, name in enumerate(NAMES, start=1):
                    target.set_band_description(index, name)
            path = path.with_name(f"{chip.name}_label.tif")
            with rasterio.open(path, "w", count=1, dtype="uint8", **options) as target:
                target.write(chip.label, 1)
    return tmp_path


TINY = Settings(widths=(8, 12), steps=4, batch=2, size=64, validate_every=2, workers=0)


def test_chips_are_read_by_band_name_and_unlabelled_ones_left_out(folder):
    train = read_chips(folder, "train")
    assert [chip.name for chip in train] == ["c0", "c1"]
    np.testing.assert_array_equal(train[1].dn, make_chip(seed=1).dn)
    assert train[0].bands == NAMES
    assert set(chips_room.read_training(folder)) == {"L1C-clear-10m-13-64"}


def test_the_loop_trains_exports_and_is_reproducible(folder, tmp_path):
    fit(folder, tmp_path / "one", TINY)
    fit(folder, tmp_path / "two", TINY)
    logs = [(tmp_path / run / "log.csv").read_text().splitlines() for run in ("one", "two")]
    assert len(logs[0]) == 3
    losses = [[row.split(",")[2] for row in log] for log in logs]
    assert losses[0] == losses[1]
    weights = load_file(tmp_path / "one" / "best.safetensors")
    UNet(TINY.widths).load_state_dict(weights)
    assert "val_clear" in (tmp_path / "one" / "best.toml").read_text()


def test_an_interrupted_run_resumes_where_it_was_saved(folder, tmp_path, monkeypatch):
    out = tmp_path / "run"
    steps = []

    def interrupt(path, step, *rest):
        if step == 4 and 4 not in steps:
            steps.append(step)
            raise KeyboardInterrupt
        steps.append(step)
        record(path, step, *rest)

    record = fit_room.record
    monkeypatch.setattr(fit_room, "record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(folder, out, TINY)
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 2
    fit(folder, out, TINY)
    assert steps == [2, 4, 4]
    assert [row.split(",")[0] for row in (out / "log.csv").read_text().splitlines()] == [
        "step", "2", "4",
    ]  # fmt: skip
