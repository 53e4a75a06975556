"""Graphs for the ordinary client, and the user-defined processes made of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openeo
import pytest
from jsonschema import Draft202012Validator
from openeo.api.process import Parameter
from openeo.metadata import Band, BandDimension, CubeMetadata, SpatialDimension, TemporalDimension
from scipy import ndimage

from kappamask.base.errors import InputError, UnknownNameError
from kappamask.openeo import graphs
from kappamask.openeo.graphs import (
    DEFAULT_JOB_OPTIONS,
    cloud_free_composite,
    cloud_labels,
    cloud_mask,
    cloud_probabilities,
    job_options,
    snow,
    threshold_mask,
    udf_code,
)

ROOT = Path(__file__).resolve().parents[2]
GENERATE = ROOT / "udf" / "generate.py"
VALIDATOR = ROOT / "tests" / "support" / "processgraphs"
EXTENT = {"west": 11.3, "south": 46.4, "east": 11.4, "north": 46.5}
DATES = ["2022-06-01", "2022-07-01"]
MASK_BANDS = ["B02", "B03", "B04", "B08"]


def load(bands=MASK_BANDS):
    return openeo.DataCube.load_collection("SENTINEL2_L2A", None, EXTENT, DATES, bands)


def by_process(cube):
    """Nodes of a flat graph by process id, in order."""
    nodes = {}
    for node in cube.flat_graph().values():
        nodes.setdefault(node["process_id"], []).append(node["arguments"])
    return nodes


def udf_node(cube):
    (arguments,) = by_process(cube)["apply_neighborhood"]
    (node,) = arguments["process"]["process_graph"].values()
    return arguments, node


# --- what is sent ----------------------------------------------------------------------------


def test_the_udf_is_inlined_whole_for_the_runtime_that_back_ends_have():
    _, node = udf_node(cloud_labels(load()))
    assert node["process_id"] == "run_udf"
    assert node["arguments"]["udf"] == (ROOT / "udf" / "kappamask_udf.py").read_text()
    assert node["arguments"]["runtime"] == "Python"
    assert node["arguments"]["context"] == {"from_parameter": "context"}


def test_windows_are_768_px_with_128_px_overlap_one_date_each():
    arguments, _ = udf_node(cloud_labels(load()))
    sizes = {size["dimension"]: (size["value"], size.get("unit")) for size in arguments["size"]}
    overlaps = {size["dimension"]: (size["value"], size["unit"]) for size in arguments["overlap"]}
    assert sizes == {"x": (768, "px"), "y": (768, "px"), "t": ("P1D", None)}
    assert overlaps == {"x": (128, "px"), "y": (128, "px")}


def test_the_context_says_what_the_values_mean():
    usual = {"level": "L2A", "scale": 10000, "offset": 0, "model": "default"}
    told = {"offset": -1000, "level": "L1C", "buffer_px": 4}
    for cube, expected in (
        (cloud_labels(load()), usual | {"output": "labels"}),
        (cloud_mask(load(), **told), usual | told | {"output": "mask"}),
        (cloud_probabilities(load()), usual | {"output": "probabilities"}),
        (snow(load()), usual | {"output": "snow"}),
    ):
        arguments, _ = udf_node(cube)
        assert arguments["context"] == expected


def test_parameters_stand_for_values_of_the_context():
    arguments, _ = udf_node(cloud_labels(load(), model=Parameter.string("model", "m")))
    assert arguments["context"]["model"] == {"from_parameter": "model"}


def test_an_option_that_the_udf_does_not_know_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown option 'buffer'.*buffer_px"):
        cloud_mask(load(), buffer=3)


def test_a_graph_fits_the_request_body_of_a_back_end():
    composite = cloud_free_composite(None, EXTENT, "2022-06", method="best-pixel", period="month")
    assert len(json.dumps(composite.flat_graph())) < 2**21 / 10


# --- chaining --------------------------------------------------------------------------------


def test_the_mask_chains_into_further_processes_of_the_client():
    masked = load(["B04", "B08"]).mask(cloud_mask(load()))
    chain = masked.ndvi(nir="B08", red="B04").aggregate_temporal_period("month", "median")
    processes = [node["process_id"] for node in chain.save_result("GTiff").flat_graph().values()]
    assert processes == [
        *("load_collection", "load_collection", "apply_neighborhood", "reduce_dimension"),
        *("mask", "ndvi", "aggregate_temporal_period", "save_result"),
    ]


def test_the_client_knows_the_bands_that_the_udf_returns():
    dims = [SpatialDimension("x", []), SpatialDimension("y", []), TemporalDimension("t", [])]
    metadata = CubeMetadata([*dims, BandDimension("bands", [Band(name) for name in MASK_BANDS])])
    cube = openeo.DataCube(load().result_node(), connection=None, metadata=metadata)
    assert cloud_labels(cube).metadata.band_names == ["cloud_labels"]
    assert len(cloud_probabilities(cube).metadata.band_names) == 4
    assert not cloud_mask(cube).metadata.has_band_dimension()
    clear = cloud_labels(cube).band("cloud_labels") == 1
    assert clear.flat_graph()


def test_optical_bands_are_a_load_node_of_their_own():
    for method in ("median", "best-pixel"):
        cube = cloud_free_composite(None, EXTENT, "2022-06", method=method, bands=["B04"])
        nodes = by_process(cube)
        optical, seen = nodes["load_collection"]
        assert optical["bands"] == ["B04"]
        assert len(seen["bands"]) == 12
        flat = cube.flat_graph()
        first_mask = next(node for node in flat.values() if node["process_id"] == "mask")
        source = first_mask["arguments"]["data"]["from_node"]
        assert flat[source]["process_id"] == "load_collection"


@pytest.mark.parametrize(
    ("method", "period", "expected"),
    [
        ("median", None, ["reduce_dimension", "median"]),
        ("median", "month", ["aggregate_temporal_period", "median"]),
        ("best-pixel", None, ["reduce_dimension", "first"]),
        ("best-pixel", "week", ["aggregate_temporal_period", "first"]),
    ],
)
def test_composites_end_as_asked(method, period, expected):
    cube = cloud_free_composite(None, EXTENT, "2022-06", method=method, period=period)
    *_, last = cube.flat_graph().values()
    (reducer,) = last["arguments"]["reducer"]["process_graph"].values()
    assert [last["process_id"], reducer["process_id"]] == expected
    assert last["arguments"].get("period") == period


def test_the_mask_of_a_composite_sees_all_bands_of_its_level():
    nodes = by_process(cloud_free_composite(None, EXTENT, "2022-06", level="L1C"))
    assert nodes["load_collection"][1]["id"] == "SENTINEL2_L1C"
    assert "B10" in nodes["load_collection"][1]["bands"]


def test_dates_and_areas_are_those_of_the_other_doors():
    """A text is as in `search`, its last day included; a list as in openEO, its end excluded."""
    bbox, dates = (11.3, 46.4, 11.4, 46.5), "2022-06-01/2022-06-30"
    loaded = by_process(cloud_free_composite(None, bbox, dates))["load_collection"][0]
    assert loaded["temporal_extent"] == ["2022-06-01T00:00:00Z", "2022-07-01T00:00:00Z"]
    assert loaded["spatial_extent"] == EXTENT
    listed = cloud_free_composite(None, bbox, ["2022-06-01", "2022-07-01"])
    assert by_process(listed)["load_collection"][0] == loaded
    with pytest.raises(InputError, match="early to late"):
        cloud_free_composite(None, bbox, ["2022-06-01", "2022-06-01"])


def test_periods_that_lose_dates_on_copernicus_are_left_out():
    with pytest.raises(UnknownNameError, match=r"unknown period 'dekad'.*month"):
        cloud_free_composite(None, EXTENT, "2022-06", period="dekad")


@pytest.mark.parametrize("period", [None, "month"])
def test_the_best_pixel_asks_for_the_mask_once(period):
    """A back end plans along every path from the result: one leads to the network."""
    graph = cloud_free_composite(
        None, EXTENT, "2022-06", method="best-pixel", period=period
    ).flat_graph()

    def paths(name):
        node = graph[name]
        if node.get("arguments", {}).get("context", {}).get("output") == "mask":
            return 1
        return sum(
            paths(value["from_node"])
            for value in node["arguments"].values()
            if isinstance(value, dict) and "from_node" in value
        )

    (end,) = (name for name, node in graph.items() if node.get("result"))
    assert paths(end) == 1


def test_the_version_of_python_is_said_in_the_graph_and_in_the_options():
    cube = load()
    for given, version in [({}, "3.11"), ({"python": "3.12"}, "3.12")]:
        node = graphs.cloud_labels(cube, **given).flat_graph()["applyneighborhood1"]
        (udf,) = node["arguments"]["process"]["process_graph"].values()
        assert udf["arguments"]["version"] == version
        assert "python" not in node["arguments"]["context"]
        image = job_options(**given)["image-name"]
        assert image == f"python{version.replace('.', '')}"


def test_an_unknown_method_is_named():
    with pytest.raises(UnknownNameError, match=r"unknown method 'mean'.*best-pixel"):
        cloud_free_composite(None, EXTENT, "2022-06", method="mean")


def test_the_kernel_puts_whatever_is_clear_before_whatever_is_not():
    kernel = graphs.cloud_kernel()
    middle = kernel.shape[0] // 2
    assert kernel.sum() - kernel[middle, middle] < 1 <= kernel[middle, middle]


# --- options and text ------------------------------------------------------------------------


def test_job_options_name_archives_with_a_folder_each():
    options = job_options(["https://host/a.zip#a", "https://host/b.zip#b"], driver_memory="1g")
    assert options["udf-dependency-archives"] == ["https://host/a.zip#a", "https://host/b.zip#b"]
    assert options["driver-memory"] == "1g"
    assert job_options() == dict(DEFAULT_JOB_OPTIONS)
    for archives in (["https://host/a.zip"], ["https://host/a.zip#x", "https://host/b.zip#x"]):
        with pytest.raises(InputError, match="folder of its own"):
            job_options(archives)


def test_the_text_is_found_in_a_wheel_too(tmp_path, monkeypatch):
    (tmp_path / "kappamask_udf.py").write_text("# in the wheel\n")
    monkeypatch.setattr(graphs, "__file__", str(tmp_path / "graphs.py"))
    udf_code.cache_clear()
    assert udf_code() == "# in the wheel\n"
    udf_code.cache_clear()
    (tmp_path / "kappamask_udf.py").unlink()
    with pytest.raises(InputError, match="reinstall"):
        udf_code()


@pytest.fixture(autouse=True)
def _forget_the_text():
    yield
    udf_code.cache_clear()


# --- user-defined processes ------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes():
    names = ("kappamask", "kappamask_composite")
    return {name: json.loads((ROOT / "udf" / f"{name}.json").read_text()) for name in names}


def run_generate(*arguments):
    command = [sys.executable, "-W", "error", GENERATE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_files_on_disk_are_as_generated_and_a_difference_is_shown_and_fails(tmp_path):
    done = run_generate("--check")
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(ROOT / "udf", tmp_path / "udf")
    changed = tmp_path / "udf" / "kappamask.json"
    changed.write_text(changed.read_text().replace('"value": 768', '"value": 512', 1))
    done = run_generate("--check", "--folder", str(tmp_path / "udf"))
    assert done.returncode == 1
    assert "512" in done.stdout
    assert "python udf/generate.py" in done.stderr
    assert run_generate("--folder", str(tmp_path / "udf")).returncode == 0
    assert changed.read_text() == (ROOT / "udf" / "kappamask.json").read_text()


def test_parameters_are_described_used_and_have_defaults_but_the_extents(processes):
    callbacks = {"data", "context", "value", "x", "y"}
    for process in processes.values():
        parameters = process["parameters"]
        assert all(each["description"] and each["schema"] for each in parameters)
        required = [each["name"] for each in parameters if not each.get("optional")]
        assert required == ["spatial_extent", "temporal_extent"]
        text = json.dumps(process["process_graph"])
        used = {part.split('"')[0] for part in text.split('{"from_parameter": "')[1:]}
        assert used - callbacks == {parameter["name"] for parameter in parameters}


def test_the_composite_inlines_the_mask(processes):
    """Job options are read from one process that is called by its address: no chain of two."""
    nodes = processes["kappamask_composite"]["process_graph"].values()
    assert not any("namespace" in node for node in nodes)
    assert "apply_neighborhood" in {node["process_id"] for node in nodes}
    assert processes["kappamask_composite"]["default_job_options"] == dict(DEFAULT_JOB_OPTIONS)


@pytest.mark.parametrize("name", ["kappamask", "kappamask_composite"])
def test_the_catalogue_files_follow_its_conventions(name):
    """As ESA-APEx/apex_algorithms lints them."""
    record = json.loads((ROOT / "udf" / "records" / f"{name}.json").read_text())
    assert record["id"] == name
    assert "https://apex.esa.int/core/openeo-udp" in record["conformsTo"]
    links = {link["rel"]: link["href"] for link in record["links"]}
    assert links["application"].endswith(f"/{name}/openeo_udp/{name}.json")
    scenarios = json.loads((ROOT / "udf" / "benchmark_scenarios" / f"{name}.json").read_text())
    for scenario in scenarios:
        assert {"id", "type", "backend", "process_graph"} <= set(scenario)
        node = scenario["process_graph"][name]
        assert (node["process_id"], node["namespace"]) == (name, links["application"])


# --- npm's @openeo/js-processgraphs ----------------------------------------------------------


def validate_by_npm(processes):
    """Messages by process; specifications are those that openeo-processes-dask ships."""
    from kappamask.openeo.engine.library import specifications

    if shutil.which("node") is None or not (VALIDATOR / "node_modules").is_dir():
        pytest.skip("needs node and @openeo/js-processgraphs: run `make npm`")
    given = {
        "specs": list(specifications().values()),
        "processes": processes,
        "arguments": {"spatial_extent": EXTENT, "temporal_extent": DATES},
    }
    command = ["node", VALIDATOR / "validate.js"]
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_npm_finds_no_fault_in_the_processes_and_graphs(processes):
    """Not the best-pixel graph: npm's package knows no parameter of the graph around a child."""
    graphs = {
        "median": cloud_free_composite(None, EXTENT, "2022-06"),
        "masked": load(["B04"]).mask(cloud_mask(load())).save_result("GTiff"),
        "probabilities": cloud_probabilities(load()),
    }
    graphs = {name: {"process_graph": cube.flat_graph()} for name, cube in graphs.items()}
    faults = validate_by_npm(processes | graphs)
    assert {name: found for name, found in faults.items() if found} == {}
    assert len(faults) == 5


def test_npm_finds_seeded_faults(processes):
    """So that the test above means something."""

    def broken(change):
        process = json.loads(json.dumps(processes["kappamask_composite"]))
        change(process["process_graph"], process)
        return process

    window = "applyneighborhood1"
    seeded = {
        "unit": lambda g, _: g[window]["arguments"]["overlap"][0].update(unit="miles"),
        "process": lambda g, _: g[window].update(process_id="apply_neighbourhood"),
        "node": lambda g, _: g[window]["arguments"]["data"].update(from_node="load"),
        "argument": lambda g, _: g[window]["arguments"].pop("size"),
        "kind": lambda g, _: g["mask1"]["arguments"].update(mask="clouds"),
        "result": lambda g, _: list(g.values())[-1].pop("result"),
        "parameter": lambda _, p: p.update(
            parameters=[each for each in p["parameters"] if each["name"] != "period"]
        ),
    }
    faults = validate_by_npm({name: broken(change) for name, change in seeded.items()})
    assert [name for name, found in faults.items() if not found] == []


@pytest.mark.skipif(
    "APEX_ALGORITHMS" not in os.environ, reason="APEX_ALGORITHMS names no checkout of the catalogue"
)
def test_the_catalogue_of_apex_takes_the_records():
    """Its own schemas, and the places and addresses that its own checks compare."""
    schemas = Path(os.environ["APEX_ALGORITHMS"]) / "schemas"
    checks = {
        name: Draft202012Validator(json.loads((schemas / f"{name}.json").read_text()))
        for name in ("record", "provider", "benchmark_scenario")
    }
    folder = GENERATE.parent
    checks["provider"].validate(json.loads((folder / "record.json").read_text()))
    for path in sorted((folder / "records").glob("*.json")):
        record = json.loads(path.read_text())
        checks["record"].validate(record)
        assert record["id"] == path.stem
        scenarios = json.loads((folder / "benchmark_scenarios" / path.name).read_text())
        for scenario in scenarios:
            checks["benchmark_scenario"].validate(scenario)
            assert "://" not in scenario["backend"]


@pytest.mark.parametrize("buffer", [0, 2])
def test_a_mask_of_thresholds_needs_ordinary_processes_only(engine, scene, buffer):
    cube = openeo.DataCube.load_collection(
        "SENTINEL2_L2A", None, scene.extent, ["2022-06-01", "2022-07-01"], ["B02"]
    )
    graph = threshold_mask(cube, buffer_px=buffer)
    assert "run_udf" not in json.dumps(graph.flat_graph())
    found = engine.run(graph.flat_graph())
    blue = np.nan_to_num(scene.dn[1, 0])
    bright = ndimage.binary_dilation(blue > 1000, np.ones((2 * buffer + 1,) * 2))
    np.testing.assert_array_equal(found[1], bright)
