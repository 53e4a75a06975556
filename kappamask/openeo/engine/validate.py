"""What is wrong with a process graph, before anything is loaded. Row 6: imports `evaluate`, `load`.

Codes are those of the openEO API's error list where one fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft7Validator
from openeo_pg_parser_networkx.process_registry import Process

from kappamask.openeo.engine.evaluate import Evaluator
from kappamask.openeo.engine.flat_graph import (
    Graph,
    GraphError,
    check_shape,
    order,
    references,
    result_node,
)
from kappamask.openeo.engine.load import COLLECTIONS, check_bands

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
        try:
            process = evaluator.find(node)
        except GraphError as error:
            yield GraphError(error.cause, node=path + name, process=_id(node), code=error.code)
            continue
        if isinstance(process, Process):
            parameters = process.spec.get("parameters") or []
        else:
            parameters = _plain_parameters(process.get("parameters"))
        for cause, code in _argument_faults(node, parameters, known):
            yield GraphError(cause, node=path + name, process=_id(node), code=code)
        yield from _child_faults(evaluator, node, parameters, known, f"{path}{name}/")


def _plain_parameters(parameters: Any) -> list[dict[str, Any]]:
    """Leave of a user-defined process' schemas what can be checked without harm: the types.

    The whole of them may fetch addresses ($ref), take forever (pattern), or be no schemas.
    """
    plain = []
    for parameter in parameters if isinstance(parameters, list) else ():
        schemas = parameter.get("schema", {})
        schemas = schemas if isinstance(schemas, list) else [schemas]
        plain.append({**parameter, "schema": [_plain_schema(schema) for schema in schemas]})
    return plain


def _plain_schema(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict):
        return {}
    types = schema.get("type")
    listed = [one for one in types if isinstance(one, str)] if isinstance(types, list) else [types]
    plain = {"type": listed} if listed and TYPES.issuperset(listed) else {}
    inner = schema.get("parameters")
    offered = [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
    named = [{"name": one["name"]} for one in offered if isinstance(one.get("name"), str)]
    return {**plain, "parameters": named}


def _argument_faults(
    node: Mapping[str, Any], parameters: list[dict[str, Any]], known: set[str]
) -> Iterator[tuple[str, str]]:
    arguments = node.get("arguments", {})
    specified = {parameter["name"]: parameter for parameter in parameters}
    for name, parameter in specified.items():
        if name not in arguments and not parameter.get("optional") and "default" not in parameter:
            yield f"needs the argument {name!r}", "ProcessParameterRequired"
    for name, value in arguments.items():
        if name not in specified:
            yield (
                f"has no parameter {name!r}: known are {', '.join(specified) or 'none'}",
                "ProcessParameterUnsupported",
            )
            continue
        for referred in references(value, "from_parameter"):
            if referred not in known:
                yield f"parameter {referred!r} has no value", "ProcessParameterMissing"
        if is_constant(value) and not fits(value, specified[name].get("schema", {})):
            shown = str(value)[:80]
            cause = f"argument {name!r} is of another kind than the process takes, got {shown!r}"
            yield cause, "ProcessParameterInvalid"
    if node["process_id"] == "load_collection":
        yield from _collection_faults(arguments)


def _collection_faults(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name, bands = arguments.get("id"), arguments.get("bands")
    if not isinstance(name, str):
        return
    if name not in COLLECTIONS:
        known = ", ".join(COLLECTIONS)
        yield f"unknown collection {name!r}: expected one of {known}", "CollectionNotFound"
    elif isinstance(bands, list) and is_constant(bands):
        try:
            check_bands(bands, COLLECTIONS[name])
        except GraphError as error:
            yield error.cause, error.code


def is_constant(value: Any) -> bool:
    """Tell whether a value holds no reference and no child graph."""
    if isinstance(value, dict):
        keys = {"from_node", "from_parameter", "process_graph"}
        return not keys & set(value) and all(map(is_constant, value.values()))
    return all(map(is_constant, value)) if isinstance(value, list) else True


def fits(value: Any, schema: Any) -> bool:
    """Tell whether a constant meets a JSON schema, or one of several.

    Examples
    --------
    >>> fits("month", [{"type": "string"}, {"type": "null"}]), fits(3, {"type": "string"})
    (True, False)
    """
    schemas = schema if isinstance(schema, list) else [schema]
    return any(Draft7Validator(one).is_valid(value) for one in schemas)


def _child_faults(
    evaluator: Evaluator,
    node: Mapping[str, Any],
    parameters: list[dict[str, Any]],
    known: set[str],
    path: str,
) -> Iterator[GraphError]:
    arguments = node.get("arguments", {})
    for parameter in parameters:
        value = arguments.get(parameter["name"])
        named = parameter.get("schema", {})
        offered = {
            inner["name"]
            for schema in (named if isinstance(named, list) else [named])
            for inner in _callback_parameters(schema)
        }
        for child in _child_graphs(value):
            yield from _faults(evaluator, child, known | offered, path)


def _callback_parameters(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameters of a child graph; those of load_collection stand one level deeper."""
    inner = schema.get("additionalProperties")
    deeper = inner.get("parameters", []) if isinstance(inner, dict) else []
    return [*schema.get("parameters", []), *deeper]


def _child_graphs(value: Any) -> Iterator[Graph]:
    if isinstance(value, dict):
        if "process_graph" in value:
            yield value["process_graph"]
        else:
            for inner in value.values():
                yield from _child_graphs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _child_graphs(inner)


def _id(node: Mapping[str, Any]) -> str:
    return str(node.get("process_id"))
