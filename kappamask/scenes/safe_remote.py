"""SAFE products on servers: folders by their manifest, zip archives in parts. Imports `safe`.

GDAL reads the pixels where they lie; only metadata are fetched here.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath

from kappamask.base.errors import InputError, ReadError
from kappamask.base.retry import without_query
from kappamask.scenes.http import PART, RemoteFile, Server
from kappamask.scenes.safe import (
    DAMAGED,
    LARGEST_XML,
    PRODUCT_METADATA,
    Product,
    check_members,
    find_root,
    read_archive,
)
from kappamask.scenes.safe_metadata import Document

MANIFEST = "manifest.safe"


@dataclass(frozen=True)
class RemoteArchive:
    """A product's files below an address, or in a zip archive at one."""

    location: str  # address of the folder or of the archive
    inside: str  # of a zip: the folder that is the root, with "/" at its end, or ""
    names: frozenset[str]
    metadata: str
    packed: bool

    def read(self, name: str) -> bytes:
        """Read a metadata file.

        Raises
        ------
        ReadError
            If it is absent, damaged, or too large to be metadata.
        """
        where = f"{name} of {without_query(self.location)}"
        if self.packed:
            try:
                with _open_zip(self.location) as archive, archive.open(self.inside + name) as file:
                    content: bytes | None = file.read(LARGEST_XML + 1)
            except DAMAGED as error:
                raise ReadError(f"cannot read {where}: {error}: download it") from error
        else:
            content = Server(self.location, None).fetch(name, None, slice(None))
        if content is None or len(content) > LARGEST_XML:
            raise ReadError(
                f"metadata are at most {LARGEST_XML >> 20} MB, {where} is "
                f"{'not there' if content is None else 'larger'}: check the address"
            )
        return content

    def gdal_path(self, name: str) -> str:
        """Tell how GDAL opens a file of the product."""
        if self.packed:
            bucket = self.location.partition("s3://")[2]
            place = f"/vsis3/{bucket}" if bucket else f"/vsicurl/{self.location}"
            return f"/vsizip/{{{place}}}/{self.inside}{name}"
        address, mark, query = self.location.partition("?")
        return f"{address}/{name}{mark}{query}"


def read_remote(address: str) -> Product:
    """Read the metadata of a SAFE product at an https or s3 address; errors as of `open_safe`.

    Raises
    ------
    InputError
        If the address is of another kind, or there is no product.
    """
    if not address.startswith(("http://", "https://", "s3://")):
        raise InputError(
            "a product is read from a path, an https or an s3 address, got "
            f"{without_query(address)}: give one of them, or search its catalogue"
        )
    path, mark, query = address.partition("?")
    path = path.rstrip("/")
    if PRODUCT_METADATA.fullmatch(PurePosixPath(path).name) or path.endswith(f"/{MANIFEST}"):
        path = path.rpartition("/")[0]
    location, shown = f"{path}{mark}{query}", without_query(path)
    packed = path.lower().endswith(".zip")
    if packed:
        try:
            with _open_zip(location) as archive:
                names = check_members(archive.infolist(), shown)
        except DAMAGED as error:
            if isinstance(error, InputError | ReadError):
                raise
            raise ReadError(f"{shown} is no whole zip archive ({error}): check it") from error
    else:
        names = _names_in_manifest(location, shown)
    inside, metadata, below = find_root(names, shown)
    return read_archive(RemoteArchive(location, inside, below, metadata, packed))


def _open_zip(address: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BufferedReader(RemoteFile(address), PART))


def _names_in_manifest(location: str, shown: str) -> list[str]:
    """List the files of a folder, which a server of files does not: its manifest does."""
    content = Server(location, None).fetch(MANIFEST, None, slice(None))
    if content is None:
        raise ReadError(
            f"no SAFE product at {shown}: its manifest.safe is not there; check the address"
        )
    document = Document(content, f"{shown}/{MANIFEST}")
    hrefs = (one.get("href") or "" for one in document.elements("fileLocation"))
    names = [href.removeprefix("./") for href in hrefs if href]
    if strange := [name for name in names if ".." in name.split("/") or ":" in name]:
        raise InputError(
            f"the files of a product lie in its folder, {shown}/{MANIFEST} names {strange[0]!r}: "
            "it was not made by Copernicus"
        )
    return names
