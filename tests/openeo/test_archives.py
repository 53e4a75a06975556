"""Archives for back ends: what is in them, that they suffice, how they are made."""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import kappamask
from kappamask.base.errors import ArchiveError, InputError, UnknownNameError, WriteError
from kappamask.cli import main
from kappamask.networks.manifest import read_registry
from kappamask.networks.model import load_model
from kappamask.openeo import archives
from kappamask.openeo.archives import (
    ENGINES,
    PYTHON_FILE,
    Built,
    build_archives,
    installed_members,
    library_members,
    write_zip,
)
from kappamask.openeo.graphs import DEFAULT_JOB_OPTIONS
from kappamask.predict.array import predict_array

ROOT = Path(__file__).parents[2]
UDF = ROOT / "udf/kappamask_udf.py"
FOUR = ["B02", "B03", "B04", "B08"]
# What a worker has beside the archives: the client with what it imports, xarray, numpy.
NOT_ON_WORKERS = {"kappamask", "torch", "onnx", "onnxruntime", "dask", "rasterio", "rioxarray"}
OPTIONAL = {"geopandas", "pyproj", "pyarrow", "cftime", "cloudpickle", "_distutils_hack"}

pytestmark = pytest.mark.slow


def members_or_skip(engine):
    """The packages of an engine as installed here; other versions are for pip to download."""
    try:
        return installed_members(ENGINES[engine].requirements)
    except ArchiveError as error:
        pytest.skip(f"needs the pinned packages installed: {error}")


# --- a worker -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def worker_packages(tmp_path_factory):
    """A folder with links to numpy, xarray, openeo and what those import, and no more."""
    code = (
        "import sys, json, numpy, pandas, xarray, openeo.udf\n"
        "files = {n: getattr(m, '__file__', None) for n, m in sys.modules.items()}\n"
        "print(json.dumps({n: f for n, f in files.items() if '.' not in n and f}))"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    folder = tmp_path_factory.mktemp("worker")
    for name, file in json.loads(said).items():
        path = Path(file)
        if "site-packages" not in path.parts or name in NOT_ON_WORKERS | OPTIONAL:
            continue
        path = path.parent if path.stem == "__init__" else path
        beside = [*path.parent.glob(f"{name}.libs"), *path.parent.glob(f"{name}-*.dist-info")]
        for found in (path, *beside):
            (folder / found.name).symlink_to(found)
    return folder


WORKER = """
import json, logging, os, sys
packages, folder, udf = sys.argv[1:]
assert not [path for path in sys.path if "site-packages" in path], sys.path
sys.path.append(packages)
os.chdir(folder)
sys.path.insert(0, "")  # as `python -m` does: folders of archives look like packages
import numpy as np, xarray as xr
from openeo.udf import UdfData, XarrayDataCube, run_udf_code
from openeo.udf.run_code import load_module_from_string
logging.getLogger("openeo.udf.debug.user").setLevel("INFO")
logging.getLogger("openeo.udf.debug.user").addHandler(logging.StreamHandler(sys.stdout))
text = open(udf).read()
import openeo.metadata as m
metadata = m.CubeMetadata([m.BandDimension("bands", [m.Band("B02")]),
                           m.SpatialDimension("x", []), m.SpatialDimension("y", [])])
space = load_module_from_string(text)
assert "kappamask" not in sys.modules  # the driver has no archives
assert space["apply_metadata"](metadata, {"output": "mask"}).band_names == ["cloud_mask"]
before = list(sys.path)
given = np.load("dn.npy")
cube = xr.DataArray(given, dims=("bands", "y", "x"),
                    coords={"bands": ["B02", "B03", "B04", "B08", "B11"]},
                    attrs={"t": "2022-06-02"})
def run(cube, **context):
    data = UdfData(datacube_list=[XarrayDataCube(cube)], user_context={"threads": 2, **context})
    return run_udf_code(text, data).get_datacube_list()[0].get_array()
result = run(cube[:4])
np.save("snow.npy", run(cube, output="snow").values)
assert sys.path[:len(before)] == before, "archives are appended"
assert np.__file__.startswith(packages) and xr.__file__.startswith(packages)
for name in ("dask", "rasterio", "pystac_client", "stackstac"):
    assert name not in sys.modules, name
np.save("labels.npy", result.values)
print(json.dumps({"kappamask": sys.modules["kappamask"].__file__, "dtype": str(result.dtype),
                  "torch": "torch" in sys.modules, "ort": "onnxruntime" in sys.modules}))
"""


def run_worker(packages, folder):
    """Run the UDF in a Python that has these packages and the folder's archives only."""
    command = [sys.executable, "-I", "-S", "-c", WORKER, str(packages), str(folder), str(UDF)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_job(folder):
    """Put a chunk where the worker reads it; returns it."""
    rng = np.random.default_rng(0)
    dn = np.rint(rng.random((5, 10, 12)) * 3000).repeat(8, 1).repeat(8, 2).astype(np.float32)
    dn[:, :5] = np.nan
    np.save(folder / "dn.npy", dn)
    return dn


def check_worker(done, folder, dn, engine):
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.strip().splitlines()
    used = json.loads(last)
    assert used["kappamask"].startswith(str(folder))
    assert used["torch"] == (engine == "torch")
    assert used["ort"] == (engine == "onnx")
    assert len(said) == 1
    assert "2 threads" in said[0]
    model = load_model("default", "L2A", engine=engine, threads=2)
    assert model.runner.version in said[0]
    options = {"level": "L2A", "model": model}
    expected = predict_array(dn[:4] * np.float32(1e-4), FOUR, **options)
    np.testing.assert_array_equal(np.load(folder / "labels.npy")[0], expected)
    snow = predict_array(dn * np.float32(1e-4), [*FOUR, "B11"], output="snow", **options)
    assert set(np.unique(snow)) >= {0, 100, 255}
    np.testing.assert_array_equal(np.load(folder / "snow.npy")[0], snow)


def test_a_worker_runs_the_udf_with_nothing_but_the_onnx_archives(tmp_path, worker_packages):
    members_or_skip("onnx")
    built = build_archives(tmp_path / "dist", engine="onnx", from_installed=True)
    job = tmp_path / "job"
    for archive, folder in ((built.library, "kappamask"), (built.runtime, "onnxruntime")):
        with zipfile.ZipFile(archive) as packed:  # folders called as packages must not hide them
            packed.extractall(job / folder)
    dn = make_job(job)
    check_worker(run_worker(worker_packages, job), job, dn, "onnx")


def test_a_worker_runs_the_udf_with_nothing_but_the_torch_members(tmp_path, worker_packages):
    """Links in place of a zip: packing half a gigabyte shows nothing more."""
    members = members_or_skip("torch") | library_members("torch")
    for name, content in members.items():
        path = tmp_path / ("library" if name.startswith("kappamask") else "engine") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(content)
    dn = make_job(tmp_path)
    check_worker(run_worker(worker_packages, tmp_path), tmp_path, dn, "torch")


def test_a_worker_without_archives_says_what_it_needs(tmp_path, worker_packages):
    make_job(tmp_path)
    done = run_worker(worker_packages, tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "kappamask and torch or onnxruntime not found" in last
    assert "`kappamask udf build` makes" in last


def test_archives_for_another_python_are_named_with_both_versions(tmp_path, worker_packages):
    make_job(tmp_path)
    (tmp_path / "engine" / "onnxruntime").mkdir(parents=True)
    (tmp_path / "engine" / "onnxruntime" / "__init__.py").touch()
    (tmp_path / "engine" / PYTHON_FILE).write_text("3.99\n")
    done = run_worker(worker_packages, tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"is for Python 3.99, this worker runs {running}" in last
    assert 'version="3.99" in run_udf' in last
    assert '"image-name": "python399"' in last


# --- contents -----------------------------------------------------------------------------------


def test_the_library_comes_with_the_weights_of_its_engine_and_without_the_sample():
    models = [entry for entry in read_registry()[1].values() if entry.shipped]
    for engine, suffix in (("torch", ".safetensors"), ("onnx", ".onnx")):
        members = library_members(engine)
        weights = {Path(name).suffix for name in members if "/weights/" in name} - {".json"}
        assert weights == {suffix}
        assert "kappamask/networks/registry.toml" in members
        assert {"kappamask/predict/chunk.py", "kappamask/networks/runners.py"} <= set(members)
        assert any("LICENSE" in name for name in members)
        rooms = {name.split("/")[1] for name in members if name.startswith("kappamask/")}
        assert rooms == {"__init__.py", "base", "networks", "predict"}
        assert not [name for name in members if "__pycache__" in name]
    folder = "kappamask/networks/weights"
    manifest = json.loads(members[f"{folder}/onnx.json"])
    assert {entry["source_sha256"] for entry in manifest.values()} == {m.sha256 for m in models}
    for name, entry in manifest.items():
        assert hashlib.sha256(members[f"{folder}/{name}"]).hexdigest() == entry["sha256"]


def test_archives_hold_what_the_tests_run_with():
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for engine in ENGINES.values():
        for requirement in engine.requirements:
            name, version = requirement.split("==")
            assert pinned.get(name, version).split("+")[0] == version.split("+")[0], requirement
            assert name not in ("numpy", "xarray")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_archive_holds_everything_its_packages_import(engine):
    """By their own metadata; setuptools, which torch names for its compiler, is left out."""
    from importlib.metadata import requires

    members_or_skip(engine)
    names = {requirement.split("==")[0] for requirement in ENGINES[engine].requirements}
    for name in names:
        for needed in requires(name) or []:
            if "extra ==" in needed or "python_version <" in needed or "platform_system" in needed:
                continue
            word = "".join(c if c.isalnum() or c in "-_" else " " for c in needed).split()[0]
            word = word.lower().replace("_", "-")
            assert word in names | {"numpy", "setuptools"}, f"{name} needs {needed}"


# --- building -----------------------------------------------------------------------------------


def make_wheel(folder, name="toy", version="1.0", extra=None):
    """A wheel with one module."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"version = {version!r}\n")
        wheel.writestr(f"{name}/tests/test_it.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{info}/RECORD", "")
        for inside, content in (extra or {}).items():
            wheel.writestr(inside, content)
    return path


def use_toys(monkeypatch, *names):
    """Let the onnx engine consist of these toys."""
    requirements = tuple(f"{name}==1.0" for name in names)
    toy = archives.Engine("toy", "toy_engine", requirements, {"executor-memory": "1g"})
    monkeypatch.setitem(archives.ENGINES, "onnx", toy)


def test_the_same_wheels_give_the_same_bytes(tmp_path, monkeypatch):
    use_toys(monkeypatch, "toy", "other")
    make_wheel(tmp_path / "wheels")
    make_wheel(
        tmp_path / "wheels",
        "other",
        extra={
            "other-1.0.data/purelib/more.py": "x = 1",
            "other-1.0.data/platlib/other/core.py": "x = 1",
            "other-1.0.data/scripts/other": "#!",
        },
    )
    digests = []
    for out in ("one", "two"):
        built = build_archives(tmp_path / out, wheels=tmp_path / "wheels")
        digests.append([path.read_bytes() for path in (built.library, built.runtime)])
    assert digests[0] == digests[1]
    items = zipfile.ZipFile(built.runtime).infolist()
    assert {item.date_time for item in items} == {(1980, 1, 1, 0, 0, 0)}
    names = [item.filename for item in items]
    assert {"toy/__init__.py", "other/__init__.py", "other/core.py", "more.py"} <= set(names)
    unwanted = ("/tests/", "RECORD", "scripts", ".data")
    assert not [name for name in names if any(word in name for word in unwanted)]
    assert zipfile.ZipFile(built.runtime).read(PYTHON_FILE) == b"3.11\n"
    assert built.runtime.name == "toy-1.0-py311.zip"
    assert built.library.name == f"kappamask-{kappamask.__version__}-onnx.zip"


def test_the_command_prints_sizes_and_options_to_paste(tmp_path, monkeypatch, capsys):
    use_toys(monkeypatch, "toy")
    make_wheel(tmp_path / "wheels")
    words = ["udf", "build", "--out", str(tmp_path / "dist"), "--base-url", "https://x.org/a/"]
    words += ["--python", "3.11", "--python", "3.12"]
    assert main([*words, "--wheels", str(tmp_path / "wheels")]) == 0
    said = capsys.readouterr().out
    assert " MB  " in said
    options = json.loads(said[said.index("{") : said.index("}") + 1])
    library = f"kappamask-{kappamask.__version__}-onnx.zip"
    assert options == {
        "udf-dependency-archives": [
            f"https://x.org/a/{library}#kappamask_library",
            "https://x.org/a/toy-1.0-py311.zip#toy_engine",
        ],
        **DEFAULT_JOB_OPTIONS,
        "executor-memory": "1g",
    }
    other = json.loads(said[said.rindex("{") :])
    assert other["image-name"] == "python312"
    assert other["udf-dependency-archives"][1].endswith("/toy-1.0-py312.zip#toy_engine")


def test_every_archive_is_unpacked_to_a_folder_of_its_own():
    for engine in ENGINES:
        options = Built(engine, Path("a.zip"), Path("b.zip")).job_options()
        folders = [url.partition("#")[2] for url in options["udf-dependency-archives"]]
        assert len(set(folders)) == 2
        # a folder called as a package could hide it
        assert not {"kappamask", "torch", "onnxruntime"} & set(folders)


def test_a_failed_build_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"old")
    with pytest.raises(WriteError):
        write_zip(path, {"a": tmp_path / "absent"})
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"engine": "tensorflow"}, UnknownNameError, "unknown engine 'tensorflow': .* onnx, torch"),
        ({"python": "three"}, InputError, "a version such as 3.11, got 'three'"),
        ({"python": "3.8", "from_installed": True}, InputError, "got Python 3.8 to build for"),
    ],
)
def test_bad_arguments_get_one_clear_error(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        build_archives(tmp_path, **arguments)


# --- wheels -------------------------------------------------------------------------------------


@pytest.fixture
def no_index(monkeypatch, tmp_path):
    """Pip looks into one folder and nowhere else."""
    use_toys(monkeypatch, "toy")
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_pip_downloads_the_wheels_or_what_it_says_is_passed_on(no_index, tmp_path):
    message = r"pip could not download toy==1.0 for Python 3.11 .* No matching .*--wheels DIR"
    with pytest.raises(ArchiveError, match=message):
        build_archives(tmp_path / "dist")
    make_wheel(no_index)
    built = build_archives(tmp_path / "dist")
    assert "toy/__init__.py" in zipfile.ZipFile(built.runtime).namelist()


CLIMBING = ["../evil.py", "/evil.py", "toy/../../evil.py", "c:\\evil.py",
            "toy-1.0.data/purelib/../../evil.py"]  # fmt: skip


@pytest.mark.parametrize(
    ("wheel", "message"),
    [
        *(
            ({"extra": {name: "evil"}}, r"holds files inside itself only, got '.*evil.py'")
            for name in CLIMBING
        ),
        ({"extra": {"toy/zeros.bin": "0" * 10**6}}, r"at most 500000 bytes unpacked, got 1000\d+"),
        ({"version": "2.0"}, r"one wheel of toy==1.0, got 0 in .*toy-2.0-py3"),
    ],
)
def test_a_wheel_that_is_unsafe_or_another_is_refused(tmp_path, monkeypatch, wheel, message):
    """Paths that climb out; a zip bomb, a megabyte of zeros in a kilobyte."""
    use_toys(monkeypatch, "toy")
    monkeypatch.setattr(archives, "LARGEST", 500_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_wheel(tmp_path / "wheels", **wheel)
    with pytest.raises(ArchiveError, match=message):
        build_archives(tmp_path / "dist", wheels=tmp_path / "wheels")
    assert not list(tmp_path.rglob("evil.py"))
    assert not list(tmp_path.rglob("*.zip"))


def test_a_damaged_wheel_is_named(tmp_path, monkeypatch):
    use_toys(monkeypatch, "toy")
    (tmp_path / "toy-1.0-py3-none-any.whl").write_bytes(b"<html>404</html>")
    with pytest.raises(ArchiveError, match=r"toy-1\.0-py3-none-any\.whl is no wheel"):
        build_archives(tmp_path / "dist", wheels=tmp_path)


def test_what_is_not_installed_is_named():
    with pytest.raises(ArchiveError, match=r"no-such-thing==1\.0 is not installed here"):
        installed_members(["no-such-thing==1.0"])
    with pytest.raises(ArchiveError, match=r"takes numpy==0.1, got .* installed here"):
        installed_members(["numpy==0.1"])


# --- what a worker imports ----------------------------------------------------------------------


def test_what_a_worker_imports_needs_numpy_only():
    """As far as `predict_array` needs it; xarray and dask come with cubes."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in sys.argv[1].split():\n"
        "            raise ImportError(f'{name} is not on workers')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import kappamask, kappamask.predict.chunk, kappamask.predict.array\n"
        "kappamask.predict_array\n"
    )
    away = "torch onnx onnxruntime dask xarray rasterio rioxarray pystac shapely openeo safetensors"
    subprocess.run([sys.executable, "-c", code, away], check=True)
