"""Tests mirror the house: folders are rooms, and no two files have one name."""

from collections import Counter
from pathlib import Path

import kappamask

HERE = Path(__file__).resolve().parent
HOUSE = Path(kappamask.__file__).parent
OTHERS = {"doors", "faults", "fuzz", "support"}  # what no single room answers for


def test_files_of_tests_have_names_of_their_own():
    """Without packages, pytest imports a file by its bare name."""
    names = Counter(path.name for path in HERE.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_folders_of_tests_are_rooms():
    folders = {path.parent.relative_to(HERE) for path in HERE.rglob("test_*.py")}
    rooms = {folder for folder in folders if folder.parts and folder.parts[0] not in OTHERS}
    there = {path.relative_to(HOUSE).with_suffix("") for path in HOUSE.rglob("*")}
    assert rooms - there == set()
