"""The main job: a failed date is named, the others are kept, a second run completes."""

import shutil
from dataclasses import replace

import pytest

from kappamask.base.errors import ItemError, ReadError
from kappamask.jobs import loop
from kappamask.jobs.composites import CompositeOptions, compose_items
from kappamask.jobs.loop import MaskOptions
from kappamask.jobs.masks import mask_items
from kappamask.sample import AREA_L2A, catalog_path
from kappamask.scenes.search import search
from kappamask.scenes.sources import scene_of

QUIET = MaskOptions(pictures=False)


@pytest.fixture
def items(tmp_path):
    """Four dates of the sample, in a copy that may be damaged."""
    copy = tmp_path / "catalog"
    shutil.copytree(catalog_path().parent, copy)
    return search(AREA_L2A, "2019-07", catalog=copy / "catalog.json", level="L2A")


def damage(item):
    """Cut the blue band short, and give back how to mend it."""
    from pathlib import Path

    path = Path(item.assets["blue"].href)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    return lambda: path.write_bytes(content)


def test_another_resolution_is_done_again(items, tmp_path):
    import rasterio

    out = tmp_path / "masks"
    mask_items(items[:1], AREA_L2A, out, options=QUIET)
    coarse = replace(QUIET, resolution=20)
    (mask,) = mask_items(items[:1], AREA_L2A, out, options=coarse).masks
    with rasterio.open(mask) as source:
        assert source.res == (20, 20)


def test_a_date_that_could_not_be_read_is_tried_again_when_the_others_are_through(items, tmp_path):
    mend = damage(items[1])
    tried = []

    def progress(date, _done, total):
        tried.append(date[:10])
        if len(tried) == total:
            mend()

    report = mask_items(items, AREA_L2A, tmp_path, options=QUIET, progress=progress)
    assert tried == ["2019-07-01", "2019-07-11", "2019-07-16", "2019-07-31", "2019-07-11"]
    assert not report.failed
    assert len(report.done) == 4
    assert report.masks == sorted(report.masks)  # dates stay in their order

    again = mask_items(items, AREA_L2A, tmp_path, options=QUIET)
    assert again.skipped == report.masks
    assert not again.done


def test_tries_are_counted(items, tmp_path):
    damage(items[0])
    tried = []
    options = MaskOptions(pictures=False, retries=3)
    report = mask_items(
        items[:1], AREA_L2A, tmp_path, options=options, progress=lambda *said: tried.append(said)
    )
    assert len(tried) == 1 + 3
    assert len(report.failed) == 1


def test_what_no_second_try_mends_is_not_tried_again(items, tmp_path):
    masks = mask_items(items[:2], AREA_L2A, tmp_path / "whole", options=QUIET).masks
    for mask in masks:
        (tmp_path / "masks" / mask.name / "taken").mkdir(parents=True)  # a folder of that name
    tried = []
    report = mask_items(
        items[:2],
        AREA_L2A,
        tmp_path / "masks",
        options=QUIET,
        progress=lambda *said: tried.append(said),
    )
    assert len(report.failed) == len(tried) == 2


@pytest.mark.parametrize(("error", "tries"), [(ItemError, 1), (ReadError, 3)])
def test_only_what_could_not_be_read_is_tried_again(items, tmp_path, monkeypatch, error, tries):
    tried = []

    def fail(record, *_):
        tried.append(record.name)
        raise error("no")

    monkeypatch.setattr(loop, "write_record", fail)
    report = mask_items(items[:1], AREA_L2A, tmp_path)
    assert list(report.failed.values()) == ["no"]
    assert len(tried) == tries


@pytest.mark.parametrize("remote", [False, True])
def test_a_pause_is_made_for_servers_only(items, tmp_path, monkeypatch, remote):
    pauses = []
    monkeypatch.setattr(loop.time, "sleep", pauses.append)
    scene = scene_of(items[0])
    if remote:  # nobody answers there
        files = {
            name: replace(file, href=f"http://127.0.0.1:1/{name}.tif")
            for name, file in scene.files.items()
        }
        scene = replace(scene, files=files)
    damage(items[0])
    report = mask_items([scene], AREA_L2A, tmp_path)
    assert len(report.failed) == 1
    # the reader waits 1 and 2 s before its further tries, the loop 5 and 10 s before its rounds
    assert any(5 <= seconds <= 7.5 for seconds in pauses) == remote
    assert any(10 <= seconds <= 15 for seconds in pauses) == remote


def test_no_item_is_read_twice(items, tmp_path, monkeypatch):
    from kappamask.scenes import sources

    read, view_of = [], sources.view_of
    monkeypatch.setattr(sources, "view_of", lambda item: read.append(item.id) or view_of(item))
    items = items[:2]
    mask_items(items, AREA_L2A, tmp_path / "masks", options=QUIET)
    quiet = CompositeOptions(pictures=False)
    compose_items(items, AREA_L2A, tmp_path / "composites", options=quiet)
    assert read == [item.id for item in items] * 2
