"""The lattice: every pixel once, anchored, with its margin (invariant 1, geometry)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask.base.errors import InputError
from kappamask.base.windows import LATTICE, Lattice, plan_axis, plan_windows

SMALL = Lattice(core=96, margin=32, whole=128, stride=32)
lengths = st.integers(1, 2000)
origins = st.integers(-(10**6), 10**6)


@given(lengths, lengths, origins, origins)
def test_every_pixel_is_labelled_exactly_once(height, width, row, column):
    count = np.zeros((height, width), int)  # brute force
    for window in plan_windows(height, width, origin=(row, column), lattice=SMALL):
        count[window.rows.core, window.columns.core] += 1
    assert (count == 1).all()


@given(lengths, origins)
def test_windows_read_their_margin_and_begin_on_the_networks_grid(length, origin):
    for span in plan_axis(length, origin=origin, lattice=SMALL):
        assert span.read_start == max(0, span.start - SMALL.margin)
        assert span.read_stop == min(length, span.stop + SMALL.margin)
        assert (origin + span.read_start - span.pad_before) % SMALL.stride == 0
        assert span.size % SMALL.stride == 0
        at_edges = (span.read_start == 0, span.read_stop == length)
        for pad, at_edge in zip((span.pad_before, span.pad_after), at_edges, strict=True):
            assert SMALL.mirror * at_edge <= pad < SMALL.stride + SMALL.mirror * at_edge
        cropped = np.arange(length)[span.read][span.crop]
        np.testing.assert_array_equal(cropped, np.arange(span.start, span.stop))


@given(st.integers(129, 2000), origins, st.integers(1, 500))
def test_cuts_stay_where_they_are_on_the_ground_when_the_area_moves(length, origin, shift):
    def cuts(start):
        spans = plan_axis(length, origin=start, lattice=SMALL)
        return {start + span.start for span in spans[1:]}

    both = range(origin + shift + 1, origin + length)
    assert cuts(origin) & set(both) == cuts(origin + shift) & set(both)


def test_a_whole_product_costs_at_most_1_4_times_its_pixels():
    windows = list(plan_windows(10980, 10980, origin=(-520002, 39996)))
    computed = sum(window.rows.size * window.columns.size for window in windows)
    assert computed / 10980**2 < 1.4


def test_an_area_up_to_2048_px_is_one_window():
    assert len(list(plan_windows(2048, 2048, origin=(700, 900)))) == 1
    assert len(plan_axis(2049)) == 2


def test_an_empty_axis_is_refused():
    with pytest.raises(InputError, match="at least one pixel, got an empty axis"):
        plan_axis(0)


def test_a_lattice_off_the_networks_grid_is_refused():
    with pytest.raises(InputError, match="multiples of the stride 32, got 1500, 128, 64 and 32"):
        Lattice(core=1500)
    assert LATTICE.core % 6 == 0  # whole 20 m and 60 m pixels


def test_margins_of_a_tile_cost_a_fifth():
    """Over all places on the lattice; what the network sees is counted, mirrored edges too."""
    factors = [
        sum(span.size for span in plan_axis(10980, origin=origin)) / 10980
        for origin in range(0, LATTICE.core, 97)
    ]
    assert np.mean(factors) ** 2 <= 1.2
    assert max(factors) ** 2 <= 1.23


def test_seams_are_narrower_than_what_is_read_beside_an_area():
    first, *_, last = plan_axis(5000, beside=(500, 500))
    assert (first.read_start, last.read_stop) == (-128, 5128)
    assert first.read_stop - first.stop == last.start - last.read_start == 64
