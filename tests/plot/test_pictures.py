"""`kappamask.plot`: pictures, read back with Pillow, and their words from the figures."""

import base64
import io
import json
import subprocess
import sys
from collections import Counter

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.labels import file_size_limit, make_item, make_labels, make_pair, read_unreferenced
from support.safe_products import Recipe, write_safe

import kappamask as km
from kappamask.base.errors import InputError, WriteError
from kappamask.base.legend import LEGEND, Label
from kappamask.cubes.rasters import FileReader
from kappamask.jobs import MaskOptions, loop, mask_products
from kappamask.plot.picture import CASING, OUTLINES, block_mean, outlined, reduce_labels, true_color
from kappamask.plot.scene import Sheet
from kappamask.plot.series import CLEAR

COLORS = np.array([entry.rgb for entry in LEGEND], np.uint8)
UP = slice(None, None, -1)


class Drawn:
    """The figure of a sheet, with what stands on the sheet below it first."""

    def __init__(self, sheet):
        sheets = [one for one in (sheet.below, sheet) if one is not None]
        self.bbox, self.canvas = sheet.figure.bbox, sheet.figure.canvas
        for kind in ("axes", "texts", "legends"):
            setattr(self, kind, [part for one in sheets for part in getattr(one.figure, kind)])


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in order."""
    kept, save = [], Sheet.save

    def keep(sheet, path):
        path = save(sheet, path)
        kept.append(Drawn(sheet))
        return path

    monkeypatch.setattr(Sheet, "save", keep)
    return kept


def read_png(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def panel(path, figure, number, rows):
    """The pixels of one panel, and how many of them are one of the raster."""
    box = figure.axes[number].bbox
    x0, y0, x1, y1 = (round(edge) for edge in (box.x0, box.y0, box.x1, box.y1))
    picture = read_png(path)
    pixels = picture[len(picture) - y1 : len(picture) - y0, x0:x1]
    return pixels, len(pixels) // rows


def inner(pixels):
    """All but what the frame covers."""
    return pixels[2:-2, 2:-2]


def words(figure):
    return [text.get_text() for text in figure.texts]


def boxes(figure):
    return [text.get_window_extent(figure.canvas.get_renderer()) for text in figure.texts]


def legend_of(figure):
    """Names of the legend, each with the number that stands next to it on its line, if any."""
    renderer = figure.canvas.get_renderer()
    numbers = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.texts
        if text.get_text().endswith(" %")
    ]
    said = []
    for text in figure.legends[0].get_texts():
        name, box = text.get_text(), text.get_window_extent(renderer)
        beside = [
            number
            for number, other in numbers
            if abs(other.y0 - box.y0) < 1.5 and 0 < other.x0 - box.x1 < 12
        ]
        said.append(" ".join([name, *beside]))
    return said


def inside(figure):
    """Whether no word leaves the picture."""
    width, height = figure.bbox.size
    renderer = figure.canvas.get_renderer()
    found = boxes(figure) + [legend.get_window_extent(renderer) for legend in figure.legends]
    return all(0 <= b.x0 < b.x1 <= width and 0 <= b.y0 < b.y1 <= height for b in found)


# --- one date -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(40, 60), (100, 100), (700, 900), (601, 1199), (90, 400), (1, 7)]
)
def test_each_label_is_painted_in_its_colour_where_it_lies(tmp_path, figures, shape):
    codes = np.random.default_rng(0).integers(0, 6, shape, dtype=np.uint8)
    cube, labels = make_pair(codes[None])
    path = km.quicklook(cube, labels, tmp_path / "q.png")
    painted, zoom = panel(path, figures[0], 1, shape[0])
    expected = COLORS[codes].repeat(zoom, 0).repeat(zoom, 1)
    np.testing.assert_array_equal(inner(painted), inner(expected))


def test_true_colour_is_fixed_white_for_cloud_and_black_for_missing(tmp_path, figures):
    cube, labels = make_pair(np.ones((1, 60, 60)))
    cube[0, :, :20] = 0.45  # a thin water cloud; snow too
    cube[0, 0, 40:, :30] = np.nan  # one band is enough
    path = km.quicklook(cube, labels, tmp_path / "q.png")
    painted, zoom = panel(path, figures[0], 0, 60)
    middle = painted[zoom // 2 :: zoom, zoom // 2 :: zoom]
    assert (middle[:20] > 230).all()
    assert (middle[40:, :30] == 0).all()
    # 0.1 of 0.4, gamma 1.8
    assert (middle[20:40] == round(255 * 0.25 ** (1 / 1.8))).all()
    # The stretch does not look at the scene.
    path = km.quicklook(*make_pair(np.ones((1, 60, 60))), tmp_path / "dark.png")
    assert (panel(path, figures[1], 0, 60)[0][30, 30] == middle[30, 30]).all()


def test_outlines_stand_at_the_edges_of_clouds_and_shadows(tmp_path, figures):
    codes = np.ones((1, 60, 60), np.uint8)
    codes[0, 10:30, 10:30] = 4
    codes[0, 14:26, 14:26] = 3  # thin cloud inside thick cloud is no edge
    codes[0, 40:, 40:] = 2
    path = km.quicklook(*make_pair(codes), tmp_path / "q.png")
    painted, zoom = panel(path, figures[0], 2, 60)
    plain, _ = panel(path, figures[0], 0, 60)
    changed = np.zeros(painted.shape[:2], bool)
    inner(changed)[:] = inner((painted != plain).any(axis=-1))
    assert set(map(tuple, painted[changed].tolist())) == {(255, 212, 0), (255, 45, 149), CASING}
    rows, columns = np.nonzero(changed)
    cloud = (rows < 35 * zoom) & (columns < 35 * zoom)
    assert (rows[cloud].min(), rows[cloud].max()) == (10 * zoom, 30 * zoom - 1)
    assert not changed[15 * zoom : 25 * zoom, 15 * zoom : 25 * zoom].any()


def test_a_large_scene_is_reduced_to_the_size_asked_for(tmp_path, figures):
    codes = np.ones((1, 500, 740), np.uint8)
    codes[0, :, 370:] = 2
    path = km.quicklook(*make_pair(codes), tmp_path / "q.png", max_px=200)
    painted, zoom = panel(path, figures[0], 1, 125)  # by 4
    assert painted.shape[:2] == (125 * zoom, 185 * zoom)
    assert tuple(painted[60 * zoom, 91 * zoom]) == LEGEND[1].rgb
    assert tuple(painted[60 * zoom, 93 * zoom + 1]) == LEGEND[2].rgb


def test_title_legend_and_axes_say_what_is_seen(tmp_path, figures):
    codes = np.ones((1, 200, 300), np.uint8)
    codes[0, :50] = 4
    codes[0, 199, 299] = 2
    km.quicklook(*make_pair(codes), tmp_path / "q.png", title="Bolzano")
    (figure,) = figures
    assert words(figure)[-1].splitlines() == [
        "Bolzano",
        "Sentinel-2 L2A · 2022-06-02 10:15 UTC · 46.516° N 11.301° E · model own",
    ]
    assert legend_of(figure) == [
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
def test_without_metres_the_axes_are_in_what_is_known(tmp_path, figures, crs, unit, across):
    cube, labels = make_pair(np.ones((1, 20, 30)), crs=crs or "EPSG:4326")
    if crs is None:
        cube, labels = cube.drop_vars("spatial_ref"), labels.drop_vars("spatial_ref")
    km.quicklook(cube, labels, tmp_path / "q.png")
    axes = figures[0].axes[0]
    assert axes.get_xlabel() == unit
    assert axes.get_xlim()[1] == pytest.approx(across)


LONG = "Lakes west of Berlin: thin cloud and its shadow, 13 bands, one date"


@pytest.mark.parametrize(
    ("title", "shapes"),
    [
        (None, [(600, 7), (7, 600), (1, 1), (300, 300)]),
        (LONG, [(384, 768), (1, 1)]),
        ("$5 AND $6 " * 30, [(7, 300)]),
    ],
)
def test_the_words_stay_inside_the_picture_and_above_its_panels(tmp_path, figures, title, shapes):
    for number, shape in enumerate(shapes):
        km.quicklook(*make_pair(np.zeros((1, *shape))), tmp_path / f"{number}.png", title=title)
        assert inside(figures[-1])
        *panels, heading = boxes(figures[-1])
        assert heading.y0 > max(name.y1 for name in panels)


def test_a_picture_is_the_same_each_time_lazy_or_loaded_south_or_north_up(tmp_path):
    codes = np.random.default_rng(0).integers(0, 6, (1, 50, 40), dtype=np.uint8)
    cube, labels = make_pair(codes)
    cube = cube.copy(data=np.random.default_rng(1).random(cube.shape, dtype=np.float32))
    lazy = cube.copy(data=da.from_array(cube.values, chunks=17))
    pairs = [
        (cube, labels),
        (cube[0], labels[0]),
        (lazy, labels),
        (cube.isel(y=UP), labels.isel(y=UP)),
    ]
    paths = [km.quicklook(*pair, tmp_path / f"{n}.png") for n, pair in enumerate(pairs)]
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_picture_does_not_depend_on_those_before(tmp_path, figures):
    """Nor on whether they show the same area: axes are drawn once for all of its dates."""
    cube, codes = make_pair([[[1, 2], [4, 5]]])
    coarse = [array.assign_coords(x=2 * array.x, y=2 * array.y) for array in (cube, codes)]
    pairs = {"fine": (cube, codes), "other labels": (cube, codes.copy(data=codes.data[:, ::-1])),
             "coarse": coarse}  # fmt: skip
    drawn = {}
    for turn, name in enumerate(["fine", "other labels", "coarse", "other labels", "fine"]):
        path = km.quicklook(*pairs[name], tmp_path / f"{turn}.png")
        assert drawn.setdefault(name, path.read_bytes()) == path.read_bytes()
        across = 0.04 if name == "coarse" else 0.02  # km
        assert [axes.get_xlim() for axes in figures[-1].axes] == [(0, across)] * 3
    assert len(set(drawn.values())) == len(pairs)


def test_an_old_picture_stays_when_the_new_one_cannot_be_written(tmp_path):
    cube, labels = make_pair(np.ones((1, 6, 6)))
    path = km.quicklook(cube, labels, tmp_path / "q.png")
    before = path.read_bytes()
    message = r"File too large for q\.png in .*: free some"
    with file_size_limit(2048), pytest.raises(WriteError, match=message):
        km.quicklook(cube, labels * np.uint8(4), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_matplotlibs_global_state_is_left_alone():
    code = (
        "import kappamask.plot.series, kappamask.plot.scene, sys\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


REFUSED = {
    "two dates": (lambda c, m: (c, m), "one date, got 2 in cube"),
    "no red": (lambda c, m: (c[0].sel(band=["B02", "B03"]), m[0]), "lacks B04"),
    "another size": (lambda c, m: (c[0], m[0, 1:]), "same pixels, got 6 and 5 along y"),
    "another place": (lambda c, m: (c[0], m[0].assign_coords(x=m.x + 10)), "same pixels"),
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
        km.quicklook(*change(*make_pair(np.ones((2, 6, 6)))), tmp_path / "q.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.shared
def test_the_bolzano_clouds_are_white_in_both_panels(tmp_path, figures, shared_data):
    folder = shared_data / "bolzano" / "S2_L2A_20220602"
    bands = []
    for name in ("B02", "B03", "B04"):
        with rasterio.open(folder / f"{name}.tif") as raster:
            dn = raster.read(1).astype(np.float32)
        bands.append(np.where(dn == 0, np.nan, (dn - 1000) / 10000))
    codes = read_unreferenced(folder / "label.tif")
    cube, labels = make_pair(codes[None])
    path = km.quicklook(cube.copy(data=np.stack(bands)[None]), labels, tmp_path / "q.png")
    (seen, zoom), (painted, _) = (panel(path, figures[0], n, len(codes)) for n in (0, 1))
    assert zoom == 1
    assert np.median(seen[codes == 4]) > 230
    assert np.median(seen[codes == 1]) < 130
    for code in (1, 2, 3, 4):
        assert (inner(painted)[inner(codes) == code] == COLORS[code]).all()


# --- pixels to colours --------------------------------------------------------------------------


def test_bands_are_shown_in_their_own_colour_whatever_their_order():
    cube, _ = make_pair(np.ones((1, 3, 3)), bands=("B08", "B02", "B04", "B03"))
    cube.loc[{"band": "B04"}] = 0.5
    cube.loc[{"band": "B02"}] = 0.0
    red, green, blue = true_color(cube[0], level="L2A")[1, 1]
    assert red > 230
    assert blue == 0
    assert 0 < green < red


def test_l1c_is_drawn_without_the_light_of_the_air():
    cube, _ = make_pair(np.ones((1, 3, 3)), bands=("B04", "B03", "B02"))
    cube[0] = np.array([0.02, 0.04, 0.07])[:, None, None]
    assert (true_color(cube[0], level="L1C") == 0).all()
    assert (true_color(cube[0], level="L2A") > 40).all()


def luminance(color):
    """Relative luminance of an RGB triple (WCAG 2.1)."""
    linear = np.where(np.array(color) / 255 <= 0.03928, np.array(color) / 255 / 12.92,
                      ((np.array(color) / 255 + 0.055) / 1.055) ** 2.4)  # fmt: skip
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", [(255, 255, 255), (250, 250, 240), (128, 128, 128), (5, 5, 5)])
def test_outlines_are_seen_on_any_ground_without_telling_colours_apart(ground):
    """By luminance alone: the line or its casing has a contrast of 3 with what lies beside it."""
    lines = [tuple(bytes.fromhex(color)) for _, _, color in OUTLINES]
    for line in lines:
        assert max(contrast(line, ground), contrast(CASING, ground)) >= 3
        assert contrast(line, CASING) >= 3
    assert contrast(*lines) >= 2  # cloud and shadow


def test_overcast_is_no_blank_panel():
    bright = np.linspace(0.45, 1.1, 40, dtype="float32").reshape(1, 40, 1)
    cube, _ = make_pair(np.ones((1, 40, 1)), bands=("B04", "B03", "B02"))
    cube[0] = bright
    seen = true_color(cube[0], level="L2A")[:, 0, 0].astype(int)
    assert (np.diff(seen) >= 0).all()
    assert np.unique(seen).size >= 15


def test_a_date_without_a_time_has_no_time_and_pictures_show_themselves(tmp_path, figures):
    cube, labels = make_pair(np.ones((1, 20, 20)))
    midnight = np.array(["2022-06-02"], "M8[ns]")
    cube, labels = (array.assign_coords(time=midnight) for array in (cube, labels))
    path = km.quicklook(cube, labels, tmp_path / "q.png")
    (said,) = [text for text in words(figures[0]) if "2022-06-02" in text]
    assert "00:00" not in said
    assert words(figures[0]).count("N ↑") == 3
    assert path == tmp_path / "q.png"
    assert path._repr_png_() == path.read_bytes()


def test_labels_are_plotted_in_the_colours_of_their_classes():
    _, labels = make_pair(np.arange(6).reshape(1, 2, 3))
    drawn = labels[0].kappamask.plot()
    colors = (drawn.to_rgba(np.arange(6))[:, :3] * 255).round().astype(int)
    np.testing.assert_array_equal(colors, COLORS)
    names = [text.get_text() for text in drawn.colorbar.ax.get_yticklabels()]
    assert names == [entry.title for entry in LEGEND]
    many = make_pair(np.ones((3, 2, 3)))[1].kappamask.plot()
    assert len(many.axs.ravel()) >= 3


def test_the_border_of_the_picture_is_no_outline():
    codes = np.ones((9, 9), np.uint8)
    codes[4:, 4:] = 2
    drawn = outlined(np.zeros((9, 9, 3), np.uint8), codes, width=1).max(axis=-1) > max(CASING)
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


# --- series -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_series_shows_each_date_with_its_share_and_reads_it_once(tmp_path, figures):
    codes = np.ones((8, 30, 40), np.uint8)
    codes[1, :15] = 4
    codes[2, :, :10] = 2
    cube, labels = make_pair(codes)
    asked = []
    lazy = labels.copy(
        data=da.map_blocks(
            lambda block: asked.append(block.shape) or block,
            labels.chunk(time=1).data,
            meta=np.empty((0, 0, 0), np.uint8),
        )
    )
    path = km.plot.plot_series(cube, lazy, tmp_path / "a" / "series.png", title="June")
    assert asked == [(1, 30, 40)] * 8
    (figure,) = figures
    assert words(figure) == [f"2022-06-0{day}" for day in range(2, 10)] + ["June"]
    bars = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert bars == ["clear 100.0 %", "clear 50.0 %", "clear 75.0 %"] + ["clear 100.0 %"] * 5
    assert len(figure.axes) == 8 * 3
    found = set(map(tuple, np.unique(read_png(path).reshape(-1, 3), axis=0).tolist()))
    assert {LEGEND[code].rgb for code in (1, 2, 4)} <= found
    assert inside(figure)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 1), (13, 2, 90), (2, 90, 2), (3, 300, 300)])
def test_a_series_of_any_shape_keeps_its_words_apart(tmp_path, figures, shape):
    km.plot.plot_series(*make_pair(np.zeros(shape)), tmp_path / "series.png")
    assert inside(figures[0])
    found = boxes(figures[0])
    assert not any(one.overlaps(other) for n, one in enumerate(found) for other in found[n + 1 :])


def test_a_series_of_other_dates_is_refused(tmp_path):
    cube, labels = make_pair(np.ones((2, 4, 4)))
    for pair, message in (
        ((cube, labels[:1]), "same dates"),
        ((cube, labels.assign_coords(time=labels.time + 1)), "same dates"),
        ((cube[0], labels[0]), "for one date take quicklook"),
        ((cube[:0], labels[:0]), "one date at least"),
    ):
        with pytest.raises(InputError, match=message):
            km.plot.plot_series(*pair, tmp_path / "series.png")


# --- calendar -----------------------------------------------------------------------------------


def test_a_calendar_has_a_cell_for_every_day_and_a_number_for_every_date(tmp_path, figures):
    times = np.array(["2023-12-31", "2024-02-29T10:10", "2024-02-29T10:20"], "M8[ns]")
    shares = xr.DataArray([0.5, 0.2, 0.999], dims="time", coords={"time": times})
    km.plot.plot_calendar(shares, tmp_path / "winter.png")
    (figure,) = figures
    cells = figure.axes[0].patches
    assert len(cells) == 31 + 31 + 29  # a leap year
    colored = {
        (int(cell.get_y()), int(cell.get_x())): cell.get_facecolor()
        for cell in cells
        if cell.get_facecolor() != (1, 1, 1, 1)
    }
    assert colored == {(0, 30): CLEAR(0.5), (2, 28): CLEAR(0.999)}
    assert [text.get_text() for text in figure.axes[0].texts] == ["50", "99"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["2023-12", "2024-01", "2024-02"]
    assert inside(figure)


def test_a_calendar_counts_labels_itself(tmp_path, figures):
    codes = np.full((2, 10, 10), 4, np.uint8)
    codes[1, :3] = 1
    labels = make_labels(codes)
    assert km.plot.plot_calendar(labels, tmp_path / "a.png").exists()
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["0", "30"]
    for wrong in (labels.astype(float), labels[0]):
        with pytest.raises(InputError, match=r"uint8 labels|labels \(time, y, x\)"):
            km.plot.plot_calendar(wrong, tmp_path / "b.png")


# --- before and after ---------------------------------------------------------------------------


@pytest.fixture
def composed():
    codes = np.ones((3, 40, 30), np.uint8)
    codes[0, :18] = codes[:, -3:] = 4
    codes[2] = 4
    cube, labels = make_pair(codes)
    return cube, labels, km.composite(cube, labels, period="month", buffer_m=None)


def test_before_is_half_cloudy_and_after_has_holes_where_nothing_was_seen(
    composed, tmp_path, figures
):
    path = km.plot.plot_before_after(*composed, tmp_path / "a.png")
    (figure,) = figures
    assert words(figure) == [
        "Sentinel-2 L2A, 2022-06-01 to 2022-06-30",
        "2022-06-02: 47.5 % clear",
        "Composite (median): 7.5 % never clear",
        "Dates that could be used",
    ]
    _, after, counts = (axes.images[0].get_array() for axes in figure.axes[:3])
    assert (after[-3:] == 0).all()
    assert (after[:-3] > 0).all()
    assert (counts[-3:] == 0).all()
    assert len(np.unique(counts.reshape(-1, 3), axis=0)) == 3  # none, one, two dates
    assert inside(figure)
    turned = [array.isel(y=UP) for array in composed]
    again = km.plot.plot_before_after(*turned, tmp_path / "b.png")
    assert again.read_bytes() == path.read_bytes()


def test_another_date_may_be_named(composed, tmp_path, figures):
    km.plot.plot_before_after(*composed, tmp_path / "a.png", before="2022-06-04", title="June")
    assert words(figures[0])[:2] == ["June", "2022-06-04: 0.0 % clear"]
    with pytest.raises(InputError, match="choose one of 2022-06-02, 2022-06-03, 2022-06-04"):
        km.plot.plot_before_after(*composed, tmp_path / "a.png", before="2022-07-04")


# --- map ----------------------------------------------------------------------------------------


ITEM = make_item("S2A_T32TPS_20220602T101559_L2A", "2022-06-02T10:15:59Z") | {
    "geometry": {
        "type": "Polygon",
        "coordinates": [[[11, 46], [12, 46], [12, 47], [11, 47], [11, 46]]],
    }
}


def test_a_map_shows_items_and_dates_of_masks():
    folium = pytest.importorskip("folium", reason="needs kappamask[notebooks]")
    codes = np.ones((2, 60, 50), np.uint8)
    codes[0, :30] = 4
    chart = km.plot.show_map([ITEM], make_labels(codes))
    assert isinstance(chart, folium.Map)
    page = chart.get_root().render()
    for word in (ITEM["id"], "2022-06-02 10:15", "2022-06-07 10:15", "cloud shadow", "1 items"):
        assert word in page
    (south, west), (north, east) = chart.get_bounds()
    assert (south, west, north, east) == pytest.approx((46, 11, 47, 12))


def test_a_map_shows_files_that_write_mask_wrote(tmp_path):
    pytest.importorskip("folium", reason="needs kappamask[notebooks]")
    paths = km.write_mask(make_labels(np.full((2, 60, 50), 4, np.uint8)), tmp_path)
    page = km.plot.show_map(masks=paths).get_root().render()
    for path in paths:
        assert path.stem in page
    with pytest.raises(InputError, match="got neither"):
        km.plot.show_map()


@pytest.mark.parametrize("size", [60, 2100])
def test_an_overlay_lies_where_the_clouds_do_and_is_transparent_elsewhere(size):
    folium = pytest.importorskip("folium", reason="needs kappamask[notebooks]")
    from pyproj import Transformer

    codes = np.ones((1, size, size), np.uint8)
    part = size // 3
    codes[0, part : 2 * part, :part] = 4
    codes[0, :part, :part] = 5
    labels = make_labels(codes)
    chart = km.plot.show_map(masks=labels)
    (overlay,) = (
        child
        for child in chart._children.values()
        if isinstance(child, folium.raster_layers.ImageOverlay)
    )
    png = base64.b64decode(overlay.url.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    (south, west), (north, east) = sorted(overlay.bounds)
    assert max(pixels.shape[:2]) < 1500
    # Rows of a web map are even in Mercator: find the cloud's centre there.
    there = Transformer.from_crs(32632, 3857, always_xy=True)
    degrees = Transformer.from_crs(4326, 3857, always_xy=True)
    x, y = there.transform(labels.x.values[part // 2], labels.y.values[part + part // 2])
    left, bottom = degrees.transform(min(west, east), south)
    right, top = degrees.transform(max(west, east), north)
    row = int((top - y) / (top - bottom) * pixels.shape[0])
    column = int((x - left) / (right - left) * pixels.shape[1])
    assert tuple(pixels[row, column]) == (*LEGEND[Label.CLOUD].rgb, 255)
    opaque = pixels[..., 3] > 0
    assert opaque.mean() == pytest.approx(1 / 9, abs=0.015)
    rows, columns = np.nonzero(opaque)
    assert abs(rows.mean() - row) < 0.02 * pixels.shape[0]
    assert abs(columns.mean() - column) < 0.02 * pixels.shape[1]


def test_a_whole_product_is_drawn_by_overviews_with_the_shares_of_all_pixels(
    tmp_path, figures, monkeypatch
):
    """No pixel of the visible bands is read at full size again for the picture."""
    read, whole = [], FileReader.read
    (product,) = [write_safe(tmp_path, Recipe(shape=(120, 120)))]
    monkeypatch.setattr(loop, "LONGEST", 30)
    dates = mask_products([product], tmp_path / "out", options=MaskOptions(pictures=False))
    monkeypatch.setattr(FileReader, "read", lambda *words: read.append(words[1]) or whole(*words))
    report = mask_products([product], tmp_path / "out")
    assert not read
    assert report.skipped == dates.masks
    (picture,) = report.pictures
    pixels, zoom = panel(picture, figures[0], 0, 30)
    assert pixels.shape[0] == 30 * zoom
    item = json.loads(report.masks[0].with_suffix(".json").read_text())
    shares = [entry["percentage"] for entry in item["assets"]["mask"]["classification:classes"]]
    said = legend_of(figures[0])
    assert f"clear {shares[1]:.1f} %" in said
