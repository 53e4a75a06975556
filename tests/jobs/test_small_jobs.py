"""Small jobs: what a field over many dates asks of a server, and what is read of a file."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pyproj import Transformer
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from shapely.geometry import box, mapping
from support import file_server
from support.stac_items import make_item

from kappamask.base import retry
from kappamask.jobs import MaskOptions, mask_items

EPSG, LEFT, TOP, SIZE = 32632, 600000, 5200020, 1536
KEYS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "nir08": "B8A", "swir16": "B11"}
STEPS = {"B8A": 20, "B11": 20}
DATES = ("06-02", "06-05")
BLOCK = 256


def encode(dn, step):
    """Encode one band (y, x) as a COG with overviews."""
    place = {"crs": EPSG, "transform": from_origin(LEFT, TOP, step, step), "nodata": 0}
    shape = {"height": dn.shape[0], "width": dn.shape[1], "count": 1, "dtype": "uint16"}
    form = {"driver": "COG", "blocksize": BLOCK, "compress": "DEFLATE"}
    with MemoryFile() as memory:
        with memory.open(**form, **shape, **place, overview_resampling="average") as raster:
            raster.write(dn, 1)
        return bytes(memory.read())


@pytest.fixture(scope="module")
def content():
    """COGs of three dates, noise: no block is small."""
    rng = np.random.default_rng(0)
    held = {}
    for date in DATES:
        for band in KEYS.values():
            step = STEPS.get(band, 10)
            dn = rng.integers(1, 4000, (SIZE * 10 // step,) * 2).astype(np.uint16)
            held[f"/{date}/{band}.tif"] = encode(dn, step)
    return held


@pytest.fixture
def files(content):
    """A server of its own for each test: what another job asked of it would be read anew."""
    with file_server.serve(file_server.Files(content)) as files:
        yield files


def items_at(url):
    there = Transformer.from_crs(EPSG, 4326, always_xy=True)
    items = []
    for date in DATES:
        item = make_item(date, keys=KEYS, **{"proj:epsg": EPSG})
        for key, band in KEYS.items():
            step = STEPS.get(band, 10)
            item["assets"][key] |= {
                "href": f"{url}/{date}/{band}.tif",
                "proj:transform": [step, 0, LEFT, 0, -step, TOP],
                "proj:shape": [SIZE * 10 // step] * 2,
            }
        items.append(item)
    west, south = there.transform(LEFT + 6000, TOP - 8000)
    east, north = there.transform(LEFT + 8000, TOP - 6000)
    ground = box(*there.transform(LEFT, TOP - 10 * SIZE), *there.transform(LEFT + 10 * SIZE, TOP))
    for item in items:
        item["geometry"] = mapping(ground)
    return items, (west, south, east, north)


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "pictures"), [(10, True), (20, True), (10, False)])
def test_a_field_is_read_in_one_pass_of_ranges(files, tmp_path, resolution, pictures):
    """No byte is fetched twice, and few that are not of the field and its margins."""
    items, area = items_at(files.url)
    options = MaskOptions(resolution=resolution, pictures=pictures)
    report = mask_items(items, area, tmp_path, options=options)
    assert len(report.masks) == len(DATES)
    assert len(report.pictures) == len(DATES) * pictures
    for path, stored in files.content.items():
        asked = [(start, stop) for name, start, stop in files.sent if name == path]
        size = [span for span in asked if span == (0, len(stored))]  # asks for it, and hangs up
        ranges = sorted(set(asked) - set(size))
        assert len(size) <= 1
        assert len(ranges) + len(size) == len(asked), f"{path} twice: {asked}"
        assert all(one[1] <= other[0] for one, other in pairwise(ranges)), ranges
        # The header, rows of blocks; at 20 m a block that tells whether the overview holds means.
        assert len(ranges) <= 1 + 3 + (resolution == 20)
        if path.endswith("B02.tif"):
            assert sum(stop - start for start, stop in ranges) < len(stored) / 3


def dates_asked(files):
    return {path.split("/")[1] for path, *_ in files.sent}


@pytest.mark.slow
def test_the_next_date_is_read_while_this_one_is_labelled_and_drawn(files, tmp_path):
    """The first date is not through before the second is asked for; masks are as one at a time."""
    items, area = items_at(files.url)
    seen = []

    def wait(line):  # told when a date is finished
        until = time.monotonic() + 60
        while line.startswith("2") and not seen and time.monotonic() < until:
            if DATES[1] in dates_asked(files):
                seen.append(line)
            time.sleep(0.01)

    report = mask_items(items, area, tmp_path / "both", tell=wait)
    assert [line[:10] for line in seen] == [f"2024-{DATES[0]}"]
    for item, mask in zip(items, report.masks, strict=True):
        (alone,) = mask_items([item], area, tmp_path / "alone").masks
        assert mask.name == alone.name
        assert mask.read_bytes() == alone.read_bytes()


def test_a_finished_date_is_not_read_ahead(files, tmp_path):
    items, area = items_at(files.url)
    first, _ = mask_items(items, area, tmp_path).masks
    first.unlink()
    files.sent.clear()
    report = mask_items(items, area, tmp_path)
    assert [path.name for path in report.done] == [first.name]
    assert dates_asked(files) == {DATES[0]}


def test_a_date_that_cannot_be_read_ahead_fails_alone(files, tmp_path, monkeypatch):
    """In its own turn, with its own reason, and is read anew in the next round."""
    monkeypatch.setattr(retry, "FILES", replace(retry.FILES, wait_s=0.01))
    items, area = items_at(files.url)
    broken = f"/{DATES[1]}/B04.tif"
    files.content = files.content | {broken: b"no pixels"}
    report = mask_items(items, area, tmp_path, options=MaskOptions(retries=1, retry_wait=0))
    assert len(report.masks) == len(report.pictures) == 1
    ((name, why),) = report.failed.items()
    assert name.startswith(f"2024-{DATES[1]}")
    assert "B04" in why
    assert files.asked.count(broken) > 1


def test_a_picture_that_is_absent_is_drawn_of_its_own_bands(files, tmp_path):
    """Its mask is there: nothing is labelled, so nothing else is read."""
    items, area = items_at(files.url)
    (picture,) = mask_items(items[:1], area, tmp_path).pictures
    drawn = picture.read_bytes()
    picture.unlink()
    files.sent.clear()
    report = mask_items(items[:1], area, tmp_path)
    assert report.skipped == report.masks
    assert picture.read_bytes() == drawn
    read = {path.rpartition("/")[2] for path, *_ in files.sent}
    assert {"B02.tif", "B03.tif", "B04.tif"} <= read
    assert "B08.tif" not in read


def test_bands_limit_what_is_read(files, tmp_path):
    items, area = items_at(files.url)
    options = MaskOptions(bands=("B02", "B03", "B04", "B08"))
    report = mask_items(items[:1], area, tmp_path, options=options)
    assert len(report.masks) == len(report.pictures) == 1
    asked = {path.rpartition("/")[2] for path, _, _ in files.sent}
    assert asked == {"B02.tif", "B03.tif", "B04.tif", "B08.tif"}
