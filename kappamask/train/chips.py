"""Labelled chips: what training and evaluation read. GeoTIFF through rasterio."""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window

from kappamask.base.bands import LEVELS, NAMES, get_band
from kappamask.base.errors import InputError, ReadError
from kappamask.base.legend import Label
from kappamask.scenes.formats import PIXELS, open_pixels
from kappamask.train.teacher import remember

SLOT = {name: slot for slot, name in enumerate(NAMES)}
BLUE = SLOT["B02"]
DATED = re.compile(r"(.+?)[_-]?(\d{4}-\d\d-\d\d|\d{8})")
PAIRED = re.compile(r"(.+)_(?:cloudy|clear)")
# What users have: the four 10 m bands, with SWIR, without 60 m bands.
COMMON_BAND_SETS = (
    ("B02", "B03", "B04", "B08"),
    ("B02", "B03", "B04", "B08", "B11", "B12"),
    ("B02", "B03", "B04", "B8A", "B11", "B12"),
    ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
)
STRIP = 600  # pixels per side of a piece of T32UPV; a multiple of 6, for 60 m bands
SCL_CLOUD, SCL_NONE = (8, 9, 10), 255
COLUMNS = ("file", "split", "label_kind", "level", "resolution_m")  # of chips.csv
ALGORITHMIC = ("net", "scl+net")  # kinds of labels that programs made: they may be wrong
# Kinds that need no file of labels, and what they are afterwards: somebody saw that all of it is
# ground or cloud, other dates will judge it, or the teacher will.
WITHOUT_FILE = {
    "seen clear": "clear", "seen overcast": "overcast", "dates": "dates", "teacher": "net",
}  # fmt: skip
HELP = "see docs/training.md"


@dataclass(frozen=True)
class Chip:
    """One labelled piece of a scene."""

    name: str
    dn: np.ndarray  # (13, y, x) uint16: reflectance x 10000, 0 = no data or band absent
    label: np.ndarray  # (y, x) uint8, codes of `Label`, or `kappamask.train.series.CLOUDY`
    level: str
    resolution: float  # metres
    kind: str  # who labelled: human, scl+net, net, clear, overcast, dates
    scl: np.ndarray | None = None  # (y, x) uint8, classes of Sen2Cor, 255 none
    evidence: np.ndarray | None = None  # (3, y, x) float32: `kappamask.train.teacher.teach`
    verdict: np.ndarray | None = None  # (y, x) uint8: `kappamask.train.series.judge`

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that hold any data."""
        return tuple(name for name, band in zip(NAMES, self.dn, strict=True) if band.any())

    @property
    def date(self) -> dt.date | None:
        """Day that the name ends in, YYYYMMDD or YYYY-MM-DD.

        Examples
        --------
        >>> nothing = np.zeros((13, 1, 1), np.uint16)
        >>> names = ("field_20240612", "field_2024-06-12", "field_3", "field_12345678")
        >>> [str(Chip(name, nothing, nothing[0], "L2A", 10.0, "net").date) for name in names]
        ['2024-06-12', '2024-06-12', 'None', 'None']
        """
        found = DATED.fullmatch(self.name)
        try:
            return dt.date.fromisoformat(found[2]) if found else None
        except ValueError:
            return None

    @property
    def place(self) -> str:
        """The name without the day, and without saying which of a pair it is."""
        found = DATED.fullmatch(self.name) or PAIRED.fullmatch(self.name)
        return found[1] if found else self.name

    def reflectance(self) -> np.ndarray:
        """(13, y, x) float32, NaN where there is no data."""
        return np.where(self.dn > 0, self.dn / np.float32(10000), np.float32(np.nan))


def spread(items: Sequence[Any], limit: int | None) -> list[Any]:
    """Choose at most `limit` of some things, from all parts of the sequence.

    Examples
    --------
    >>> spread("abcdef", 3), spread("ab", 3), spread("ab", None)
    (['a', 'c', 'e'], ['a', 'b'], ['a', 'b'])
    """
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[place * len(items) // limit] for place in range(limit)]


def read_chips(
    folder: Path, split: str, *, limit: int | None = None, table: Path | None = None
) -> list[Chip]:
    """Read the chips of one split from a folder with a `chips.csv`.

    Parameters
    ----------
    folder
        Laid out as `docs/training.md` says.
    split
        ``"train"``, ``"val"`` or ``"test"``.
    limit
        At most so many chips, spread evenly over the split.
    table
        Instead of the folder's `chips.csv`; its files are seen from `folder`.

    Raises
    ------
    InputError
        If the table, or a column of it, is absent, or a chip does not fit its label.
    ReadError
        If a file is damaged or absent.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     read_chips(Path(empty), "train")
    Traceback (most recent call last):
    kappamask.base.errors.InputError: ...
    """
    table = table or folder / "chips.csv"
    if not table.is_file():
        raise InputError(f"a folder of chips has a chips.csv, got none at {table}: {HELP}")
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if lacking := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise InputError(
                f"chips.csv has the columns {', '.join(COLUMNS)}, got none called "
                f"{', '.join(lacking)} in {table}: {HELP}"
            )
        rows = [row for row in reader if row["split"] == split and row["label_kind"] != "none"]
    return [read_chip(folder / row["file"], row) for row in spread(rows, limit)]


def read_layers(
    file: Path | str,
    what: str,
    *,
    formats: Sequence[str] = PIXELS,
    remedy: str = "write it again",
    **how: Any,
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Read a raster (band, y, x), and what each of its bands is described as.

    Parameters
    ----------
    file
        As `kappamask.scenes.formats.open_pixels` takes it, with `formats`.
    what, remedy
        For an error: what cannot be read, and what to do about it.
    how
        For `rasterio.io.DatasetReader.read`.

    Raises
    ------
    ReadError
        If the file is damaged or absent.
    """
    try:
        with open_pixels(str(file), formats) as source:
            return source.read(**how), source.descriptions
    except RasterioError as error:
        raise ReadError(f"{what} cannot be read ({error}): {remedy}") from error


def read_chip(path: Path, row: dict[str, str]) -> Chip:
    """Read one chip and its label, doubtful labels taken out.

    A row may say more than the columns that it must have: ``name``, where the file's own tells
    too little, and ``relabel``, codes that are taken for others, such as ``3>6 1>0``.
    """
    kind, level = WITHOUT_FILE.get(row["label_kind"], row["label_kind"]), row["level"]
    image, names = read_layers(path, f"chip {path}")
    dn = stack(dict(zip(names, image, strict=True)))
    label, scl = np.zeros(dn.shape[1:], np.uint8), None
    label[dn.any(0)] = kind == "clear"
    if row["label_kind"] not in WITHOUT_FILE:
        label_path = path.with_name(f"{path.stem}_label.tif")
        layers, names = read_layers(label_path, f"chip {path}")
        label = layers[0].copy()  # not a view: the other bands would stay in memory
        scl = layers[1].copy() if len(layers) > 1 and names[1] != "as_drawn" else None
    if label.shape != dn.shape[1:] or not dn.any() or level not in LEVELS:
        raise InputError(
            f"a chip has bands described as B02, B03, ..., a label of its size and a level "
            f"{' or '.join(LEVELS)}, got {dn.shape[1:]}, {label.shape}, {level!r} for "
            f"{path}: {HELP}"
        )
    drawn = label.copy()
    for change in (row.get("relabel") or "").split():
        before, _, after = change.partition(">")
        label[drawn == int(before)] = int(after)
    name = row.get("name") or path.stem
    chip = Chip(name, dn, label, level, float(row["resolution_m"]), kind, scl)
    return distrust(chip) if kind in ALGORITHMIC else chip


def stack(layers: Mapping[str, np.ndarray], *, offset: int = 0) -> np.ndarray:
    """Put DN by band into their slots: (13, y, x) uint16, 0 where a band is absent or unknown.

    Reflectance of 0 or less is dark, not missing: a pixel that holds data in any band gets at
    least 1 in all that there are. `offset` is added to DN.
    """
    known = {name: layer for name, layer in layers.items() if name in SLOT}
    shape = next(iter(layers.values())).shape
    dn, stored = np.zeros((len(NAMES), *shape), np.uint16), np.zeros(shape, bool)
    for layer in known.values():
        stored |= layer > 0
    for name, layer in known.items():
        if layer.any():
            shifted = np.maximum(layer.astype(np.int32) + offset, 1)
            dn[SLOT[name]] = np.where(stored, shifted, 0)
    return dn


def distrust(chip: Chip) -> Chip:
    """Take back what the labellers are known to get wrong, seen in pictures.

    Sen2Cor's thin cloud is the rim of thick cloud more often than not, so it becomes
    undefined. A network alone calls haze and clear gaps between clouds shadow, so its
    shadows become undefined too; and it calls cirrus cloud, so faint clouds become
    semi-transparent.
    """
    label = chip.label.copy()
    if chip.kind == "scl+net":
        label[label == Label.SEMI_TRANSPARENT] = Label.UNDEFINED
        return replace(chip, label=label)
    label[label == Label.CLOUD_SHADOW] = Label.UNDEFINED
    faint = (label == Label.CLOUD) & (chip.dn[BLUE] < (2200 if chip.level == "L1C" else 1800))
    label[faint] = Label.SEMI_TRANSPARENT
    return replace(chip, label=label)


def read_bands(
    paths: Mapping[str, Path], *, offset: int = 0, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Read one file per band into their slots, see `stack`; to `shape`, pixels are repeated."""
    layers = {
        name: read_layers(path, f"band {path}", indexes=1, out_shape=shape)[0]
        for name, path in paths.items()
    }
    return stack(layers, offset=offset)


def read_bolzano_date(folder: Path) -> np.ndarray:
    """Read one date of the Bolzano scene: (13, y, x), four 10 m bands, stored with +1000."""
    return read_bands({name: folder / f"{name}.tif" for name in COMMON_BAND_SETS[0]}, offset=-1000)


def read_bolzano(folder: Path) -> list[Chip]:
    """Read the labelled dates of the Bolzano scene."""
    return [
        _read_own(path, path.parent.name, read_bolzano_date(path.parent), resolution=10.0)
        for path in sorted(folder.glob("*/label.tif"))
    ]


def read_safe_blocks(folder: Path) -> list[Chip]:
    """Read the labelled 610 x 610 blocks of the 60 m product T29UNU (offset -1000)."""
    paths = {
        name: path
        for name in NAMES
        for path in folder.glob(f"*T29UNU*/GRANULE/*/IMG_DATA/R60m/*_{name}_60m.jp2")
    }
    if not paths:
        return []
    dn = read_bands(paths, offset=-1000)
    chips = []
    for path in sorted(folder.glob("labels_T29UNU/*_label.tif")):
        row, column = (int(digit) * 610 for digit in path.stem.split("_")[1])
        block = dn[:, row : row + 610, column : column + 610].copy()
        chips.append(_read_own(path, path.stem, block, resolution=60.0))
    return chips


def _read_own(path: Path, name: str, dn: np.ndarray, *, resolution: float) -> Chip:
    """Read labels of the project's own: a program's beside Sen2Cor's classes."""
    (label, scl), _ = read_layers(path, f"chip {path}", indexes=(1, 2))
    return distrust(Chip(name, dn, label, "L2A", resolution, "scl+net", scl))


def read_strip(folder: Path) -> list[Chip]:
    """Read the L1C product T32UPV, 13 bands at 10 m: the strip that holds data, in five pieces.

    Nobody labelled it: `kind` is ``"net"``, for the teacher. Baseline 02.05 has no offset.
    """
    paths = {
        name: path
        for name in NAMES
        for path in folder.glob(f"*MSIL1C*T32UPV*/GRANULE/*/IMG_DATA/*_{name}.jp2")
    }
    if len(paths) < len(NAMES):
        return []
    chips = []
    for top in range(0, 5 * STRIP, STRIP):
        layers = {}
        for name, path in paths.items():
            factor = get_band(name).gsd // 10
            window = Window(0, top // factor, STRIP // factor, STRIP // factor)
            coarse, _ = read_layers(path, f"band {path}", indexes=1, window=window)
            layers[name] = coarse.repeat(factor, 0).repeat(factor, 1)
        undefined = np.full((STRIP, STRIP), Label.UNDEFINED, np.uint8)
        chips.append(Chip(f"t32upv_{top}", stack(layers), undefined, "L1C", 10.0, "net"))
    return chips


def ask_teacher(chips: Iterable[Chip], folder: Path | None) -> list[Chip]:
    """Give chips with algorithmic labels the teacher's evidence, kept in `folder` as files.

    Chips that people labelled, or that are clear by construction, need none; at 120 m
    the teacher sees pixels that it was not made for. Without a folder nobody is asked.
    """
    taught = []
    for chip in chips:
        if folder is not None and chip.kind in ALGORITHMIC and chip.resolution <= 60:
            path = folder / f"{chip.name}.npy"
            evidence = remember(path, chip.dn, level=chip.level, resolution=chip.resolution)
            chip = replace(chip, evidence=evidence)  # noqa: PLW2901
        taught.append(chip)
    return taught
