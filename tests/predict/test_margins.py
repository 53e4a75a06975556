"""What lies beside an area is seen by the network: small fields get the labels of large cubes."""

import numpy as np
import pytest
import xarray as xr
from pyproj import Transformer
from shapely import box
from shapely.ops import transform

from kappamask import load_cube, predict_cube, search
from kappamask.sample import AREA_L2A, catalog_path

DAY = "2019-07-16"  # a fifth is shadow, a quarter cloud


@pytest.fixture(scope="module")
def items():
    return search(AREA_L2A, DAY, catalog=catalog_path(), level="L2A")


@pytest.fixture(scope="module")
def large(items):
    """The whole item, its cube and its labels."""
    cube = load_cube(items)
    return cube, predict_cube(cube).compute()


def part_of(cube, rows, columns):
    """An area in degrees that covers these pixels of a cube and no others."""
    there = Transformer.from_crs(cube.rio.crs, 4326, always_xy=True)
    part = cube.isel(y=rows, x=columns)
    left, right, low, high = (float(f(part[d])) for d in "xy" for f in (np.min, np.max))
    # not through centres: whether those lie inside would be a matter of rounding
    return transform(there.transform, box(left, low, right, high).buffer(2, join_style="mitre"))


def test_a_small_area_gets_the_labels_that_it_has_in_a_large_cube(items, large):
    cube, labels = large
    agreed = {0: [], 128: []}
    for row, column in ((20, 20), (40, 45), (60, 30)):
        area = part_of(cube, slice(row, row + 24), slice(column, column + 24))
        for margin, shares in agreed.items():
            small = load_cube(items, area, margin=margin)
            assert small.shape[2:] == (24, 24)
            expected = labels.sel(y=small.y, x=small.x)
            shares.append(float((predict_cube(small).values == expected.values).mean()))
    assert min(agreed[128]) >= 0.98
    assert np.mean(agreed[128]) > np.mean(agreed[0])


def test_loaded_or_cut_the_same_pixels_are_seen(items, large):
    cube, _ = large
    small = load_cube(items, part_of(cube, slice(20, 84), slice(15, 85)))
    lazily = predict_cube(small).values
    assert (predict_cube(small.load()).values == lazily).all()
    inner = predict_cube(small.isel(y=slice(20, 40), x=slice(20, 44))).values
    assert np.mean(inner == lazily[:, 20:40, 20:44]) >= 0.98
    alone = predict_cube(small.sel(band=["B02", "B03", "B04", "B08"]).isel(time=0))
    assert alone.shape == lazily.shape[1:]


def test_without_a_margin_or_with_other_values_nothing_beside_is_seen(items, large):
    cube, _ = large
    area = part_of(cube, slice(30, 62), slice(40, 72))
    small, bare = load_cube(items, area).load(), load_cube(items, area, margin=0).load()
    xr.testing.assert_equal(small, bare)
    expected = predict_cube(bare).values
    computed = (small * np.float32(1)).assign_attrs(small.attrs)
    assert (predict_cube(computed).values == expected).all()
    dark = small.copy(data=np.full_like(small.values, np.nan))  # never those that were loaded
    assert (predict_cube(dark).values == 5).all()


def test_chunks_of_an_area_do_not_change_its_labels(items, large):
    cube, _ = large
    area = part_of(cube, slice(10, 90), slice(5, 95))
    whole, cut = load_cube(items, area), load_cube(items, area, chunks=48)
    assert len(cut.chunks[2]) > 1
    assert (predict_cube(whole).values == predict_cube(cut).values).all()
    xr.testing.assert_equal(whole, cut)
