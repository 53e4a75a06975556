"""The one way to addresses that clients name: connections that check where they lead.

`load_stac` reads catalogues with requests and pixels with GDAL. Both follow redirects and look
names up themselves. Requests can be given connections of ours, which look a name up once and
connect to the address that they have checked: a redirect, or a name whose address changes
meanwhile, meets the same check. GDAL cannot. So the addresses of pixels are turned into ones
of a gateway on loopback, in the process that computes, which fetches them with such connections.
"""

from __future__ import annotations

import http.server
import ipaddress
import os
import secrets
import socket
import threading
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.certs import where
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util.connection import create_connection

from kappamask.openeo.engine.flat_graph import GraphError

PART = 1 << 16  # bytes
PATIENCE = 120  # seconds without a byte, then a connection is given up
REDIRECTS = 10  # that are followed for one file
NAT64 = ipaddress.ip_network("64:ff9b::/96")
COMPATIBLE = ipaddress.ip_network("::/96")  # IPv4 in the words of 1998
OF_ONE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "host")  # headers


class RefusedError(GraphError):
    """An address that clients may not make the server read."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause, code="PermissionsInsufficient")


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
    kappamask.openeo.engine.gateway.RefusedError: load_stac reads public addresses only, ...
    >>> check_url("/etc/passwd", frozenset())
    Traceback (most recent call last):
    kappamask.openeo.engine.gateway.RefusedError: load_stac reads http(s) addresses only, ...
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


# --- connections that check ------------------------------------------------------------------


class _Checked:
    """What makes a connection of urllib3 one that connects to addresses it has checked."""

    hosts: frozenset[str]
    host: str
    port: int
    timeout: float | None

    def _new_conn(self) -> socket.socket:
        failed: OSError | None = None
        for address in find_addresses(self.host, self.port, self.hosts):
            try:
                return create_connection(address, self.timeout)
            except OSError as error:
                failed = error
        raise NewConnectionError(self, f"{self.host}: {failed}") from failed  # type: ignore[arg-type]


def checked_pool(hosts: frozenset[str], **options: Any) -> PoolManager:
    """Make a pool of connections, each of which checks where it leads."""
    pool, kinds = PoolManager(**options), {}
    for scheme, kind in (("http", HTTPConnectionPool), ("https", HTTPSConnectionPool)):
        connection = type("Checked", (_Checked, kind.ConnectionCls), {"hosts": hosts})
        kinds[scheme] = type("CheckedPool", (kind,), {"ConnectionCls": connection})
    pool.pool_classes_by_scheme = kinds
    return pool


class CheckedAdapter(HTTPAdapter):  # type: ignore[misc]
    """Lets a session of requests connect to checked addresses only."""

    def __init__(self, hosts: frozenset[str], **options: Any) -> None:
        self.hosts = hosts
        super().__init__(**options)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **options: Any
    ) -> None:
        """Make the pool that the adapter takes its connections from."""
        self.poolmanager = checked_pool(
            self.hosts, num_pools=connections, maxsize=maxsize, block=block, **options
        )


# --- the gateway -----------------------------------------------------------------------------


def through_gateway(url: str, hosts: frozenset[str]) -> str:
    """Check a URL and turn it into the one under which GDAL reads it; buckets stay.

    Raises
    ------
    RefusedError
        As `check_url`.
    """
    check_url(url, hosts)
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return url
    query = f"?{parts.query}" if parts.query else ""
    return f"{open_gateway(hosts)}/{parts.scheme}/{parts.netloc}{parts.path}{query}"


@cache
def open_gateway(hosts: frozenset[str]) -> str:
    """Start the gateway of this process, once; returns its URL, on loopback.

    A secret in it keeps out other users of the machine, and web pages; errors show the address
    behind it instead (`kappamask.base.errors.redact`).
    """
    server = _Server(("127.0.0.1", 0), _Passage)
    certificates = os.environ.get("REQUESTS_CA_BUNDLE") or where()
    server.pool = checked_pool(hosts, maxsize=32, timeout=PATIENCE, ca_certs=certificates)
    server.root = f"/gateway-{secrets.token_urlsafe(16)}/"
    threading.Thread(target=server.serve_forever, name="kappamask-gateway", daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}{server.root.rstrip('/')}"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    pool: PoolManager
    root: str

    def handle_error(self, *_: object) -> None:
        """Say nothing: who reads tells that a connection broke."""


class _Passage(http.server.BaseHTTPRequestHandler):
    """One request that is passed on, redirects followed."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Fetch what the path names."""
        scheme, _, rest = self.path.removeprefix(self.server.root).partition("/")
        if not self.path.startswith(self.server.root) or scheme not in ("http", "https"):
            self.send_error(404)
            return
        sent = {k: v for k, v in self.headers.items() if k.lower() not in OF_ONE_CONNECTION}
        try:
            answer = self.server.pool.request(
                self.command,
                f"{scheme}://{rest}",
                headers=sent,
                preload_content=False,
                decode_content=False,
                retries=Retry(None, connect=0, read=0, redirect=REDIRECTS, status=0, other=0),
            )
        except RefusedError as error:
            self.send_error(403, explain=str(error))
        except (HTTPError, ValueError, OSError) as error:
            self.send_error(502, explain=str(error))
        else:
            self._pass_on(answer)

    do_HEAD = do_GET  # noqa: N815  as http.server names it

    def _pass_on(self, answer: Any) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in OF_ONE_CONNECTION:
                self.send_header(name, value)
        empty = self.command == "HEAD" or answer.status in (204, 304)
        chunked = not empty and "Content-Length" not in answer.headers
        if chunked:  # so that one that breaks off can be told from a whole one
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True  # unless all of it came
        with suppress(HTTPError):
            for part in answer.stream(PART, decode_content=False):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            self.wfile.write(b"0\r\n\r\n" if chunked else b"")
            self.close_connection = False
        answer.release_conn()

    def log_message(self, *_: object) -> None:
        """Say nothing: URLs may be signed."""
