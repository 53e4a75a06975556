"""Flat process graphs: their errors, references and order. Row 6: imports `errors` only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kappamask.errors import InputError, ItemError, KappaMaskError, NoItemsError, UnknownNameError

Graph = dict[str, dict[str, Any]]  # node id: node


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
    elif not isinstance(error, InputError | UnknownNameError | ItemError):
        code = "Internal"
    told = " ".join(str(error).split()) or "no message"
    cause = told if isinstance(error, KappaMaskError) else f"{type(error).__name__}: {told}"
    return GraphError(cause, node=node, process=process, code=code)


def references(value: Any, kind: str = "from_node") -> Iterator[str]:
    """Names that an argument refers to, child graphs left out.

    Examples
    --------
    >>> list(references({"data": [{"from_node": "load1"}, {"from_parameter": "x"}]}))
    ['load1']
    """
    if isinstance(value, dict):
        if kind in value:
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
    done: list[str] = []
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
            done.append(stack.pop())
        elif name in begun:
            raise GraphError(
                f"waits for its own result through {waiting[0]!r}: a process graph has no circles",
                node=name,
                process=str(graph[name].get("process_id")),
            )
        else:
            begun.add(name)
            stack.extend(reversed(waiting))
    return done
