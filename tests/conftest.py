"""For all tests: processes beside one another, the shared folder, no network but loopback."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest
from _pytest.doctest import DoctestModule
from hypothesis import settings

from kappamask.networks.runners import prepare_torch

# Processes that run tests beside one another take one core each. Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# As users have it: tests import torch before the package does. Threads that spin for one another
# where there are fewer cores made a label cost ten times its processor time.
prepare_torch()

# A busy machine is no failure; CI looks at the same examples every time, `make fuzz` at more.
EXAMPLES = int(os.environ.get("KAPPAMASK_FUZZ", "30"))
settings.register_profile(
    "kappamask",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=EXAMPLES,
)
settings.load_profile("kappamask")

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
APART = ("tests/faults/", "tests/fuzz/")
DOORS = "tests/doors/"
SLOW = (*APART, DOORS)


def pytest_collection_modifyitems(items):
    """Mark what `make quick` leaves out; short cases come last, so the processes end together."""
    items.sort(key=lambda item: item.nodeid.startswith(APART))
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path):
    """Examples stand in the package: nobody looks for them here."""
    found = yield
    elsewhere = HERE not in file_path.parents
    return [one for one in found if elsewhere or not isinstance(one, DoctestModule)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One process more than cores: tests wait for servers and for processes that they start."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a file in one process, and with it what it makes.

    Short cases that share nothing dear to make go to the processes one by one, when all files
    are given out. (xdist's own groups need what pytest 9.2 has no more: they would be passed over
    without a word.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(DOORS):  # files that share what the commands read and write
                return DOORS
            return nodeid if nodeid.startswith(APART) else nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real Sentinel-2 data; a clean clone elsewhere does without."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data: real Sentinel-2 pixels that are not shipped")
    return folder


@pytest.fixture(scope="session")
def schemas(shared_data):
    """What `support.stac_schemas.validate` needs: schemas of STAC and of its extensions."""
    from support.stac_schemas import read_schemas

    return read_schemas(shared_data / "stac-schemas")


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch):
    """Tests never reach the internet: a connection elsewhere fails at once and says so."""
    connect = socket.socket.connect

    def guarded(self, address):
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise OSError(f"tests may connect to loopback only, not to {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
