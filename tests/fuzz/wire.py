"""Bytes that are sent to the server: requests that are a little wrong, cut, glued, or none."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import strategies as st

PATHS = [
    b"/", b"/jobs", b"/result", b"/me", b"/process_graphs", b"/collections", b"/validation",
    b"/jobs/../jobs", b"//jobs", b"/jobs/%00", b"/jobs?limit=1", b"*", b"http://x/jobs", b"jobs",
    b"/jobs#x", b"/%2e%2e/%2e%2e/etc/passwd", b"/\xff", b"/" + b"a" * 20_000, b"",
    b"/.well-known/openeo", b"/.well-known/../jobs",
]  # fmt: skip
METHODS = [b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"CONNECT", b"get",
           b"X" * 300, b"", b"G\0T", b"PRI"]  # fmt: skip
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"", b"HTTP", b"http/1.1"]
HEADERS = [
    b"Host: 127.0.0.1", b"Host: [", b"Host: evil.example", b"Host:", b"Host: 127.0.0.1\r\nHost: x",
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
    b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 0x5", b"Content-Length: 5, 5",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3", b"Content-Type: application/json",
    b"Content-Type: text/plain", b"Content-Type: \xff", b"Expect: 100-continue", b"Expect: x",
    b"Connection: Upgrade\r\nUpgrade: websocket", b"Connection: close", b"Connection: keep-alive",
    b"Authorization: Bearer x", b"Authorization: Basic \xff", b"Authorization: Basic eDp5",
    b"Authorization:", b"Authorization: Bearer basic//" + b"a" * 64, b"Origin: null",
    b"Origin: http://[", b"Range: bytes=0-1,2-3", b"X-Forwarded-For: 127.0.0.1", b"no colon",
    b" folded", b"\ttab: x", b"a:" * 50, b"X: " + b"y" * 20_000, b"\0: \0", b"X: \r", b"X : y",
    b"Accept-Encoding: gzip", b"Cookie: a=b", b"\xc3\xa4: \xc3\xa4", b"a:\r\n" * 5000,
]  # fmt: skip
JSON = [b"{}", b"[]", b'{"process": 5}', b"null", b'"\\ud800"', b"1e999", b"[" * 5000, b"{",
        json.dumps({"process": {"process_graph": {"a": {"process_id": "add", "arguments": {}}}}})
        .encode()]  # fmt: skip
CHUNKS = [b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\nx\r\n", b"5;x=" +
          b"y" * 5000 + b"\r\nhello\r\n", b"5\r\nhel", b"zz\r\n", b"0\r\nTrailer: x\r\n\r\n",
          b"000000000000000005\r\nhello\r\n"]  # fmt: skip
ENDS = [b"\r\n\r\n", b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n", b"", b"\r\r"]


@st.composite
def requests(draw):
    """Make the bytes of one request."""
    line = b" ".join(draw(st.sampled_from(words)) for words in (METHODS, PATHS, VERSIONS))
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=6))
    if draw(st.booleans()):
        headers.insert(0, HEADERS[0])
    body = draw(st.sampled_from([b"", b"", *JSON, *CHUNKS]))
    if draw(st.booleans()):
        headers.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([line, *headers]) + draw(st.sampled_from(ENDS)) + body


@st.composite
def streams(draw):
    """Make the parts that are sent over one connection: requests, spoiled, cut anywhere."""
    sent = bytearray(b"".join(draw(st.lists(requests(), min_size=1, max_size=3))))
    how = draw(st.sampled_from(["no"] * 4 + ["flip", "cut", "drop", "binary", "tls"]))
    if how == "flip":
        for _ in range(draw(st.integers(1, 8))):
            sent[draw(st.integers(0, len(sent) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif how == "cut":
        del sent[draw(st.integers(0, len(sent))) :]
    elif how == "drop":
        at = draw(st.integers(0, len(sent)))
        del sent[at : at + draw(st.integers(1, 50))]
    elif how == "binary":
        sent = bytearray(draw(st.binary(max_size=300)))
    elif how == "tls":
        sent = bytearray(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") + sent
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    edges = [0, *cuts, len(sent)]
    return [bytes(sent[a:b]) for a, b in pairwise(edges)]
