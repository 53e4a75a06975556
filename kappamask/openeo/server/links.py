"""Links to results that work by themselves: signed, and limited in time. May import `faults`.

Browsers and other people's programs fetch what a results document names without the token of the
server. So the document, whom the server knows to have the token, gets links that stand for
it: each opens one path, for reading, until it expires. They go with their job, and with the
server: the key is made at its start and stored nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote, urlencode

from kappamask.openeo.server.faults import ApiError


@dataclass(frozen=True)
class Links:
    """Signs paths of the server and knows its own signatures."""

    seconds: float  # from the signing to the end
    needed: bool  # without a token whoever may ask needs none
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def sign(self, href: str, url: str) -> str:
        """Sign an address below `url`, that of the server.

        Examples
        --------
        >>> links = Links(3600, needed=True)
        >>> href = links.sign("http://h/jobs/1/results/assets/a.tif", "http://h")
        >>> links.opens("/jobs/1/results/assets/a.tif", href.partition("?")[2])
        True
        >>> links.opens("/jobs/1/results/assets/b.tif", href.partition("?")[2])
        False
        """
        if not self.needed:
            return href
        # By a clock that nobody sets: one that jumps neither ends a link nor lets it live on.
        expires = str(int(time.monotonic() + self.seconds))
        told = {
            "expires": expires,
            "signature": self._code(unquote(href.removeprefix(url)), expires),
        }
        return f"{href}?{urlencode(told)}"

    def opens(self, path: str, query: str) -> bool:
        """Tell whether a query holds a signature for a path.

        Raises
        ------
        ApiError
            ResultLinkExpired, if it held one.
        """
        given = parse_qs(query)
        expires, shown = (given.get(name, [""])[0] for name in ("expires", "signature"))
        if not shown or not hmac.compare_digest(shown.encode(), self._code(path, expires).encode()):
            return False
        if int(expires) < time.monotonic():
            raise ApiError(
                "ResultLinkExpired",
                "this link has expired: ask for the results of the job again, which gives new ones",
            )
        return True

    def until(self) -> str:
        """Tell until when what is signed now will work."""
        end = datetime.fromtimestamp(int(time.time() + self.seconds), UTC)
        return end.isoformat().replace("+00:00", "Z")

    def _code(self, path: str, expires: str) -> str:
        return hmac.new(self.key, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
