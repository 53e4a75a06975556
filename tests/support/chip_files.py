"""Tiny labelled chips, in memory and laid out on disk as training reads them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch as replaced

import numpy as np

from kappamask.base.bands import NAMES
from kappamask.base.legend import Label
from kappamask.train import validate
from kappamask.train.chips import Chip
from support.rasters import write_raster


@contextmanager
def few_scenes() -> Iterator[None]:
    """Validation simulates 32 large scenes; what it does with them shows on three small ones."""
    with replaced.object(validate, "SCENES", 3), replaced.object(validate, "SCENE_SIZE", 64):
        yield


def make_chip(name="a", kind="clear", size=64, bands=NAMES, label=Label.CLEAR, seed=0, **other):
    """Give a chip of noise; `other` replaces fields of `Chip`."""
    rng = np.random.default_rng(seed)
    dn = np.zeros((13, size, size), np.uint16)
    for band in bands:
        dn[NAMES.index(band)] = rng.integers(300, 1500, (size, size))
    dn[NAMES.index("B10")] //= 100  # without cirrus
    labels = np.full((size, size), label, np.uint8)
    fields = {"level": "L1C", "resolution": 10.0, "kind": kind} | other
    return Chip(name, dn, labels, **fields)


def write_chip_folder(folder, splits=("train", "train", "val", "train"), size=64):
    """Write a folder of clear chips c0, c1, ...; the last one has no label kind."""
    rows = []
    for number, split in enumerate(splits):
        chip = make_chip(f"c{number}", seed=number, size=size)
        kind = "none" if number == len(splits) - 1 else "clear"
        rows.append([f"{chip.name}.tif", split, kind, "L1C", 10])
        write_raster(folder / f"{chip.name}.tif", chip.dn, NAMES)
        write_raster(folder / f"{chip.name}_label.tif", chip.label[None])
    write_table(folder, rows)
    return folder


def write_table(folder, rows):
    """Write `chips.csv`."""
    with (folder / "chips.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "split", "label_kind", "level", "resolution_m"])
        writer.writerows(rows)


def patch(size=8):
    """Give an image with a padded right and bottom edge, and its published codes."""
    dn = np.arange(13, dtype=np.uint16)[:, None, None] * 100 + np.full((1, size, size), 1000)
    codes = (np.arange(size * size).reshape(size, size) % 5).astype(np.uint8)  # 4: unknown
    dn[:, -1], dn[:, :, -1], codes[-1], codes[:, -1] = 0, 0, 0, 0
    return dn.astype(np.uint16), codes


def write_patches(folder, bands=13, name="S2L1C.tif"):
    """Write CloudSEN12 as GeoTIFFs beside its table; one patch is not there."""
    dn, codes = patch()
    with (folder / "cloudsen12_metadata.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["roi_id", "s2_id_gee", "label_type", "test"])
        for number, (kind, split) in enumerate(
            [("high", 0), ("high", 1), ("high", 2), ("scribble", 0), ("nolabel", 0), ("high", 0)]
        ):
            writer.writerow([f"ROI_{number:04}", "20190213T1", kind, split])
            if number == 5:
                continue  # not downloaded
            where = folder / "high" / f"ROI_{number:04}" / "20190213T1"
            write_raster(where / name, dn[:bands])
            for file in ("manual_hq.tif", "manual_sc.tif"):
                write_raster(where / "labels" / file, codes[None])
