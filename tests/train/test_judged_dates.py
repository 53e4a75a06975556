"""Dates of one place that judge one another: clouds and shadows of known strength are found."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from support.chip_files import write_raster

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError
from kappamask.base.legend import Label
from kappamask.evaluate.scenes import series_set
from kappamask.train.chips import SLOT, Chip
from kappamask.train.datasets import ChipFolder, open_dataset, read_split
from kappamask.train.series import CLOUDY, DOUBTFUL, judge, refer
from kappamask.train.settings import Source
from kappamask.train.simulate import CLEAR_TO, THIN_FROM
from kappamask.train.targets import CLEAR, THIN, one_hot, target_of

SIX = ("B02", "B03", "B04", "B08", "B8A", "B11")
GROUND = dict(zip(SIX, (0.03, 0.05, 0.05, 0.3, 0.32, 0.2), strict=True))
DATES = [dt.date(2024, 6, 1) + dt.timedelta(days=5 * number) for number in range(9)]
PATCH = np.s_[8:24, 8:24]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

INSIDE = np.s_[11:21, 11:21]  # beyond what a median of 3 x 3 pixels changes


def under_cloud(albedo, ground):
    """Ground below a cloud, light going to and fro between them summed up one by one."""
    through, total = (1 - albedo) ** 2, albedo
    for bounces in range(60):
        total += through * ground * (albedo * ground) ** bounces
    return total


def make_series(change=None, label=Label.UNDEFINED, when=4, dates=DATES, **other):
    """Nine dates of one place with a little noise; `change` maps a band's value in a patch."""
    rng = np.random.default_rng(5)
    chips = []
    for number, day in enumerate(dates):
        dn = np.zeros((13, 32, 32), np.uint16)
        labels = np.full((32, 32), Label.CLEAR, np.uint8)
        for band, value in GROUND.items():
            scene = value * rng.uniform(0.98, 1.02, (32, 32))
            if number == when and change:
                scene[PATCH] = change(band, scene[PATCH])
            dn[SLOT[band]] = np.rint(scene * 1e4)
        if number == when:
            labels[PATCH] = label
        chips.append(Chip(f"field_{day:%Y%m%d}", dn, labels, "L2A", 10.0, "scl+net"))
    return [replace(chip, **other) for chip in chips]


def judged(*args, when=4, **kwargs):
    """The verdict of the date with the patch."""
    return judge(make_series(*args, when=when, **kwargs))[when].verdict


@pytest.mark.parametrize(
    ("albedo", "code"),
    [(0.6 * CLEAR_TO, Label.CLEAR), ((CLEAR_TO + THIN_FROM) / 2, DOUBTFUL),
     (1.25 * THIN_FROM, Label.SEMI_TRANSPARENT),
     (0.18, Label.SEMI_TRANSPARENT), (0.25, CLOUDY), (0.4, Label.CLOUD), (0.8, Label.CLOUD)],
)  # fmt: skip
def test_a_cloud_is_measured_by_what_the_ground_was_before_and_after(albedo, code):
    verdict = judged(lambda _, value: under_cloud(albedo, value))
    assert set(np.unique(verdict[INSIDE])) == {code}
    assert (verdict[:7] == Label.CLEAR).all()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (dict.fromkeys(SIX, 0.6), Label.CLOUD_SHADOW),
        (dict.fromkeys(SIX, 0.8), 0),  # too little to say
        ({"B08": 0.6, "B8A": 0.6, "B11": 1.2, "B04": 1.6}, Label.CLEAR),  # harvest
        ({"B02": 1.5, "B03": 1.9, "B04": 2.4, "B08": 0.9, "B11": 1.6}, Label.CLEAR),  # tilled
        ({"B03": 1.5, "B04": 1.8, "B08": 0.5, "B8A": 0.5, "B11": 0.3}, 0),  # flooded, turbid
    ],
)
def test_shadow_is_told_from_what_a_field_does_by_itself(change, code):
    verdict = judged(lambda band, value: value * change.get(band, 1.0))
    assert set(np.unique(verdict[INSIDE])) == {code}


def test_water_that_darkens_is_neither_shadow_nor_clear(monkeypatch):
    for band in ("B08", "B8A", "B11"):
        monkeypatch.setitem(GROUND, band, 0.04)
    assert set(np.unique(judged(lambda _, value: value * 0.6)[INSIDE])) == {DOUBTFUL}
    assert set(np.unique(judged(lambda _, value: value * 0.95)[INSIDE])) == {Label.CLEAR}


@pytest.mark.parametrize("lacking", [("B11",), ("B08", "B11"), ("B8A",)])
def test_four_bands_are_enough(lacking):
    def less(change):
        chips = make_series(lambda _, value: change(value))
        for chip in chips:
            chip.dn[[SLOT[name] for name in lacking]] = 0
        return set(np.unique(judge(chips)[4].verdict[INSIDE]))

    assert less(lambda value: value * 0.6) == {Label.CLOUD_SHADOW}
    assert less(lambda value: under_cloud(0.15, value)) == {Label.SEMI_TRANSPARENT}


def test_specks_are_no_shadow():
    def two_wet_pixels(_, value):
        value = value.copy()
        value[4:6, 4:7] *= 0.5
        return value

    assert Label.CLOUD_SHADOW not in judged(two_wet_pixels)


def test_labels_that_disagree_are_doubted():
    veiled = judged(lambda _, value: under_cloud(0.12, value), Label.CLEAR)
    assert set(np.unique(veiled[INSIDE])) == {DOUBTFUL}
    assert set(np.unique(judged(label=Label.CLOUD)[INSIDE])) == {0}  # nothing is seen: old label
    assert set(np.unique(judged(lambda _, value: value * 0.6, Label.CLEAR)[INSIDE])) == {0}


def test_one_other_clear_date_is_too_few():
    days = (0, 1, 2, 300, 310, 900)
    dates = [dt.date(2024, 6, 1) + dt.timedelta(days=day) for day in days]
    chips = judge(make_series(dates=dates, when=3))
    assert (chips[0].verdict == Label.CLEAR).all()  # two others in the same week
    assert not chips[3].verdict.any()  # next spring: one to compare with
    assert not chips[5].verdict.any()  # two years later: none


def test_a_date_is_never_its_own_reference():
    reflectance = np.arange(1.0, 9.0).reshape(8, 1, 1, 1)
    reference, counts = refer(reflectance, np.ones((8, 1, 1), bool), np.arange(8))
    medians = [np.median(np.delete(reflectance, index)) for index in range(8)]
    assert reference.ravel().tolist() == medians
    assert set(counts.ravel()) == {7}


def test_snow_people_short_series_and_undated_chips_are_left_alone():
    snowy = judge(make_series(lambda band, value: value * 0 + (0.05 if band == "B11" else 0.7)))
    assert not snowy[4].verdict.any()
    assert snowy[0].verdict.all()
    for untouched in (
        make_series(kind="human"),
        make_series(dates=DATES[:5]),
        make_series(name="field"),
    ):
        assert all(chip.verdict is None for chip in judge(untouched))


@pytest.mark.parametrize(
    ("albedo", "code"),
    [(0.01, Label.CLEAR), (0.095, DOUBTFUL), (0.15, Label.SEMI_TRANSPARENT), (0.4, Label.CLOUD)],
)
def test_the_clear_one_of_a_pair_is_the_witness(albedo, code):
    cloudy, clear = make_series(
        lambda _, value: under_cloud(albedo, value), when=0, dates=DATES[:2]
    )
    pair = [
        replace(cloudy, name="field_cloudy", kind="dates"),
        replace(clear, name="field_clear", kind="clear"),
    ]
    told, witness = judge(pair)
    assert set(np.unique(told.verdict[INSIDE])) == {code}
    assert witness.verdict is None
    alone = judge([pair[0], replace(pair[1], name="other_clear")])
    assert all(chip.verdict is None for chip in alone)


def test_a_verdict_overrules_label_and_teacher_where_it_has_one():
    label = np.array([[Label.CLOUD_SHADOW] * 6], np.uint8)
    dn = np.full((13, 1, 6), 500, np.uint16)
    chip = Chip("a", dn, label, "L2A", 10.0, "scl+net")
    verdict = np.array([[0, 1, 2, 3, CLOUDY, DOUBTFUL]], np.uint8)
    evidence = np.zeros((3, 1, 6), np.float32)
    evidence[1] = 1
    for taught in (chip, replace(chip, evidence=evidence)):
        target = target_of(replace(taught, verdict=verdict))
        assert target[:, 0, 0].tolist() == [0, 1, 0, 0, 0, 0]  # no opinion: as labelled
        assert target[:, 0, 1:].argmax(0)[:4].tolist() == [CLEAR, 1, THIN, 4]
        assert target.sum(0)[0].tolist() == [1, 1, 1, 1, 1, 0]
    np.testing.assert_array_equal(target_of(chip), one_hot(label))


def test_a_folder_judges_where_it_is_asked_to(tmp_path):
    series = make_series(lambda _, value: under_cloud(0.12, value))
    rows = ["file,split,label_kind,level,resolution_m"]
    for chip in series:
        rows.append(f"{chip.name}.tif,val,scl+net,L2A,10")
        write_raster(tmp_path / f"{chip.name}.tif", chip.dn, NAMES)
        write_raster(tmp_path / f"{chip.name}_label.tif", chip.label[None])
    (tmp_path / "chips.csv").write_text("\n".join(rows))
    as_they_are, judged_ones = (
        list(ChipFolder(tmp_path, series=wanted).chips("val")) for wanted in (False, True)
    )
    assert all(chip.verdict is None for chip in as_they_are)
    assert (judged_ones[4].verdict[INSIDE] == Label.SEMI_TRANSPARENT).all()
    source = Source("chips", tmp_path, cache=tmp_path / "cache", options={"series": True})
    for kept in (read_split(source, "val"), read_split(source, "val")):  # written, then mapped
        for chip, judged_one in zip(kept, judged_ones, strict=True):
            np.testing.assert_array_equal(chip.verdict, judged_one.verdict)
    scored = series_set(tmp_path).chips[4].label
    assert (scored[INSIDE] == Label.SEMI_TRANSPARENT).all()
    assert set(np.unique(scored)) <= {0, 1, 2, 3, 4}


def test_series_is_true_or_false(tmp_path):
    with pytest.raises(InputError, match="series is true or false, got 'no'"):
        open_dataset(Source("chips", tmp_path, options={"series": "no"}))


@pytest.mark.slow
def test_a_real_summer_shows_veils_that_no_label_has(shared_data):
    chips = {chip.name: chip for chip in judge(list(ChipFolder(shared_data).chips("val")))}
    hazy, clear = (chips[f"wcereal_C91C_{day}"] for day in ("2018-10-28", "2019-04-21"))
    assert (hazy.verdict == Label.SEMI_TRANSPARENT).mean() > 0.9  # white veil, fields seen through
    assert (hazy.label == Label.UNDEFINED).mean() > 0.5
    assert (clear.verdict == Label.CLEAR).mean() > 0.95
