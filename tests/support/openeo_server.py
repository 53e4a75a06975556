"""The server in a thread; as a script, in a process: ``-m support.openeo_server WORKDIR``."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from kappamask.openeo.server.app import create_app, listen, make_server, serve
from kappamask.openeo.server.settings import Settings
from kappamask.openeo.server.worker import prepare_workers
from support.fake_engine import FAKE, FakeEngine


@contextmanager
def serving(settings, engine_factory=None):
    """Serve in a thread; gives the URL."""
    prepare_workers()  # of all servers of this process; the first one decides what is loaded
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


if __name__ == "__main__":
    serve(
        Settings(FAKE, Path(sys.argv[1]), port=0),
        engine_factory=FakeEngine,
        say=lambda text: print(text, flush=True),  # noqa: T201  who started it reads the URL
    )
