"""The command line in a process of its own, where a limit or a signal meets it.

`start` forks a process from one that has imported everything: that takes milliseconds, where
importing torch takes seconds. `run_real` starts Python anew, for what only its beginning and
its end show. What a command says goes through pipes: files are among what is limited.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.forking import context

HIDDEN = ".kappamask-*"  # what `kappamask.base.files.staging` lends
WAIT = 120  # seconds; a busy machine is no failure


@dataclass(frozen=True)
class Limits:
    """What the process is refused."""

    file_size: int | None = None  # bytes; the system refuses to let any file grow beyond
    memory: int | None = None  # bytes of addresses beyond those that the imports took
    threads: bool = True  # False: no further one starts
    size: int | None = None  # bytes of a file system that is put over `over`
    over: Path | None = None  # what is in it at the end is copied to `seen(over)`
    entries: tuple = ()  # models that the manifest holds instead of its own
    cache: Path | None = None  # of fetched weights

    def apply(self) -> None:
        """Limit this process, for good."""
        if self.entries:
            hold_only(self.entries)
        if self.cache is not None:
            os.environ["KAPPAMASK_CACHE"] = str(self.cache)
        if self.over is not None:
            mount_small(self.over, self.size)
        if self.file_size is not None:
            lower(resource.RLIMIT_FSIZE, self.file_size)
        if not self.threads:
            threading._start_new_thread = refuse_thread
        if self.memory is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            lower(resource.RLIMIT_AS, pages * resource.getpagesize() + self.memory)


def lower(what: int, size: int) -> None:
    """Lower a limit of this process."""
    resource.setrlimit(what, (size, resource.getrlimit(what)[1]))


def refuse_thread(*_, **__):
    """Do as the system where no thread is left: Python's own words."""
    raise RuntimeError("can't start new thread")


def hold_only(entries) -> None:
    """Let the manifest hold small stand-ins for published weights."""
    import kappamask.networks.manifest

    shipped, _ = kappamask.networks.manifest.read_registry()
    known = {entry.name: entry for entry in entries}
    kappamask.networks.manifest.read_registry = lambda: (shipped, known)


def mount_small(folder: Path, size: int) -> None:
    """Put a file system of `size` bytes over a folder, for this process alone.

    Raises
    ------
    OSError
        Where one may not: that takes CAP_SYS_ADMIN.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x00020000, (1 << 18) | (1 << 14)  # CLONE_NEWNS; MS_PRIVATE, MS_REC
    steps = (
        lambda: libc.unshare(new_namespace),
        lambda: libc.mount(b"none", b"/", None, private, None),
        lambda: libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size=%d" % size),
    )
    for step in steps:
        if step() != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> list[str]:
        """The lines of the command itself on standard error; bars are left out."""
        return [line for line in self.err.splitlines() if line.startswith("kappamask: ")]


class Running:
    """A command that runs; `end` waits for it."""

    def __init__(self, process, pipes: Sequence[int]) -> None:
        self.process, self.pipes = process, pipes

    def wait_for(self, ready: Callable[[], object]) -> None:
        """Wait until something is so, or the command is over."""
        while self.process.is_alive() and not ready():
            self.process.join(0.001)

    def send(self, number: int) -> None:
        """Send a signal, once the command takes signals and unless it is over."""
        self.wait_for(self.catches)
        if self.process.is_alive():
            with suppress(ProcessLookupError):  # over by now
                os.kill(self.process.pid, number)

    def catches(self) -> bool:
        """Tell whether the command has taken over: before, Python and the system answer."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.parent.parent.joinpath("self").exists():
            return True  # no Linux: be content
        try:
            caught = dict(line.split(":", 1) for line in status.read_text().splitlines())["SigCgt"]
        except (OSError, KeyError):
            return True  # it is over
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    def end(self) -> Ended:
        """Wait; give code and words."""
        self.process.join(WAIT)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError("the command hangs")
        said = [os.read(pipe, 1 << 20).decode() for pipe in self.pipes]
        for pipe in self.pipes:
            os.close(pipe)
        return Ended(self.process.exitcode, *said)


def start(arguments: Sequence[str], folder: Path, limits: Limits = Limits()) -> Running:
    """Start a command in a forked process; `folder` gets two pipes."""
    names = [folder / "out.pipe", folder / "err.pipe"]
    pipes = []
    for name in names:
        name.unlink(missing_ok=True)
        os.mkfifo(name)
        pipes.append(os.open(name, os.O_RDWR | os.O_NONBLOCK))
        os.write(pipes[-1], b"\n")  # so that there is something to read
    process = context().Process(target=_work, args=(list(map(str, arguments)), names, limits))
    process.start()
    return Running(process, pipes)


def run(arguments: Sequence[str], folder: Path, limits: Limits = Limits()) -> Ended:
    """Run a command in a forked process."""
    return start(arguments, folder, limits).end()


def _work(arguments: list[str], names: Sequence[Path], limits: Limits) -> None:
    for number, name in enumerate(names, start=1):
        pipe = os.open(name, os.O_WRONLY)
        os.dup2(pipe, number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run behind `&`
    import torch

    from support.chip_files import few_scenes  # before what it imports is among what is limited

    torch.set_num_threads(1)  # libgomp ends the process by itself where it may start no thread
    limits.apply()
    from kappamask.cli import main

    sys.argv = ["kappamask", *arguments]
    with few_scenes():
        code = main()
    if limits.over is not None:
        shutil.copytree(limits.over, seen(limits.over))  # it goes with this process
    sys.exit(code)


def seen(folder: Path) -> Path:
    """Where the content of a small file system lies afterwards."""
    return folder.with_name(f"{folder.name}-seen")


def run_real(arguments: Sequence[str], **streams) -> Ended:
    """Run a command as a user does; Python's own words, at its very end too, are in `err`."""
    command = [sys.executable, "-W", "ignore", "-m", "kappamask.cli", *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    ended = subprocess.run(command, env=environment, text=True, timeout=WAIT, check=False, **given)
    return Ended(ended.returncode, ended.stdout or "", ended.stderr or "")


@contextmanager
def closed_pipe():
    """Lend the end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def may_mount(folder: Path) -> bool:
    """Tell whether this user may put a file system over a folder."""
    process = context().Process(target=_try_mount, args=(folder,))
    process.start()
    process.join()
    return process.exitcode == 0


def _try_mount(folder: Path) -> None:
    try:
        mount_small(folder, 4096)
    except OSError:
        sys.exit(1)
