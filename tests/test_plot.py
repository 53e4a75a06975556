"""`kappamask.plot`: pictures, read back with Pillow."""

import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import rasterio
from PIL import Image
from support.labels import file_size_limit, make_pair, read_unreferenced

from kappamask.base.errors import WriteError
from kappamask.base.legend import LEGEND
from kappamask.plot import scene
from kappamask.plot.scene import Layout, quicklook

COLORS = {int(entry.label): entry.rgb for entry in LEGEND}


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
    figures, save = [], scene.save
    monkeypatch.setattr(
        scene, "save", lambda figure, path: figures.append(figure) or save(figure, path)
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
    assert figure.texts[-1].get_text().splitlines() == [
        "Bolzano",
        "Sentinel-2 L2A · 2022-06-02 10:15 UTC · model own",
    ]
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


LONG = "Lakes west of Berlin: thin cloud and its shadow, 13 bands, one date"


@pytest.mark.parametrize(
    ("title", "shapes"),
    [
        (None, [(600, 7), (7, 600), (1, 1), (300, 300)]),
        (LONG, [(384, 768), (1, 1)]),
        ("$5 AND $6 " * 30, [(7, 300)]),
    ],
)
def test_the_words_stay_inside_the_picture_and_above_its_panels(
    tmp_path, monkeypatch, title, shapes
):
    figures = texts(monkeypatch)
    for number, shape in enumerate(shapes):
        cube, labels = make_pair(np.zeros((1, *shape)))
        quicklook(cube, labels, tmp_path / f"{number}.png", title=title)
        figure = figures[-1]
        width, height = figure.bbox.size
        for thing in [*figure.texts, figure.legends[0]]:
            box = thing.get_window_extent(figure.canvas.get_renderer())
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height
        *panels, heading = (text.get_window_extent() for text in figure.texts)
        assert heading.y0 > max(panel.y1 for panel in panels)


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


def test_an_old_picture_stays_when_the_new_one_cannot_be_written(tmp_path):
    cube, labels = make_pair(np.ones((1, 6, 6)))
    path = quicklook(cube, labels, tmp_path / "q.png")
    before = path.read_bytes()
    message = r"File too large for q\.png in .*: free some"
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
