"""The one error family. Row 0: imports nothing of the package.

Every message says four things: the rule, what was got, where, and the remedy.
"""

from __future__ import annotations

import re

_SECRETS = (
    (
        re.compile(
            r"(?i)([?&](?:x-amz-[a-z-]+|[\w.-]*(?:sig|signature|token|key|secret|password))=)"
            r"[^&\s'\"]+"
        ),
        1,
    ),
    (re.compile(r"(?i)(\b(?:bearer|basic)\s+)[\w./+=~-]{16,}"), 1),
    (re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)"), 1),
)


def redact(text: str) -> str:
    """Take signatures, tokens and passwords out of a text that is shown or stored.

    Examples
    --------
    >>> redact("cannot read https://host/B02.tif?sv=1&sig=abc%3D (403)")
    'cannot read https://host/B02.tif?sv=1&sig=*** (403)'
    >>> redact("https://me:secret@host/")
    'https://***@host/'
    """
    for pattern, kept in _SECRETS:
        text = pattern.sub(rf"\{kept}***", text)
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates break JSON


class KappaMaskError(Exception):
    """Base of every error that kappamask raises on purpose.

    Examples
    --------
    >>> print(KappaMaskError("cannot read https://host/B02.tif?sig=abc (403): try later"))
    cannot read https://host/B02.tif?sig=*** (403): try later
    """

    def __str__(self) -> str:
        """Give the message without what signs the URLs in it."""
        return redact(super().__str__())


class InputError(KappaMaskError, ValueError):
    """An argument, array or cube that breaks a stated rule."""


class UnknownNameError(KappaMaskError, LookupError):
    """A band, model or catalogue name that no table holds.

    Examples
    --------
    >>> print(UnknownNameError.of("band", "B99", ["B02", "B03"]))
    unknown band 'B99': expected one of B02, B03
    """

    @classmethod
    def of(cls, kind: str, got: str, known: list[str]) -> UnknownNameError:
        """Name the table, what was asked of it and what it holds."""
        return cls(f"unknown {kind} {got!r}: expected one of {', '.join(known)}")


class NoItemsError(KappaMaskError, LookupError):
    """A search or an area that no item answers."""


class ItemError(KappaMaskError, ValueError):
    """A STAC item that cannot be read as Sentinel-2; the message names it."""


class CatalogError(KappaMaskError, OSError):
    """A catalogue that does not answer, or answers with something else."""


class ReadError(KappaMaskError, OSError):
    """A raster that cannot be read; the message names the file."""


class WriteError(KappaMaskError, OSError):
    """An output that cannot be written; nothing half-written is left."""


class ResourceError(KappaMaskError, RuntimeError):
    """Memory or threads that this machine does not grant; see `kappamask.base.limits`."""


class ArchiveError(KappaMaskError, OSError):
    """An archive for openEO workers that cannot be made."""


class WeightsError(KappaMaskError, ValueError):
    """A weights file that is absent, damaged, or not what the manifest says."""
