"""The UDF with all dates of a window: they correct one another as `refine` does."""

from pathlib import Path

import numpy as np
import pytest
from openeo.udf.run_code import load_module_from_string

import kappamask as km
from kappamask.openeo.graphs import REFINED_PX, cloud_free_composite
from kappamask.predict.chunk import Digits, Wanted, label_dates, to_mask
from kappamask.sample import AREA_L2A, catalog_path

TEXT = (Path(__file__).parents[2] / "udf/kappamask_udf.py").read_text(encoding="utf-8")
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


def test_the_udf_refines_as_a_cube_is_refined(cube):
    values, bands = stored(cube)
    exact = cube.copy(data=(values[:, :-2] / np.float32(1e4)).astype(np.float32))
    labels = km.predict_cube(exact).compute()
    expected = km.refine(labels).values
    assert (expected != labels.values).any()
    chunk = cube.isel(band=0, drop=True).expand_dims(bands=bands, axis=1)
    chunk = chunk.copy(data=values).rename(time="t").drop_vars(["sun_azimuth", "sun_elevation"])
    apply = load_module_from_string(TEXT)["apply_datacube"]
    refined = apply(chunk, {"refine": True})
    assert refined.dims == ("t", "bands", "y", "x")
    assert np.mean(refined.values[:, 0] == expected) >= 0.999
    alone = apply(chunk, {"refine": False}).values[:, 0]
    assert np.mean(alone == labels.values) >= 0.999
    one = apply(chunk.isel(t=[1]), {"refine": True}).values[:, 0]
    assert (one == alone[[1]]).all()


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
