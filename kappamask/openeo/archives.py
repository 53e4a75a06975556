"""The archives that a back end unpacks beside the UDF.

Job option ``udf-dependency-archives: ["https://.../x.zip#dir", ...]``: one archive
holds the library with its weights, the other one engine with what it imports: code only, without
what it never imports, and without numpy and xarray, which workers have. The same inputs give
the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path, PurePosixPath

import kappamask
from kappamask.base.errors import ArchiveError, InputError, UnknownNameError
from kappamask.base.files import staging
from kappamask.networks.manifest import read_registry
from kappamask.networks.runners import ONNX_MANIFEST, export_onnx
from kappamask.networks.weights import weights_of
from kappamask.openeo.graphs import PYTHON, job_options

PYTHON_FILE = "kappamask_python.txt"  # tells the UDF for which Python an archive was made
LIBRARY_FOLDER = "kappamask_library"
HOST = "https://YOUR-HOST"
ROOMS = ("base", "networks", "predict")  # all of kappamask that a worker needs
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

Members = dict[str, Path | bytes]  # name in the archive: a file, or its content


@dataclass(frozen=True)
class Engine:
    """One engine as an archive: what is in it, and what a job with it needs."""

    title: str  # of the file
    folder: str  # after the `#`: where a back end unpacks it
    # Everything it imports but numpy, the engine itself first. Where pip finds no CPU build of
    # torch, PIP_EXTRA_INDEX_URL tells it of one.
    requirements: tuple[str, ...]
    options: Mapping[str, str]  # of jobs, where they differ from `DEFAULT_JOB_OPTIONS`

    @property
    def version(self) -> str:
        """Version of the engine itself, without what tells builds apart."""
        return self.requirements[0].partition("==")[2].partition("+")[0]


# --- the table --------------------------------------------------------------------------------
# Versions are those of constraints.txt, which the tests run with. Memory: the default options are
# for torch; a chunk of 1024 px and 13 bands takes 0.8 GB per process in either.

ENGINES: dict[str, Engine] = {
    "onnx": Engine(
        title="onnxruntime",
        folder="kappamask_engine",
        requirements=(
            "onnxruntime==1.32.0",
            "flatbuffers==25.12.19",
            "packaging==26.3",
            "protobuf==7.36.2",
        ),
        options={"executor-memoryOverhead": "3g"},
    ),
    "torch": Engine(
        title="torch-cpu",
        folder="kappamask_engine",
        requirements=(
            "torch==2.13.0+cpu",
            "filelock==4.2.11",
            "fsspec==2026.9.0",
            "jinja2==3.1.6",
            "markupsafe==3.0.4",
            "mpmath==1.3.0",
            "networkx==3.6.1",
            "safetensors==0.8.0",
            "sympy==1.14.0",
            "typing-extensions==4.16.0",
        ),
        options={},
    ),
}


@dataclass(frozen=True)
class Built:
    """The two archives of one engine."""

    engine: str
    library: Path
    runtime: Path
    python: str = PYTHON  # of the workers

    def job_options(self, base_url: str = HOST) -> dict[str, object]:
        """Options with which a batch job finds the archives, which lie under `base_url`.

        Examples
        --------
        >>> built = Built("onnx", Path("dist/kappamask.zip"), Path("dist/ort.zip"))
        >>> built.job_options("https://x.org/")["udf-dependency-archives"]
        ['https://x.org/kappamask.zip#kappamask_library', 'https://x.org/ort.zip#kappamask_engine']
        """
        kit, base = get_engine(self.engine), base_url.rstrip("/")
        archives = [
            f"{base}/{self.library.name}#{LIBRARY_FOLDER}",
            f"{base}/{self.runtime.name}#{kit.folder}",
        ]
        return job_options(archives, python=self.python, **kit.options)


def get_engine(name: str) -> Engine:
    """Look an engine up.

    Raises
    ------
    UnknownNameError
        If the table has no such engine.
    """
    if name not in ENGINES:
        raise UnknownNameError.of("engine", name, list(ENGINES))
    return ENGINES[name]


def build_archives(
    out: Path,
    *,
    engine: str = "onnx",
    python: str = PYTHON,
    wheels: Path | None = None,
    from_installed: bool = False,
) -> Built:
    """Make the two archives of an engine.

    Parameters
    ----------
    out
        Folder; made if absent. Archives of the same name in it are replaced.
    engine
        ``"onnx"`` or ``"torch"``.
    python
        Version of the workers, ``"3.11"``.
    wheels
        Folder of wheels to use; without it, pip downloads them.
    from_installed
        Take what this Python has installed instead of wheels. It must be the
        workers' version, on Linux x86-64.

    Raises
    ------
    UnknownNameError
        If there is no such engine.
    InputError
        If `python` is no version, or another one than this with `from_installed`.
    ArchiveError
        If wheels cannot be downloaded, are missing or unsafe.
    WriteError
        If `out` cannot be written.

    Examples
    --------
    >>> build_archives(Path("dist"), engine="tensorflow")
    Traceback (most recent call last):
    kappamask.base.errors.UnknownNameError: unknown engine 'tensorflow': expected one of onnx, torch
    """
    kit = get_engine(engine)
    check_python(python, from_installed=from_installed)
    with tempfile.TemporaryDirectory(prefix="kappamask-udf-") as scratch:
        if from_installed:
            members = installed_members(kit.requirements)
        else:
            source = wheels or download_wheels(
                kit.requirements, Path(scratch) / "wheels", python=python
            )
            members = wheel_members(source, kit.requirements, Path(scratch) / "unpacked")
        members[PYTHON_FILE] = f"{python}\n".encode()
        name = f"{kit.title}-{kit.version}-py{python.replace('.', '')}.zip"
        runtime = write_zip(out / name, members)
    library = write_zip(
        out / f"kappamask-{kappamask.__version__}-{engine}.zip", library_members(engine)
    )
    return Built(engine, library, runtime, python)


def check_python(python: str, *, from_installed: bool) -> None:
    """Check that `python` is a version, and this one where that matters."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not all(part.isdigit() for part in python.split(".")) or python.count(".") != 1:
        raise InputError(f"python is a version such as {PYTHON}, got {python!r}: correct it")
    if from_installed and (python != running or sys.platform != "linux"):
        raise InputError(
            f"installed packages fit workers of the same Python on Linux, got Python {python} to "
            f"build for and {running} on {sys.platform} here: let pip download wheels instead"
        )


# --- the library ------------------------------------------------------------------------------


def library_members(engine: str) -> Members:
    """Find what the library's archive holds: the package without sample, with weights.

    Safetensors for torch; for onnxruntime the exported networks and their manifest.
    """
    package = Path(kappamask.__file__).parent
    held = [package / "__init__.py"]
    held += [path for room in ROOMS for path in (package / room).rglob("*")]
    members: Members = {
        path.relative_to(package.parent).as_posix(): path
        for path in sorted(held)
        if path.suffix in (".py", ".toml")
    }
    # In a clone, or where an installation keeps them.
    places = [package.parent, *sorted(package.parent.glob("kappamask-*.dist-info/licenses"))]
    for path in (place / name for place in places for name in ("LICENSE", "NOTICE")):
        if path.is_file():
            members.setdefault(f"kappamask-{path.name}", path)
    weights, manifest = "kappamask/networks/weights", {}
    for entry in filter(lambda entry: entry.shipped, read_registry()[1].values()):
        network = weights_of(entry)
        if engine == "torch":
            members[f"{weights}/{entry.file}"] = network.path
            continue
        content, name = export_onnx(network), network.path.with_suffix(".onnx").name
        members[f"{weights}/{name}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        manifest[name] = {"sha256": sha256, "source_sha256": entry.sha256}
    if manifest:
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        members[f"{weights}/{ONNX_MANIFEST}"] = text.encode()
    return members


# --- wheels and installed packages ------------------------------------------------------------


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


def wheel_members(wheels: Path, requirements: Iterable[str], scratch: Path) -> Members:
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
    held = sorted(wheels.glob("*.whl"))
    wanted = _project(requirement.split("=="))
    found = [path for path in held if _project(path.name.split("-")) == wanted]
    if len(found) != 1:
        raise ArchiveError(
            f"the folder must hold one wheel of {requirement}, got {len(found)} in {wheels} "
            f"({', '.join(path.name for path in held) or 'no wheel'}): `pip download` it there"
        )
    return found[0]


def _project(words: list[str]) -> list[str]:
    """Name and version, as wheels write them, of what begins with them."""
    return [re.sub("[-.]", "_", words[0].lower()), *words[1:2]]


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


def installed_members(requirements: Iterable[str]) -> Members:
    """Find the files of requirements in this Python.

    Raises
    ------
    ArchiveError
        If one is not installed, in that version, with a list of its files.
    """
    members: Members = {}
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
    """Tell whether a file of a package is left out."""
    return name not in KEPT and any(fnmatch(name, pattern) for pattern in PRUNED)


# --- zip --------------------------------------------------------------------------------------


def write_zip(target: Path, members: Members) -> Path:
    """Write a zip whose bytes depend on names and contents only; it appears whole or not at all."""
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
