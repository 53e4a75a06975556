"""A tiny STAC API on loopback that can misbehave on request; also serves plain files.

It shares no code with kappamask or pystac-client: what it answers is an oracle.
"""

import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from shapely.geometry import shape

from support import loopback

FILTER = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0-rc.2/item-search#filter",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
]


@dataclass
class Api:
    """What the server holds, how it behaves, and what it was asked."""

    items: list = field(default_factory=list)
    conforms: list = field(default_factory=lambda: FILTER[:2])
    ignores: tuple = ()  # of "intersects", "datetime", "collections", "filter"
    methods: tuple = ("POST", "GET")
    in_circles: bool = False  # the `next` link leads back to the first page
    faults: list = field(default_factory=list)  # for the next searches, see `misbehave`
    fault_forever: object = None
    files: Path | None = None  # other paths are files below this folder
    searches: list = field(default_factory=list)  # bodies, faulty ones included
    url: str = ""

    def answer(self, body):
        """Answer a search: filter, cut a page, link the next one."""
        found = [item for item in self.items if self.matches(item, body)]
        start, limit = int(body.get("token", 0)), int(body.get("limit", 10))
        page = {
            "type": "FeatureCollection",
            "features": found[start : start + limit],
            "links": [],
        }
        if start + limit < len(found):
            token = 0 if self.in_circles else start + limit
            link = {"rel": "next", "href": f"{self.url}/search", "method": "POST"}
            page["links"] = [link | {"body": body | {"token": str(token)}}]
        return page

    def matches(self, item, body):
        asked = {key: value for key, value in body.items() if key not in self.ignores}
        if "collections" in asked and item["collection"] not in asked["collections"]:
            return False
        if "intersects" in asked and not shape(item["geometry"]).intersects(
            shape(asked["intersects"])
        ):
            return False
        if "datetime" in asked:
            start, end = asked["datetime"].split("/")
            when = datetime.fromisoformat(item["properties"]["datetime"])
            if start != ".." and when < datetime.fromisoformat(start):
                return False
            if end != ".." and when > datetime.fromisoformat(end):
                return False
        if "filter" in asked:
            named, most = asked["filter"]["args"]
            assert asked["filter"]["op"] == "<="
            assert asked["filter-lang"] == "cql2-json"
            told = item["properties"].get(named["property"])
            return told is not None and told <= most
        return True

    def landing(self):
        links = [
            {"rel": "search", "href": f"{self.url}/search", "method": method}
            for method in self.methods
        ]
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "tiny",
            "description": "a test",
            "conformsTo": self.conforms,
            "links": [*links[::-1], {"rel": "data", "href": "./collections"}],
        }

    def collections(self):
        names = sorted({item["collection"] for item in self.items})
        return {"collections": [{"id": name} for name in names], "links": []}


class Handler(loopback.Handler):
    """One request."""

    def do_GET(self):
        api = self.server.held
        path = self.path.split("?")[0].rstrip("/")
        if path == "":
            self.reply(200, api.landing())
        elif path == "/collections":
            self.reply(200, api.collections())
        elif path == "/search":
            self.search({})
        elif isinstance(api.files, Path) and (api.files / path[1:]).is_file():
            self.reply(200, (api.files / path[1:]).read_bytes())
        else:
            self.reply(404, {"code": "NotFound"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.search(body)

    def search(self, body):
        api = self.server.held
        api.searches.append(body)
        fault = api.faults.pop(0) if api.faults else api.fault_forever
        if fault is None:
            self.reply(200, api.answer(body))
        else:
            self.misbehave(fault)

    def misbehave(self, fault):
        """Do as `fault` says: a status, (status, headers), "drop", "stall" or "html"."""
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        elif fault == "stall":
            time.sleep(1.0)
            self.close_connection = True
        elif fault == "html":
            self.reply(200, b"<html>Please sign in</html>")
        else:
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            self.reply(status, {"code": "Trouble", "description": "so it is"}, headers)


def serve(api):
    """Serve `api` at `api.url` while the context lasts."""
    return loopback.serve(api, Handler)
