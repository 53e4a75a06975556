"""Which observations a composite uses: refined, not hazy, enough, at worst the least bad."""

import weakref

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from support.reflectance import FOUR, make_cube

import kappamask as km
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.composites.quality import find_poor
from kappamask.evaluate.dates import keep_out, ratios

CLEAR, SHADOW, THIN, CLOUD, MISSING = 1, 2, 3, 4, 5
PLAIN = {"refine": False, "quality": False, "buffer_m": None}


def scene(dates=4, size=40, *, level=0.1):
    """A cube of one reflectance, a little brighter each date, and labels that say clear."""
    values = np.full((dates, 4, size, size), level, np.float32)
    values += np.arange(dates, dtype=np.float32)[:, None, None, None] * 0.001
    cube = make_cube(values, FOUR)
    labels = cube.isel(band=0, drop=True).copy(data=np.ones((dates, size, size), np.uint8))
    return cube, labels


def test_percentiles_are_those_of_numpy():
    cube, labels = scene(5, 8)
    random = np.random.default_rng(0)
    cube.values[:] = random.random(cube.shape)
    labels.values[:] = random.choice([CLEAR, CLOUD], labels.shape, p=[0.7, 0.3])
    image = km.composite(cube, labels, method="percentile", percentile=25, **PLAIN)
    usable = np.where((labels.values == CLEAR)[:, None], cube.values, np.nan)
    there = np.isfinite(usable).any(axis=(0, 1))
    expected = np.nanpercentile(usable[..., there], 25, axis=0)
    np.testing.assert_allclose(image.reflectance.values[0][:, there], expected, rtol=1e-5)
    assert image.attrs["percentile"] == 25


def test_pixels_need_some_observations_and_are_made_of_the_best():
    cube, labels = scene(4, 8)
    labels.values[1:, :, :4] = CLOUD  # on the left one clear date
    few = km.composite(cube, labels, min_observations=2, **PLAIN).load()
    assert np.isnan(few.reflectance.values[..., :4]).all()
    assert np.isfinite(few.reflectance.values[..., 4:]).all()
    assert int(few.never_clear[0]) == 32
    assert (few.observations.values[..., :4] == 1).all()
    labels.values[:] = CLEAR
    labels.values[0, 0] = CLOUD  # the date with the smallest clear share
    most = km.composite(cube, labels, method="mean", max_observations=3, **PLAIN).load()
    assert (most.observations == 3).all()
    np.testing.assert_allclose(most.reflectance.values, 0.102, atol=1e-6)


def test_never_clear_is_where_there_is_data():
    cube, labels = scene(3, 6)
    labels.values[:, 0] = MISSING
    labels.values[:, 1] = CLOUD
    image = km.composite(cube, labels, **PLAIN).load()
    assert int(image.never_clear[0]) == 6
    assert image.seen.values[0, 1:].all()
    assert not image.seen.values[0, 0].any()


def test_the_least_cloudy_date_fills_what_no_date_shows():
    cube, labels = scene(3, 6)
    labels.values[:, 2] = [[CLOUD], [SHADOW], [THIN]]
    labels.values[:, 3] = CLOUD
    cube.values[:, :, 3] = np.array([0.6, 0.3, 0.9])[:, None, None]
    labels.values[:, 0] = MISSING
    empty = km.composite(cube, labels, **PLAIN).load()
    filled = km.composite(cube, labels, fill="least-cloudy", **PLAIN).load()
    assert np.isnan(empty.reflectance.values[0, :, :4][:, [0, 2, 3]]).all()
    np.testing.assert_allclose(filled.reflectance.values[0, :, 2], 0.102, atol=1e-6)  # thin
    np.testing.assert_allclose(filled.reflectance.values[0, :, 3], 0.3, atol=1e-6)
    assert np.isnan(filled.reflectance.values[0, :, 0]).all()
    assert (filled.observations.values[0, [2, 3]] == 0).all()  # flagged
    assert (filled.date.values[0, 3] == cube.time.values[1]).all()
    xr.testing.assert_equal(filled.never_clear, empty.never_clear)


def test_three_dates_correct_one_another_unless_told_otherwise():
    cube, labels = scene(5, 80)
    labels.values[:, 40:43, 40:43] = CLOUD  # a roof
    image = km.composite(cube, labels).load()
    assert int(image.never_clear[0]) == 0
    assert image.attrs["refined"] == 1
    assert len(image.witnesses.values[0].split()) == 5
    alone = km.composite(cube, labels, refine=False).load()
    assert int(alone.never_clear[0]) > 9  # the buffers too
    assert alone.attrs["refined"] == 0
    two = slice(0, 2)
    assert km.composite(cube.isel(time=two), labels.isel(time=two)).attrs["refined"] == 0


def hazy():
    """Five dates of 120 px; on the first a cloud with haze beside it that labels call clear."""
    cube, labels = scene(5, 120)
    labels.values[0, 50:60, 50:60] = CLOUD
    cube.values[0, :3, 70:90, 70:90] += 0.04
    cube.values[1, :3, 20:40, 20:40] += 0.04  # on a date without any cloud: a field
    return cube, labels


def test_haze_beside_clouds_is_passed_over_and_change_far_from_them_is_not():
    cube, labels = hazy()
    poor = find_poor(
        da.from_array(cube.values), da.from_array(labels.values), days=np.arange(5),
        bands=FOUR, step=(10.0, 10.0),
    ).compute()  # fmt: skip
    assert poor[0, 74:86, 74:86].all()
    assert not poor[1:].any()
    assert poor[0].mean() < 0.05
    first = km.composite(cube, labels, method="first-clear").load()
    assert (first.date.values[0, 74:86, 74:86] == cube.time.values[1]).all()
    assert (first.date.values[0, 20:40, 20:40] == cube.time.values[0]).all()
    used = km.composite(cube, labels, method="first-clear", quality=False).load()
    assert (used.date.values[0, 74:86, 74:86] == cube.time.values[0]).all()


@pytest.mark.parametrize("size", [8, 20, 40])
def test_a_small_field_is_composed_by_default(size):
    cube, labels = scene(3, size)
    whole = km.composite(*scene(3, 128)).load()
    image = km.composite(cube, labels).load()
    np.testing.assert_array_equal(image.reflectance, whole.reflectance[..., :size, :size])
    assert (image.observations == 3).all()


def test_a_poor_observation_is_used_where_it_is_the_only_one():
    cube, labels = hazy()
    labels.values[1:, 74:86, 74:86] = CLOUD
    image = km.composite(cube, labels, method="first-clear", buffer_m=None, refine=False).load()
    assert (image.observations.values[0, 76:84, 76:84] == 1).all()
    assert (image.date.values[0, 76:84, 76:84] == cube.time.values[0]).all()


def test_chunks_do_not_change_which_observations_are_poor():
    cube, labels = hazy()
    cube.values[:] += 0.02 * np.random.default_rng(0).random(cube.shape, np.float32)
    whole = km.composite(cube, labels, method="first-clear").load()
    cut = {"time": 1, "y": 37, "x": 50}
    parts = km.composite(cube.chunk(cut), labels.chunk(cut), method="first-clear").load()
    xr.testing.assert_equal(whole, parts)


def test_memory_does_not_grow_with_the_area():
    """Whoever composes a chunk lets go of its dates before those of the next are read."""
    dates, size, across = 4, 64, 6
    alive: set[int] = set()
    most = 0

    def read(block_info=None):
        nonlocal most
        (date, _), *_ = place = block_info[None]["array-location"]
        block = np.full((1, 4, size, size), 0.1 + 0.001 * date, np.float32)
        alive.add(key := hash(tuple(place)))
        weakref.finalize(block, alive.discard, key)
        most = max(most, len(alive))
        return block

    cube, labels = scene(dates, size * across)
    codes = labels.values[:, : 2 * size]
    codes[0, 20:90, 30:340] = CLOUD  # so that haze and shade are looked for everywhere
    chunks = ((1,) * dates, (4,), (size,) * 2, (size,) * across)
    pixels = da.map_blocks(read, chunks=chunks, meta=np.empty((0, 0, 0, 0), np.float32))
    image = km.composite(
        cube.isel(y=slice(0, 2 * size)).copy(data=pixels), labels.isel(y=slice(0, 2 * size))
    )
    with dask.config.set(scheduler="synchronous"):
        dask.compute(image.reflectance, image.observations, image.date)
    assert image.attrs["quality"] == image.attrs["refined"] == 1
    assert dates <= most <= 2 * dates  # of 12 times as many


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fill": "darkest"}, UnknownNameError, "least-cloudy"),
        ({"min_observations": 0}, InputError, "1 or more"),
        ({"max_observations": 2.5}, InputError, "number of dates"),
        ({"min_observations": 3, "max_observations": 2}, InputError, "not be below"),
        ({"method": "percentile", "percentile": 101}, InputError, "between 0 and 100"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        km.composite(*scene(3, 4), **options)


def test_a_clear_date_is_kept_out_and_compared_with():
    cube, labels = scene(5, 60)
    labels.values[0, 10:30] = CLOUD
    cube.values[0, :, 10:30] = 0.7
    other = labels.copy(data=np.ones_like(labels.values))  # sees no cloud
    day = str(cube.time.values[4])[:10]
    rows = keep_out(cube, labels, scl=other, held_out=[day], methods=("first-clear",))
    assert [row.mask for row in rows] == ["kappamask", "kappamask, single dates", "SCL"]
    assert all(row.dates == 4 and row.held_out == day for row in rows)
    assert rows[0].p95 == pytest.approx(0.004, abs=1e-3)
    assert rows[2].p99 > 0.5
    assert ratios(rows, to="SCL")["kappamask", "first-clear"] < 0.05
    with pytest.raises(InputError, match="one of"):
        keep_out(cube, labels, held_out=["1999-01-01"])
