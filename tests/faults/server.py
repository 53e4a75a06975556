"""A STAC API and a file server in one, on loopback, that misbehave on command.

It shares no code with what reads from it.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from support.loopback import serve as serve_held
from support.stac_server import Api, Handler

from faults.scene import DATES, make_files, make_item

STALL_S = 1.5  # longer than what is waited for in tests


@dataclass
class Trouble:
    """What goes wrong with requests for some paths."""

    path: str  # a regular expression
    what: str  # status, drop, reset, stall, cut, other
    times: int | None = 1  # the first so many requests; None: all
    lasts_s: float | None = None  # from the first request on; None: without end
    status: int = 500
    headers: dict = field(default_factory=dict)
    content: bytes = b""  # of other
    methods: tuple = ("GET", "HEAD", "POST")

    ends: float | None = None

    def claims(self, method, path):
        if self.times == 0 or method not in self.methods or not re.search(self.path, path):
            return False
        if self.lasts_s is not None and self.ends is None:
            self.ends = time.monotonic() + self.lasts_s
        return self.ends is None or time.monotonic() < self.ends


@dataclass
class World(Api):
    """What the server holds, what is wrong with it, and what it was asked."""

    files: dict = field(default_factory=dict)  # by path
    # Of its own: ports come again, and GDAL remembers files by their address.
    place: str = field(default_factory=lambda: f"/{uuid4().hex}")
    troubles: list = field(default_factory=list)
    paging: str = "one page"
    signed: bool = False  # files are given out to signed requests only
    clock_s: float = 0.0  # by how much the clock of this server is ahead
    asked: list = field(default_factory=list)  # (seconds, method, path, status), as they came
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fill(self, *, suffix="tif"):
        """Put the items of all dates in."""
        self.items = [make_item(date, self.url + self.place, suffix=suffix) for date in DATES]
        self.files = {self.place + path: file for path, file in make_files(suffix).items()}

    def trouble_with(self, method, path):
        """Find what goes wrong with a request, and count it."""
        with self.lock:
            for trouble in self.troubles:
                if trouble.claims(method, path):
                    trouble.times = None if trouble.times is None else trouble.times - 1
                    return trouble
        return None

    def answer(self, body):
        """Answer a search, in pages of one item unless all is on one page."""
        if self.paging == "one page":
            return super().answer(body)
        pages = [[item] for item in self.items if self.matches(item, body)]
        if self.paging == "empty pages":
            pages = [page for one in pages for page in ([], one)]
        token = int(body.get("token", 0))
        features = pages[min(token, len(pages) - 1)]
        following = token + 1
        if self.paging == "repeats" and following == len(pages):
            following = 0
        if self.paging == "empty without end" and token >= len(pages):
            features = []
        endless = self.paging in ("repeats", "never ends", "empty without end")
        links = []
        if following < len(pages) or endless:
            link = {"rel": "next", "href": f"{self.url}/search", "method": "POST"}
            links = [link | {"body": body | {"token": str(following)}}]
        return {"type": "FeatureCollection", "features": features, "links": links}


class FaultyHandler(Handler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.handle_one(super().do_GET)

    def do_POST(self):
        self.handle_one(super().do_POST)

    def handle_one(self, usual):
        world, path = self.server.held, urlsplit(self.path).path
        trouble = world.trouble_with(self.command, path)
        if trouble and trouble.what in ("status", "reset", "stall"):
            self.drain()
            getattr(self, f"do_{trouble.what}")(trouble)
        elif path in world.files:
            self.send_file(world.files[path], trouble)
        elif trouble:  # of an answer of the catalogue
            self.trouble = trouble
            usual()
            self.trouble = None
        else:
            usual()

    trouble = None

    def drain(self):
        """Read the body of a request that is not answered."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_status(self, trouble):
        self.reply(trouble.status, {"code": "Trouble"}, trouble.headers)

    def do_reset(self, _trouble):
        self.log_asked(0)
        self.close_connection = True
        self.connection.close()

    def do_stall(self, _trouble):
        self.log_asked(0)
        self.server.held.closing.wait(STALL_S)
        self.close_connection = True

    def send_file(self, content, trouble):
        if not self.is_allowed():
            self.reply(403, {"code": "AuthenticationFailed"})
            return
        if trouble and trouble.what in ("cut", "other"):
            content = content[: len(content) * 2 // 5] if trouble.what == "cut" else trouble.content
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if not wanted:
            self.reply(200, content, {"Accept-Ranges": "bytes"}, trouble)
            return
        start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(content))
        if start >= len(content):
            self.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        place = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        self.reply(206, content[start:stop], place, trouble)

    def is_allowed(self):
        """Tell whether a signature is there and has not expired, by the clock of this server."""
        world = self.server.held
        expires = parse_qs(urlsplit(self.path).query).get("se", ["0"])[0]
        return not world.signed or float(expires) > time.time() + world.clock_s

    def reply(self, status, content=b"", headers=(), trouble=None):
        trouble = trouble or self.trouble
        if trouble is not None and trouble.what == "bomb":
            content, headers = gzip.compress(bytes(96 * 2**20), 1), {"Content-Encoding": "gzip"}
        if trouble is None or trouble.what != "drop" or self.command == "HEAD":
            self.log_asked(status)  # before: who asks may hang up
            super().reply(status, content, headers)
            return
        self.log_asked(0)
        super().reply(status, _Half(content), headers)
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def log_asked(self, status):
        world = self.server.held
        world.asked.append((time.monotonic(), self.command, urlsplit(self.path).path, status))


class _Half(bytes):
    """Says its whole length and is written by half: a connection that breaks off."""

    def __new__(cls, content):
        whole = content if isinstance(content, bytes) else json.dumps(content).encode()
        made = super().__new__(cls, whole[: len(whole) // 2])
        made.length = len(whole)
        return made

    def __len__(self):
        return self.length


@contextmanager
def serve():
    """Serve a new world while the context lasts, at `world.url`."""
    with serve_held(World(), FaultyHandler) as world:
        world.fill()
        try:
            yield world
        finally:
            world.closing.set()
