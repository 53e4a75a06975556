"""Catalogues over real HTTP on loopback, a real STAC server, and static ones on disk."""

import json
import os
import socket
import subprocess
import sys
import time
import types

import pytest
import requests
from shapely.geometry import box, mapping
from support.stac_items import COPERNICUS_KEYS, FIELD, days, make_item, write_catalog
from support.stac_server import FILTER, Api, serve

from kappamask.base.errors import CatalogError
from kappamask.base.retry import CATALOGUES, Patience
from kappamask.scenes.catalogs import PROFILES, Profile, profile_of, resolve_assets
from kappamask.scenes.search import search

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
    with pytest.raises(CatalogError, match=rf"the connection to {url} failed.*check the address"):
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
