"""Flat process graphs: their errors, references, order and shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kappamask.base.errors import (
    InputError,
    ItemError,
    KappaMaskError,
    NoItemsError,
    UnknownNameError,
)

Graph = dict[str, dict[str, Any]]  # node id: node
DEEPEST_VALUE = 200  # a child graph is 4 deep
REFERENCES = {"from_node", "from_parameter"}
# What processes raise of arguments that they cannot work with: openeo-processes-dask checks few.
OF_ARGUMENTS = (
    InputError, UnknownNameError, ItemError, TypeError, ValueError, LookupError, ArithmeticError,
    AttributeError, AssertionError, NotImplementedError,
)  # fmt: skip


class GraphError(KappaMaskError, ValueError):
    """A process graph that is wrong or failed; names the node, its process and the cause.

    Examples
    --------
    >>> print(GraphError("no such band", node="ndvi1", process="ndvi"))
    node 'ndvi1' (ndvi): no such band
    """

    def __init__(
        self, cause: str, *, node: str = "", process: str = "", code: str = "ProcessGraphInvalid"
    ) -> None:
        super().__init__(f"node {node!r} ({process}): {cause}" if node else cause)
        self.cause, self.node, self.process = cause, node, process
        self.code = code  # of the openEO error list, where one fits


class ArgumentError(GraphError):
    """An argument that a process cannot work with."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause, code="ProcessParameterInvalid")


def error_at(node: str, process: str, error: Exception) -> GraphError:
    """Say where in a graph an exception came from; what is said already is kept."""
    if isinstance(error, GraphError) and error.node:
        return error
    kind = type(error)
    # openeo-processes-dask raises bare exceptions, too; pyproj's CRSError is but a RuntimeError.
    of_arguments = (
        isinstance(error, OF_ARGUMENTS) or kind is Exception or kind.__module__.startswith("pyproj")
    )
    if isinstance(error, NoItemsError):
        code = "NoDataAvailable"
    elif isinstance(error, GraphError):
        code = error.code
    elif kind.__module__.startswith("openeo_processes_dask"):
        code = kind.__name__  # DimensionNotAvailable...
    else:
        code = "ProcessParameterInvalid" if of_arguments and process != "run_udf" else "Internal"
    told = " ".join(str(error).split()) or "no message"
    cause = told if isinstance(error, KappaMaskError) else f"{kind.__name__}: {told}"
    return GraphError(cause, node=node, process=process, code=code)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of an argument, without what lies in references and child graphs."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict) and not (REFERENCES | {"process_graph"}) & value.keys():
        value = list(value.values())
    for inner in value if isinstance(value, list | tuple) else ():
        yield from objects(inner)


def references(value: Any, kind: str = "from_node") -> Iterator[str]:
    """Names that an argument refers to, child graphs left out.

    Raises
    ------
    GraphError
        If a reference is no name.
    """
    for found in objects(value):
        if kind in found:
            if not isinstance(found[kind], str):
                raise GraphError(f"{kind} is a name, got {str(found[kind])[:80]!r}: correct it")
            yield found[kind]


def result_node(graph: Graph) -> str:
    """Find the node that is the result.

    Raises
    ------
    GraphError
        If there is not exactly one.
    """
    found = [name for name, node in graph.items() if node.get("result") is True]
    if len(found) != 1:
        raise GraphError(
            f'one node of a process graph has "result": true, got {found or "none"} '
            f"of {', '.join(graph) or 'no node'}: mark the last one"
        )
    return found[0]


def order(graph: Graph, *ends: str) -> list[str]:
    """Nodes in an order in which they can be computed: what the ends need, and no other.

    Raises
    ------
    GraphError
        If a node refers to one that is not there, or to itself around a circle.
    """
    needs: dict[str, list[str]] = {}
    pending = list(ends)

    def wrong(name: str, cause: str) -> GraphError:
        return GraphError(cause, node=name, process=str(graph[name].get("process_id")))

    while pending:
        name = pending.pop()
        if name not in needs:
            needs[name] = list(references(graph[name].get("arguments", {})))
            for need in needs[name]:
                if need not in graph:
                    held = ", ".join(graph)
                    raise wrong(
                        name, f"refers to node {need!r}, which is not in the graph: it holds {held}"
                    )
            pending += needs[name]
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        through, name, *_ = error.args[1]
        raise wrong(
            name,
            f"waits for its own result through {through!r}: a process graph has no circles",
        ) from None


def depth_exceeds(value: Any, most: int) -> bool:
    """Tell whether lists and objects lie deeper in each other; needs no depth itself."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return any(isinstance(one, dict | list) for one in level)


def check_shape(graph: Any) -> None:
    """Check that a graph is what JSON of a flat graph looks like.

    Raises
    ------
    GraphError
        If it is anything else.
    """
    if not isinstance(graph, dict) or not graph:
        raise GraphError(
            "a process graph is an object of nodes, got "
            f"{type(graph).__name__ if graph else 'an empty one'}",
            code="ProcessGraphMissing" if not graph else "ProcessGraphInvalid",
        )
    if depth_exceeds(graph, DEEPEST_VALUE):
        raise GraphError(
            f"the values of a process graph lie at most {DEEPEST_VALUE} deep in each other, got "
            "more: flatten them"
        )
    for name, node in graph.items():
        if not isinstance(node, dict) or not isinstance(node.get("process_id"), str):
            raise GraphError(f"node {name!r} needs a process_id, got {str(node)[:80]}")
        arguments, namespace = node.get("arguments", {}), node.get("namespace")
        if not isinstance(arguments, dict):
            raise GraphError(f"node {name!r} needs arguments by name, got {str(arguments)[:80]}")
        if not isinstance(namespace, str | None):
            raise GraphError(f"node {name!r} needs a namespace by name, got {str(namespace)[:80]}")
        try:
            for kind in REFERENCES:
                list(references(arguments, kind))
        except GraphError as error:
            raise GraphError(error.cause, node=name, process=node["process_id"]) from None


def schemas_of(parameter: Mapping[str, Any]) -> list[Any]:
    """List the schemas of which an argument meets one."""
    schema = parameter.get("schema", {})
    return schema if isinstance(schema, list) else [schema]


def find_misnamed(
    arguments: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]]
) -> Iterator[GraphError]:
    """Find arguments that a process needs and lacks, or that it does not know."""
    names = [parameter["name"] for parameter in parameters]
    for parameter in parameters:
        needed = not parameter.get("optional") and "default" not in parameter
        if needed and parameter["name"] not in arguments:
            cause = f"needs the argument {parameter['name']!r}"
            yield GraphError(cause, code="ProcessParameterRequired")
    for name in arguments:
        if name not in names:
            cause = f"has no parameter {name!r}: known are {', '.join(names) or 'none'}"
            yield GraphError(cause, code="ProcessParameterUnsupported")
