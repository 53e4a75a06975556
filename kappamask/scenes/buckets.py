"""Objects in buckets (`s3://`), asked for by the variables that GDAL reads. Imports `base`.

GDAL reads the pixels (``/vsis3/``); metadata are fetched from the same place with the same keys.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from requests import PreparedRequest
from requests.auth import AuthBase

from kappamask.base.errors import InputError

_NO_CONTENT = hashlib.sha256(b"").hexdigest()
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")  # it becomes part of a host name
_NO = ("", "NO", "FALSE", "OFF", "0")


def _is_told(name: str, usual: str) -> bool:
    return os.environ.get(name, usual).upper() not in _NO


def address_of(location: str) -> str:
    """Tell the address of a place in a bucket, as GDAL would ask for it.

    `AWS_S3_ENDPOINT`, `AWS_HTTPS`, `AWS_VIRTUAL_HOSTING`, `AWS_REGION` (or
    `AWS_DEFAULT_REGION`) count as there.

    Raises
    ------
    InputError
        If the name is none of a bucket: it would make an address of another host.

    Examples
    --------
    >>> address_of("s3://sentinel-s2-l1c/tiles/a b")
    'https://sentinel-s2-l1c.s3.amazonaws.com/tiles/a%20b'
    """
    bucket, _, key = location.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InputError(
            "the name of a bucket has 3 to 255 letters, digits, dots, hyphens or underscores, "
            f"got {bucket.partition('?')[0]!r}: give s3://BUCKET/KEY"
        )
    endpoint = os.environ.get("AWS_S3_ENDPOINT") or "s3.amazonaws.com"
    scheme, mark, host = endpoint.rpartition("://")
    scheme = scheme if mark else ("https" if _is_told("AWS_HTTPS", "YES") else "http")
    host = host.rstrip("/")
    # No certificate is good for a name with one more dot.
    if _is_told("AWS_VIRTUAL_HOSTING", "YES") and "." not in bucket:
        return f"{scheme}://{bucket}.{host}/{quote(key)}".rstrip("/")
    return f"{scheme}://{host}/{bucket}/{quote(key)}".rstrip("/")


@dataclass(frozen=True)
class Signed(AuthBase):  # type: ignore[misc]
    """Signs requests to buckets, for `requests`.

    Source: AWS Signature Version 4, "Authenticating Requests (Authorization Header)".
    """

    key: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    region: str

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the headers that show the keys are known."""
        parts, now = urlsplit(request.url or ""), datetime.now(UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        said = {"x-amz-content-sha256": _NO_CONTENT, "x-amz-date": stamp}
        if self.token:
            said["x-amz-security-token"] = self.token
        if payer := os.environ.get("AWS_REQUEST_PAYER"):
            said["x-amz-request-payer"] = payer
        request.headers.update(said)
        said["host"] = str(parts.netloc)
        if span := request.headers.get("Range"):
            said["range"] = str(span)
        names = sorted(said)
        asked = [str(request.method), str(parts.path) or "/", str(parts.query)]
        asked += [*(f"{name}:{said[name]}" for name in names), "", ";".join(names), _NO_CONTENT]
        scope = f"{day}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()
        key = f"AWS4{self.secret}".encode()
        for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"):
            key = hmac.digest(key, part.encode(), "sha256")
        request.headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.key}/{scope},SignedHeaders={';'.join(names)},"
            f"Signature={key.hex()}"
        )
        return request


def find_keys() -> Signed | None:
    """Take the keys to buckets from the environment; None where none are wanted.

    Raises
    ------
    InputError
        If there are none.
    """
    if _is_told("AWS_NO_SIGN_REQUEST", "NO"):
        return None
    told = os.environ
    key, secret = told.get("AWS_ACCESS_KEY_ID"), told.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        raise InputError(
            "a bucket (s3://) is read with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, got "
            "neither or one: set both in the environment, or AWS_NO_SIGN_REQUEST=YES if it is open"
        )
    region = told.get("AWS_REGION") or told.get("AWS_DEFAULT_REGION") or "us-east-1"
    return Signed(key, secret, told.get("AWS_SESSION_TOKEN", ""), region)
