"""The one door to openeo-processes-dask, which warns and logs while it is imported."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kappamask.base.errors import needs_extra

logging.getLogger("openeo_processes_dask").setLevel(logging.ERROR)  # of extras that are absent
with (
    warnings.catch_warnings(action="ignore"),  # of its dependencies: pydantic 1, numpy 1
    needs_extra("local", "running openEO process graphs"),
):
    import openeo_processes_dask.process_implementations as _implementations
    import openeo_processes_dask.specs as _specs
    from openeo_processes_dask.process_implementations import dates as _dates


@cache
def implementations() -> Mapping[str, Callable[..., Any]]:
    """Find what the library implements; names that Python reserves lose their underscore."""
    found = inspect.getmembers(_implementations, inspect.isfunction)
    found += inspect.getmembers(_dates, inspect.isfunction)
    return {name.strip("_"): function for name, function in found}


@cache
def specifications() -> Mapping[str, dict[str, Any]]:
    """Read the specifications that the library ships, proposals included."""
    folder = Path(_specs.__file__).parent / "openeo-processes"
    read: dict[str, dict[str, Any]] = {}
    for place in (folder / "missing-processes", folder / "proposals", folder):
        for path in sorted(place.glob("*.json")):
            text = path.read_text(encoding="utf-8")
            if text.strip():  # one is empty
                spec = json.loads(text)
                read[spec["id"]] = spec
    return read
