"""Addresses that graphs name, and signatures in those of pixels."""

import json
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from support import bolzano, file_server, stac_server, synthetic
from support.fake_engine import FAKE, SIGNATURE
from support.openeo_server import files_with

from kappamask.base import retry
from kappamask.base.errors import InputError, ReadError
from kappamask.cli.mask import mask_and_tell
from kappamask.openeo.engine.flat_graph import GraphError
from kappamask.openeo.engine.gateway import (
    RefusedError,
    check_url,
    is_public,
    open_gateway,
    through_gateway,
)
from kappamask.openeo.engine.load import read_area
from kappamask.openeo.engine.spatial import aggregate_spatial
from kappamask.openeo.local import LocalEngine
from kappamask.openeo.server.app import create_app
from kappamask.openeo.server.settings import Settings
from kappamask.scenes.search import search

DATES = ["2022-06-01", "2022-08-01"]


# --- addresses that graphs name --------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture
def inner():
    """A server that nobody outside should reach; it remembers who asked."""
    with file_server.serve(file_server.Files()) as files:
        yield files


@pytest.fixture
def outer(scene, tmp_path):
    """The scene as a static catalogue with its pixels, on a host called localhost."""
    with file_server.serve(file_server.Files()) as files:
        files.url = files.url.replace("127.0.0.1", "localhost")
        scenes = scene.catalog.parents[1] / "scenes"
        bolzano.write_catalog(tmp_path / "catalog", scenes, href=lambda path: (
            f"{files.url}/scenes/{path.relative_to(scenes).as_posix()}"))  # fmt: skip
        for root in (tmp_path / "catalog", scenes):
            for path in filter(Path.is_file, root.rglob("*")):
                name = "catalog" if root != scenes else "scenes"
                files.content[f"/{name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
        yield files


def graph(url, scene):
    arguments = {
        "url": url,
        "spatial_extent": scene.extent,
        "temporal_extent": DATES,
        "bands": ["B02"],
    }
    return {"load": {"process_id": "load_stac", "arguments": arguments, "result": True}}


def confined(*hosts):
    return LocalEngine(catalog="https://nowhere.example", load_stac_hosts=hosts)


def point_items_to(files, href):
    """Let every asset of the catalogue name something else."""
    for path, content in files.content.items():
        if path.endswith("_L2A.json"):
            item = json.loads(content)
            for asset in item["assets"].values():
                asset["href"] = href
            files.content[path] = json.dumps(item).encode()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "0", "2130706433", "0x7f.1", "[::1]",  # noqa: S104
     "[::ffff:127.0.0.1]", "[fe80::1]", "10.0.0.7", "172.16.0.1", "192.168.1.1", "100.100.100.200",
     "169.254.169.254", "[fd00:ec2::254]", "user@127.0.0.1", "8.8.8.8@127.0.0.1"],
)  # fmt: skip
def test_a_graph_cannot_name_an_address_that_is_not_public(scene, inner, host):
    url = f"http://{host}:{urlsplit(inner.url).port}/catalog.json"
    with pytest.raises(GraphError, match="public addresses only") as caught:
        confined().run(graph(url, scene))
    assert caught.value.code == "PermissionsInsufficient"
    assert inner.asked == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "/etc/passwd", "/vsicurl/http://127.0.0.1/x", "ftp://8.8.8.8/x",
            "s3://bucket/catalog.json", "http:///x", "http://[::1", "https://"],
)  # fmt: skip
def test_a_graph_names_http_addresses_only(scene, url):
    with pytest.raises(GraphError, match=r"http|another kind"):
        confined().run(graph(url, scene))
    with pytest.raises(RefusedError, match=r"http\(s\) addresses only"):
        check_url(url, frozenset())


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:9"])
def test_what_is_allowed_by_name_is_read(scene, outer, monkeypatch, proxy):
    """Whatever proxies the environment names: the gateway connects by itself."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY") if proxy else ():
        monkeypatch.setenv(name, proxy)
    cube = confined("localhost").run(graph(f"{outer.url}/catalog/catalog.json", scene))
    np.testing.assert_array_equal(cube.isel(bands=0), scene.dn[:, 0] + 1000)


@pytest.mark.parametrize(
    "href",
    ["file:///etc/hostname", "/vsicurl/{inner}/B02.tif", "{inner}/B02.tif",
     "http://169.254.169.254/latest/meta-data", "s3://bucket/B02.tif",
     "vrt://{inner}/B02.tif", "zip+{inner}/x.zip!B02.tif"],
)  # fmt: skip
def test_items_cannot_name_what_a_graph_cannot(scene, outer, inner, href):
    point_items_to(outer, href.format(inner=inner.url))
    with pytest.raises(GraphError, match="load_stac") as caught:
        confined("localhost").run(graph(f"{outer.url}/catalog/catalog.json", scene))
    assert caught.value.code == "PermissionsInsufficient"
    assert inner.asked == []


@pytest.mark.parametrize("href", ["/etc/hostname", "B02.tif", "<VRTDataset/>", "NETCDF:x:y"])
def test_items_of_a_search_cannot_name_local_files(scene, href):
    """Their hrefs stay as they are; those of static catalogues become addresses."""
    (path,) = (scene.catalog.parents[1] / "scenes").glob("*0602")
    items = [bolzano.make_item(path, href=lambda _: href)]
    with (
        stac_server.serve(stac_server.Api(items=items)) as api,
        pytest.raises(GraphError, match=r"http\(s\) addresses only"),
    ):
        confined("127.0.0.1").run(graph(api.url, scene))


def test_redirects_of_a_catalogue_meet_the_same_check(scene, outer, inner):
    outer.moved["/catalog/catalog.json"] = f"{inner.url}/catalog.json"
    with pytest.raises(GraphError, match="load_stac"):
        confined("localhost").run(graph(f"{outer.url}/catalog/catalog.json", scene))
    assert outer.asked == ["/catalog/catalog.json"]
    assert inner.asked == []


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*"])
def test_redirects_of_pixels_meet_the_same_check(scene, outer, inner, monkeypatch, no_proxy):
    """NO_PROXY, which libcurl obeys and GDAL cannot overrule, opens no way and stays as it is."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, no_proxy)
    before = dict(os.environ)
    for path in list(outer.content):
        if path.endswith(".tif"):
            outer.moved[path] = f"{inner.url}{path}"
            inner.content[path] = outer.content.pop(path)
    cube = confined("localhost").run(graph(f"{outer.url}/catalog/catalog.json", scene))
    with pytest.raises(ReadError, match="cannot read"):
        cube.compute(scheduler="synchronous")
    assert any(path.endswith(".tif") for path in outer.asked)
    assert inner.asked == []
    assert dict(os.environ) == before


def test_a_name_that_changes_its_address_meets_the_same_check(inner, monkeypatch):
    """DNS rebinding: public when it is checked, loopback when it is connected to."""
    port = urlsplit(inner.url).port
    told = [("93.184.216.34", port), ("127.0.0.1", port)]
    real = socket.getaddrinfo

    def look_up(host, *arguments, **options):
        if host != "rebinding.example":
            return real(host, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", told.pop(0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = f"http://rebinding.example:{port}/secret"
    answer = requests.get(through_gateway(url, frozenset()), timeout=10)
    assert answer.status_code == 403
    assert "public addresses only" in answer.text
    assert told == []
    assert inner.asked == []


def test_the_gateway_passes_ranges_and_answers_on(outer):
    """And redirects of an allowed host to itself."""
    outer.content["/a b.tif"] = bytes(range(200))
    outer.moved["/old.tif"] = f"{outer.url}/a%20b.tif"
    outer.content["/a%20b.tif"] = outer.content["/a b.tif"]

    def ask(path, **options):
        url = through_gateway(f"{outer.url}{path}", frozenset({"localhost"}))
        return requests.get(url, timeout=10, **options)

    answer = ask("/old.tif?sig=a%2Fb", headers={"Range": "bytes=7-9"})
    assert (answer.status_code, answer.content) == (206, bytes([7, 8, 9]))
    assert answer.headers["Content-Range"] == "bytes 7-9/200"
    assert outer.asked == ["/old.tif?sig=a%2Fb", "/a%20b.tif"]
    assert ask("/none.tif").status_code == 404
    outer.moved["/round.tif"] = f"{outer.url}/round.tif"
    assert ask("/round.tif").status_code == 502


def test_an_answer_that_breaks_off_is_not_passed_on_as_a_whole(cut_short):
    url = through_gateway(f"{cut_short}/x.tif", frozenset({"127.0.0.1"}))
    with pytest.raises(requests.RequestException):
        requests.get(url, timeout=10)


@pytest.fixture(
    params=["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def cut_short(request):
    """A server whose answer ends before it should."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(f"HTTP/1.1 200 OK\r\n{request.param}".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_the_gateway_serves_those_only_who_know_its_secret(inner):
    gateway = urlsplit(open_gateway(frozenset({"127.0.0.1"})))
    secret, there = gateway.path, urlsplit(inner.url).netloc
    for path in (f"/http/{there}/x", f"{secret}x/http/{there}/x", f"{secret}/file/{there}/x",
                 f"{secret}/ftp/{there}/x", f"{secret}", "/"):  # fmt: skip
        assert requests.get(f"http://{gateway.netloc}{path}", timeout=10).status_code == 404
    for line in (f"CONNECT {there} HTTP/1.1", f"POST {secret}/http/{there}/x HTTP/1.1",
                 f"GET {inner.url}/x HTTP/1.1", "nonsense"):  # fmt: skip
        with socket.create_connection((gateway.hostname, gateway.port), timeout=10) as asking:
            asking.sendall(f"{line}\r\n\r\n".encode())
            assert b"200" not in asking.recv(1000)
    assert inner.asked == []


def test_a_remote_file_of_pixels_names_no_other_file(scene, outer, monkeypatch):
    """VRT may name files of this machine; GDAL looks at the content, not at the name."""
    monkeypatch.setattr(retry, "FILES", replace(retry.FILES, wait_s=0.01))
    (path,) = (scene.catalog.parents[1] / "scenes").glob("*0602/B02.tif")
    vrt = f"""<VRTDataset rasterXSize="130" rasterYSize="150"><SRS>EPSG:32632</SRS>
      <GeoTransform>680000, 10, 0, 5150000, 0, -10</GeoTransform>
      <VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
      <SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
      </VRTRasterBand></VRTDataset>"""
    for name in outer.content:
        if name.endswith(".tif"):
            outer.content[name] = vrt.encode()
    for engine in (confined("localhost"), LocalEngine(catalog="https://nowhere.example")):
        cube = engine.run(graph(f"{outer.url}/catalog/catalog.json", scene))
        with pytest.raises(ReadError, match="not recognized as being in a supported file format"):
            cube.compute(scheduler="synchronous")


def test_errors_name_the_file_and_not_the_gateway_that_gives_it(scene, outer):
    outer.content = {name: held for name, held in outer.content.items() if name[-4:] != ".tif"}
    cube = confined("localhost").run(graph(f"{outer.url}/catalog/catalog.json", scene))
    with pytest.raises(ReadError) as refused:
        cube.compute(scheduler="synchronous")
    assert f"{outer.url}/scenes/" in str(refused.value)
    secret = urlsplit(open_gateway(frozenset({"localhost"}))).path.strip("/")
    assert "gateway-" in secret
    assert secret not in str(refused.value)


def test_the_server_confines_by_default_and_opens_as_told(scene, outer, tmp_path):
    url = f"{outer.url}/catalog/catalog.json"
    for hosts, is_read in [((), False), (("Localhost",), True), (("*",), True)]:
        settings = Settings(str(scene.catalog), tmp_path / "work", load_stac_hosts=hosts)
        backend = create_app(settings).state.backend
        try:
            if is_read:
                backend.engine().run(graph(url, scene))
                continue
            with pytest.raises(GraphError, match="--allow-load-stac localhost"):
                backend.engine().run(graph(url, scene))
        finally:
            backend.store.close()


@pytest.mark.parametrize("host", ["", "http://host", "host/path", "me@host"])
def test_allowed_hosts_are_names(tmp_path, host):
    with pytest.raises(InputError, match="--allow-load-stac"):
        Settings(FAKE, tmp_path, load_stac_hosts=(host,))


def test_no_other_argument_of_a_graph_opens_a_file(scene, tmp_path):
    """openeo-processes-dask opens addresses, also file:, that it finds in `geometries`."""
    secret = tmp_path / "area.geojson"
    secret.write_text(json.dumps({"type": "Polygon", "coordinates": []}))
    engine = LocalEngine(catalog=str(scene.catalog))
    load = {
        "process_id": "load_collection",
        "arguments": {
            "id": "SENTINEL2_L2A",
            "spatial_extent": scene.extent,
            "temporal_extent": DATES,
        },
    }
    values = {"data": {"from_parameter": "data"}}
    mean = {"process_graph": {"mean": {"process_id": "mean", "arguments": values, "result": True}}}
    arguments = {"data": {"from_node": "load"}, "reducer": mean, "geometries": secret.as_uri()}
    aggregate = {"process_id": "aggregate_spatial", "arguments": arguments, "result": True}
    with pytest.raises(GraphError, match=r"GeoJSON|geometries"):
        engine.run({"load": load, "aggregate": aggregate})
    load["arguments"]["spatial_extent"] = str(secret)
    with pytest.raises(GraphError, match="spatial_extent"):
        engine.run({"load": {**load, "result": True}})
    # Values of parameters pass no schema.
    with pytest.raises(GraphError, match="GeoJSON in the graph itself"):
        aggregate_spatial(None, secret.as_uri(), reducer=None)
    with pytest.raises(GraphError, match="bounding box or GeoJSON"):
        read_area(str(secret))


def test_addresses_of_wrapped_ipv4_are_those_of_ipv4():
    wrapped = ["::ffff:8.8.8.8", "2002:808:808::", "64:ff9b::808:808"]
    assert all(map(is_public, wrapped))
    wrapped = ["::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "::127.0.0.1", "224.0.0.1",
               "255.255.255.255", "ff02::1"]  # fmt: skip
    assert not any(map(is_public, wrapped))


# --- secrets ---------------------------------------------------------------------------------


def test_signatures_of_pixels_reach_neither_masks_nor_items_nor_errors(
    scene, outer, tmp_path, capsys
):
    scenes = scene.catalog.parents[1] / "scenes"
    catalog = bolzano.write_catalog(tmp_path / "signed", scenes, href=lambda path: (
        f"{outer.url}/scenes/{path.relative_to(scenes).as_posix()}?sig={SIGNATURE}"))  # fmt: skip
    outer.content = {name: held for name, held in outer.content.items() if "20220705" not in name}
    items = search(scene.bbox, "2022-06-01/2022-07-30", catalog=catalog)
    settings = {"pictures": False, "retries": 1, "retry_wait": 0.02}
    code = mask_and_tell(items, scene.bbox, tmp_path / "out", **settings)
    said = "".join(capsys.readouterr())
    assert any(SIGNATURE in path for path in outer.asked)
    assert code == 1  # one date cannot be read
    assert "20220705" in said
    assert SIGNATURE not in said
    assert list((tmp_path / "out").glob("*.tif"))
    assert files_with(tmp_path / "out", SIGNATURE) == []
