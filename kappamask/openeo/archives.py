"""The archives that a back end unpacks beside the UDF. Row 6.

Job option ``udf-dependency-archives: ["https://.../x.zip#dir", ...]``: one archive
holds the library with its weights, the other one engine with what it imports. Numpy
and xarray are left out: workers have them. The same inputs give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import kappamask
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.networks.manifest import read_registry
from kappamask.networks.runners import ONNX_MANIFEST, export_onnx
from kappamask.networks.weights import weights_of
from kappamask.openeo.graph_parts import job_options
from kappamask.openeo.wheels import download_wheels, installed_members, wheel_members, write_zip

PYTHON = "3.11"  # what Copernicus' workers run
LIBRARY_FOLDER = "kappamask_library"
HOST = "https://YOUR-HOST"


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
ROOMS = ("base", "networks", "predict")  # all of kappamask that a worker needs


@dataclass(frozen=True)
class Built:
    """The two archives of one engine."""

    engine: str
    library: Path
    runtime: Path

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
        return job_options(archives, **kit.options)


def get_engine(name: str) -> Engine:
    """Look an engine up.

    Raises
    ------
    UnknownNameError
        If the table has no such engine.

    Examples
    --------
    >>> get_engine("onnx").title
    'onnxruntime'
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
        name = f"{kit.title}-{kit.version}-py{python.replace('.', '')}.zip"
        runtime = write_zip(out / name, members)
    library = write_zip(
        out / f"kappamask-{kappamask.__version__}-{engine}.zip", library_members(engine)
    )
    return Built(engine, library, runtime)


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


def library_members(engine: str) -> dict[str, Path | bytes]:
    """Find what the library's archive holds: the package without sample, with weights.

    Safetensors for torch; for onnxruntime the exported networks and their manifest.
    """
    package = Path(kappamask.__file__).parent
    members: dict[str, Path | bytes] = {}
    held = [
        package / "__init__.py",
        *(path for room in ROOMS for path in (package / room).rglob("*")),
    ]
    for path in sorted(held):
        if path.suffix in (".py", ".toml"):
            members["/".join((package.name, *path.relative_to(package).parts))] = path
    members |= _licences(package)
    manifest = {}
    for entry in filter(lambda entry: entry.shipped, read_registry()[1].values()):
        weights = weights_of(entry)
        if engine == "torch":
            members[f"kappamask/networks/weights/{entry.file}"] = weights.path
            continue
        content, name = export_onnx(weights), weights.path.with_suffix(".onnx").name
        members[f"kappamask/networks/weights/{name}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        manifest[name] = {"sha256": sha256, "source_sha256": entry.sha256}
    if manifest:
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        members[f"kappamask/networks/weights/{ONNX_MANIFEST}"] = text.encode()
    return members


def _licences(package: Path) -> dict[str, Path]:
    """Find LICENSE and NOTICE in a clone, or where an installation keeps them."""
    folders = [package.parent]
    folders += sorted(package.parent.glob("kappamask-*.dist-info/licenses"))
    found = {}
    for name in ("LICENSE", "NOTICE"):
        paths = [folder / name for folder in folders if (folder / name).is_file()]
        if paths:
            found[f"kappamask-{name}"] = paths[0]
    return found
