"""Limits of the machine and signals: outputs whole or absent, exit code and line right.

The oracle is a run that nothing disturbed (`support.jobs`). The commands run in processes of
their own, where a limit or a signal meets them.
"""

import hashlib
import json
import multiprocessing
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import rasterio
from rio_cogeo import cog_validate
from support.jobs import BBOX, DATES, NAMES, contents, finished
from support.limited import HIDDEN, Limits, closed_pipe, may_mount, run, run_real, seen, start

from kappamask.cli import exit_codes as ending
from kappamask.sample import AREA_L1C, SCENES, catalog_path

pytestmark = [
    pytest.mark.skipif(
        "forkserver" not in multiprocessing.get_all_start_methods(),
        reason="needs processes that fork",
    ),
    # chips need no place on earth
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
SEARCH = ["search", "--catalog", str(catalog_path()), *BBOX, *DATES]


def check_error(ended, code=1):
    """One line that says what it is, and nothing of Python's own."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert len(ended.told) == 1, ended.err
    assert ended.told[0].startswith("kappamask: error: ")
    return ended.told[0]


# --- signals ----------------------------------------------------------------------------------

MOMENTS = ("at once", "staging", "output", 0.03, 0.01, 0.0)  # seconds: if none before met it


def paths_of(out):
    """List what is there, in a folder that changes while it is looked at."""
    try:
        return {str(path) for path in out.rglob("*")}
    except FileNotFoundError:
        return set()


def interrupt(running, out, moment, number, rng):
    """Send a signal while it starts, while it writes, or after something is finished."""
    hidden, before = HIDDEN.rstrip("*"), paths_of(out)
    if moment == "staging":
        running.wait_for(lambda: any(hidden in path for path in paths_of(out) - before))
    elif moment == "output":
        running.wait_for(
            lambda: any(hidden not in path and "." in path for path in paths_of(out) - before)
        )
    longest = {"at once": 0.4, "staging": 0.003, "output": 0.05}
    time.sleep(rng.uniform(0, longest[moment]) if moment in longest else moment)
    running.send(number)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_command_leaves_whole_files_and_says_how_to_go_on(jobs, tmp_path, name):
    job, rng, stopped = jobs[name], random.Random(7), 0
    for index, moment in enumerate(MOMENTS):
        if stopped and not isinstance(moment, str):
            break
        number = (signal.SIGINT, signal.SIGTERM)[(index + len(name)) % 2]
        out = tmp_path / f"out{index}"
        running = start(job.words(out), tmp_path, job.limits(out))
        interrupt(running, out, moment, number, rng)
        ended = running.end()
        assert "Traceback" not in ended.err
        assert ended.code in (0, 128 + number, -number), ended.err
        if ended.code == -number:  # it was through, and did not take signals any more
            assert job.check(out) == set(job.whole)
        elif ended.code:
            stopped += 1
            (line,) = ended.told
            assert re.match(r"kappamask: interrupted.*: .*(kept|half-written|begun).*repeat", line)
        job.check(out)
    if not stopped:
        pytest.skip("this machine was through before it was asked to stop, six times")
    ended = run(job.words(out), tmp_path, job.limits(out))  # it goes on
    assert ended.code == 0, ended.err
    assert job.check(out) == set(job.whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_how_far_it_came(jobs, tmp_path, number):
    running = start(jobs["mask"].words(tmp_path / "out"), tmp_path)
    running.wait_for(lambda: len(list((tmp_path / "out").glob("*.json"))) > 1)
    running.send(number)
    ended = running.end()
    if ended.code == 0:
        pytest.skip("this machine was through before it was asked to stop")
    assert ended.code == 128 + number
    assert re.search(r"after [1-3] of 3: finished dates are kept, repeat", ended.err)


def test_killed_again_and_again_every_date_is_done_once(jobs, tmp_path):
    """On a busy machine a process may be through before it is killed: then another is begun."""
    job, rng, folders = jobs["mask a season"], random.Random(2021), []
    kills = ["at once", "staging", "output"] * 2
    while kills:
        out = tmp_path / f"out{len(folders)}"
        out.mkdir()
        folders.append(out)
        known, ended = {}, None
        while kills and (ended is None or ended.code == -signal.SIGKILL):
            running = start(job.words(out), tmp_path)
            interrupt(running, out, kills[-1], signal.SIGKILL, rng)
            ended = running.end()
            assert ended.code in (0, -signal.SIGKILL), ended.err
            if ended.code:
                kills.pop()
            now = finished(out)
            assert {name: now.get(name) for name in known} == known  # none was done again
            known = now
    ended = run(job.words(out), tmp_path)
    skipped = len([name for name in known if name.endswith(".json")])
    assert f"{12 - skipped} done, {skipped} skipped" in ended.out
    now = finished(out)
    assert {name: now.get(name) for name in known} == known
    for folder in folders:
        assert job.check(folder) == set(job.whole)


def test_a_season_that_nobody_killed_is_whole(jobs, tmp_path):
    """What the test above compares with: COGs of codes, each as its item says."""
    job = jobs["mask a season"]
    assert len(job.whole) == 3 * 12  # raster, class names, item
    for name, content in job.whole.items():
        (tmp_path / name).write_bytes(content)
    for mask in tmp_path.glob("*.tif"):
        asset = json.loads(mask.with_suffix(".json").read_text())["assets"]["mask"]
        content = mask.read_bytes()
        assert asset["file:size"] == len(content)
        assert asset["file:checksum"] == f"1220{hashlib.sha256(content).hexdigest()}"
        assert cog_validate(mask, quiet=True)[0]
        with rasterio.open(mask) as raster:
            assert set(raster.read(1).ravel().tolist()) <= {1, 2, 3, 4, 5}


def test_a_signal_that_got_lost_is_raised_again(monkeypatch):
    """Python drops what a handler raises inside a destructor, and goes on."""
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)

    class Last:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with ending.Signals(ours=False) as signals:
        Last()
        assert not lost  # nor does it print a traceback
        assert signals.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            ending.check_signals()
    assert ending.end(ImportError("cut short"), signals, "so it is") == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ending.check_signals()  # nothing is left of it


def test_an_import_is_not_cut_short(monkeypatch, tmp_path):
    """numpy prints a traceback of its own where it is: found with 30 signals at random moments."""
    (tmp_path / "slow_to_import.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.2)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def import_and_wait():  # raised where the import ends, or a moment later
        import slow_to_import  # noqa: F401

        time.sleep(2)

    alarm = signal.getsignal(signal.SIGALRM)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ending.Signals(ours=False) as signals:
        with pytest.raises(KeyboardInterrupt):
            import_and_wait()
        assert sys.modules["slow_to_import"].whole
        assert signals.number == signal.SIGINT
    assert signal.getsignal(signal.SIGALRM) is alarm
    signal.signal(signal.SIGINT, before)


def test_who_started_the_command_may_want_signals_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `nohup` and `&` do
    try:
        with ending.Signals(ours=False):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# --- disk full --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_files_that_may_not_grow_are_absent(jobs, tmp_path, name):
    """RLIMIT_FSIZE stands for a full disk: whatever writes gets an error where the file is full."""
    job = jobs[name]
    sizes = sorted({len(content) for content in job.whole.values()})
    for index, size in enumerate({sizes[0] // 2, sizes[-1] - 1}):
        out = tmp_path / f"out{index}"
        ended = run(job.words(out), tmp_path, job.limits(out, file_size=size))
        assert ended.code == 1, ended.err
        assert "Traceback" not in ended.err
        assert ended.told
        assert re.search("File too large|cannot be written: .*[Ww]rit", ended.told[0])  # or GDAL's
        assert "free some space" in ended.told[0]
        job.check(out)


@pytest.mark.parametrize("name", ["mask", "composite"])
def test_on_a_disk_that_is_full_outputs_are_absent(jobs, tmp_path, name):
    """A real file system of a few pages, where one may mount it."""
    if not may_mount(tmp_path):
        pytest.skip("needs a user who may mount a tmpfs: RLIMIT_FSIZE stands for it above")
    job, out = jobs[name], tmp_path / "out"
    out.mkdir()
    needed = sum(map(len, job.whole.values()))
    ended = run(job.words(out), tmp_path, job.limits(out, over=out, size=needed // 2))
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    assert re.search("No space left|cannot be written: .*[Ww]rit", ended.told[0])
    assert "free some space" in ended.told[0]
    assert job.check(seen(out))  # what fitted is there


def test_standard_output_that_is_full_is_named():
    with Path("/dev/full").open("w") as full:
        ended = run_real(SEARCH, stdout=full)
    line = check_error(ended)
    assert "standard output" in line
    assert "No space left on device" in line


def test_standard_error_that_is_full_stops_nothing(jobs, tmp_path):
    with Path("/dev/full").open("w") as full:
        ended = run_real(jobs["mask"].words(tmp_path / "out"), stderr=full)
    assert ended.code == 0
    assert "3 done" in ended.out
    assert jobs["mask"].check(tmp_path / "out") == set(jobs["mask"].whole)


@pytest.mark.parametrize("words", [SEARCH, [*SEARCH, "--json"], ["--help"]])
def test_a_pipe_that_nobody_reads_is_no_error_to_tell(words):
    with closed_pipe() as pipe:
        ended = run_real(words, stdout=pipe)
    assert ended.err == ""
    assert ended.code == (0 if words == ["--help"] else 141)


# --- memory and threads -----------------------------------------------------------------------

LARGE = ["mask", "--catalog", str(catalog_path()), "--level", "L1C", "--date", SCENES[0].dates,
         "--bbox", ",".join(map(str, AREA_L1C)), "--no-pictures"]  # fmt: skip


@pytest.mark.parametrize("more", [2**26, 2**28])
def test_too_little_memory_is_one_line_with_a_remedy(tmp_path, more):
    """RLIMIT_AS, set when everything is imported: what fails then differs with what is left."""
    ended = run([*LARGE, "--out", tmp_path / "out"], tmp_path, Limits(memory=more))
    line = check_error(ended)
    assert "must fit into memory" in line or "a thread must start" in line
    assert "--area" in line or "memory" in line
    assert not contents(tmp_path / "out")


@pytest.mark.parametrize("name", ["mask", "mask PRODUCT", "composite"])
def test_without_threads_it_says_so(jobs, tmp_path, name):
    job = jobs[name]
    ended = run(job.words(tmp_path / "out"), tmp_path, Limits(threads=False))
    line = check_error(ended)
    assert "can't start new thread" in line
    assert "ulimit -u" in line
    job.check(tmp_path / "out")


# --- the page ---------------------------------------------------------------------------------


def test_the_page_lists_the_exit_codes(request):
    page = (request.config.rootpath / "docs/howto/command-line.md").read_text("utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    signals = {ending.SIGNALLED + number for number in ending.STOPPING}
    assert listed == {0, ending.FAILED, ending.USAGE, ending.CLOSED_PIPE, *signals}
