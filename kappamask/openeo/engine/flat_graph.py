"""Flat process graphs: their errors, references and order. Row 6: imports `errors` only."""

from __future__ import annotations

from collections.abc import Iterator
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes whole."""
        return _remake_error, (self.cause, self.node, self.process, self.code)


def _remake_error(cause: str, node: str, process: str, code: str) -> GraphError:
    return GraphError(cause, node=node, process=process, code=code)


def error_at(node: str, process: str, error: Exception) -> GraphError:
    """Say where in a graph an exception came from; what is said already is kept."""
    if isinstance(error, GraphError) and error.node:
        return error
    code = "ProcessParameterInvalid"
    if isinstance(error, NoItemsError):
        code = "NoDataAvailable"
    elif isinstance(error, GraphError):
        code = error.code
    elif type(error).__module__.startswith("openeo_processes_dask"):
        code = type(error).__name__  # DimensionNotAvailable...
    elif process == "run_udf" or not _is_of_arguments(error):
        code = "Internal"
    told = " ".join(str(error).split()) or "no message"
    cause = told if isinstance(error, KappaMaskError) else f"{type(error).__name__}: {told}"
    return GraphError(cause, node=node, process=process, code=code)


def _is_of_arguments(error: Exception) -> bool:
    # pyproj's CRSError is but a RuntimeError.
    kind = type(error)  # openeo-processes-dask raises bare exceptions, too
    return isinstance(error, OF_ARGUMENTS) or kind is Exception or kind.__module__[:6] == "pyproj"


def references(value: Any, kind: str = "from_node") -> Iterator[str]:
    """Names that an argument refers to, child graphs left out.

    Raises
    ------
    GraphError
        If a reference is no name.

    Examples
    --------
    >>> list(references({"data": [{"from_node": "load1"}, {"from_parameter": "x"}]}))
    ['load1']
    """
    if isinstance(value, dict):
        if kind in value:
            if not isinstance(value[kind], str):
                raise GraphError(f"{kind} is a name, got {str(value[kind])[:80]!r}: correct it")
            yield value[kind]
        elif "process_graph" not in value:
            for inner in value.values():
                yield from references(inner, kind)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from references(inner, kind)


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

    Examples
    --------
    >>> order({"b": {"arguments": {"x": {"from_node": "a"}}}, "a": {"arguments": {}}}, "b")
    ['a', 'b']
    """
    done: dict[str, None] = {}  # in order
    begun: set[str] = set()  # waiting for what they need
    stack = list(reversed(ends))
    while stack:
        name = stack[-1]
        if name in done:
            stack.pop()
            continue
        needs = list(dict.fromkeys(references(graph[name].get("arguments", {}))))
        absent = [need for need in needs if need not in graph]
        if absent:
            raise GraphError(
                f"refers to node {absent[0]!r}, which is not in the graph: it holds "
                f"{', '.join(graph)}",
                node=name,
                process=str(graph[name].get("process_id")),
            )
        waiting = [need for need in needs if need not in done]
        if not waiting:
            done[stack.pop()] = None
        elif name in begun:
            raise GraphError(
                f"waits for its own result through {waiting[0]!r}: a process graph has no circles",
                node=name,
                process=str(graph[name].get("process_id")),
            )
        else:
            begun.add(name)
            stack.extend(reversed(waiting))
    return list(done)


def depth_exceeds(value: Any, most: int) -> bool:
    """Tell whether lists and objects lie deeper in each other; needs no depth itself.

    Examples
    --------
    >>> depth_exceeds({"a": [[]]}, 2), depth_exceeds({"a": [[]]}, 3)
    (True, False)
    """
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

    Examples
    --------
    >>> check_shape({"one": {"process_id": "add", "arguments": {"x": {"from_node": []}}}})
    Traceback (most recent call last):
    kappamask.openeo.engine.flat_graph.GraphError: node 'one' (add): from_node is a name...
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
            for kind in ("from_node", "from_parameter"):
                list(references(arguments, kind))
        except GraphError as error:
            raise GraphError(error.cause, node=name, process=node["process_id"]) from None
