"""Masks refined by one another on disk, composites of them, and of Sen2Cor's classes."""

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import rasterio
from shapely.geometry import Polygon, box, mapping
from support.rasters import write_raster

import kappamask as km
from kappamask.base.errors import UnknownNameError
from kappamask.cubes.classes import CODES
from kappamask.jobs import CompositeOptions, MaskOptions, compose_items, mask_items
from kappamask.sample import AREA_L2A, catalog_path

QUIET = {"pictures": False}
TINY = QUIET | {"margin": 0}
WEST, SOUTH = AREA_L2A[0] + 0.004, AREA_L2A[1] + 0.003
SMALL = (WEST, SOUTH, WEST + 0.003, SOUTH + 0.002)
NOTCH = (WEST + 0.0015, SOUTH + 0.0005)
# With the corners of SMALL, so in the same rectangle of pixels.
NOTCHED = Polygon([(WEST, SOUTH), (SMALL[2], SOUTH), SMALL[2:], NOTCH, (WEST, SMALL[3])])


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


@pytest.mark.parametrize(
    ("job", "chosen"), [(mask_items, MaskOptions(refine=True)), (compose_items, CompositeOptions())]
)
def test_a_polygon_is_not_taken_for_what_its_rectangle_had_before(items, tmp_path, job, chosen):
    def files(area, **words):
        options = replace(chosen, **words, **TINY)
        report = job(items[:3], area, tmp_path, options=options)
        return set(report.images or report.masks)

    whole, cut = files(SMALL), files(mapping(NOTCHED))
    fields = [files(box(*SMALL), field=name) for name in ("east", "west")]
    assert len(set.union(whole, cut, *fields)) == 4 * len(whole)
    for path in whole | cut:
        with rasterio.open(path) as raster:
            missing = raster.read(1) == raster.nodata
        assert (missing.mean() > 0.5) == (path in cut)
    times = {path: path.stat().st_mtime_ns for path in cut}
    assert files(mapping(NOTCHED)) == cut
    assert {path: path.stat().st_mtime_ns for path in cut} == times


def test_masks_that_are_refined_for_the_first_time_are_done_not_skipped(items, tmp_path):
    mask_items(items[:3], SMALL, tmp_path, options=MaskOptions(**TINY))
    report = mask_items(items[:3], SMALL, tmp_path, options=MaskOptions(refine=True, **TINY))
    assert report.skipped == []
    assert len(report.done) == 3


def test_few_observations_of_a_polygon_are_of_few_dates_that_all_dates_refined(items, tmp_path):
    options = CompositeOptions(max_observations=1, method="mean", buffer_m=None, **TINY)
    (image,) = compose_items(items, mapping(NOTCHED), tmp_path, options=options).images
    known, links = properties(image), json.loads(image.with_suffix(".json").read_text())["links"]
    assert sum(link["rel"] == "derived_from" for link in links) == 2  # one date, and the model
    assert known["kappamask:refined"] == 1
    assert len(known["kappamask:witnesses"].split()) == len(items) - 1


def north_of(item, top, folder):
    """Give what an item holds north of `top`, seen a second before it."""
    north = item.clone()
    north.id, north.datetime = f"{item.id}_N", item.datetime - timedelta(seconds=1)
    for key, asset in north.assets.items():
        with rasterio.open(item.assets[key].href) as raster:
            rows = int((raster.bounds.top - top) // 20) * 20 // round(raster.res[1])
            options = {"crs": raster.crs, "transform": raster.transform, "nodata": raster.nodata}
            layers = raster.read()[:, :rows]
        asset.href = str(folder / f"{key}.tif")
        write_raster(folder / f"{key}.tif", layers, **options)
        asset.extra_fields["proj:shape"] = list(layers.shape[1:])
    return north


def test_a_date_is_kept_whose_neighbour_ends_beside_the_area(items, tmp_path):
    top = km.load_cube(items[:1], SMALL, margin=0).y.values.max() + 5
    options = CompositeOptions(mask="scl", method="first-clear", buffer_m=None, **TINY)
    north = north_of(items[0], top, tmp_path / "north")
    (image,) = compose_items([*items, north], SMALL, tmp_path / "out", options=options).images
    links = json.loads(image.with_suffix(".json").read_text())["links"]
    assert any(link["title"].endswith(items[0].id) for link in links)
