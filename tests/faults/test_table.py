"""docs/reliability.md has a row for every fault, all survived; codecs notice what it says."""

import pytest
from support.scripts import ROOT, load_script

from faults.flips import CODECS, count_flips
from faults.table import FAULTS

PAGE = ROOT / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def tool():
    return load_script("docs/tools/reliability.py")


def test_every_fault_has_its_row_and_nothing_was_lost(tool):
    rows = tool.read_table(PAGE.read_text("utf-8"), "faults")
    assert [row[:2] for row in rows] == [[f.name, tool.GOT[f.expected]] for f in FAULTS]
    for name, _, tried, survived, lost, wrong in rows:
        assert (survived, lost, wrong) == (tried, "0", "0"), name


def test_every_codec_has_its_row(tool):
    rows = tool.read_table(PAGE.read_text("utf-8"), "flips")
    assert [row[0] for row in rows] == list(CODECS)
    for _, tried, *parts in rows:
        assert sum(map(int, parts)) == int(tried)


def test_deflate_notices_most_flips_and_bare_numbers_none():
    packed, bare = (count_flips(f"COG, {name}", tries=60) for name in ("DEFLATE", "not compressed"))
    assert packed.noticed > 40
    assert bare.unnoticed > 50


def test_a_page_keeps_its_text_and_has_the_marks_once(tool):
    marked = f"a\n{tool.BEGIN.format('x')}\nold\n{tool.END.format('x')}\nb"
    written = tool.with_table(marked, "x", "| new |")
    assert written == marked.replace("old", "| new |")
    with pytest.raises(SystemExit, match="got 0"):
        tool.with_table("a", "x", "")
