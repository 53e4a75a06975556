"""Limits of the machine and interruptions: outputs whole or absent, exit code and line right.

The oracle is a run that nothing disturbed: each file that is there afterwards under its final
name opens, reads wholly, and equals that of such a run; nothing else is there.
"""

import csv
import multiprocessing
import random
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import rasterio
import torch
from safetensors.torch import load_file
from support.chip_files import write_chip_folder
from support.keras_files import entry_of, make_arrays, write_keras
from support.limited import HIDDEN, Limits, closed_pipe, may_mount, run, run_real, seen, start
from support.safe_products import Recipe, write_safe

from kappamask.cli import exit_codes as ending
from kappamask.cli import main, make_parser
from kappamask.sample import AREA_L1C, AREA_L2A, SCENES, catalog_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "forkserver" not in multiprocessing.get_all_start_methods(),
        reason="needs processes that fork",
    ),
    # chips need no place on earth
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
NAME = "kappamask-2021-l2a"
SEARCH = ["--catalog", str(catalog_path()), "--bbox", ",".join(map(str, AREA_L2A))]
QUERY = [*SEARCH, "--date", "2019-07-01/2019-07-16"]  # three dates
TRAIN = """
[settings]
widths = [4, 6]
steps = 4
validate_every = 2
batch = 2
size = 32
workers = 0
[[data]]
format = "chips"
folder = "{chips}"
"""


@dataclass(frozen=True)
class Job:
    """A command that writes, and what it writes when nothing disturbs it."""

    words: tuple  # OUT stands for where it writes
    whole: dict = field(repr=False)  # path below OUT: bytes
    entries: tuple = ()

    def command(self, out):
        return [str(word).replace("OUT", str(out)) for word in self.words]


class Slow(BaseHTTPRequestHandler):
    """Sends a file in drops."""

    content: bytes

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        step = len(self.content) // 20 + 1
        try:
            for place in range(0, len(self.content), step):
                self.wfile.write(self.content[place : place + step])
                time.sleep(0.005)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        """Keep the test output clean."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the commands read: a product, masks, chips with a configuration, a server."""
    folder = tmp_path_factory.mktemp("inputs")
    assert main(["mask", *QUERY, "--out", str(folder / "masks")]) == 0
    write_chip_folder(folder / "chips")
    (folder / "own.toml").write_text(TRAIN.format(chips=folder / "chips"))
    write_safe(folder, Recipe(shape=(120, 120)))
    keras = write_keras(folder / "l2a_unet.hdf5", make_arrays())
    handler = type("Sending", (Slow,), {"content": keras.read_bytes()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}/l2a_unet.hdf5"
        yield folder, entry_of(NAME, keras, url=url)
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def jobs(inputs, tmp_path_factory):
    """Every command that writes files, with what it writes; run when it is first asked for."""
    folder, entry = inputs
    words = {
        "mask": ("mask", *QUERY, "--out", "OUT", "--no-pictures"),
        "mask PRODUCT": ("mask", next(folder.glob("*.SAFE")), "--out", "OUT"),
        "composite": ("composite", *QUERY, "--period", "month", "--out", "OUT", "--no-pictures"),
        "report": ("report", folder / "masks", "--out", "OUT/page.html"),
        "train": ("train", folder / "own.toml", "--out", "OUT"),
        "models fetch": ("models", "fetch", NAME),
    }

    class Jobs(dict):
        def __missing__(self, name):
            place = tmp_path_factory.mktemp("whole")
            entries = (entry,) if name == "models fetch" else ()
            job = Job(words[name], {}, entries)
            ended = run(job.command(place / "out"), place, limits_of(job, place / "out"))
            assert ended.code == 0, ended.err
            job.whole.update(contents(place / "out"))
            self[name] = job
            return job

    return Jobs()


def limits_of(job, out, **more):
    return Limits(entries=job.entries, cache=out if job.entries else None, **more)


def contents(folder):
    """Every file below a folder, hidden ones too."""
    if not folder.is_dir():
        return {}
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check_outputs(job, out):
    """What is there is final, whole, readable and as in the undisturbed run."""
    assert not list(out.rglob(HIDDEN))
    there = contents(out)
    assert set(there) <= set(job.whole)
    for name, content in there.items():
        path = out / name
        if path.suffix == ".tif":
            with rasterio.open(path) as raster:
                raster.read()
        if path.name in ("last.pt", "best.safetensors", "best.toml", "log.csv"):
            check_run_file(path)  # of another step than that of the finished run
        else:
            assert content == job.whole[name], name
    return there


def check_run_file(path):
    """A file of a training run that stopped early is one of an earlier moment, and whole."""
    if path.suffix == ".pt":
        assert torch.load(path, weights_only=True)["step"] % 2 == 0
    elif path.suffix == ".safetensors":
        assert load_file(path)
    elif path.suffix == ".csv":
        head, *rows = list(csv.reader(path.read_text().splitlines()))
        assert [int(row[0]) for row in rows] == list(range(2, 2 * len(rows) + 1, 2))
        assert {len(row) for row in rows} <= {len(head)}


def check_error(ended, code=1):
    """One line that says what it is, and nothing of Python's own."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert len(ended.told) == 1, ended.err
    assert ended.told[0].startswith("kappamask: error: ")
    return ended.told[0]


# --- signals ----------------------------------------------------------------------------------

MOMENTS = ("at once", "staging", "output", 0.03, 0.01, 0.0)  # seconds: if none before met it


def hold(out, wanted):
    """Tell whether a path is there, in a folder that changes while it is looked at."""
    try:
        return any(wanted(str(path)) for path in out.rglob("*"))
    except FileNotFoundError:
        return False


def interrupt(running, out, moment, number, rng):
    """Send a signal while it starts, while it writes, or after something is finished."""
    hidden = HIDDEN.rstrip("*")
    if moment == "staging":
        running.wait_for(lambda: hold(out, lambda path: hidden in path))
    elif moment == "output":
        running.wait_for(lambda: hold(out, lambda path: hidden not in path and "." in path))
    longest = {"at once": 0.4, "staging": 0.003, "output": 0.05}
    time.sleep(rng.uniform(0, longest[moment]) if moment in longest else moment)
    running.send(number)


@pytest.mark.parametrize(
    "name", ["mask", "mask PRODUCT", "composite", "report", "train", "models fetch"]
)
def test_an_interrupted_command_leaves_whole_files_and_says_how_to_go_on(jobs, tmp_path, name):
    job, rng, stopped = jobs[name], random.Random(7), 0
    for index, moment in enumerate(MOMENTS):
        if stopped and not isinstance(moment, str):
            break
        number = (signal.SIGINT, signal.SIGTERM)[(index + len(name)) % 2]
        out = tmp_path / f"out{index}"
        running = start(job.command(out), tmp_path, limits_of(job, out))
        interrupt(running, out, moment, number, rng)
        ended = running.end()
        assert "Traceback" not in ended.err
        assert ended.code in (0, 128 + number, -number), ended.err
        if ended.code == -number:  # it was through, and did not take signals any more
            assert set(check_outputs(job, out)) == set(job.whole)
        elif ended.code:
            stopped += 1
            (line,) = ended.told
            assert re.match(r"kappamask: interrupted.*: .*(kept|half-written|begun).*repeat", line)
        check_outputs(job, out)
    if not stopped:
        pytest.skip("this machine was through before it was asked to stop, six times")
    ended = run(job.command(out), tmp_path, limits_of(job, out))  # it goes on
    assert ended.code == 0, ended.err
    assert set(check_outputs(job, out)) == set(job.whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_how_far_it_came(jobs, tmp_path, number):
    running = start(jobs["mask"].command(tmp_path / "out"), tmp_path)
    running.wait_for(lambda: len(list((tmp_path / "out").glob("*.json"))) > 1)
    running.send(number)
    ended = running.end()
    if ended.code == 0:
        pytest.skip("this machine was through before it was asked to stop")
    assert ended.code == 128 + number
    assert re.search(r"after [1-3] of 3: finished dates are kept, repeat", ended.err)


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
    alarm = signal.getsignal(signal.SIGALRM)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ending.Signals(ours=False) as signals:
        import slow_to_import

        with pytest.raises(KeyboardInterrupt):
            time.sleep(2)
        assert slow_to_import.whole
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


@pytest.mark.parametrize(
    "name", ["mask", "mask PRODUCT", "composite", "report", "train", "models fetch"]
)
def test_files_that_may_not_grow_are_absent(jobs, tmp_path, name):
    """RLIMIT_FSIZE stands for a full disk: whatever writes gets an error where the file is full."""
    job = jobs[name]
    sizes = sorted({len(content) for content in job.whole.values()})
    for index, size in enumerate({sizes[0] // 2, sizes[-1] - 1}):
        out = tmp_path / f"out{index}"
        ended = run(job.command(out), tmp_path, limits_of(job, out, file_size=size))
        assert ended.code == 1, ended.err
        assert "Traceback" not in ended.err
        assert ended.told
        assert re.search("File too large|cannot be written: .*[Ww]rit", ended.told[0])  # or GDAL's
        assert "free some space" in ended.told[0]
        check_outputs(job, out)


@pytest.mark.parametrize("name", ["mask", "composite"])
def test_on_a_disk_that_is_full_outputs_are_absent(jobs, tmp_path, name):
    """A real file system of a few pages, where one may mount it."""
    if not may_mount(tmp_path):
        pytest.skip("needs a user who may mount a tmpfs: RLIMIT_FSIZE stands for it above")
    job, out = jobs[name], tmp_path / "out"
    out.mkdir()
    needed = sum(map(len, job.whole.values()))
    ended = run(job.command(out), tmp_path, limits_of(job, out, over=out, size=needed // 2))
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    assert re.search("No space left|cannot be written: .*[Ww]rit", ended.told[0])
    assert "free some space" in ended.told[0]
    assert check_outputs(job, seen(out))  # what fitted is there


def test_standard_output_that_is_full_is_named():
    with Path("/dev/full").open("w") as full:
        ended = run_real(["search", *QUERY], stdout=full)
    line = check_error(ended)
    assert "standard output" in line
    assert "No space left on device" in line


def test_standard_error_that_is_full_stops_nothing(jobs, tmp_path):
    with Path("/dev/full").open("w") as full:
        ended = run_real(jobs["mask"].command(tmp_path / "out"), stderr=full)
    assert ended.code == 0
    assert "3 done" in ended.out
    assert set(check_outputs(jobs["mask"], tmp_path / "out")) == set(jobs["mask"].whole)


@pytest.mark.parametrize("words", [["search", *QUERY], ["search", *QUERY, "--json"], ["--help"]])
def test_a_pipe_that_nobody_reads_is_no_error_to_tell(words):
    with closed_pipe() as pipe:
        ended = run_real(words, stdout=pipe)
    assert ended.err == ""
    assert ended.code == (0 if words == ["--help"] else 141)


# --- no place to write ------------------------------------------------------------------------


def outputs_of(folder, inputs):
    """Every command that writes, below a path that is a file: that binds root too."""
    data, _ = inputs
    return {
        "demo": ["--out", folder],
        "mask": [*QUERY, "--out", folder],
        "composite": [*QUERY, "--out", folder],
        "report": [data / "masks", "--out", folder / "page.html"],
        "train": [data / "own.toml", "--out", folder],
        "evaluate": ["--data", data / "chips", "--out", folder],
        "serve": ["--workdir", folder, "--port", "0", "--catalog", catalog_path()],
        "udf build": ["--out", folder],
        "models fetch": [NAME, "--from", data / "l2a_unet.hdf5"],
    }


def all_commands():
    """Names of all commands, those below others too."""
    commands = make_parser()._subparsers._group_actions[0].choices
    below = {"models": "models fetch", "udf": "udf build"}
    return {below.get(name, name) for name in commands}


def test_every_command_that_writes_is_tried(inputs, tmp_path):
    assert set(outputs_of(tmp_path, inputs)) | {"search"} == all_commands()


@pytest.mark.parametrize("name", sorted(all_commands() - {"search"}))
@pytest.mark.parametrize("place", ["file", "proc"])
def test_a_folder_that_cannot_be_is_one_line_before_any_work(
    inputs, tmp_path, capsys, monkeypatch, name, place
):
    """Permissions do not bind root; a path below a file, and /proc, bind everyone."""
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "file" / "out" if place == "file" else Path("/proc/kappamask/out")
    monkeypatch.setenv("KAPPAMASK_CACHE", str(folder))
    if name == "models fetch":
        monkeypatch.setattr(
            "kappamask.networks.manifest.read_registry", lambda: ((), {NAME: inputs[1]})
        )
    words = [*name.split(), *map(str, outputs_of(folder, inputs)[name])]
    assert main(words) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(told) == 1, told
    assert told[0].startswith("kappamask: error: ")
    assert str(folder.parent) in told[0]
    assert (tmp_path / "file").read_text() == "no folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- memory and threads -----------------------------------------------------------------------

LARGE = ["mask", "--catalog", str(catalog_path()), "--level", "L1C", "--date", SCENES[0].dates,
         "--bbox", ",".join(map(str, AREA_L1C)), "--no-pictures", "--out", "OUT"]  # fmt: skip


@pytest.mark.parametrize("more", [2**26, 2**28])
def test_too_little_memory_is_one_line_with_a_remedy(tmp_path, more):
    """RLIMIT_AS, set when everything is imported: what fails then differs with what is left."""
    job = Job(tuple(LARGE), {})
    ended = run(job.command(tmp_path / "out"), tmp_path, Limits(memory=more))
    line = check_error(ended)
    assert "must fit into memory" in line or "a thread must start" in line
    assert "--area" in line or "memory" in line
    assert not contents(tmp_path / "out")


@pytest.mark.parametrize("name", ["mask", "mask PRODUCT", "composite"])
def test_without_threads_it_says_so(jobs, tmp_path, name):
    job = jobs[name]
    ended = run(job.command(tmp_path / "out"), tmp_path, Limits(threads=False))
    line = check_error(ended)
    assert "can't start new thread" in line
    assert "ulimit -u" in line
    check_outputs(job, tmp_path / "out")


# --- the page ---------------------------------------------------------------------------------


def test_the_page_lists_the_exit_codes(request):
    page = (request.config.rootpath / "docs/howto/command-line.md").read_text("utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    signals = {ending.SIGNALLED + number for number in ending.STOPPING}
    assert listed == {0, ending.FAILED, ending.USAGE, ending.CLOSED_PIPE, *signals}
