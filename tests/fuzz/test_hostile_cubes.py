"""Scenes, cubes and chunks, most of them a little wrong: refused, or labelled as one line says."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given

from fuzz.budget import cases
from fuzz.cubes import (
    BAD_CONTEXTS,
    FOUR,
    MISSING,
    array_cases,
    as_float32,
    check_result,
    chunk_cases,
    cube_cases,
    expected_missing,
    is_refused,
    looks_like_dn,
    pixel_model,
)
from kappamask.base.errors import InputError, KappaMaskError
from kappamask.predict.array import predict_array
from kappamask.predict.cube import predict_cube

UDF = Path(__file__).parents[2] / "udf/kappamask_udf.py"
SMALL_SIZES = [1, 2, 5, 33, 40]


# --- scenes --------------------------------------------------------------------------------


def model_for(level):
    return pixel_model(level) if level in ("L1C", "L2A") else "default"


def label_case(case, model, order=...):
    """Label a scene, its bands in another order where one is given."""
    bands = [case.bands[at] for at in np.arange(len(case.bands))[order]]
    words = {"level": case.level, "output": case.output, "origin": case.origin}
    return predict_array(case.values[order], bands, model=model, **words)


def check_array(case, model):
    refused = is_refused(case.values, case.bands, case.level)
    try:
        result = label_case(case, model)
    except KappaMaskError:
        assert refused or looks_like_dn(case.values, case.bands)
        return None
    assert not refused
    assert not looks_like_dn(case.values, case.bands)
    return result


@given(case=array_cases())
@cases("cubes", ci=75, share=0.4)
def test_a_scene_is_refused_by_rule_or_labelled_pixel_by_pixel(case):
    result = check_array(case, model_for(case.level))
    if result is None:
        return
    check_result(result, case.values, case.bands, case.level, case.output)
    order = np.argsort([name[::-1] for name in case.bands])
    np.testing.assert_array_equal(result, label_case(case, model_for(case.level), order))


@given(case=array_cases(sizes=SMALL_SIZES))
@cases("cubes", ci=6, share=0.05)
def test_the_shipped_network_misses_what_is_missing_and_nothing_else(case):
    result = check_array(case, "default")
    if result is not None:
        missing = expected_missing(case.values, case.bands)
        where = result[0] if case.output == "probabilities" else result
        assert where.shape == case.values.shape[1:]
        if case.output == "probabilities":
            assert (np.isnan(result) == missing).all()
            np.testing.assert_allclose(result[:, ~missing].sum(0), 1, rtol=1e-5)
        else:
            assert ((result == MISSING) == missing).all()


# --- cubes ---------------------------------------------------------------------------------


@given(case=cube_cases())
@cases("cubes", ci=45, share=0.35)
def test_a_cube_is_refused_by_rule_or_labelled_date_by_date(case):
    strange = not case.refused and any(looks_like_dn(date, case.bands) for date in case.values)
    try:
        labels = predict_cube(case.cube, model=model_for(case.level), output=case.output)
        result = labels.compute(scheduler="synchronous")
    except KappaMaskError:
        assert case.refused or strange
        return
    assert not case.refused
    assert not strange
    wanted = ["time", *(["label"] if case.output == "probabilities" else []), "y", "x"]
    assert list(result.dims) == [dim for dim in wanted if dim in (*case.cube.dims, "label")]
    for name in ("time", "y", "x"):
        assert (name in result.coords) == (name in case.cube.coords)
        if name in case.cube.coords:
            xr.testing.assert_identical(
                result[name].variable.to_base_variable(),
                case.cube[name].variable.to_base_variable(),
            )
    dates = result.values if "time" in result.dims else result.values[None]
    assert len(dates) == len(case.values)
    for found, values in zip(dates, case.values, strict=True):
        check_result(found, values, case.bands, case.level, case.output)


# --- the UDF -------------------------------------------------------------------------------


@cache
def udf():
    """The UDF's text, executed as a back end does; the made-up network stands for the shipped."""
    space = {"__name__": "udf"}
    exec(compile(UDF.read_text("utf-8"), str(UDF), "exec"), space)  # noqa: S102  our own text
    load = space["load"]

    def quick(name, level, threads):
        usual = (name, level, threads) == ("default", "L2A", None)
        return pixel_model("L2A") if usual else load(name, level, threads)

    space["load"] = quick
    return space["apply_datacube"]


def is_ours(error):
    """Tell whether the UDF, which raises plain errors where no package may be, said this."""
    return isinstance(error, KappaMaskError) or str(error).startswith("kappamask: ")


@given(case=chunk_cases())
@cases("cubes", ci=45, share=0.2)
def test_a_chunk_is_refused_by_rule_or_labelled(case):
    stored = as_float32(case.dn)
    try:
        result = udf()(case.cube, case.context)
    except (KappaMaskError, ValueError) as error:
        assert is_ours(error), error  # noqa: PT017  most cases are refused, not all
        assert case.refused
        return
    assert not case.refused
    assert result.dims == case.cube.dims
    (bands,) = {"bands", "band", "spectral"} & set(result.dims)
    found = result.transpose("t", bands, "y", "x").values
    # 0 is no data: in one band where the offset is in the values, else in all of them
    zero = stored == 0
    empty = zero if case.offset else zero.all(1, keepdims=True)
    reflectance = np.where(empty | ~np.isfinite(stored), np.nan, (stored + case.offset) / 1e4)
    for date, scene in zip(found, reflectance.astype(np.float32), strict=True):
        missing = expected_missing(scene, FOUR)
        if case.output == "mask":
            assert (date[0][missing] == 1).all()
            assert np.isin(date, [0, 1]).all()
        else:
            labels = date if case.output == "probabilities" else date[0].astype(np.uint8)
            check_result(labels, scene, FOUR, "L2A", case.output)


# --- found here: each passed in silence, or left the family of errors ------------------------


def label(values, bands=(*FOUR, "B11"), **named):
    return predict_array(values, bands, level="L2A", model=pixel_model("L2A"), **named)


@pytest.mark.parametrize("fill", [9.97e36, -9999.0, 10.5, -1.5])
@pytest.mark.parametrize("band", range(5))
def test_a_number_for_no_data_is_refused_in_every_band(band, fill):
    values = np.full((5, 4, 4), 0.1, np.float32)
    values[band, 1, 1] = fill  # was looked for above 10 in the required bands only
    with pytest.raises(InputError, match="lies between 0 and about 2"):
        label(values)


def test_minus_infinity_in_a_band_that_is_not_required_is_no_data():
    values = np.full((5, 4, 4), 0.1, np.float32)
    gone = values.copy()
    values[4, 1, 1], gone[4, 1, 1] = -np.inf, np.nan  # was a black pixel, where inf was none
    found, wanted = (label(one, output="probabilities") for one in (values, gone))
    np.testing.assert_array_equal(found, wanted)


def test_what_does_not_fit_into_single_precision_is_no_data_without_a_warning():
    values = np.full((5, 2, 2), 0.1)
    values[0, 0, 0] = 1e300
    assert label(values).tolist()[0][0] == MISSING


def test_the_mask_of_a_masked_array_is_no_data():
    values = np.ma.masked_equal(np.where(np.eye(3), -0.1, np.full((5, 3, 3), 0.1)), -0.1)
    assert ((label(values) == MISSING) == np.eye(3)).all()  # the mask was dropped


def test_memory_that_cannot_be_written_is_read_without_a_warning():
    values = np.full((4, 1, 1), 0.1, np.float32)
    values.flags.writeable = False  # a memory map, say: torch warned
    assert predict_array(values, FOUR, level="L2A").shape == (1, 1)


def make_cube(**coords):
    import rioxarray  # noqa: F401  registers .rio

    held = {"band": list(FOUR), "y": [25.0, 15.0, 5.0], "x": [5.0, 15.0, 25.0]} | coords
    dims = ("band", "y", "x")
    return xr.DataArray(np.full((4, 3, 3), 0.1), held, dims, attrs={"level": "L2A"}).rio.write_crs(
        32632
    )


@pytest.mark.parametrize("x", [[5, np.inf, 25], [5, np.nan, 25], ["a", "b", "c"]])
def test_coordinates_that_are_no_finite_numbers_are_refused(x):
    with pytest.raises(InputError, match="coordinate x holds pixel centres"):  # RuntimeWarning
        predict_cube(make_cube(x=x), model=pixel_model("L2A"))


@pytest.mark.parametrize(
    "layers",
    [
        {},
        {"reflectance": make_cube().isel(band=0, drop=True)},  # no band's name, no dim of bands
        {"first": make_cube(), "second": make_cube()},  # which of them?
    ],
    ids=["empty", "no band", "two cubes"],
)
def test_a_dataset_without_bands_is_no_cube(layers):
    with pytest.raises(InputError, match="a Dataset holds a variable for each band"):
        predict_cube(xr.Dataset(layers), model=pixel_model("L2A"))


def test_a_dataset_of_one_cube_is_that_cube():
    cube, model = make_cube(), pixel_model("L2A")
    labels = predict_cube(cube.to_dataset(name="reflectance"), model=model)
    xr.testing.assert_equal(labels, predict_cube(cube, model=model))


@pytest.mark.parametrize("context", BAD_CONTEXTS, ids=str)
def test_a_bad_context_is_refused(context):
    values = np.full((1, 4, 2, 2), 900.0)
    chunk = xr.DataArray(values, {"bands": list(FOUR)}, ("t", "bands", "y", "x"))
    with pytest.raises((KappaMaskError, ValueError)) as caught:  # level [] was unhashable...
        udf()(chunk, context)
    assert is_ours(caught.value)
