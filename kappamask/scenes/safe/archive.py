"""The files of a SAFE product, in a folder or a zip archive. Imports `errors` only."""

from __future__ import annotations

import lzma
import os
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kappamask.base.errors import InputError, ReadError

LARGEST_XML = 100 * 2**20  # bytes; real metadata stay below 10 MB, a zip bomb does not
# MTD_MSIL1C.xml; before December 2016 S2A_OPER_MTD_SAFL1C_PDMC_2015....xml
PRODUCT_METADATA = re.compile(r"(?:S2[A-D]_[A-Z]{4}_)?MTD_(?:MSI|SAF)L(1C|2A)(?:_\w+)?\.xml")
# What zipfile raises of damaged archives; methods it does not know, members that are encrypted.
_DAMAGED = (
    OSError, EOFError, RuntimeError, ValueError, OverflowError, LookupError, struct.error,
    zlib.error, lzma.LZMAError, zipfile.BadZipFile, zipfile.LargeZipFile,
)  # fmt: skip
_HOW = (
    "give the folder S2?_MSIL1C_... .SAFE, the zip that holds it, or its MTD_MSIL1C.xml "
    "(L2A: MTD_MSIL2A.xml)"
)


@dataclass(frozen=True)
class Archive:
    """A product's files by their path below its root, "/" between folders."""

    location: Path  # absolute: the folder, or the zip archive
    inside: str  # of the zip: the folder that is the root, with "/" at its end, or ""
    names: frozenset[str]
    metadata: str  # name of the product's own metadata

    def read(self, name: str) -> bytes:
        """Read a metadata file.

        Raises
        ------
        ReadError
            If it is absent, damaged, or too large to be metadata.
        """
        if name not in self.names:
            raise ReadError(f"{self.location} must hold {name}, which is absent: download it again")
        try:
            if self.location.is_dir():
                path = self.location / name
                content = path.read_bytes() if path.stat().st_size <= LARGEST_XML else None
            else:
                with (
                    zipfile.ZipFile(self.location) as archive,
                    archive.open(self.inside + name) as file,
                ):
                    content = file.read(LARGEST_XML + 1)
        except _DAMAGED as error:
            raise ReadError(
                f"cannot read {name} of {self.location}: {error}: download it again"
            ) from error
        if content is None or len(content) > LARGEST_XML:
            raise ReadError(
                f"metadata are at most {LARGEST_XML >> 20} MB, {name} of {self.location} is "
                "larger: it is no Sentinel-2 product"
            )
        return content

    def gdal_path(self, name: str) -> str:
        """Tell how GDAL opens a file of the product."""
        if self.location.is_dir():
            return str(self.location / name)
        return f"/vsizip/{{{self.location}}}/{self.inside}{name}"  # braces: whatever its suffix


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Find the files of a product.

    Parameters
    ----------
    path
        The folder ``....SAFE``, a zip archive that holds it, or the product's own
        metadata file in the folder.

    Raises
    ------
    ReadError
        If there is nothing at `path`, or the zip archive is damaged.
    InputError
        If it is no SAFE product, or a name in the zip archive leaves it.
    """
    location = Path(path).expanduser().absolute()
    if not location.exists():
        raise ReadError(f"no SAFE product at {location}: check the path")
    if location.is_file() and PRODUCT_METADATA.fullmatch(location.name):
        location = location.parent
    names = _names_of_folder(location) if location.is_dir() else _names_of_zip(location)
    found = sorted(
        (name for name in names if PRODUCT_METADATA.fullmatch(PurePosixPath(name).name)),
        # the one nearest to the root; Sen2Cor's folder may still hold the L1C's own beside L2A's
        key=lambda name: (name.count("/"), "L2A" not in PurePosixPath(name).name, name),
    )
    if not found:
        raise InputError(
            f"a SAFE product holds MTD_MSIL1C.xml or MTD_MSIL2A.xml, {location} has neither: {_HOW}"
        )
    inside = found[0][: -len(PurePosixPath(found[0]).name)]
    if location.is_dir() and inside:
        raise InputError(
            f"a SAFE product holds its metadata at its root, got {found[0]} in {location}: "
            f"give {location / inside}"
        )
    below = frozenset(name[len(inside) :] for name in names if name.startswith(inside))
    return Archive(location, inside, below, found[0][len(inside) :])


def _names_of_folder(folder: Path) -> list[str]:
    names = []
    for at, _, files in os.walk(folder):
        below = Path(at).relative_to(folder)
        names += [(below / file).as_posix() for file in files]
    return names


def _names_of_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos: list[Any] = archive.infolist()
    except _DAMAGED as error:
        if path.suffix.lower() != ".zip":
            raise InputError(f"{path} is no SAFE product: {_HOW}") from None
        raise ReadError(f"{path} is no whole zip archive ({error}): download it again") from error
    for info in infos:
        parts = re.split(r"[/\\]", info.orig_filename)
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise InputError(
                f"names in a zip archive stay below its root, got {info.orig_filename!r} in "
                f"{path}: it was not made by Copernicus, download the product again"
            )
    return [info.filename for info in infos if not info.is_dir()]
