"""Evaluation: sets, scores of masks on them, and the report, on tiny chips."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.labelled_chips import TEN, make_chip, write, write_chip, write_chips

from kappamask.base.errors import InputError, ItemError, UnknownNameError
from kappamask.base.legend import PREDICTED, Label
from kappamask.cli import main
from kappamask.evaluate import Options, evaluate, run, write_report
from kappamask.evaluate.metrics import METRICS
from kappamask.evaluate.peers import NO_THIN, Answer
from kappamask.evaluate.programs import NetworkPeer
from kappamask.evaluate.scenes import (
    GERMANY_CLEAR,
    SIZE,
    bright_set,
    cloud_over,
    cut,
    find_surfaces,
    mirror,
    people_sets,
    read_date,
    read_germany,
    val_set,
)
from kappamask.evaluate.scores import ARGMAX, HALF, MACRO, MICRO, Answers, score_all
from kappamask.evaluate.scoring import CLOUD, FOUR, THREE, Dataset
from kappamask.evaluate.tables import Lookup, comparison
from kappamask.networks.manifest import find_entry

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
RULE_BASED = ("scl", "fmask", "maja")


class Threshold:
    """A mask that calls bright pixels cloud, by its own idea of bright; knows no thin cloud."""

    says = NO_THIN
    title = "bright is cloud"

    def __init__(self, name, *, refuses=(), breaks=()):
        self.name, self.refuses, self.breaks = name, refuses, breaks
        self.asked = []

    def label(self, chip):
        if chip.name in self.refuses:
            raise ItemError("does not like it")
        self.asked.append(chip.name)
        if chip.name in self.breaks:
            raise ItemError("broken on the way")
        red = chip.dn[3]
        codes = np.select([red > 2000, red < 300], [4, 2], 1).astype(np.uint8)
        codes[:, :8] = Label.UNDEFINED  # undecided
        shares = np.stack([codes == code for code in PREDICTED]) * np.float32(0.9)
        return Answer(codes, shares)


def make_set(**others):
    chips = tuple(make_chip(f"c{n}", bands=TEN, codes=codes)
                  for n, codes in enumerate([(1, 2, 3, 4), (4, 0, 1), (1, 4)]))  # fmt: skip
    settings = {"name": "val", "title": "Val", "labels": "drawn", "scorings": (FOUR, THREE, CLOUD)}
    return Dataset(chips=chips, **settings | others)


def test_scores_are_those_of_pooled_pixels():
    dataset = make_set()
    results = score_all([Threshold("net")], [dataset], draws=50, seed=1)
    drawn = np.stack([chip.label for chip in dataset.chips])
    said = np.stack([Threshold("net").label(chip).codes for chip in dataset.chips])
    said[drawn == 0] = 0  # nobody knows
    cloud, called = np.isin(drawn, [3, 4]), np.isin(said, [3, 4])
    expected = 2 * (cloud & called).sum() / (cloud.sum() + called.sum())
    found = Lookup(results.scores)
    for rule in (ARGMAX, HALF):
        score = found.get("val", "three", "net", "cloud", rule=rule)
        assert score.value == pytest.approx(expected, abs=1e-6)
        assert score.low <= score.value <= score.high
        assert (score.n_pixels, score.n_chips) == ((drawn > 0).sum(), 3)
        assert found.get("val", "cloud", "net", "cloud", rule=rule).value == score.value
    clear = found.get("val", "three", "net", "clear", metric="recall")
    assert clear.value == pytest.approx(56 / 64, abs=1e-6)  # undecided pixels are misses
    [matrix] = [one for one in results.confusions if one.scoring == "three"]
    assert np.sum(matrix.pixels) == (drawn > 0).sum()
    assert np.sum([row[-1] for row in matrix.pixels]) == (drawn[:, :, :8] > 0).sum()


def test_a_mask_without_thin_cloud_has_no_figure_of_it_and_its_mean_is_marked():
    dataset = make_set()

    class Whole(Threshold):
        says = frozenset(PREDICTED)

    results = score_all([Whole("net"), Threshold("other")], [dataset], draws=0, seed=0)
    found = Lookup(results.scores)
    assert found.get("val", "four", "other", "semi_transparent") is None
    assert found.get("val", "four", "net", "semi_transparent").value == 0
    dice = [
        found.get("val", "four", "other", of).value for of in ("clear", "cloud_shadow", "cloud")
    ]
    assert found.get("val", "four", "other", MACRO).value == pytest.approx(np.mean(dice), abs=1e-6)
    rows = {row[0]: row for row in comparison(results, dataset, "four", ["net", "other"]).rows}
    assert rows["other"][5].endswith("*")
    assert not rows["net"][5].endswith("*")


def test_chips_left_out_are_named_and_the_first_mask_is_shown_on_the_others():
    dataset = make_set(made_from=frozenset({"other"}))
    first = Threshold("net")
    other = Threshold("other", refuses=("c0",), breaks=("c1",))
    results = score_all([first, other], [dataset], draws=20, seed=0)
    assert {(s.mask, s.n_chips, s.of_chips, s.reason) for s in results.skipped} == {
        ("other", 1, 3, "does not like it"),
        ("other", 1, 3, "broken on the way"),
    }
    found = Lookup(results.scores)
    beside = found.get("val", "four", "net", MACRO, beside="other")
    alone = score_all([first], [replace(dataset, chips=dataset.chips[2:])], draws=0, seed=0)
    assert beside.value == Lookup(alone.scores).get("val", "four", "net", MACRO).value
    assert beside.n_chips == 1
    table = comparison(results, dataset, "three", ["net", "other"])
    assert [row[0] for row in table.rows] == ["net", "other†", "net, same chips as other"]
    assert "no fair comparison" in table.note


def test_a_mask_that_can_label_nothing_is_named():
    results = score_all(
        [Threshold("net", refuses=("c0", "c1", "c2"))], [make_set()], draws=5, seed=0
    )
    assert not results.scores
    assert [(skip.n_chips, skip.reason) for skip in results.skipped] == [(3, "does not like it")]


def test_chip_by_chip_scores_stand_beside_those_of_the_set():
    dataset = make_set(each=True, scorings=(CLOUD,))
    results = score_all([Threshold("net")], [dataset], draws=5, seed=0)
    for chip in dataset.chips:
        single = Lookup(results.scores).get(f"val/{chip.name}", "cloud", "net", "cloud")
        assert (single.n_chips, single.low) == (1, None)


def test_pictures_show_what_was_scored_without_asking_again():
    mask, answers, dataset = Threshold("net"), Answers(), make_set()
    score_all([mask], [dataset], draws=0, seed=0, answers=answers)
    again = answers.ask(mask, dataset.chips[0])
    np.testing.assert_array_equal(again.codes, mask.label(dataset.chips[0]).codes)
    assert mask.asked == ["c0", "c1", "c2", "c0"]  # the last one is this test's own


# --- sets ------------------------------------------------------------------------------------


def test_sets_are_made_of_their_splits(tmp_path):
    write_chips(tmp_path)
    clouds, shadows = people_sets(tmp_path)
    assert [chip.name for chip in clouds.chips] == ["clouds_1", "clouds_2"]
    assert [chip.name for chip in shadows.chips] == ["shadows"]
    assert [chip.name for chip in val_set(tmp_path).chips] == ["val_1", "val_2", "bare"]
    assert [chip.name for chip in bright_set(tmp_path).chips] == ["bare"]
    date = tmp_path / "bolzano" / "S2_L2A_20220620"
    date.mkdir(parents=True)
    stored = np.array([[[0, 1000, 1001, 3000]]], np.uint16)
    for band in ("B02", "B03", "B04", "B08"):
        write(date / f"{band}.tif", stored)
    chip = bright_set(tmp_path).chips[1]
    assert chip.dn[1].tolist() == [[0, 1, 1, 2000]]  # the offset is settled, dark is not missing
    assert (chip.label == Label.CLEAR).all()
    assert read_date(tmp_path, "S2_L2A_20220601") is None


def test_simulated_scenes_are_the_same_every_time_and_leave_torch_alone():
    ground = cut(read_germany(), *GERMANY_CLEAR[0])
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, two, other = (cloud_over(ground, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(one.dn, two.dn)
    np.testing.assert_array_equal(one.label, two.label)
    assert (one.dn != other.dn).any()
    assert one.dn.shape == (13, SIZE, SIZE)
    assert set(np.unique(one.label)) <= set(range(6))
    assert (one.dn[:, one.label == Label.CLEAR] > 0).all()


def test_clear_ground_is_cut_and_mirrored_to_whole_scenes(tmp_path):
    write_chips(tmp_path)
    surfaces = find_surfaces(tmp_path)
    assert {surface.dn.shape for surface, _ in surfaces} == {(13, SIZE, SIZE)}
    assert [surface.level for surface, _ in surfaces] == ["L1C"] * 6 + ["L2A"]  # bare, mirrored
    small = make_chip("a", codes=(1, 4))
    np.testing.assert_array_equal(mirror(small).dn[:, 64:128, :64], small.dn[:, ::-1])
    with pytest.raises(InputError, match="choose another window"):
        cut(small, 0, 0)


# --- the whole -------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Chips, and rasters of Fmask and MAJA for one of them."""
    folder = tmp_path / "data"
    folder.mkdir()
    chips = write_chips(folder)
    for name, ending, codes in (
        ("fmask", "_Fmask4.tif", [255, 0, 2, 4, 4, 255]),
        ("maja", "_CLM_R1.tif", [0, 0, 33, 16, 3, 0]),
    ):
        (tmp_path / "masks" / name).mkdir(parents=True)
        raster = np.array(codes, np.uint8)[chips["val_1"].label]
        write(tmp_path / "masks" / name / f"val_1{ending}", raster[None])
    return folder


def test_peoples_labels_of_all_kinds_are_sets_of_their_own_where_they_are_there(data):
    options = Options(peers=(), splits=("val",), simulated=0, pictures=False, draws=0)
    before = [dataset.name for dataset in run.find_sets(data, options)]
    people = data / "people"
    people.mkdir()
    rows = ["file,split,label_kind,level,resolution_m,source"]
    for name, split in (("l8b_a", "val"), ("l8b_b", "test"), ("layton_c", "val")):
        write_chip(people, make_chip(name, codes=(1, 2, 3, 4)))
        rows.append(f"{name}.tif,{split},human,L2A,30,people")
    (people / "people.csv").write_text("\n".join(rows))
    sets = {dataset.name: dataset for dataset in run.find_sets(data, options)}
    assert set(sets) == {*before, "val_l8b", "val_layton"}
    assert [chip.name for chip in sets["val_l8b"].chips] == ["l8b_a"]
    scores = Lookup(evaluate(data, options).results.scores)
    shipped = find_entry("default", "L2A").name
    assert 0 <= scores.get("val_l8b", "four", shipped, "semi_transparent").value <= 1
    assert 0 <= scores.get("val_layton", "shadow", shipped, "cloud_shadow").value <= 1
    assert scores.get("val_layton", "shadow", shipped, "cloud") is None


@pytest.mark.slow
def test_the_report_names_every_mask_and_holds_its_pictures(data, tmp_path, monkeypatch):
    scene = cut(read_germany(), *GERMANY_CLEAR[0])  # the whole one takes long
    monkeypatch.setattr(run, "show_scenes", lambda _: [scene])
    options = Options(
        peers=(*RULE_BASED, "kappamask-2021-l2a"), masks=tmp_path / "masks", draws=20, simulated=1
    )
    evaluation = evaluate(data, options)
    written = write_report(evaluation, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(written)
    found = json.loads(written["scores.json"].read_text())
    shipped = find_entry("default", "L2A").name
    assert {row["mask"] for row in found["scores"]} == {shipped, *RULE_BASED}
    assert set(found["scores"][0]) >= {"value", "low", "high", "n_pixels", "n_chips"}
    perfect = [
        row["value"]
        for row in found["scores"]
        if (row["dataset"], row["scoring"], row["mask"]) == ("val", "four", "maja")
        and (row["of"], row["metric"]) == (MACRO, "dice")
    ]
    assert perfect == [1.0]
    assert found["published"]["dice"]["MAJA"]["cloud"] == 46
    assert {row["mask"] for row in found["band_ablation"]} >= {"all", "4: B02 B03 B04 B08"}
    assert {curve["dataset"] for curve in found["calibration"]} == {"val", "simulated"}

    page = written["report.html"].read_text()
    assert page.count("data:image/png;base64,") > 15
    assert page.count("<svg") >= 5
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # one file: nothing is fetched
    assert "kappamask-2021-l2a" in page
    assert "AOT" in page  # what it lacks
    assert "no scene classification came with the chip" in page
    assert "Published, not measured here" in page
    table = written["table.md"].read_text()
    for line in (
        "| mask | clear |",
        "| 4: B02 B03 B04 B08 |",
        "| Sen2Cor | 72 | 52 | 49 | 62 | 59 |",
    ):
        assert line in table


def test_two_runs_write_the_same_figures(data, tmp_path):
    options = Options(peers=("scl",), splits=("test",), draws=20, simulated=0, pictures=False)
    for name in ("one", "two"):
        write_report(evaluate(data, options), tmp_path / name)
    for name in ("scores.json", "table.md", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    found = json.loads((tmp_path / "one" / "scores.json").read_text())
    assert {row["dataset"].split("/")[0] for row in found["scores"]} == {
        "test_clouds", "test_shadows", "bright",
    }  # fmt: skip
    assert {row["metric"] for row in found["scores"]} == set(METRICS)
    assert {MACRO, MICRO} <= {row["of"] for row in found["scores"]}


def test_the_command_writes_and_prints_a_table(data, tmp_path, capsys):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--split", "test"]
    asked = ["--peers", "scl", "--no-pictures", "--simulated", "0"]
    assert main(["evaluate", *arguments, *asked]) == 0
    said = capsys.readouterr().out
    assert "Test: cloud drawn" in said
    assert "report.html" in said
    assert (tmp_path / "out" / "scores.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--peers", "scl,omnicloud"], "unknown mask 'omnicloud'"),
        (["--model", "best"], "unknown model 'best'"),
        (["--data", "nowhere"], "must hold chips.csv"),
    ],
)
def test_wrong_words_are_one_clear_line(data, tmp_path, capsys, change, message):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--split", "test"]
    assert main(["evaluate", *arguments, *change]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]
    assert not (tmp_path / "out").exists()


def test_a_run_that_may_be_chosen_sees_val_only(tmp_path):
    run = tmp_path / "best.safetensors"
    assert Options(weights=run).chosen_splits() == ("val",)
    assert Options(weights=run, splits=("test",)).chosen_splits() == ("test",)
    with pytest.raises(UnknownNameError, match="unknown split 'train'"):
        Options(splits=("train",))
    with pytest.raises(InputError, match="there must be a model"):
        Options(models=())


def test_the_sets_of_a_split_without_chips_are_left_out(tmp_path):
    chip = make_chip("only", bands=TEN)
    write_chip(tmp_path, chip)
    with (tmp_path / "chips.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["file", "split", "label_kind", "level", "resolution_m"])
        rows.writerow(["only.tif", "val", "human", "L2A", 10])
    options = Options(peers=("scl",), splits=("val",), simulated=0, pictures=False, draws=0)
    evaluation = evaluate(tmp_path, options)
    assert [dataset.name for dataset in evaluation.sets] == ["val"]
    write_report(evaluation, tmp_path / "out")


@pytest.mark.shared
def test_the_manifest_quotes_what_is_measured_on_peoples_labels(shared_data):
    entry = find_entry("default", "L2A")
    quoted = entry.metrics.get("on_cloud_n_cloud_dice_widened_40m")
    if quoted is None:
        pytest.skip("the manifest quotes no figures under this name")
    clouds, _ = people_sets(shared_data)
    network = NetworkPeer(entry.name)
    found = Lookup(score_all([network], [clouds], draws=0, seed=0).scores)
    measured = [
        found.get(f"test_clouds/{name}", "cloud_widened_40m", entry.name, "cloud").value
        for name in ("ocn_1", "ocn_3", "ocn_5")
    ]
    assert measured == pytest.approx(quoted, abs=0.005)
