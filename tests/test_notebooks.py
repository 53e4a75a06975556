"""Every notebook runs on the embedded sample and shows what its text promises."""

import json
import re

import pytest
from support.executed import ROOT, executed_notebooks

pytestmark = pytest.mark.slow
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
PROMISED = {  # what must be seen in the outputs
    "1_area_and_date": [
        r"2019-07-31 .*cloud",
        r"NDVI 0\.\d\d",
        r"image/png",
        r"L2A\.tif \d+ bytes",
    ],
    "2_openeo_udf": [r"apply_neighborhood", r"image/png", r"100\.0% of the pixels"],
    "3_composites": [r"2019-08 4 dates", r"image/png", r"best-pixel\.tif \d+ bytes"],
    "4_reading_masks": [
        r"EPSG:3035",
        r"semi-transparent cloud",
        r"uint8 clear cloud_shadow semi_transparent_cloud cloud missing",
    ],
    "5_training": [r"best\.safetensors", r"agrees on \d+%"],
}


def test_every_notebook_is_known():
    assert [path.stem for path in SCRIPTS] == list(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_notebook_runs_and_shows_what_it_promises(name):
    notebook = json.loads((executed_notebooks() / f"{name}.ipynb").read_text("utf-8"))
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
