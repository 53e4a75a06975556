"""What the back end is told at its start, and where it may listen. Imports `base`."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kappamask.base.errors import InputError, UnknownNameError
from kappamask.scenes.catalogs import PROFILES

TOKEN_VARIABLE = "KAPPAMASK_SERVE_TOKEN"  # noqa: S105  a name, not a secret
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
MIB = 2**20
GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """Bounds of what clients may make the back end hold or do."""

    body_bytes: int = 2 * MIB  # of one request
    body_seconds: float = 60.0  # until it is there
    connections: int = 256  # open at the same time
    requests: int = 128  # answered at the same time
    jobs: int = 100  # stored, in any status
    queued: int = 50  # of these, waiting for their turn
    processes: int = 200  # stored user-defined processes
    sync_requests: int = 2  # computed at the same time, a process each
    result_bytes: int = 4 * GIB  # files of one job or synchronous request
    stored_bytes: int = 40 * GIB  # files of all jobs
    unsent_bytes: int = 8 * GIB  # of synchronous requests, on their way to clients
    link_seconds: float = 24 * 3600.0  # that a link to a result works without the token
    sync_seconds: float = 30 * 60.0
    job_seconds: float = 24 * 3600.0
    log_entries: int = 5000  # of one job; they bound its share of the database
    log_characters: int = 4000  # of one entry

    def __post_init__(self) -> None:
        """Refuse a bound that lets nothing through."""
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"a limit is above 0, got {name}={value}: raise it")


@dataclass(frozen=True)
class Settings:
    """Where the back end reads, writes and listens.

    Parameters
    ----------
    catalog
        As `kappamask.search` takes it: name, URL, path of a catalog.json, folder of products.
    workdir
        Holds the database and the results, and nothing else of the user's.
    host, port
        Where to listen. Port 0: any free one.
    allow_remote
        The explicit consent that listening elsewhere than on this machine needs.
    token
        What clients must show; needed beyond this machine, optional on it.
    load_stac_hosts
        Names (or addresses, or s3 buckets) that `load_stac` may read besides public
        addresses; ``("*",)``: everything that this machine can reach.
    origins
        Of web pages that may ask although there is no token, ``https://editor.openeo.org``:
        what runs there may run code here. With a token any page may ask that knows it.

    Raises
    ------
    InputError
        If the back end would listen beyond this machine without consent and token:
        it runs the code of whoever can reach it.
    UnknownNameError
        If there is no such catalogue.

    Examples
    --------
    >>> Settings("earth-search", Path("work"), host="0.0.0.0")
    Traceback (most recent call last):
    kappamask.base.errors.InputError: the back end runs code that its clients send, ...
    """

    catalog: str
    workdir: Path
    host: str = "127.0.0.1"
    port: int = 8080
    allow_remote: bool = False
    token: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    load_stac_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the rule above, and that there is such a catalogue."""
        is_url = self.catalog.startswith(("https://", "http://"))
        if not is_url and self.catalog not in PROFILES and not Path(self.catalog).exists():
            choice = [*PROFILES, "a URL", "the path of a catalog.json", "or a folder of products"]
            raise UnknownNameError.of("catalogue", self.catalog, choice)
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise InputError(
                "a token is 16 to 512 letters, digits or ._~+/=- characters, got one that is not "
                f"({len(self.token)} characters): make one with `openssl rand -hex 32`"
            )
        if any(not host or "/" in host or "@" in host for host in self.load_stac_hosts):
            raise InputError(
                "what load_stac may read are names of hosts, without scheme, port and path, got "
                f"{' '.join(self.load_stac_hosts)!r}: correct --allow-load-stac"
            )
        for origin in self.origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise InputError(
                    "an origin is scheme and host of a page, https://editor.openeo.org, got "
                    f"{origin!r}: correct --allow-origin"
                )
        if not is_loopback(self.host) and not (self.allow_remote and self.token):
            lacking = "no token" if self.allow_remote else "no --allow-remote"
            raise InputError(
                "the back end runs code that its clients send, so it listens beyond this machine "
                f"only with --allow-remote and a token, got --host {self.host} and {lacking}: "
                f"leave --host out, or give both (--token-file FILE, or {TOKEN_VARIABLE})"
            )


def allowed_hosts(settings: Settings) -> tuple[str, ...] | None:
    """Tell which hosts `load_stac` reads besides public addresses; None: it reads all there are.

    Examples
    --------
    >>> allowed_hosts(Settings("earth-search", Path("work"), load_stac_hosts=("Stac.lan",)))
    ('stac.lan',)
    """
    if "*" in settings.load_stac_hosts:
        return None
    return tuple(host.lower().rstrip(".") for host in settings.load_stac_hosts)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address.

    Examples
    --------
    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may resolve to anything


def read_token(file: Path | None) -> str | None:
    """Take the token from a file or, without one, from the environment.

    The variable is removed there: processes that run the code of clients neither inherit it
    nor find it in /proc.

    Raises
    ------
    InputError
        If the file cannot be read or is empty.
    """
    # Overwritten where the process got it: /proc shows that place until the end.
    library = ctypes.CDLL(None)
    library.getenv.restype = ctypes.c_void_p
    if address := library.getenv(TOKEN_VARIABLE.encode()):
        ctypes.memset(address, ord("*"), len(ctypes.string_at(address)))
    from_environment = os.environ.pop(TOKEN_VARIABLE, "").strip()
    if file is None:
        return from_environment or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {file} must be readable text, got {error}") from error
    if not token:
        raise InputError(f"the token file {file} must hold a token, got an empty file")
    return token
