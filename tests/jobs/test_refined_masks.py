"""Masks refined by one another on disk, composites of them, and of Sen2Cor's classes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio

import kappamask as km
from kappamask.base.errors import UnknownNameError
from kappamask.cubes.classes import CODES
from kappamask.jobs import CompositeOptions, MaskOptions, compose_items, mask_items
from kappamask.sample import AREA_L2A, catalog_path

QUIET = {"pictures": False}


@pytest.fixture(scope="module")
def items():
    return km.search(AREA_L2A, "2019-06/2019-07", catalog=catalog_path(), level="L2A")


@pytest.fixture(scope="module")
def masked(items, tmp_path_factory):
    """Six dates, masked and refined."""
    folder = tmp_path_factory.mktemp("masks")
    return folder, mask_items(items, AREA_L2A, folder, options=MaskOptions(refine=True, **QUIET))


def properties(path):
    return json.loads(path.with_suffix(".json").read_text())["properties"]


def test_refined_masks_lie_beside_those_of_single_dates_and_name_their_witnesses(items, masked):
    folder, report = masked
    assert len(report.masks) == len(items)
    assert {path.parent for path in report.masks} == {folder / "refined"}
    assert len(list(folder.glob("*.tif"))) == len(items)
    days = {str(item.datetime)[:10] for item in items}
    for path in report.masks:
        known = properties(path)
        assert set(known["kappamask:refined_by"]) == days - {known["datetime"][:10]}
    cube = km.load_cube(items, AREA_L2A)
    expected = km.refine(km.predict_cube(cube)).values
    for path, codes in zip(report.masks, expected, strict=True):
        with rasterio.open(path) as raster:
            assert (raster.read(1) == codes).all()


def test_what_is_refined_is_kept_until_a_date_comes_in(items, masked):
    folder, before = masked
    again = mask_items(items, AREA_L2A, folder, options=MaskOptions(refine=True, **QUIET))
    assert again.skipped == again.masks == before.masks
    fewer = mask_items(items[:4], AREA_L2A, folder, options=MaskOptions(refine=True, **QUIET))
    assert len(properties(fewer.masks[0])["kappamask:refined_by"]) == 3
    two = mask_items(items[:2], AREA_L2A, folder, options=MaskOptions(refine=True, **QUIET))
    assert {path.parent for path in two.masks} == {folder}  # two dates prove nothing


def test_composites_are_of_refined_masks_and_say_so(items, tmp_path):
    options = CompositeOptions(fill="least-cloudy", **QUIET)
    report = compose_items(items, AREA_L2A, tmp_path, options=options)
    known = properties(report.images[0])
    assert (known["kappamask:refined"], known["kappamask:quality"]) == (1, 1)
    assert known["kappamask:fill"] == "least-cloudy"
    assert len(known["kappamask:witnesses"].split()) == len(items)
    with rasterio.open(report.images[0]) as raster:
        assert (raster.read(1) != raster.nodata).all()  # filled
    plain = replace(options, refine=False, quality=False, fill=None, overwrite=True)
    (path,) = compose_items(items, AREA_L2A, tmp_path, options=plain).images
    assert properties(path)["kappamask:refined"] == 0


def test_few_observations_read_few_dates(items, tmp_path):
    options = CompositeOptions(max_observations=1, method="mean", buffer_m=None, **QUIET)
    report = compose_items(items, AREA_L2A, tmp_path, options=options)
    assert properties(report.images[0])["kappamask:mean_observations"] == 1
    ids = json.loads(report.images[0].with_suffix(".json").read_text())["links"]
    assert sum(link["rel"] == "derived_from" for link in ids) <= 2 < len(items)


def test_classes_of_sen2cor_are_a_mask_of_their_own(items, tmp_path):
    options = CompositeOptions(mask="scl", method="first-clear", buffer_m=None, **QUIET)
    report = compose_items(items, AREA_L2A, tmp_path, options=options)
    assert not report.masks
    known = properties(report.images[0])
    assert known["kappamask:mask"] == "scl"
    assert known["kappamask:refined"] == 0
    classes = []
    for item in items:
        (asset,) = (asset for key, asset in item.assets.items() if key.lower() == "scl")
        with rasterio.open(asset.href) as raster:
            classes.append(CODES[raster.read(1)])
    counts = report.images[0].with_name(f"{report.images[0].stem}_observations.tif")
    with rasterio.open(counts) as raster:
        found = raster.read(1)
    clear = (np.stack(classes) == 1).sum(axis=0)
    assert found.shape == clear.shape
    assert (found == clear).mean() > 0.99
    with pytest.raises(UnknownNameError, match="network"):
        compose_items(items, AREA_L2A, tmp_path, options=replace(options, mask="slc"))
