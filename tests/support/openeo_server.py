"""The server in a thread; as a script, in a process: ``-m support.openeo_server WORKDIR``."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import requests

from kappamask.openeo.server.app import create_app, listen, make_server, serve
from kappamask.openeo.server.settings import Settings
from support.fake_engine import FAKE, FakeEngine, process
from support.forking import context


class Client:
    """requests with a base URL."""

    def __init__(self, url, **headers):
        self.url, self.headers = url, headers

    def ask(self, method, path, body=None, **settings):
        headers = {**self.headers, **settings.pop("headers", {})}
        url = path if path.startswith("http") else self.url + path
        return requests.request(method, url, json=body, headers=headers, timeout=300, **settings)

    def ask_raw(self, method, path):
        """Ask for a path as it stands: requests would take the dots out."""
        prepared = requests.Request(method, self.url).prepare()
        prepared.url = self.url + path
        with requests.Session() as session:
            return session.send(prepared, timeout=30)

    def compute(self, name, **arguments):
        return self.ask("post", "/result", {"process": process(name, **arguments)})

    def create(self, name, arguments=None, **more):
        body = {"process": process(name, **(arguments or {})), **more}
        answer = self.ask("post", "/jobs", body)
        assert answer.status_code == 201, answer.text
        assert (
            answer.headers["Location"] == f"{self.url}/jobs/{answer.headers['OpenEO-Identifier']}"
        )
        return answer.headers["OpenEO-Identifier"]

    def start(self, name, arguments=None, **more):
        job = self.create(name, arguments, **more)
        assert self.ask("post", f"/jobs/{job}/results").status_code == 202
        return job

    def wait(self, job, *statuses):
        for _ in range(2000):
            status = self.ask("get", f"/jobs/{job}").json()["status"]
            if status in (statuses or ("finished", "error", "canceled")):
                return status
            time.sleep(0.05)
        raise AssertionError(f"{job} is still {status}, {self.logs(job)}")

    def logs(self, job, **query):
        return self.ask("get", f"/jobs/{job}/logs", params=query).json()["logs"]


def until(holds):
    """Wait for what happens just after an answer was sent."""
    for _ in range(1200):
        if holds():
            return True
        time.sleep(0.05)
    return False


def fault(answer):
    """Status and code of an openEO error document."""
    content = answer.json()
    assert uuid.UUID(content["id"])
    return answer.status_code, content["code"]


def is_alive(process):
    """Tell whether a process that is no child of ours runs; a zombie does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def files_with(folder, secret):
    """Names of the files below a folder that hold a text."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


@contextmanager
def serving(settings, engine_factory=None):
    """Serve in a thread; gives the URL."""
    context()  # of all servers of this process
    listening = listen(settings)
    server = make_server(create_app(settings, engine_factory), settings.limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def fake_server(folder, **settings):
    """Serve the engine that computes nothing; gives a client."""
    with serving(Settings(FAKE, folder, port=0, **settings), FakeEngine) as url:
        yield Client(url)


if __name__ == "__main__":
    serve(
        Settings(FAKE, Path(sys.argv[1]), port=0),
        engine_factory=FakeEngine,
        say=lambda text: print(text, flush=True),  # noqa: T201  who started it reads the URL
    )
