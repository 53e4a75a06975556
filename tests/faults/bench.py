"""One run of one fault through the two doors that users take, and what came of it."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio

import kappamask as km
from faults.scene import DATES, DN, FAULTY, KEYS, LEFT, TOP, bbox
from faults.server import World, serve
from faults.table import REFUSED, SKIPPED, SURVIVED, Fault
from kappamask.base import retry
from kappamask.base.errors import KappaMaskError
from kappamask.cli.mask import mask_and_tell
from kappamask.cubes import rasters
from kappamask.scenes import catalogs, stac

PICK = "kappamask: "


@dataclass
class Outcome:
    """What one run came to; `problems` is empty where all was as it should be."""

    problems: list[str] = field(default_factory=list)
    bytes_lost: int = 0  # of outputs that were finished before, or of dates without fault
    wrong_labels: int = 0  # pixels of what was written that a run without faults labels otherwise
    seen: str = ""  # what the user was told

    def want(self, holds, problem):
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)


@contextmanager
def hurried(limit_s: float = 0.8) -> Iterator[None]:
    """Make all waits short: what is waited for is the same."""
    catalogues = replace(retry.CATALOGUES, timeout_s=limit_s, tries=3, wait_s=0.02)
    files = replace(retry.FILES, wait_s=0.05, timeout_s=limit_s)
    options = {"GDAL_HTTP_TIMEOUT": str(limit_s)}
    before = stac.CATALOGUES, retry.FILES, dict(rasters.HTTP_OPTIONS)
    stac.CATALOGUES, retry.FILES = catalogues, files
    rasters.HTTP_OPTIONS.update(options)
    try:
        yield
    finally:
        stac.CATALOGUES, retry.FILES = before[:2]
        rasters.HTTP_OPTIONS.update(before[2])


@contextmanager
def signing(world: World) -> Iterator[object]:
    """Make the catalogue of a world one that signs, for as long as the context lasts."""
    if not world.signed:
        yield world.url
        return
    before = catalogs.PROFILES["earth-search"]
    catalogs.PROFILES["earth-search"] = replace(before, url=world.url, signer="faults.signer")
    try:
        yield "earth-search"
    finally:
        catalogs.PROFILES["earth-search"] = before


@cache
def reference() -> dict[str, bytes]:
    """Give the files that a run without faults writes, by name."""
    with TemporaryDirectory() as folder, serve() as world:
        status, said = mask(world, Path(folder))
        assert status == 0, said
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@cache
def labels_of(date: str, bounds: tuple[float, ...]) -> np.ndarray:
    """Label a date from its numbers in memory: no file and no server has a part in it.

    With what lies around the bounds, as the network sees it: here that is all of the scene.
    """
    left, bottom, right, top = bounds
    rows = slice(round((TOP - top) / 10), round((TOP - bottom) / 10))
    columns = slice(round((left - LEFT) / 10), round((right - LEFT) / 10))
    dn = DN[DATES.index(date)].astype(np.float32)
    reflectance = np.where(dn == 0, np.nan, (dn - 1000) * np.float32(1e-4))
    origin = (round(-TOP / 10), round(LEFT / 10))
    whole = km.predict_array(reflectance, list(KEYS), level="L2A", origin=origin)
    return whole[rows, columns]


def mask(
    world: World, folder: Path, *, engine: str = "stackstac", rounds: int = 1
) -> tuple[int, str]:
    """Do as `kappamask mask` does; give its exit code and what it says."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(logging.Formatter(f"{PICK}%(message)s"))
    logger = logging.getLogger("kappamask")
    logger.addHandler(handler)
    settings = {"pictures": False, "retries": rounds, "retry_wait": 0.02, "engine": engine}
    try:
        with redirect_stdout(said), redirect_stderr(said), signing(world) as catalog:
            try:
                items = km.search(bbox(), "2022-06", catalog=catalog)
                status = mask_and_tell(items, bbox(), folder, **settings)
            except KappaMaskError as error:
                said.write(f"{PICK}{error}\n")
                status = 1
    finally:
        logger.removeHandler(handler)
    return status, said.getvalue()


def run(fault: Fault) -> Outcome:
    """Try one fault through both doors, each on a server of its own."""
    outcome = Outcome()
    wanted = reference()
    with hurried(fault.limit_s):
        with serve() as world, TemporaryDirectory() as folder:
            fault.arrange(world)
            run_mask(fault, world, Path(folder), wanted, outcome)
        if not fault.both_doors:
            return outcome
        with serve() as world:
            fault.arrange(world)
            run_python(fault, world, outcome)
    return outcome


def stem(date: str) -> str:
    """Name the files of a date."""
    return f"20220{date[6]}{date[8:]}T101601"


def run_mask(
    fault: Fault, world: World, folder: Path, wanted: dict[str, bytes], outcome: Outcome
) -> None:
    """Run `kappamask mask` where the first date is finished already."""
    for name, content in wanted.items():
        if stem(DATES[0]) in name:
            (folder / name).write_bytes(content)
    status, outcome.seen = mask(world, folder, engine=fault.engine, rounds=fault.rounds)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = [line for line in outcome.seen.splitlines() if line.startswith(PICK)]

    absent = {SURVIVED: (), SKIPPED: (FAULTY,), REFUSED: DATES[1:]}[fault.expected]
    due = {n: c for n, c in wanted.items() if not any(stem(date) in n for date in absent)}
    outcome.bytes_lost += count_lost(due, found)
    outcome.want(status == (0 if fault.expected == SURVIVED else 1), f"exit code {status}")
    outcome.want(found.keys() == due.keys(), f"files {sorted(found.keys() ^ due.keys())}")
    for path in folder.glob("*.tif"):
        outcome.wrong_labels += count_wrong(path)
    told = [line for line in lines if all(text in line for text in fault.told)]
    outcome.want(
        (fault.expected == SURVIVED and not fault.told) or told, f"no line tells {fault.told}"
    )
    outcome.want(len(lines) <= 3, "more than a line for the fault, one for the remedy")
    outcome.want("Traceback" not in outcome.seen, "a traceback")
    outcome.want("SECRET" not in outcome.seen, "a signature is told")
    check_requests(fault, world, outcome)


def without_port(text: bytes) -> bytes:
    """Leave out where the server was."""
    return re.sub(rb"127\.0\.0\.1:\d+", b"", text)


def count_lost(due: dict[str, bytes], found: dict[str, bytes]) -> int:
    """Count bytes of files that are absent or others; items name the server that was asked."""
    lost = 0
    for name, content in due.items():
        got = found.get(name, b"")
        same = (
            without_port(got) == without_port(content) if name.endswith(".json") else got == content
        )
        lost += 0 if same else len(content)
    return lost


def count_wrong(path: Path) -> int:
    """Count pixels of a mask that are labelled otherwise than from the numbers in memory."""
    (date,) = (date for date in DATES if stem(date) in path.name)
    with rasterio.open(path) as raster:
        return int((raster.read(1) != labels_of(date, tuple(raster.bounds))).sum())


def check_requests(fault: Fault, world: World, outcome: Outcome) -> None:
    """See that a faulty path was asked a bounded number of times, and not while it is busy."""
    paths = re.compile("|".join(trouble.path for trouble in world.troubles) or "^$")
    asked = [entry for entry in world.asked if paths.search(entry[2])]
    outcome.want(len(asked) <= fault.most_requests, f"{len(asked)} requests")
    if fault.least_wait_s:
        refused = max(i for i, entry in enumerate(asked) if entry[3] in (429, 503))
        waited = asked[refused + 1][0] - asked[refused][0]
        outcome.want(waited >= fault.least_wait_s, f"asked again after {waited:.2f} s")


def run_python(fault: Fault, world: World, outcome: Outcome) -> None:
    """Run search, load_cube and predict_cube on the faulty date."""
    try:
        with signing(world) as catalog:
            items = km.search(bbox(), FAULTY, catalog=catalog)
            cube = km.load_cube(items, bbox(), engine=fault.engine)
            labels = km.predict_cube(cube).compute()
    except KappaMaskError as error:
        outcome.want(fault.of_python == REFUSED, f"in Python: {error}")
        one_line = "\n" not in str(error) and "SECRET" not in str(error)
        outcome.want(one_line, "in Python: more than one line, or a secret")
        if fault.expected == SKIPPED:
            named = any(text in str(error) for text in fault.told)
            outcome.want(named, f"in Python, no item is named: {error}")
        return
    outcome.want(fault.of_python == SURVIVED, "in Python: no error")
    expected = labels_of(FAULTY, tuple(labels.rio.bounds()))
    outcome.wrong_labels += int((labels.values[0] != expected).sum())
