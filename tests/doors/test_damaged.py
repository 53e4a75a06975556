"""A file that cannot be read is named, costs what depends on it, and nothing more once mended."""

import re
import shutil

import pytest
from support.jobs import contents, finished, words_of
from support.limited import HIDDEN

from kappamask.cli import main

# chips need no place on earth
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
COG, JP2 = "sample/sentinel-2-l2a/*20190711*/B02.tif", "*.SAFE/GRANULE/*/IMG_DATA/*_B11.jp2"
HOW = {
    "gone": lambda _: None,
    "empty": lambda _: b"",
    "a web page": lambda _: b"<html>403</html>",
    "cut short": lambda content: content[: len(content) // 3],
    "cut in its header": lambda content: content[:60],
}
CUT = ("empty", "cut in its header", "cut short")
# command, its file, how it is damaged, what a line tells, how many items there are all the same
CASES = [
    *(("mask", COG, how, "cannot read .*NAME", 2) for how in HOW),
    *(("mask PRODUCT", JP2, how, "cannot read .*NAME", 0) for how in CUT[:2]),
    ("mask PRODUCT", JP2, CUT[2], "NAME contradicts itself, .* it is damaged", 0),  # by its header
    ("composite", COG, "cut short", "cannot read .*NAME", 3),
    ("mask PRODUCT", "*.SAFE/MTD_MSIL1C.xml", "cut short", "NAME", 0),
    ("mask PRODUCT", "*.SAFE/GRANULE/*/MTD_TL.xml", "cut short", "NAME", 0),
    ("report", "masks/*20190711*.json", "cut short", "NAME .*delete it and mask that date", 0),
    ("report", "masks/*20190711*.json", "empty", "NAME .*delete it and mask that date", 0),
    *(("train", "chips/c1.tif", how, "NAME", 0) for how in ("gone", "cut short")),
    *(("train", "chips/c1_label.tif", how, r"c1(_label)?\.tif", 0) for how in CUT),
    ("train", "own.toml", "cut short", "NAME", 0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {case[1]} {case[2]}")
def test_a_damaged_file_is_named_and_mended_all_is_done(inputs, tmp_path, capsys, case):
    name, pattern, how, told, left = case
    data = shutil.copytree(inputs, tmp_path / "in")
    config = data / "own.toml"
    config.write_text(config.read_text().replace(str(inputs), str(data)))
    words = words_of(name, data, tmp_path / "out")
    (path,) = data.glob(pattern)
    whole = path.read_bytes()
    damaged = HOW[how](whole)
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)

    assert main(words) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert re.search(told.replace("NAME", re.escape(path.name)), "\n".join(lines)), lines
    assert "Traceback" not in "".join(lines)
    assert not list(tmp_path.rglob(HIDDEN))
    kept = finished(tmp_path / "out")
    assert len([file for file in kept if file.endswith(".json")]) == left, kept

    if name in ("report", "train"):  # they read all before they write anything
        assert not contents(tmp_path / "out")
        return
    path.write_bytes(whole)
    assert main(words) == 0
    now = finished(tmp_path / "out")
    assert kept.items() <= now.items() or name == "composite"  # made again, of one date more
    assert len(now) > len(kept)
