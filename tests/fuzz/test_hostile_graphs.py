"""Process graphs of any kind: the engine and the server answer or refuse, never with a 500."""

import json
import math
import warnings

import pytest
import requests
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from support import file_server
from support.openeo_server import serving

from fuzz.budget import PATIENCE, cases, time_limit
from fuzz.graphs import TARGETS, any_graphs, changed_graphs, cube, node, odd_graphs, one, sums
from fuzz.mutate import nested
from kappamask.base.errors import KappaMaskError
from kappamask.openeo.engine.flat_graph import order
from kappamask.openeo.local import LocalEngine
from kappamask.openeo.server.faults import of_exception
from kappamask.openeo.server.results import collect_files, write_result
from kappamask.openeo.server.settings import Limits, Settings
from kappamask.sample import catalog_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def engine(folder):
    return LocalEngine(catalog=catalog_path(), folder=folder)


def check_faults(faults):
    for fault in faults:
        assert isinstance(fault["code"], str)
        assert isinstance(fault["message"], str)
        assert fault["message"]


def snapshot(graph):
    """The graph as text, to see whether it is left alone."""
    try:
        return json.dumps(graph)
    except RecursionError:
        return None


def check_run(engine, graph):
    """Validate and run a graph; what is refused before must not run."""
    faults = engine.validate(graph, parameters={"data": cube()})
    check_faults(faults)
    before = snapshot(graph)
    try:
        with warnings.catch_warnings(action="ignore"):  # what libraries say of odd numbers
            result = engine.run(graph, parameters={"data": cube()})
    except KappaMaskError as error:
        told = of_exception(error)
        assert told.status < 500, told
        return None
    assert not faults
    assert snapshot(graph) == before
    return result


@given(made=sums())
@cases("graphs", ci=30, share=0.2)
def test_arithmetic_gives_what_python_gives(engine, made):
    graph, value = made
    result = check_run(engine, graph)
    if value is not None:
        assert math.isclose(float(result), value, rel_tol=1e-9, abs_tol=1e-9)


@given(graph=changed_graphs())
@cases("graphs", ci=30, share=0.3)
def test_a_changed_graph_is_refused_or_runs(engine, folder, graph):
    result = check_run(engine, graph.document)
    runs_code = "run_udf" in json.dumps(graph.document)  # the network, slow
    if isinstance(result, xr.DataArray) and result.size < 10**5 and not runs_code:
        try:
            with warnings.catch_warnings(action="ignore"):
                files = write_result(result, folder)
                collect_files(files, folder)
        except Exception as error:  # noqa: BLE001  as the worker does
            assert of_exception(error).status < 500, error  # noqa: PT017


@given(graph=odd_graphs() | any_graphs)
@cases("graphs", ci=20, share=0.2)
def test_a_graph_of_any_form_is_refused_or_runs(engine, graph):
    check_run(engine, graph)


# --- the server ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    limits = Limits(jobs=10**6, queued=10**6, processes=10**6)
    settings = Settings(str(catalog_path()), tmp_path_factory.mktemp("work"), port=0, limits=limits)
    with serving(settings) as url, requests.Session() as session:

        def send(method, path, **content):
            return session.request(method, url + path, timeout=PATIENCE, **content)

        yield send


def ask(client, method, path, body):
    """Send any body; the answer is a success, or an error as the API words it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    answer = client(method, path, data=content, headers=headers)
    assert answer.status_code < 500, (path, answer.text)
    if answer.status_code >= 400:
        assert isinstance(answer.json()["code"], str)
        assert answer.json()["message"]
    return answer


BODIES = st.one_of(
    changed_graphs().map(lambda graph: {"process_graph": graph.document}),
    any_graphs.map(lambda graph: {"process_graph": graph}),
    odd_graphs().map(lambda graph: {"process_graph": graph}),
    any_graphs,
)


@st.composite
def bodies(draw):
    """Bodies of requests: JSON in most cases."""
    body = draw(BODIES)
    if isinstance(body, dict) and draw(st.booleans()):
        body = body | {
            "parameters": draw(
                st.sampled_from(
                    TARGETS["parameters"]
                    + [[{"name": "data", "schema": one}] for one in TARGETS["schema"]]
                )
            ),
            "title": draw(st.sampled_from(["x", None, 5, "\ud800", [], "\x00"])),
            "description": draw(st.sampled_from(["x", None, {"a": "\udfff"}])),
        }
    text = json.dumps(body)
    how = draw(st.sampled_from(["no"] * 9 + ["cut", "bytes", "1e999", "deep", "twice"]))
    if how == "cut":
        text = text[: draw(st.integers(0, len(text)))]
    elif how == "1e999":
        text = text.replace(": 1", ": 1e999")
    elif how == "deep":
        text = '{"process_graph":' + "[" * 100_000
    elif how == "twice":
        text += text
    return draw(st.binary(max_size=60)) if how == "bytes" else text.encode()


@given(body=bodies(), name=st.sampled_from(["mine", "add", "x.y", "a" * 300, "%00", "ä"]))
@cases("graphs", ci=20, share=0.3)
def test_the_server_answers_or_refuses(client, body, name):
    answer = ask(client, "POST", "/validation", body)
    if answer.status_code == 200:
        check_faults(answer.json()["errors"])
    if ask(client, "PUT", f"/process_graphs/{name}", body).status_code == 200:
        stored = ask(client, "GET", f"/process_graphs/{name}", b"").json()
        assert stored["process_graph"] == json.loads(body)["process_graph"]
        ask(client, "GET", "/process_graphs", b"")
        for arguments in ({"data": 5}, {"data": "a" * 28 + "!"}, {}):
            using = {"process_graph": one(name, **arguments)}
            check_faults(
                ask(client, "POST", "/validation", json.dumps(using).encode()).json()["errors"]
            )
        ask(client, "DELETE", f"/process_graphs/{name}", b"")
    job = b'{"process":' + body + b', "title": "\\ud800", "job_options": 5}'
    made = ask(client, "POST", "/jobs", job)
    if made.status_code == 201:
        identifier = made.headers["OpenEO-Identifier"]
        ask(client, "GET", f"/jobs/{identifier}", b"")
        ask(client, "GET", "/jobs", b"")
        ask(client, "DELETE", f"/jobs/{identifier}", b"")


# --- found here: each was a 500, a fetched address, a hang, or another kind of exception ------

DATA = {"data": {"from_parameter": "data"}}
BAD_PARTS = {
    "a reference that is no name": one("add", x={"from_node": []}, y=1),  # TypeError
    "a parameter that is no name": one("add", x={"from_parameter": {}}, y=1),
    "a namespace that is no name": {"one": node("add", x=1, y=1, result=True) | {"namespace": []}},
    "a child in a list": one("array_apply", data=[{"process_graph": 5}], process=5),
    "depth": one("array_element", data=nested(1500), index=0),  # RecursionError
}


@pytest.mark.parametrize("graph", BAD_PARTS.values(), ids=BAD_PARTS)
def test_parts_of_another_kind_are_faults(engine, graph):
    assert engine.validate(graph)
    with pytest.raises(KappaMaskError):
        engine.run(graph)


def test_a_wide_graph_is_ordered_in_no_time():
    graph = {f"n{number}": node("add", x=1, y=1) for number in range(100_000)}
    with time_limit(20):  # looked through a list for every node: minutes
        assert len(order(graph, *graph)) == 100_000


SCHEMAS = [
    5, {"type": "banana"}, {"type": ["number", 5]}, {"pattern": "("}, {"minimum": "x"},  # a 500
    {"$ref": "#/nothing"}, {"enum": 5}, {"parameters": [5]}, {"properties": 5},
    {"pattern": "(a+)+$"},  # years for 28 letters and a mark
]  # fmt: skip


def engine_with(schema):
    """An engine with a process of a user, `own`, whose one parameter has a schema."""
    own = {"parameters": [{"name": "x", "schema": schema}], "process_graph": one("add", x=1, y=1)}
    return LocalEngine(catalog=catalog_path(), udps={"own": own})


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_schemas_of_users_do_no_harm(schema):
    with time_limit(20):
        check_faults(engine_with(schema).validate(one("own", x="a" * 28 + "!")))


def test_a_schema_of_a_user_is_not_fetched():
    with file_server.serve(file_server.Files()) as files:
        engine = engine_with({"$ref": f"{files.url}/schema.json"})
        assert engine.validate(one("own", x=1)) == []
    assert not files.asked  # it was


@pytest.mark.parametrize(
    ("process", "arguments"),
    [
        ("array_element", {"data": [1, 2], "index": 5}),
        ("filter_bbox", DATA | {"extent": {"west": 1}}),
        ("rename_labels", DATA | {"dimension": "t", "target": []}),
    ],
)
def test_arguments_that_a_process_cannot_work_with_are_no_fault_of_the_server(
    engine, process, arguments
):
    with pytest.raises(KappaMaskError) as caught:  # KeyError and others: were a 500
        engine.run(one(process, **arguments), parameters={"data": cube()})
    assert of_exception(caught.value).status < 500


@pytest.mark.parametrize("label", [-1, {"a": 1}, [1]])
def test_a_label_that_no_file_can_hold_is_named(engine, folder, label):
    renamed = one("rename_labels", **DATA, dimension="bands", target=[label, "b", "c", "d"])
    with pytest.raises(KappaMaskError):  # TypeError, RuntimeError: were a 500
        write_result(engine.run(renamed, parameters={"data": cube()}), folder)


BODIES_REFUSED = [
    # half a character, which could be neither stored nor answered
    b'{"process":{"process_graph":{"a":{"process_id":"add","arguments":{}}}},"title":"\\ud800"}',
    # a number that JSON has no word for
    b'{"process":{"process_graph":{"a":{"process_id":"add","arguments":{"x":1e999}}}}}',
]


@pytest.mark.parametrize("body", BODIES_REFUSED)
def test_what_json_cannot_say_back_is_refused(client, body):
    assert ask(client, "POST", "/jobs", body).status_code == 400
