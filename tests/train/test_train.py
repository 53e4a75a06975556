"""Training: targets, losses, crops, and a loop that learns, resumes and is reproducible."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.chip_files import few_scenes, make_chip, write_chip_folder

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, UnknownNameError, WeightsError
from kappamask.base.legend import Label
from kappamask.cli import main
from kappamask.networks.manifest import find_entry
from kappamask.networks.normalisation import Normalisation
from kappamask.networks.unet import UNet
from kappamask.networks.weights import weights_of
from kappamask.train import fit as fit_room
from kappamask.train.crops import Crops, cut_swath_edge, drop_bands, turn
from kappamask.train.datasets import keep
from kappamask.train.fit import fit, normalisation_of
from kappamask.train.learner import CLASS_WEIGHTS, loss_of
from kappamask.train.run_files import read_normalisation
from kappamask.train.settings import Config, Settings, Source, read_config
from kappamask.train.simulate import FAINT
from kappamask.train.targets import (
    ANY_CLOUD,
    CLEAR,
    CLOUD,
    ONLY_B10,
    SHADOW,
    THIN,
    one_hot,
    settle,
    target_of,
)
from kappamask.train.validate import Example, collect, validate

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
B02, B10 = NAMES.index("B02"), NAMES.index("B10")
TINY = Settings(widths=(4, 6), steps=4, batch=2, size=32, validate_every=2, workers=0)


# --- targets ---------------------------------------------------------------------------------


def taught_chip(clear, shadow, cloud, *, blue, b10=0, **other):
    """Give a chip of one row whose teacher answered so, pixel by pixel."""
    evidence = np.array([[clear], [shadow], [cloud]], np.float32)
    chip = make_chip(size=1, evidence=evidence, **({"level": "L2A"} | other))
    dn = np.full((13, 1, len(blue)), 1000, np.uint16)
    dn[B02], dn[B10] = np.array([blue]) * 10000, b10
    label = np.full((1, len(blue)), other.get("label", Label.CLEAR), np.uint8)
    return type(chip)(**{**vars(chip), "dn": dn, "label": label})


def test_a_target_sums_to_1_where_anything_is_known_and_else_to_0():
    label = np.array([[0, 1, 2, 3, 4, 5]], np.uint8)
    assert one_hot(label).sum(0).tolist() == [[0, 1, 1, 1, 1, 0]]
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([0.5, 0.5, 0.5], 500).T
    blue = rng.uniform(0, 0.6, 500).round(4) * (rng.random(500) > 0.1)
    scl = rng.integers(0, 12, (1, 500)).astype(np.uint8)
    total = target_of(taught_chip(*shares, blue=blue, scl=scl)).sum(0)
    assert np.all(np.isclose(total, 1, atol=1e-5) | (total == 0))
    assert (total == 0)[0][blue == 0].all()
    assert 0.05 < (total == 0).mean() < 0.6


def test_brightness_says_how_thick_a_sure_cloud_is_and_a_gap_stays_open():
    chip = taught_chip([0.1] * 4, [0.0] * 4, [0.9] * 3 + [0.4], blue=[0.1, 0.3, 0.5, 0.5])
    target = target_of(chip)[:, 0]
    np.testing.assert_allclose(target[:, 0], [0.1, 0, 0.9, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(target[:, 1], [0.1, 0, 0, 0, 0.9, 0], atol=1e-6)
    np.testing.assert_allclose(target[:, 2], [0.1, 0, 0, 0.9, 0, 0], atol=1e-6)
    np.testing.assert_allclose(target[:, 3], [0.1, 0, 0, 0, 0.4, 0], atol=1e-6)  # not sure


def test_where_the_teacher_is_contradicted_nothing_is_known():
    bright = {"clear": [0.9] * 3, "shadow": [0.1] * 3, "cloud": [0.0] * 3, "blue": [0.4, 0.4, 0.1]}
    scl = np.array([[9, 4, 9]], np.uint8)
    assert target_of(taught_chip(**bright, scl=scl)).sum(0)[0].tolist() == pytest.approx([0, 1, 1])
    dark = {"clear": [0.5] * 2, "shadow": [0.5] * 2, "cloud": [0.0] * 2, "blue": [0.05] * 2}
    assert target_of(taught_chip(**dark, resolution=60.0)).sum() == 0
    assert target_of(taught_chip(**dark, resolution=60.0, label=Label.CLOUD_SHADOW)).sum() > 1.9
    assert target_of(taught_chip(**dark)).sum() > 1.9


# Reflectance of B10 x 10000 and what may be said of a pixel that others call clear, and cloud.
B10_SAYS = {20: CLEAR, 79: CLEAR, 100: None, 200: ONLY_B10, 400: THIN, 900: ANY_CLOUD}


@pytest.mark.parametrize("kind", ["net", "clear"])
def test_b10_tells_cirrus_step_by_step_and_leaves_cloud_and_peoples_labels_alone(kind):
    b10, n = list(B10_SAYS), len(B10_SAYS)
    told = {"clear": [1.0] * n, "shadow": [0.0] * n, "cloud": [0.0] * n, "blue": [0.1] * n}
    chip = taught_chip(**told, b10=[b10], level="L1C", kind=kind)
    expected = np.zeros((6, n))
    for place, share in enumerate(B10_SAYS.values()):
        if share is not None:
            expected[share, place] = 1
    np.testing.assert_array_equal(target_of(chip)[:, 0], expected)
    cloud = taught_chip(**told | {"clear": [0.0] * n, "cloud": [1.0] * n, "blue": [0.5] * n},
                        b10=[b10], level="L1C")  # fmt: skip
    assert (target_of(cloud)[CLOUD] == 1).all()
    drawn = taught_chip(**told, b10=[b10], level="L1C", kind="human")
    assert (target_of(replace(drawn, evidence=None))[CLEAR] == 1).all()


def test_cirrus_that_only_b10_shows_is_thin_with_b10_and_rather_clear_without():
    target = one_hot(np.array([[FAINT, Label.CLEAR, Label.SEMI_TRANSPARENT]], np.uint8))
    with_b10, without = (settle(target, with_b10=there)[:, 0].T.tolist() for there in (True, False))
    thin, clear = np.eye(5)[THIN].tolist(), np.eye(5)[CLEAR].tolist()
    assert with_b10 == [thin, clear, thin]
    assert without == [[share / 2 for share in clear], clear, thin]


def test_overcast_is_cloud_as_thick_as_it_is_bright():
    chip = make_chip(kind="overcast", level="L2A", size=4, label=Label.UNDEFINED)
    for blue, share in ((1000, THIN), (2500, ANY_CLOUD), (6000, CLOUD)):
        chip.dn[B02] = blue
        assert (target_of(chip)[share] == 1).all()


def test_a_veil_may_hang_where_clear_is_not_believed():
    seen = {"clear": [0.9] * 2, "shadow": [0.1] * 2, "cloud": [0.0] * 2, "level": "L1C"}
    veil = taught_chip(**seen, blue=[0.12, 0.15], label=Label.UNDEFINED)
    assert target_of(veil).sum(0)[0].tolist() == pytest.approx([1, 0])
    sure = taught_chip(**seen, blue=[0.12, 0.15], label=Label.CLEAR)
    assert target_of(sure).sum(0)[0].tolist() == pytest.approx([1, 1])


# --- losses ----------------------------------------------------------------------------------


def brute_force_loss(logits, target):
    """Compute the loss pixel by pixel, from its definition, in double precision."""
    entropy = weight = 0.0
    overlap, total = [0.0] * 5, [0.0] * 5
    n, _, height, width = logits.shape
    for i, y, x in np.ndindex(n, height, width):
        share = np.exp(logits[i, :, y, x] - logits[i, :, y, x].max())
        share = [*(share / share.sum()), 0.0]
        share[ANY_CLOUD] = share[THIN] + share[CLOUD]
        wanted = target[i, :, y, x]
        for part in range(5):
            entropy -= CLASS_WEIGHTS[part] * wanted[part] * math.log(share[part])
            weight += CLASS_WEIGHTS[part] * wanted[part]
        if sum(wanted) <= 0.5:
            continue
        truth = [*wanted[:ANY_CLOUD], wanted[THIN] + wanted[CLOUD] + wanted[ANY_CLOUD]]
        for part in range(5):
            if part in (THIN, CLOUD) and wanted[ANY_CLOUD] >= 0.05:
                continue  # nobody knows how thick it is
            overlap[part] += 2 * share[part] * truth[part]
            total[part] += share[part] + truth[part]
    dice = np.mean([(o + 1) / (t + 1) for o, t in zip(overlap, total, strict=True)])
    return entropy / max(weight, 1) + 1 - dice


def test_the_loss_is_what_its_definition_says_pixel_by_pixel():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 4, 5, 6)).astype(np.float32)
    target = rng.dirichlet([0.3] * 5, (2, 5, 6)).astype(np.float32).transpose(0, 3, 1, 2)
    target[:, :, 0] = 0  # nothing known
    target[:, :, 1] *= 0.3  # hardly anything
    target[:, :, 2] = np.eye(5)[[0, 1, 2, 3, 4, 4]].T  # certain
    loss = float(loss_of(torch.from_numpy(logits), torch.from_numpy(target)))
    assert loss == pytest.approx(brute_force_loss(logits, target), rel=1e-5)


def test_cloud_of_unknown_thickness_asks_for_cloud_and_not_for_a_thickness():
    target = torch.zeros(1, 5, 4, 4)
    target[:, ANY_CLOUD] = 1
    logits = torch.zeros(1, 4, 4, 4, requires_grad=True)
    loss_of(logits, target).backward()
    slope = logits.grad.sum((0, 2, 3))
    assert slope[CLEAR] > 0
    assert slope[SHADOW] > 0
    torch.testing.assert_close(slope[THIN], slope[CLOUD])
    thin, thick = torch.zeros(2, 1, 4, 4, 4)
    thin[:, THIN], thick[:, CLOUD] = 5, 5
    torch.testing.assert_close(loss_of(thin, target), loss_of(thick, target))


def test_pixels_of_which_nothing_is_known_do_not_count():
    logits = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(one_hot(np.full((8, 8), Label.CLEAR, np.uint8)))[None, :5]
    target[:, :, :4] = 0
    changed = logits.clone()
    changed[:, :, :4] += torch.tensor([5.0, -5, 3, -3])[:, None, None]
    torch.testing.assert_close(loss_of(changed, target), loss_of(logits, target))
    perfect = torch.zeros(1, 4, 8, 8)
    perfect[:, CLEAR] = 30
    assert loss_of(perfect, target) < loss_of(-perfect, target)


# --- crops -----------------------------------------------------------------------------------


def test_crops_have_their_shapes_and_flags_and_simulate_rare_classes():
    groups = {"g": [make_chip(str(seed), seed=seed) for seed in range(3)]}
    stream = iter(Crops(groups, size=96, seed=1))
    seen = torch.zeros(5)
    for _ in range(25):
        x, flags, target = next(stream)
        assert x.shape == (13, 96, 96)
        assert target.shape == (5, 96, 96)
        assert flags.tolist() == [*x.isfinite().flatten(1).any(1).float().tolist(), 1.0]
        total = target.sum(0)
        steps = torch.tensor([0, 0.5, 1])  # half is said of cirrus whose B10 was taken away
        assert ((total[..., None] - steps).abs().amin(-1) < 1e-3).all()
        seen += target.flatten(1).sum(1)
    assert (seen[:4] > 0).all()
    assert seen[ANY_CLOUD] == 0  # what is simulated is known


def test_the_same_seed_gives_the_same_crops_and_another_others():
    groups = {"g": [make_chip(level="L2A")]}
    streams = [iter(Crops(groups, size=32, seed=seed)) for seed in (1, 1, 2)]
    first, second, third = ([next(stream) for _ in range(4)] for stream in streams)
    for one, two in zip(first, second, strict=True):
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
    assert not torch.equal(first[0][0].nan_to_num(-1), third[0][0].nan_to_num(-1))


def test_chips_mapped_from_disk_give_the_same_crops(tmp_path):
    chips = [make_chip(str(seed), seed=seed) for seed in range(2)]
    drawn = []
    for found in (chips, keep(chips, tmp_path, name="all")):
        stream = iter(Crops({"g": found}, size=96, seed=3))
        drawn.append([next(stream) for _ in range(3)])
    for one, two in zip(*drawn, strict=True):
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


def test_weights_change_how_often_a_group_is_drawn():
    groups = {"a": [make_chip()], "b": [make_chip()]}
    assert Crops(groups, size=32, seed=0).share.tolist() == [0.5, 0.5]
    weighed = Crops(groups, size=32, seed=0, weights={"a": 1.0, "b": 3.0})
    np.testing.assert_allclose(weighed.share, [0.25, 0.75])


def test_dropping_bands_keeps_what_a_mask_needs():
    rng = np.random.default_rng(0)
    x = torch.rand(13, 4, 4)
    kept = [drop_bands(x, rng).isfinite().flatten(1).all(1) for _ in range(200)]
    assert all(k[[1, 2, 3]].all() and (k[7] or k[8]) for k in kept)
    assert min(int(k.sum()) for k in kept) == 4
    assert max(int(k.sum()) for k in kept) == 13


def test_a_swath_edge_blanks_image_and_target_alike():
    x, target = torch.rand(13, 32, 32), torch.ones(5, 32, 32)
    cut_x, cut_target = cut_swath_edge(x, target, np.random.default_rng(1))
    gone = cut_x[0].isnan()
    assert 0 < gone.sum() < gone.numel()
    assert torch.equal(gone, cut_target[0] == 0)


def test_turning_moves_pixels_and_loses_none():
    array = np.arange(2 * 4 * 4).reshape(2, 4, 4)
    turned = {
        turn(array, turns, mirror).tobytes() for turns in range(4) for mirror in (False, True)
    }
    assert len(turned) == 8
    assert (np.sort(turn(array, 3, mirror=True)[1], axis=None) == np.arange(16, 32)).all()


# --- the loop --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_validation():
    with few_scenes():
        yield


@pytest.fixture
def config(tmp_path):
    return Config((Source("chips", write_chip_folder(tmp_path / "chips")),), TINY)


def read_log(out):
    with (out / "log.csv").open(newline="") as log:
        return list(csv.DictReader(log))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses(config, tmp_path):
    lines = []
    for run in ("one", "two"):
        scores = fit(config, tmp_path / run, tell=lines.append)
    other = Config(config.data, Settings(**{**vars(TINY), "seed": 2}))
    fit(other, tmp_path / "three")
    one, two, three = (read_log(tmp_path / run) for run in ("one", "two", "three"))
    assert [row["step"] for row in one] == ["2", "4"]
    timeless = [[{**row, "seconds": ""} for row in log] for log in (one, two)]
    assert timeless[0] == timeless[1]
    assert [row["loss"] for row in one] != [row["loss"] for row in three]
    assert float(one[1]["mean"]) == pytest.approx(scores["mean"], abs=1e-4)
    assert len(lines) == 4
    UNet(TINY.widths).load_state_dict(load_file(tmp_path / "one" / "best.safetensors"))
    entry = (tmp_path / "one" / "best.toml").read_text()
    assert "widths = [4, 6]" in entry
    assert "val_mean" in entry


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_so_does_its_log(config, tmp_path, monkeypatch):
    out = tmp_path / "run"
    save = fit_room.save_state

    def interrupt(folder, state, settings):
        if state["step"] == 4:  # after the line of step 4 was logged
            raise KeyboardInterrupt
        save(folder, state, settings)

    with monkeypatch.context() as patch:
        patch.setattr(fit_room, "save_state", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(config, out)
    assert [row["step"] for row in read_log(out)] == ["2", "4"]
    before = read_log(out)[0]
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 2
    steps, lines = [], []
    fit(config, out, progress=lambda *seen: steps.append(seen[1:]), tell=lines.append)
    assert steps == [(3, 4), (4, 4)]
    assert lines[0] == "going on from step 2 of 4"
    rows = read_log(out)
    assert [row["step"] for row in rows] == ["2", "4"]
    assert rows[0] == before
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 4
    assert fit(config, out) == {}  # complete
    assert len(read_log(out)) == 2
    assert not list(out.glob(".kappamask-*"))


def test_a_resumed_run_has_the_state_that_it_was_left_in(config, tmp_path):
    half = Config(config.data, Settings(**{**vars(TINY), "validate_every": 1}))
    fit(half, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    learner = fit_room.Learner(TINY)
    learner.restore(state)
    again = learner.state()
    for name, tensor in again["average"].items():
        assert torch.equal(tensor, state["average"][name]), name
    assert again["schedule"]["last_epoch"] == 4
    groups = [held["optimizer"]["param_groups"] for held in (again, state)]
    assert groups[0] == groups[1]
    for number, moments in state["optimizer"]["state"].items():
        assert torch.equal(again["optimizer"]["state"][number]["exp_avg"], moments["exp_avg"])


def test_a_run_may_be_made_longer_before_its_cool_down(config, tmp_path):
    out = tmp_path / "run"
    fit(config, out)
    longer = Config(config.data, Settings(**{**vars(TINY), "steps": 8}))
    fit(longer, out)
    assert [row["step"] for row in read_log(out)] == ["2", "4", "6", "8"]
    learner = fit_room.Learner(longer.settings)
    learner.restore(torch.load(out / "last.pt", weights_only=True))
    assert learner.schedule.get_last_lr() == [0.0]


def test_the_average_forgets_where_a_run_began():
    settings = Settings(**{**vars(TINY), "ema": 0.999})
    learner = fit_room.Learner(settings)
    learner.average.update_parameters(learner.network)  # the first takes them as they are
    before = {key: value.clone() for key, value in learner.average.module.state_dict().items()}
    with torch.no_grad():
        for weights in learner.network.parameters():
            weights.add_(1.0)
    for _ in range(100):
        learner.average.update_parameters(learner.network)
    after = learner.average.module.state_dict()
    moved = after["head.weight"] - before["head.weight"]
    assert float(moved.min()) > 0.99  # a plain average would have moved by a tenth


def test_other_settings_and_a_pickle_are_refused(config, tmp_path):
    out = tmp_path / "run"
    fit(config, out)
    other = Config(config.data, Settings(**{**vars(TINY), "batch": 3}))
    with pytest.raises(InputError, match="batch = 2 instead of 3"):
        fit(other, out)
    torch.save({"step": Path_like()}, out / "last.pt")
    with pytest.raises(WeightsError, match=r"last\.pt"):
        fit(config, out)


class Path_like:  # noqa: N801
    """Anything but tensors, numbers and words."""


def test_a_run_starts_from_weights_and_refuses_those_of_another_network(config, tmp_path):
    given = {
        key: torch.full_like(value, 0.5) for key, value in UNet(TINY.widths).state_dict().items()
    }
    save_file(given, tmp_path / "start.safetensors")
    learner = fit_room.Learner(TINY, start_from=tmp_path / "start.safetensors")
    assert all(
        torch.equal(value.cpu(), given[key]) for key, value in learner.network.state_dict().items()
    )
    save_file(UNet((4, 8)).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="same widths"):
        fit(config, tmp_path / "run", start_from=tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(WeightsError, match=r"text\.safetensors"):
        fit(config, tmp_path / "run", start_from=tmp_path / "text.safetensors")


def test_shipped_weights_are_gone_on_with_as_they_were_fed():
    entry = find_entry("default", "L2A")
    assert read_normalisation(weights_of(entry).path) == entry.normalisation


def test_normalisation_is_of_the_square_root_and_knows_no_absent_band():
    chip = make_chip(bands=("B02",))
    chip.dn[B02] = 0
    chip.dn[B02, ::4, ::4] = 400
    chip.dn[B02, ::8, ::8] = 1600
    result = normalisation_of({"g": [chip]})
    assert result.mean[B02] == pytest.approx(0.75 * 0.2 + 0.25 * 0.4, abs=1e-4)
    assert result.std[0] == 0.02
    assert np.isfinite(result.mean).all()


def test_validation_counts_as_by_hand():
    class Says(torch.nn.Module):
        def forward(self, x, _flags):
            logits = torch.zeros(len(x), 4, *x.shape[2:])
            logits[:, CLOUD] = x[:, B02]  # bright is cloud, dark is clear
            return logits

    x = torch.full((13, 32, 32), 0.01)
    x[B02, :, :16] = 1.0
    target = torch.zeros(5, 32, 32)
    target[CLEAR, :, 8:24], target[ANY_CLOUD, :, :8] = 1, 1  # the right quarter is unknown
    example = Example(x, torch.ones(14), target, "programs")
    normalise = Normalisation((0.5,) * 13, (1.0,) * 13)
    scores = validate(Says(), normalise, [example])
    assert scores["programs_clear"] == pytest.approx(2 * 8 / (16 + 8))
    assert scores["programs_any_cloud"] == pytest.approx(2 * 8 / (8 + 16))
    assert scores["mean"] == pytest.approx(np.mean([2 / 3, 2 / 3]))  # nobody drew a shadow
    exact = torch.zeros(5, 32, 32)
    exact[CLEAR, :, 16:], exact[THIN, :, :16] = 1, 1
    scores = validate(Says(), normalise, [Example(x, torch.ones(14), exact, "simulated")])
    assert scores["simulated_clear"] == 1
    assert scores["simulated_semi_transparent_cloud"] == 0
    kinds = [example, Example(x, torch.ones(14), exact, "people")]
    kinds.append(
        Example(x, torch.ones(14), torch.eye(5)[CLEAR][:, None, None] + 0 * target, "ground")
    )
    scores = validate(Says(), normalise, kinds)
    assert scores["ground_clear"] == 0.5  # half of it was called cloud
    people = np.mean([1, 0, 1])  # clear, semi-transparent called cloud, cloud of any thickness
    assert scores["mean"] == pytest.approx((2 * people + np.mean([2 / 3, 2 / 3]) + 0.5) / 4)


def test_examples_are_the_same_each_time_and_leave_the_random_stream_alone():
    chips = [make_chip(size=64)]
    torch.manual_seed(5)
    first = collect(chips)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    again = collect(chips)
    kinds = ["ground", *["ground_few"] * 2, *["simulated"] * 3]
    assert [example.kind for example in first] == kinds
    assert all(torch.equal(a.target, b.target) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("infrared", ["B08", "B8A"])
def test_few_bands_are_those_of_users_with_the_near_infrared_that_there_is(infrared):
    chip = make_chip(size=64, bands=["B02", "B03", "B04", infrared, "B10", "B11", "B12"])
    few = [example for example in collect([chip]) if example.kind == "ground_few"]
    kept = [[name for name, there in zip(NAMES, one.flags, strict=False) if there] for one in few]
    visible = ["B02", "B03", "B04", infrared]
    assert sorted(kept, key=len) == [visible, [*visible, "B11", "B12"]]
    for one in few:
        seen = one.x.isfinite().flatten(1).all(1)
        assert seen.tolist() == one.flags[:-1].bool().tolist()
        assert one.flags[-1] == 1  # of the level


# --- configuration and command line ----------------------------------------------------------


def write_config(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


DATA = '[[data]]\nformat = "chips"\nfolder = "chips"\n'


def test_a_configuration_is_read_as_it_stands(tmp_path):
    text = (
        "[settings]\nwidths = [8, 8]\nlearning_rate = 1\n[teacher]\nanswers = 'told'\n"
        "[simulation]\noutlines = 'drawn'\n"
        f"{DATA}weight = 2\nlimit = 5\ncache = 'kept'\nlevel = 'L2A'\n"
    )
    config = read_config(write_config(tmp_path, text))
    assert config.settings == Settings(widths=(8, 8), learning_rate=1)
    assert (str(config.teacher), str(config.outlines)) == ("told", "drawn")
    (source,) = config.data
    assert (str(source.folder), source.weight, source.limit, str(source.cache)) == (
        "chips", 2, 5, "kept",
    )  # fmt: skip
    assert source.options == {"level": "L2A"}


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("steps = ", InputError, "TOML"),
        ("[settings]\nsteps = 5", InputError, "without"),
        ("[data]\nformat = 'chips'", InputError, "without"),
        ("[[data]]\nformat = 'chips'", InputError, "folder"),
        (DATA + "[settings]\nstep = 5", UnknownNameError, "validate_every"),
        (DATA + "[network]\nwidths = 5", UnknownNameError, "settings"),
        (DATA + "[settings]\nsteps = 'many'", InputError, "many"),
        (DATA + "[settings]\nsize = 100", InputError, "32"),
        (DATA + "[settings]\nbatch = 0", InputError, "batch"),
        (DATA + "[settings]\nema = 1.5", InputError, "ema"),
        (DATA + "weight = 0", InputError, "weight"),
        (DATA + "[teacher]\n", InputError, "answers"),
        (DATA + "[simulation]\n", InputError, "outlines"),
        (DATA + "[simulation]\nmasks = 'here'", UnknownNameError, "outlines"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(tmp_path, text, error, words):
    with pytest.raises(error, match=words):
        read_config(write_config(tmp_path, text))


def test_the_shipped_configuration_is_that_of_the_shipped_network(request):
    path = request.config.rootpath / "scripts" / "train.toml"
    config = read_config(path)
    wanted = {"steps": 9000, "batch": 6, "size": 256, "learning_rate": 2e-3, "warm_up": 300}
    wanted |= {"weight_decay": 0.01, "ema": 0.998, "seed": 2026}
    assert {key: getattr(config.settings, key) for key in wanted} == wanted
    assert config.teacher is not None
    assert [str(source.folder) for source in config.data] == ["../shared/data"]


def test_the_configuration_for_the_whole_earth_fits_in_10_mb_and_names_what_it_needs(request):
    root = request.config.rootpath
    config = read_config(root / "scripts" / "earth.toml")
    assert config.outlines is not None
    assert config.teacher is not None
    tables = [source.options.get("table") for source in config.data]
    assert [table is None or (root / table).is_file() for table in tables] == [True, True]
    numbers = sum(tensor.numel() for tensor in UNet(config.settings.widths).state_dict().values())
    assert 4 * numbers < 10e6


def test_kappamask_train_trains_and_says_where_the_weights_are(tmp_path, capsys, monkeypatch):
    write_chip_folder(tmp_path / "chips")
    monkeypatch.chdir(tmp_path)
    settings = "[settings]\nwidths = [4, 6]\nsteps = 2\nbatch = 2\nsize = 32\nworkers = 0\n"
    path = write_config(tmp_path, settings + DATA)
    assert main(["train", str(path)]) == 0
    said = capsys.readouterr().out
    assert "step 2" in said
    assert (tmp_path / "runs" / "own" / "best.safetensors").is_file()
    assert str(tmp_path / "runs" / "own" / "best.safetensors") in said
    assert main(["train", str(tmp_path / "absent.toml")]) == 2
    assert "absent.toml" in capsys.readouterr().err


def test_an_interruption_is_said_with_its_remedy(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_room, "fit", interrupt)
    assert main(["train", str(write_config(tmp_path, DATA)), "--out", str(tmp_path)]) == 130
    assert "repeat the command" in capsys.readouterr().err


def test_every_setting_and_format_stands_in_the_documentation(request):
    from dataclasses import fields

    from kappamask.train.datasets import FORMATS

    text = (request.config.rootpath / "docs" / "training.md").read_text("utf-8")
    for setting in fields(Settings):
        shown = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        assert f"| `{setting.name}` | {shown} |" in text, setting.name
    for field in fields(Source):
        assert field.name == "options" or f"| `{field.name}` |" in text, field.name
    for name, kind in FORMATS.items():
        assert f'`"{name}"`' in text
        for option in fields(kind):
            assert f"`{option.name}`" in text
