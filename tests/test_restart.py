"""`kappamask mask` is killed again and again: nothing is lost, nothing is done twice."""

import hashlib
import json
import multiprocessing
import random
import signal
import time

import pytest
import rasterio
from rio_cogeo import cog_validate

from kappamask import cli
from kappamask.sample import AREA_L2A, SCENES, catalog_path

KILLS = 10
DATES = 12
NEEDED = ["torch", "kappamask.cli", "kappamask.jobs.masks", "kappamask.networks.unet",
          "stackstac", "rioxarray", "pystac_client", "safetensors.torch", "dask.array"]  # fmt: skip


def arguments(out):
    bbox = ",".join(map(str, AREA_L2A))
    query = ["--bbox", bbox, "--date", SCENES[1].dates, "--catalog", str(catalog_path())]
    return ["mask", *query, "--out", str(out), "--no-pictures"]


def finished(folder):
    """Name, inode and time of the files of every date whose item is there."""
    seals = list(folder.glob("*.json"))
    files = [path for seal in seals for path in folder.glob(f"{seal.stem}.*")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def wait_for(ready, process):
    while process.is_alive() and not ready():
        time.sleep(0.002)


def kill_at_a_random_moment(process, folder, rng):
    """Kill while it starts, while it writes a date, or some time after it."""
    before, left = len(list(folder.glob("*.json"))), set(folder.glob(".kappamask-*"))
    process.start()
    moment = rng.choice(["start", "staging", "date"])
    if moment == "staging":
        wait_for(lambda: set(folder.glob(".kappamask-*")) - left, process)
    elif moment == "date":
        wait_for(lambda: len(list(folder.glob("*.json"))) > before, process)
    time.sleep(rng.uniform(0, {"start": 0.6, "staging": 0.002, "date": 0.02}[moment]))
    process.kill()
    process.join()
    return process.exitcode


def check_date(mask):
    item = json.loads(mask.with_suffix(".json").read_text())
    content = mask.read_bytes()
    asset = item["assets"]["mask"]
    assert asset["file:size"] == len(content)
    assert asset["file:checksum"] == f"1220{hashlib.sha256(content).hexdigest()}"
    assert cog_validate(mask, quiet=True)[0]
    with rasterio.open(mask) as raster:
        assert set(raster.read(1).ravel().tolist()) <= {1, 2, 3, 4, 5}


@pytest.mark.slow
@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs processes that fork"
)
def test_killed_ten_times_and_run_again_every_date_is_done_once(tmp_path, capsys):
    """Processes are forked from one that has imported everything: that takes seconds each.

    On a busy machine a process may be through before it is killed: then another folder is begun.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(NEEDED)
    whole = tmp_path / "whole"
    assert cli.main(arguments(whole)) == 0
    rng = random.Random(2021)
    killed, folders = 0, []
    while killed < KILLS:
        out = tmp_path / f"masks{len(folders)}"
        out.mkdir()
        folders.append(out)
        known, alive = {}, True
        while alive and killed < KILLS:
            process = context.Process(target=cli.main, args=(arguments(out),))
            alive = kill_at_a_random_moment(process, out, rng) == -signal.SIGKILL
            killed += alive
            now = finished(out)
            assert {name: now.get(name) for name in known} == known  # none was done again
            known = now
    capsys.readouterr()

    assert cli.main(arguments(out)) == 0
    skipped = len([name for name in known if name.endswith(".json")])
    assert f"{DATES - skipped} done, {skipped} skipped" in capsys.readouterr().out
    now = finished(out)
    assert {name: now.get(name) for name in known} == known
    for folder in folders:
        check_folder(folder, whole)


def check_folder(folder, whole):
    """Everything is there, valid, and the same as what a run wrote that nobody killed."""
    there = {path.name for path in folder.iterdir()}  # hidden ones too: none is left
    assert there == {path.name for path in whole.iterdir()}
    masks = sorted(folder.glob("*.tif"))
    assert len(masks) == DATES
    assert len(there) == 3 * DATES  # raster, class names, item
    for mask in masks:
        check_date(mask)
        assert mask.read_bytes() == (whole / mask.name).read_bytes()
