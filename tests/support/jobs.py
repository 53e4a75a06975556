"""The commands that write files: what they read, and what they write when nothing disturbs them.

The oracle is a run that nothing disturbed: each file that is there afterwards under its final
name opens, reads wholly, and equals that of such a run; nothing else is there.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import rasterio
import torch
from safetensors.torch import load_file

from kappamask.cli import main
from kappamask.networks import manifest
from kappamask.sample import AREA_L2A, catalog_path
from support.chip_files import few_scenes, write_chip_folder
from support.keras_files import make_arrays, write_keras
from support.limited import HIDDEN, Limits
from support.safe_products import Recipe, write_safe

PUBLISHED = "kappamask-2021-l2a"
BBOX = ("--bbox", ",".join(map(str, AREA_L2A)))
DATES = ("--date", "2019-07-01/2019-07-16")  # three of the sample
SEASON = ("--date", "2019-06-16/2019-09-14")  # all twelve
NAMES = ("mask", "mask PRODUCT", "composite", "report", "train", "models fetch")
TRAIN = """
[settings]
widths = [4, 6]
steps = 4
validate_every = 2
batch = 2
size = 32
workers = 0
[[data]]
format = "chips"
folder = "{chips}"
"""


def query(folder: Path, dates=DATES) -> list[str]:
    """Ask a copy of the sample for three dates."""
    return ["--catalog", str(folder / "sample/catalog.json"), *BBOX, *dates]


def write_inputs(folder: Path) -> Path:
    """Write what the commands read: the sample, masks, chips with a configuration, a product."""
    shutil.copytree(catalog_path().parent, folder / "sample")
    assert main(["mask", *query(folder), "--out", str(folder / "masks")]) == 0
    write_chip_folder(folder / "chips")
    (folder / "own.toml").write_text(TRAIN.format(chips=folder / "chips"))
    write_safe(folder, Recipe(shape=(120, 120)))
    write_keras(folder / "l2a_unet.hdf5", make_arrays())
    return folder


def words_of(name: str, folder: Path, out: Path) -> list[str]:
    """Give the words of a command that reads from one folder and writes to another."""
    command, *rest = {
        "mask": ["mask", *query(folder), "--no-pictures", "--out", out],
        "mask a season": ["mask", *query(folder, SEASON), "--no-pictures", "--out", out],
        "mask PRODUCT": ["mask", *folder.glob("*.SAFE"), "--out", out],
        "composite": ["composite", *query(folder), "--period", "month", "--no-pictures",
                      "--out", out],
        "report": ["report", folder / "masks", "--out", out / "page.html"],
        "train": ["train", folder / "own.toml", "--out", out],
        "models fetch": ["models", "fetch", PUBLISHED],
    }[name]  # fmt: skip
    return [command, *map(str, rest)]


@dataclass(frozen=True)
class Job:
    """A command that writes, and what it writes when nothing disturbs it."""

    name: str
    inputs: Path
    entries: tuple = ()  # models that the manifest holds instead of its own
    whole: dict = field(default_factory=dict, repr=False)  # path below its output: bytes
    moves: list = field(default_factory=list, repr=False)  # names, as they came to their places

    def words(self, out: Path) -> list[str]:
        """Give the words of the command."""
        return words_of(self.name, self.inputs, out)

    def limits(self, out: Path, **more) -> Limits:
        """Say what a process of its own needs to know, and what it is refused."""
        return Limits(entries=self.entries, cache=out if self.entries else None, **more)

    def run(self, out: Path) -> int:
        """Run it in this process."""
        shipped, known = manifest.read_registry()
        known = {entry.name: entry for entry in self.entries} or known
        with (
            patch.dict(os.environ, {"KAPPAMASK_CACHE": str(out)}),
            patch.object(manifest, "read_registry", lambda: (shipped, known)),
            few_scenes(),
        ):
            return main(self.words(out))

    def run_whole(self, out: Path) -> None:
        """Run it, and keep what it writes."""
        with counting_moves(out, self.moves):
            assert self.run(out) == 0
        self.whole.update(contents(out))

    def check(self, out: Path) -> set[str]:
        """See that what is there is final, whole, readable and as in the undisturbed run."""
        assert not list(out.rglob(HIDDEN))
        there = contents(out)
        assert set(there) <= set(self.whole)
        for name, content in there.items():
            path = out / name
            if path.suffix == ".tif":
                with rasterio.open(path) as raster:
                    raster.read()
            if path.name in ("last.pt", "best.safetensors", "best.toml", "log.csv"):
                check_run_file(path)  # of another step than that of the finished run
            else:
                assert content == self.whole[name], name
        return set(there)


def check_run_file(path: Path) -> None:
    """See that a file of a training run that stopped early is one of an earlier moment, whole."""
    if path.suffix == ".pt":
        assert torch.load(path, weights_only=True)["step"] % 2 == 0
    elif path.suffix == ".safetensors":
        assert load_file(path)
    elif path.suffix == ".csv":
        head, *rows = list(csv.reader(path.read_text().splitlines()))
        assert [int(row[0]) for row in rows] == list(range(2, 2 * len(rows) + 1, 2))
        assert {len(row) for row in rows} <= {len(head)}


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder, hidden ones too."""
    if not folder.is_dir():
        return {}
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Give name, inode and time of the files of everything whose STAC item, the seal, is there."""
    seals = [
        path for path in folder.rglob("*.json") if "stac_version" in json.loads(path.read_text())
    ]
    files = [path for seal in seals for path in seal.parent.glob(f"{seal.stem}.*")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@contextmanager
def counting_moves(folder: Path, moves: list, *, stop: int | None = None) -> Iterator[None]:
    """Note what is moved to its final place below a folder; come with SIGTERM at move `stop`."""
    replace = os.replace

    def counted(source, target, **named):
        if folder in Path(target).parents:
            if len(moves) == stop:
                signal.raise_signal(signal.SIGTERM)
                raise KeyboardInterrupt  # where a thread moves: signals meet the main one only
            moves.append(Path(target).name)
        return replace(source, target, **named)

    with patch.object(os, "replace", counted):
        yield
