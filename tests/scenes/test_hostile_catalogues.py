"""Catalogues, items and other documents of strangers: bounded in bytes, depth and number."""

import gzip
import json
import logging
import os
from types import SimpleNamespace

import pytest
from support import loopback
from support.safe_products import Recipe, write_safe
from support.stac_items import FIELD, make_item, write_catalog

from kappamask import load_cube, open_safe
from kappamask.base.errors import CatalogError, InputError, ItemError, KappaMaskError, ReadError
from kappamask.scenes import archives, stac
from kappamask.scenes.area import parse_area
from kappamask.scenes.search import search
from kappamask.train.settings import read_config

JUNE = "2024-06"
DEEP = 100_000
MIB = 2**20


def catalog(**links):
    linked = [{"rel": rel, "href": href} for rel, hrefs in links.items() for href in hrefs]
    named = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "c"}
    return named | {"links": linked}


class Endless(loopback.Handler):
    """A catalogue that has no end, in one way or another."""

    def do_GET(self):
        held = self.server.held
        held.asked.append(self.path)
        name, _, number = self.path.strip("/").partition("-")
        number = int(number.removesuffix(".json") or 0)
        if name == "down":
            self.reply(200, catalog(child=[f"/down-{number + 1}.json"]))
        elif name == "wide":
            self.reply(
                200, catalog(child=[f"/wide-{3 * number + step}.json" for step in (1, 2, 3)])
            )
        elif name == "items":
            self.reply(200, catalog(item=[f"/one-{number}.json" for number in range(50)]))
        elif name == "one":
            self.reply(200, make_item("06-01") | {"id": f"x{number}"})
        elif name == "bomb":
            packed = gzip.compress(bytes(8 * MIB))
            self.reply(200, packed, {"Content-Encoding": "gzip"})
        elif name == "led":
            packed = gzip.compress(bytes(8 * MIB))
            self.reply(302, packed, {"Content-Encoding": "gzip", "Location": "/down-0.json"})
        else:
            self.send_response(200)
            self.end_headers()
            with_end = 0
            while with_end < 64 * MIB:
                with_end += self.wfile.write(b" " * MIB)


@pytest.fixture
def endless(monkeypatch):
    monkeypatch.setattr(stac, "MOST_BYTES", 2 * MIB)
    monkeypatch.setattr(stac, "MOST_DOCUMENTS", 30)
    monkeypatch.setattr(stac, "MOST_ITEMS", 20)
    with loopback.serve(SimpleNamespace(asked=[]), Endless) as held:
        yield held


@pytest.mark.parametrize(
    ("name", "told", "most"),
    [
        ("down", "at most 20 levels", 25),
        ("wide", "30 catalogues", 35),
        ("items", "20 items", 25),
        ("bomb", "at most 2 MB", 1),
        ("led", "at most 2 MB", 1),
        ("spaces", "at most 2 MB", 1),
    ],
)
def test_a_catalogue_without_end_ends_and_is_told(endless, name, told, most):
    with pytest.raises(CatalogError, match=told):
        search(FIELD, JUNE, catalog=f"{endless.url}/{name}-0.json")
    assert len(endless.asked) <= most


def test_an_answer_that_drips_is_given_up(endless, monkeypatch):
    monkeypatch.setattr(stac, "LONGEST_S", 0.0)
    with pytest.raises(CatalogError, match="takes 0 s, that of http"):
        search(FIELD, JUNE, catalog=f"{endless.url}/down-0.json")


def test_pages_with_too_many_items_end(monkeypatch):
    from support.stac_server import Api, serve

    monkeypatch.setattr(stac, "MOST_ITEMS", 2)
    three = Api([make_item(day) for day in ("06-11", "06-01", "06-21")])
    told = pytest.raises(CatalogError, match="or 2 features without an end")
    with serve(three) as api, told:
        search(FIELD, JUNE, catalog=api.url)


# --- nested documents -----------------------------------------------------------------------


def nested_text(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [150, 900, DEEP])
def test_one_item_that_is_nested_too_deeply_is_one_item(tmp_path, caplog, depth):
    days = ("06-01", "06-11")
    path = write_catalog(tmp_path, [make_item(day) for day in days])
    spoiled = next(one for one in tmp_path.rglob("*.json") if "0611" in one.name)
    text = spoiled.read_text()
    spoiled.write_text(
        text.replace('"properties": {', f'"properties": {{"x": {nested_text(depth)}, ', 1)
    )
    with caplog.at_level(logging.WARNING):
        (item,) = search(FIELD, JUNE, catalog=path)
    assert "06-01" in str(item.datetime)
    assert "nested too deeply" in caplog.text


def test_an_item_in_hand_that_is_nested_too_deeply_is_refused():
    item = make_item("06-01")
    item["properties"]["x"] = json.loads(nested_text(300))
    with pytest.raises(ItemError, match="nested at most 100 times"):
        load_cube([item])


def write(path, content):
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content)
    return path


NOT_FILES = {"pipe": None, "deep": nested_text(DEEP), "a lot": " " * (65 * MIB)}


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("area.geojson", parse_area),
        ("catalog.json", lambda path: search(FIELD, JUNE, catalog=path)),
        ("own.toml", read_config),
    ],
)
def test_what_is_no_document_is_one_error(tmp_path, kind, name, read):
    content = NOT_FILES[kind]
    if name.endswith("toml") and kind == "deep":
        content = f"a = {content}"
    told = {"pipe": "is a pipe", "deep": "nested too deeply", "a lot": "at most"}[kind]
    with pytest.raises(KappaMaskError, match=told):
        read(write(tmp_path / name, content))


# --- XML ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_metadata_of_too_many_elements_are_refused(tmp_path):
    product = write_safe(tmp_path, Recipe())
    (path,) = product.glob("MTD_*.xml")
    text = path.read_text()
    end = text.rindex("</")
    path.write_text(text[:end] + "<a/>" * 1_000_001 + text[end:])
    with pytest.raises(ReadError, match="at most 1000000 elements"):
        open_safe(product)
    path.write_bytes((text[:end] + "<a>" * 1_000_001 + text[end:]).encode("utf-16"))
    with pytest.raises(ReadError, match=r"elements|document type|encoding"):
        open_safe(product)


class Gushing(loopback.Handler):
    """Sends more than anybody asked for, and counts."""

    def do_GET(self):
        self.send_response(206 if self.path.endswith(".zip") else 200)
        self.send_header("Content-Range", f"bytes 0-0/{MIB}")
        self.send_header("Content-Length", str(2**26))
        self.end_headers()
        for _ in range(2**6):
            self.wfile.write(bytes(MIB))
            self.server.held.sent += 1


@pytest.mark.parametrize("name", ["S2A.SAFE", "S2A.zip"])
def test_metadata_without_end_are_not_read_to_the_end(monkeypatch, name):
    monkeypatch.setattr(archives, "LARGEST_XML", MIB)
    with loopback.serve(SimpleNamespace(sent=0), Gushing) as held:
        with pytest.raises(KappaMaskError, match=r"at most 1 MB, manifest|no whole zip|parts"):
            open_safe(f"{held.url}/{name}")
        assert held.sent < 2**5  # MB; buffers hold some


def test_a_name_of_an_area_is_no_device():
    with pytest.raises(InputError, match="is a device"):
        parse_area("/dev/zero")
