"""`kappamask serve` under load: `python benchmarks/load.py [--seconds 120] [--clients 50]`.

A server on the embedded sample, a process of its own, is asked by many clients at once:
metadata, synchronous requests, and batch jobs that are created, started, polled, fetched and
deleted; a hostile one floods it beside them. Every answer is looked at: labels must be those that
the package computes directly, bit for bit; a refusal must be 429 or 503 with Retry-After and an
openEO error document, and clients wait as it says. In the middle the server is killed (-9) and
started again on its work folder.
At the end every job that a client was told of must be there: finished with its right results,
or in the state that its client left it in. Exit code 1 if anything is wrong or lost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

METADATA = ("/", "/collections", "/collections/SENTINEL2_L2A", "/processes", "/jobs", "/me",
            "/conformance", "/file_formats", "/udf_runtimes", "/process_graphs")  # fmt: skip
PATIENCE = 120  # seconds for one answer
SETTLING = 240  # seconds that accepted jobs get after the last client has gone
KEPT = 30  # finished jobs, which must outlive the kill; further ones are deleted
HELD = 20  # connections that the hostile client keeps open
MIB = 2**20


@dataclass(frozen=True)
class Task:
    """What clients let the server compute, and how the right answer is told."""

    graph: dict[str, Any]
    is_right: Callable[[bytes], bool]  # of the file that comes of it


@dataclass
class Server:
    """The process, on whatever port; started again on the same folder."""

    command: Sequence[str]
    folder: Path
    url: str = ""
    up: threading.Event = field(default_factory=threading.Event)
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it says where it listens."""
        self.starts += 1
        said = self.folder / f"said-{self.starts}.txt"
        with said.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603  our own interpreter
                self.command, stdout=output, stderr=output
            )
        while not (found := re.search(r"http://\S+:\d+(?=\s)", said.read_text())):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server did not start: {said.read_text()}")
            time.sleep(0.05)
        self.url = found.group()
        while True:  # it listens before it answers
            try:
                requests.get(self.url, timeout=PATIENCE).raise_for_status()
            except requests.ConnectionError:
                time.sleep(0.05)
            else:
                break
        self.up.set()

    def kill(self) -> None:
        """Kill it as a machine without memory would."""
        self.up.clear()
        self.process.kill()
        self.process.wait()

    def memory(self) -> tuple[int, int]:
        """Resident bytes of the server and of all processes that it started."""
        try:
            server = psutil.Process(self.process.pid)
            below = server.children(recursive=True)
            return server.memory_info().rss, sum(map(_resident, below))
        except psutil.Error:
            return 0, 0


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


@dataclass
class Ledger:
    """What clients saw, by all of them."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    jobs: dict[str, tuple[str, Task]] = field(default_factory=dict)  # id: what is owed, its task
    lock: threading.Lock = field(default_factory=threading.Lock)
    slowest: float = 0.0  # seconds for a metadata answer

    def count(self, what: str) -> None:
        """Count one event."""
        with self.lock:
            self.counts[what] += 1

    def complain(self, text: str) -> None:
        """Note something that must not be."""
        with self.lock:
            self.wrong.append(text)

    def note(self, job: str, owed: str, task: Task) -> None:
        """Note what the server owes: "created", "started", "finished" or "deleted"."""
        with self.lock:
            self.jobs[job] = owed, task


class Client:
    """One of many: asks, looks at the answer, waits when it is told to."""

    def __init__(
        self,
        server: Server,
        ledger: Ledger,
        tasks: Sequence[Task],
        over: threading.Event,
        seed: int,
    ) -> None:
        self.server, self.ledger, self.tasks, self.over = server, ledger, tasks, over
        self.random = random.Random(seed)  # noqa: S311  a mix of requests, no secret

    def work(self) -> None:
        """Ask until the time is over; whatever goes wrong here is a finding."""
        try:
            while not self.over.is_set():
                self.random.choice((self.look, self.look, self.compute, self.run_job))()
        except Exception as error:  # noqa: BLE001  a client that dies would hide what it saw
            self.ledger.complain(f"client: {error!r}")

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response | None:
        """Ask once; None if the answer was a refusal or the server was killed meanwhile."""
        self.server.up.wait(PATIENCE)
        life = self.server.starts
        try:
            answer = requests.request(method, self.server.url + path, json=body, timeout=PATIENCE)
        except requests.RequestException as error:
            killed = life != self.server.starts or not self.server.up.is_set()
            if killed:
                self.ledger.count("requests cut off by the kill")
                time.sleep(0.2)
            else:
                self.ledger.complain(f"{method} {path}: {type(error).__name__}: {error}")
            return None
        if answer.ok:
            return answer
        self.refused(method, path, answer)
        return None

    def refused(self, method: str, path: str, answer: requests.Response) -> None:
        """Look whether a refusal is one, and do as it says."""
        try:
            document = answer.json()
            well_formed = {"id", "code", "message"} <= set(document)
            wait = int(answer.headers.get("Retry-After", "0"))
        except (ValueError, TypeError):
            well_formed, wait = False, 0
        if answer.status_code not in {429, 503} or not well_formed or wait < 1:
            self.ledger.complain(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return
        self.ledger.count(f"refused {answer.status_code}")
        self.over.wait(wait * self.random.uniform(0.5, 1))

    def look(self) -> None:
        """Ask for something that computes nothing."""
        path = self.random.choice(METADATA)
        began = time.monotonic()
        answer = self.ask("GET", path)
        if answer is not None and isinstance(answer.json(), dict):
            self.ledger.count("metadata answers")
            self.ledger.slowest = max(self.ledger.slowest, time.monotonic() - began)

    def compute(self) -> None:
        """Compute synchronously."""
        task = self.random.choice(self.tasks)
        answer = self.ask("POST", "/result", {"process": {"process_graph": task.graph}})
        if answer is not None:
            self.check("synchronous results", task, answer.content)

    def check(self, what: str, task: Task, content: bytes) -> None:
        """Compare with what the package computes."""
        self.ledger.count(what)
        if not task.is_right(content):
            self.ledger.complain(f"{what}: another result than computed directly")

    def run_job(self) -> None:
        """Create, start, poll, fetch; keep it, or delete it."""
        task = self.random.choice(self.tasks)
        created = self.ask("POST", "/jobs", {"process": {"process_graph": task.graph}})
        if created is None:
            return
        job = created.headers["OpenEO-Identifier"]
        self.ledger.note(job, "created", task)
        self.ledger.count("jobs created")
        started = self.ask("POST", f"/jobs/{job}/results")
        while started is None and not self.over.is_set():
            started = self.ask("POST", f"/jobs/{job}/results")
        if started is None:
            return
        self.ledger.note(job, "started", task)
        while not self.over.wait(self.random.uniform(0.3, 1)):
            told = self.ask("GET", f"/jobs/{job}")
            status = told.json()["status"] if told is not None else ""
            if status == "finished":
                self.fetch(job, task)
                return
            if status in {"error", "canceled", "created"}:
                self.ledger.complain(f"job {job} is {status}")
                return

    def fetch(self, job: str, task: Task) -> None:
        """Fetch the result of a finished job and compare it."""
        results = self.ask("GET", f"/jobs/{job}/results")
        if results is None:
            return
        (asset,) = results.json()["assets"]  # its href may name a server that was killed since
        content = self.ask("GET", f"/jobs/{job}/results/assets/{asset}")
        if content is None:
            return
        self.check("jobs fetched", task, content.content)
        self.ledger.note(job, "finished", task)
        with self.ledger.lock:
            kept = [owed for owed, _ in self.ledger.jobs.values()].count("finished")
        if kept > KEPT and self.ask("DELETE", f"/jobs/{job}") is not None:
            self.ledger.note(job, "deleted", task)


@dataclass
class Outcome:
    """What the table prints."""

    counts: dict[str, int]
    wrong: list[str]
    lost: int  # jobs that the server accepted and does not know, or has without their results
    settled: dict[str, int]  # jobs by what was owed and what is
    kept_over_kill: int  # finished before the kill, still right after it
    slowest_metadata_s: float
    server_mb: float  # peaks
    workers_mb: float

    @property
    def is_good(self) -> bool:
        """Nothing wrong, nothing lost."""
        return not self.wrong and not self.lost


class Hostile:
    """One who wants no answer: floods of headers, bodies without end, bytes that are no request.

    What it sends is refused or cut off; others are not to notice.
    """

    def __init__(self, server: Server, ledger: Ledger, over: threading.Event) -> None:
        self.server, self.ledger, self.over = server, ledger, over
        body = b"Host: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        self.sent = (
            [b"GET / HTTP/1.1\r\nHost: x\r\n", *[b"a:\r\n" * 25_000] * 100],
            [b"POST /jobs HTTP/1.1\r\n" + body, *[chunk] * 500],
            [b"GET /jobs HTTP/1.1\r\nHost: [\r\n\r\n"] * 50,
            [b"\x16\x03\x01" + bytes(1000)],
            [b"GET / HTTP/1.1\r\n"],
        )  # fmt: skip

    def work(self) -> None:
        """Send one thing after the other, and hold some connections open."""
        held: list[socket.socket] = []
        for number in itertools.count():
            if self.over.is_set():
                break
            self.server.up.wait(PATIENCE)
            host, port = self.server.url.removeprefix("http://").split(":")
            with suppress(OSError):
                connection = socket.create_connection((host, int(port)), timeout=5)
                held.append(connection)
                for part in self.sent[number % len(self.sent)]:
                    connection.sendall(part)
            self.ledger.count("hostile connections")
            while len(held) > HELD:
                held.pop(0).close()
        for connection in held:
            connection.close()


def run(
    command: Sequence[str], tasks: Sequence[Task], *, clients: int, seconds: float, folder: Path
) -> Outcome:
    """Let clients work for so long, with a kill in the middle; then settle what is owed."""
    server, ledger = Server(command, folder), Ledger()
    server.start()
    peak = [0, 0]
    over, settled_all = threading.Event(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(server, peak, settled_all))
    watcher.start()
    try:
        crowd = [
            threading.Thread(target=Client(server, ledger, tasks, over, seed).work)
            for seed in range(clients)
        ]
        crowd.append(threading.Thread(target=Hostile(server, ledger, over).work))
        for thread in crowd:
            thread.start()
        time.sleep(seconds / 2)
        server.kill()
        with ledger.lock:
            before = {job: task for job, (owed, task) in ledger.jobs.items() if owed == "finished"}
        server.start()
        kept = sum(_is_kept(server, job, task) for job, task in before.items()
                   if ledger.jobs[job][0] == "finished")  # fmt: skip
        time.sleep(seconds / 2)  # a slow start takes no time from the clients
        over.set()
        for thread in crowd:
            thread.join()
        settled, lost = settle(server, ledger)
    finally:
        over.set()
        settled_all.set()
        watcher.join()
        server.kill()
    counts = dict(sorted(ledger.counts.items()))
    megabytes = [value / MIB for value in peak]
    return Outcome(counts, ledger.wrong, lost, settled, kept, ledger.slowest, *megabytes)


def _watch(server: Server, peak: list[int], over: threading.Event) -> None:
    while not over.wait(0.5):
        peak[:] = map(max, peak, server.memory())


def _is_kept(server: Server, job: str, task: Task) -> bool:
    """Fetch a result that was finished before the kill; its client may just have deleted it."""
    base = f"{server.url}/jobs/{job}/results"
    answer = requests.get(base, timeout=PATIENCE)
    if not answer.ok:
        return False
    (asset,) = answer.json()["assets"]
    return task.is_right(requests.get(f"{base}/assets/{asset}", timeout=PATIENCE).content)


def settle(server: Server, ledger: Ledger) -> tuple[dict[str, int], int]:
    """Wait until nothing is queued or running, then hold every job against what is owed."""
    deadline = time.monotonic() + SETTLING
    found: Counter[str] = Counter()
    lost = 0
    for job, (owed, task) in ledger.jobs.items():
        status = _status(server, job)
        while status in {"queued", "running"} and time.monotonic() < deadline:
            time.sleep(0.2)
            status = _status(server, job)
        found[f"{owed}, now {status}"] += 1
        right = {
            # The answer to what a client did last may have been cut off by the kill.
            "created": {"created", "finished"},
            "started": {"finished"},
            "finished": {"finished", "gone"},
            "deleted": {"gone"},
        }[owed]
        if status not in right or (status == "finished" and not _is_kept(server, job, task)):
            lost += 1
            ledger.complain(f"job {job} was {owed}, now {status}")
    return dict(sorted(found.items())), lost


def _status(server: Server, job: str) -> str:
    answer = requests.get(f"{server.url}/jobs/{job}", timeout=PATIENCE)
    return "gone" if answer.status_code == 404 else str(answer.json()["status"])


# --- the real server, on the embedded sample ------------------------------------------------


def sample_tasks() -> list[Task]:
    """Labels of single dates of the sample, as the package computes them directly."""
    import openeo

    from kappamask import load_cube, predict_cube, search
    from kappamask.openeo.graphs import cloud_labels
    from kappamask.sample import SCENES, catalog_path

    scene = next(scene for scene in SCENES if scene.level == "L2A")
    bands = ["B02", "B03", "B04", "B08"]
    items = search(scene.bbox, "2019-07", catalog=catalog_path(), level="L2A")
    labels = predict_cube(load_cube(items, scene.bbox, bands=bands)).load()
    west, south, east, north = scene.bbox
    tasks = []
    for day, expected in zip(labels["time"].to_numpy().astype("M8[D]"), labels, strict=True):
        cube = openeo.DataCube.load_collection(
            "SENTINEL2_L2A",
            spatial_extent={"west": west, "south": south, "east": east, "north": north},
            temporal_extent=[str(day), str(day + 1)],
            bands=bands,
        )
        graph = cloud_labels(cube).save_result("GTiff").flat_graph()
        tasks.append(Task(graph, _comparer(expected.to_numpy())))
    return tasks


def _comparer(expected: Any) -> Callable[[bytes], bool]:
    import numpy as np
    from rasterio.io import MemoryFile

    def is_right(content: bytes) -> bool:
        with MemoryFile(content) as file, file.open() as raster:
            return bool(np.array_equal(raster.read(1), expected))

    return is_right


def print_table(outcome: Outcome) -> None:
    """Print what came of it."""
    rows = [
        *outcome.counts.items(),
        *((f"jobs that were {name}", count) for name, count in outcome.settled.items()),
        ("results kept over the kill", outcome.kept_over_kill),
        ("jobs lost", outcome.lost),
        ("wrong answers", len(outcome.wrong)),
        ("slowest metadata, s", round(outcome.slowest_metadata_s, 1)),
        ("peak memory of the server, MB", round(outcome.server_mb)),
        ("peak memory of its workers, MB", round(outcome.workers_mb)),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:>8}")
    for text in outcome.wrong[:20]:
        print("WRONG:", text)


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args()
    from machine import print_machine

    from kappamask.sample import catalog_path

    if not options.json:
        print_machine()
    with tempfile.TemporaryDirectory(prefix="kappamask-load-") as scratch:
        command = [sys.executable, "-W", "ignore", "-m", "kappamask.cli", "serve", "--port", "0"]
        command += ["--catalog", str(catalog_path()), "--workdir", str(Path(scratch) / "work")]
        outcome = run(
            command,
            sample_tasks(),
            clients=options.clients,
            seconds=options.seconds,
            folder=Path(scratch),
        )
    if options.json:
        print(json.dumps(vars(outcome)))
    else:
        print_table(outcome)
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
