"""The command line: words, exit codes, one clear line for each error."""

import json
import re
import subprocess
import sys

import pytest
import rasterio

from kappamask.cli import main
from kappamask.sample import AREA_L2A, catalog_path

BBOX = ",".join(map(str, AREA_L2A))
MODULES = 56  # to become 30 as rooms are merged; was 55, of fewer packages
QUERY = ["--catalog", str(catalog_path()), "--bbox", BBOX, "--date", "2019-07"]


def test_importing_and_help_load_neither_torch_nor_xarray():
    code = (
        "import sys, kappamask, kappamask.cli\n"
        "try: kappamask.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'xarray', 'rasterio', 'pystac', 'dask', 'matplotlib'}"
        " & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["search", "mask", "demo", "models", "serve", "udf build"])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert f"kappamask {command}" in said
    assert "example:" in said


def test_search_prints_one_line_per_item(capsys):
    assert main(["search", *QUERY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.match(r"2019-07-01 00:00:00  cloud +\d+ %  S2", lines[0])


def test_search_prints_stac_on_request(capsys):
    assert main(["search", *QUERY, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["type"] == "FeatureCollection"
    assert {item["type"] for item in found["features"]} == {"Feature"}


def test_max_cloud_cover_leaves_cloudy_items_out(capsys):
    assert main(["search", *QUERY, "--max-cloud-cover", "10"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_mask_writes_a_mask_an_item_and_a_picture_per_date(tmp_path, capsys):
    out = tmp_path / "masks"
    assert main(["mask", *QUERY, "--out", str(out)]) == 0
    for suffix in ("tif", "json", "png"):
        assert len(list(out.glob(f"*.{suffix}"))) == 4
    with rasterio.open(next(out.glob("*20190716*.tif"))) as source:
        assert source.shape == (100, 100)
        assert source.crs.to_epsg() == 3035
    assert "4 done, 0 skipped (finished before), 0 failed" in capsys.readouterr().out


def test_an_area_file_does_as_well_as_a_bbox(tmp_path):
    west, south, east, north = AREA_L2A
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    path = tmp_path / "field.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    query = ["--catalog", str(catalog_path()), "--area", str(path), "--date", "2019-07-11"]
    out = tmp_path / "masks"
    assert main(["mask", *query, "--out", str(out), "--no-pictures", "--resolution", "20"]) == 0
    assert len(list(out.glob("*.tif"))) == 1
    assert not list(out.glob("*.png"))


def test_models_prints_name_and_figures(capsys):
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "default for L1C and L2A" in said
    assert "Apache-2.0" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--bbox", "1,2,3"], 2, "bbox"),
        (["--bbox", "a,b,c,d"], 2, "--bbox is west,south,east,north in degrees as one argument"),
        (["--bbox", "-9.2,38.6,-9.0,38.8"], 1, "answers the search"),
        (["--date", "2019-13-01"], 2, "got '2019-13-01'"),
        (["--catalog", "earthsearch"], 2, "unknown catalogue 'earthsearch': expected one of"),
        (["--catalog", "none/catalog.json"], 1, "none/catalog.json"),
        (["--area", "none.geojson"], 2, "none.geojson"),
    ],
)
def test_an_error_is_one_clear_line_and_its_exit_code(arguments, code, message, capsys, tmp_path):
    query = dict(zip(QUERY[::2], QUERY[1::2], strict=True))
    change = dict(zip(arguments[::2], arguments[1::2], strict=True))
    if "--area" in change:
        del query["--bbox"]
    words = [word for pair in (query | change).items() for word in pair]
    assert main(["mask", *words, "--out", str(tmp_path / "out")]) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("kappamask: error: ")
    assert message in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["mask"], ["mask", *QUERY], ["sing"]])
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_an_unknown_model_is_one_clear_line(tmp_path, capsys):
    assert main(["mask", *QUERY, "--out", str(tmp_path / "out"), "--model", "best"]) == 2
    assert "unknown model 'best': expected one of default, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["P.SAFE", "--date", "2022-06"], "a PRODUCT is not searched for: leave out --date"),
        (
            ["P.SAFE", "--engine", "odc", "--catalog", "nowhere"],
            "a PRODUCT is not searched for: leave out --catalog, --engine",
        ),
        (["P.SAFE", "--engine", "stackstac"], "leave out --engine"),  # the default, said aloud
        (["P.SAFE", "--max-items", "0"], "leave out --max-items"),
        (["--date", "2022-06"], "required: --bbox, --area or --tile"),
        (["--bbox", "1,2,3,4"], "required: --date"),
        (["--bbox", "1,2,3,4", "--date", "2022-06", "--scale", "1"], "--scale say what a raster"),
    ],
)
def test_words_that_do_not_go_together_are_wrong_usage(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["mask", *words, "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_masking_a_date_crosses_few_modules(tmp_path):
    """Whoever follows one date through the package has so many files to open."""
    words = ["mask", *QUERY[:-1], "2019-07-11", "--out", str(tmp_path / "out")]
    code = (
        "import sys\n"
        "from kappamask.cli import main\n"
        f"assert main({words!r}) == 0\n"
        "print(*sorted(m for m in sys.modules if m.split('.')[0] == 'kappamask'))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = said.stdout.splitlines()[-1].split()
    assert len(modules) <= MODULES, modules
