"""Tests mirror the house: folders are rooms, and no two files have one name."""

import re
from collections import Counter
from pathlib import Path

import kappamask

HERE = Path(__file__).resolve().parent
HOUSE = Path(kappamask.__file__).parent
FILES = sorted(path.relative_to(HERE) for path in HERE.rglob("test_*.py"))
OTHERS = {"doors", "faults", "fuzz", "support"}  # what no single room answers for


def test_files_of_tests_have_names_of_their_own():
    """Without packages, pytest imports a file by its bare name."""
    names = Counter(path.name for path in FILES)
    assert [name for name, count in names.items() if count > 1] == []


def test_folders_of_tests_are_rooms():
    rooms = {path.parent for path in FILES if path.parent.parts and path.parts[0] not in OTHERS}
    there = {path.relative_to(HOUSE).with_suffix("") for path in HOUSE.rglob("*")}
    assert rooms - there == set()


def test_tests_that_texts_name_are_there():
    named = {}
    for page in [
        *HERE.parent.glob("*.md"),
        *HERE.parent.glob("docs/**/*.md"),
        *HOUSE.rglob("*.py"),
    ]:
        text = page.read_text("utf-8")
        named |= dict.fromkeys(re.findall(r"(?:tests/[\w/]*)?test_\w+\.py", text), page)
    there = {f"tests/{path.as_posix()}" for path in FILES} | {path.name for path in FILES}
    assert {name: page for name, page in named.items() if name not in there} == {}
    assert named
