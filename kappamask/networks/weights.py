"""Files of weights: those that come along, and those that are fetched, converted, kept per user.

Imports `base` and `manifest`; pooch when something is fetched, h5py when it is converted.

What is trusted: a file whose sha256 is known, and nothing else. A file that is fetched must
have the manifest's, so neither the connection nor a mirror needs to be trusted. It is
converted once to safetensors, which cannot run code; the hash of those, with the hash of
their source, is written to a record beside them, and is checked whenever they are loaded.
The record guards against damage: who may write to the cache may change both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Literal

from kappamask.base.errors import InputError, WeightsError
from kappamask.base.files import check_regular, publish, staging
from kappamask.networks.manifest import ModelEntry

CAN_RUN_CODE = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zip, pickles 2 to 5
CACHE_VARIABLE = "KAPPAMASK_CACHE"
LARGEST = 1 << 30  # bytes; the published files have 124 MB, a server that sends more is no source
RETRIES = 2
TIMEOUT = 60  # seconds without a byte
PART = 1 << 18  # bytes written at once
Progress = Callable[[int, int], object]  # called with bytes done, bytes in all (0: not told)


# --- files whose hash is known ------------------------------------------------------------------


@dataclass(frozen=True)
class WeightsFile:
    """The weights of one network: those of the manifest, or what was converted from them."""

    entry: ModelEntry
    path: Path  # safetensors
    sha256: str


def refuse_code(path: Path, begin: bytes, remedy: str) -> None:
    """Refuse what begins as a pickle or a zip does: what `torch.save` writes."""
    if begin[:2] in CAN_RUN_CODE:
        raise WeightsError(f"{path} is a pickle or a zip, which can run code when loaded: {remedy}")


def read_file(path: Path, sha256: str) -> bytes:
    """Read a safetensors or ONNX file of this sha256 (64 hexadecimal digits), or refuse it.

    A pickle or a zip (what `torch.save` writes) is refused unread.

    Raises
    ------
    WeightsError
        If the file is absent, is another format, or has another hash.
    """
    try:
        check_regular(path)
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights {path} ({error.strerror or error}): reinstall kappamask"
        ) from error
    refuse_code(path, content, "only safetensors are read, convert it first")
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise WeightsError(
            f"{path} has sha256 {got}, the manifest says {sha256}: "
            "the file was changed or cut short, get it again"
        )
    return content


def read_weights(
    path: Path, sha256: str, kind: Literal["torch", "numpy"] = "torch"
) -> dict[str, Any]:
    """Read a safetensors file into torch tensors, or numpy arrays, by name.

    Raises
    ------
    WeightsError
        As `read_file`, and if the content is no valid safetensors file.
    """
    from safetensors import SafetensorError

    content = read_file(path, sha256)
    try:
        weights: dict[str, Any] = import_module(f"safetensors.{kind}").load(content)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is no valid safetensors file ({error}): get it again"
        ) from error
    return weights


def weights_of(entry: ModelEntry) -> WeightsFile:
    """Find the weights of a model, in the installed package or where they were fetched to.

    Raises
    ------
    WeightsError
        If they do not come with the package and were not fetched, or the record beside
        them is damaged or of others.

    Examples
    --------
    >>> from kappamask.networks.manifest import find_entry
    >>> weights_of(find_entry("default", "L2A")).path.suffix
    '.safetensors'
    """
    if entry.shipped:
        path = Path(str(resources.files("kappamask.networks").joinpath("weights", entry.file)))
        return WeightsFile(entry, path, entry.sha256)
    path = cached_path(entry)
    if not is_fetched(entry):
        raise WeightsError(
            f"the weights of {entry.name} do not come with kappamask and were not fetched to "
            f"{path.parent}: run `kappamask models fetch {entry.name}`, or without a network "
            f"`kappamask models fetch {entry.name} --from FOLDER`, which holds {entry.file}"
        )
    again = f"delete it and run `kappamask models fetch {entry.name}` again"
    try:
        record = json.loads(record_path(path).read_text("utf-8"))
        source, converted = record["source_sha256"], record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{record_path(path)} is damaged ({error!r}): {again}") from error
    if source != entry.sha256 or not isinstance(converted, str):
        raise WeightsError(f"{record_path(path)} tells of weights with sha256 {source}: {again}")
    return WeightsFile(entry, path, converted)


# --- the cache ----------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where fetched weights are kept: `KAPPAMASK_CACHE`, or the user's cache folder.

    Examples
    --------
    >>> os.environ["KAPPAMASK_CACHE"] = "~/weights"
    >>> cache_folder().name
    'weights'
    >>> del os.environ["KAPPAMASK_CACHE"]
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("kappamask"))


def cached_path(entry: ModelEntry) -> Path:
    """Where the converted weights of a model lie, or would lie."""
    return cache_folder() / f"{Path(entry.file).stem}-{entry.sha256[:8]}.safetensors"


def record_path(path: Path) -> Path:
    """Where the record of converted weights lies."""
    return path.with_suffix(".json")


def is_fetched(entry: ModelEntry) -> bool:
    """Tell whether the weights are there; they are checked when they are loaded.

    Examples
    --------
    >>> from kappamask.networks.manifest import find_entry
    >>> is_fetched(find_entry("default", "L2A"))
    True
    """
    path = cached_path(entry) if not entry.shipped else None
    return path is None or (path.is_file() and record_path(path).is_file())


# --- fetching -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """Where weights are fetched from: as the manifest says, a mirror, or files at hand."""

    files: Path | None = None  # a folder that holds the file as it was published, or the file
    mirror: str | None = None  # URL of a folder that holds it
    retries: int = RETRIES  # after a failed download, waiting longer each time
    largest: int = LARGEST  # bytes

    def __post_init__(self) -> None:
        """Refuse two origins at once, and a mirror that is no URL."""
        if self.files is not None and self.mirror is not None:
            raise InputError("weights come from files or from a mirror, got both: choose one")
        if self.mirror is not None and not self.mirror.startswith(("http://", "https://")):
            raise InputError(
                f"a mirror is a URL that begins with http:// or https://, got {self.mirror!r}: "
                "for a folder use --from"
            )


def fetch_weights(
    entry: ModelEntry, origin: Origin | None = None, *, progress: Progress | None = None
) -> Path:
    """Fetch the weights of a model, check their hash, and keep them as safetensors.

    Parameters
    ----------
    entry
        Of a model whose weights do not come with the package.
    origin
        Where from; None: as the manifest says.
    progress
        Called during a download.

    Returns
    -------
    pathlib.Path
        The safetensors file. If it is already there, nothing is done.

    Raises
    ------
    InputError
        If the weights come with the package.
    WeightsError
        If the file cannot be had, has another hash, is damaged or of another network.
        Nothing is kept then.
    WriteError
        If the cache folder cannot be written to.
    """
    from safetensors.numpy import save

    from kappamask.networks import keras_file

    if entry.shipped:
        raise InputError(f"the weights of {entry.name} come with kappamask: there is nothing to do")
    path = cached_path(entry)
    if is_fetched(entry):
        return path
    keras_file.import_h5py()  # before a hundred megabytes come
    origin = origin or Origin()
    with staging(path.parent, path.name) as aside:
        if origin.files is None:
            source = _download(entry, origin, aside, progress)
        else:
            source = _find_file(entry, origin.files)
        content = save(keras_file.read_keras(source), metadata={"source_sha256": entry.sha256})
        record = {
            "model_file": entry.file,
            "source_sha256": entry.sha256,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        text = json.dumps(record, indent=1) + "\n"
        publish(aside, {path: content, record_path(path): text.encode()})
    return path


def _find_file(entry: ModelEntry, files: Path) -> Path:
    """Find the published file at hand and check its hash."""
    import pooch

    path = files / entry.file if files.is_dir() else files
    try:
        check_regular(path)
        got = pooch.file_hash(str(path), alg="sha256")
    except OSError as error:
        raise WeightsError(
            f"cannot read {path} ({error.strerror or error}): --from names {entry.file} or its "
            "folder"
        ) from error
    if got != entry.sha256:
        raise WeightsError(
            f"{path} has sha256 {got}, the manifest says {entry.sha256}: "
            "it was changed or cut short, get it again (nothing is kept)"
        )
    return path


def _download(entry: ModelEntry, origin: Origin, folder: Path, progress: Progress | None) -> Path:
    """Download the published file; pooch checks its hash and keeps no other."""
    import pooch
    import requests

    url = f"{origin.mirror.rstrip('/')}/{entry.file}" if origin.mirror else entry.url
    source = pooch.create(
        folder,
        base_url="",
        registry={entry.file: f"sha256:{entry.sha256}"},
        urls={entry.file: url},
        retry_if_failed=origin.retries,
    )
    downloader = partial(_stream, largest=origin.largest, progress=progress)
    offline = (
        f"download {entry.url} elsewhere, then run "
        f"`kappamask models fetch {entry.name} --from FOLDER`"
    )
    # Each retry would be reported: what went wrong is told once, in the error.
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        return Path(source.fetch(entry.file, downloader=downloader))
    except requests.RequestException as error:
        reason = type(error).__name__  # without the classes that it went through
        with suppress(AttributeError):
            reason = f"HTTP {error.response.status_code}"
        raise WeightsError(f"cannot download {url} ({reason}): {offline}") from error
    except WeightsError:
        raise
    except ValueError as error:  # what pooch says of another hash
        raise WeightsError(
            f"what {url} sends has not the sha256 {entry.sha256} that the manifest says: it was "
            f"changed or cut short; nothing is kept: {offline}"
        ) from error
    finally:
        logger.setLevel(level)


def _stream(url: str, path: str, _: Any, *, largest: int, progress: Progress | None = None) -> None:
    """Download one file, as pooch calls its downloaders; stop one that does not end."""
    import requests

    done = 0
    with requests.get(url, stream=True, timeout=TIMEOUT) as response, Path(path).open("wb") as file:
        response.raise_for_status()
        announced = response.headers.get("Content-Length", "")
        total = int(announced) if announced.isdecimal() else 0
        for part in response.iter_content(PART):
            done += len(part)
            if done > largest:
                raise WeightsError(
                    f"the weights have at most {largest} bytes, the server sent more: "
                    "name another source with --mirror or --from"
                )
            file.write(part)
            if progress is not None:
                progress(done, total)
