"""`kappamask serve` as users meet it: asked by the ordinary openeo client, computing for real."""

import json
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path

import jsonschema
import numpy as np
import openeo
import pytest
import rasterio
import xarray as xr
from openeo.api.process import Parameter
from openeo.rest import JobFailedException, OpenEoApiError
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7
from support import bolzano
from support.fake_engine import FAKE, FakeEngine
from support.openeo_server import serving

from kappamask.base.legend import Label
from kappamask.cubes.cube import load_cube
from kappamask.openeo.engine.save import FORMATS
from kappamask.openeo.graphs import cloud_free_composite, cloud_labels, cloud_mask
from kappamask.openeo.server.settings import Settings
from kappamask.predict.array import predict_array
from kappamask.predict.cube import predict_cube
from kappamask.sample import SCENES, catalog_path
from kappamask.scenes.search import search

BANDS = ["B02", "B03", "B04", "B08"]
SCENE = next(scene for scene in SCENES if scene.level == "L2A")
JULY = ["2019-07-01", "2019-08-01"]  # four dates of the sample
BROKEN = """
import xarray
from openeo.udf import inspect

def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:
    inspect(message="about to fail", level="warning")
    raise RuntimeError("the sensor is upside down")
"""


def extent(bbox):
    return dict(zip(("west", "south", "east", "north"), bbox, strict=True))


def load(connection, bbox, dates, bands=BANDS):
    return connection.load_collection(
        "SENTINEL2_L2A", spatial_extent=extent(bbox), temporal_extent=dates, bands=bands
    )


def run_udf(cube, udf):
    side = [{"dimension": dim, "value": 768, "unit": "px"} for dim in ("x", "y")]
    margin = [{"dimension": dim, "value": 128, "unit": "px"} for dim in ("x", "y")]
    size = [*side, {"dimension": "t", "value": "P1D"}]
    return cube.apply_neighborhood(udf, size=size, overlap=margin)


def download(cube, path):
    """Compute synchronously; the only variable of the netCDF file."""
    cube.download(path)
    with xr.open_dataset(path, decode_coords="all", mask_and_scale=False) as content:
        return content.set_coords("spatial_ref").to_dataarray("bands").load()


def to_mask(labels):
    return (labels != Label.CLEAR).astype(np.uint8)


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    """The server on the embedded sample."""
    settings = Settings(str(catalog_path()), tmp_path_factory.mktemp("work"), port=0)
    with serving(settings) as url:
        yield openeo.connect(url)


# --- what the client learns -----------------------------------------------------------------


def test_the_client_connects_and_finds_its_way(connection):
    assert connection.capabilities().api_version() == "1.2.0"
    for path, method in [("/validation", "POST"), ("/jobs/{job_id}/logs", "GET"),
                         ("/process_graphs/{process_graph_id}", "PUT"),
                         ("/credentials/basic", "GET")]:  # fmt: skip
        assert connection.capabilities().supports_endpoint(path, method)
    assert set(connection.list_output_formats()) == set(FORMATS)
    runtime = connection.list_udf_runtimes()["Python"]
    assert runtime["versions"][runtime["default"]]["libraries"]["numpy"]["version"]
    assert connection.list_auth_providers()[0]["type"] == "basic"
    connection.authenticate_basic("anybody", "anything")
    assert connection.describe_account()["user_id"] == "local"


def test_it_lists_the_collections_with_the_names_of_sentinel_2(connection):
    assert connection.list_collection_ids() == ["SENTINEL2_L2A", "SENTINEL2_L1C"]
    known = connection.collection_metadata("SENTINEL2_L2A").band_names
    assert {"B02", "B8A", "B11", "SCL"} <= set(known)
    described = connection.describe_collection("SENTINEL2_L1C")
    assert {"stac_version", "description", "license", "extent", "links"} <= set(described)
    links = {link["rel"]: link["href"] for link in described["links"]}
    assert links["self"] == connection.build_url("/collections/SENTINEL2_L1C")


def test_it_lists_the_processes_that_masking_needs(connection):
    listed = {process["id"] for process in connection.list_processes()}
    assert {"load_collection", "run_udf", "apply_neighborhood", "mask", "save_result"} <= listed


def test_validation_tells_all_faults_and_none_of_a_good_graph(connection):
    good = load(connection, SCENE.bbox, JULY).mean_time()
    assert connection.validate_process_graph(good) == []
    bad = {
        "load": {
            "process_id": "load_collection",
            "arguments": {
                "id": "LANDSAT9",
                "spatial_extent": {"from_parameter": "area"},  # whoever uses it gives that
                "temporal_extent": JULY,
            },
        },
        "odd": {
            "process_id": "cloud_away",
            "arguments": {"data": {"from_node": "load"}},
            "result": True,
        },
    }
    faults = connection.validate_process_graph({"process_graph": bad, "parameters": []})
    assert [fault["code"] for fault in faults] == ["CollectionNotFound", "ProcessUnsupported"]


# --- on the embedded sample -----------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_cube():
    """The same four dates, as `load_cube` gives them."""
    items = search(SCENE.bbox, "2019-07", catalog=catalog_path(), level="L2A")
    return load_cube(items, SCENE.bbox, bands=BANDS).load()


@pytest.fixture(scope="module")
def sample_labels(sample_cube):
    return predict_cube(sample_cube).to_numpy()


@pytest.mark.slow
def test_labels_are_those_of_predict_cube_bit_for_bit_on_one_window(
    connection, sample_labels, tmp_path
):
    """Invariant 3; on real scenes of many windows, in the tests of the doors."""
    cube = load(connection, SCENE.bbox, JULY)
    labels = download(cloud_labels(cube), tmp_path / "labels.nc")
    mask = download(cloud_mask(cube), tmp_path / "mask.nc")
    assert len(np.unique(sample_labels)) > 2
    np.testing.assert_array_equal(labels.squeeze("bands", drop=True), sample_labels)
    np.testing.assert_array_equal(mask.squeeze("bands", drop=True), to_mask(sample_labels))


def test_a_masked_index_over_time_is_that_of_numpy(
    connection, sample_cube, sample_labels, tmp_path
):
    """Three steps after the mask: masked, index, the greenest per pixel."""
    cube = load(connection, SCENE.bbox, JULY)
    masked = cube.mask(cloud_mask(load(connection, SCENE.bbox, JULY)))
    masked.ndvi(nir="B08", red="B04").max_time().download(tmp_path / "ndvi.tif")
    with rasterio.open(tmp_path / "ndvi.tif") as raster:
        greenest = raster.read(1)
    dn = np.round(sample_cube.values * 10_000)
    red, nir = (np.where(to_mask(sample_labels), np.nan, dn[:, BANDS.index(b)]) for b in
                ("B04", "B08"))  # fmt: skip
    expected = np.fmax.reduce((nir - red) / (nir + red))
    np.testing.assert_allclose(greenest, expected, rtol=1e-5)


def test_several_dates_as_geotiff_come_as_tar(connection, tmp_path):
    load(connection, SCENE.bbox, JULY, ["B04"]).download(tmp_path / "red.tar", format="GTiff")
    with tarfile.open(tmp_path / "red.tar") as archive:
        assert archive.getnames() == [f"openEO_2019-07-{day}Z.tif" for day in (
            "01", "11", "16", "31")]  # fmt: skip


def test_a_graph_that_saves_nothing_gives_a_file_all_the_same(connection, tmp_path):
    add = {"process_id": "add", "arguments": {"x": 3, "y": 5}, "result": True}
    assert connection.download({"add": add}) == b"8"
    graph = load(connection, SCENE.bbox, JULY, ["B04"]).flat_graph()
    connection.download(graph, tmp_path / "red.nc")
    with xr.open_dataset(tmp_path / "red.nc") as content:
        assert content["B04"].sizes["t"] == 4


@pytest.mark.slow
def test_a_stored_process_equals_the_inlined_graph(connection, tmp_path):
    inlined = cloud_mask(load(connection, SCENE.bbox, JULY))
    graph = inlined.flat_graph()
    (loading,) = (node for node in graph.values() if node["process_id"] == "load_collection")
    parameters = {
        "area": Parameter.bounding_box(name="area"),
        "dates": Parameter.temporal_interval(name="dates"),
    }
    loading["arguments"] |= {
        "spatial_extent": {"from_parameter": "area"},
        "temporal_extent": {"from_parameter": "dates"},
    }
    connection.save_user_defined_process(
        "my_cloud_mask", graph, parameters=list(parameters.values()), summary="Clouds"
    )
    (listed,) = connection.list_user_defined_processes()
    assert (listed["id"], listed["summary"]) == ("my_cloud_mask", "Clouds")
    assert connection.user_defined_process("my_cloud_mask").describe()["process_graph"] == graph
    stored = connection.datacube_from_process("my_cloud_mask", area=extent(SCENE.bbox), dates=JULY)
    assert connection.validate_process_graph(stored) == []
    xr.testing.assert_identical(
        download(stored, tmp_path / "stored.nc"), download(inlined, tmp_path / "inlined.nc")
    )
    connection.user_defined_process("my_cloud_mask").delete()
    assert connection.list_user_defined_processes() == []
    with pytest.raises(OpenEoApiError, match=r"\[400\] ProcessUnsupported: .*my_cloud_mask"):
        stored.download(tmp_path / "gone.nc", validate=False)


@pytest.mark.slow
def test_the_shipped_process_equals_the_inlined_graph(connection, tmp_path):
    shipped = json.loads((Path(__file__).parents[2] / "udf" / "kappamask.json").read_text())
    connection.put(f"/process_graphs/{shipped['id']}", json=shipped, expected_status=200)
    stored = connection.datacube_from_process(
        shipped["id"],
        spatial_extent=extent(SCENE.bbox),
        temporal_extent=JULY,
        mask_bands=BANDS,
        max_cloud_cover=100,
    )
    inlined = cloud_labels(load(connection, SCENE.bbox, JULY))
    xr.testing.assert_identical(
        download(stored, tmp_path / "stored.nc"), download(inlined, tmp_path / "inlined.nc")
    )
    connection.user_defined_process(shipped["id"]).delete()


def schema(kind):
    return {"$ref": f"https://schemas.stacspec.org/v1.1.0/{kind}-spec/json-schema/{kind}.json"}


def check_stac(document, kind):
    registry = Registry().with_resources(
        (name, Resource.from_contents(content, default_specification=DRAFT7))
        for name, content in get_local_schema_cache().items()
    )
    jsonschema.Draft7Validator(schema(kind), registry=registry).validate(document)


@pytest.mark.slow
def test_a_batch_job_has_logs_and_results_as_stac(connection, sample_labels, tmp_path):
    labels = cloud_labels(load(connection, SCENE.bbox, JULY))
    job = labels.create_job(title="July", description="Clouds", out_format="GTiff")
    assert job.status() == "created"
    job.start_and_wait(print=lambda _: None, max_poll_interval=0.3)
    assert (job.describe()["title"], job.describe()["progress"]) == ("July", 100)
    assert job.job_id in [listed["id"] for listed in connection.list_jobs()]
    said = [entry.message for entry in job.logs(level="info")]
    assert any("model kappamask" in text for text in said)  # the UDF's own words
    results = job.get_results()
    document = results.get_metadata()
    check_stac(document, "collection")
    assert document["extent"]["temporal"]["interval"] == [
        ["2019-07-01T00:00:00Z", "2019-07-31T00:00:00Z"]
    ]
    west, south, east, north = document["extent"]["spatial"]["bbox"][0]
    assert west <= SCENE.bbox[0] < SCENE.bbox[2] <= east
    assert south <= SCENE.bbox[1] < SCENE.bbox[3] <= north
    assets = results.get_assets()
    assert [asset.media_type for asset in assets] == ["image/tiff; application=geotiff"] * 4
    for asset, expected in zip(assets, sample_labels, strict=True):
        with rasterio.open(asset.download(tmp_path / asset.key)) as raster:
            np.testing.assert_array_equal(raster.read(1), expected)
            assert raster.crs.to_epsg() == int(asset.metadata["proj:code"].removeprefix("EPSG:"))
    paths = results.download_as_collection(tmp_path / "all", on_download_failure="raise")
    items = [path for path in paths if path.suffix == ".json" and path.parent.name.endswith("tif")]
    assert len(items) == 4
    for link in document["links"]:
        if link["rel"] == "item":
            check_stac(connection.get(link["href"]).json(), "item")
    job.delete()
    with pytest.raises(OpenEoApiError, match=r"\[404\] JobNotFound"):
        job.status()


# --- what the client shows when something is wrong -------------------------------------------


def test_a_bad_graph_is_named_with_its_node(connection, tmp_path):
    cube = load(connection, SCENE.bbox, JULY).process("cloud_away", data=openeo.rest.datacube.THIS)
    with pytest.raises(OpenEoApiError, match=r"\[400\] ProcessUnsupported: node 'cloudaway1'"):
        cube.download(tmp_path / "never.nc", validate=False)
    assert not (tmp_path / "never.nc").exists()


def test_an_unknown_collection_is_named(connection):
    with pytest.raises(OpenEoApiError, match=r"\[404\] CollectionNotFound: .*'LANDSAT9'"):
        connection.load_collection("LANDSAT9")  # the client asks for its metadata
    unseen = connection.load_collection(
        "LANDSAT9", spatial_extent=extent(SCENE.bbox), temporal_extent=JULY, fetch_metadata=False
    )
    with pytest.raises(OpenEoApiError, match=r"\[404\] CollectionNotFound: .*'LANDSAT9'"):
        unseen.download("never.nc", validate=False)


def test_an_empty_search_is_told_as_such(connection):
    cube = load(connection, SCENE.bbox, ["1999-01-01", "1999-02-01"])
    with pytest.raises(OpenEoApiError, match=r"\[400\] NoDataAvailable: .*no L2A item"):
        cube.download("never.nc", validate=False)


def test_a_udf_that_raises_is_quoted(connection, capsys):
    cube = run_udf(load(connection, SCENE.bbox, JULY), openeo.UDF(BROKEN, runtime="Python"))
    with pytest.raises(OpenEoApiError, match=r"RuntimeError: the sensor is upside down"):
        cube.download("never.nc", validate=False)
    job = cube.create_job(out_format="netCDF")
    with pytest.raises(JobFailedException):
        job.start_and_wait(max_poll_interval=0.3)
    assert "the sensor is upside down" in capsys.readouterr().out
    levels = {entry.level: entry.message for entry in job.logs()}
    assert levels["warning"] == "about to fail"
    with pytest.raises(OpenEoApiError, match=r"\[424\].*upside down"):
        job.get_results().get_metadata()


# --- with a token ---------------------------------------------------------------------------


def test_the_client_logs_in_and_works(tmp_path):
    token = "token-of-sixteen-characters"  # noqa: S105
    with serving(Settings(FAKE, tmp_path, port=0, token=token), FakeEngine) as url:
        connection = openeo.connect(url)
        with pytest.raises(OpenEoApiError, match=r"\[401\] AuthenticationRequired"):
            connection.list_jobs()
        with pytest.raises(OpenEoApiError, match=r"\[403\] CredentialsInvalid"):
            connection.authenticate_basic("me", "a guess")
        connection.authenticate_basic("me", token)
        graph = {"w": {"process_id": "write", "arguments": {"names": ["a.tif"]}, "result": True}}
        job = connection.create_job(graph)
        job.start_and_wait(print=lambda _: None, max_poll_interval=0.2)
        path = job.get_results().get_asset().download(tmp_path / "a.tif")
        assert path.read_bytes() == b"xxx"


# --- the command ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_serves_until_interrupted(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "kappamask.cli", "serve", "--port", "0"]
    command += ["--catalog", str(catalog_path()), "--workdir", str(tmp_path / "work")]
    with (
        (tmp_path / "said").open("w") as output,
        subprocess.Popen([*command], stdout=output, stderr=output) as server,
    ):
        for _ in range(600):
            said = (tmp_path / "said").read_text()
            if "http" in said or server.poll() is not None:
                break
            time.sleep(0.1)
        url = said.split()[3]
        assert openeo.connect(url).list_collection_ids() == ["SENTINEL2_L2A", "SENTINEL2_L1C"]
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
    assert (tmp_path / "work" / "kappamask.sqlite").exists()
    assert "Traceback" not in (tmp_path / "said").read_text()


# --- on Bolzano -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.shared
def test_bolzano_masked_monthly_median(tmp_path, shared_data):
    """What rasterio reads, masked by `predict_array`, composed by numpy."""
    catalog = bolzano.write_catalog(tmp_path / "stac", shared_data / "bolzano")
    with serving(Settings(str(catalog), tmp_path / "work", port=0)) as url:
        connection = openeo.connect(url)
        cloud_free_composite(
            connection,
            bolzano.BBOX,
            "2022-06-01/2022-06-12",
            period="month",
            bands=BANDS,
            mask_bands=BANDS,
            refine=False,
        ).download(tmp_path / "june.tif", format="GTiff")
    with rasterio.open(tmp_path / "june.tif") as raster:
        got, bounds = raster.read(), raster.bounds
    origin = round(-bounds[3] / 10), round(bounds[0] / 10)
    seen = []
    for day in (2, 5, 7, 10, 12):
        layers = []
        for band in BANDS:
            path = shared_data / f"bolzano/S2_L2A_202206{day:02d}" / f"{band}.tif"
            with rasterio.open(path) as raster:
                window = raster.window(*bounds)
                layers.append(raster.read(1, window=window, boundless=True, fill_value=0))
        stored = np.stack(layers).astype(np.float32)
        dn = np.where(stored == 0, np.nan, stored - 1000)
        labels = predict_array(dn * np.float32(1e-4), BANDS, level="L2A", origin=origin)
        seen.append(np.where(to_mask(labels), np.nan, dn))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        expected = np.nanmedian(seen, axis=0)
    assert np.isclose(got, expected, rtol=1e-6, equal_nan=True).all(axis=0).mean() >= 0.998
