"""An engine that computes nothing: its processes do what tests of the server need.

A module of its own, because the processes that compute import it.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
import warnings
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.resource_tracker import _resource_tracker
from pathlib import Path

from kappamask.base.errors import NoItemsError
from kappamask.openeo.server.faults import ApiError

FAKE = "https://catalogue.example"  # never asked
SIGNATURE = "c2lnbmF0dXJlLW9mLXRoZS1jbG91ZA"
COLLECTION = {
    "type": "Collection",
    "stac_version": "1.0.0",
    "id": "SENTINEL2_L2A",
    "description": "of the fake engine",
    "license": "other",
    "extent": {"spatial": {"bbox": [[11, 46, 12, 47]]}, "temporal": {"interval": [[None, None]]}},
    "links": [{"rel": "self", "href": "file:///nowhere"}, {"rel": "license", "href": "https://x"}],
}


def process(name, **arguments):
    """Give a process with a graph of one node."""
    node = {"process_id": name, "arguments": arguments, "result": True}
    return {"process_graph": {"one": node}}


class FakeEngine:
    """Its processes do what tests of the server need."""

    def __init__(self, *, catalog, folder=None, log=None, udps=None):
        self.catalog, self.folder, self.log, self.udps = catalog, folder, log, udps or {}

    def processes(self):
        names = [name.removeprefix("do_") for name in dir(self) if name.startswith("do_")]
        return [{"id": name, "parameters": [], "returns": {"schema": {}}} for name in names]

    def collections(self):
        return [COLLECTION]

    def validate(self, flat_graph, *, parameters=None):  # noqa: ARG002  of the interface
        known = {one["id"] for one in self.processes()} | set(self.udps)
        return [
            {"code": "ProcessUnsupported", "message": f"no process {node['process_id']!r}"}
            for node in flat_graph.values()
            if node["process_id"] not in known
        ]

    def run(self, flat_graph, *, parameters=None):
        for fault in self.validate(flat_graph):
            raise ApiError(fault["code"], fault["message"])
        (node,) = flat_graph.values()
        name, arguments = node["process_id"], node["arguments"]
        if name in self.udps:
            return self.run(self.udps[name]["process_graph"], parameters=arguments)
        given = {
            key: (parameters or {})[value["from_parameter"]] if isinstance(value, dict) else value
            for key, value in arguments.items()
        }
        return getattr(self, f"do_{name}")(**given)

    def do_add(self, x, y):
        return x + y

    def do_write(self, names, size=3):
        paths = [self.folder / name for name in names]
        for path in paths:
            path.write_bytes(b"x" * size)
        return paths

    def do_link(self, target):
        (self.folder / "link.json").symlink_to(target)
        return [self.folder / "link.json", Path(target)]

    def do_sleep(self, seconds):
        self.log("info", "asleep")
        time.sleep(seconds)
        return seconds

    def do_sleep_once(self, seconds, marker):
        if not Path(marker).exists():
            Path(marker).write_text(str(os.getpid()))
            time.sleep(seconds)
        return "awake"

    def do_fail(self, text):
        raise ValueError(text)

    def do_find_nothing(self):
        raise NoItemsError("no item answers the search")

    def do_exit(self):
        os._exit(7)

    def do_leave(self):
        sys.exit("the code of a client left")

    def do_die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def do_hog(self, megabytes):
        return len([bytearray(b"x") * 2**20 for _ in range(megabytes)])

    def do_log(self, count):
        for number in range(count):
            self.log("info", f"entry {number}")
            self.log("debug", f"detail {number}")
        self.log("warning", "read https://host/B02.tif?sig=abcdef with Bearer " + "s" * 20)
        return count

    def do_forbid(self):
        raise OSError(f"403 for https://host/B02.tif?X-Amz-Expires=9&X-Amz-Signature={SIGNATURE}")

    def do_token(self):
        return os.environ.get("KAPPAMASK_SERVE_TOKEN", "not here")

    def do_read(self, path):
        raise ValueError(f"I have read {Path(path).read_text()}")

    def do_spoil(self):
        os.chdir("/")
        warnings.simplefilter("error")
        os.environ["SPOILT"] = "yes"
        return self.do_look()

    def do_look(self):
        return [str(Path.cwd()), warnings.filters[0][0], os.environ.get("SPOILT")]

    def do_orphan(self, marker):
        child = os.fork()
        if child == 0:
            time.sleep(3600)  # longer than any test waits
            os._exit(0)
        Path(marker).write_text(str(child))
        os._exit(7)

    def do_tell(self, file, job=None):
        """Write as the process does when it is done: files that were never written."""
        (self.folder / "a.json").write_text("{}")
        message = json.dumps([job or self.folder.name, "done", file]).encode() + b"\n"
        self._into_pipes(message)
        time.sleep(0 if job else 5)  # for the server to read it
        return "told"

    def do_babble(self):
        """Write what belongs to no message into the pipe to the server, whichever that is."""
        self._into_pipes(b'junk\n["done"]\n["log", 5]\n[[[\n\x7f\xff\xff\xff\n')
        return "said"

    def _into_pipes(self, content):
        # What keeps other processes going.
        spared = {0, 1, 2, forkserver._forkserver._forkserver_alive_fd, _resource_tracker._fd}
        for number in {int(path.name) for path in Path("/proc/self/fd").iterdir()} - spared:
            with suppress(OSError):
                if stat.S_ISFIFO(os.fstat(number).st_mode):
                    os.write(number, content)
