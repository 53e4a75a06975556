"""CloudSEN12 and CloudSEN12+: patches labelled by experts all over the world.

Source: Aybar et al. 2022, Scientific Data 9, 782 and Aybar et al. 2024, Data in Brief 56,
110852 (CloudSEN12+, CC0). Two layouts are read:

- **TACO 1** (``cloudsen12-l1c.*.part.taco``), through the package `tacoreader` below 1: per
  patch an image and its label, columns ``tortilla:data_split`` (train, validation, test) and
  ``label_type`` (high, scribble, nolabel). Older ``.mlstac`` and TACO 2 files are not read.
- **GeoTIFF per patch**: ``ROI_.../IMAGE_ID/S2L1C.tif`` beside ``labels/manual_hq.tif``
  (``manual_sc.tif`` for scribbles), with `cloudsen12_metadata.csv`, whose column ``test`` is 0
  for train, 1 for validation and 2 for test.

Both as public code that reads them says (tacofoundation's card 1.1.2 as quoted in several
repositories; cloudsen12's own R and Python scripts): 13 bands in the order of the satellite
(12 at L2A, then auxiliary layers), DN x 0.0001 without offset, labels 0 clear, 1 thick cloud,
2 thin cloud, 3 cloud shadow. Patches of 509 pixels are padded with zeros to 512, on which side
sources disagree: pixels without any data count as undefined, wherever they are. Not verified,
because the data could not be reached: the code of unlabelled pixels in scribbles (whatever is
no known code is undefined) and how CloudSEN12+'s own GeoTIFFs on ScienceDataBank are laid out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kappamask.base.bands import LEVELS, NAMES, canonical_name
from kappamask.base.errors import InputError, ReadError, UnknownNameError
from kappamask.base.legend import Label
from kappamask.train.chips import Chip, read_layers, spread, stack

CODES = {0: Label.CLEAR, 1: Label.CLOUD, 2: Label.SEMI_TRANSPARENT, 3: Label.CLOUD_SHADOW}
ORDER = {"L1C": NAMES, "L2A": tuple(name for name in NAMES if name != "B10")}
TACO_SPLITS = {"train": "train", "val": "validation", "test": "test"}
TABLE_SPLITS = {"train": "0", "val": "1", "test": "2"}
LABEL_FILES = {"high": "manual_hq.tif", "scribble": "manual_sc.tif"}


@dataclass(frozen=True)
class CloudSen12:
    """The patches in a folder, of ``.taco`` files if there are any, else of GeoTIFFs."""

    folder: Path
    level: str = "L1C"
    label_type: str = "high"  # or scribble

    def __post_init__(self) -> None:
        """Check the words."""
        if self.level not in LEVELS:
            raise UnknownNameError.of("level", self.level, list(LEVELS))
        if self.label_type not in LABEL_FILES:
            raise UnknownNameError.of("label_type", self.label_type, list(LABEL_FILES))

    def chips(self, split: str, *, limit: int | None = None) -> Iterator[Chip]:
        """Yield the labelled patches of one split."""
        for name, image, label in spread(self.patches(split), limit):
            yield read_patch(image, label, name=name, level=self.level)

    def patches(self, split: str) -> list[tuple[str, str, str]]:
        """List name, image and label of the patches of one split, as `read_patch` takes them."""
        whole = sorted(self.folder.glob("*.taco"))
        of_level = [file for file in whole if self.level.lower() in file.name]
        return self._in_taco(of_level or whole, split) if whole else self._in_folders(split)

    def _in_taco(self, files: list[Path], split: str) -> list[tuple[str, str, str]]:
        """Find name, image and label, as GDAL names parts of a file."""
        try:
            import tacoreader
        except ImportError as error:
            raise InputError(
                f".taco files need tacoreader below 1 ({error}), got {files[0]}: "
                "pip install 'kappamask[train]'"
            ) from error
        patches = []
        for file in files:
            try:
                table: Any = tacoreader.load(str(file))
            except (OSError, ValueError, AttributeError) as error:
                raise ReadError(
                    f"CloudSEN12+ is of TACO's first version, got {error} for {file}: fetch it "
                    "again, with tacoreader below 1 installed"
                ) from error
            wanted = table["tortilla:data_split"] == TACO_SPLITS[split]
            table = table[wanted & (table["label_type"] == self.label_type)]
            for row, name in enumerate(table["tortilla:id"]):
                parts = table.read(row)
                patches.append((str(name), str(parts.read(0)), str(parts.read(1))))
        return patches

    def _in_folders(self, split: str) -> list[tuple[str, str, str]]:
        """Find name, image and label by the table of metadata."""
        tables = sorted(self.folder.rglob("cloudsen12_metadata.csv"))
        if not tables:
            raise InputError(
                "CloudSEN12 is .taco files, or folders with a cloudsen12_metadata.csv that says "
                f"which patch belongs to which split, got neither in {self.folder}: fetch one"
            )
        with tables[0].open(newline="") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if row["test"] == TABLE_SPLITS[split] and row["label_type"] == self.label_type
            ]
        images = {
            (path.parent.parent.name, path.parent.name): path
            for path in self.folder.rglob(f"S2{self.level}.tif")
        }
        patches = []
        for row in rows:
            image = images.get((row["roi_id"], row["s2_id_gee"]))
            if image is not None:  # a part of the data set is a data set
                label = image.parent / "labels" / LABEL_FILES[self.label_type]
                name = f"{row['roi_id']}-{row['s2_id_gee']}"
                patches.append((name, str(image), str(label)))
        return patches


def read_patch(image: str, label: str, *, name: str, level: str) -> Chip:
    """Read one patch.

    Raises
    ------
    ReadError
        If a file is damaged or absent.
    InputError
        If the image lacks bands, or image and label differ in size.
    """
    what, again = f"patch {name}", "fetch it again"
    layers, spelled = read_layers(image, what, remedy=again)
    codes, _ = read_layers(label, what, remedy=again, indexes=1)
    if len(layers) < len(ORDER[level]) or layers.shape[1:] != codes.shape:
        raise InputError(
            f"a {level} patch has {len(ORDER[level])} bands and a label of its size, got "
            f"{layers.shape} and {codes.shape} for {name}: choose another level in [[data]]"
        )
    dn = stack(dict(zip(_bands_of(spelled, level), layers, strict=False)))
    labels = np.full(codes.shape, Label.UNDEFINED, np.uint8)
    for code, meaning in CODES.items():
        labels[codes == code] = meaning
    labels[~dn.any(0)] = Label.UNDEFINED  # padding
    return Chip(name, dn, labels, level, 10.0, "human")


def _bands_of(spelled: tuple[str | None, ...], level: str) -> tuple[str, ...]:
    """Name the bands by what the file says of each, if it does, else by their order."""
    order = ORDER[level]
    try:
        named = tuple(canonical_name(word or "") for word in spelled[: len(order)])
    except UnknownNameError:
        return order
    return named if set(named) == set(order) else order
