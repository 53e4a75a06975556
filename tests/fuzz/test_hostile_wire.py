"""Bytes on the server's port: without its token nothing is told, nothing stored, nothing breaks."""

import logging
import re
import socket
from contextlib import suppress

import pytest
from anyio import open_file  # noqa: F401  the server has it imported when a file is first asked for
from hypothesis import given
from support.fake_engine import FAKE
from support.openeo_server import Client, fake_server

from fuzz.budget import PATIENCE, cases
from fuzz.wire import streams
from kappamask.openeo.server.settings import Limits

TOKEN = "0123456789abcdef-fuzz"  # noqa: S105  of a server on loopback
PUBLIC = b"api_version", b"versions", b"conformsTo"  # keys of what is told without a token
# It would hide what failed. And hypothesis sets the depth of recursion, which compiling in a thread
# of the server does not survive: hence the import above.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    limits = Limits(body_seconds=1.0)
    with fake_server(folder, token=TOKEN, limits=limits) as client:
        yield Client(client.url, Authorization=f"Bearer {TOKEN}")


def answers(url, parts):
    """Send all parts, say that no more comes, and read until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    told = b""
    connecting = socket.create_connection((host, int(port)), timeout=PATIENCE)
    with connecting as connection, suppress(ConnectionError):
        with suppress(OSError):  # it has hung up
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(2**16):
            told += piece
    return told


def check(server, parts, caplog):
    caplog.clear()
    told = answers(server.url, parts)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    statuses = [int(status) for status in STATUS.findall(told)]
    assert not [status for status in statuses if status >= 500 and status != 503], told[:500]
    assert TOKEN.encode() not in told
    assert FAKE.encode() not in told
    assert b"Traceback" not in told
    for answer in re.split(rb"(?=^HTTP/1\.1 \d)", told, flags=re.MULTILINE):
        if answer.startswith(b"HTTP/1.1 200") and b"\r\n\r\n{" in answer:
            assert any(key in answer for key in (*PUBLIC, b"openEO API", b"credentials")), answer


@given(parts=streams())
@cases("wire", ci=30)
def test_bytes_without_the_token_get_nothing_and_break_nothing(server, caplog, parts):
    check(server, parts, caplog)


def test_after_all_that_the_server_answers_and_holds_nothing(server):
    assert server.ask("get", "/jobs").json()["jobs"] == []
    assert server.ask("get", "/process_graphs").json()["processes"] == []
    assert server.compute("add", x=1, y=2).json() == 3
