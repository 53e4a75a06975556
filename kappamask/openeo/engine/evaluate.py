"""Flat process graphs, evaluated node by node.

The evaluation of openeo-pg-parser-networkx is not used: it keeps the inner results of a
callback from one call to the next, so that a reducer of two processes gives every month the
values of the first one; and it walks every path of a graph, so that time doubles with each fork.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np

from kappamask.openeo.engine.flat_graph import (
    Graph,
    GraphError,
    check_shape,
    error_at,
    find_misnamed,
    order,
    references,
    result_node,
    schemas_of,
)
from kappamask.openeo.engine.library import BoundingBox, Process

# What implementations pass to their callbacks besides parameters of the process graph.
SPECIAL = ("axis", "keepdims", "source_transposed_axis", "dim_labels", "context")
DEEPEST = 32  # user-defined processes within each other
BACKEND = ("backend", "predefined")  # words for the namespace of the predefined processes


@dataclass(frozen=True)
class Evaluator:
    """What every graph needs to be computed: the processes that there are.

    Parameters
    ----------
    registry
        Predefined processes with their implementations.
    udps
        User-defined processes, ``{"parameters": [...], "process_graph": {...}}`` by id,
        or by the URL that a node gives as its namespace.
    """

    registry: Mapping[str, Process]
    udps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def find(self, node: Mapping[str, Any]) -> Process | Mapping[str, Any]:
        """Look up the process of a node: a predefined one, or the definition of the user's.

        1. A namespace that is a URL names a definition in `udps`; it is never fetched.
        2. ``"user"`` names the user's own, ``"backend"`` the predefined ones.
        3. Without a namespace the user's own come first.

        Raises
        ------
        GraphError
            If there is no such process.
        """
        name, namespace = str(node.get("process_id")), node.get("namespace")
        if namespace not in (None, "user", *BACKEND):
            if namespace in self.udps:
                return self.udps[namespace]
            raise GraphError(
                f"process {name!r} of namespace {namespace!r} is not known here and is not "
                "fetched: store it as a user-defined process, or pass udps={namespace: definition}",
                code="ProcessUnsupported",
            )
        if namespace not in BACKEND and name in self.udps:
            return self.udps[name]
        if namespace != "user" and name in self.registry:
            return self.registry[name]
        raise GraphError(
            f"unknown process {name!r}: it is neither predefined nor one of the user-defined "
            f"{', '.join(map(str, self.udps)) or '(none)'}",
            code="ProcessUnsupported",
        )

    def run(
        self,
        graph: Graph,
        scope: Mapping[str, Any],
        *,
        special: Mapping[str, Any] | None = None,
        path: str = "",
        ends: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Compute the result node and the `ends`; returns the values of all nodes on the way.

        Parameters
        ----------
        graph
            Flat process graph.
        scope
            Values of its parameters.
        special
            What an implementation passes to its callback: axis, labels...
        path
            Names of the nodes around a child graph, for messages.
        ends
            Further nodes that are wanted.
        """
        values: dict[str, Any] = {}
        for name in order(graph, result_node(graph), *ends):
            node = graph[name]
            here = f"{path}{name}"
            try:
                values[name] = self._call(node, values, scope, special or {}, here)
            except (MemoryError, RecursionError):
                raise
            except Exception as error:  # implementations and UDFs raise anything
                raise error_at(here, str(node.get("process_id")), error) from error
        return values

    def _call(
        self,
        node: Mapping[str, Any],
        values: Mapping[str, Any],
        scope: Mapping[str, Any],
        special: Mapping[str, Any],
        path: str,
    ) -> Any:
        process = self.find(node)
        arguments = {
            name: self._resolve(value, values, scope, f"{path}/")
            for name, value in node.get("arguments", {}).items()
        }
        if isinstance(process, Process):
            return invoke(process.implementation, typed(arguments, process.spec), special)
        if path.count("/") > DEEPEST:
            raise GraphError("user-defined processes call each other without end")
        parameters = process.get("parameters") or []
        for fault in find_misnamed(arguments, parameters):
            raise fault
        inner = {one["name"]: arguments.get(one["name"], one.get("default")) for one in parameters}
        graph = process["process_graph"]
        check_shape(graph)
        return self.run(graph, inner, path=f"{path}/")[result_node(graph)]

    def _resolve(
        self, value: Any, values: Mapping[str, Any], scope: Mapping[str, Any], path: str
    ) -> Any:
        if isinstance(value, dict):
            if "from_node" in value:
                return values[value["from_node"]]
            if "from_parameter" in value:
                name = value["from_parameter"]
                if name not in scope:
                    raise GraphError(
                        f"parameter {name!r} has no value: known are {', '.join(scope) or 'none'}",
                        code="ProcessParameterMissing",
                    )
                return scope[name]
            if "process_graph" in value:
                return Callback(self, value["process_graph"], scope, path)
            return {key: self._resolve(inner, values, scope, path) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._resolve(inner, values, scope, path) for inner in value]
        return value


@dataclass(frozen=True)
class Callback:
    """A child graph, called as openeo-processes-dask calls its callbacks; keeps nothing."""

    evaluator: Evaluator
    graph: Graph
    scope: Mapping[str, Any]  # parameters of the graphs around
    path: str

    def __call__(
        self,
        *args: Any,
        positional_parameters: Mapping[str, int] | None = None,
        named_parameters: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Any:
        """Compute the child graph for one set of its parameters."""
        scope = {"context": None, **self.scope, **(named_parameters or {})}
        scope |= {key: value for key, value in others.items() if key not in SPECIAL}
        scope |= {name: args[index] for name, index in (positional_parameters or {}).items()}
        special = {key: value for key, value in others.items() if key in SPECIAL}
        if special.get("context") is not None:
            scope["context"] = special["context"]
        values = self.evaluator.run(self.graph, scope, special=special, path=self.path)
        return values[result_node(self.graph)]

    def only_node(self, process: str, **scope: Any) -> dict[str, Any] | None:
        """Arguments, resolved as far as given, if this is one node of that process, else None."""
        if [node.get("process_id") for node in self.graph.values()] != [process]:
            return None
        (node,) = self.graph.values()
        known = {**self.scope, **scope}
        return {
            name: self.evaluator._resolve(value, {}, known, self.path)  # noqa: SLF001  one module
            for name, value in node.get("arguments", {}).items()
            if all(key in known for key in references(value, "from_parameter"))
        }


def invoke(
    implementation: Callable[..., Any], arguments: dict[str, Any], special: Mapping[str, Any]
) -> Any:
    """Call an implementation with what it takes of the special arguments."""
    accepted = inspect.signature(implementation).parameters
    listed = arguments.get("data")
    if "axis" in accepted and isinstance(listed, list):
        if any(np.ndim(item) and not isinstance(item, list) for item in listed):
            # a list of whole arrays, such as [x, y] of an overlap resolver: reduce over the list
            lib = da if any(isinstance(item, da.Array) for item in listed) else np
            arguments = {**arguments, "data": lib.stack(lib.broadcast_arrays(*listed))}
            special = {"axis": 0}
        elif all(isinstance(item, int | float) for item in listed):
            arguments = {**arguments, "data": np.array(listed)}
    offered = {key: value for key, value in special.items() if key in accepted}
    given = {key: value for key, value in arguments.items() if value is not None or key in accepted}
    return implementation(**(offered | given))


def typed(arguments: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Make bounding boxes where the process' schema takes one; other arguments stay JSON."""
    boxes = {
        parameter["name"]
        for parameter in spec.get("parameters", ())
        if any(schema.get("subtype") == "bounding-box" for schema in schemas_of(parameter))
    }
    return {
        name: BoundingBox.of(value)
        if name in boxes and isinstance(value, dict) and "west" in value
        else value
        for name, value in arguments.items()
    }
