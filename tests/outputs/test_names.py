"""Names of outputs tell areas and pixel sizes apart: nothing is replaced without a word."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from support.labels import CORNER, make_labels, random_codes

from kappamask import write_mask
from kappamask.cli import main
from kappamask.jobs import MaskOptions, mask_items
from kappamask.outputs.cog import Placement
from kappamask.outputs.masks import MaskRecord
from kappamask.sample import AREA_L2A, catalog_path
from kappamask.scenes.scene import Scene
from kappamask.scenes.search import search

HALF = (AREA_L2A[0], AREA_L2A[1], sum(AREA_L2A[::2]) / 2, AREA_L2A[3])


def items():
    return search(AREA_L2A, "2019-07-11", catalog=catalog_path(), level="L2A")


def test_a_second_field_in_one_folder_keeps_the_first(tmp_path, capsys):
    query = ["--catalog", str(catalog_path()), "--date", "2019-07-11", "--no-pictures"]
    for area in (AREA_L2A, HALF):
        bbox = ",".join(map(str, area))
        assert main(["mask", *query, "--bbox", bbox, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out.count("1 done, 0 skipped") == 2
    assert "replaced" not in said.err
    widths = [rasterio.open(path).width for path in tmp_path.glob("*.tif")]
    assert len(widths) == len(set(widths)) == 2


def test_another_pixel_size_has_a_name_of_its_own(tmp_path):
    for step in (10, 20, 10):
        options = MaskOptions(resolution=step, pictures=False)
        report = mask_items(items(), AREA_L2A, tmp_path, options=options)
    assert len(report.skipped) == 1
    assert len(list(tmp_path.glob("*_10m_*.tif")) + list(tmp_path.glob("*_20m_*.tif"))) == 2


@pytest.mark.parametrize(("step", "end"), [(10, "T32TPS_L2A"), (20, "T32TPS_L2A_20m")])
def test_a_whole_tile_needs_no_code_of_its_area(step, end):
    placement = Placement(
        CRS.from_epsg(32632), Affine(step, 0, 600000, 0, -step, 5200020), (109800 // step,) * 2
    )
    sources = (Scene("S2A_a", tile="32TPS"),)
    record = MaskRecord(placement, "L2A", None, None, sources, np.datetime64("2022-06-02"))
    assert record.name == f"kappamask_20220602T000000_{end}"


def test_labels_of_two_places_and_one_date_lie_beside_each_other(tmp_path):
    codes = random_codes((1, 9, 9))
    east = make_labels(codes, corner=(CORNER[0] + 500, CORNER[1]))
    assert write_mask(make_labels(codes), tmp_path) != write_mask(east, tmp_path)
    assert len(list(tmp_path.glob("*.tif"))) == 2


def as_before(mask: Path) -> Path:
    """Give a mask, its item and what lies beside it the names of versions before 0.2."""
    old = mask.name.partition("_10m_")[0]
    for path in mask.parent.glob(f"{mask.stem}.*"):
        text = path.read_bytes().replace(mask.stem.encode(), old.encode())
        path.with_name(path.name.replace(mask.stem, old)).write_bytes(
            path.read_bytes() if path.suffix == ".tif" else text
        )
        path.unlink()
    return mask.with_name(f"{old}.tif")


def test_folders_with_names_of_before_are_understood(tmp_path):
    options = MaskOptions(pictures=False)
    (mask,) = mask_items(items(), AREA_L2A, tmp_path, options=options).masks
    old = as_before(mask)
    assert mask_items(items(), AREA_L2A, tmp_path, options=options).skipped == [old]
    # of another area it is left alone
    (other,) = mask_items(items(), HALF, tmp_path, options=options).done
    assert old.exists()
    assert other != old


def test_what_was_made_otherwise_gives_way_with_a_word(tmp_path, caplog):
    codes = random_codes((1, 9, 9))
    (path,) = write_mask(make_labels(codes, kappamask_model="old"), tmp_path)
    assert not caplog.records
    write_mask(make_labels(codes, kappamask_model="old"), tmp_path)  # the same again
    assert not caplog.records
    write_mask(make_labels(codes, kappamask_model="new"), tmp_path)
    assert f"replaced {path.stem}" in caplog.text
    assert "kappamask:model old, now new" in caplog.text


def test_a_disk_without_room_is_told_before_the_first_date(tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    bbox = ",".join(map(str, AREA_L2A))
    query = ["--catalog", str(catalog_path()), "--date", "2019-07-11", "--bbox", bbox]
    assert main(["mask", *query, "--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the disk must have room" in line
    assert not list(tmp_path.glob("*.tif"))
