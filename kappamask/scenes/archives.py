"""The files of products: folders and zip archives, of this machine and on servers.

GDAL reads the pixels where they lie; only metadata are read here. On a server a folder is listed
by its manifest, and of a zip archive only the parts that are needed are fetched. Imports
`safe_metadata`, `http` and `base`.
"""

from __future__ import annotations

import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kappamask.base.errors import InputError, KappaMaskError, ReadError
from kappamask.base.files import check_regular, spelled
from kappamask.base.retry import is_remote
from kappamask.scenes.http import RemoteFile, Server, below, shown
from kappamask.scenes.safe_metadata import Document

LARGEST_XML = 100 * 2**20  # bytes; real metadata stay below 10 MB, a zip bomb does not
MANIFEST = "manifest.safe"
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

    location: str  # absolute path or address: the folder, or the zip archive
    packed: bool = False
    inside: str = ""  # of a zip: the folder that is the root, with "/" at its end, or ""
    names: frozenset[str] = frozenset()  # none of a Zarr store, which tells its arrays itself
    metadata: str = ""  # name of the product's own metadata

    @property
    def shown(self) -> str:
        """Where it lies, as messages show it."""
        return shown(self.location)

    def read(self, name: str) -> bytes:
        """Read a metadata file.

        Raises
        ------
        ReadError
            If it is absent, damaged, or too large to be metadata.
        """
        content = self._read(name) if name in self.names else None
        if content is None:
            raise ReadError(f"{self.shown} must hold {name}, which is absent: download it again")
        return _bounded(content, name, self.shown)

    def _read(self, name: str) -> bytes | None:
        """Read a file, no more of it than one byte too many."""
        if is_remote(self.location) and not self.packed:
            return Server(self.location).fetch(name, most=LARGEST_XML)
        try:
            if self.packed:
                with _open_zip(self.location) as archive, archive.open(self.inside + name) as file:
                    return file.read(LARGEST_XML + 1)
            path = Path(self.location) / name
            check_regular(path)
            with path.open("rb") as file:
                return file.read(LARGEST_XML + 1)
        except _DAMAGED as error:
            raise ReadError(
                f"cannot read {name} of {self.shown}: {error}: download it again"
            ) from error

    def gdal_path(self, name: str) -> str:
        """Tell how a file of the product is opened."""
        if is_remote(self.location):
            if self.packed:
                bucket = self.location.partition("s3://")[2]
                place = f"/vsis3/{bucket}" if bucket else f"/vsicurl/{self.location}"
                return f"/vsizip/{{{place}}}/{self.inside}{name}"
            return below(self.location, name)
        path = spelled(Path(self.location))
        if not self.packed:
            return str(path / name)
        # in braces, whatever its suffix: GDAL counts those
        archive = f"{{{path}}}" if _are_paired(str(path)) else str(path)
        return f"/vsizip/{archive}/{self.inside}{name}"


def _bounded(content: bytes, name: str, where: str) -> bytes:
    if len(content) > LARGEST_XML:
        raise ReadError(
            f"metadata are at most {LARGEST_XML >> 20} MB, {name} of {where} is "
            "larger: it is no Sentinel-2 product"
        )
    return content


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Find the files of a product, as `open_safe` takes it; errors as of that."""
    location = _locate(os.fspath(path))
    place, remote = shown(location), is_remote(location)
    packed = place.lower().endswith(".zip") if remote else not Path(location).is_dir()
    if packed:
        names = _names_of_zip(location, place)
    else:
        names = _names_in_manifest(location) if remote else _names_of_folder(Path(location))
    found = sorted(
        (name for name in names if PRODUCT_METADATA.fullmatch(PurePosixPath(name).name)),
        # the one nearest to the root; Sen2Cor's folder may still hold the L1C's own beside L2A's
        key=lambda name: (name.count("/"), "L2A" not in PurePosixPath(name).name, name),
    )
    if not found:
        raise InputError(
            f"a SAFE product holds MTD_MSIL1C.xml or MTD_MSIL2A.xml, {place} has neither: {_HOW}"
        )
    metadata = PurePosixPath(found[0]).name
    inside = found[0].removesuffix(metadata)
    if inside and not packed:
        raise InputError(
            f"a SAFE product holds its metadata at its root, got {found[0]} in {place}: "
            f"give {place}/{inside.rstrip('/')}"
        )
    within = frozenset(name[len(inside) :] for name in names if name.startswith(inside))
    return Archive(location, packed, inside, within, metadata)


def _locate(path: str) -> str:
    """Give the absolute path or the address of a product's folder or archive."""
    if is_remote(path):
        if not path.startswith(("http://", "https://", "s3://")):
            raise InputError(
                "a product is read from a path, an https or an s3 address, got "
                f"{shown(path)}: give one of them, or search its catalogue"
            )
        address, mark, query = path.partition("?")
        folder, _, name = address.rstrip("/").rpartition("/")
        is_metadata = PRODUCT_METADATA.fullmatch(name) or name == MANIFEST
        return f"{folder if is_metadata else address.rstrip('/')}{mark}{query}"
    location = Path(path).expanduser().absolute()
    if not location.exists():
        raise ReadError(f"no SAFE product at {location}: check the path")
    if location.is_file() and PRODUCT_METADATA.fullmatch(location.name):
        location = location.parent
    if not location.is_dir():
        check_regular(location)
        if not _are_paired(str(location)) and location.suffix.lower() != ".zip":
            raise InputError(
                f"braces in the name of an archive come in pairs, or it ends in .zip, got "
                f"{location}: rename it"
            )
    return str(location)


def _are_paired(path: str) -> bool:
    """Tell whether every brace in a path has its other one, as GDAL counts them."""
    depth = 0
    for letter in path:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            return False
    return depth == 0


def _names_of_folder(folder: Path) -> list[str]:
    names, root = [], folder.resolve()
    for at, _, files in os.walk(folder):
        for file in files:
            path = Path(at, file)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise InputError(
                    f"the files of a product lie in its folder, {path} is a link out of it: put "
                    "the file in its place"
                )
            check_regular(path)
            names.append(path.relative_to(folder).as_posix())
    return names


def _names_in_manifest(location: str) -> list[str]:
    """List the files of a folder, which a server of files does not: its manifest does."""
    place = shown(location)
    content = Server(location).fetch(MANIFEST, most=LARGEST_XML)
    if content is None:
        raise ReadError(
            f"no SAFE product at {place}: its manifest.safe is not there; check the address"
        )
    document = Document(_bounded(content, MANIFEST, place), f"{place}/{MANIFEST}")
    hrefs = (one.get("href") or "" for one in document.elements("fileLocation"))
    names = [href.removeprefix("./") for href in hrefs if href]
    if strange := [name for name in names if ".." in name.split("/") or ":" in name]:
        raise InputError(
            f"the files of a product lie in its folder, {place}/{MANIFEST} names {strange[0]!r}: "
            "it was not made by Copernicus"
        )
    return names


def _open_zip(location: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(RemoteFile(location) if is_remote(location) else location)


def _names_of_zip(location: str, place: str) -> Sequence[str]:
    """List the files of a zip archive, whose names stay below its root."""
    try:
        with _open_zip(location) as archive:
            infos = archive.infolist()
    except KappaMaskError:
        raise  # of its server
    except _DAMAGED as error:
        if not place.lower().endswith(".zip"):
            raise InputError(f"{place} is no SAFE product: {_HOW}") from None
        raise ReadError(f"{place} is no whole zip archive ({error}): download it again") from error
    for info in infos:
        parts = re.split(r"[/\\]", info.orig_filename)
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise InputError(
                f"names in a zip archive stay below its root, got {info.orig_filename!r} in "
                f"{place}: it was not made by Copernicus, download the product again"
            )
    return [info.filename for info in infos if not info.is_dir()]
