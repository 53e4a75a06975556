"""What the commands that write read, and what they write when nothing disturbs them."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from support import loopback
from support.jobs import PUBLISHED, Job, write_inputs
from support.keras_files import entry_of


class Slow(loopback.Handler):
    """Sends a file in drops."""

    def do_GET(self):
        content = self.server.held.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        step = len(content) // 20 + 1
        try:
            for place in range(0, len(content), step):
                self.wfile.write(content[place : place + step])
                time.sleep(0.005)
        except OSError:
            self.close_connection = True


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """The folder that the commands read from."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def entry(inputs):
    """The manifest's entry of published weights, but for a small file on loopback."""
    keras = inputs / "l2a_unet.hdf5"
    with loopback.serve(SimpleNamespace(content=keras.read_bytes()), Slow) as held:
        yield entry_of(PUBLISHED, keras, url=f"{held.url}/{keras.name}")


@pytest.fixture(scope="session")
def jobs(inputs, entry, tmp_path_factory):
    """The commands by name, with what they write; run when first asked for."""

    class Jobs(dict):
        def __missing__(self, name):
            self[name] = Job(name, inputs, (entry,) if name == "models fetch" else ())
            self[name].run_whole(tmp_path_factory.mktemp("whole") / "out")
            return self[name]

    return Jobs()
