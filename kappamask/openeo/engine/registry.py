"""All predefined processes with specifications and implementations. Row 6.

What openeo-processes-dask implements and specifies, and over it what is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from openeo_pg_parser_networkx.process_registry import Process, ProcessRegistry

from kappamask.openeo.engine import library, load, neighborhood, periods, processes, save
from kappamask.openeo.engine.udf_runtime import Log

# Never offered: they fetch addresses or run things that are not the client's own code.
LEFT_OUT = ("load_url", "load_geojson", "export_workspace", "apply_neighborhood_intertwin")


@dataclass(frozen=True)
class Surroundings:
    """What processes need besides their arguments."""

    catalog: Any  # as `kappamask.search` takes it
    folder: Path | None
    log: Log | None
    hosts: Sequence[str] | None = None  # beyond public addresses, as `load.load_stac` takes them


def make_registry(here: Surroundings) -> ProcessRegistry:
    """Register everything that can run."""
    registry = ProcessRegistry()
    specs = {**library.specifications(), "apply_neighborhood": with_periods()}
    for name, implementation in {**library.implementations(), **own(here)}.items():
        if name in specs and name not in LEFT_OUT:
            registry[name] = Process(spec=specs[name], implementation=implementation)
    return registry


def own(here: Surroundings) -> Mapping[str, Callable[..., Any]]:
    """Tie implementations of ours to where they run."""
    tied: dict[str, Callable[..., Any]] = dict(processes.OWN)
    for name in ("apply", "apply_dimension", "inspect"):
        tied[name] = partial(tied[name], log=here.log)
    return tied | {
        "aggregate_temporal": periods.aggregate_temporal,
        "aggregate_temporal_period": periods.aggregate_temporal_period,
        "apply_neighborhood": partial(neighborhood.apply_neighborhood, log=here.log),
        "load_collection": partial(load.load_collection, catalog=here.catalog),
        "load_stac": partial(load.load_stac, hosts=here.hosts),
        "run_udf": partial(neighborhood.run_udf, log=here.log),
        "save_result": partial(save.save_result, folder=here.folder),
    }


def with_periods() -> dict[str, Any]:
    """Let `apply_neighborhood` take calendar periods in t, as Copernicus does.

    The specification itself has durations only, which no back end takes but "P1D".
    """
    spec = copy.deepcopy(library.specifications()["apply_neighborhood"])
    for parameter in spec["parameters"]:
        if parameter["name"] == "size":
            values = parameter["schema"]["items"]["properties"]["value"]["anyOf"]
            values.append(
                {"type": "string", "title": "Calendar period", "enum": list(periods.PERIODS)}
            )
    return spec
