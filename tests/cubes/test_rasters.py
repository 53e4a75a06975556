"""Windows of files on another grid: brute force says what every pixel is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask.base.errors import InputError
from kappamask.base.windows import Grid
from kappamask.cubes.native import BandOnGrid
from kappamask.scenes.scene import BandFile

SIZES = st.sampled_from([10, 20, 60])


def make_file(*, gsd, left, shape, dn_offset):
    """One band whose upper edge lies at 0."""
    height, width = shape
    grid = {"gsd": gsd, "left": left, "top": 0, "height": height, "width": width}
    return BandFile(band="B02", href="B02.jp2", dn_offset=dn_offset, scale=1e-4, **grid)


class ArrayReader:
    """DN of one band in memory; refuses to read beyond it."""

    def __init__(self, dn):
        self.dn = dn

    def read(self, band, rows, columns):
        assert band == "B02"
        for span, size in zip((rows, columns), self.dn.shape, strict=True):
            assert 0 <= span.start < span.stop <= size
        return self.dn[rows, columns]


def brute_force(dn, file, grid):
    """Look up, pixel by pixel, the mean of the file's pixels that a pixel of the grid holds."""
    step = grid.resolution / max(1, round(grid.resolution / file.gsd))  # of points that are asked
    count = round(grid.resolution / step)
    wanted = np.full((grid.height, grid.width), np.nan)
    for row, column in np.ndindex(wanted.shape):
        found = []
        for i, j in np.ndindex(count, count):
            y = grid.top - row * grid.resolution - (i + 0.5) * step
            x = grid.left + column * grid.resolution + (j + 0.5) * step
            place = int((file.top - y) // file.gsd), int((x - file.left) // file.gsd)
            if 0 <= place[0] < dn.shape[0] and 0 <= place[1] < dn.shape[1] and dn[place]:
                found.append(int(dn[place]))
        if found:
            mean = np.floor(np.mean(found) + 0.5)
            wanted[row, column] = (mean + file.dn_offset) * file.scale
    return wanted


@given(data=st.data(), gsd=SIZES, resolution=SIZES)
def test_every_window_is_what_lies_there(data, gsd, resolution):
    fine = min(gsd, resolution)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dn = rng.integers(0, 5, data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9))))
    dn = (dn * 1000).astype(np.uint16)
    left, top = (data.draw(st.integers(-12, 12)) * fine for _ in range(2))
    height, width = (data.draw(st.integers(1, 14)) for _ in range(2))
    file = make_file(gsd=gsd, left=0, shape=dn.shape, dn_offset=-1000)
    grid = Grid(32632, resolution, left, top, height, width)
    rows, columns = (
        slice(*sorted(data.draw(st.tuples(st.integers(0, size - 1), st.just(size)))))
        for size in (height, width)
    )
    found = BandOnGrid.fit(file, grid).read(ArrayReader(dn), rows, columns)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, brute_force(dn, file, grid)[rows, columns], rtol=1e-5)


def test_pixels_that_do_not_meet_edge_on_edge_are_refused():
    file = make_file(gsd=10, left=5, shape=(9, 9), dn_offset=0)
    with pytest.raises(InputError, match="edge on edge"):
        BandOnGrid.fit(file, Grid(32632, 10, 0, 0, 4, 4))
