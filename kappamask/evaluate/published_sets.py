"""Data sets that peers quote: CloudSEN12+ and PixBox-S2-CMIX, for whoever has fetched them.

They are large, so their chips are read one at a time, anew for each mask.

**CloudSEN12+**: layouts and sources in `kappamask.train.cloudsen12`. Peers quote the F1 score
(dice) of four classes on its test split.

**PixBox-S2-CMIX**: Paperin et al. 2021, Zenodo 5036991; 17 351 pixels that experts classified on 29
L1C products, the reference of the Cloud Masking Inter-comparison eXercise (Skakun et al. 2022,
Remote Sens. Environ. 274, 112990). ``pixbox_sentinel2_cmix_20180425.csv`` has a row for each pixel:
``PRODUCT_ID``, ``PIXEL_X`` and ``PIXEL_Y`` on the 10 m grid of the product,
``CLOUD_CHARACTERISTICS_ID`` (0 none of the classes, 1 no cloud, 2 opaque, 3 to 6 semi-transparent,
7 clear, 8 mixed, 9 contrail, 10 fog, 11 haze, 12 border of a cloud) and ``SHADOW_ID`` (3 cloud
shadow; others are none, of the ground, or on cloud). Cloud and shadow are told apart: a pixel may
be both. ``..._definitions.txt`` beside it names the product of each ``PRODUCT_ID``; the products
are SAFE folders or zips, 28 of the 29 in the record's archive. Peers quote the balanced accuracy of
clear, of cloud and of shadow, each against the rest (OmniCloudMask, Wright et al. 2025). Layout and
codes are as public code reads them that comes within a percent of OmniCloudMask's figures; the
files themselves could not be reached.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.legend import Label
from kappamask.cubes.products import open_safe
from kappamask.evaluate.scoring import BOTH, FOUR, POINTS, VALID, Dataset
from kappamask.train.chips import Chip, stack
from kappamask.train.cloudsen12 import CloudSen12, read_patch
from kappamask.train.series import CLOUDY

PIXBOX_TABLE = "pixbox_sentinel2_cmix_*.csv"
COLUMNS = ("PRODUCT_ID", "PIXEL_X", "PIXEL_Y", "CLOUD_CHARACTERISTICS_ID", "SHADOW_ID")
OF_CLOUD: dict[int, int] = {
    **dict.fromkeys((0, 1, 7), int(Label.CLEAR)),
    **dict.fromkeys((3, 4, 5, 6, 9, 10, 11), int(Label.SEMI_TRANSPARENT)),
    2: int(Label.CLOUD),
    8: int(CLOUDY),
    12: int(CLOUDY),
}
CLOUD_SHADOW_ID = 3
CELL, MARGIN = 1024, 128  # pixels: points of one cell are labelled together, with pixels around
_PRODUCT = re.compile(r"S2[A-D]_MSIL1C_\w+")
_NUMBER = re.compile(r"(?<!\w)\d+(?!\w)")


@dataclass(frozen=True)
class Stream(Sequence[Chip]):
    """Chips that are read when they are asked for, and not kept."""

    readers: tuple[Callable[[], Chip], ...]

    def __len__(self) -> int:
        """Say how many there are."""
        return len(self.readers)

    def __getitem__(self, place: int) -> Chip:  # type: ignore[override]  # nobody asks for slices
        """Read one."""
        return self.readers[place]()


def cloudsen12_sets(folder: Path, split: str) -> Iterator[Dataset]:
    """Make the sets of one split, of each level that is there.

    Raises
    ------
    InputError
        As `CloudSen12.chips`, or if the split has no patch of either level.
    """
    found = 0
    for level in ("L1C", "L2A"):
        patches = CloudSen12(folder, level).patches(split)
        readers = tuple(
            partial(read_patch, image, label, name=name, level=level)
            for name, image, label in patches
        )
        found += len(readers)
        if readers:
            name, title = f"{split}_cloudsen12_{level.lower()}", f"CloudSEN12 {split}, {level}"
            yield Dataset(
                name, title, "drawn by experts", Stream(readers), (FOUR, VALID),
                streamed=True, pictured=False,
            )  # fmt: skip
    if not found:
        raise InputError(
            f"CloudSEN12 has labelled patches of the split {split}, got none in {folder}: "
            "is it the folder of the .taco files, or of ROI_... and the table?"
        )


def pixbox_set(folder: Path) -> Dataset:
    """Make the set of PixBox-S2-CMIX: cells of its products that hold points.

    Raises
    ------
    InputError
        If the table, its definitions, a column or every product is absent, or a code is unknown.
    """
    table = next(iter(sorted(folder.rglob(PIXBOX_TABLE))), None)
    if table is None:
        raise InputError(
            f"PixBox is a table {PIXBOX_TABLE}, its definitions and SAFE products, got no table "
            f"in {folder}: unpack PixBox-S2-CMIX.zip there"
        )
    found = [path for path in folder.rglob("S2?_MSIL1C_*") if path.suffix in (".SAFE", ".zip")]
    products = {path.name.split(".")[0]: path for path in sorted(found)}
    names = _read_definitions(table)
    cells = _read_points(table)
    readers, absent = [], set()
    for (number, row, column), points in sorted(cells.items()):
        name = names.get(number, "")
        if name in products:
            readers.append(partial(read_cell, products[name], row, column, tuple(points)))
        else:
            absent.add(name or f"PRODUCT_ID {number}")
    if not readers:
        raise InputError(
            f"PixBox needs its SAFE products (Sentinel-2_L1C.zip), got none of {len(absent)} in "
            f"{folder}, such as {min(absent, default='')}: unpack them there"
        )
    left = f"; {len(absent)} products are not there" if absent else ""
    return Dataset(
        "pixbox", "PixBox-S2-CMIX: balanced accuracy", f"points classified by experts{left}",
        Stream(tuple(readers)), (POINTS,), streamed=True, pictured=False, metric="balanced",
    )  # fmt: skip


def _read_definitions(table: Path) -> dict[str, str]:
    """Find the product of each number: lines that hold both, in either order."""
    names: dict[str, str] = {}
    for path in sorted(table.parent.glob(f"{table.stem}*.txt")):
        for line in path.read_text("utf-8", errors="replace").splitlines():
            product = _PRODUCT.search(line)
            if product:
                rest = line.replace(product[0], " ")
                names |= {number[0]: product[0] for number in _NUMBER.finditer(rest)}
    if not names:
        raise InputError(
            "the definitions beside PixBox's table say which product a PRODUCT_ID is, got none "
            f"beside {table}: unpack PixBox-S2-CMIX.zip whole"
        )
    return names


def _read_points(table: Path) -> dict[tuple[str, int, int], list[tuple[int, int, int]]]:
    """Group points by product and cell: row and column of the grid, and code."""
    cells: dict[tuple[str, int, int], list[tuple[int, int, int]]] = defaultdict(list)
    with table.open(newline="", encoding="utf-8-sig") as file:
        sample = file.read(4096)
        file.seek(0)
        rows = csv.DictReader(file, delimiter=";" if sample.count(";") > sample.count(",") else ",")
        lacking = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if lacking:
            raise InputError(
                f"PixBox's table has the columns {', '.join(COLUMNS)}, got none called "
                f"{', '.join(lacking)} in {table}: is it that of Landsat 8?"
            )
        for line in rows:
            column, row, cloud, shadow = (int(float(line[name])) for name in COLUMNS[1:])
            if cloud not in OF_CLOUD:
                raise InputError(
                    f"CLOUD_CHARACTERISTICS_ID is {', '.join(map(str, sorted(OF_CLOUD)))}, got "
                    f"{cloud} in {table}: is it of another version?"
                )
            code = OF_CLOUD[cloud]
            if shadow == CLOUD_SHADOW_ID:
                code = int(Label.CLOUD_SHADOW) if code == Label.CLEAR else BOTH
            cells[line["PRODUCT_ID"], row // CELL, column // CELL].append((row, column, code))
    return cells


def read_cell(product: Path, row: int, column: int, points: Sequence[tuple[int, int, int]]) -> Chip:
    """Read one cell of a product with pixels around it; all but the points is undefined."""
    cube = open_safe(product)
    scene = cube.isel(time=0) if "time" in cube.dims else cube
    top, left = (max(0, place * CELL - MARGIN) for place in (row, column))
    scene = scene.isel(
        y=slice(top, (row + 1) * CELL + MARGIN), x=slice(left, (column + 1) * CELL + MARGIN)
    ).compute()
    stored = np.rint(np.nan_to_num(scene.values) * 10000).clip(0, 65535).astype(np.uint16)
    stored[np.isfinite(scene.values) & (stored == 0)] = 1  # dark, not missing
    dn = stack(dict(zip(map(str, scene.band.values), stored, strict=True)))
    label = np.full(dn.shape[1:], Label.UNDEFINED, np.uint8)
    for y, x, code in points:
        label[y - top, x - left] = code
    name = f"{product.name.split('.')[0]} {row},{column}"
    return Chip(name, dn, label, "L1C", 10.0, "human")
