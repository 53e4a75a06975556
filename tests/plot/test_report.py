"""The report: one page, self-contained, true to the pixels, deaf to what texts say."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import rioxarray  # noqa: F401  registers .rio
import xarray as xr
from PIL import Image

from kappamask.base.errors import InputError, ItemError, NoItemsError
from kappamask.cli import main
from kappamask.outputs.masks import write_mask
from kappamask.plot.report import write_report

HOSTILE = "<script>document.title='caught'</script>&\"'"
MAGENTA = (255, 0, 255)  # nowhere in the page but in the picture
CODES = np.array([[1, 1, 2, 3], [4, 4, 4, 5]], "uint8")


class Page(HTMLParser):
    """What a page would load, run, link to and say."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.loads, self.links, self.said = [], [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join("".join(self.said).split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.said.append(" ")
        self.loads += [attributes[name] for name in ("src", "data", "poster") if name in attributes]
        self.links += [attributes["href"]] if "href" in attributes else []
        assert not [name for name in attributes if name.startswith("on")]

    def handle_data(self, text):
        self.said.append(text)


def make_labels(*days):
    return xr.DataArray(
        np.stack([CODES] * len(days)),
        dims=("time", "y", "x"),
        coords={
            "time": np.array(days, "M8[ns]"),
            "y": [5154955.0, 5154945.0],
            "x": [674995.0, 675005.0, 675015.0, 675025.0],
        },
        attrs={"level": "L2A", "kappamask_model": "kappamask-2026h"},
    ).rio.write_crs(32632)


@pytest.fixture
def masks(tmp_path):
    """Two dates; the first has a picture, the second none."""
    folder = tmp_path / f"fields {HOSTILE}".replace("/", "_")
    first, _ = write_mask(make_labels("2022-06-02T10:15:59", "2022-06-05T10:25:59"), folder)
    Image.new("RGB", (90, 60), MAGENTA).save(first.with_suffix(".png"))
    return folder


def read_page(path):
    text = path.read_text(encoding="utf-8")
    return Page(text), text


def test_the_page_holds_everything_and_loads_nothing(masks):
    page, text = read_page(write_report(masks))
    assert page.tags.count("img") == 1
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in text
    assert all(link.startswith("#") for link in page.links)


def test_shares_are_those_of_the_pixels(masks):
    page, _ = read_page(write_report(masks))
    shares = [100 * (code == CODES).mean() for code in (1, 2, 3, 4, 5)]
    cover = 100 * np.isin(CODES, (3, 4)).sum() / (CODES != 5).sum()
    row = "2022-06-02 10:15 " + " ".join(f"{value:.1f}" for value in (cover, *shares))
    assert row in page.text


def test_settings_and_versions_are_said_once(masks):
    page, _ = read_page(write_report(masks))
    assert page.text.count("kappamask-2026h") == 1
    assert page.text.count("EPSG:32632") == 1
    assert "4 x 2 pixels" in page.text
    assert "2 masks, 2022-06-02 to 2022-06-05." in page.text
    assert "Contains modified Copernicus Sentinel data 2022" in page.text


def test_texts_are_escaped_and_only_web_addresses_are_linked(masks):
    path = next(masks.glob("*20220602*.json"))
    item = json.loads(path.read_text("utf-8"))
    item["properties"]["description"] = HOSTILE
    item["properties"]["kappamask:model"] = HOSTILE
    hrefs = ("javascript:alert(1)", "https://stac.example/S2A_b?a=1&b='2'", "../S2A_c.json")
    item["links"] = [
        {"rel": "derived_from", "href": href, "title": f"Source item {index}{HOSTILE}"}
        for index, href in enumerate(hrefs)
    ]
    path.write_text(json.dumps(item), encoding="utf-8")
    page, _ = read_page(write_report(masks))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 5
    assert [link for link in page.links if not link.startswith("#")] == [hrefs[1]]


def test_a_folder_of_folders_is_reported_by_folder(masks, tmp_path):
    write_mask(make_labels("2023-06-02T10:15:59"), masks / "west")
    page, _ = read_page(write_report(masks, tmp_path / "all.html", pictures=False))
    assert "3 masks, 2022-06-02 to 2023-06-02." in page.text
    assert "img" not in page.tags
    assert len(set(page.links)) == 3


def test_what_a_run_has_not_finished_and_what_is_no_mask_stays_out(masks):
    aside = masks / ".kappamask-host-1-x"
    aside.mkdir()
    (aside / "kappamask_20220607T000000_L2A.json").write_text("{")
    composite = {"properties": {}, "assets": {"reflectance": {}}}
    (masks / "kappamask_20220601_20220630_L2A_median.json").write_text(json.dumps(composite))
    next(masks.glob("*20220602*.png")).write_text("no picture")
    page, _ = read_page(write_report(masks))
    assert "2 masks" in page.text
    assert "img" not in page.tags


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"properties": 1, "assets": {}}',
        '{"properties": {}, "assets": {"mask": {}}}',
    ],
)
def test_a_damaged_item_is_named_and_the_old_page_stays(masks, content):
    page = write_report(masks)
    before = page.read_bytes()
    path = next(masks.glob("*20220605*.json"))
    path.write_text(content)
    with pytest.raises(ItemError, match=rf"{path.name} is not .*: delete it and mask that date"):
        write_report(masks)
    assert page.read_bytes() == before


def test_a_folder_without_masks_says_what_makes_them(tmp_path, capsys):
    with pytest.raises(NoItemsError, match="no mask lies in"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="give the folder"):
        write_report(tmp_path / "none")
    assert main(["report", str(tmp_path)]) == 1
    assert main(["report", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_the_command_says_where_the_page_is(masks, tmp_path, capsys):
    page = tmp_path / "pages" / "fields.html"
    assert main(["report", str(masks), "--out", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    assert page.is_file()


@pytest.fixture
def browser():
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs chromium: apt-get install chromium")
    return found


@pytest.mark.parametrize("width", [400, 1280, 1920])
def test_no_column_is_cut_off(browser, masks, tmp_path, width):
    """The page within a frame of that width, and what of it lies beyond its frame."""
    text = write_report(masks, tmp_path / "report.html").read_text()
    policy = text[text.index("<meta http-equiv") :].partition(">")[0] + ">"
    look = (
        "<script>onload = () => parent.postMessage([document.documentElement, "
        "...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth), '*')"
        "</script>"
    )
    (tmp_path / "looked.html").write_text(text.replace(policy, "") + look)
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<script>onmessage = told => document.title = told.data.join()</script>"
        f'<iframe src="looked.html" style="width:{width}px;height:2000px;border:0"></iframe>'
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=5000"]
    done = subprocess.run([*command, outer.as_uri()], check=True, capture_output=True, timeout=300)
    beyond = done.stdout.decode().partition("<title>")[2].partition("</title>")[0]
    assert set(beyond.split(",")) == {"0"}


@pytest.mark.parametrize("width", [400, 1920])
def test_a_browser_shows_picture_and_colours_and_runs_nothing(browser, masks, tmp_path, width):
    page, shot = write_report(masks, tmp_path / "page.html"), tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    flags += [f"--window-size={width},2400", f"--screenshot={shot}"]
    command = [browser, *flags, page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    with Image.open(io.BytesIO(shot.read_bytes())) as picture:
        counts = {color: number for number, color in picture.convert("RGB").getcolors(1 << 24)}
    assert counts[MAGENTA] == 90 * 60
    clear, cloud_shadow = (0x3B, 0x9B, 0x6D), (0x3D, 0x34, 0x8B)
    assert counts[clear] > 1.5 * counts[cloud_shadow] > 1000  # two bars: shares 2 to 1


def test_odd_names_and_half_characters_are_written_and_odd_items_refused(masks, tmp_path, capsys):
    odd = shutil.copytree(masks, tmp_path / os.fsdecode(b"odd-\xff"))  # no UTF-8
    item = next(odd.glob("kappamask_*.json"))
    half = item.read_text().replace('"description": "', '"description": "\\ud800', 1)
    assert "\\ud800" in half
    item.write_text(half)
    assert main(["report", str(odd)]) == 0
    assert "\\udcff" in capsys.readouterr().out
    assert "\\ud800" in (odd / "report.html").read_text("utf-8")
    item.write_text("[" * 100_000)
    assert main(["report", str(odd)]) == 1
    assert "nested too deeply" in capsys.readouterr().err
    item.unlink()
    os.mkfifo(item)
    assert main(["report", str(odd)]) == 1
    assert "is a pipe" in capsys.readouterr().err
