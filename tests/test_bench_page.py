"""`make bench`: its scripts run, small; what they measured gets into the page, table by table."""

import importlib
import json
import sys
import time

import numpy as np
import pytest
from rasterio.transform import from_origin
from support.rasters import write_raster
from support.scripts import ROOT, load_script

PAGE = (ROOT / "docs" / "performance.md").read_text("utf-8")
ROWS = [
    {"table": "machine", "row": "A processor", "cores": "2 threads", "load": 0.1,
     "when": "2026-11-29 05:15 UTC", "versions": {"torch": "2.13"}},
    {"table": "peers", "row": "ours", "pixels": "9 x 9", "speed": 7.25},
    {"table": "peers", "row": "theirs", "pixels": "9 x 9", "speed": 0.5, "ratio": 14.5,
     "target": 10},
    {"table": "peers", "row": "absent one", "reason": "not installed"},
    {"table": "doors", "row": "predict_array", "pixels": "9 x 9", "speed": 7.0, "share": 0.97},
    {"table": "series", "row": "12 x 9 x 9", "first": 1.5, "again": 1.25, "peak": 1.1,
     "share": 0.9},
    {"table": "product", "row": "9 x 9", "cold": 40.0, "halved": 0.375,
     "warm": {"decode": 20.0, "safe": 32.0, "safe at 20 m": 12.0, "cogs": 15.0,
              "cogs at 20 m": 5.0},
     "peaks": {"safe": 1.5, "cogs": 1.6}},
    {"table": "field", "row": "all 13", "dates": 30, "seconds": 0.25, "pictures": 0.14,
     "requests": 60, "megabytes": 3.5, "same": 1.0},
    {"table": "bands", "row": "four", "dates": 10, "seconds": 0.125, "pictures": 0.3,
     "requests": 20, "megabytes": 1.5, "same": 0.95},
    {"table": "engines", "row": "torch", "speed": 7.0, "ratio": 1.0, "same": 1.0},
]  # fmt: skip


@pytest.fixture
def tool():
    return load_script("docs/tools/performance.py")


def test_each_table_is_written_between_its_marks(tool):
    filled = tool.fill(PAGE, ROWS)
    for line in (
        "| theirs | 9 x 9 | 0.5 | 14.5 times faster | 10 |",
        "| absent one |  | not measured: not installed |  |  |",
        "| predict_array | 9 x 9 | 7.00 | 97% |",
        "| 12 x 9 x 9 | 1.50 s | 1.25 s | 90% | 1.10 GB |",
        "| four | 1.50 MB | 20 | 0.12 s | 30% | 95.00% |",
    ):
        assert line in filled
    (product,) = (line for line in filled.splitlines() if line.startswith("| 9 x 9 | 20.0 s"))
    assert "| 1.60 |" in product  # 32 s of 20 s
    assert "| 0.38 |" in product or "| 0.37 |" in product
    assert tool.fill(filled, ROWS) == filled
    assert filled.count("<!-- end of bench -->") == len(tool.TABLES) == PAGE.count("<!-- bench:")


def test_what_was_not_measured_stays(tool):
    only = [row for row in ROWS if row["table"] == "doors"]
    before, after = (
        {line for line in page.splitlines() if line.startswith("|")}
        for page in (PAGE, tool.fill(PAGE, only))
    )
    assert after - before == {"| predict_array | 9 x 9 | 7.00 | 97% |"}
    assert "| door | pixels | Mpx/s | of network only |" in after
    doors = PAGE.partition("<!-- bench: doors -->")[2].partition("<!-- end of bench -->")[0]
    assert before - after < set(doors.splitlines())


def test_figures_of_a_busy_machine_are_refused(tool, tmp_path, monkeypatch):
    path = tmp_path / "bench.jsonl"
    path.write_text("\n".join(json.dumps(row | {"load": 3.0}) for row in ROWS))
    monkeypatch.setattr("sys.argv", ["performance.py", str(path)])
    with pytest.raises(SystemExit, match=r"idle machine .* load of 3\.0"):
        tool.main()
    assert (ROOT / "docs" / "performance.md").read_text("utf-8") == PAGE


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Import a script of benchmarks/, whose rows are then recorded in `rows.jsonl`."""
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("needs benchmarks/: a clone, not an installation")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("BENCH_JSON", str(tmp_path / "rows.jsonl"))
    yield importlib.import_module
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.slow
def test_the_scripts_run(script, monkeypatch, tmp_path, capsys):
    bench, peers = script("throughput"), script("peers")
    absent = peers.Answer("absent", reason="not installed")
    monkeypatch.setattr(peers, "measure_peers", lambda *_, **__: [absent])
    bench.print_doors(64, 1)
    bench.print_chips(1, 64, 1, time.perf_counter)
    bench.print_peers(64, 1, time.perf_counter)
    name, run = next(iter(script("engines").runs(64)))
    assert name.startswith("torch")
    assert run().shape == (64, 64)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert {row["table"] for row in rows} == {"model", "doors", "chips", "peers"}
    assert all(row.get("speed", 1) > 0 for row in rows)

    dn = np.random.default_rng(0).integers(1500, 4000, (1, 256, 256)).astype(np.uint16)
    (tmp_path / "bolzano" / "a").mkdir(parents=True)
    for band in ("B02", "B03", "B04", "B08"):
        path = tmp_path / "bolzano" / "a" / f"{band}.tif"
        write_raster(path, dn, crs=32632, transform=from_origin(0, 2560, 10, 10), driver="GTiff")
    margins = script("chip_margins")
    monkeypatch.setattr(margins, "MIRRORED", (32,))
    monkeypatch.setattr(sys, "argv", ["chip_margins", str(tmp_path)])
    margins.main()
    assert "Bolzano" in capsys.readouterr().out
