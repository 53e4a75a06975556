"""The load test of benchmarks/load.py, small: clients at once, one kill, nothing lost."""

import os
import sys
from pathlib import Path

import pytest
from support.fake_engine import process

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch):
    """The benchmark as a module; a source distribution comes without."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return pytest.importorskip("load", reason="needs benchmarks/load.py")


@pytest.mark.slow
def test_a_busy_server_answers_right_or_refuses_and_loses_nothing_when_killed(
    load, tmp_path, monkeypatch
):
    def task(text, name, **arguments):
        return load.Task(process(name, **arguments)["process_graph"], lambda got: got == text)

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), *sys.path]))
    command = [sys.executable, "-m", "support.openeo_server", str(tmp_path / "work")]
    tasks = [
        task(b"x" * 3, "write", names=["a.tif"]),
        task(b"x" * 70_000, "write", names=["a.tif"], size=70_000),
        task(b"0.2", "sleep", seconds=0.2),
    ]
    outcome = load.run(command, tasks, clients=8, seconds=3, folder=tmp_path)
    assert outcome.wrong == []
    assert outcome.lost == 0
    assert outcome.counts["jobs created"] > 0
    assert outcome.counts["hostile connections"] > 0
    assert outcome.server_mb < 600
    assert sum(outcome.settled.values()) == outcome.counts["jobs created"]
    assert sum(count for name, count in outcome.settled.items() if "finished" in name) > 0
