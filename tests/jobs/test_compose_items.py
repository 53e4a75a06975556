"""From a catalogue to composites on disk: `kappamask composite` on the embedded sample."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import rasterio

import kappamask as km
from kappamask.base.errors import InputError, ReadError, UnknownNameError
from kappamask.cli import main
from kappamask.jobs import composites, loop
from kappamask.jobs.composites import CompositeOptions, compose_items
from kappamask.jobs.refined import read_masks
from kappamask.sample import AREA_L2A, catalog_path
from kappamask.scenes.sources import scene_of

BBOX = ",".join(map(str, AREA_L2A))
QUERY = ["--catalog", str(catalog_path()), "--bbox", BBOX, "--date", "2019-07-01/2019-08-15"]


@pytest.fixture(scope="module")
def summer(tmp_path_factory):
    """`kappamask composite --period month`, run once."""
    out = tmp_path_factory.mktemp("summer") / "composites"
    assert main(["composite", *QUERY, "--period", "month", "--out", str(out)]) == 0
    return out


def items_and_cube():
    items = km.search(AREA_L2A, "2019-07-01/2019-08-15", catalog=catalog_path(), level="L2A")
    return items, km.load_cube(items, AREA_L2A)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_month_has_reflectance_counts_dates_an_item_and_a_picture(summer):
    month = "kappamask_20190701_20190731_T34TER_L2A_median"
    files = [name for name in names(summer) if "20190731" in name]
    (stem,) = {name.split(".")[0].removesuffix("_date").removesuffix("_observations")
               for name in files}  # fmt: skip
    assert re.fullmatch(rf"{month}_10m_[0-9a-f]{{6}}", stem)
    ends = (".json", ".png", ".tif", "_date.tif", "_observations.tif")
    assert files == [f"{stem}{end}" for end in ends]
    assert len(names(summer)) == 2 * 5 + 1  # two months, and the masks
    assert len(list((summer / "masks").glob("*.tif"))) == 6


def test_the_files_hold_what_the_functions_give(summer):
    """An independent way: predict_cube and composite in memory, without any mask on disk."""
    _, cube = items_and_cube()
    image = km.composite(cube.load(), km.predict_cube(cube), period="month").load()
    for index, path in enumerate(sorted(summer.glob("*median_10m_??????.tif"))):
        month = image.isel(time=index)
        with rasterio.open(path) as raster:
            stored = raster.read()
            assert raster.crs == cube.rio.crs
            assert list(raster.descriptions) == cube.band.values.tolist()
        values = np.where(stored == -32768, np.nan, stored * 1e-4)
        np.testing.assert_allclose(values, month.reflectance, atol=0.5001e-4)
        with rasterio.open(path.with_name(f"{path.stem}_observations.tif")) as raster:
            np.testing.assert_array_equal(raster.read(1), month.observations)
        known = json.loads(path.with_suffix(".json").read_text())["properties"]
        assert known["kappamask:never_clear"] == month.never_clear


def test_a_second_run_keeps_everything_and_says_the_same(summer, capsys):
    before = {path: path.stat().st_mtime_ns for path in summer.rglob("*") if path.is_file()}
    assert main(["composite", *QUERY, "--period", "month", "--out", str(summer)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("kappamask_20190701_20190731_T34TER_L2A_median_10m_")
    assert said[0].endswith("% of pixels never clear")
    assert said[-1].startswith("2 composites of 6 dates in ")


def test_another_method_goes_beside_it_without_labelling_again(summer, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a date was labelled again")

    monkeypatch.setattr("kappamask.predict.array.predict_window", refuse)
    words = ["--method", "best-pixel", "--target", "2019-07-15", "--bands", "B04,B08"]
    assert main(["composite", *QUERY, *words, "--out", str(summer)]) == 0
    (path,) = summer.glob("*best-pixel_10m_??????.tif")
    with rasterio.open(path) as raster:
        assert raster.descriptions == ("B04", "B08")
    assert not path.with_suffix(".png").exists()  # no true colour without blue and green
    known = json.loads(path.with_suffix(".json").read_text())["properties"]
    assert json.loads(known["kappamask:ranking"])["target"] == "2019-07-15"


@pytest.mark.slow
def test_a_date_that_fails_is_named_and_the_others_are_composed(tmp_path, monkeypatch, capsys):
    write_record = loop.write_record

    def fail_once(record, *rest, **options):
        if "2019-07-11" in record.timestamp:
            raise ReadError("B04.tif is truncated")
        return write_record(record, *rest, **options)

    monkeypatch.setattr(loop, "write_record", fail_once)
    arguments = ["composite", *QUERY, "--no-pictures", "--out", str(tmp_path)]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "2019-07-11T00:00:00 failed: B04.tif is truncated" in said.err
    assert "1 composite of 5 dates in " in said.out
    (item,) = tmp_path.glob("*.json")
    assert len(json.loads(item.read_text())["links"]) == 5 + 1
    monkeypatch.undo()
    assert main(arguments) == 0
    assert len(json.loads(item.read_text())["links"]) == 6 + 1  # it was made again


def test_a_network_of_few_bands_masks_an_image_of_all(tmp_path, monkeypatch):
    """And a date whose item lacks one of them fails, the others are composed."""
    items, cube = items_and_cube()
    monkeypatch.setattr(CompositeOptions, "network_bands", ("B02", "B03", "B04", "B08"))
    del items[1].assets["nir"]
    report = compose_items(
        items, AREA_L2A, tmp_path, options=CompositeOptions(pictures=False, retries=0)
    )
    assert len(report.masks) == len(items) - 1
    assert "no asset for B08" in str(report.failed)
    with rasterio.open(report.images[0]) as raster:
        assert list(raster.descriptions) == cube.band.values.tolist()


def test_large_stacks_are_loaded_in_small_chunks(monkeypatch):
    items, cube = items_and_cube()
    monkeypatch.setattr(composites, "CHUNKS", (96, 64, 32))
    monkeypatch.setattr(composites, "STACK_BYTES", 4 * cube.shape[0] * 6 * 64 * 64)
    found = composites._load([scene_of(item) for item in items], AREA_L2A, CompositeOptions())
    assert 32 < max(found.chunks[2] + found.chunks[3]) == 64


def test_wrong_words_are_refused_before_anything_is_read(tmp_path, capsys):
    items, _ = items_and_cube()
    wrong = [
        (UnknownNameError, {"method": "best"}),
        (UnknownNameError, {"period": "months"}),
        (InputError, {"buffer_m": {"cloud": -1}}),
        (InputError, {"method": "max-ndvi", "bands": ["B02", "B03"]}),
    ]
    for error, words in wrong:
        with pytest.raises(error):
            compose_items(
                items, AREA_L2A, tmp_path / "out", options=replace(CompositeOptions(), **words)
            )
    arguments = ["composite", *QUERY, "--target", "2019-07-15", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "--target is for --method best-pixel" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_masks_of_another_grid_are_refused(summer):
    _, cube = items_and_cube()
    masks = sorted((summer / "masks").glob("*.tif"))
    labels = read_masks(masks, cube)
    assert labels.clear_fraction.values.tolist() == [
        pytest.approx(float((date == 1).mean()), abs=1e-9) for date in labels.values
    ]
    with pytest.raises(ReadError, match="on the grid of the cube"):
        read_masks(masks, cube.isel(x=slice(1, None)).rio.write_transform())
    with pytest.raises(ReadError, match="its STAC item beside it"):
        read_masks([summer / "none.tif"], cube)


def test_help_is_fast_and_has_an_example():
    code = (
        "import sys, kappamask.cli\n"
        "try: kappamask.cli.main(['composite', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'xarray', 'rasterio', 'pandas'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "example:" in said.stdout
    assert said.stdout.splitlines()[-1] == "[]"
