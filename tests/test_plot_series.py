"""`kappamask.plot` of many dates: series, calendar, before and after, map."""

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from support.labels import make_item, make_labels, make_pair

import kappamask as km
from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, Label
from kappamask.plot import compare, days, maps, series
from kappamask.plot.days import COLORS, best_of_days
from kappamask.plot.picture import class_shares


def figures_of(monkeypatch, room):
    """Collect the figures that are drawn, to read their words."""
    figures, save = [], room.save
    monkeypatch.setattr(
        room, "save", lambda figure, path: figures.append(figure) or save(figure, path)
    )
    return figures


def colors_of(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def words(figure):
    return [text.get_text() for text in figure.texts]


def inside(figure):
    """Whether no word leaves the picture."""
    width, height = figure.bbox.size
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    return all(0 <= b.x0 < b.x1 <= width and 0 <= b.y0 < b.y1 <= height for b in boxes)


# --- series -------------------------------------------------------------------------------------


def test_shares_are_counted_by_hand():
    codes = np.random.default_rng(0).integers(0, 6, (3, 11, 7), dtype=np.uint8)
    expected = [np.bincount(date.ravel(), minlength=6) / date.size for date in codes]
    np.testing.assert_array_equal(class_shares(make_labels(codes)), expected)


def test_a_series_shows_each_date_with_its_share(tmp_path, monkeypatch):
    figures = figures_of(monkeypatch, series)
    codes = np.ones((8, 30, 40), np.uint8)
    codes[1, :15] = 4
    codes[2, :, :10] = 2
    cube, labels = make_pair(codes)
    path = km.plot.plot_series(cube, labels, tmp_path / "a" / "series.png", title="June")
    (figure,) = figures
    assert words(figure) == [f"2022-06-0{day}" for day in range(2, 10)] + ["June"]
    bars = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert bars == ["clear 100.0 %", "clear 50.0 %", "clear 75.0 %"] + ["clear 100.0 %"] * 5
    assert len(figure.axes) == 8 * 3
    assert {LEGEND[code].rgb for code in (1, 2, 4)} <= colors_of(path)
    assert inside(figure)


@pytest.mark.parametrize("shape", [(1, 1, 1), (13, 2, 90), (2, 90, 2), (3, 300, 300)])
def test_a_series_of_any_shape_keeps_its_words_apart(tmp_path, monkeypatch, shape):
    figures = figures_of(monkeypatch, series)
    km.plot.plot_series(*make_pair(np.zeros(shape)), tmp_path / "series.png")
    (figure,) = figures
    assert inside(figure)
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[n + 1 :])


def test_a_series_of_other_dates_is_refused(tmp_path):
    cube, labels = make_pair(np.ones((2, 4, 4)))
    with pytest.raises(InputError, match="same dates"):
        km.plot.plot_series(cube, labels[:1], tmp_path / "series.png")
    with pytest.raises(InputError, match="for one date take quicklook"):
        km.plot.plot_series(cube[0], labels[0], tmp_path / "series.png")


# --- calendar -----------------------------------------------------------------------------------


def test_a_calendar_has_a_cell_for_every_day_and_a_number_for_every_date(tmp_path, monkeypatch):
    figures = figures_of(monkeypatch, days)
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
    assert colored == {(0, 30): COLORS(0.5), (2, 28): COLORS(0.999)}
    assert [text.get_text() for text in figure.axes[0].texts] == ["50", "99"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["2023-12", "2024-01", "2024-02"]
    assert inside(figure)


def test_a_calendar_counts_labels_itself(tmp_path):
    codes = np.full((2, 10, 10), 4, np.uint8)
    codes[1, :3] = 1
    labels = make_labels(codes)
    _, shares = best_of_days(labels)
    assert shares.tolist() == [0, 0.3]
    assert km.plot.plot_calendar(labels, tmp_path / "a.png").exists()
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
    composed, tmp_path, monkeypatch
):
    figures = figures_of(monkeypatch, compare)
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
    up = slice(None, None, -1)
    turned = [array.isel(y=up) for array in composed]
    again = km.plot.plot_before_after(*turned, tmp_path / "b.png")
    assert again.read_bytes() == path.read_bytes()


def test_another_date_may_be_named(composed, tmp_path, monkeypatch):
    figures = figures_of(monkeypatch, compare)
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
    labels = make_labels(codes)
    chart = km.plot.show_map([ITEM], labels)
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
    from pyproj import Transformer

    codes = np.ones((1, size, size), np.uint8)
    part = size // 3
    codes[0, part : 2 * part, :part] = 4
    codes[0, :part, :part] = 5
    plane = make_labels(codes)[0]
    pixels, [(south, west), (north, east)] = maps.overlay_of(plane)
    assert max(pixels.shape[:2]) < 1500
    # Rows of a web map are even in Mercator: find the cloud's centre there.
    there = Transformer.from_crs(32632, 3857, always_xy=True)
    degrees = Transformer.from_crs(4326, 3857, always_xy=True)
    middle = plane.x.values[part // 2], plane.y.values[part + part // 2]
    x, y = there.transform(*middle)
    left, bottom = degrees.transform(west, south)
    right, top = degrees.transform(east, north)
    row = int((top - y) / (top - bottom) * pixels.shape[0])
    column = int((x - left) / (right - left) * pixels.shape[1])
    assert tuple(pixels[row, column]) == (*LEGEND[Label.CLOUD].rgb, 255)
    opaque = pixels[..., 3] > 0
    assert opaque.mean() == pytest.approx(1 / 9, abs=0.015)
    rows, columns = np.nonzero(opaque)
    assert abs(rows.mean() - row) < 0.02 * pixels.shape[0]
    assert abs(columns.mean() - column) < 0.02 * pixels.shape[1]
