"""Tiny labelled chips, in memory and laid out on disk as training reads them."""

from __future__ import annotations

import csv

import numpy as np

from kappamask.base.bands import NAMES
from kappamask.base.legend import Label
from kappamask.train.chips import Chip
from support.rasters import write_raster


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
