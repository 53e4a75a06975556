"""The engine: graphs of the ordinary client, equal to numpy, lazy, with errors that name nodes."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import openeo
import pytest
import shapely
import xarray as xr
from openeo.internal.graph_building import PGNode
from support import synthetic, udfs
from support.process_graphs import (
    DATA,
    DATES,
    NONE,
    X,
    child,
    given_cube,
    load,
    one_node,
    pixels,
    run,
)

from kappamask.composites.periods import period_edges
from kappamask.cubes.cube import load_cube
from kappamask.openeo import graphs
from kappamask.openeo.engine import library
from kappamask.openeo.engine.flat_graph import GraphError
from kappamask.openeo.local import LocalEngine
from kappamask.openeo.server import worker
from kappamask.predict.array import predict_array
from kappamask.predict.cube import predict_cube
from kappamask.sample import SCENES, catalog_path
from kappamask.scenes.search import search

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def _bright_is_cloud(monkeypatch):
    """A stand-in for the network: what a graph does is the same, and numpy can tell it."""
    monkeypatch.setattr(graphs, "udf_code", lambda: udfs.BRIGHT_IS_CLOUD)


def hidden(scene):
    """(date, y, x) bool, what the stand-in masks."""
    blue = scene.dn[:, 0]
    return (blue > 7000) | np.isnan(blue)


def compose(scene, bands=("B04",), **options):
    """A composite of June and July from the scene."""
    dates, seen = "2022-06-01/2022-07-31", synthetic.BANDS
    return graphs.cloud_free_composite(
        None, scene.extent, dates, bands=list(bands), mask_bands=seen, **options
    )


# --- invariant 3: all doors agree ------------------------------------------------------------


def test_labels_equal_predict_array_on_one_window(scene, engine):
    labels = engine.run(graphs.cloud_labels(load(scene)).flat_graph()).compute()
    assert labels.bands.values.tolist() == ["cloud_labels"]
    origin = -synthetic.TOP // 10, synthetic.LEFT // 10
    reflectance = scene.dn[0] / np.float32(10000)
    expected = predict_array(reflectance, synthetic.BANDS, level="L2A", origin=origin)
    np.testing.assert_array_equal(labels[0, 0], expected)
    assert set(np.unique(expected)) > {5}


def test_mask_and_probabilities_agree_with_the_labels(scene, engine):
    cube = load(scene)
    labels = engine.run(graphs.cloud_labels(cube).flat_graph()).isel(t=0, bands=0).compute()
    mask = engine.run(graphs.cloud_mask(cube).flat_graph()).isel(t=0).compute()
    np.testing.assert_array_equal(mask, labels != 1)
    probabilities = engine.run(graphs.cloud_probabilities(cube).flat_graph()).isel(t=0).compute()
    likeliest = probabilities.fillna(0).argmax("bands") + 1
    np.testing.assert_array_equal(likeliest.where(labels != 5, 5), labels)


def test_the_sample_gets_the_labels_of_the_other_doors():
    area = SCENES[1]
    day = "2019-07-11"
    bands = ["B02", "B03", "B04", "B08", "B8A", "B11"]
    extent = dict(zip(("west", "south", "east", "north"), area.bbox, strict=True))
    cube = openeo.DataCube.load_collection(
        "SENTINEL2_L2A", None, extent, [day, "2019-07-12"], bands
    )
    labels = LocalEngine(catalog=catalog_path()).run(graphs.cloud_labels(cube).flat_graph())
    items = search(area.bbox, day, catalog=catalog_path())
    expected = predict_cube(load_cube(items, area.bbox, bands=bands))
    np.testing.assert_array_equal(labels[0], expected)
    assert len(np.unique(expected)) > 1


# --- chains equal numpy ----------------------------------------------------------------------


@pytest.mark.usefixtures("_bright_is_cloud")
def test_masked_monthly_median_equals_numpy(scene, engine):
    optical, seen = load(scene, ["B04", "B08"]), load(scene)
    chain = optical.mask(graphs.cloud_mask(seen)).aggregate_temporal_period("month", "median")
    result = engine.run(chain.flat_graph())
    masked = np.where(hidden(scene)[:, None], np.nan, scene.dn[:, 2:4])
    assert result.t.values.astype("M8[D]").astype(str).tolist() == ["2022-06-01", "2022-07-01"]
    june = np.where(
        np.isnan(masked[:2]).all(0), np.nan, np.ma.masked_invalid(masked[:2]).mean(0).data
    )
    np.testing.assert_array_equal(result[0], june)  # the median of two is their mean
    np.testing.assert_array_equal(result[1], masked[2])


@pytest.mark.usefixtures("_bright_is_cloud")
def test_masked_index_equals_numpy(scene, engine):
    chain = load(scene, ["B04", "B08"]).mask(graphs.cloud_mask(load(scene)))
    result = engine.run(chain.ndvi(nir="B08", red="B04").flat_graph())
    red, nir = scene.dn[:, 2], scene.dn[:, 3]
    expected = np.where(hidden(scene), np.nan, (nir - red) / (nir + red))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.usefixtures("_bright_is_cloud")
@pytest.mark.parametrize("period", [None, "month"])
def test_the_best_pixel_is_the_clear_one_farthest_from_clouds(scene, engine, period):
    composite = compose(scene, ["B04", "B08"], method="best-pixel", period=period)
    result = engine.run(composite.flat_graph()).compute()
    clouds = hidden(scene).astype(float)
    kernel = graphs.cloud_kernel()
    near = np.stack([convolve_by_hand(date, kernel) for date in clouds])
    optical = scene.dn[:, 2:4]
    for image, dates in zip(
        [result] if period is None else list(result),
        [[0, 1, 2]] if period is None else [[0, 1], [2]],
        strict=True,
    ):
        best = np.argmin(np.round(near[dates], 8), axis=0)  # the earliest of several
        picked = np.take_along_axis(optical[dates], best[None, None], axis=0)[0]
        clear = np.take_along_axis(clouds[dates], best[None], axis=0)[0] == 0
        np.testing.assert_array_equal(image, np.where(clear, picked, np.nan))


def convolve_by_hand(values, kernel):
    """Add shifted copies: slow, and plain to see."""
    reach = kernel.shape[0] // 2
    padded = np.pad(values, reach)
    height, width = values.shape
    total = np.zeros_like(values)
    for row, line in enumerate(kernel):
        for column, weight in enumerate(line):
            total += weight * padded[row : row + height, column : column + width]
    return total


def test_kernels_large_and_small_equal_brute_force():
    values = np.random.default_rng(1).uniform(size=(2, 1, 40, 37)).astype(np.float32)
    cube = xr.DataArray(da.from_array(values, chunks=(1, 1, 16, 11)), dims=given_cube().dims)
    for size in (3, 17):
        kernel = np.random.default_rng(2).uniform(size=(size, size)).round(3)
        flipped = kernel[::-1, ::-1]  # convolution
        result = run(one_node("apply_kernel", kernel=kernel.tolist(), factor=2), cube=cube)
        for date in range(2):
            expected = 2 * convolve_by_hand(values[date, 0].astype(float), flipped)
            np.testing.assert_allclose(result[date, 0], expected, rtol=1e-5)


def test_a_kernel_may_be_wider_than_the_image():
    cube = given_cube()  # 2 x 3 px
    kernel = np.random.default_rng(2).uniform(size=(9, 9)).round(3)
    result = run(one_node("apply_kernel", kernel=kernel.tolist()), cube=cube)
    for date, image in enumerate(cube.to_numpy()[:, 0]):
        expected = convolve_by_hand(image.astype(float), kernel[::-1, ::-1])
        np.testing.assert_allclose(result[date, 0], expected, rtol=1e-5)


@pytest.mark.usefixtures("_bright_is_cloud")
def test_the_stored_process_equals_the_inlined_graph(scene, tmp_path):
    """By id as a user-defined process, and by the address that is its namespace."""
    definition = json.loads((ROOT / "udf" / "kappamask_composite.json").read_text())
    window = definition["process_graph"]["applyneighborhood1"]["arguments"]["process"]
    (node,) = window["process_graph"].values()
    node["arguments"]["udf"] = udfs.BRIGHT_IS_CLOUD
    url = "https://host/kappamask_composite.json"
    engine = LocalEngine(
        catalog=str(scene.catalog),
        folder=tmp_path,
        udps={"kappamask_composite": definition, url: definition},
    )
    expected = engine.run(compose(scene, period="month").flat_graph()).compute()
    arguments = {
        "spatial_extent": scene.extent,
        "temporal_extent": DATES,
        "bands": ["B04"],
        "mask_bands": list(synthetic.BANDS),
    }
    for namespace in (None, "user", url):
        stored = PGNode("kappamask_composite", arguments, namespace=namespace)
        xr.testing.assert_equal(engine.run(stored.flat_graph()).compute(), expected)


@pytest.mark.slow
def test_a_chain_of_three_steps_stays_small(tmp_path):
    """Masked index, monthly aggregate, best pixel on 1 GB: under 600 MB, as workers are started."""
    script = ROOT / "tests" / "support" / "peak_memory.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env=os.environ | worker.ENVIRONMENT | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["cube_mb"] > 1000
    assert told["peak_mb"] < 600, told
    assert len(told["files"]) == 4


def test_a_graph_is_lazy_to_the_end(scene, engine):
    """Nothing is opened while a chain is put together: the files could be gone."""
    graph = compose(scene, method="best-pixel", period="month").flat_graph()
    folder = scene.catalog.parents[1] / "scenes"
    away = folder.with_name("away")
    folder.rename(away)
    try:
        result = engine.run(graph)
        assert result.chunks is not None
        with pytest.raises(Exception, match="cannot read"):
            result.compute()
    finally:
        away.rename(folder)


# --- masks -----------------------------------------------------------------------------------


def test_nan_in_a_mask_masks_as_on_copernicus():
    cube = given_cube()
    mask = xr.zeros_like(cube).isel(bands=0, drop=True)
    mask = mask.where(mask.x != 0).compute()
    mask[:, :, 1] = 1
    result = run(one_node("mask", mask={"from_parameter": "mask"}), cube=cube, mask=mask)
    assert np.isnan(result[..., :2]).all()
    np.testing.assert_array_equal(result[..., 2], cube[..., 2])


def test_a_mask_of_one_band_masks_all_and_one_without_dates_all_dates():
    cube = xr.concat([given_cube(), given_cube(bands=["B03"])], dim="bands")
    mask = given_cube(bands=["cloud_mask"]) * 0 + xr.DataArray([1, 0, 0], dims="x")
    graph = one_node("mask", mask={"from_parameter": "mask"}, replacement=-1)
    result = run(graph, cube=cube, mask=mask)
    assert (result[..., 0] == -1).all()
    assert result.dims == cube.dims
    still = mask.isel(t=0, bands=0, drop=True)
    xr.testing.assert_equal(run(graph, cube=cube, mask=still), result)


def test_a_mask_of_other_dates_is_refused():
    cube, mask = given_cube(), given_cube().isel(t=[0, 1, 2], bands=0, drop=True)
    with pytest.raises(GraphError, match="labels of the data along t") as caught:
        run(one_node("mask", mask={"from_parameter": "mask"}), cube=cube, mask=mask)
    assert caught.value.code == "LabelMismatch"


# --- callbacks -------------------------------------------------------------------------------


def test_a_reducer_of_two_processes_sees_each_group():
    """The evaluation of openeo-pg-parser-networkx gives all months the first one's values."""
    reducer = child(m=("mean", DATA), a=("subtract", {"x": {"from_node": "m"}, "y": 1}))
    graph = one_node("aggregate_temporal_period", period="month", reducer=reducer)
    months = run(graph, cube=given_cube())
    assert months[:, 0, 0, 0].values.tolist() == [2, 14]
    intervals = [["2022-06-01", "2022-07-01"], ["2022-07-03", "2022-07-31"]]
    graph = one_node("aggregate_temporal", intervals=intervals, reducer=reducer)
    result = run(graph, cube=given_cube())
    assert result[:, 0, 0, 0].values.tolist() == [2, 11]  # a start is inside, an end is not


def test_a_graph_of_many_forks_is_quick():
    graph = {"n0": {"process_id": "constant", "arguments": {"x": 1}}}
    for index in range(60):
        both = {"from_node": f"n{index}"}
        graph[f"n{index + 1}"] = {"process_id": "add", "arguments": {"x": both, "y": both}}
    graph["n60"]["result"] = True
    assert run(graph) == 2**60


def test_lists_of_arrays_are_reduced_over_the_list():
    cube = given_cube()
    process = child(
        a=("multiply", {**X, "y": 2}),
        c=("array_create", {"data": [{"from_parameter": "x"}, {"from_node": "a"}, 3]}),
        m=("max", {"data": {"from_node": "c"}}),
    )
    result = run(one_node("apply", process=process), cube=cube)
    np.testing.assert_array_equal(result, np.maximum(2 * cube, 3))
    assert result.chunks is not None


def test_cubes_are_merged_by_their_overlap_resolver():
    cube = given_cube()
    graph = one_node("apply", process=child(m=("multiply", {**X, "y": 2})))
    graph["n"].pop("result")
    resolver = child(s=("subtract", {**X, "y": {"from_parameter": "y"}}))
    cubes = {"cube1": {"from_node": "n"}, "cube2": {"from_parameter": "cube"}}
    arguments = {**cubes, "overlap_resolver": resolver}
    graph["m"] = {"process_id": "merge_cubes", "arguments": arguments, "result": True}
    np.testing.assert_array_equal(run(graph, cube=cube), cube)


def test_elements_compare_with_a_reduction_of_their_series():
    cube = given_cube()
    differs = child(m=("max", DATA), e=("neq", {**X, "y": {"from_node": "m"}}))
    apart = child(a=("array_apply", {**DATA, "process": differs}))
    result = run(one_node("apply_dimension", process=apart, dimension="t"), cube=cube)
    np.testing.assert_array_equal(result[:, 0, 0, 0], [1, 1, 1, 0])
    xr.testing.assert_equal(result.t, cube.t)
    size = pixels(1, 1, t="month")
    graph = one_node("apply_neighborhood", process=apart, size=size, overlap=[])
    monthly = run(graph, cube=cube)
    np.testing.assert_array_equal(monthly[:, 0, 0, 0], [1, 0, 1, 0])


@pytest.mark.parametrize("name", ["median", "mean", "min", "max", "first", "last"])
def test_reductions_equal_numpy_and_pass_over_nan_in_silence(name):
    values = np.random.default_rng(3).uniform(size=(5, 4, 6)).astype(np.float32)
    values[values < 0.3] = np.nan
    values[:, 0, 0] = np.nan
    coords = {"t": np.arange(5), "y": np.arange(4), "x": np.arange(6)}
    cube = xr.DataArray(da.from_array(values, chunks=(2, 2, 3)), coords, ("t", "y", "x"))
    graph = one_node("reduce_dimension", dimension="t", reducer=child(r=(name, DATA)))
    result = run(graph, cube=cube)
    series = np.moveaxis(values, 0, -1).reshape(-1, 5)
    oracle = {"first": lambda v: v[0], "last": lambda v: v[-1]}.get(name, getattr(np, name, None))
    expected = [oracle(v[~np.isnan(v)]) if (~np.isnan(v)).any() else np.nan for v in series]
    np.testing.assert_allclose(result.to_numpy().ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16"])
def test_whole_numbers_are_reduced_and_ranked_as_floats_are(dtype):
    values = np.array([0, 210, 200, 1], dtype)[:, None, None]
    cube = xr.DataArray(da.from_array(values), dims=("t", "y", "x"))
    median = one_node("reduce_dimension", dimension="t", reducer=child(r=("median", DATA)))
    result = run(median, cube=cube)
    assert result.dtype == result.compute().dtype == np.float64
    assert result.values == np.median(values)
    down = -values.astype(float)
    order = np.argsort(down, axis=0, kind="stable")
    for name, expected in [("sort", -np.sort(down, axis=0)), ("order", order)]:
        process = child(r=(name, {**DATA, "asc": False}))
        ranked = run(one_node("apply_dimension", dimension="t", process=process), cube=cube)
        np.testing.assert_array_equal(ranked, expected)


# --- places ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("geometry", "columns", "rows", "kept"),
    [
        (shapely.Point(11, 12), [10], [10], 1),
        (shapely.MultiPoint([(11, 12), (22, 18)]), [10, 20], [20, 10], 2),
        (shapely.LineString([(11, 12), (19, 13)]), [10, 20], [10], 2),
        (shapely.box(11, 12, 13, 14), [10], [10], 0),  # an area without a centre
        (shapely.box(-5, 5, 15, 25), [0, 10], [20, 10], 4),
    ],
    ids=["point", "points", "line", "smaller than a pixel", "four pixels"],
)
def test_places_between_the_centres_of_pixels_are_cut_out(geometry, columns, rows, kept):
    cube = given_cube().rio.write_crs(32632) + 1
    cube = cube.assign_coords(x=cube.x + 680000, y=cube.y + 5150000)
    where = shapely.geometry.mapping(shapely.affinity.translate(geometry, 680000, 5150000))
    crs = {"type": "name", "properties": {"name": "EPSG:32632"}}
    places = {"type": "Feature", "geometry": where, "properties": {}}
    places = {"type": "FeatureCollection", "features": [places], "crs": crs}
    found = run(one_node("filter_spatial", geometries=places), cube=cube)
    np.testing.assert_array_equal(found.x - 680000, columns)
    np.testing.assert_array_equal(found.y - 5150000, rows)
    assert int(found[0].notnull().sum()) == kept
    np.testing.assert_array_equal(found, cube.sel(x=found.x, y=found.y).where(found.notnull()))


# --- periods ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("hour", ["2021-12-31T23", "2022-01-01T00"]),
        ("day", ["2021-12-31", "2022-01-01"]),
        ("week", ["2021-12-27"]),
        ("dekad", ["2021-12-21", "2022-01-01"]),
        ("month", ["2021-12-01", "2022-01-01"]),
        ("season", ["2021-12-01"]),
        ("tropical-season", ["2021-11-01"]),
        ("year", ["2021-01-01", "2022-01-01"]),
        ("decade", ["2020-01-01"]),
        ("decade-ad", ["2021-01-01"]),
    ],
)
def test_periods_start_where_openeo_says(period, expected):
    first, last = np.datetime64("2021-12-31T23:30"), np.datetime64("2022-01-01T00:10")
    starts = period_edges(first, last, period)[:-1]
    assert starts.tolist() == np.array(expected, "M8[ns]").tolist()


def test_a_period_without_dates_is_kept_empty():
    days = np.array(["2022-01-05", "2022-01-31", "2022-04-01", "2022-04-02"], "M8[ns]")
    largest = child(m=("max", DATA))
    graph = one_node("aggregate_temporal_period", period="month", reducer=largest)
    result = run(graph, cube=given_cube(t=days))
    starts = ["2022-01-01", "2022-02-01", "2022-03-01", "2022-04-01"]
    assert result.t.values.astype("M8[D]").astype(str).tolist() == starts
    assert np.isnan(result[1:3]).all()
    assert result[[0, 3], 0, 0, 0].values.tolist() == [6, 18]


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "cause"),
    [
        ({"process_id": "ndvj"}, "ProcessUnsupported", "unknown process 'ndvj'"),
        ({"namespace": "https://host/x.json"}, "ProcessUnsupported", "not fetched"),
        ({"arguments": {}}, "ProcessParameterRequired", "needs the argument 'data'"),
        ({"arguments": {"data": {"from_node": "m"}}}, "ProcessGraphInvalid", "node 'm'"),
        ({"arguments": {"data": {"from_node": "n"}}}, "ProcessGraphInvalid", "no circles"),
        ({"arguments": {"data": {"from_parameter": "q"}}}, "ProcessParameterMissing", "'q'"),
        ({"result": False}, "ProcessGraphInvalid", "mark the last one"),
    ],
)
def test_validation_names_what_is_wrong(change, code, cause):
    graph = one_node("ndvi")
    graph["n"] |= change
    (fault,) = LocalEngine(catalog=NONE).validate(graph, parameters={"cube": None})
    assert fault["code"] == code
    assert cause in fault["message"]
    with pytest.raises(GraphError) as caught:
        run(graph, cube=given_cube())
    assert (caught.value.code, str(caught.value)) == (code, fault["message"])


def test_validation_finds_all_faults_also_inside_of_callbacks():
    graph = one_node("apply", process=child(a=("absolut", X)), extra=3)
    graph["n"]["arguments"]["context"] = {"from_parameter": "nothing"}
    faults = LocalEngine(catalog=NONE).validate(graph, parameters={"cube": None})
    codes = ["ProcessParameterUnsupported", "ProcessParameterMissing", "ProcessUnsupported"]
    assert [fault["code"] for fault in faults] == codes
    assert "n/a" in faults[2]["message"]


@pytest.mark.parametrize("graph", [None, {}, [], {"n": 3}, {"n": {"process_id": 3}}, "text"])
def test_what_is_no_graph_is_told(graph):
    assert LocalEngine(catalog=NONE).validate(graph)


def test_constants_are_checked_against_the_specification():
    graph = one_node("aggregate_temporal_period", period=3, reducer=child(m=("max", DATA)))
    (fault,) = LocalEngine(catalog=NONE).validate(graph, parameters={"cube": None})
    assert (fault["code"], "'period'" in fault["message"]) == ("ProcessParameterInvalid", True)


def test_graphs_of_our_own_are_valid(scene, engine):
    for cube in (
        graphs.cloud_labels(load(scene)),
        graphs.cloud_free_composite(None, scene.extent, "2022", method="best-pixel", period="year"),
    ):
        assert engine.validate(cube.save_result("GTiff").flat_graph()) == []


def test_what_an_implementation_raises_is_named_with_its_node():
    reducer = child(a=("array_element", {**DATA, "label": "B99"}))
    with pytest.raises(
        GraphError, match=r"node 'n/a' \(array_element\): has no element with the label 'B99'"
    ) as e:
        run(one_node("reduce_dimension", dimension="bands", reducer=reducer), cube=given_cube())
    assert e.value.code == "ArrayElementNotAvailable"


MAX, JUNE = child(m=("max", DATA)), ["2022-06-01", "2022-07-01"]


@pytest.mark.parametrize(
    ("process", "arguments", "cause"),
    [
        ("mask", {"mask": {"from_parameter": "wide"}}, "mask whose dimensions the data has"),
        ("reduce_dimension", {"dimension": "z", "reducer": MAX}, "no dimension 'z'"),
        ("apply_kernel", {"kernel": [[1, 1]]}, "rows of an odd length"),
        ("run_udf", {"data": 3, "udf": udfs.ECHO, "runtime": "Python"}, "runs a UDF on a cube"),
        ("run_udf", {"udf": udfs.ECHO, "runtime": "R"}, "in the runtime 'Python' here"),
        ("aggregate_temporal_period", {"period": "moon", "reducer": MAX}, "of another kind"),
        ("aggregate_temporal", {"intervals": [[None, JUNE[1]]], "reducer": MAX}, "need labels"),
        (
            "aggregate_temporal",
            {"intervals": [JUNE], "labels": ["a", "b"], "reducer": MAX},
            "one l",
        ),
        ("apply_neighborhood", {"process": MAX, "size": pixels(1, 1)}, "as many values back"),
    ],
)
def test_arguments_that_a_process_cannot_work_with_are_named(process, arguments, cause):
    wide = given_cube().expand_dims("orbit")
    with pytest.raises(GraphError, match=cause):
        run(one_node(process, **arguments), cube=given_cube(), wide=wide)


def test_udfs_run_on_whole_cubes_and_labels_name_intervals():
    cube = given_cube()
    udf = {"udf": udfs.ECHO, "runtime": "Python"}
    np.testing.assert_array_equal(run(one_node("run_udf", **udf), cube=cube), cube)
    graph = one_node("aggregate_temporal", intervals=[JUNE], labels=["June"], reducer=MAX)
    assert run(graph, cube=cube).t.values.tolist() == ["June"]


def test_errors_travel_between_processes():
    error = GraphError("no such band", node="ndvi1", process="ndvi", code="Internal")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_process_that_calls_itself_is_stopped():
    definition = {"parameters": [], **child(n=("me", {}))}
    engine = LocalEngine(catalog=NONE, udps={"me": definition})
    with pytest.raises(GraphError, match="without end"):
        engine.run(definition["process_graph"])


def test_arguments_of_stored_processes_are_checked_also_within_another():
    parameters = [{"name": "x"}, {"name": "by", "optional": True, "default": 2}]
    double = child(m=("multiply", {**X, "y": {"from_parameter": "by"}}))
    udps = {"double": {"parameters": parameters, **double}}

    def call(**arguments):
        inner = child(n=("double", arguments))
        outer = {"parameters": [], **inner}
        results = []
        for graph in (inner["process_graph"], child(n=("outer", {}))["process_graph"]):
            engine = LocalEngine(catalog=NONE, udps={**udps, "outer": outer})
            results.append(engine.run(graph))
        assert results[0] == results[1]
        return results[0]

    assert call(x=4) == 8
    assert call(x=4, by=3) == 12
    for arguments, cause in (({}, "needs the argument 'x'"), ({"x": 1, "z": 2}, "parameter 'z'")):
        with pytest.raises(GraphError, match=cause):
            call(**arguments)


# --- what is told ----------------------------------------------------------------------------


def test_every_process_has_a_specification():
    specs = {spec["id"]: spec for spec in LocalEngine(catalog=NONE).processes()}
    assert {
        *("load_collection", "load_stac", "apply_neighborhood", "run_udf", "save_result", "mask"),
        *("ndvi", "aggregate_temporal_period", "if", "date_shift"),
    } <= set(specs)
    assert "load_url" not in specs
    for spec in specs.values():
        assert spec["description"]
        assert isinstance(spec["parameters"], list)


def test_what_is_told_cannot_be_changed_from_outside():
    engine = LocalEngine(catalog=NONE)
    engine.processes()[0].clear()
    assert all(engine.processes())
    before = copy.deepcopy(dict(library.specifications()))
    LocalEngine(catalog=NONE)
    assert before == library.specifications()


def test_udfs_log_to_their_own_engine():
    """Two engines at work at once do not read each other's logs."""
    lines = {"a": [], "b": []}
    tell = child(u=("run_udf", {**DATA, "udf": udfs.TELL, "runtime": "Python"}))
    graph = one_node("apply_neighborhood", process=tell, size=pixels(8, 8), overlap=[])
    cubes = [
        run(graph, log=lambda *line, name=name: lines[name].append(line), cube=given_cube())
        for name in lines
    ]
    da.compute(*(cube.data for cube in cubes))
    assert [len(found) for found in lines.values()] == [1, 1]
    assert all(level == "info" for found in lines.values() for level, _ in found)


def test_inspect_logs_without_computing():
    lines = []
    graph = one_node("inspect", message="here", level="warning")
    result = run(graph, log=lambda *line: lines.append(line), cube=given_cube())
    assert result.chunks is not None
    assert lines == [("warning", "User: here ('t', 'bands', 'y', 'x') (4, 1, 2, 3)")]
