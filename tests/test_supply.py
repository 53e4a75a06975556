"""What comes along: licences of all that is installed, hashes, pins; nothing under the GPL."""

import re
import subprocess
import sys

import pytest
from support.scripts import ROOT, load_script

LOCKS = ("demo", "dev", "serve")


@pytest.fixture(scope="module")
def licences():
    return load_script("scripts/licences.py")


def pins(path):
    """Versions by name."""
    found = re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\s;\\]+)", (ROOT / path).read_text("utf-8"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("extras", [["serve"], None], ids=["serve", "all"])
def test_everything_that_is_installed_has_a_licence_on_the_list(licences, extras):
    found = licences.installed(extras)
    assert {"torch", "rasterio", "openeo-processes-dask", "fastapi"} <= set(found)
    told = {name: licences.licence_of(one) for name, one in found.items()}
    assert {n: told[n] for n in told if not licences.is_allowed(n, told[n])} == {}


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT License", True),
        ("BSD-3-Clause AND MIT", True),
        ("GNU Lesser General Public License v2.1", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("GNU General Public License v3 (GPLv3)", False),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-2.0", False),
        ("GNU Affero General Public License v3", False),
        ("AGPL-3.0-or-later", False),
        ("CC BY-SA 4.0", False),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_a_licence_is_on_the_list_or_not(licences, licence, allowed):
    assert licences.is_allowed("x", licence) == allowed


def test_what_is_under_weaker_copyleft_is_named(licences):
    notice = (ROOT / "NOTICE").read_text("utf-8").lower()
    for name, one in licences.installed(["serve"]).items():
        if re.search(r"lgpl|lesser|mpl|mozilla", licences.licence_of(one), re.IGNORECASE):
            assert name in notice, name


@pytest.mark.parametrize("name", ["yprov4wfs", "openeo-pg-parser-networkx"])
def test_a_program_under_the_gpl_is_neither_asked_for_nor_imported(licences, name):
    assert name not in licences.installed()
    for path in ("constraints.txt", *(f"locks/{lock}.txt" for lock in LOCKS)):
        assert name not in pins(path)


@pytest.mark.slow
def test_the_engine_runs_without_the_parser_and_leaves_its_name_to_others():
    code = (
        "import sys; sys.modules['yprov4wfs'] = None; import kappamask.openeo.local as local;"
        "print([name for name in sys.modules if 'pg_parser' in name or 'yprov' in name]);"
        "print(local.LocalEngine(catalog='x').run({'a': {'process_id': 'add', 'arguments':"
        " {'x': 1, 'y': 2}, 'result': True}}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["['yprov4wfs']", "3"]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_for_all_that_is_installed_but_torch(licences, lock):
    text = (ROOT / "locks" / f"{lock}.txt").read_text("utf-8")
    entries = re.split(r"(?m)^(?=[a-z0-9])", text)[1:]
    assert [one for one in entries if "--hash=sha256:" not in one] == []
    locked, known = pins(f"locks/{lock}.txt"), pins("constraints.txt")
    assert {name for name in locked if known.get(name, locked[name]) != locked[name]} == set()
    extras = [lock] if lock != "demo" else []  # the demo needs the package alone
    needed = {n for n in licences.installed(extras) if not re.match("torch|nvidia|triton", n)}
    assert needed - set(locked) == set()


def test_actions_are_named_by_commit_and_the_builder_is_bounded():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: (\S+)", path.read_text("utf-8")):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", used), (path.name, used)
    assert 'requires = ["hatchling>=1.27,<2"]' in (ROOT / "pyproject.toml").read_text("utf-8")
