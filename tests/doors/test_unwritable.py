"""A place where nothing can be written is one line, before any work, from every command."""

from pathlib import Path

import pytest
from support.commands import COMMANDS, HOLDING
from support.jobs import PUBLISHED, query

from kappamask.cli import main

# chips need no place on earth
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def outputs_of(folder, data):
    """Every command that writes, and what it is told of where."""
    return {
        "demo": ["--out", folder],
        "mask": [*query(data), "--out", folder],
        "mask PRODUCT": [*data.glob("*.SAFE"), "--out", folder],
        "composite": [*query(data), "--out", folder],
        "stats": [*query(data), "--out", folder / "t.csv"],
        "vectorize": [next((data / "masks").glob("*.tif")), "--out", folder / "t.geojson"],
        "report": [data / "masks", "--out", folder / "page.html"],
        "train": [data / "own.toml", "--out", folder],
        "evaluate": ["--data", data / "chips", "--out", folder],
        "serve": ["--workdir", folder, "--port", "0", "--catalog", data / "sample/catalog.json"],
        "udf build": ["--out", folder],
        "models fetch": [PUBLISHED, "--from", data / "l2a_unet.hdf5"],
    }


# `models` shows what there is, `search` what it finds
WRITING = sorted(set(COMMANDS) - HOLDING - {"models", "search"} | {"mask PRODUCT"})


def test_every_command_that_writes_is_tried(inputs, tmp_path):
    assert set(outputs_of(tmp_path, inputs)) == set(WRITING)


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("place", ["below a file", "proc"])
def test_a_folder_that_cannot_be_is_one_line_before_any_work(
    inputs, entry, tmp_path, capsys, monkeypatch, *, name, place
):
    """Permissions do not bind root; a path below a file, and /proc, bind everyone."""
    (tmp_path / "file").write_text("no folder")
    folder = Path("/proc/kappamask/out") if place == "proc" else tmp_path / "file" / "out"
    monkeypatch.setenv("KAPPAMASK_CACHE", str(folder))
    if name == "models fetch":
        registry = (), {PUBLISHED: entry}
        monkeypatch.setattr("kappamask.networks.manifest.read_registry", lambda: registry)
    words = [*name.removesuffix(" PRODUCT").split(), *map(str, outputs_of(folder, inputs)[name])]
    assert main(words) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(told) == 1, told
    assert told[0].startswith("kappamask: error: ")
    assert str(folder.parent) in told[0]
    assert (tmp_path / "file").read_text() == "no folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
