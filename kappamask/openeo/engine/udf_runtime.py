"""The Python runtime of UDFs: a chunk in, a chunk out, and logs. Row 6: imports `flat_graph`.

As openEO's Spark back end does it: the text is exec'd once per process, and its
`apply_datacube` gets one float32 chunk at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import xarray as xr
from openeo.metadata import Band, BandDimension, CubeMetadata, SpatialDimension, TemporalDimension
from openeo.udf import UdfData, XarrayDataCube
from openeo.udf.run_code import load_module_from_string, run_udf_code

from kappamask.openeo.engine.flat_graph import GraphError

Log = Callable[[str, str], object]  # level, message
RUNTIME = "Python"
_ONE = threading.Lock()  # UDFs are written for a process of their own: one chunk at a time
_HERE = threading.local()


class _ToEngine(logging.Handler):
    """Hands what `openeo.udf.inspect` logs to the engine that runs the UDF in this thread."""

    def emit(self, record: logging.LogRecord) -> None:
        log = getattr(_HERE, "log", None)
        if log is not None:
            log(record.levelname.lower(), describe_record(record))


def describe_record(record: logging.LogRecord) -> str:
    """Write what `inspect` was given: the message, then the data if there is some."""
    parts = [record.getMessage()]
    held = getattr(record, "data", None)
    if held is not None:
        parts.append(str(held))
    return " ".join(part for part in parts if part)


_USER_LOG = logging.getLogger("openeo.udf.debug.user")


@contextmanager
def logging_to(log: Log | None) -> Iterator[None]:
    """Send what a UDF logs in this thread to `log`."""
    if not any(isinstance(handler, _ToEngine) for handler in _USER_LOG.handlers):
        _USER_LOG.addHandler(_ToEngine())
        _USER_LOG.setLevel(logging.DEBUG)
        _USER_LOG.propagate = False
    before, _HERE.log = getattr(_HERE, "log", None), log
    try:
        yield
    finally:
        _HERE.log = before


def check_udf(udf: str, runtime: str = RUNTIME) -> str:
    """Check that a UDF is Python source text; returns it.

    Raises
    ------
    GraphError
        If it is an address or a path, which are not read here, or of another runtime.
    """
    if runtime.lower() != RUNTIME.lower():
        raise GraphError(
            f"UDFs run in the runtime {RUNTIME!r} here, got {runtime!r}", code="InvalidRuntime"
        )
    if "\n" not in udf.strip():
        raise GraphError(
            f"a UDF is given as its source text here, got {udf[:80]!r}: "
            "inline it, as openeo.UDF.from_file(...) does",
            code="ProcessParameterInvalid",
        )
    return udf


def run_chunk(cube: xr.DataArray, udf: str, context: Any, *, log: Log | None) -> xr.DataArray:
    """Run a UDF on one chunk held in memory.

    Parameters
    ----------
    cube
        float32 (bands, y, x) with ``attrs["t"]``, or (t, bands, y, x); NaN = no data.
    udf
        Source text.
    context
        What the UDF gets as its context.
    log
        Receives level and message of what it inspects.
    """
    given = UdfData(datacube_list=[XarrayDataCube(cube)], user_context=context or {})
    with _ONE, logging_to(log):
        result = run_udf_code(code=udf, data=given)
    cubes = result.get_datacube_list() or []
    if len(cubes) != 1:
        raise GraphError(f"a UDF returns one data cube, got {len(cubes)}")
    returned: xr.DataArray = cubes[0].get_array()
    return returned


def name_bands(udf: str, context: Any, bands: Sequence[str]) -> list[str]:
    """Tell the bands that a UDF returns: as its `apply_metadata` says, else those it gets.

    Raises
    ------
    GraphError
        If the text mentions `apply_metadata` but does not define it.
    """
    if "apply_metadata" not in udf:
        return list(bands)
    change = load_module_from_string(udf).get("apply_metadata")
    if not callable(change):
        raise GraphError(
            "the UDF mentions apply_metadata but does not define it: back ends refuse that, "
            "define it or take the word out"
        )
    metadata = CubeMetadata(
        dimensions=[
            SpatialDimension(name="x", extent=[]),
            SpatialDimension(name="y", extent=[]),
            TemporalDimension(name="t", extent=[]),
            BandDimension(name="bands", bands=[Band(name=name) for name in bands]),
        ]
    )
    return [str(name) for name in change(metadata, context or {}).band_names]
