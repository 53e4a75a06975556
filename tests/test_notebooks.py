"""Every notebook runs on the embedded sample and shows what its text promises; the pages build."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
PROMISED = {  # what must be seen in the outputs
    "1_area_and_date": [
        r"2019-07-31 .*cloud",
        r"NDVI 0\.\d\d",
        r"image/png",
        r"L2A_10m_[0-9a-f]{6}\.tif \d+ bytes",
    ],
    "2_openeo_udf": [r"apply_neighborhood", r"image/png", r"100\.0% of the pixels"],
    "3_composites": [
        r"2019-08 4 dates",
        r"image/png",
        r"best-pixel\S*\.tif \d+ bytes",
        r"kappamask, first-clear: \d",
    ],
    "4_reading_masks": [
        r"EPSG:3035",
        r"semi-transparent cloud",
        r"uint8 clear cloud_shadow semi_transparent_cloud cloud missing",
    ],
    "5_training": [r"best\.safetensors", r"agrees on \d+%"],
    "6_copernicus_notebook": [r"theirs: \d+% of", r"ours: \d+% of", r"image/png", r"ended with"],
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run all notebooks with kernels on loopback; give the folder of the results."""
    for needed in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(needed, reason="needs the extra notebooks")
    folder = tmp_path_factory.mktemp("executed")
    run_python(ROOT / "docs" / "tools" / "notebooks.py", folder)
    return folder


@pytest.fixture(scope="module")
def site(executed, tmp_path_factory):
    """Build the pages as `make docs` does, with the notebooks that were run for other tests."""
    for needed in ("mkdocs", "material", "mkdocstrings", "nbconvert"):
        pytest.importorskip(needed, reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    told = {"KAPPAMASK_EXECUTED": str(executed), "NO_MKDOCS_2_WARNING": "1"}
    run_python("-m", "mkdocs", "build", "--strict", "--site-dir", folder, **told)
    return folder


def run_python(*words, **environment):
    """Run Python in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_notebook_is_known():
    assert [path.stem for path in SCRIPTS] == list(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_notebook_runs_and_shows_what_it_promises(executed, name):
    notebook = json.loads((executed / f"{name}.ipynb").read_text("utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    said = json.dumps(outputs, ensure_ascii=False)
    for pattern in PROMISED[name]:
        assert re.search(pattern, said), pattern


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_is_a_script_without_outputs_that_ends_its_cells_in_text(script):
    text = script.read_text("utf-8")
    assert text.startswith("# ---\n# jupyter:")
    assert "# %% [markdown]\n# # " in text  # a title
    assert "/work/" not in text


def test_pages_build_strictly_with_notebooks_and_docstrings(site):
    for name in ("index", "start", "howto/safe", "api/kappamask", "notebooks/3_composites"):
        assert (site / f"{name}.html").is_file()
    assert "Windows are anchored" in (site / "api" / "kappamask.html").read_text("utf-8")
    notebook = (site / "notebooks" / "3_composites.html").read_text("utf-8")
    assert "never clear" in notebook
    assert re.search(r'<img[^>]+src="3_composites_[\w]+\.png"', notebook)


def test_pages_load_nothing_from_elsewhere(site):
    loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)")
    for page in site.rglob("*.html"):
        assert not loaded.findall(page.read_text("utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", sheet.read_text("utf-8")), sheet
