"""`kappamask.composite`: brute-force numpy beside it, pixel by pixel."""

from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, optimize
from support import bolzano
from support.labels import make_pair

import kappamask as km
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.legend import Label
from kappamask.composites import METHODS
from kappamask.composites.methods import BLENDS, LEAST_PX, PICKS, split_chunks
from kappamask.composites.periods import COMPOSED, PERIODS, period_edges, split_dates
from kappamask.composites.ranking import Ranking
from kappamask.openeo.graphs import cloud_kernel

BANDS = ("B02", "B04", "B08")
NONE = {"buffer_m": None}


def plain(cube, labels, **options):
    """Compose by labels alone: what dates say of one another is tested for itself."""
    return km.composite(cube, labels, **{"refine": False, "quality": False, **options})


def make_scene(shape, *, seed=0, clear=0.6):
    """A cube of noise and labels of patches, some of both without data."""
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random(shape) < clear, 1, rng.integers(0, 6, shape)).astype(np.uint8)
    cube, labels = make_pair(codes, bands=BANDS)
    values = rng.random(cube.shape, dtype=np.float32)
    values[rng.random(values.shape) < 0.03] = np.nan
    return cube.copy(data=values), labels


def chunked(array, sizes):
    chunks = dict(zip(("time", "y", "x"), sizes, strict=True))
    return array.chunk(chunks)


def brute_usable(cube, labels, cloud, shadow, step=10):
    """Metres by scipy's distance transform of the whole image."""

    def far(codes, metres):
        near = np.isin(codes, metres[0])
        if not near.any():
            return np.ones(codes.shape, bool)
        return ndimage.distance_transform_edt(~near) * step > metres[1] + 1e-9

    clear = [
        (codes == 1) & far(codes, ((3, 4), cloud)) & far(codes, ((2,), shadow))
        for codes in labels.values
    ]
    return np.array(clear) & np.isfinite(cube.values).all(axis=1)


def brute_choice(method, spectra, indices):
    """Say which of the usable dates of one pixel is chosen."""
    if method == "first-clear":
        return indices[0]
    if method == "max-ndvi":
        marks = [(s[2] - s[1]) / (s[2] + s[1]) for s in spectra]
        return indices[int(np.argmax(marks))]
    apart = np.linalg.norm(spectra[:, None].astype(float) - spectra[None], axis=-1).sum(axis=1)
    return indices[int(np.argmin(apart))]


@pytest.mark.parametrize("method", ["median", "mean", "first-clear", "max-ndvi", "medoid"])
def test_each_pixel_is_what_brute_force_makes_of_it(method):
    cube, labels = make_scene((7, 11, 13))
    image = plain(cube, labels, method=method, buffer_m={"cloud": 10, "shadow": 15}).load()
    usable = brute_usable(cube, labels, 10, 15)
    assert usable.any(axis=0).any()
    assert not usable.any(axis=0).all()
    for y, x in np.ndindex(11, 13):
        indices = np.flatnonzero(usable[:, y, x])
        spectra = cube.values[indices, :, y, x]
        got = image.isel(time=0, y=y, x=x)
        assert got.observations == indices.size
        if not indices.size:
            assert np.isnan(got.reflectance).all()
            assert np.isnat(got.date.values)
            continue
        if method in ("median", "mean"):
            expected = getattr(np, method)(spectra, axis=0)
            index = indices[(indices.size - 1) // 2]
        else:
            index = brute_choice(method, spectra, indices)
            expected = cube.values[index, :, y, x]
        np.testing.assert_allclose(got.reflectance, expected, rtol=1e-6)
        assert got.date.values == cube.time.values[index]
    assert image.never_clear.item() == (~usable.any(axis=0)).sum()


def test_the_geometric_median_has_the_least_sum_of_distances():
    pytest.importorskip("geomad")
    cube, labels = make_scene((6, 3, 4))
    image = plain(cube, labels, method="geomedian", **NONE).load()
    usable = brute_usable(cube, labels, 0, 0)
    for y, x in np.ndindex(3, 4):
        spectra = cube.values[usable[:, y, x], :, y, x].astype(float)
        got = image.reflectance.values[0, :, y, x]
        if len(spectra) == 0:
            assert np.isnan(got).all()
            continue

        def total(point, spectra=spectra):
            return np.linalg.norm(spectra - point, axis=1).sum()

        best = optimize.minimize(total, spectra.mean(axis=0), method="Nelder-Mead", tol=1e-9)
        assert total(got) <= best.fun + 1e-4


@pytest.mark.slow
@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 17), st.integers(1, 17)),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 17), st.integers(1, 17)),
    label_sizes=st.tuples(st.integers(1, 5), st.integers(1, 17), st.integers(1, 17)),
    method=st.sampled_from([name for name in METHODS if name != "geomedian"]),
    buffer_m=st.dictionaries(st.sampled_from(["cloud", "shadow"]), st.floats(0, 90)),
    period=st.sampled_from([None, "day", "2D"]),
    seed=st.integers(0, 9),
)
def test_numpy_and_dask_of_any_chunks_give_the_same_bits(  # noqa: PLR0917  named by hypothesis
    shape, sizes, label_sizes, method, buffer_m, period, seed
):
    cube, labels = make_scene(shape, seed=seed)
    options = {"method": method, "buffer_m": buffer_m, "period": period}
    whole = plain(cube, labels, **options)
    cut = plain(chunked(cube, sizes), chunked(labels, label_sizes), **options)
    assert isinstance(whole.reflectance.data, da.Array)
    xr.testing.assert_identical(whole.load(), cut.load())


def test_buffers_are_metres_and_reach_across_chunks():
    codes = np.ones((1, 40, 50), np.uint8)
    codes[0, 20, 10], codes[0, 20, 25], codes[0, 20, 40] = 4, 3, 2
    cube, labels = make_pair(codes, bands=BANDS)
    lazy = chunked(cube, (1, 7, 9)), chunked(labels, (1, 7, 9))
    for step in (10, 20, 60):
        wider = [a.assign_coords(x=step * np.arange(50.0), y=-step * np.arange(40.0)) for a in lazy]
        got = plain(*wider, buffer_m={"cloud": 60, "shadow": 45}).observations.values[0]
        np.testing.assert_array_equal(got, brute_usable(cube, labels, 60, 45, step=step)[0])
    # In feet, too, buffers are metres.
    feet = [a.rio.write_crs("EPSG:2263", inplace=False) for a in lazy]
    got = plain(*feet, buffer_m={"cloud": 60, "shadow": 45}).observations.values[0]
    expected = brute_usable(cube, labels, 60, 45, step=10 * 0.3048006)[0]
    np.testing.assert_array_equal(got, expected)


def test_one_date_comes_back_as_it_is():
    cube, labels = make_scene((1, 6, 7))
    image = plain(cube[0], labels[0], method="best-pixel", **NONE)
    usable = brute_usable(cube, labels, 0, 0)
    np.testing.assert_array_equal(
        image.reflectance.values, np.where(usable[:, None], cube.values, np.nan)
    )


# --- time ---------------------------------------------------------------------------------------


def at(times, codes=None, period=None, **options):
    times = np.array(times, "M8[ns]")
    codes = np.ones((times.size, 1, 1)) if codes is None else codes
    cube, labels = make_pair(codes, bands=BANDS)
    cube = cube * xr.DataArray(np.arange(1, times.size + 1, dtype=np.float32), dims="time")
    cube = cube.assign_attrs(level="L2A")
    pair = cube.assign_coords(time=times), labels.assign_coords(time=times)
    return plain(*pair, period=period, **options)


def test_two_dates_of_one_day_and_of_one_moment_count_twice():
    image = at(["2022-06-02T10:10", "2022-06-02T10:10", "2022-06-02T10:20"], period="day")
    assert image.observations.values.tolist() == [[[3]]]
    np.testing.assert_allclose(image.reflectance.values.ravel(), 0.2)


def test_dates_in_any_order_give_the_same():
    image = at(["2022-06-20", "2022-06-02", "2022-07-01"], method="first-clear", period="month")
    np.testing.assert_allclose(image.reflectance.values[:, 0, 0, 0], [0.2, 0.3])
    assert image.date.values.ravel().astype("M8[D]").astype(str).tolist() == [
        "2022-06-02",
        "2022-07-01",
    ]


@pytest.mark.parametrize(
    ("period", "starts"),
    [
        ("month", ["2021-11-01", "2021-12-01", "2022-01-01"]),
        ("season", ["2021-09-01", "2021-12-01"]),
        ("year", ["2021-01-01", "2022-01-01"]),
        ("week", ["2021-11-29", *map(str, np.arange("2021-12-06", "2022-01-01", 7, "M8[D]"))]),
        ("2MS", ["2021-11-01", "2022-01-01"]),
        ("30D", ["2021-11-30", "2021-12-30"]),
    ],
)
def test_a_period_begins_with_its_first_moment_and_ends_before_the_next(period, starts):
    times = ["2021-11-30T23:59:59.999", "2021-12-01", "2021-12-31T23:59:59", "2022-01-01"]
    image = at(times, period=period)
    assert image.time.values.astype("M8[D]").astype(str).tolist() == starts
    bounds = image.time_bounds.values
    expected = [
        sum(start <= np.datetime64(time, "ns") < end for time in times) for start, end in bounds
    ]
    assert image.observations.values.ravel().tolist() == expected
    assert sum(expected) == 4
    assert (bounds[1:, 0] == bounds[:-1, 1]).all()


BEGINS = {
    "day": lambda _: True,
    "week": lambda day: day.weekday() == 0,
    "dekad": lambda day: day.day in (1, 11, 21),
    "month": lambda day: day.day == 1,
    "season": lambda day: day.day == 1 and day.month in (3, 6, 9, 12),
    "tropical-season": lambda day: day.day == 1 and day.month in (5, 11),
    "year": lambda day: (day.month, day.day) == (1, 1),
    "decade": lambda day: (day.year % 10, day.month, day.day) == (0, 1, 1),
    "decade-ad": lambda day: (day.year % 10, day.month, day.day) == (1, 1, 1),
}


@settings(max_examples=60)
@given(
    days=st.lists(st.integers(0, 1500), min_size=1, max_size=9),
    period=st.sampled_from(sorted(BEGINS)),
)
def test_periods_begin_on_the_days_of_the_calendar(days, period):
    times = np.sort(np.datetime64("2020-01-25T10:15:59", "ns") + np.array(days, "m8[D]"))
    edges = period_edges(times[0], times[-1], period)
    assert edges[0] <= times[0] < edges[1]
    assert edges[-2] <= times[-1] < edges[-1]
    between = np.arange(edges[0].astype("M8[D]"), edges[-1].astype("M8[D]") + 1)
    assert edges.tolist() == [
        day.astype("M8[ns]").astype(int) for day in between if BEGINS[period](day.item())
    ]
    if period in COMPOSED:
        groups = split_dates(times, period)
        assert [one.start for one in groups] == list(edges[:-1])
        assert [one.count for one in groups] == [
            ((start <= times) & (times < end)).sum() for start, end in pairwise(edges)
        ]


def test_the_hours_of_openeo_are_in_the_table_too():
    edges = period_edges(np.datetime64("2021-12-31T23:30"), np.datetime64("2022-01-01T00"), "hour")
    assert edges.astype("M8[h]").astype(str).tolist() == [
        "2021-12-31T23",
        "2022-01-01T00",
        "2022-01-01T01",
    ]
    assert set(PERIODS) == {*BEGINS, "hour"}


def test_a_month_without_dates_is_there_and_empty():
    image = at(["2022-06-02", "2022-08-02"], period="month").load()
    assert image.observations.values.ravel().tolist() == [1, 0, 1]
    assert image.never_clear.values.tolist() == [0, 0, 0]
    assert np.isnan(image.reflectance.values[1]).all()


# --- best pixel ---------------------------------------------------------------------------------


def half_clouded(edges, width=60):
    """Dates with cloud left of a column; date by date another one."""
    codes = np.ones((len(edges), 3, width), np.uint8)
    for date, edge in enumerate(edges):
        codes[date, :, :edge] = 4
    return make_pair(codes, bands=BANDS)


def chosen(image, cube):
    return np.searchsorted(cube.time.values, image.date.values[0])


def test_best_pixel_is_the_date_farthest_from_clouds_and_shadows():
    cube, labels = half_clouded([5, 2, 9])
    labels[1, :, 30] = 2  # a shadow on the date that is best elsewhere
    image = plain(cube, labels, method="best-pixel", ranking=Ranking(coverage=0), **NONE)
    metres = np.array(
        [
            np.minimum(ndimage.distance_transform_edt(~np.isin(codes, (2, 3, 4))) * 10, 200)
            for codes in labels.values
        ]
    )
    score = np.where(labels.values == 1, metres, -1)
    assert set(score.argmax(axis=0).ravel()) == {0, 1}
    np.testing.assert_array_equal(chosen(image, cube)[:, 2:], score.argmax(axis=0)[:, 2:])


def test_best_pixel_agrees_with_the_kernel_of_the_openeo_graph():
    """There the nearness of clouds is a Gaussian of the mask, and the lowest date wins."""
    rng = np.random.default_rng(3)
    codes = np.ones((3, 70, 70), np.uint8)
    for date, (y, x) in enumerate(rng.integers(15, 55, (3, 2))):
        codes[date, y - 6 : y + 7, x - 6 : x + 7] = 4
    cube, labels = make_pair(codes, bands=BANDS)
    image = plain(cube, labels, method="best-pixel", ranking=Ranking(coverage=0), **NONE)
    hidden = (codes != 1).astype(float)
    nearness = np.array(
        [ndimage.convolve(date, cloud_kernel(), mode="constant") for date in hidden]
    )
    assert (chosen(image, cube) == nearness.round(9).argmin(axis=0)).mean() > 0.95


def test_a_target_date_a_sure_network_and_coverage_each_decide_where_the_rest_is_equal():
    cube, labels = make_pair(np.ones((4, 2, 3)), bands=BANDS)
    day = str(cube.time.values[2])[:10]
    options = {"method": "best-pixel", **NONE}
    image = plain(cube, labels, ranking=Ranking(target=day), **options)
    assert (chosen(image, cube) == 2).all()
    middle = plain(cube[:3], labels[:3], ranking=Ranking(target="middle"), **options)
    assert (chosen(middle, cube) == 1).all()
    sure = np.full((4, 4, 2, 3), 0.2, np.float32)
    sure[3, 0] = 0.4
    names = ["clear", "cloud_shadow", "semi_transparent_cloud", "cloud"]
    probabilities = xr.DataArray(
        sure, dims=("time", "label", "y", "x"), coords={"time": cube.time, "label": names}
    )
    image = plain(cube, labels, probabilities=probabilities, **options)
    assert (chosen(image, cube) == 3).all()
    labels[[0, 2, 3], 0, 0] = 5  # hides a pixel, and has no distance
    image = plain(cube, labels, **options)
    assert (chosen(image, cube) == 1).all()
    told = labels.assign_coords(clear_fraction=("time", [0.1, 0.2, 0.9, 0.3]))
    assert (chosen(plain(cube, told, **options), cube).ravel()[1:] == 2).all()


def test_every_method_of_the_table_is_made_by_a_function():
    assert set(METHODS) == {*BLENDS, *PICKS}


# --- what it is ---------------------------------------------------------------------------------


def test_the_result_is_a_canonical_cube_that_says_how_it_was_made():
    cube, labels = make_scene((3, 5, 6))
    cube = cube.assign_coords(source_items=("time", ["a b", "c", "d"]))
    image = plain(cube, labels, method="mean", period="day")
    reflectance = image.reflectance
    assert (reflectance.dims, reflectance.dtype) == (("time", "band", "y", "x"), np.float32)
    assert reflectance.attrs["level"] == image.attrs["level"] == "L2A"
    assert image.rio.crs == reflectance.rio.crs == cube.rio.crs
    assert reflectance.rio.transform() == cube.rio.transform()
    assert image.band.values.tolist() == list(BANDS)
    assert image.source_items.values.tolist() == ["a b", "c", "d"]
    assert image.observations.dtype == np.uint16
    assert image.date.dtype == "M8[ns]"
    assert (image.attrs["buffer_cloud_m"], image.attrs["buffer_shadow_m"]) == (60, 40)
    assert image.attrs["kappamask_model"] == "own"
    again = plain(reflectance, labels.assign_coords(time=image.time), **NONE)
    assert again.reflectance.shape == (1, 3, 5, 6)


def test_nothing_is_computed_before_the_result_is():
    def refuse(_):
        raise AssertionError("a block was computed")

    cube, labels = make_scene((3, 40, 40))
    lazy = [
        array.copy(
            data=da.map_blocks(refuse, array.chunk().data, dtype=array.dtype, meta=array.data)
        )
        for array in (cube, labels)
    ]
    for method in METHODS:
        if method != "geomedian":
            plain(*lazy, method=method)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=4), st.integers(1, 400))
def test_blocks_cover_each_chunk_and_stay_within_their_size(sizes, layers):
    rows, columns = split_chunks((tuple(sizes), (512,)), layers=layers)
    assert (sum(rows), sum(columns)) == (sum(sizes), 512)
    assert set(np.cumsum(sizes)) <= set(np.cumsum(rows))
    edge = max(rows)
    assert edge <= LEAST_PX or edge**2 * layers * 4 <= 64 * 2**20


REFUSED = {
    "an unknown method": (lambda c, m: (c, m, {"method": "best"}), "unknown method 'best'"),
    "an unknown period": (lambda c, m: (c, m, {"period": "months"}), "unknown period 'months'"),
    "a period of ends": (lambda c, m: (c, m, {"period": "ME"}), "by their start, got 'ME'"),
    "a period of hours": (lambda c, m: (c, m, {"period": "12h"}), "whole days"),
    "an unknown buffer": (lambda c, m: (c, m, {"buffer_m": {"haze": 1}}), "unknown buffer 'haze'"),
    "a buffer below 0": (lambda c, m: (c, m, {"buffer_m": {"cloud": -1}}), "0 or more, got -1"),
    "another date": (lambda c, m: (c, m.assign_coords(time=m.time + 1), {}), "along time"),
    "fewer dates": (lambda c, m: (c, m[1:], {}), "got 2 and 1 along time"),
    "another place": (lambda c, m: (c, m.assign_coords(x=m.x + 10), {}), "along x"),
    "no ndvi": (lambda c, m: (c[:, :2], m, {"method": "max-ndvi"}), "needs B04 and B08"),
    "degrees": (lambda c, m: (c.rio.write_crs(4326), m, {}), "which has none"),
    "integer dates": (
        lambda c, m: (c.assign_coords(time=[1, 2]), m.assign_coords(time=[1, 2]), {}),
        r"datetime64 in UTC, none missing\), got int64",
    ),
    "float labels": (lambda c, m: (c, m.astype(float), {}), "uint8 class codes"),
    "no labels": (lambda c, _: (c, None, {}), "must be xarray.DataArray, got NoneType"),
    "probabilities without labels": (
        lambda c, m: (c, m, {"method": "best-pixel", "probabilities": c}),
        "with the label 'clear'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case):
    change, message = REFUSED[case]
    cube, labels, options = change(*make_scene((2, 3, 3)))
    with pytest.raises((InputError, UnknownNameError), match=message):
        plain(cube, labels, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distance": -1}, "0 or more"),
        ({"reach_m": 0}, "above 0"),
        ({"target": "../2022"}, "start"),
    ],
)
def test_a_ranking_that_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Ranking(**arguments)


# --- real pixels --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bolzano_june(shared_data):
    """All twelve dates over 300 x 300 px of the scene that 2022-06-02 covers with cloud."""
    cube = bolzano.read_cube(shared_data / "bolzano", rows=slice(280, 580), columns=slice(100, 400))
    return cube, km.predict_cube(cube).load()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("method", "error"),
    # Median difference from one clear date: what the sun and the air of other dates change.
    [("median", 0.005), ("medoid", 0.005), ("geomedian", 0.005), ("best-pixel", 0.01)],
)
def test_june_over_bolzano_shows_neither_cloud_nor_shadow(bolzano_june, method, error):
    if method == "geomedian":
        pytest.importorskip("geomad")
    cube, labels = bolzano_june
    assert (labels[0] == Label.CLOUD).mean() > 0.1  # there is something to take away
    image = km.composite(cube, labels, method=method, period="month").load()
    clear = cube.sel(time="2022-06-20").isel(time=0)
    seen = image.reflectance[0].notnull().all("band")
    assert seen.mean() > 0.98
    apart = np.abs(image.reflectance[0] - clear).where(seen)
    assert float(apart.median()) < error
    # Nothing as white as a cloud, or as dark as its shadow, that 06-20 does not show too.
    blue, before = image.reflectance[0].sel(band="B02"), clear.sel(band="B02")
    assert float(((blue > 0.25) & (before < 0.15)).mean()) < 0.001
    infrared, before = image.reflectance[0].sel(band="B08"), clear.sel(band="B08")
    assert float(((infrared < 0.5 * before) & (before > 0.15)).mean()) < 0.002


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda codes: codes.copy(data=np.full_like(codes, 11)), "codes up to 11"),
        (lambda codes: codes.rename("SCL"), "the name SCL"),
        (
            lambda codes: codes.assign_attrs(flag_meanings="no_data saturated cast_shadows"),
            "classes named no_data, saturated, cast_shadows",
        ),
    ],
)
def test_codes_of_another_mask_are_refused(labels, message):
    cube, codes = make_pair(np.ones((2, 3, 3)))
    with pytest.raises(InputError, match=f"codes of kappamask.Label.*got {message}"):
        plain(cube, labels(codes))


def test_lazy_codes_of_another_mask_are_refused_when_they_are_computed():
    cube, codes = make_pair(np.full((2, 3, 3), 8))
    image = plain(cube, codes.chunk(), buffer_m=None)
    with pytest.raises(InputError, match=r"codes of kappamask.Label.*got 8"):
        image.compute()


def test_a_number_is_the_buffer_around_clouds_and_shadows():
    cube, codes = make_pair(np.array([[[4, 1, 1, 1, 2]]]))
    named, number = (
        plain(cube, codes, buffer_m=buffer).observations.values.tolist()
        for buffer in ({"cloud": 10, "shadow": 10}, 10)
    )
    assert number == named
    with pytest.raises(InputError, match="metres by name"):
        plain(cube, codes, buffer_m="10")
