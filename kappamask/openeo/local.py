"""An openEO engine on your own machine: openeo-processes-dask, and what it lacks.

`LocalEngine` runs the graphs that the openeo client builds, unchanged: collections are
read from a STAC catalogue, UDFs get the chunks that Copernicus would give them, and
everything stays lazy until a file is written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonschema import Draft7Validator

from kappamask.openeo.engine import arrays, holdings, library, load, processes, save
from kappamask.openeo.engine.evaluate import Evaluator
from kappamask.openeo.engine.flat_graph import (
    REFERENCES,
    ArgumentError,
    Graph,
    GraphError,
    check_shape,
    error_at,
    find_misnamed,
    objects,
    order,
    references,
    result_node,
    schemas_of,
)
from kappamask.openeo.engine.library import Process

if TYPE_CHECKING:
    import xarray as xr

    from kappamask.openeo.engine.udfs import Log

# Never offered: they fetch addresses or run things that are not the client's own code.
LEFT_OUT = ("load_url", "load_geojson", "export_workspace", "apply_neighborhood_intertwin")
# Of JSON schemas: all of a user-defined process' that is held against arguments.
TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


class LocalEngine:
    """Runs openEO process graphs on this machine.

    It runs the Python code that graphs hold, with the rights of whoever started it.

    Parameters
    ----------
    catalog
        What `SENTINEL2_L2A` and `SENTINEL2_L1C` are read from, as `kappamask.search`
        takes it: name, URL, path of a catalog.json, or a folder of SAFE and EOPF products.
    folder
        Where `save_result` writes; made if absent. Needed for that process only.
    log
        Called with level (``"info"``...) and message of what UDFs inspect.
    udps
        User-defined processes, ``{"parameters": [...], "process_graph": {...}}`` by id
        or, for nodes whose namespace is a URL, by that URL. Looked at with each graph.
    load_stac_hosts
        None: `load_stac` reads whatever a graph names, as your own Python could. Else it
        reads public addresses and these hosts only, for graphs that others wrote.

    Examples
    --------
    >>> import openeo
    >>> from kappamask.sample import SCENES, catalog_path
    >>> west, south, east, north = SCENES[1].bbox
    >>> cube = openeo.DataCube.load_collection(
    ...     "SENTINEL2_L2A",
    ...     spatial_extent={"west": west, "south": south, "east": east, "north": north},
    ...     temporal_extent=["2019-07-01", "2019-08-01"],
    ...     bands=["B04", "B08"],
    ... )
    >>> graph = cube.ndvi(nir="B08", red="B04").reduce_dimension("t", "max").flat_graph()
    >>> result = LocalEngine(catalog=catalog_path()).run(graph)
    >>> result.dims, type(result.data).__module__
    (('y', 'x'), 'dask.array.core')
    """

    def __init__(
        self,
        *,
        catalog: Any,
        folder: str | Path | None = None,
        log: Log | None = None,
        udps: Mapping[str, Any] | None = None,
        load_stac_hosts: Sequence[str] | None = None,
    ) -> None:
        self.catalog = catalog
        here = {
            "catalog": catalog,
            "folder": None if folder is None else Path(folder),
            "log": log,
            "hosts": load_stac_hosts,
        }
        self._evaluator = Evaluator(make_registry(here), {} if udps is None else udps)

    def processes(self) -> list[dict[str, Any]]:
        """List the specifications of all predefined processes that can run, by name."""
        specs = [process.spec for process in self._evaluator.registry.values()]
        return copy.deepcopy(sorted(specs, key=lambda spec: str(spec["id"])))

    def collections(self) -> list[dict[str, Any]]:
        """Describe the collections as STAC documents with `cube:dimensions` and bands."""
        found = holdings.find_holdings(self.catalog)
        return [
            holdings.describe_collection(name, level, found[level])
            for name, level in load.COLLECTIONS.items()
            if level in found
        ]

    def validate(
        self, flat_graph: Graph, *, parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, str]]:
        """List what is wrong with a graph; nothing is loaded.

        Parameters
        ----------
        flat_graph
            What was sent as a flat graph.
        parameters
            Names of the parameters that will have values.

        Returns
        -------
        list of dict
            ``code`` (of the openEO API's error list where one fits) and ``message`` of each
            fault, in the order of the nodes; empty if the graph can run.
        """
        return [
            {"code": error.code, "message": str(error)}
            for error in _faults(self._evaluator, flat_graph, set(parameters or ()), "")
        ]

    def run(
        self, flat_graph: Graph, *, parameters: Mapping[str, Any] | None = None
    ) -> xr.DataArray | list[Path] | Any:
        """Compute a graph.

        Parameters
        ----------
        flat_graph
            Nodes by id; one of them has ``"result": true``. Other nodes that save
            results are computed too.
        parameters
            Values of the graph's own parameters; a lazy `xarray.DataArray`
            (t, bands, y, x) may be one.

        Returns
        -------
        xarray.DataArray or list of Path or any
            The value of the result node, lazy; or the files, if that is `save_result`,
            those of further such nodes after them.

        Raises
        ------
        GraphError
            Names node, process and cause. What a UDF raises comes out when its chunk is
            computed: in `save_result`, or when the returned cube is.
        """
        faults = self.validate(flat_graph, parameters=parameters)
        if faults:
            code = faults[0]["code"]
            raise GraphError("; ".join(fault["message"] for fault in faults), code=code)
        result = result_node(flat_graph)
        saving = [
            name
            for name, node in flat_graph.items()
            if node["process_id"] == "save_result" and name != result
        ]
        values = self._evaluator.run(flat_graph, parameters or {}, ends=tuple(saving))
        ended = {name: values[name] for name in (result, *saving)}
        ended |= save.write_all(
            {name: value for name, value in ended.items() if isinstance(value, save.Saving)}
        )
        if flat_graph[result]["process_id"] != "save_result":
            return ended[result]
        return [path for name in (result, *saving) for path in ended[name]]


def make_registry(here: Mapping[str, Any]) -> dict[str, Process]:
    """Register all that can run: what the library implements and specifies, over it what is ours.

    `here` holds what processes of ours need besides their arguments, by keyword.
    """
    ours: dict[str, Callable[..., Any]] = {
        **arrays.ARRAY_PROCESSES,
        **processes.OWN,
        "load_collection": load.load_collection,
        "load_stac": load.load_stac,
        "save_result": save.plan_saving,
    }
    for name, process in ours.items():
        needed = set(signature(process).parameters) & set(here)
        ours[name] = partial(process, **{key: here[key] for key in needed}) if needed else process
    specs = library.specifications()
    return {
        name: Process(spec=specs[name], implementation=implementation)
        for name, implementation in {**library.implementations(), **ours}.items()
        if name in specs and name not in LEFT_OUT
    }


# --- what is wrong with a graph, before anything is loaded ---------------------------------------


def _faults(evaluator: Evaluator, graph: Any, known: set[str], path: str) -> Iterator[GraphError]:
    try:
        check_shape(graph)
        order(graph, result_node(graph), *graph)
    except GraphError as error:
        yield error
        return
    for name, node in graph.items():
        children: list[tuple[Graph, set[str]]] = []
        for fault in _faults_of(evaluator, node, known, children):
            yield error_at(path + name, node["process_id"], fault)
        for child, offered in children:
            yield from _faults(evaluator, child, known | offered, f"{path}{name}/")


def _faults_of(
    evaluator: Evaluator,
    node: Mapping[str, Any],
    known: set[str],
    children: list[tuple[Graph, set[str]]],
) -> Iterator[GraphError]:
    """Find what is wrong with one node; collects its child graphs and what these are offered."""
    try:
        process = evaluator.find(node)
    except GraphError as error:
        yield error
        return
    is_ours = isinstance(process, Process)
    told = (process.spec if isinstance(process, Process) else process).get("parameters")
    parameters = [
        one if is_ours else {**one, "schema": [_plain_schema(each) for each in schemas_of(one)]}
        for one in (told if isinstance(told, list) else ())
    ]
    arguments = node.get("arguments", {})
    yield from find_misnamed(arguments, parameters)
    for parameter in parameters:
        name, schemas = parameter["name"], schemas_of(parameter)
        if name not in arguments:
            continue
        value = arguments[name]
        for referred in references(value, "from_parameter"):
            if referred not in known:
                cause = f"parameter {referred!r} has no value"
                yield GraphError(cause, code="ProcessParameterMissing")
        if is_constant(value) and not any(Draft7Validator(s).is_valid(value) for s in schemas):
            shown = str(value)[:80]
            yield ArgumentError(
                f"argument {name!r} is of another kind than the process takes, got {shown!r}"
            )
        offered = {inner["name"] for schema in schemas for inner in _callback_parameters(schema)}
        found = (each["process_graph"] for each in objects(value) if "process_graph" in each)
        children += [(child, offered) for child in found]
    if node["process_id"] == "load_collection" and isinstance(arguments.get("id"), str):
        bands = arguments.get("bands")
        told = bands if isinstance(bands, list) and is_constant(bands) else None
        try:
            load.check_bands(told, load.level_of(arguments["id"]))
        except GraphError as error:
            yield error


def _plain_schema(schema: Any) -> dict[str, Any]:
    """Leave of a user-defined process' schema what can be checked without harm: the types.

    The whole of it may fetch addresses ($ref), take forever (pattern), or be no schema.
    """
    if not isinstance(schema, dict):
        return {}
    types, inner = schema.get("type"), schema.get("parameters")
    types = types if isinstance(types, list) else [types]
    listed = [one for one in types if isinstance(one, str)]
    plain = {"type": listed} if listed and TYPES.issuperset(listed) else {}
    offered = [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
    named = [{"name": one["name"]} for one in offered if isinstance(one.get("name"), str)]
    return {**plain, "parameters": named}


def is_constant(value: Any) -> bool:
    """Tell whether a value holds no reference and no child graph."""
    return not any((REFERENCES | {"process_graph"}) & each.keys() for each in objects(value))


def _callback_parameters(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameters of a child graph; those of load_collection stand one level deeper."""
    inner = schema.get("additionalProperties")
    deeper = inner.get("parameters", []) if isinstance(inner, dict) else []
    return [*schema.get("parameters", []), *deeper]
