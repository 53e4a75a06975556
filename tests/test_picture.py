"""`kappamask.plot.picture`: pixels to colours, held against brute force."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.labels import make_pair

from kappamask.base.errors import InputError
from kappamask.plot import quicklook
from kappamask.plot.picture import block_mean, outlined, reduce_labels, true_color


def test_bands_are_shown_in_their_own_colour_whatever_their_order():
    cube, _ = make_pair(np.ones((1, 3, 3)), bands=("B08", "B02", "B04", "B03"))
    cube.loc[{"band": "B04"}] = 0.5
    cube.loc[{"band": "B02"}] = 0.0
    red, green, blue = true_color(cube[0], level="L2A")[1, 1]
    assert (red, blue) == (255, 0)
    assert 0 < green < 255


def test_l1c_is_drawn_without_the_light_of_the_air():
    cube, _ = make_pair(np.ones((1, 3, 3)), bands=("B04", "B03", "B02"))
    cube[0] = np.array([0.02, 0.04, 0.07])[:, None, None]
    assert (true_color(cube[0], level="L1C") == 0).all()
    assert (true_color(cube[0], level="L2A") > 40).all()


def test_the_border_of_the_picture_is_no_outline():
    codes = np.ones((9, 9), np.uint8)
    codes[4:, 4:] = 2
    drawn = outlined(np.zeros((9, 9, 3), np.uint8), codes, width=1).any(axis=-1)
    expected = np.zeros((9, 9), bool)
    expected[4, 4:] = expected[4:, 4] = True
    np.testing.assert_array_equal(drawn, expected)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    factor=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_reducing_takes_the_most_frequent_label_and_the_mean(rows, columns, factor, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 6, (rows, columns), dtype=np.uint8)
    values = rng.random((rows, columns))
    values[rng.random((rows, columns)) < 0.4] = np.nan
    small, mean = reduce_labels(codes, factor=factor), block_mean(values, factor=factor)
    assert small.shape == mean.shape == (-(-rows // factor), -(-columns // factor))
    for (i, j), got in np.ndenumerate(small):
        block = np.s_[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        votes = Counter(codes[block].ravel().tolist())
        assert votes[int(got)] == max(votes.values())
        seen = values[block][~np.isnan(values[block])]
        expected = seen.mean() if seen.size else np.nan
        np.testing.assert_allclose(mean[i, j], expected)


def other(labels, **coords):
    return labels.assign_coords(coords)


REFUSED = {
    "two dates": (lambda c, m: (c, m), "one date, got 2 in cube"),
    "no red": (lambda c, m: (c[0].sel(band=["B02", "B03"]), m[0]), "lacks B04"),
    "another size": (lambda c, m: (c[0], m[0, 1:]), "same pixels, got 6 and 5 along y"),
    "another place": (lambda c, m: (c[0], other(m[0], x=m.x + 10)), "same pixels"),
    "dn": (lambda c, m: (c[0] * 10000, m[0]), "reflectance, 1.0 = 100 %, got values up to 1000"),
    "no band dim": (lambda c, m: (c[0, 0], m[0]), r"cube \(band, y, x\)"),
    "float labels": (lambda c, m: (c[0], m[0].astype(float)), "uint8 class codes"),
    "a code too high": (lambda c, m: (c[0], m[0] + np.uint8(9)), "0 to 5, got 10"),
    "no pixels": (lambda c, m: (c[0, :, :0], m[0, :0]), "one pixel or more"),
    "no level": (
        lambda c, m: (c[0].assign_attrs(level=None), m[0].assign_attrs(level=None)),
        "level",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, case):
    change, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        quicklook(*change(*make_pair(np.ones((2, 6, 6)))), tmp_path / "q.png")
    assert not list(tmp_path.iterdir())
