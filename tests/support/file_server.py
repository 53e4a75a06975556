"""Files on loopback with byte ranges, as GDAL wants them; and redirects. Remembers who asked."""

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What is served: bytes by path; and where other paths lead."""

    content: dict = field(default_factory=dict)
    moved: dict = field(default_factory=dict)  # path: URL
    asked: list = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        files, path = self.server.files, self.path.split("?")[0]
        files.asked.append(self.path)
        if path in files.moved:
            self.reply(302, b"", {"Location": files.moved[path]})
        elif path not in files.content:
            self.reply(404, b"")
        else:
            content = files.content[path]
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if found is None:
                self.reply(200, content, {"Accept-Ranges": "bytes"})
                return
            start = int(found[1])
            end = min(int(found[2] or len(content)), len(content) - 1)
            told = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
            self.reply(206, content[start : end + 1], told)

    do_HEAD = do_GET  # noqa: N815  as http.server names it

    def reply(self, status, content, headers=()):
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
    """Silent where a client hangs up."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        """Connections that break are what some tests want."""


@contextmanager
def serve(files):
    """Serve `files` at `files.url` while the context lasts."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files = files
        files.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield files
        finally:
            server.shutdown()
            thread.join()
