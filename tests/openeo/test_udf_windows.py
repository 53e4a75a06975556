"""UDFs on padded windows: what they get, and that every pixel comes back to its place."""

import ast

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from support import udfs
from support.process_graphs import DATA, child, one_node, pixels, run

from kappamask.openeo.engine.flat_graph import GraphError

DAYS = np.array(["2022-06-02", "2022-06-20", "2022-07-05"], "M8[ns]")


def make_cube(shape=(3, 2, 50, 70), *, chunks=(1, 2, 16, 30), seed=0):
    """Random numbers, lazy, some of them NaN."""
    values = np.random.default_rng(seed).uniform(0, 9000, shape).astype(np.float32)
    values[values < 100] = np.nan
    return xr.DataArray(
        da.from_array(values, chunks=chunks),
        dims=("t", "bands", "y", "x"),
        coords={
            "t": DAYS[: shape[0]],
            "bands": ["B02", "B04"][: shape[1]],
            "y": 5149995.0 - 10 * np.arange(shape[2]),
            "x": 680005.0 + 10 * np.arange(shape[3]),
        },
    )


def window_graph(udf, *, size=(16, 16), overlap=(4, 4), t="P1D", context=None):
    code = {"udf": udf, "runtime": "Python", "context": {"from_parameter": "context"}}
    arguments = {
        "process": child(udf=("run_udf", {**DATA, **code})),
        "size": pixels(*size, t=t),
        "overlap": pixels(*overlap),
        "context": context or {},
    }
    return one_node("apply_neighborhood", **arguments)


# --- what a UDF gets -------------------------------------------------------------------------


def told(graph, cube):
    lines = []
    run(graph, log=lambda *line: lines.append(line), cube=cube).compute()
    assert {level for level, _ in lines} == {"info"}
    return [ast.literal_eval(message.removeprefix("chunk ")) for _, message in lines]


def test_one_date_comes_as_bands_y_x_with_its_date_aside():
    chunks = told(window_graph(udfs.TELL, context={"level": "L2A"}), make_cube())
    assert len(chunks) == 3 * 4 * 5  # dates, rows, columns of windows of 16 px
    for chunk in chunks:
        assert chunk["dims"] == ["bands", "y", "x"]
        assert chunk["shape"] == [2, 24, 24]  # all of one shape, the last ones too
        assert (chunk["dtype"], chunk["y"]) == ("float32", "float32")
        assert chunk["context"] == {"level": "L2A"}
        assert chunk["bands"] == ["B02", "B04"]
    assert {chunk["date"][:10] for chunk in chunks} == {"2022-06-02", "2022-06-20", "2022-07-05"}
    assert min(chunk["first"] for chunk in chunks) == 680005 - 40


def test_without_a_size_in_t_all_dates_come_at_once():
    chunks = told(window_graph(udfs.TELL, t=None), make_cube())
    assert len(chunks) == 4 * 5
    assert {tuple(chunk["dims"]) for chunk in chunks} == {("t", "bands", "y", "x")}
    assert {tuple(chunk["shape"]) for chunk in chunks} == {(3, 2, 24, 24)}


def test_beyond_the_cube_stands_nan():
    cube = make_cube((1, 1, 16, 16)).fillna(1)
    (chunk,) = told(window_graph(udfs.TELL), cube)
    assert chunk["nan"] == 24 * 24 - 16 * 16


@pytest.mark.parametrize(("shape", "expected"), [((20, 70), [40, 104]), ((64, 33), [72, 72])])
def test_a_small_cube_comes_in_a_small_chunk(shape, expected):
    """The cube up to the next multiple of 32 px, and the overlap that was asked for."""
    cube = make_cube((1, 2, *shape))
    chunks = told(window_graph(udfs.TELL, size=(768, 768)), cube)
    assert [chunk["shape"] for chunk in chunks] == [[2, *expected]]
    np.testing.assert_array_equal(run(window_graph(udfs.ECHO, size=(768, 768)), cube=cube), cube)


# --- what comes back -------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.integers(7, 40), st.integers(7, 45)),
    overlap=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    chunks=st.tuples(st.integers(5, 40), st.integers(5, 50)),
    per_date=st.booleans(),
)
def test_every_pixel_comes_back_to_its_place(sizes, overlap, chunks, per_date):
    cube = make_cube((2, 2, 33, 41), chunks=(1, 1, *chunks))
    t = "P1D" if per_date else None
    result = run(window_graph(udfs.ECHO, size=sizes, overlap=overlap, t=t), cube=cube)
    xr.testing.assert_identical(result.compute(), cube.compute())


@pytest.mark.parametrize("t", ["P1D", None])
def test_the_overlap_is_what_lies_around(t):
    cube = make_cube()
    shifted = run(window_graph(udfs.SHIFT, overlap=(1, 1), t=t), cube=cube).compute()
    np.testing.assert_array_equal(shifted, cube.shift(x=1, y=1).compute())


def test_a_udf_may_change_the_bands_as_its_metadata_say():
    cube = make_cube()
    result = run(window_graph(udfs.ABOVE_MEAN, t=None), cube=cube)
    assert result.bands.values.tolist() == ["above"]
    expected = (cube > cube.mean("t")).any("bands")
    np.testing.assert_array_equal(result.isel(bands=0), expected)


@pytest.mark.parametrize("dims", [("x", "y", "bands", "t"), ("bands", "t", "y", "x")])
def test_dims_keep_their_order(dims):
    cube = make_cube().transpose(*dims)
    result = run(window_graph(udfs.ECHO), cube=cube)
    assert result.dims == dims
    np.testing.assert_array_equal(result, cube)


@pytest.mark.parametrize("absent", ["t", "bands"])
def test_a_dimension_may_be_absent(absent):
    cube = make_cube().isel({absent: 0}, drop=True)
    for t in ("P1D", None):
        result = run(window_graph(udfs.ECHO, t=t), cube=cube)
        assert result.dims == cube.dims
        np.testing.assert_array_equal(result, cube)


def test_nothing_is_computed_before_it_is_asked_for():
    calls = []

    def block(values):
        calls.append(values.shape)
        return values

    cube = make_cube()
    cube = cube.copy(data=cube.data.map_blocks(block, meta=np.empty((0, 0, 0, 0), np.float32)))
    result = run(window_graph(udfs.ECHO), cube=cube)
    assert calls == []
    result.isel(t=0, x=slice(0, 8), y=slice(0, 8)).compute()
    assert len(calls) == 2  # the one window reads two of the 36 blocks


def test_apply_and_apply_dimension_run_udfs_too():
    cube = make_cube()
    for process, extra in (
        ("apply", {}),
        ("apply_dimension", {"dimension": "t"}),
        ("apply_dimension", {"dimension": "bands"}),
    ):
        given = {"data": {"from_parameter": "x" if process == "apply" else "data"}}
        udf = child(udf=("run_udf", {**given, "udf": udfs.ECHO, "runtime": "Python"}))
        result = run(one_node(process, process=udf, **extra), cube=cube)
        np.testing.assert_array_equal(result, cube)


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("raise ValueError('no such band')", "ValueError: no such band"),
        ("raise SystemExit(3)", "RuntimeError: SystemExit"),
        ("return cube.isel(x=slice(1, None))", "as many pixels"),
        ("return cube.isel(bands=[0])", "bands as its apply_metadata says"),
        ("return cube.isel(bands=0)", "dimension bands"),
        ("return 3", "array.DataArray"),
    ],
)
def test_a_udf_that_fails_is_named_with_its_node(line, cause):
    result = run(window_graph(udfs.failing(line)), cube=make_cube())
    with pytest.raises(GraphError, match=r"node 'n/udf' \(run_udf\): ") as caught:
        result.compute()
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("udf", "cause"),
    [
        ("https://host/udf.py", "source text"),
        ("x = 1\ny = 2\n", "No UDF found"),
        ("def apply_datacube(cube, context)\n    pass\n", "SyntaxError"),
        (udfs.ECHO + "\n# apply_metadata\n", "does not define it"),
    ],
)
def test_a_text_that_is_no_udf_is_named(udf, cause):
    with pytest.raises(GraphError, match=cause):
        run(window_graph(udf), cube=make_cube()).compute()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"size": pixels(8, 8)[:1]}, "size in px for x and y"),
        ({"overlap": [{"dimension": "t", "value": "P1D"}]}, "no overlap in t"),
        ({"size": [{"dimension": "x", "value": 80, "unit": "m"}]}, "whole px"),
        ({"size": pixels(0, 0)}, "at least 1 px"),
        ({"overlap": pixels(2**31, 8)}, "overlaps of 0 to 2048"),
        ({"size": pixels(8, 8, t="month")}, "one date"),
        ({"process": child(m=("absolute", {"x": DATA["data"]}))}, "size of 1 px"),
    ],
)
def test_sizes_that_no_back_end_takes_are_refused(change, cause):
    graph = window_graph(udfs.ECHO)
    graph["n"]["arguments"] |= change
    with pytest.raises(GraphError, match=cause):
        run(graph, cube=make_cube())
