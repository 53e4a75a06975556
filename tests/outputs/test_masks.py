"""Mask files: rasters with an item beside them, date by date, whole or not at all."""

import os
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio.errors import RasterioIOError
from rio_cogeo.cogeo import cog_validate
from support.labels import (
    FIRST,
    NAMES,
    contents,
    file_size_limit,
    make_labels,
    patchy_codes,
    random_codes,
)

from kappamask import __version__
from kappamask.base.errors import ReadError, WriteError
from kappamask.base.legend import LEGEND
from kappamask.outputs import records
from kappamask.outputs.masks import write_mask

# --- the raster -----------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 1100),
    columns=st.integers(1, 1100),
    seed=st.integers(0, 99),
    codes=st.sampled_from([(1, 5), (0, 6), (5, 6), (4, 5)]),
)
@example(rows=1, columns=1, seed=0, codes=(0, 6))
@example(rows=1, columns=513, seed=0, codes=(0, 6))
@example(rows=513, columns=1, seed=0, codes=(0, 6))
@example(rows=513, columns=2, seed=0, codes=(0, 6))
@example(rows=513, columns=512, seed=0, codes=(0, 6))
@example(rows=1100, columns=512, seed=0, codes=(0, 6))
@example(rows=1100, columns=1025, seed=0, codes=(0, 6))
@example(rows=512, columns=512, seed=0, codes=(0, 6))
def test_save_then_load_is_identity(rows, columns, seed, codes):
    values = np.random.default_rng(seed).integers(*codes, (1, rows, columns), dtype=np.uint8)
    labels = make_labels(values)
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write_mask(labels, folder)
        with rasterio.open(path) as raster:
            np.testing.assert_array_equal(raster.read(), values)
            assert raster.crs == labels.rio.crs
            assert raster.xy(0, 0) == (labels.x[0], labels.y[0])
            assert raster.xy(rows - 1, columns - 1) == (labels.x[-1], labels.y[-1])
        # rasterio counts an overview's reduction along x only: a column has none to count.
        if columns > 1 or rows <= 512:
            assert cog_validate(path, strict=True, quiet=True) == (True, [], [])


def test_the_raster_is_a_cog_of_512_blocks_with_palette_and_names(tmp_path):
    (path,) = write_mask(make_labels(random_codes((1, 600, 700))), tmp_path)
    with rasterio.open(path) as raster:
        assert raster.profile["dtype"] == "uint8"
        assert raster.profile["compress"] == "deflate"
        assert raster.block_shapes == [(512, 512)]
        assert raster.nodata == 5
        assert raster.overviews(1) == [2]
        palette = raster.colormap(1)
        band_tags = raster.tags(1)
        tags = raster.tags()
    # The nodata entry is transparent to GDAL's readers; its colour is the legend's.
    assert {entry.label: palette[entry.label][:3] for entry in LEGEND} == {
        entry.label: entry.rgb for entry in LEGEND
    }
    assert band_tags["flag_meanings"].split() == NAMES
    assert band_tags["flag_values"] == "0, 1, 2, 3, 4, 5"
    assert tags["TIFFTAG_SOFTWARE"] == f"kappamask {__version__}"
    assert tags["TIFFTAG_COPYRIGHT"] == "Contains modified Copernicus Sentinel data 2022"
    assert (tags["model"], tags["model_sha256"]) == ("own-l2a", "ab" * 32)
    assert (tags["level"], tags["datetime"]) == ("L2A", f"{FIRST}000Z")


def test_gdal_reads_the_class_names_as_categories(tmp_path):
    (path,) = write_mask(make_labels(random_codes((1, 20, 20))), tmp_path)
    rasterio.shutil.copy(path, tmp_path / "copy.vrt", driver="VRT")  # a VRT spells them out
    text = (tmp_path / "copy.vrt").read_text()
    found = [part.split("<")[0] for part in text.split("<Category>")[1:]]
    assert found == [entry.title for entry in LEGEND]


def test_an_overview_holds_the_most_frequent_class(tmp_path):
    codes = patchy_codes((1040, 1300))
    (path,) = write_mask(make_labels(codes[None]), tmp_path)
    with rasterio.open(path, overview_level=0) as raster:
        overview = raster.read(1)
    assert overview.shape == (520, 650)
    blocks = codes.reshape(520, 2, 650, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    for block, got in zip(blocks[::7].tolist(), overview.ravel()[::7].tolist(), strict=True):
        votes = Counter(code for code in block if code != 5)  # no data does not vote
        assert votes.get(got) == max(votes.values()) if votes else got == 5, (block, got)


def test_the_same_labels_give_the_same_bytes_lazy_or_loaded(tmp_path):
    codes = random_codes((2, 300, 200))
    write_mask(make_labels(codes), tmp_path / "a")
    write_mask(make_labels(codes), tmp_path / "b")
    write_mask(make_labels(da.from_array(codes, chunks=(1, 64, 64))), tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


# --- one date at a time ---------------------------------------------------------------------


def lazy_codes(count, note, *, broken=()):
    """A dask cube that notes which date is computed, and fails at the broken ones."""

    def compute(block_info=None):
        date = block_info[None]["chunk-location"][0]
        note(date)
        if date in broken:
            raise RasterioIOError(f"B04.tif of date {date} is truncated")
        return np.full((1, 8, 8), 1 + date % 5, dtype=np.uint8)

    return da.map_blocks(
        compute, chunks=((1,) * count, (8,), (8,)), dtype="uint8", meta=np.empty((0, 0, 0), "uint8")
    )


def test_dates_are_computed_and_written_one_at_a_time(tmp_path):
    computed, complete = [], []

    def note(date):
        computed.append(date)
        complete.append([path.name[10:18] for path in sorted(tmp_path.glob("*.json"))])

    labels = make_labels(lazy_codes(3, note))
    paths = write_mask(labels, tmp_path)
    assert computed == [0, 1, 2]
    assert complete == [[], ["20220602"], ["20220602", "20220607"]]
    assert [path.name for path in paths] == sorted(path.name for path in paths)
    assert isinstance(labels.data, da.Array)


def test_a_failed_date_is_named_at_the_end_and_the_others_are_kept(tmp_path):
    events = []
    with pytest.raises(ReadError) as caught:
        write_mask(make_labels(lazy_codes(3, events.append, broken=[1])), tmp_path)
    message = str(caught.value)
    for part in ("1 of 3", "2022-06-07T10:15:59", "B04.tif of date 1 is truncated", "overwrite=F"):
        assert part in message
    assert events == [0, 1, 2]
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.tif"))) == 2


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    events = []
    with pytest.raises(ReadError):
        write_mask(make_labels(lazy_codes(3, events.append, broken=[1])), tmp_path)
    kept = contents(tmp_path)
    events.clear()
    paths = write_mask(make_labels(lazy_codes(3, events.append)), tmp_path, overwrite=False)
    assert events == [1]
    assert len(paths) == 3
    assert kept.items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    "damage",
    ["truncated", "no item", "no json", "other model", "other source", "other time"],
)
def test_a_date_that_is_not_complete_is_written_again(tmp_path, damage):
    labels = make_labels(random_codes((1, 40, 40)))
    (path,) = write_mask(labels, tmp_path / "good")
    changes = {"kappamask_model_sha256": "cd" * 32} if damage == "other model" else {}
    old = make_labels(random_codes((1, 40, 40)), **changes)
    if damage == "other source":
        old = old.assign_coords(source_items=("time", ["S2A_of_an_older_baseline"]))
    if damage == "other time":
        old["time"] = old["time"] + np.timedelta64(5, "ms")
    (path,) = write_mask(old, tmp_path / "out")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "no item":
        path.with_suffix(".json").unlink()
    elif damage == "no json":
        path.with_suffix(".json").write_text("[1, 2")
    write_mask(labels, tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "good")


# --- nothing half-written -------------------------------------------------------------------


def test_a_driver_that_fails_midway_leaves_nothing_of_its_date(tmp_path, monkeypatch):
    copy, tried = rasterio.shutil.copy, []

    def break_second(*words, **options):
        tried.append(words)
        if len(tried) == 2:
            raise RasterioIOError("the driver gave up")
        copy(*words, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", break_second)
    labels = make_labels(random_codes((3, 40, 40)))
    with pytest.raises(WriteError, match=r"the driver gave up for kappamask_20220607T.*\.tif"):
        write_mask(labels, tmp_path)
    monkeypatch.undo()
    write_mask(labels.isel(time=[0]), tmp_path / "first")
    first = contents(tmp_path / "first")
    shutil.rmtree(tmp_path / "first")
    assert contents(tmp_path) == first


@pytest.mark.parametrize("stop", [RasterioIOError("broken"), KeyboardInterrupt()])
def test_a_good_file_stays_when_writing_it_again_fails(tmp_path, monkeypatch, stop):
    write_mask(make_labels(random_codes((1, 40, 40))), tmp_path)
    before = contents(tmp_path)

    def fail(*_, **__):
        raise stop

    monkeypatch.setattr(records, "build_item", fail)
    with pytest.raises((WriteError, KeyboardInterrupt)):
        write_mask(make_labels(random_codes((1, 40, 40), seed=1)), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_stopped_between_moves_no_item_vouches_for_a_mixed_pair(tmp_path, monkeypatch, moved):
    write_mask(make_labels(random_codes((1, 40, 40))), tmp_path)
    labels = make_labels(random_codes((1, 40, 40), seed=1))
    moves, replace = [], Path.replace

    def stopping(self, target):
        if len(moves) == moved:
            raise KeyboardInterrupt
        moves.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_mask(labels, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob(".*"))
    (path,) = write_mask(labels, tmp_path, overwrite=False)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(), labels)


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    write_mask(make_labels(random_codes((1, 200, 200))), tmp_path)
    before = contents(tmp_path)
    with file_size_limit(2048), pytest.raises(WriteError) as caught:
        write_mask(make_labels(random_codes((1, 200, 200), seed=1)), tmp_path)
    for part in (
        "File too large",
        "kappamask_20220602T101559_L2A_10m_",
        str(tmp_path),
        "free some",
    ):
        assert part in str(caught.value)
    assert contents(tmp_path) == before


@contextmanager
def as_nobody():
    """Root may write anywhere: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_is_found_before_anything_is_computed(tmp_path):
    events = []
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    with as_nobody(), pytest.raises(WriteError) as caught:
        write_mask(make_labels(lazy_codes(1, events.append)), folder)
    for part in ("Permission denied", str(folder), "choose another folder"):
        assert part in str(caught.value)
    assert not events
    assert not list(folder.iterdir())
