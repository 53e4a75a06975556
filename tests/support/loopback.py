"""What the servers of tests share: on loopback, silent, and over when the context is."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """One connection; `server.held` is what the server holds."""

    def reply(self, status, content=b"", headers=()):
        """Answer with bytes, or with JSON of anything else."""
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        """Keep the test output clean."""


class Server(ThreadingHTTPServer):
    """Silent where a client hangs up: that is what some tests ask for."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        """Say nothing."""


@contextmanager
def serve(held, handler):
    """Serve what is held at `held.url` while the context lasts."""
    with Server(("127.0.0.1", 0), handler) as server:
        server.held = held
        held.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield held
        finally:
            server.shutdown()
            thread.join()
