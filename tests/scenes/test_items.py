"""What 115 real items say of themselves, and hand-written ones for what those do not show."""

import json
import re
from datetime import UTC, datetime

import pystac
import pytest
from support.real_items import make_item, readable_items

from kappamask.base.errors import InputError, ItemError
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.items import view_of

# pystac says this of Earth Search items whose hrefs are https: nothing that is read here.
pytestmark = pytest.mark.filterwarnings("ignore:Could not parse bucket/account:UserWarning")


@pytest.fixture(scope="module")
def readable(shared_data):
    return readable_items(shared_data / "stac-items")


@pytest.mark.shared
def test_what_real_items_say_about_themselves_agrees_with_their_file_names(readable):
    for path, (_folder, document) in readable.items():
        item, other = view_of(pystac.Item.from_dict(document)), view_of(document)
        for name in ("level", "baseline", "tile", "time", "made"):
            assert getattr(item, name) == getattr(other, name), path
        assert re.search(rf"_T?{item.tile}[_.]", path), path
        day = re.search(r"_(20\d{6})[T_]", path.rsplit("/", 1)[1]).group(1)
        if "OPER" not in path:  # those carry the day of processing
            # one scene in the dark of the Pacific was taken up to 3 minutes past midnight
            assert abs((item.time - datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)).days) <= 1
        written = set(re.findall(r"_N(\d\d)\.?(\d\d)[_.\"]", json.dumps(document)))
        assert written <= {tuple(item.baseline.split("."))}, path
        assert item.made >= item.time, path


@pytest.mark.parametrize(
    ("properties", "level"),
    [
        ({"product:type": "S2MSI2A", "processing:level": "L2"}, "L2A"),
        ({"product:type": "S02MSIL1C", "id": "x"}, "L1C"),
        ({"s2:product_type": "S2MSI2Ap", "id": "x"}, "L2A"),
        ({"processing:level": "L1C", "id": "x"}, "L1C"),
        ({"id": "x", "s2:product_uri": "S2A_MSIL1C_20230611T101601_N0509_R065_T32TPS_x"}, "L1C"),
        ({"id": "x", "collection": "sentinel-2-pre-c1-l2a"}, "L2A"),
    ],
)
def test_the_level_is_found_wherever_an_item_says_it(properties, level):
    assert view_of(make_item(**properties)).level == level


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"id": "LC09_L2SP_193028_20230611", "collection": "landsat-c2-l2"}, "nothing tells"),
        ({"id": "HLS.S30.T32TPS.2023162T101601", "collection": "hls2-s30"}, "nothing tells"),
        ({"processing:level": "L1B"}, "level L1B"),
        ({"product:type": "S2MSI_L3__MCQ"}, "level L3"),
    ],
)
def test_other_products_are_refused(properties, message):
    with pytest.raises(ItemError, match=message):
        _ = view_of(make_item(**properties)).level


@pytest.mark.parametrize(
    "properties",
    [
        {"s2:mgrs_tile": "01VCC"},
        {"grid:code": "MGRS-1VCC"},
        {"mgrs:utm_zone": 1, "mgrs:latitude_band": "V", "mgrs:grid_square": "CC"},
        {"id": "S2A_1VCC_20230611_0_L2A"},
        {"s2:product_uri": "S2A_MSIL2A_20230611T232641_N0509_R130_T01VCC_20230612T020155.SAFE"},
    ],
)
def test_the_tile_is_found_wherever_an_item_says_it(properties):
    assert view_of(make_item(**{"id": "x", **properties})).tile == "01VCC"


def test_an_item_without_a_tile_or_a_time_says_so():
    assert view_of(make_item(id="x")).tile is None
    with pytest.raises(ItemError, match=r"item x: neither datetime"):
        _ = view_of(make_item(id="x", datetime=None)).time
    span = make_item(id="x", datetime=None, start_datetime="2023-06-11T12:16:01+02:00")
    assert view_of(span).time == datetime(2023, 6, 11, 10, 16, 1, tzinfo=UTC)
    assert view_of(make_item(id="x")).made is None


def test_relative_hrefs_are_resolved_where_the_item_knows_its_place(tmp_path):
    document = make_item(**{"s2:processing_baseline": "05.09"})
    document["assets"]["red"]["href"] = "./files/B04.tif"
    assert resolve_assets(document)["B04"].href == "./files/B04.tif"
    document["links"] = [{"rel": "self", "href": "https://stac.example/items/x.json"}]
    assert resolve_assets(document)["B04"].href == "https://stac.example/items/files/B04.tif"
    document["geometry"] = {"type": "Point", "coordinates": [11, 46]}
    item = pystac.Item.from_dict(document, href=str(tmp_path / "x.json"))
    assert resolve_assets(item)["B04"].href == str(tmp_path / "files" / "B04.tif")


@pytest.mark.parametrize("document", [{}, {"id": "x"}, {"id": "x", "properties": {}, "assets": []}])
def test_a_document_that_is_no_item_is_refused(document):
    with pytest.raises(ItemError, match=r"a STAC item has an id, properties and assets, got a doc"):
        resolve_assets(document)


@pytest.mark.parametrize(
    "item", ["item.json", None, 7, [{"id": "x"}], datetime(2024, 6, 1, tzinfo=UTC)]
)
def test_what_is_neither_an_item_nor_a_dict_is_refused(item):
    with pytest.raises(InputError, match=r"a pystac.Item or its dict, got \w+ .*: pass what"):
        view_of(item)
