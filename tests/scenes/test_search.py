"""The search: real HTTP on loopback, a real STAC server, static catalogues on disk."""

import importlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
import types

import pystac
import pytest
import requests
import shapely
from shapely.geometry import box, mapping
from support.stac_items import COPERNICUS_KEYS, FIELD, SQUARE, days, make_item, write_catalog
from support.stac_server import FILTER, Api, serve

from kappamask.base.errors import CatalogError, InputError, NoItemsError, UnknownNameError
from kappamask.base.retry import CATALOGUES, Patience
from kappamask.scenes.catalogs import PROFILES, Holding, Profile, profile_of, resolve_assets
from kappamask.scenes.items import view_of
from kappamask.scenes.search import drop_duplicates, search

JUNE = "2024-06"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Wait for milliseconds where users wait for seconds."""
    patience = Patience(tries=3, wait_s=0.001, longest_wait_s=0.05, timeout_s=0.3)
    monkeypatch.setattr("kappamask.scenes.stac.CATALOGUES", patience)


@pytest.fixture
def api():
    with serve(Api([make_item(day) for day in ("06-11", "06-01", "06-21", "07-01")])) as served:
        yield served


def pystac_items(*documents):
    return [pystac.Item.from_dict(document) for document in documents]


def test_items_of_an_area_and_a_month_come_sorted_by_time(api):
    items = search(FIELD, JUNE, catalog=api.url)
    assert days(items) == ["06-01", "06-11", "06-21"]
    assert all(isinstance(item, pystac.Item) for item in items)
    assert resolve_assets(items[0])["B04"].dn_offset == -1000
    assert days(search(FIELD, JUNE, catalog=api.url, max_items=2)) == ["06-01", "06-11"]


def test_a_tile_is_an_area_and_leaves_its_neighbours_out(api):
    api.items.append(make_item("06-02", tile="32TQS"))
    for said in ("32TPS", "T32TPS", "mgrs-32tps"):
        items = search(None, JUNE, catalog=api.url, tile=said)
        assert days(items) == ["06-01", "06-11", "06-21"]
    assert days(search(FIELD, JUNE, catalog=api.url, tile="32TQS")) == ["06-02"]
    with pytest.raises(NoItemsError, match="0 are of tile 32TNS"):
        search(FIELD, JUNE, catalog=api.url, tile="32TNS")
    with pytest.raises(InputError, match="an MGRS tile is a UTM zone"):
        search(None, JUNE, catalog=api.url, tile="Bolzano")


def test_a_day_means_all_of_it(api):
    assert days(search(FIELD, "2024-06-11", catalog=api.url)) == ["06-11"]
    assert days(search(FIELD, ("2024-06-11", "2024-07-01"), catalog=api.url)) == [
        "06-11", "06-21", "07-01",
    ]  # fmt: skip


def test_a_server_that_ignores_the_request_changes_nothing(api):
    far = box(30, 50, 31, 51)
    api.items += [
        make_item("06-02", geometry=mapping(far)),
        make_item("06-03", level="L1C", collection="sentinel-2-l1c"),
        make_item("06-04", **{"eo:cloud_cover": 81.0}),
        make_item("06-05", **{"eo:cloud_cover": None}),
        make_item("06-06", collection="landsat-c2-l2", id="LC09_x", **{"s2:product_type": None}),
        make_item("06-07", keys={"rendered_preview": "png"}),
    ]
    api.conforms = FILTER
    honest = search(FIELD, JUNE, catalog=api.url, max_cloud_cover=80)
    api.ignores = ("intersects", "datetime", "collections", "filter")
    careless = search(FIELD, JUNE, catalog=api.url, max_cloud_cover=80)
    assert days(honest) == days(careless) == ["06-01", "06-11", "06-21"]


def test_an_area_that_only_touches_an_item_does_not_show_it(api):
    west, south, _, north = SQUARE
    api.items.append(make_item("06-02", geometry=mapping(box(west - 1, south, west, north))))
    assert "06-02" not in days(search(SQUARE, JUNE, catalog=api.url))


def test_a_profile_of_ones_own_is_searched_by_its_collections(api):
    keys = {"blau": "B02", "gruen": "B03", "rot": "B04", "nah": "B08"}
    api.items = [
        make_item("06-01", keys=keys, collection="s2"),
        make_item("06-02"),
        make_item("06-03", keys=keys, collection="another"),
    ]
    mine = Profile("mine", api.url, {"L2A": Holding(("s2",), {"B04": ("rot",)})})
    api.ignores = ("collections",)
    assert days(search(FIELD, JUNE, catalog=mine)) == ["06-01"]
    assert api.searches[-1]["collections"] == ["s2"]
    with pytest.raises(InputError, match=r"'mine' holds no L1C, only L2A"):
        search(FIELD, JUNE, catalog=mine, level="L1C")


def test_a_named_catalogue_is_its_profile(api, monkeypatch):
    tiny = Profile("tiny", api.url, PROFILES["earth-search"].levels, note="try another")
    monkeypatch.setitem(PROFILES, "tiny", tiny)
    assert days(search(FIELD, "2024-07", catalog="tiny")) == ["07-01"]
    expected = ["sentinel-2-c1-l2a", "sentinel-2-pre-c1-l2a"]
    assert api.searches[-1]["collections"] == expected
    search(FIELD, "2024-07", catalog=f"{api.url}/")
    assert api.searches[-1]["collections"] == expected
    with pytest.raises(NoItemsError, match=r"; try another$"):
        search(FIELD, "2025", catalog="tiny")


def test_nothing_found_tells_what_each_condition_left(api):
    api.ignores = ("intersects", "datetime", "collections")
    with pytest.raises(
        NoItemsError,
        match=rf"no L2A item of catalogue {api.url} .*: 4 found, 4 are readable Sentinel-2 L2A, "
        r"4 show the area, 0 lie within 2025-01-01T00:00:00Z/.*widen",
    ):
        search(FIELD, "2025", catalog=api.url)
    with pytest.raises(NoItemsError, match=r"4 found, 4 are readable.*, 0 show the area: widen"):
        search((50, 46, 51, 47), JUNE, catalog=api.url)
    with pytest.raises(NoItemsError, match=r"4 found, 0 are readable Sentinel-2 L1C: widen"):
        search(FIELD, JUNE, catalog=api.url, level="L1C")


@pytest.mark.parametrize("conforms", [FILTER[:2], FILTER])
def test_nothing_found_for_clouds_tells_how_cloudy_it_is(api, conforms):
    api.conforms = conforms
    with pytest.raises(NoItemsError, match=r"0 have at most 5 % cloud \(the least has 20 %\)"):
        search(FIELD, JUNE, catalog=api.url, max_cloud_cover=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_cloud_cover": 101}, r"0 to 100, got 101"),
        ({"max_cloud_cover": -1}, r"0 to 100, got -1"),
        ({"max_items": 0}, r"at least 1, got 0"),
        ({"level": "L3"}, r"'L1C' or 'L2A', got 'L3'"),
        ({"catalog": "planetary-computer", "level": "L1C"}, r"holds no L1C.*in earth-search, cop"),
    ],
)
def test_arguments_out_of_their_range_are_refused_before_anything_is_asked(arguments, message):
    with pytest.raises(InputError, match=message):
        search(FIELD, JUNE, **arguments)


def test_an_unknown_catalogue_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match=r"'earthsearch': .*earth-search, .*, a URL, the "):
        search(FIELD, JUNE, catalog="earthsearch")
    with pytest.raises(CatalogError, match=r"no catalogue file at .*absent/catalog\.json"):
        search(FIELD, JUNE, catalog=tmp_path / "absent" / "catalog.json")
    (tmp_path / "broken.json").write_text('{"type": ', encoding="utf-8")
    with pytest.raises(CatalogError, match=r"broken\.json cannot be read"):
        search(FIELD, JUNE, catalog=tmp_path / "broken.json")


# --- versions of one scene --------------------------------------------------------------------


def test_the_newest_version_of_a_scene_is_kept(api, caplog):
    old = make_item("06-01", baseline="02.14", second="31.123")
    newer = make_item("06-01", baseline="05.00", second="31.124", made="20250101T000000")
    again = make_item("06-01", baseline="05.00", second="31.123", made="20250202T000000")
    api.items = [old, again, newer, make_item("06-02")]
    with caplog.at_level(logging.INFO, logger="kappamask.scenes.search"):
        items = search(FIELD, JUNE, catalog=api.url)
    assert [item.id for item in items] == [again["id"], make_item("06-02")["id"]]
    assert "left out 2 older versions of scenes" in caplog.text
    assert old["id"] in caplog.text


def test_baselines_count_before_the_day_of_processing():
    late_copy = make_item("06-01", baseline="02.12", made="20301007T214651")  # Planetary Computer's
    items = pystac_items(late_copy, make_item("06-01", baseline="02.14"))
    assert drop_duplicates(items) == items[1:]


def test_an_unknown_baseline_is_the_oldest():
    items = pystac_items(make_item("06-01", baseline="99.99"), make_item("06-01", baseline="02.07"))
    assert drop_duplicates(items) == items[1:]


@pytest.mark.parametrize(
    "other",
    [
        {"tile": "32TQS"},
        {"level": "L1C"},
        {"id": "S2B_T32TPS_20240601T101601_L2A"},
        {"datetime": "2024-06-01T12:05:31Z"},  # the next orbit, at high latitudes
    ],
)
def test_other_scenes_are_no_duplicates(other):
    items = pystac_items(make_item("06-01"), make_item("06-01", **other))
    assert drop_duplicates(items) == items


def test_two_parts_of_one_tile_are_both_kept():
    # microsoft/PlanetaryComputer issue 256: the downlink changed in the middle of a tile
    west, south, east, north = SQUARE
    upper = mapping(box(west, 46.45, east, north))
    lower = mapping(box(west, south, east, 46.5))
    parts = [
        make_item("06-01", geometry=upper, made="20240601T150000"),
        make_item("06-01", geometry=lower, made="20240601T130000", second="44.0"),
    ]
    items = pystac_items(*parts)
    assert drop_duplicates(items) == items
    whole = make_item("06-01", baseline="05.11", made="20250101T000000")
    assert [item.id for item in drop_duplicates(pystac_items(*parts, whole))] == [whole["id"]]


@pytest.mark.shared
def test_real_reprocessed_pairs_are_resolved(shared_data):
    """Earth Search keeps 2020 twice, 1 ms apart: baseline 02.14 and, reprocessed, 05.00."""
    folder = shared_data / "stac-items" / "earthsearch_v1" / "sentinel-2-l2a"
    items = [pystac.Item.from_file(str(path)) for path in sorted(folder.glob("S2A_32*.json"))]
    kept = drop_duplicates(items)
    assert (len(items), len(kept)) == (13, 7)
    assert [view_of(item).baseline for item in kept].count("05.00") == 6
    assert {item.datetime.microsecond % 10000 for item in items} != {0}


# --- the antimeridian -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cut", "jumping"])
def test_items_at_the_antimeridian_are_found_by_geometry(tmp_path, form):
    jumping = shapely.Polygon([(179.3, -17), (-179.7, -17), (-179.7, -16), (179.3, -16)])
    cut = shapely.MultiPolygon([box(179.3, -17, 180, -16), box(-180, -17, -179.7, -16)])
    geometry = mapping(jumping if form == "jumping" else cut)
    catalog = write_catalog(tmp_path, [make_item("06-01", geometry=geometry, tile="01KAB")])
    for area in ((179.5, -16.6, 179.6, -16.5), (-179.9, -16.6, -179.8, -16.5)):
        assert len(search(area, JUNE, catalog=catalog)) == 1
    assert len(search((179.9, -16.6, -179.9, -16.5), JUNE, catalog=catalog)) == 1
    for elsewhere in ((11, -16.6, 12, -16.5), (-179.6, -16.6, -179.5, -16.5)):
        with pytest.raises(NoItemsError, match=r"0 show the area"):
            search(elsewhere, JUNE, catalog=catalog)


# --- how a server is asked ---------------------------------------------------------------------


def test_pages_are_followed(api, monkeypatch):
    monkeypatch.setattr("kappamask.scenes.stac.PAGE", 2)
    api.items = [make_item(f"06-{day:02}") for day in range(1, 8)]
    assert len(search(FIELD, JUNE, catalog=api.url)) == 7
    assert len(api.searches) == 4


def test_pages_that_lead_in_circles_end(api, monkeypatch):
    monkeypatch.setattr("kappamask.scenes.stac.PAGE", 2)
    api.in_circles = True
    assert days(search(FIELD, JUNE, catalog=api.url)) == ["06-01", "06-11"]


def test_cloud_cover_is_filtered_by_the_server_only_where_it_declares_that(api):
    search(FIELD, JUNE, catalog=api.url, max_cloud_cover=80)
    assert "filter" not in api.searches[-1]
    assert "query" not in api.searches[-1]
    api.conforms = FILTER[:3]  # filters, but in another language
    search(FIELD, JUNE, catalog=api.url, max_cloud_cover=80)
    assert "filter" not in api.searches[-1]
    api.conforms = FILTER
    search(FIELD, JUNE, catalog=api.url, max_cloud_cover=80)
    assert api.searches[-1]["filter"] == {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 80]}
    search(FIELD, JUNE, catalog=api.url)
    assert "filter" not in api.searches[-1]


def test_a_server_that_only_takes_get_is_asked_by_get(api):
    api.methods, api.conforms = ("GET",), FILTER
    assert days(search(FIELD, JUNE, catalog=api.url, max_cloud_cover=80)) == [
        "06-01", "06-11", "06-21",
    ]  # fmt: skip
    assert api.searches == [{}]


def test_a_url_is_searched_in_the_collections_that_profiles_know(api):
    api.items.append(make_item("06-02", collection="other"))
    assert "06-02" not in days(search(FIELD, JUNE, catalog=api.url))
    assert api.searches[-1]["collections"] == ["sentinel-2-c1-l2a"]
    for item in api.items:
        item["collection"] = "bolzano"
    assert "06-02" in days(search(FIELD, JUNE, catalog=api.url))
    assert "collections" not in api.searches[-1]


# --- catalogues in trouble --------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [(429, {"Retry-After": "0"}), (429, {"Retry-After": "3600"}), 503, 500, "drop", "stall"],
)
def test_passing_trouble_is_waited_out(api, fault):
    api.faults = [fault, fault]
    start = time.monotonic()
    assert days(search(FIELD, JUNE, catalog=api.url)) == ["06-01", "06-11", "06-21"]
    assert len(api.searches) == 3
    assert time.monotonic() - start < 2


def test_a_wait_that_the_server_asks_for_is_kept(api, monkeypatch):
    patience = Patience(tries=2, wait_s=0.5, longest_wait_s=9, timeout_s=3)
    monkeypatch.setattr("kappamask.scenes.stac.CATALOGUES", patience)
    api.faults = [(503, {"Retry-After": "1"})]
    start = time.monotonic()
    search(FIELD, JUNE, catalog=api.url)
    assert 1 <= time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("fault", "requests_sent", "message"),
    [
        (401, 1, r"HTTP 401: it wants an account"),
        (403, 1, r"HTTP 403: it refuses access"),
        (404, 1, r"HTTP 404: there is nothing at this address"),
        (400, 1, r"HTTP 400: the request was refused \(.*so it is"),
        ((429, {"Retry-After": "0"}), 3, r"HTTP 429: too many requests, in 3 tries"),
        (502, 3, r"HTTP 502: the server failed, in 3 tries"),
        ("drop", 3, r"the connection to .* failed"),
        ("stall", 3, r"no answer from .* within 0.3 s, in 3 tries: try again later"),
        ("html", 1, r"answers in JSON, but .* cannot be read"),
    ],
)
def test_lasting_trouble_is_one_clear_error_that_names_the_url(api, fault, requests_sent, message):
    api.fault_forever = fault
    with pytest.raises(CatalogError, match=message) as error:
        search(FIELD, JUNE, catalog=api.url)
    assert f"{api.url}/search" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(api.searches) == requests_sent


def test_a_port_where_nobody_listens_is_named():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with pytest.raises(
        CatalogError, match=rf"the connection to {url} failed.*check the address.*refused"
    ):
        search(FIELD, JUNE, catalog=url)


@pytest.mark.parametrize("content", ["[]", "{}", '{"type": "FeatureCollection"}'])
def test_json_that_is_no_stac_is_refused(api, tmp_path, content):
    (tmp_path / "thing.json").write_text(content, encoding="utf-8")
    api.files = tmp_path
    for catalog in (tmp_path / "thing.json", f"{api.url}/thing.json"):
        with pytest.raises(CatalogError, match=r"thing\.json is no STAC document"):
            search(FIELD, JUNE, catalog=catalog)


def test_an_answer_that_lists_something_else_names_it(api):
    api.items = [{"id": "odd", "collection": "x", "geometry": None, "properties": {}}]
    api.ignores = ("intersects", "datetime")
    with pytest.raises(CatalogError, match=r"lists odd, which is no STAC item"):
        search(FIELD, JUNE, catalog=api.url)


# --- static catalogues ------------------------------------------------------------------------


@pytest.fixture
def static(tmp_path):
    documents = [make_item(day) for day in ("06-11", "06-01", "07-01")]
    documents.append(make_item("06-05", keys=COPERNICUS_KEYS, collection="mine"))
    documents.append(make_item("06-07", level="L1C", collection="mine-too"))
    documents.append(make_item("06-09", keys={"labels": "mask"}, collection="masks"))
    return write_catalog(tmp_path, documents)


def test_a_static_catalogue_on_disk_is_searched(static):
    for catalog in (static, str(static), static.parent):
        items = search(FIELD, JUNE, catalog=catalog)
        assert days(items) == ["06-01", "06-05", "06-11"]
    assert [profile_of(item).name for item in items] == [
        "earth-search",
        "copernicus",
        "earth-search",
    ]
    assert days(search(FIELD, JUNE, catalog=static, level="L1C")) == ["06-07"]
    red = resolve_assets(items[0])["B04"]
    assert os.path.isabs(red.href)  # noqa: PTH117
    assert red.href.startswith(str(static.parent))
    assert items[0].assets["red"].href == red.href
    assert red.href.endswith("/B04.tif")


def test_one_collection_of_a_static_catalogue_is_searched(static):
    collection = static.parent / "mine" / "collection.json"
    assert days(search(FIELD, JUNE, catalog=collection)) == ["06-05"]


def test_a_static_catalogue_on_a_web_server_is_searched(api, static):
    api.files = static.parent
    items = search(FIELD, JUNE, catalog=f"{api.url}/catalog.json")
    assert days(items) == ["06-01", "06-05", "06-11"]
    assert resolve_assets(items[0])["B04"].href.startswith(f"{api.url}/sentinel-2-c1-l2a/")
    assert not api.searches


def test_a_static_catalogue_with_a_missing_item_names_the_file(static):
    lost = next(static.parent.glob("mine/*/*.json"))
    lost.unlink()
    with pytest.raises(CatalogError, match=rf"no catalogue file at .*{lost.name}"):
        search(FIELD, JUNE, catalog=static)


@pytest.mark.parametrize(
    "child", ["[]", '"a"', "7", '{"links": {"rel": "item"}}', '{"links": [1]}']
)
def test_a_child_that_is_no_catalogue_is_named(static, child):
    (static.parent / "mine" / "collection.json").write_text(child, encoding="utf-8")
    with pytest.raises(
        CatalogError, match=r"JSON object with a list of links, got .*collection\.j"
    ):
        search(FIELD, JUNE, catalog=static)


def test_a_static_catalogue_that_links_to_itself_ends(static):
    document = json.loads(static.read_text(encoding="utf-8"))
    document["links"].append({"rel": "child", "href": "./catalog.json"})
    static.write_text(json.dumps(document), encoding="utf-8")
    assert len(search(FIELD, JUNE, catalog=static)) == 3


def test_the_shipped_sample_is_found():
    sample = importlib.resources.files("kappamask") / "sample" / "catalog.json"
    if not sample.is_file():
        pytest.skip("the sample is not built")
    everywhere = (-180, -90, 180, 90)
    for level in ("L1C", "L2A"):
        items = search(everywhere, "2015/..", catalog=str(sample), level=level)
        assert all(resolve_assets(item) for item in items)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:Could not parse bucket/account:UserWarning")
def test_a_static_catalogue_of_real_items(shared_data, tmp_path, monkeypatch):
    """Of 124 documents 117 are items, 114 under different ids, 112 readable, 102 scenes."""
    documents = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((shared_data / "stac-items").rglob("*.json"))
    ]
    items = {x["id"]: x for x in documents if x.get("type") == "Feature"}
    catalog = write_catalog(tmp_path, items.values())
    everywhere, always = (-180, -90, 180, 90), "2015/.."
    found = search(everywhere, always, catalog=catalog)
    found += search(everywhere, always, catalog=catalog, level="L1C")
    assert (len(items), len(found)) == (114, 102)
    left_out = items.keys() - {item.id for item in found}
    tiles = ("32TMT", "32TNT", "32UNU")
    assert left_out == {
        "Sentinel-2_mosaic_2023_Q1_31SDV_0_0",
        "S2A_MSIL2A_20230928T042551_N0509_R133_T54XVM_20230928T053752-calibrated",
        *(f"S2A_{tile}_{day}_0_L2A" for tile in tiles for day in ("20200302", "20200305")),
        # also in the newer collection sentinel-2-c1-l2a
        *(f"S2B_{tile}_20250731_0_L2A" for tile in ("20EPT", "24MUA", "24MVV", "24MXV")),
    }
    # The Alps on 2020-07-03: two tiles, both reprocessed; with keys to buckets the hrefs are as
    # the catalogue gave them, without any its https alternates are.
    alps = search((8.5, 47.0, 9.5, 47.1), "2020-07-03", catalog=catalog)
    assert [view_of(item).tile for item in alps] == ["32TMT", "32TNT"]
    monkeypatch.setenv("AWS_PROFILE", "eodata")
    assert resolve_assets(alps[0])["B04"].href.startswith("s3://eodata/")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setattr("kappamask.scenes.catalogs._has_keys", lambda: False)
    assert resolve_assets(alps[0])["B04"].href.startswith("https://zipper.dataspace.copernicus.eu/")


# --- a real STAC server -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    """stac-fastapi.static over a static catalogue, in a process of its own."""
    pytest.importorskip("stac_fastapi.static")
    folder = tmp_path_factory.mktemp("served")
    documents = [make_item(f"06-{day:02}", **{"eo:cloud_cover": 4.0 * day}) for day in range(1, 21)]
    documents += [make_item("06-25", level="L1C", collection="sentinel-2-l1c")]
    documents += [make_item("06-26", geometry=mapping(box(30, 50, 31, 51)))]
    catalog = write_catalog(folder, documents)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "uvicorn", "stac_fastapi.static.app:app",
        "--port", str(port), "--log-level", "error",
    ]  # fmt: skip
    environment = {**os.environ, "catalog_href": catalog.as_uri(), "log_level": "error"}
    with subprocess.Popen(command, env=environment, cwd=folder) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/", server)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()


def wait_for(url, server):
    for _ in range(300):
        assert server.poll() is None, "the server did not start"
        try:
            if requests.get(url, timeout=1).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    pytest.fail(f"no answer from {url}")


def test_a_real_stac_api_is_searched(real_server, monkeypatch):
    monkeypatch.setattr("kappamask.scenes.stac.CATALOGUES", CATALOGUES)
    monkeypatch.setattr("kappamask.scenes.stac.PAGE", 8)
    items = search(FIELD, "2024-06", catalog=real_server)
    assert days(items) == [f"06-{day:02}" for day in range(1, 21)]
    clear = search(FIELD, "2024-06", catalog=real_server, max_cloud_cover=20)
    assert days(clear) == [f"06-{day:02}" for day in range(1, 6)]
    assert days(search(FIELD, "2024-06", catalog=real_server, level="L1C")) == ["06-25"]
    assert days(search((30.4, 50.4, 30.6, 50.6), JUNE, catalog=real_server)) == ["06-26"]


# --- signing ----------------------------------------------------------------------------------


@pytest.fixture
def signed_catalog(api, monkeypatch):
    api.items = [make_item("06-01", keys={"B04": "B04"}, collection="sentinel-2-l2a")]
    profile = PROFILES["planetary-computer"]
    local = Profile(profile.name, api.url, profile.levels, signer=profile.signer)
    monkeypatch.setitem(PROFILES, "planetary-computer", local)


@pytest.mark.usefixtures("signed_catalog")
def test_items_of_planetary_computer_are_signed(monkeypatch):
    def sign(item):
        item = item.clone()
        for asset in item.assets.values():
            asset.href += "?token"
        return item

    monkeypatch.setitem(sys.modules, "planetary_computer", types.SimpleNamespace(sign=sign))
    items = search(FIELD, JUNE, catalog="planetary-computer")
    assert resolve_assets(items[0])["B04"].href.endswith("B04.tif?token")


@pytest.mark.usefixtures("signed_catalog")
@pytest.mark.filterwarnings("ignore:Support for class-based `config`")  # planetary-computer 1.0.0
def test_the_real_package_signs_what_is_in_its_storage(api, tmp_path, monkeypatch):
    sas = pytest.importorskip("planetary_computer.sas")
    (tmp_path / "sas" / "sentinel2l2a01").mkdir(parents=True)
    token = {"token": "sig=abc", "msft:expiry": "2099-01-01T00:00:00Z"}
    (tmp_path / "sas" / "sentinel2l2a01" / "sentinel2-l2").write_text(json.dumps(token))
    api.files = tmp_path
    settings = types.SimpleNamespace(sas_url=f"{api.url}/sas", subscription_key=None)
    monkeypatch.setattr(sas.Settings, "get", lambda: settings)
    href = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/32/T/PS/B04.tif"
    api.items[0]["assets"]["B04"]["href"] = href
    items = search(FIELD, JUNE, catalog="planetary-computer")
    assert resolve_assets(items[0])["B04"].href == f"{href}?sig=abc"


@pytest.mark.usefixtures("signed_catalog")
def test_a_refused_signature_names_the_item(monkeypatch):
    def sign(item):
        raise requests.HTTPError(f"no token for {item.id}")

    monkeypatch.setitem(sys.modules, "planetary_computer", types.SimpleNamespace(sign=sign))
    with pytest.raises(CatalogError, match=r"item S2A_T32TPS.* cannot be signed: no token"):
        search(FIELD, JUNE, catalog="planetary-computer")


@pytest.mark.usefixtures("signed_catalog")
def test_a_missing_extra_is_named_with_the_command(monkeypatch, api):
    monkeypatch.setitem(sys.modules, "planetary_computer", None)
    with pytest.raises(CatalogError, match=r"pip install 'kappamask\[planetary-computer\]'"):
        search(FIELD, JUNE, catalog="planetary-computer")
    assert not api.searches


def test_an_area_with_latitude_first_is_told_to_be_swapped():
    from kappamask.sample import AREA_L2A, catalog_path

    west, south, east, north = AREA_L2A
    with pytest.raises(NoItemsError, match="swap longitude and latitude: the other way round"):
        search((south, west, north, east), "2019-07", catalog=catalog_path())
    with pytest.raises(NoItemsError, match="widen the dates"):
        search(AREA_L2A, "2010", catalog=catalog_path())
