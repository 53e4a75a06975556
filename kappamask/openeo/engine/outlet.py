"""The one way out to addresses that clients name: a proxy to public ones. Row 6: `flat_graph`.

`load_stac` reads catalogues with requests and pixels with GDAL. Both follow redirects and
look names up themselves, and neither can be told which addresses it may connect to. So
both are sent through this proxy, in the process that computes. It looks a name up once and
connects to the address that it has checked: a redirect, or a name whose address changes
meanwhile, meets the same check.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import socketserver
import threading
from contextlib import suppress
from functools import cache
from urllib.parse import urlsplit

from kappamask.openeo.engine.flat_graph import GraphError

PART = 1 << 16  # bytes
LONGEST_HEAD = 1 << 16  # bytes of a request line and its headers; signed URLs are long
PATIENCE = 120  # seconds without a byte, then a connection is given up
NAT64 = ipaddress.ip_network("64:ff9b::/96")
COMPATIBLE = ipaddress.ip_network("::/96")  # IPv4 in the words of 1998
OWN_HEADERS = ("connection", "keep-alive", "proxy-authorization", "proxy-connection")


class RefusedError(GraphError):
    """An address that clients may not make the server read."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause, code="PermissionsInsufficient")

    def __reduce__(self) -> tuple[type, tuple[str]]:
        """Travel between processes whole."""
        return RefusedError, (self.cause,)


def is_public(address: str) -> bool:
    """Tell whether an IP address belongs to the internet at large.

    Not so: loopback, link-local (where clouds keep credentials), private, shared,
    reserved and multicast ranges, also as IPv4 wrapped into IPv6.

    Examples
    --------
    >>> [is_public(text) for text in ("8.8.8.8", "2a00:1450:4001::1")]
    [True, True]
    >>> [is_public(text) for text in ("127.0.0.1", "169.254.169.254", "10.0.0.1", "100.64.0.1")]
    [False, False, False, False]
    >>> [is_public(text) for text in ("::1", "fe80::1%eth0", "::ffff:10.0.0.1", "64:ff9b::a00:1")]
    [False, False, False, False]
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and (found in NAT64 or found in COMPATIBLE):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


def check_url(url: str, hosts: frozenset[str]) -> None:
    """Refuse what clients may not make the server read, before anything is read.

    Parameters
    ----------
    url
        Of a catalogue or of pixels.
    hosts
        Names (or addresses, or buckets of s3 URLs) that are allowed wherever they lie.

    Raises
    ------
    RefusedError
        If it is no http(s) URL, or its host has an address that is not public.

    Examples
    --------
    >>> check_url("http://127.0.0.1:8080/catalog.json", frozenset({"127.0.0.1"}))
    >>> check_url("http://169.254.169.254/latest/meta-data", frozenset())
    Traceback (most recent call last):
    kappamask.openeo.engine.outlet.RefusedError: load_stac reads public addresses only, ...
    >>> check_url("/etc/passwd", frozenset())
    Traceback (most recent call last):
    kappamask.openeo.engine.outlet.RefusedError: load_stac reads http(s) addresses only, ...
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # no URL at all
        host, port, parts = "", None, urlsplit("")
    if parts.scheme == "s3" and host in hosts:
        return
    if parts.scheme not in ("http", "https") or not host:
        raise RefusedError(
            f"load_stac reads http(s) addresses only, got {url[:80]!r}: take the catalogue of "
            "another provider, or start the server with --allow-load-stac BUCKET for s3://BUCKET"
        )
    find_addresses(host, port or (443 if parts.scheme == "https" else 80), hosts)


def find_addresses(host: str, port: int, hosts: frozenset[str]) -> list[tuple[str, int]]:
    """Look a name up; all its addresses must be public unless the name is allowed.

    Raises
    ------
    RefusedError
        If one is not, or there is none. The message does not tell the addresses: names of
        an inner network are nobody else's business.
    """
    name = host.lower().rstrip(".")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RefusedError(f"load_stac found no address of {host!r}: check the name") from None
    addresses = [(str(address[0]), int(address[1])) for *_, address in found]
    if name not in hosts and not all(is_public(address) for address, _ in addresses):
        raise RefusedError(
            f"load_stac reads public addresses only, {host!r} is not at one: take a public "
            f"catalogue, or start the server with --allow-load-stac {name}"
        )
    return addresses


@cache
def open_outlet(hosts: frozenset[str]) -> str:
    """Start the proxy of this process, once; returns its URL, on loopback."""
    server = _Server(("127.0.0.1", 0), _Passage)
    server.hosts = hosts
    threading.Thread(target=server.serve_forever, name="kappamask-outlet", daemon=True).start()
    for variable in ("no_proxy", "NO_PROXY"):  # libcurl would go past the proxy to these
        os.environ.pop(variable, None)
    return f"http://127.0.0.1:{server.server_address[1]}"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    hosts: frozenset[str]

    def handle_error(self, *_: object) -> None:
        """Say nothing: who reads tells that a connection broke."""


class _Passage(socketserver.BaseRequestHandler):
    """One connection: a tunnel for https, one request for http."""

    server: _Server
    request: socket.socket

    def handle(self) -> None:
        """Pass one connection on, or refuse it."""
        self.request.settimeout(PATIENCE)
        head, rest = self._read_head()
        try:
            line, *headers = head.decode("latin-1").split("\r\n")
            method, target, _ = line.split(" ")
            with self._connect(method, target) as there:
                if method == "CONNECT":
                    self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    back = threading.Thread(target=_pump, args=(there, self.request), daemon=True)
                    back.start()
                    there.sendall(rest)
                    _pump(self.request, there)
                    back.join()
                else:
                    self._ask_once(there, method, target, headers, rest)
        except RefusedError as error:
            self._answer("403 Forbidden", str(error))
        except (ValueError, OSError) as error:
            self._answer("502 Bad Gateway", str(error))

    def _read_head(self) -> tuple[bytes, bytes]:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < LONGEST_HEAD:
            part = self.request.recv(PART)
            if not part:
                break
            head += part
        head, _, rest = head.partition(b"\r\n\r\n")
        return head, rest

    def _connect(self, method: str, target: str) -> socket.socket:
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        if method != "CONNECT" and parts.scheme != "http":
            raise ValueError(f"no proxy request: {method}")
        port = parts.port or 80
        failed: OSError = OSError("no address")
        for address in find_addresses(parts.hostname or "", port, self.server.hosts):
            try:
                there = socket.create_connection(address, timeout=PATIENCE)
            except OSError as error:
                failed = error
            else:
                return there
        raise failed

    def _ask_once(
        self, there: socket.socket, method: str, target: str, headers: list[str], rest: bytes
    ) -> None:
        """Send one request and its body, and nothing that may follow: it may be for others."""
        parts = urlsplit(target)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = [header.partition(":") for header in headers]
        lengths = [int(value) for name, _, value in fields if name.lower() == "content-length"]
        kept = [f"{name}:{value}" for name, _, value in fields if name.lower() not in OWN_HEADERS]
        lines = [f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]
        there.sendall("\r\n".join(lines).encode("latin-1"))
        left = sum(lengths)
        part = rest[:left]
        while left and (part := part or self.request.recv(min(left, PART))):
            there.sendall(part)
            left, part = left - len(part), b""
        first = b""
        while b"\r\n" not in first and (part := there.recv(PART)):
            first += part
        status, _, following = first.partition(b"\r\n")
        # Whoever asks would else send the next request on this connection.
        self.request.sendall(status + b"\r\nConnection: close\r\n" + following)
        _pump(there, self.request)

    def _answer(self, status: str, text: str) -> None:
        body = text.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with suppress(OSError):
            self.request.sendall(head.encode() + body)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until one end is closed, then tell the other."""
    with suppress(OSError):
        while part := source.recv(PART):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
