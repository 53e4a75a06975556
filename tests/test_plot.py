"""`kappamask.plot`: pictures, read back with Pillow."""

import resource
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

import dask.array as da
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kappamask import plot
from kappamask.errors import InputError, WriteError
from kappamask.legend import LEGEND
from kappamask.plot import (
    Layout,
    block_mean,
    outlined,
    quicklook,
    quicklooks,
    reduce_labels,
    true_color,
)

COLORS = {int(entry.label): entry.rgb for entry in LEGEND}


def make_pair(
    codes, reflectance=0.1, *, crs="EPSG:32632", level="L2A", bands=("B02", "B03", "B04")
):
    """A cube (time, band, y, x) of one reflectance and its labels (time, y, x)."""
    codes = np.asarray(codes, dtype=np.uint8)
    count, rows, columns = codes.shape
    step = 10 if crs == "EPSG:32632" else 1e-4
    coords = {
        "time": np.datetime64("2022-06-02T10:15:59", "ns")
        + np.arange(count) * np.timedelta64(1, "D"),
        "y": (5154955 if step == 10 else 46) - step * np.arange(rows),
        "x": (674995 if step == 10 else 11) + step * np.arange(columns),
    }
    values = np.full((count, len(bands), rows, columns), reflectance, dtype=np.float32)
    cube = xr.DataArray(
        values,
        dims=("time", "band", "y", "x"),
        coords={**coords, "band": list(bands)},
        attrs={"level": level},
    )
    labels = xr.DataArray(
        codes,
        dims=("time", "y", "x"),
        coords=coords,
        attrs={"level": level, "kappamask_model": "own"},
    )
    return cube.rio.write_crs(crs), labels.rio.write_crs(crs)


def read_png(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def panel(picture, number, shape):
    """The pixels of one panel without the 2 that its frame covers."""
    layout = Layout(*shape)
    x, y = layout.corner(number)
    width, height = layout.panel
    return picture[y : y + height, x : x + width], layout.zoom


def inner(pixels):
    return pixels[2:-2, 2:-2]


@pytest.mark.parametrize(
    "shape", [(40, 60), (100, 100), (700, 900), (601, 1199), (90, 400), (1, 7)]
)
def test_each_label_is_painted_in_its_colour_where_it_lies(tmp_path, shape):
    codes = np.random.default_rng(0).integers(0, 6, shape, dtype=np.uint8)
    cube, labels = make_pair(codes[None])
    picture = read_png(quicklook(cube, labels, tmp_path / "q.png"))
    layout = Layout(*shape)
    assert picture.shape == (layout.height, layout.width, 3)
    painted, zoom = panel(picture, 1, shape)
    expected = np.array([COLORS[code] for code in range(6)], np.uint8)[codes]
    expected = expected.repeat(zoom, 0).repeat(zoom, 1)
    np.testing.assert_array_equal(inner(painted), inner(expected))


def test_true_colour_is_fixed_white_for_cloud_and_black_for_missing(tmp_path):
    cube, labels = make_pair(np.ones((1, 60, 60)))
    cube[0, :, :20] = 0.45  # a thin water cloud; snow too
    cube[0, 0, 40:, :30] = np.nan  # one band is enough
    picture = read_png(quicklook(cube, labels, tmp_path / "q.png"))
    painted, zoom = panel(picture, 0, (60, 60))
    middle = painted[zoom // 2 :: zoom, zoom // 2 :: zoom]
    assert (middle[:20] == 255).all()
    assert (middle[40:, :30] == 0).all()
    # 0.1 of 0.4, gamma 1.8
    assert (middle[20:40] == round(255 * 0.25 ** (1 / 1.8))).all()
    # The stretch does not look at the scene.
    dark, labels = make_pair(np.ones((1, 60, 60)))
    alone = read_png(quicklook(dark, labels, tmp_path / "dark.png"))
    assert (panel(alone, 0, (60, 60))[0][30, 30] == middle[30, 30]).all()


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


def test_outlines_stand_at_the_edges_of_clouds_and_shadows(tmp_path):
    codes = np.ones((1, 60, 60), np.uint8)
    codes[0, 10:30, 10:30] = 4
    codes[0, 14:26, 14:26] = 3  # thin cloud inside thick cloud is no edge
    codes[0, 40:, 40:] = 2
    cube, labels = make_pair(codes)
    picture = read_png(quicklook(cube, labels, tmp_path / "q.png"))
    painted, zoom = panel(picture, 2, (60, 60))
    plain, _ = panel(picture, 0, (60, 60))
    changed = np.zeros(painted.shape[:2], bool)
    inner(changed)[:] = inner((painted != plain).any(axis=-1))
    assert set(map(tuple, painted[changed].tolist())) == {(255, 212, 0), (255, 45, 149)}
    rows, columns = np.nonzero(changed)
    cloud = (rows < 35 * zoom) & (columns < 35 * zoom)
    assert (rows[cloud].min(), rows[cloud].max()) == (10 * zoom, 30 * zoom - 1)
    assert not changed[15 * zoom : 25 * zoom, 15 * zoom : 25 * zoom].any()


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


def test_a_large_scene_is_reduced_to_the_size_asked_for(tmp_path):
    codes = np.ones((1, 500, 740), np.uint8)
    codes[0, :, 370:] = 2
    cube, labels = make_pair(codes)
    picture = read_png(quicklook(cube, labels, tmp_path / "q.png", max_px=200))
    layout = Layout(125, 185)  # by 4
    assert picture.shape == (layout.height, layout.width, 3)
    painted, zoom = panel(picture, 1, (125, 185))
    assert tuple(painted[60 * zoom, 91 * zoom]) == COLORS[1]
    assert tuple(painted[60 * zoom, 93 * zoom + 1]) == COLORS[2]


def texts(monkeypatch):
    """Collect the figures that are drawn, to read their words."""
    figures, save = [], plot._save
    monkeypatch.setattr(
        plot, "_save", lambda figure, path: figures.append(figure) or save(figure, path)
    )
    return figures


def test_title_legend_and_axes_say_what_is_seen(tmp_path, monkeypatch):
    figures = texts(monkeypatch)
    codes = np.ones((1, 200, 300), np.uint8)
    codes[0, :50] = 4
    codes[0, 199, 299] = 2
    cube, labels = make_pair(codes)
    quicklook(cube, labels, tmp_path / "q.png", title="Bolzano")
    (figure,) = figures
    assert (
        figure.texts[-1].get_text() == "Bolzano · Sentinel-2 L2A · 2022-06-02 10:15 UTC · model own"
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "clear 75.0 %",
        "cloud shadow < 0.1 %",
        "semi-transparent cloud 0.0 %",
        "cloud 25.0 %",
        "missing 0.0 %",
        "cloud outline",
        "shadow outline",
    ]
    first = figure.axes[0]
    assert (first.get_xlim(), first.get_ylim()) == ((0, 3), (0, 2))
    assert first.get_xlabel() == first.get_ylabel() == "km"


@pytest.mark.parametrize(
    ("crs", "unit", "across"), [("EPSG:4326", "degrees", 0.003), (None, "pixels", 30)]
)
def test_without_metres_the_axes_are_in_what_is_known(tmp_path, monkeypatch, crs, unit, across):
    figures = texts(monkeypatch)
    cube, labels = make_pair(np.ones((1, 20, 30)), crs=crs or "EPSG:4326")
    if crs is None:
        cube, labels = cube.drop_vars("spatial_ref"), labels.drop_vars("spatial_ref")
    quicklook(cube, labels, tmp_path / "q.png")
    (axes, *_) = figures[0].axes
    assert axes.get_xlabel() == unit
    assert axes.get_xlim()[1] == pytest.approx(across)


def test_the_words_of_a_narrow_scene_stay_inside_the_picture(tmp_path, monkeypatch):
    figures = texts(monkeypatch)
    for number, shape in enumerate([(600, 7), (7, 600), (1, 1), (300, 300)]):
        cube, labels = make_pair(np.zeros((1, *shape)))
        quicklook(cube, labels, tmp_path / f"{number}.png")
        figure = figures[-1]
        width, height = figure.bbox.size
        for thing in [*figure.texts, figure.legends[0]]:
            box = thing.get_window_extent(figure.canvas.get_renderer())
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height


def test_a_picture_is_the_same_each_time_lazy_or_loaded_south_or_north_up(tmp_path):
    codes = np.random.default_rng(0).integers(0, 6, (1, 50, 40), dtype=np.uint8)
    cube, labels = make_pair(codes)
    cube = cube.copy(data=np.random.default_rng(1).random(cube.shape, dtype=np.float32))
    lazy = cube.copy(data=da.from_array(cube.values, chunks=17))
    up = slice(None, None, -1)
    pictures = [
        quicklook(*pair, tmp_path / f"{number}.png").read_bytes()
        for number, pair in enumerate(
            [
                (cube, labels),
                (cube[0], labels[0]),
                (lazy, labels),
                (cube.isel(y=up), labels.isel(y=up)),
            ]
        )
    ]
    assert len(set(pictures)) == 1


def test_quicklooks_draw_one_date_after_the_other_under_the_masks_names(tmp_path):
    events = []

    def compute(block_info=None):
        events.append(f"compute {block_info[None]['chunk-location'][0]}")
        return np.ones((1, 9, 9), np.uint8)

    cube, labels = make_pair(np.ones((3, 9, 9)))
    blocks = da.map_blocks(
        compute, chunks=((1,) * 3, (9,), (9,)), dtype="uint8", meta=np.empty((0, 0, 0), "uint8")
    )
    labels = labels.copy(data=blocks).assign_coords(source_items=("time", ["S2A_T32TPS_a"] * 3))
    paths = quicklooks(
        cube, labels, tmp_path, progress=lambda path: events.append(path.name[10:18])
    )
    assert events == [
        *("compute 0", "20220602"),
        *("compute 1", "20220603"),
        *("compute 2", "20220604"),
    ]
    assert paths[0].name == "kappamask_20220602T101559_T32TPS_L2A.png"
    assert sorted(tmp_path.iterdir()) == paths


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


def test_a_date_that_the_cube_lacks_is_named(tmp_path):
    cube, labels = make_pair(np.ones((2, 6, 6)))
    with pytest.raises(InputError, match="2022-06-03"):
        quicklooks(cube.isel(time=[0]), labels, tmp_path)
    with pytest.raises(InputError, match="use quicklook for one date"):
        quicklooks(cube[0], labels[0], tmp_path)


@contextmanager
def file_size_limit(size):
    """The system refuses to let any file grow beyond size: a full disk without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_old_picture_stays_when_the_new_one_cannot_be_written(tmp_path):
    cube, labels = make_pair(np.ones((1, 6, 6)))
    path = quicklook(cube, labels, tmp_path / "q.png")
    before = path.read_bytes()
    message = r"File too large for .*q\.png: free some"
    with file_size_limit(2048), pytest.raises(WriteError, match=message):
        quicklook(cube, labels * np.uint8(4), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_matplotlibs_global_state_is_left_alone():
    code = "import kappamask.plot, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.shared
def test_the_bolzano_clouds_are_white_in_both_panels(tmp_path, shared_data):
    folder = shared_data / "bolzano" / "S2_L2A_20220602"
    bands = []
    for name in ("B02", "B03", "B04"):
        with rasterio.open(folder / f"{name}.tif") as raster:
            dn = raster.read(1).astype(np.float32)
        bands.append(np.where(dn == 0, np.nan, (dn - 1000) / 10000))
    codes = read_unreferenced(folder / "label.tif")
    cube, labels = make_pair(codes[None])
    cube = cube.copy(data=np.stack(bands)[None])
    picture = read_png(quicklook(cube, labels, tmp_path / "q.png"))
    seen, zoom = panel(picture, 0, codes.shape)
    painted, _ = panel(picture, 1, codes.shape)
    assert zoom == 1
    assert np.median(seen[codes == 4]) > 240
    assert np.median(seen[codes == 1]) < 130
    for code in (1, 2, 3, 4):
        where = inner(codes) == code
        assert (inner(painted)[where] == COLORS[code]).all()


def read_unreferenced(path):
    """label.tif says nothing of where it lies, and rasterio warns of that."""
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path) as raster:
        return raster.read(1)
