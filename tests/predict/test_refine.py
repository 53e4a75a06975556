"""Dates of a cube correct one another, and the sun says where shadows cannot be."""

import csv

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.scripts import load_script

import kappamask as km
from kappamask.base.errors import InputError
from kappamask.predict import refine as refinement
from kappamask.predict.refine import choose_witnesses, refine, refine_array
from kappamask.predict.sunlight import Sun

CLEAR, SHADOW, THIN, CLOUD, MISSING = 1, 2, 3, 4, 5
SUN = 90.0, 45.0  # in the east: shadows fall to the west, as far as clouds are high
HIGH_SUN = 90.0, 80.0  # no cloud casts a shadow farther than 1.8 km


def make_labels(codes, *, sun=SUN, step=10.0, first="2022-06-01"):
    """Dress codes (time, y, x) as labels of every fifth day."""
    dates, rows, columns = codes.shape
    coords = {
        "time": np.datetime64(first, "ns") + np.arange(dates) * np.timedelta64(5, "D"),
        "y": 5e6 - step * np.arange(rows),
        "x": 6e5 + step * np.arange(columns),
    }
    if sun:
        coords |= {
            name: ("time", np.full(dates, angle))
            for name, angle in zip(("sun_azimuth", "sun_elevation"), sun, strict=True)
        }
    return xr.DataArray(codes, dims=("time", "y", "x"), coords=coords, name="labels")


def clear(dates=5, rows=140, columns=240):
    return np.full((dates, rows, columns), CLEAR, np.uint8)


def cast(codes, date, *, height_m=600, size=20, at=(60, 180)):
    """Put a cloud and its shadow on a date; the shadow lies to the west."""
    top, left = at
    move = round(height_m / 10)
    codes[date, top : top + size, left - move : left - move + size] = SHADOW
    codes[date, top : top + size, left : left + size] = CLOUD


# --- other dates --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [SHADOW, THIN, CLOUD])
def test_what_is_no_ground_on_every_clear_date_is_ground(code):
    codes = clear()
    codes[:, 70:73, 100:106] = code  # a roof, a pond
    codes[3] = CLOUD
    refined = refine(make_labels(codes, sun=None)).values
    assert (refined[[0, 1, 2, 4]] == CLEAR).all()
    assert (refined[3] == CLOUD).all()  # under cloud nothing is known


def test_a_wide_lake_is_no_shadow_though_no_date_is_clear_around_it():
    codes = clear()
    codes[:, 30:110, 80:160] = SHADOW
    assert (refine(make_labels(codes, sun=None)).values == CLEAR).all()


def test_clouds_and_shadows_that_move_stay():
    codes = clear()
    for date in range(5):
        cast(codes, date, at=(20 + 22 * date, 100 + 24 * date))
    assert (refine(make_labels(codes)).values == codes).all()


def test_two_dates_prove_nothing_of_a_place_and_one_comes_back_as_it_is():
    codes = clear(2)
    codes[:, 70:73, 100:106] = CLOUD
    assert (refine(make_labels(codes)).values == codes).all()
    codes[0, 70:73, 100:106] = SHADOW  # no cloud anywhere
    one = make_labels(codes[:1])
    assert refine(one) is one


# --- the sun ------------------------------------------------------------------------------------


def test_a_shadow_that_no_cloud_casts_is_none():
    codes = clear(2)
    cast(codes, 0, height_m=250)
    codes[0, 20:40, 60:100] = SHADOW  # north of the only cloud
    expected = codes.copy()
    expected[0, 20:40, 60:100] = CLEAR
    assert (refine(make_labels(codes)).values == expected).all()
    for unknown in (None, (np.nan, np.nan), (90.0, -5.0)):  # the last: night
        assert (refine(make_labels(codes, sun=unknown)).values == codes).all()


@pytest.mark.parametrize("azimuth", [0.0, 45.0, 161.0, 270.0])
def test_shadows_lie_away_from_the_sun(azimuth):
    codes = clear(2, 340, 340)
    to_sun = -np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))  # rows, columns
    away = [158 - round(40 * part) for part in to_sun]
    aside = [158 + round(40 * part) for part in (to_sun[1], -to_sun[0])]
    codes[0, 158:182, 158:182] = CLOUD
    for row, column in (away, aside):
        codes[0, row : row + 24, column : column + 24] = SHADOW
    refined = refine(make_labels(codes, sun=(azimuth, 45.0))).values[0]
    shadow = np.zeros_like(refined, bool)
    shadow[away[0] : away[0] + 24, away[1] : away[1] + 24] = True
    assert ((refined == SHADOW) == shadow).mean() >= 0.999


def test_a_cloud_outside_of_the_area_may_cast_a_shadow_inside():
    codes = clear(2)
    codes[0, 60:80, 225:240] = SHADOW  # at the sunward edge
    codes[0, 60:80, 20:40] = SHADOW  # two kilometres from it
    refined = refine(make_labels(codes, sun=HIGH_SUN)).values[0]
    assert (refined[60:80, 225:240] == SHADOW).all()
    assert (refined[60:80, 20:40] == CLEAR).all()


def test_rows_that_run_north_are_the_same_pixels():
    codes = clear(3)
    cast(codes, 0, height_m=250)
    codes[0, 20:40, 60:100] = SHADOW
    labels = make_labels(codes)
    refined = refine(labels.isel(y=slice(None, None, -1))).isel(y=slice(None, None, -1))
    assert np.mean(refined.values == refine(labels).values) >= 0.999  # cells begin elsewhere


# --- rules --------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(2, 5), st.integers(1, 9), st.integers(1, 9)),
           elements=st.integers(0, 5)),
    st.sampled_from([None, SUN, (160.0, 20.0)]),
)  # fmt: skip
def test_shadow_and_cloud_are_only_taken_away(codes, sun):
    refined = refine(make_labels(codes, sun=sun)).values
    changed = refined != codes
    assert (refined[changed] == CLEAR).all()
    assert np.isin(codes[changed], (SHADOW, THIN, CLOUD)).all()


def busy(dates=7):
    random = np.random.default_rng(3)
    codes = clear(dates, 150, 170)
    for date in range(dates):
        for _ in range(4):
            row, column = random.integers(5, 130), random.integers(70, 150)
            cast(codes, date, height_m=random.integers(300, 700), size=12, at=(row, column))
    codes[:, 40:43, 20:24] = CLOUD
    codes[:, 100:130, 20:40] = SHADOW
    codes[:, :10, :10] = MISSING
    return codes


def test_chunks_runs_and_the_order_of_dates_do_not_matter(monkeypatch):
    labels = make_labels(busy())
    expected = refine(labels)
    assert (expected != labels).any()
    cut = refine(labels.chunk({"time": 3, "y": 37, "x": 61}))
    assert cut.data.chunks[1] == labels.chunk({"y": 37}).chunks[1]
    xr.testing.assert_equal(cut.compute(), expected.compute())
    shuffled = refine(labels.isel(time=[4, 0, 6, 2, 1, 5, 3])).sortby("time")
    assert (shuffled.values == expected.values).all()
    monkeypatch.setattr(refinement, "RUN", 2)
    monkeypatch.setattr(refinement, "BLOCK_PX", 64)
    assert (refine(labels).values == expected.values).all()


def test_arrays_are_refined_as_cubes_are():
    codes = busy()
    labels = make_labels(codes)
    suns = [Sun(*SUN, (10.0, 10.0))] * len(codes)
    found = refine_array(codes, labels["time"].values, suns=suns)
    assert (found == refine(labels).values).all()
    assert (refine_array(codes[:1], labels["time"].values[:1]) == codes[:1]).all()


def test_only_the_nearest_dates_are_asked(monkeypatch):
    times = np.datetime64("2022-01-01", "ns") + np.arange(100) * np.timedelta64(5, "D")
    asked = choose_witnesses(times)
    assert {len(others) for others in asked} == {refinement.WITNESSES}
    assert sorted(asked[50].tolist()) == [*range(44, 50), *range(51, 57)]
    monkeypatch.setattr(refinement, "WITNESSES", 2)
    refined = refine(make_labels(busy(4)))
    assert refined["witnesses"].values[0] == "2022-06-06 2022-06-11"
    assert refined.attrs["refined"] == 1


def test_probabilities_go_to_clear_and_still_sum_to_one():
    codes = busy(5)
    labels = make_labels(codes)
    values = np.full((5, 4, *codes.shape[1:]), 0.1, np.float32)
    np.put_along_axis(values, (np.clip(codes, 1, 4) - 1)[:, None], np.float32(0.7), axis=1)
    values = np.where((codes == MISSING)[:, None], np.nan, values)
    names = ["clear", "cloud_shadow", "semi_transparent_cloud", "cloud"]
    probabilities = xr.DataArray(
        values, dims=("time", "label", "y", "x"), coords={**labels.coords, "label": names}
    )
    refined, expected = refine(probabilities), refine(labels)
    assert refined.dims == probabilities.dims
    sums = refined.sum("label", skipna=False)
    assert np.allclose(sums.values[codes != MISSING], 1)
    assert np.isnan(sums.values[codes == MISSING]).all()
    best = refined.fillna(0).values.argmax(1) + 1
    assert (best == expected.values)[codes != MISSING].all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (make_labels(clear(2)).astype("int16"), "uint8"),
        (make_labels(clear(2)).rename(time="t"), "time, y, x"),
        (make_labels(clear(2)).expand_dims(label=["clear"]), "are of clear, cloud_shadow"),
    ],
)
def test_what_cannot_be_refined_is_told(labels, message):
    with pytest.raises(InputError, match=message):
        refine(labels)


def test_a_cube_of_other_dates_is_refused():
    labels = make_labels(clear(3), sun=HIGH_SUN)
    with pytest.raises(InputError, match="same dates"):
        refine(labels, make_labels(clear(3), first="2021-01-01"))
    bare = labels.drop_vars(["sun_azimuth", "sun_elevation"])
    codes = clear(3)
    codes[0, 20:40, 20:40] = SHADOW
    assert (km.refine(bare.copy(data=codes), labels).values == CLEAR).all()


# --- real dates ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.shared
def test_shadows_that_people_drew_are_found_better(shared_data):
    """Alberta: four dates of lakes, forest and cumulus; the network alone calls lakes shadow."""
    with (shared_data / "people" / "people.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("layton_")]
    codes, drawn = [], []
    for row in rows:
        path = shared_data / "people" / row["file"]
        with rasterio.open(path) as raster:
            dn, bands = raster.read().astype(np.float32), raster.descriptions
        with rasterio.open(path.with_name(f"{path.stem}_label.tif")) as raster:
            drawn.append(raster.read(1))
        reflectance = np.where(dn == 0, np.nan, dn / np.float32(1e4))
        codes.append(km.predict_array(reflectance, bands, level="L2A"))
    sun = np.array(
        [[float(row[f"sun_{name}"]) for name in ("azimuth", "elevation")] for row in rows]
    )
    labels = make_labels(np.stack(codes), sun=None, step=30.0).assign_coords(
        time=np.array([row["date"] for row in rows], "M8[ns]"),
        sun_azimuth=("time", sun[:, 0]),
        sun_elevation=("time", sun[:, 1]),
    )

    def dice(found):
        scores = []
        for one, people in zip(found, drawn, strict=True):
            told = np.isin(people, (CLEAR, SHADOW))
            ours, theirs = (one == SHADOW) & told, people == SHADOW
            scores.append(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
        return np.mean(scores)

    alone, together = dice(codes), dice(refine(labels).values)
    assert together > alone
    assert together >= 0.8


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("kind", ["harvest", "ploughing", "flood", "burn", "snow"])
def test_change_near_clouds_stays_clear_and_clouds_over_it_stay(shared_data, kind):
    """Made change on real ground, clouds simulated over it: what refining adds to either error."""
    script = load_script("scripts/measure_dates.py")
    cube, _ = script.read_bolzano(shared_data)
    alone, together = script.change_near_clouds(cube, kind, script.PLACES)
    count, added = together[:, 0], (together - alone)[:, 1]
    in_clear, in_shadow, under_cloud = added / count
    assert (count > 5000).all()
    assert in_clear <= 0.05  # asked for; nothing becomes cloud or shadow
    assert in_shadow <= 0.15  # dark on one other date, in shadow on one: taken for dark ground
    assert under_cloud <= 0.01
