"""What surrounds the server: clocks that are set, another account than root, memory that ends."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support.openeo_server import Client, fake_server, fault, is_alive, until

from kappamask.openeo.server.settings import Limits

TESTS = Path(__file__).parents[1]
TOKEN = "0123456789abcdef-the-token"  # noqa: S105  of a server that lives for seconds
DAY = 24 * 3600
NOBODY = 65534
MIB = 2**20


@contextmanager
def in_a_process(folder, *before, python=sys.executable, **surroundings):
    """The server of the fake engine as a process that `before` starts; its client."""
    command = [*before, python, "-m", "support.openeo_server", str(folder)]
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **surroundings}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=said, stderr=said, env=environment) as server,
    ):
        try:
            url = None
            while url is None:
                assert server.poll() is None, said.seek(0) or said.read()
                time.sleep(0.05)
                said.seek(0)
                words = said.read().split()
                url = next((word for word in words if word.startswith("http://127")), None)
            client = Client(url)
            client.process = server
            yield client
        finally:
            server.terminate()
            server.wait(60)


# --- clocks -------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """The clock on the wall, which is set by `clock.shift` seconds."""
    real = time.time

    class Clock(datetime):
        shift = 0.0

        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + timedelta(seconds=cls.shift)

    monkeypatch.setattr(time, "time", lambda: real() + Clock.shift)
    for module in ("store", "gate"):
        monkeypatch.setattr(f"kappamask.openeo.server.{module}.datetime", Clock)
    return Clock


@pytest.mark.slow
@pytest.mark.parametrize("jump", [400 * DAY, -400 * DAY])
def test_a_clock_that_is_set_ends_no_job_and_no_link(tmp_path, clock, jump):
    limits = Limits(job_seconds=600)
    with fake_server(tmp_path, token=TOKEN, limits=limits) as client:
        owner = Client(client.url, Authorization=f"Bearer basic//{TOKEN}")
        written = owner.start("write", {"names": ["a.tif"]})
        owner.wait(written)
        links = [owner.ask("get", f"/jobs/{written}/results").json()["assets"]["a.tif"]["href"]]
        running = owner.start("sleep", {"seconds": 2})
        owner.wait(running, "running")
        clock.shift += jump
        waiting = owner.start("add", {"x": 1, "y": 2})
        assert owner.wait(running) == owner.wait(waiting) == "finished"
        listed = [job["id"] for job in owner.ask("get", "/jobs").json()["jobs"]]
        assert listed == [waiting, running, written]
        links += [owner.ask("get", f"/jobs/{written}/results").json()["assets"]["a.tif"]["href"]]
        assert [client.ask("get", link).content for link in links] == [b"xxx", b"xxx"]


@pytest.mark.slow
def test_a_clock_that_is_set_back_lets_no_link_live_longer(tmp_path, clock):
    limits = Limits(link_seconds=2)
    with fake_server(tmp_path, token=TOKEN, limits=limits) as client:
        owner = Client(client.url, Authorization=f"Bearer basic//{TOKEN}")
        job = owner.start("write", {"names": ["a.tif"]})
        owner.wait(job)
        link = owner.ask("get", f"/jobs/{job}/results").json()["assets"]["a.tif"]["href"]
        clock.shift -= DAY
        time.sleep(3)
        assert fault(client.ask("get", link)) == (410, "ResultLinkExpired")


# --- another account ----------------------------------------------------------------------------


@pytest.fixture
def as_nobody():
    """What runs a command as the user nobody, a folder that is that user's, and a Python."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root may become another user; else these tests are another user's")
    if (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("needs setpriv of util-linux")
    become = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # below no folder of root's alone, as pytest's are
    folder = Path(tempfile.mkdtemp(prefix="kappamask-nobody-", dir="/tmp"))
    os.chown(folder, NOBODY, NOBODY)
    try:
        yield become, folder, python_of(become, folder)
    finally:
        shutil.rmtree(folder)


def python_of(become, folder):
    """A Python that another user may start: this one, or else the system's of the same version."""
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": str(folder)}
    version = f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}; import kappamask"
    for python in (sys.executable, "/usr/bin/python3"):
        tries = [*become, "/usr/bin/test", "-x", python], [*become, python, "-c", version]
        if all(
            subprocess.run(one, env=path, cwd=folder, capture_output=True, check=False).returncode
            == 0
            for one in tries
        ):
            return python
    pytest.skip("the user nobody may not read this Python or kappamask")


@pytest.mark.slow
def test_another_user_than_root_serves_and_reads_only_what_is_that_users(as_nobody):
    become, folder, python = as_nobody
    secret = folder.with_name(f"{folder.name}-secret")
    secret.write_text("of root alone")
    secret.chmod(0o600)
    try:
        with in_a_process(folder / "work", *become, python=python, HOME=str(folder)) as client:
            job = client.start("write", {"names": ["a.tif"]})
            assert client.wait(job) == "finished", client.logs(job)
            assert client.ask("get", f"/jobs/{job}/results/assets/a.tif").content == b"xxx"
            told = client.compute("read", path=str(secret)).text
            assert "Permission denied" in told
            assert "of root alone" not in told
        owners = {path.stat().st_uid for path in folder.rglob("*")}
        assert owners == {NOBODY}
    finally:
        secret.unlink()


@pytest.mark.slow
def test_a_work_folder_of_another_user_is_one_line(as_nobody):
    become, folder, python = as_nobody
    theirs = folder / "of-root"
    theirs.mkdir(mode=0o755)
    words = ["-m", "kappamask.cli", "serve", "--port", "0", "--workdir", str(theirs / "work")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": str(folder)}
    command = [*become, python, "-W", "ignore", *words]
    ended = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert (ended.returncode, len(lines)) == (1, 1), ended.stderr
    assert lines[0].startswith("kappamask: error: ")
    assert str(theirs) in lines[0]
    assert list(theirs.iterdir()) == []


# --- memory -------------------------------------------------------------------------------------


@pytest.fixture
def group():
    """A group of processes with 1 GiB of memory, which the kernel holds: of cgroup 1 or 2."""
    for root, limit, events in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
        ("/sys/fs/cgroup", "memory.max", "memory.events"),
    ):
        folder = Path(root, f"kappamask-test-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(1024 * MIB))
        except OSError:
            folder.rmdir()
            continue
        yield folder, folder / events
        for _ in range(100):  # until the last of its processes has gone
            with suppress(OSError):
                folder.rmdir()
                return
            time.sleep(0.1)
    pytest.skip("needs a group of processes whose memory may be limited (cgroup)")


def killed(events):
    """How many processes of a group the kernel has ended for memory."""
    words = dict(line.split() for line in events.read_text().splitlines())
    return int(words["oom_kill"])


@pytest.mark.slow
def test_a_worker_that_the_kernel_ends_for_its_memory_is_an_error_of_its_job(tmp_path, group):
    folder, events = group
    join = ["/bin/sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(folder)]
    with in_a_process(tmp_path / "work", *join) as client:
        answer = client.compute("hog", megabytes=4096)
        assert fault(answer) == (500, "Internal")
        assert "exit code -9): probably it ran out of memory" in answer.json()["message"]
        job = client.start("hog", {"megabytes": 4096})
        following = client.start("write", {"names": ["a.tif"]})
        assert client.wait(job) == "error"
        assert "ran out of memory" in client.logs(job, level="error")[0]["message"]
        assert client.wait(following) == "finished"
        assert client.compute("add", x=1, y=2).text == "3"
        assert killed(events) >= 2
        server = client.process.pid
        assert is_alive(server)
    assert until(lambda: not (folder / "cgroup.procs").read_text().strip())
