"""A small job, and what bands cost: `python benchmarks/field.py [--dates 30]`.

A field of 2 x 2 km over many dates of one scene, in COGs behind a server on this machine that
counts what it sends: `mask_items` in a process of its own, start, imports and pictures included.
The same for fewer bands; beside them, on the scenes of ../shared/data/pairs, how many pixels get
the label that they get with all bands. What that means against people's labels stands in
docs/model-card.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from machine import print_machine, record
from product import EPSG, LEFT, STRIP, TOP, build
from pyproj import Transformer

SIDE = 2000  # metres
CORNER = 6000  # metres from the corner of the scene
SIZE = 2745  # pixels of the scene
PAIRS = STRIP.parents[1] / "pairs"
TARGET = 0.35  # seconds a date, with pictures
SETS = {
    "all 13": None,
    "without 60 m (B01 B09 B10)": "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12",
    "10 m and SWIR": "B02 B03 B04 B08 B11 B12",
    "10 m and B10": "B02 B03 B04 B08 B10",
    "10 m (B02 B03 B04 B08)": "B02 B03 B04 B08",
}


class Handler(BaseHTTPRequestHandler):
    """Sends ranges of the files of a folder; the date that a path begins with is passed over."""

    protocol_version = "HTTP/1.1"
    # As servers of files do; else a range waits for the client's word that its head has arrived.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer one request."""
        server: Any = self.server
        time.sleep(server.delay)
        content = server.content[self.path.rpartition("/")[2]]
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, len(content))
        part = content[start:stop]
        server.requests += 1
        server.bytes += len(part) if found else 0  # without a range its size is asked for
        self.send_response(206 if found else 200)
        if found:
            end = start + len(part) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        try:
            self.wfile.write(part)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """One that says nothing where a client hangs up: GDAL does, once it knows a file's size."""

    content: dict[str, bytes]
    delay = 0.0  # seconds before each answer
    requests = bytes = 0

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


def make_items(url: str, item: dict[str, Any], dates: int) -> list[dict[str, Any]]:
    """Say of one scene that it was seen on many dates."""
    items = []
    for number in range(dates):
        day = np.datetime64("2017-04-01") + number * np.timedelta64(5, "D")
        assets = {
            name: asset | {"href": f"{url}/{day}/{name}.tif"}
            for name, asset in item["assets"].items()
        }
        told = item["properties"] | {"datetime": f"{day}T10:30:21Z"}
        items.append(item | {"id": f"{item['id']}_{day}", "assets": assets, "properties": told})
    return items


def run_only(items: Path, bands: str, pictures: str) -> None:
    """Mask the field on all dates."""
    from kappamask.jobs import MaskOptions, mask_items

    there = Transformer.from_crs(EPSG, 4326, always_xy=True)
    left, top = LEFT + CORNER, TOP - CORNER
    west, south, east, north = there.transform_bounds(left, top - SIDE, left + SIDE, top)
    options = MaskOptions(bands=bands.split(",") if bands else None, pictures=bool(pictures))
    with tempfile.TemporaryDirectory() as folder:
        documents = json.loads(items.read_text())
        report = mask_items(documents, (west, south, east, north), folder, options=options)
    if report.failed:
        raise SystemExit(str(report.failed))


def run_job(items: Path, bands: str | None, *, pictures: bool) -> float:
    """Run one job in a process of its own: seconds in all."""
    told = str(items), (bands or "").replace(" ", ","), "pictures" * pictures
    began = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--only", *told], check=True)  # noqa: S603
    return time.perf_counter() - began


def measure(
    server: Any, items: Path, bands: str | None, *, repeats: int
) -> tuple[float, float, int, int]:
    """Run a job with pictures and without, in turns.

    Gives medians: seconds in all, share of pictures, requests and bytes. What pictures cost is
    what the job takes longer by: they are drawn while the next date is read.
    """
    server.requests = server.bytes = 0
    took: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for pictures, seconds in took.items():
            seconds.append(run_job(items, bands, pictures=pictures))
    drawn, bare = (statistics.median(seconds) for seconds in took.values())
    runs = 2 * repeats
    return drawn, 1 - bare / drawn, server.requests // runs, server.bytes // runs


def same_labels(bands: str | None) -> float:
    """Share of pixels of real scenes that get the label that they get with all bands."""
    from kappamask import predict_array

    same = count = 0
    for path in sorted(PAIRS.glob("*/cloudy.tif")):
        with rasterio.open(path) as raster:
            dn, names = raster.read().astype(np.float32), list(raster.descriptions)
        dn[dn == 0] = np.nan
        kept = [names.index(name) for name in (bands or " ".join(names)).split()]
        whole, part = (
            predict_array(dn[some] / 10000, [names[i] for i in some], level="L1C")
            for some in (list(range(len(names))), kept)
        )
        same, count = same + int((whole == part).sum()), count + whole.size
    return same / count if count else np.nan


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dates", type=int, default=30)
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir(), "kappamask-bench")
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--delay", type=float, default=0.0, help="seconds before the server answers a request"
    )
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        run_only(Path(options.only[0]), *options.only[1:])
        return
    print_machine()
    if not STRIP.is_dir():
        print(f"fields: not measured, they need {STRIP.name}, which is not shipped")
        return
    _, item = build(options.cache, SIZE)
    with (
        Server(("127.0.0.1", 0), Handler) as server,
        tempfile.TemporaryDirectory() as f,
    ):
        server.content = {path.name: path.read_bytes() for path in item.parent.glob("*.tif")}
        server.delay = options.delay
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        items = Path(f, "items.json")
        print(f"\n{'2 x 2 km, bands':30} {'dates':>5} {'s/date':>7} {'pictures':>9}"
              f" {'requests/date':>13} {'MB/date':>8} {'labels as all':>13}")  # fmt: skip
        for name, bands in SETS.items():
            dates = options.dates if bands is None else max(options.dates // 3, 1)
            items.write_text(json.dumps(make_items(url, json.loads(item.read_text()), dates)))
            seconds, pictures, requests, sent = measure(
                server, items, bands, repeats=options.repeats
            )
            same = same_labels(bands)
            figures = {
                "dates": dates,
                "seconds": seconds / dates,
                "pictures": pictures,
                "requests": requests / dates,
                "megabytes": sent / 1e6 / dates,
                "same": same,
            }
            record("field" if bands is None else "bands", name, **figures)
            print(f"{name:30} {dates:>5} {seconds / dates:7.2f} {pictures:9.0%}"
                  f" {requests / dates:13.0f} {sent / 1e6 / dates:8.2f} {same:13.2%}",
                  flush=True)  # fmt: skip
        server.shutdown()
    print(f"target: {options.dates} dates at most {TARGET} s each, pictures at most 15 % of it")


if __name__ == "__main__":
    main()
