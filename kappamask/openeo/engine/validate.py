"""What is wrong with a process graph, before anything is loaded.

Codes are those of the openEO API's error list where one fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft7Validator

from kappamask.openeo.engine.arguments import Process
from kappamask.openeo.engine.evaluate import Evaluator
from kappamask.openeo.engine.flat_graph import (
    REFERENCES,
    ArgumentError,
    Graph,
    GraphError,
    check_shape,
    find_misnamed,
    objects,
    order,
    references,
    result_node,
)
from kappamask.openeo.engine.load import check_bands, level_of

Fault = dict[str, str]  # code, message
TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


def find_faults(evaluator: Evaluator, graph: Any, parameters: Mapping[str, Any]) -> list[Fault]:
    """List what is wrong with a graph.

    Parameters
    ----------
    evaluator
        Knows the processes.
    graph
        What was sent as a flat graph.
    parameters
        Names of the parameters that will have values.

    Returns
    -------
    list of dict
        ``code`` and ``message`` of each fault, in the order of the nodes; empty if the
        graph can run.
    """
    return [
        {"code": error.code, "message": str(error)}
        for error in _faults(evaluator, graph, set(parameters), "")
    ]


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
            told = {"node": path + name, "process": node["process_id"], "code": fault.code}
            yield GraphError(fault.cause, **told)
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
    if isinstance(process, Process):
        parameters = process.spec.get("parameters") or []
    else:
        parameters = _plain_parameters(process.get("parameters"))
    arguments = node.get("arguments", {})
    yield from find_misnamed(arguments, parameters)
    for parameter in parameters:
        name, schemas = parameter["name"], _listed(parameter.get("schema", {}))
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
            check_bands(told, level_of(arguments["id"]))
        except GraphError as error:
            yield error


def _listed(schema: Any) -> list[Any]:
    return schema if isinstance(schema, list) else [schema]


def _plain_parameters(parameters: Any) -> list[dict[str, Any]]:
    """Leave of a user-defined process' schemas what can be checked without harm: the types.

    The whole of them may fetch addresses ($ref), take forever (pattern), or be no schemas.
    """
    return [
        {**parameter, "schema": [_plain_schema(each) for each in _listed(parameter.get("schema"))]}
        for parameter in (parameters if isinstance(parameters, list) else ())
    ]


def _plain_schema(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict):
        return {}
    types, inner = schema.get("type"), schema.get("parameters")
    listed = [one for one in _listed(types) if isinstance(one, str)]
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
