"""Wheels and installed packages as the members of an archive. Row 6: imports `errors`, `files`.

Code only, without what an engine never imports; the same inputs give the same bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path, PurePosixPath

from kappamask.base.errors import ArchiveError
from kappamask.base.files import staging

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# Half of torch: tests, headers, tools.
PRUNED = (
    "*/__pycache__/*",
    "*.pyc",
    "*.dist-info/RECORD",
    "*/tests/*",
    "torch/bin/*",
    "torch/include/*",
    "torch/lib/*.a",
    "torch/share/*",
    "torch/test/*",
    "onnxruntime/quantization/*",
    "onnxruntime/tools/*",
    "onnxruntime/transformers/*",
)
LARGEST = 4 * 2**30  # bytes of one wheel, unpacked; torch has 1 GB, a zip bomb more
KEPT = ("torch/bin/torch_shm_manager",)  # torch looks for it when it is imported

Members = Mapping[str, Path | bytes]  # name in the archive: a file, or its content


def download_wheels(requirements: Iterable[str], folder: Path, *, python: str) -> Path:
    """Let pip download wheels for workers on Linux x86-64; returns the folder.

    Parameters
    ----------
    requirements
        ``name==version`` each; what they require themselves is not followed.
    folder
        Where to put them.
    python
        Version of the workers, ``"3.11"``.

    Raises
    ------
    ArchiveError
        If pip is not there or fails; the message holds its last words.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--retries", "2", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    requirements = list(requirements)
    done = subprocess.run(  # noqa: S603  our own interpreter, no shell
        [*command, *requirements], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise ArchiveError(
            f"pip could not download {', '.join(requirements)} for Python {python} on Linux "
            f"x86-64: {' '.join(words[-3:]).strip() or 'no reason given'}; check the connection "
            "(PIP_EXTRA_INDEX_URL for a CPU build of torch), or pass a folder that holds the "
            "wheels (--wheels DIR)"
        )
    return folder


def wheel_members(
    wheels: Path, requirements: Iterable[str], scratch: Path
) -> dict[str, Path | bytes]:
    """Unpack the wheel of every requirement; other wheels in the folder are passed over.

    Raises
    ------
    ArchiveError
        If a wheel is missing, damaged, or holds a path that leads out of it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    for requirement in requirements:
        unpack_wheel(find_wheel(wheels, requirement), scratch)
    return {
        path.relative_to(scratch).as_posix(): path
        for path in sorted(scratch.rglob("*"))
        if path.is_file() and not is_pruned(path.relative_to(scratch).as_posix())
    }


def find_wheel(wheels: Path, requirement: str) -> Path:
    """Find the one wheel of ``name==version`` in a folder.

    File names: https://packaging.python.org/en/latest/specifications/binary-distribution-format
    """
    name, version = requirement.split("==")
    wanted = _plain(name), version
    held = sorted(wheels.glob("*.whl"))
    found = [
        path
        for path in held
        if (_plain(path.name.split("-")[0]), path.name.split("-")[1]) == wanted
    ]
    if len(found) != 1:
        raise ArchiveError(
            f"the folder must hold one wheel of {requirement}, got {len(found)} in {wheels} "
            f"({', '.join(path.name for path in held) or 'no wheel'}): `pip download` it there"
        )
    return found[0]


def unpack_wheel(wheel: Path, target: Path) -> None:
    """Unpack a wheel as an installer would, code only; nothing lands outside `target`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = sum(item.file_size for item in archive.infolist())  # no more is ever read
            if size > LARGEST:
                raise ArchiveError(
                    f"a wheel has at most {LARGEST} bytes unpacked, got {size} in {wheel.name}: "
                    "do not use that wheel"
                )
            for item in archive.infolist():
                place = _place(item.filename)
                if not _is_safe(item.filename):
                    raise ArchiveError(
                        f"a wheel holds files inside itself only, got {item.filename!r} in "
                        f"{wheel.name}: do not use that wheel"
                    )
                if place is None or item.is_dir():
                    continue
                path = target / place
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(item) as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{wheel} is no wheel ({error}): get it again") from error


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name)


def _place(name: str) -> str | None:
    """Where an installer puts a file of a wheel; None for scripts, headers and data."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    kind, _, inner = rest.partition("/")
    return inner if kind in ("purelib", "platlib") else None


def installed_members(requirements: Iterable[str]) -> dict[str, Path | bytes]:
    """Find the files of requirements in this Python.

    Raises
    ------
    ArchiveError
        If one is not installed, in that version, with a list of its files.
    """
    members: dict[str, Path | bytes] = {}
    for requirement in requirements:
        name, version = requirement.split("==")
        try:
            held = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise ArchiveError(f"{requirement} is not installed here: pip install it") from None
        if held.version != version or not held.files:
            raise ArchiveError(
                f"the archive takes {requirement}, got {held.version} installed here: "
                "install that version, or let pip download wheels"
            )
        for file in held.files:
            path, inside = Path(str(file.locate())), file.as_posix()
            if _is_safe(inside) and not is_pruned(inside) and path.is_file():
                members[inside] = path
    return members


def is_pruned(name: str) -> bool:
    """Tell whether a file of a package is left out.

    Examples
    --------
    >>> is_pruned("torch/include/ATen/ATen.h"), is_pruned("torch/nn/__init__.py")
    (True, False)
    """
    return name not in KEPT and any(fnmatch(name, pattern) for pattern in PRUNED)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


# --- zip --------------------------------------------------------------------------------------


def write_zip(target: Path, members: Members) -> Path:
    """Write a zip whose bytes depend on names and contents only; it appears whole or not at all.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_zip(Path(folder) / "a.zip", {"b/c.txt": b"c"})
    ...     zipfile.ZipFile(path).namelist()
    ['b/c.txt']
    """
    with staging(target.parent, target.name) as aside:
        with zipfile.ZipFile(aside / target.name, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(members):
                item = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                item.compress_type = zipfile.ZIP_DEFLATED
                item.create_system, item.external_attr = 3, 0o644 << 16  # Unix, as everywhere
                content = members[name]
                if isinstance(content, bytes):
                    archive.writestr(item, content)
                    continue
                item.file_size = content.stat().st_size
                with content.open("rb") as source, archive.open(item, "w") as packed:
                    shutil.copyfileobj(source, packed, 1 << 20)
        (aside / target.name).replace(target)
    return target
