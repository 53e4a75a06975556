"""The notebooks, run once per session by whichever test asks first."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "docs" / "tools" / "notebooks.py"


@cache
def executed_notebooks() -> Path:
    """Run all notebooks with kernels on loopback; give the folder of the results."""
    for needed in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(needed, reason="needs the extra notebooks")
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [sys.executable, "-W", "ignore", TOOL, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
