"""Fixtures for all tests: the shared folder, and no network but loopback."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure; CI looks at the same examples every time.
settings.register_profile("kappamask", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("kappamask")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real Sentinel-2 data; a clean clone elsewhere does without."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data: real Sentinel-2 pixels that are not shipped")
    return folder


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
