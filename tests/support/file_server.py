"""Files on loopback with byte ranges, as GDAL wants them; and redirects. Remembers who asked."""

import re
from dataclasses import dataclass, field

from support import loopback


@dataclass
class Files:
    """What is served: bytes by path; and where other paths lead."""

    content: dict = field(default_factory=dict)
    moved: dict = field(default_factory=dict)  # path: URL
    asked: list = field(default_factory=list)
    sent: list = field(default_factory=list)  # path, first byte, one past the last
    url: str = ""


class Handler(loopback.Handler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        files, path = self.server.held, self.path.split("?")[0]
        files.asked.append(self.path)
        if path in files.moved:
            self.reply(302, b"", {"Location": files.moved[path]})
        elif path not in files.content:
            self.reply(404, b"")
        else:
            content = files.content[path]
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if found is None:
                files.sent.append((path, 0, len(content)))
                self.reply(200, content, {"Accept-Ranges": "bytes"})
                return
            start = int(found[1])
            end = min(int(found[2] or len(content)), len(content) - 1)
            told = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
            files.sent.append((path, start, end + 1))
            self.reply(206, content[start : end + 1], told)

    do_HEAD = do_GET  # noqa: N815  as http.server names it


def serve(files):
    """Serve `files` at `files.url` while the context lasts."""
    return loopback.serve(files, Handler)
