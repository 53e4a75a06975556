"""The UDF with all dates of a window: they correct one another as `refine` does."""

import json
from pathlib import Path

import numpy as np
import openeo
import pytest
import xarray as xr
from openeo.udf import execute_local_udf
from openeo.udf.run_code import load_module_from_string

import kappamask as km
from kappamask.openeo.graphs import REFINED_PX, WINDOW_PX, cloud_free_composite
from kappamask.openeo.local import LocalEngine
from kappamask.predict.chunk import Digits, Wanted, label_dates, to_mask
from kappamask.sample import AREA_L2A, catalog_path

UDF = Path(__file__).parents[2] / "udf"
TEXT = (UDF / "kappamask_udf.py").read_text(encoding="utf-8")
SUN = 150.0, 60.0


@pytest.fixture(scope="module")
def cube():
    """Twelve dates of the sample, 64 px, with two roofs, and a sun for each."""
    items = km.search(AREA_L2A, "2019", catalog=catalog_path(), level="L2A")
    cube = km.load_cube(items, AREA_L2A, margin=0).isel(y=slice(0, 64), x=slice(0, 64)).compute()
    cube[:, :, 30:38, 30:38] = 0.5  # a white roof, and a black one
    cube[:, :, 10:18, 44:52] = 0.01
    angles = {"sun_azimuth": SUN[0], "sun_elevation": SUN[1]}
    return cube.assign_coords(
        {name: ("time", np.full(cube.sizes["time"], angle)) for name, angle in angles.items()}
    )


def stored(cube):
    """The cube as a back end stores it: DN, and the sun's angles as bands."""
    dn = np.rint(cube.fillna(0).values * 1e4).astype(np.float32)
    angles = np.stack([np.full(dn[:, 0].shape, angle) for angle in (SUN[0], 90 - SUN[1])], axis=1)
    bands = [*cube.band.values.tolist(), "sunAzimuthAngles", "sunZenithAngles"]
    return np.concatenate([dn, angles.astype(np.float32)], axis=1), bands


def as_chunk(cube):
    """The cube as the UDF gets it."""
    values, bands = stored(cube)
    chunk = cube.isel(band=0, drop=True).expand_dims(bands=bands, axis=1).copy(data=values)
    return chunk.rename(time="t").drop_vars(["sun_azimuth", "sun_elevation"])


def test_the_udf_refines_as_a_cube_is_refined(cube):
    values, _ = stored(cube)
    exact = cube.copy(data=(values[:, :-2] / np.float32(1e4)).astype(np.float32))
    labels = km.predict_cube(exact).compute()
    expected = km.refine(labels).values
    assert (expected != labels.values).any()
    chunk = as_chunk(cube)
    apply = load_module_from_string(TEXT)["apply_datacube"]
    refined = apply(chunk, {"refine": True})
    assert refined.dims == ("t", "bands", "y", "x")
    assert np.mean(refined.values[:, 0] == expected) >= 0.999
    udf = openeo.UDF(TEXT, context={"refine": True})
    (told,) = execute_local_udf(udf, chunk).datacube_list
    np.testing.assert_array_equal(told.get_array().values, refined.values)
    alone = apply(chunk, {"refine": False}).values[:, 0]
    assert np.mean(alone == labels.values) >= 0.999
    one = apply(chunk.isel(t=[1]), {"refine": True}).values[:, 0]
    assert (one == alone[[1]]).all()


@pytest.mark.parametrize(("south", "east"), [(20, 20), (-10, 10)], ids=["20 m", "y runs north"])
def test_shadows_fall_as_far_as_the_coordinates_say(monkeypatch, south, east):
    """Labels of a stand-in for the network: a cloud, its shadow 16 px off, and water."""

    def codes_of(reflectance, *_, **__):
        return np.rint(reflectance[0] * 10).astype(np.uint8)

    monkeypatch.setattr("kappamask.predict.chunk.predict_array", codes_of)
    codes = np.ones((2, 128, 128), np.uint8)
    codes[0, 5:15, 10:20] = codes[0, 110:120, 100:110] = codes[0, :10, 70:86] = 2
    codes[0, 100:110, 70:86] = 2
    codes[0, 60:76, 70:86], codes[0, 44:60, 70:86] = 4, 2  # the sun in the south
    codes = codes[:, :: np.sign(south)]
    days, steps = np.array(["2022-06-02", "2022-06-12"], "M8[ns]"), np.arange(128)
    y, x = 5_000_000 - south * (steps + 0.5), 600_000 + east * (steps + 0.5)
    labels = xr.DataArray(codes, {"time": days, "y": y, "x": x}, ("time", "y", "x"))
    labels = labels.assign_coords(sun_azimuth=("time", [180.0] * 2))
    expected = km.refine(labels.assign_coords(sun_elevation=("time", [45.0] * 2))).values
    bands = ["B02", "B03", "B04", "B08", "sunAzimuthAngles", "sunZenithAngles"]
    values = np.stack([*[codes * 1000.0] * 4, codes * 0 + 180.0, codes * 0 + 45.0], axis=1)
    axes = {"t": days, "bands": bands, "y": y.astype(np.float32), "x": x.astype(np.float32)}
    apply = load_module_from_string(TEXT)["apply_datacube"]
    refined = apply(xr.DataArray(values.astype(np.float32), axes, tuple(axes)), {"refine": True})
    np.testing.assert_array_equal(refined.values[:, 0], expected)


def test_snow_is_told_on_the_ground_that_refined_labels_call_clear(cube):
    apply = load_module_from_string(TEXT)["apply_datacube"]
    chunk = as_chunk(cube.isel(time=slice(0, 5)))
    labels = apply(chunk, {"refine": True}).values
    alone, snow = (apply(chunk, {"output": "snow", "refine": r}).values for r in (False, True))
    assert set(np.unique(snow)) <= {0, 100, 205, 255}
    np.testing.assert_array_equal(snow == 205, (labels != 1) & (labels != 5))
    assert (snow != alone).any()
    seen = (alone != 205) & (labels == 1)
    np.testing.assert_array_equal(snow[seen], alone[seen])
    with pytest.raises(ValueError, match="B11"):
        apply(chunk.drop_sel(bands="B11"), {"output": "snow", "refine": True})


@pytest.mark.parametrize("output", ["mask", "probabilities"])
def test_masks_and_probabilities_are_of_the_refined_labels(cube, output):
    values, bands = stored(cube.isel(time=slice(0, 5)))
    model = km.load_model("default", "L2A")
    given = {"model": model, "digits": Digits()}
    times = cube.time.values[:5]
    codes = label_dates(values, bands, times, wanted=Wanted("labels"), **given)[:, 0]
    found = label_dates(values, bands, times, wanted=Wanted(output, 0), **given)
    if output == "mask":
        assert (found[:, 0] == np.stack([to_mask(date.astype(np.uint8)) for date in codes])).all()
    else:
        assert np.mean(found.argmax(axis=1) + 1 == codes) >= 0.999
        assert np.allclose(found.sum(axis=1), 1, atol=1e-3)


def test_graphs_ask_for_all_dates_of_smaller_windows():
    june = cloud_free_composite(None, (11.3, 46.4, 11.4, 46.5), "2022-06")
    (node,) = (
        one for one in june.flat_graph().values() if one["process_id"] == "apply_neighborhood"
    )
    sizes = {size["dimension"]: size["value"] for size in node["arguments"]["size"]}
    assert sizes == {"x": REFINED_PX, "y": REFINED_PX}
    assert node["arguments"]["context"]["refine"] is True
    plain = cloud_free_composite(None, (11.3, 46.4, 11.4, 46.5), "2022-06", refine=False)
    (node,) = (
        one for one in plain.flat_graph().values() if one["process_id"] == "apply_neighborhood"
    )
    assert {"dimension": "t", "value": "P1D"} in node["arguments"]["size"]


@pytest.fixture(scope="module")
def published():
    """The user-defined processes as they are stored on back ends."""
    names = "kappamask", "kappamask_composite"
    return {name: json.loads((UDF / f"{name}.json").read_text(encoding="utf-8")) for name in names}


@pytest.mark.parametrize(("name", "default"), [("kappamask", False), ("kappamask_composite", True)])
def test_published_processes_take_refine_and_windows_that_go_with_it(published, name, default):
    (told,) = (one for one in published[name]["parameters"] if one["name"] == "refine")
    assert (told["schema"], told["default"]) == ({"type": "boolean"}, default)
    graph, asked = published[name]["process_graph"], {"from_parameter": "refine"}
    window = graph["applyneighborhood1"]["arguments"]
    assert window["context"]["refine"] == asked
    chosen = graph[window["size"]["from_node"]]
    assert (chosen["process_id"], chosen["arguments"]["value"]) == ("if", asked)
    sizes = [
        {size["dimension"]: size["value"] for size in chosen["arguments"][branch]}
        for branch in ("accept", "reject")
    ]
    date = {"x": WINDOW_PX, "y": WINDOW_PX, "t": "P1D"}
    assert sizes == [{"x": REFINED_PX, "y": REFINED_PX}, date]


def run_published(process, chunk, **given):
    """Run a published process over a cube in the place of what it would load."""
    graph = json.loads(json.dumps(process["process_graph"]))
    for node in graph.values():
        if node["process_id"] == "load_collection":
            loaded = {"data": {"from_parameter": "cube"}, "bands": node["arguments"]["bands"]}
            node |= {"process_id": "filter_bands", "arguments": loaded}
    values = {one["name"]: one.get("default") for one in process["parameters"]} | given
    return LocalEngine(catalog="none").run(graph, parameters=values | {"cube": chunk}).compute()


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the median that is expected
def test_published_processes_label_all_dates_together_if_asked(published, cube):
    values, bands = stored(cube)
    exact = cube.copy(data=(values[:, :-2] / np.float32(1e4)).astype(np.float32))
    alone = km.predict_cube(exact).compute()
    together = km.refine(alone)
    assert (together.values != alone.values).any()
    chunk, given = as_chunk(cube).rio.write_crs(3035), {"mask_bands": bands}
    for refine, expected in [({}, alone), ({"refine": True}, together)]:
        found = run_published(published["kappamask"], chunk, **given, **refine)
        assert np.mean(found.values[:, 0] == expected.values) >= 0.999
    given |= {"bands": ["B04", "B08"]}
    for refine, labels in [({}, together), ({"refine": False}, alone)]:
        seen = 10000 * exact.sel(band=["B04", "B08"]).where(labels == km.Label.CLEAR)
        expected = seen.groupby("time.month").median().values
        found = run_published(published["kappamask_composite"], chunk, **given, **refine)
        assert found.shape == expected.shape
        assert np.mean(np.isclose(found.values, expected, atol=1, equal_nan=True)) >= 0.999
