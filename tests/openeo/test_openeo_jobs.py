"""The server without its engine: jobs, results, limits, restarts. Asked by plain HTTP."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
import rioxarray  # noqa: F401  registers .rio
import xarray as xr
from pyproj import Transformer
from support.fake_engine import FAKE, FakeEngine, process
from support.openeo_server import Client, fake_server, fault, is_alive, until

from kappamask.base.errors import InputError, WriteError
from kappamask.openeo.server.app import create_app
from kappamask.openeo.server.faults import STATUS
from kappamask.openeo.server.results import collect_files, write_result
from kappamask.openeo.server.settings import Limits, Settings
from kappamask.openeo.server.store import Store
from kappamask.openeo.server.worker import Task, run_task

pytestmark = pytest.mark.slow

LIMITS = Limits(
    body_bytes=20_000,
    jobs=30,
    processes=2,
    sync_requests=1,
    result_bytes=1000,
    stored_bytes=3000,
    sync_seconds=120,
    job_seconds=120,
    log_entries=20,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("work")
    with fake_server(workdir, limits=LIMITS) as found:
        found.workdir = workdir
        yield found


@pytest.fixture(autouse=True)
def tidy(request):
    """Leave no jobs to the next test: their number is bounded."""
    yield
    if "client" in request.fixturenames:
        client = request.getfixturevalue("client")
        for job in client.ask("get", "/jobs").json()["jobs"]:
            assert client.ask("delete", f"/jobs/{job['id']}").status_code == 204


# --- synchronous ----------------------------------------------------------------------------


def test_a_synchronous_request_answers_with_the_file(client):
    answer = client.compute("add", x=3, y=5.5)
    assert (answer.status_code, answer.text) == (200, "8.5")
    assert answer.headers["Content-Type"] == "application/json"
    assert until(lambda: not list((client.workdir / "sync").iterdir()))


def test_several_files_come_as_one_tar(client):
    answer = client.compute("write", names=["a.tif", "b.tif"])
    assert answer.headers["Content-Type"] == "application/x-tar"
    assert b"a.tif" in answer.content
    assert b"b.tif" in answer.content


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("nothing_like_this", {}, (400, "ProcessUnsupported")),
        ("fail", {"text": "the code of a client is broken"}, (500, "Internal")),
        ("find_nothing", {}, (400, "NoDataAvailable")),
        ("leave", {}, (500, "Internal")),
        ("exit", {}, (500, "Internal")),
        ("die", {}, (500, "Internal")),
        ("write", {"names": ["a.tif"], "size": 2000}, (400, "ResultTooLarge")),
        ("link", {"target": "/etc/hosts"}, (400, "NoDataAvailable")),
    ],
)
def test_what_goes_wrong_is_said_and_the_server_lives_on(client, name, arguments, expected):
    answer = client.compute(name, **arguments)
    assert fault(answer) == expected
    assert arguments.get("text", "") in answer.json()["message"]
    assert client.compute("add", x=1, y=1).text == "2"


def test_what_one_graph_changes_in_its_process_no_other_one_sees(client):
    clean = client.compute("look").json()
    assert client.compute("spoil").json() == ["/", "error", "yes"]
    assert client.compute("look").json() == clean
    assert clean[2] is None


def test_a_process_that_leaves_a_child_behind_is_ended_with_it(client, tmp_path):
    job = client.start("orphan", {"marker": str(tmp_path / "marker")})
    assert client.wait(job) == "error"
    assert "exit code 7" in client.logs(job)[-1]["message"]
    assert until(lambda: not is_alive(int((tmp_path / "marker").read_text())))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc of Linux")
def test_what_client_code_writes_into_the_pipe_is_passed_over(client):
    assert client.compute("babble").json() == "said"


@pytest.mark.parametrize(
    "file",
    [
        {"name": "../../kappamask.sqlite", "type": "application/json", "bytes": 1},
        {"name": "/etc/passwd", "type": "application/json", "bytes": 1},
        {"name": "a.json", "type": "text/html\r\nX: y", "bytes": 1},
        {"name": "a.json", "type": "application/json", "bytes": 1, "bbox": [1, 2]},
        {"name": 5},
        "a.json",
    ],
    ids=str,
)
def test_files_that_client_code_only_tells_of_are_none(client, file):
    answer = client.compute("tell", file=[file])
    assert fault(answer) == (500, "Internal")
    assert "told of files that it did not write" in answer.text
    job = client.start("tell", {"file": [file]})
    assert client.wait(job) == "error"


def test_messages_of_other_jobs_are_passed_over(client):
    job = client.start("add", {"x": 1, "y": 1})
    assert client.wait(job) == "finished"
    assert client.compute("tell", file=[], job=job).json() == "told"


def test_a_relative_work_folder_may_be_left_by_client_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fake_server(Path("work")) as client:
        assert client.compute("spoil").json()[0] == "/"


def test_one_request_too_many_is_told_when_to_come_back(client):
    job = client.start("sleep", {"seconds": 0.1})  # jobs do not take the places of requests
    assert client.wait(job) == "finished"

    def ask():
        body = {"process": process("sleep", seconds=100)}
        # Until it has the place: a short one may hold it at this moment.
        while requests.post(f"{client.url}/result", json=body, timeout=3).status_code == 429:
            time.sleep(0.05)

    def ask_and_leave():
        with pytest.raises(requests.ReadTimeout):
            ask()

    start = time.monotonic()
    thread = threading.Thread(target=ask_and_leave)
    thread.start()
    answers = []
    assert until(lambda: answers.append(client.compute("add", x=1, y=1)) or not answers[-1].ok)
    assert fault(answers[-1]) == (429, "TooManyRequests")
    assert int(answers[-1].headers["Retry-After"]) > 0
    thread.join()
    # The client is gone, so its computation is ended long before its time is over.
    assert until(lambda: client.compute("add", x=1, y=1).ok)
    assert time.monotonic() - start < 90


def test_a_computation_that_takes_too_long_is_ended(tmp_path):
    with fake_server(tmp_path, limits=Limits(sync_seconds=0.5)) as client:
        assert fault(client.compute("sleep", seconds=20)) == (408, "RequestTimeout")


# --- bodies ---------------------------------------------------------------------------------


def test_a_body_has_a_limit_whatever_its_headers_say(client):
    big = json.dumps({"process": process("add", x=1, y=2), "title": "x" * 30_000}).encode()
    headers = {"Content-Type": "application/json"}
    for body in (big, iter([big[:10_000], big[10_000:]])):  # the second in chunks, without length
        answer = requests.post(f"{client.url}/result", data=body, headers=headers, timeout=10)
        assert fault(answer) == (413, "RequestTooLarge")


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"{", "application/json", "RequestInvalid"),
        (b"[]", "application/json", "RequestInvalid"),
        (b'{"process": NaN}', "application/json", "RequestInvalid"),
        (b"[" * 15_000 + b"]" * 15_000, "application/json", "RequestTooLarge"),
        (b"[" * 9000 + b"]" * 9000, "application/json", "RequestInvalid"),
        (b"{}", "text/plain", "ContentTypeInvalid"),
        (b"{}", "application/json", "ProcessGraphMissing"),
        (b'{"process": {}}', "application/json", "ProcessGraphMissing"),
        (b'{"process": {"process_graph": {}}}', "application/json", "ProcessGraphInvalid"),
        (b'{"process": {"process_graph": {"a": 1}}}', "application/json", "ProcessGraphInvalid"),
    ],
)
@pytest.mark.parametrize("path", ["/result", "/jobs"])
def test_a_body_that_is_no_request_is_refused(client, path, body, kind, code):
    answer = requests.post(
        f"{client.url}{path}", data=body, headers={"Content-Type": kind}, timeout=10
    )
    assert fault(answer) == (STATUS.get(code, 400), code)


def test_unknown_places_are_404_and_wrong_methods_405(client):
    assert fault(client.ask("get", "/services")) == (404, "NotFound")
    assert fault(client.ask("patch", "/jobs")) == (405, "MethodNotAllowed")
    assert fault(client.ask("get", "/collections/LANDSAT")) == (404, "CollectionNotFound")
    assert fault(client.ask("get", "/process_graphs/evi")) == (404, "ProcessGraphNotFound")
    assert fault(client.ask("get", "/jobs", params={"limit": 0})) == (400, "RequestInvalid")


@pytest.mark.parametrize("options", [5, "x", [1], [], "", 0, False])
def test_options_of_another_kind_are_refused_and_nothing_is_stored(client, options):
    body = {"process": process("add", x=1, y=1), "job_options": options}
    assert fault(client.ask("post", "/jobs", body)) == (400, "RequestInvalid")
    assert client.ask("get", "/jobs").json()["jobs"] == []


# --- batch jobs -----------------------------------------------------------------------------


def test_a_job_runs_and_its_results_are_stac_with_files(client):
    job = client.start("write", {"names": ["day_2022-06-02.tif", "b.nc"]}, title="two files")
    assert client.wait(job) == "finished"
    described = client.ask("get", f"/jobs/{job}").json()
    assert (described["title"], described["progress"]) == ("two files", 100)
    results = client.ask("get", f"/jobs/{job}/results").json()
    assert (results["type"], results["id"], results["title"]) == ("Collection", job, "two files")
    asset = results["assets"]["day_2022-06-02.tif"]
    assert client.ask("get", asset["href"]).content == b"xxx"
    assert client.ask("get", asset["href"], headers={"Range": "bytes=1-1"}).status_code == 206
    assert client.ask("head", asset["href"]).headers["Accept-Ranges"] == "bytes"
    many = {"Range": "bytes=0-0,1-1"}
    assert fault(client.ask("get", asset["href"], headers=many)) == (416, "RequestInvalid")
    items = [link["href"] for link in results["links"] if link["rel"] == "item"]
    item = client.ask("get", items[0]).json()
    assert (item["type"], item["collection"], item["assets"]) == (
        "Feature",
        job,
        {"day_2022-06-02.tif": asset},
    )


def test_a_job_is_changed_while_it_neither_waits_nor_runs(client):
    job = client.start("write", {"names": ["a.tif"]}, title="one")
    client.wait(job)
    assert client.ask("get", f"/jobs/{job}/estimate").json() == {"costs": 0}
    change = {"title": "two", "description": "more", "log_level": "error"}
    assert client.ask("patch", f"/jobs/{job}", change).status_code == 204
    found = client.ask("get", f"/jobs/{job}").json()
    assert {key: found[key] for key in change} == change
    assert found["status"] == "finished"
    other = {"process": process("write", names=["b.tif"])}
    assert client.ask("patch", f"/jobs/{job}", other).status_code == 204
    assert client.ask("get", f"/jobs/{job}").json()["status"] == "created"
    assert not (client.workdir / "jobs" / job).exists()
    assert (
        client.ask("patch", f"/jobs/{job}", {"process": 5}).json()["code"] == "ProcessGraphMissing"
    )
    client.ask("post", f"/jobs/{job}/results")
    client.wait(job)
    assert list(client.ask("get", f"/jobs/{job}/results").json()["assets"]) == ["b.tif"]
    busy = client.start("sleep", {"seconds": 60})
    client.wait(busy, "running")
    assert fault(client.ask("patch", f"/jobs/{busy}", {"title": "x"})) == (400, "JobLocked")


def test_there_are_no_services_and_no_other_way_to_log_in(client):
    assert client.ask("get", "/service_types").json() == {}
    paths = {one["path"] for one in client.ask("get", "/").json()["endpoints"]}
    assert "/credentials/oidc" not in paths
    assert fault(client.ask("get", "/credentials/oidc")) == (404, "NotFound")


def test_jobs_run_one_at_a_time_in_the_order_of_their_start(client):
    created = [client.create("sleep", {"seconds": 0.2}) for _ in range(3)]
    order = [created[0], created[2], created[1]]
    for job in order:
        client.ask("post", f"/jobs/{job}/results")
    ended = []
    while len(ended) < 3:
        listed = {job["id"]: job["status"] for job in client.ask("get", "/jobs").json()["jobs"]}
        assert list(listed.values()).count("running") <= 1
        ended += [job for job in order if listed[job] == "finished" and job not in ended]
        time.sleep(0.02)
    assert ended == order


def test_a_failed_job_tells_its_error_instead_of_results(client):
    job = client.start("fail", {"text": "the code of a client is broken"}, log_level="debug")
    assert client.wait(job) == "error"
    entries = client.logs(job)
    assert entries[-1]["level"] == "error"
    assert "the code of a client is broken" in entries[-1]["message"]
    assert "Traceback" in entries[-2]["message"]  # at level debug only
    answer = client.ask("get", f"/jobs/{job}/results")
    assert (answer.status_code, answer.json()["code"]) == (424, "Internal")
    assert until(lambda: not (client.workdir / "jobs" / job).exists())


def test_a_job_that_kills_its_process_is_an_error_and_the_next_one_runs(client):
    job, other = client.start("die"), client.start("add", {"x": 1, "y": 2})
    assert client.wait(job) == "error"
    assert "exit code -9" in client.logs(job)[-1]["message"]
    assert client.wait(other) == "finished"


def test_logs_have_levels_pages_and_a_bound_and_no_secrets(client):
    job = client.start("log", {"count": 50})
    assert client.wait(job) == "finished"
    entries = client.logs(job)
    assert len(entries) == LIMITS.log_entries
    assert {entry["level"] for entry in entries} == {"info", "warning"}  # debug was not asked for
    assert entries[-1]["message"].startswith("the log is full")
    page = client.ask("get", f"/jobs/{job}/logs", params={"limit": 5}).json()
    assert page["logs"] == entries[:5]
    following = client.ask("get", page["links"][0]["href"]).json()
    assert following["logs"] == entries[5:10]
    assert client.logs(job, offset=entries[17]["id"]) == entries[18:]
    assert client.logs(job, level="error") == []
    assert client.logs(job, offset="x" * 50) == entries
    short = client.start("log", {"count": 1})
    assert client.wait(short) == "finished"
    said = client.logs(short, level="warning")[0]["message"]
    assert said == "read https://host/B02.tif?sig=*** with Bearer ***"


def test_results_are_there_only_when_a_job_has_finished(client):
    job = client.create("sleep", {"seconds": 100})
    results = f"/jobs/{job}/results"
    assert fault(client.ask("get", results)) == (400, "JobNotStarted")
    client.ask("post", results)
    assert fault(client.ask("get", results)) == (400, "JobNotFinished")
    client.ask("delete", results)
    assert fault(client.ask("get", results)) == (400, "JobNotStarted")


def test_a_running_job_is_canceled_at_once_and_a_queued_one_is_created_again(client):
    running, queued = client.start("sleep", {"seconds": 100}), client.start("add", {"x": 1, "y": 1})
    client.wait(running, "running")
    start = time.monotonic()
    assert client.ask("delete", f"/jobs/{queued}/results").status_code == 204
    assert client.ask("delete", f"/jobs/{running}/results").status_code == 204
    assert time.monotonic() - start < 10
    assert client.wait(running) == "canceled"
    assert client.ask("get", f"/jobs/{queued}").json()["status"] == "created"
    client.ask("post", f"/jobs/{queued}/results")
    assert client.wait(queued) == "finished"


def test_deleting_a_job_takes_its_folder_along(client):
    job = client.start("write", {"names": ["a.tif"]})
    client.wait(job)
    folder = client.workdir / "jobs" / job
    assert folder.is_dir()
    client.ask("delete", f"/jobs/{job}")
    assert not folder.exists()
    assert fault(client.ask("get", f"/jobs/{job}")) == (404, "JobNotFound")


def test_the_number_of_jobs_and_the_size_of_results_are_bounded(client):
    jobs = [client.start("write", {"names": ["a.tif"], "size": 900}) for _ in range(4)]
    assert [client.wait(job) for job in jobs] == ["finished", "finished", "finished", "error"]
    assert client.logs(jobs[3])[-1]["code"] == "ResultTooLarge"
    big = client.start("write", {"names": ["a.tif"], "size": 2000})
    assert client.wait(big) == "error"
    while len(client.ask("get", "/jobs").json()["jobs"]) < LIMITS.jobs:
        client.create("add", {"x": 1, "y": 1})
    answer = client.ask("post", "/jobs", {"process": process("add", x=1, y=1)})
    assert fault(answer) == (400, "StorageQuotaExceeded")
    page = client.ask("get", "/jobs", params={"limit": 20}).json()
    rest = client.ask("get", page["links"][0]["href"]).json()
    assert len({job["id"] for job in page["jobs"] + rest["jobs"]}) == LIMITS.jobs
    (client.workdir / "jobs" / jobs[0] / "more").write_bytes(b"x" * 1000)
    assert fault(client.ask("post", f"/jobs/{jobs[3]}/results")) == (400, "StorageQuotaExceeded")


# --- paths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job",
    [
        "..",
        "../../etc",
        "%2e%2e%2f%2e%2e%2fetc",
        "..%5c..",
        "0c8cbb43-6d5c-1f4a-8e25-d8a4b7c5a3f1",  # version 1
        "0C8CBB43-6D5C-4F4A-8E25-D8A4B7C5A3F1",
        "{0c8cbb43-6d5c-4f4a-8e25-d8a4b7c5a3f1}",
        "0c8cbb43-6d5c-4f4a-8e25-d8a4b7c5a3f1",  # nobody has it
        "' OR 1=1 --",
        "x" * 5000,
    ],
)
def test_only_the_id_of_a_job_opens_a_folder(client, job):
    for method, end in [("get", ""), ("get", "/results"), ("delete", ""), ("post", "/results")]:
        answer = client.ask_raw(method.upper(), f"/jobs/{job}{end}")
        assert answer.status_code in {404, 405}, answer.text
        assert answer.json()["code"] in {"JobNotFound", "NotFound", "MethodNotAllowed"}


@pytest.mark.parametrize(
    "name",
    ["../kappamask.sqlite", "..%2f..%2fkappamask.sqlite", "%2e%2e/kappamask.sqlite", "/etc/passwd",
     "%2fetc%2fpasswd", "a.tif/../../x", "a.tif%00", ".", "", "other.tif"],
)  # fmt: skip
def test_only_files_that_the_job_wrote_can_be_fetched(client, name):
    job = client.start("write", {"names": ["a.tif"]})
    client.wait(job)
    (client.workdir / "jobs" / job / "other.tif").write_text("not a result")
    for what in ("assets", "items"):
        answer = client.ask_raw("GET", f"/jobs/{job}/results/{what}/{name}")
        assert fault(answer) in {(404, "FileNotFound"), (404, "NotFound")}


def test_links_out_of_the_folder_are_not_followed(client, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("secret")
    job = client.start("link", {"target": str(secret)})
    assert client.wait(job) == "finished"
    assert client.ask("get", f"/jobs/{job}/results").json()["assets"] == {}
    later = client.start("write", {"names": ["a.tif"]})
    client.wait(later)
    path = client.workdir / "jobs" / later / "a.tif"
    path.unlink()
    path.symlink_to(secret)
    answer = client.ask("get", f"/jobs/{later}/results/assets/a.tif")
    assert fault(answer) == (404, "FileNotFound")


def test_collect_files_keeps_to_the_folder(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    for path in (inside / "a.json", outside / "b.json"):
        path.write_text("1")
    (inside / "below").symlink_to(outside)
    (inside / "folder").mkdir()
    tried = [
        inside / "a.json",
        Path("a.json"),
        inside / "below" / "b.json",
        inside / ".." / "out" / "b.json",
        outside / "b.json",
        inside / "folder",
        inside / "absent",
    ]
    assert [file["name"] for file in collect_files(tried, inside)] == ["a.json", "a.json"]


DAYS = {
    "": ("2022-06-02T00:00:00Z", "2022-06-02T00:00:00Z"),  # of the name
    "2022-06-03T10:15:59Z": ("2022-06-03T10:15:59Z", "2022-06-03T10:15:59Z"),
    "2022-06-03/2022-06-30": ("2022-06-03T00:00:00Z", "2022-06-30T00:00:00Z"),
}


@pytest.mark.parametrize("tag", DAYS)
def test_rasters_are_described_by_place_and_time(tmp_path, tag):
    path = tmp_path / "x_2022-06-02.tif"
    grid = rasterio.Affine(10, 0, 680_000, 0, -10, 5_150_000)
    form = {"height": 2, "width": 3, "count": 2, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", driver="GTiff", transform=grid, **form) as raster:
        raster.write(np.ones((2, 2, 3), np.uint8))
        raster.update_tags(datetime=tag)
    (file,) = collect_files([path], tmp_path)
    start, end = DAYS[tag]
    west, south, east, north = file.pop("bbox")
    assert file == {"name": path.name, "bytes": path.stat().st_size, "start": start, "end": end,
                    "type": "image/tiff; application=geotiff", "code": "EPSG:32632",
                    "shape": [2, 3], "transform": list(grid)[:6]}  # fmt: skip
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True).transform(
        [west, east], [south, north]
    )
    np.testing.assert_allclose([*x, *y], [680_000, 680_030, 5_149_980, 5_150_000], atol=2)


def test_a_cube_is_described_by_its_dates_and_a_series_has_no_place(tmp_path):
    dates = np.array(["2022-06-05", "2022-06-02"], "M8[ns]")
    cube = xr.DataArray(
        np.ones((2, 2, 3), np.float32),
        dims=("t", "y", "x"),
        coords={"t": dates, "y": [5_149_995, 5_149_985], "x": [680_005, 680_015, 680_025]},
    ).rio.write_crs("EPSG:32632")
    series = cube[:, 0, 0].rename("v")
    series.to_netcdf(tmp_path / "series.nc")
    (path,) = write_result(cube.rename("v"), tmp_path)
    for written, keys in [
        (path, {"bbox", "code", "shape", "transform"}),
        (tmp_path / "series.nc", set()),
    ]:
        (file,) = collect_files([written], tmp_path)
        assert (file["start"], file["end"]) == ("2022-06-02T00:00:00Z", "2022-06-05T00:00:00Z")
        assert set(file) == {"name", "bytes", "type", "start", "end", *keys}
    (tmp_path / "no.tif").write_text("no raster")
    for paths in ([tmp_path / "no.tif"], write_result(series, tmp_path)):  # a table is JSON
        (file,) = collect_files(paths, tmp_path)
        assert set(file) == {"name", "bytes", "type"}
    assert file["type"] == "application/json"


def test_a_task_gives_the_files_that_the_engine_wrote(tmp_path):
    graph = process("add", x=1, y=2)["process_graph"]
    task = Task(graph, {}, FAKE, tmp_path, most_bytes=1, most_seconds=1)
    (file,) = run_task(task, FakeEngine, print)
    assert file == {"name": "result.json", "bytes": 1, "type": "application/json"}


# --- stored processes -----------------------------------------------------------------------


def test_stored_processes_are_used_listed_bounded_and_deleted(client):
    stored = process("add", x={"from_parameter": "a"}, y=10)
    stored["parameters"] = [{"name": "a", "schema": {"type": "number"}, "description": "any"}]
    assert client.ask("put", "/process_graphs/plus_ten", {**stored, "id": "x"}).status_code == 200
    assert client.compute("plus_ten", a=5).text == "15"
    assert client.ask("get", "/process_graphs/plus_ten").json()["id"] == "plus_ten"
    (listed,) = client.ask("get", "/process_graphs").json()["processes"]
    assert listed == {"id": "plus_ten", "parameters": stored["parameters"]}
    refused = client.ask("put", "/process_graphs/add", stored)
    assert fault(refused) == (400, "PredefinedProcessExists")
    assert fault(client.ask("put", "/process_graphs/a-b", stored)) == (400, "ProcessInvalid")
    assert client.ask("put", "/process_graphs/second", stored).status_code == 200
    third = client.ask("put", "/process_graphs/third", stored)
    assert fault(third) == (400, "StorageQuotaExceeded")
    assert client.ask("put", "/process_graphs/second", stored).status_code == 200
    for name in ("plus_ten", "second"):
        assert client.ask("delete", f"/process_graphs/{name}").status_code == 204
    assert fault(client.ask("delete", "/process_graphs/second")) == (404, "ProcessGraphNotFound")


def test_parameters_of_the_graph_itself_take_their_defaults(client):
    graph = process("add", x={"from_parameter": "a"}, y=1)
    graph["parameters"] = [{"name": "a", "default": 41, "schema": {}, "description": ""}]
    assert client.ask("post", "/result", {"process": graph}).text == "42"
    graph["parameters"] = ["a"]
    answer = client.ask("post", "/result", {"process": graph})
    assert fault(answer) == (400, "ProcessInvalid")


# --- restarts -------------------------------------------------------------------------------


def test_jobs_processes_and_results_survive_a_restart(tmp_path):
    marker = str(tmp_path / "marker")
    with fake_server(tmp_path) as client:
        client.ask("put", "/process_graphs/plus_ten", process("add", x=1, y=10))
        finished = client.start("write", {"names": ["a.tif"]})
        client.wait(finished)
        interrupted = client.start("sleep_once", {"seconds": 60, "marker": marker})
        waiting = client.start("add", {"x": 1, "y": 1})
        client.wait(interrupted, "running")
    with fake_server(tmp_path) as client:
        assert client.wait(interrupted) == client.wait(waiting) == "finished"
        assert "the server was stopped" in client.logs(interrupted, level="warning")[0]["message"]
        assert client.ask("get", f"/jobs/{finished}/results/assets/a.tif").content == b"xxx"
        assert client.compute("plus_ten").text == "11"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc of Linux")
def test_a_killed_server_tries_its_job_once_more_and_leaves_no_process(tmp_path):
    marker, log = tmp_path / "marker", tmp_path / "log"
    command = [sys.executable, "-m", "support.openeo_server", str(tmp_path / "work")]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    with log.open("w") as output:
        surroundings = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        server = subprocess.Popen(command, stdout=output, env=surroundings)
        try:
            while "http" not in log.read_text():
                assert server.poll() is None
                time.sleep(0.05)
            client = Client(log.read_text().split()[3])
            job = client.start("sleep_once", {"seconds": 60, "marker": str(marker)})
            while not (marker.exists() and marker.read_text()):
                time.sleep(0.05)
            worker = int(marker.read_text())
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
    assert until(lambda: not is_alive(worker))  # it ends with the server
    with fake_server(tmp_path / "work") as client:
        assert client.wait(job) == "finished"
        said = client.logs(job, level="warning")[0]["message"]
        assert "the server was killed while the job ran: the job is tried once more" in said


def test_a_job_that_ran_when_the_server_was_killed_twice_is_an_error(tmp_path):
    jobs = Store(tmp_path / "kappamask.sqlite", LIMITS)
    job = jobs.add_job(process("add"), title=None, description=None, log_level=None)
    jobs.queue(job.id)
    for expected in ("queued", "error"):
        assert jobs.take_next().id == job.id
        jobs.recover()
        assert jobs.job(job.id).status == expected
    assert jobs.take_next() is None
    assert jobs.logs(job.id)[-1]["level"] == "error"
    jobs.queue(job.id)  # the user may start it again
    assert jobs.take_next().attempts == 1
    jobs.close()


def test_a_work_folder_serves_one_server_at_a_time(tmp_path):
    app = create_app(Settings(FAKE, tmp_path), FakeEngine)
    with pytest.raises(InputError, match=r"one server at a time.*locked"):
        create_app(Settings(FAKE, tmp_path), FakeEngine)
    app.state.backend.store.close()
    (tmp_path / "kappamask.sqlite").write_text("not a database, but long enough to look at" * 9)
    with pytest.raises(InputError, match="not a database"):
        create_app(Settings(FAKE, tmp_path), FakeEngine)
    with pytest.raises(WriteError, match="work folder"):
        create_app(Settings(FAKE, tmp_path / "kappamask.sqlite" / "below"), FakeEngine)


def test_limits_are_positive():
    with pytest.raises(InputError, match="jobs=0"):
        Limits(jobs=0)
