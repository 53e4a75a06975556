"""What a user's type checker and a user's eyes see of the public names."""

import inspect
import typing
from typing import Any

import pytest

import kappamask as km
from kappamask.jobs import compose_items, field_shares, mask_items, mask_product
from kappamask.scenes.area import AreaLike
from kappamask.scenes.dates import DatesLike

RIGHT = """
import datetime as dt
import kappamask as km
items = km.search((11.3, 46.4, 11.4, 46.5), "2022-06")
km.search("field.geojson", (dt.date(2022, 6, 1), None))
cube = km.load_cube(items, {"type": "Polygon", "coordinates": []})
labels = km.predict_cube(cube)
path = km.quicklook(cube[0], labels[0], "one.png")
print(path.stem)
"""
WRONG = """
import kappamask as km
km.search(7, "2022-06")
km.search((1.0, 2.0, 3.0, 4.0), 2022)
km.load_cube([], area=3.5)
"""


@pytest.mark.parametrize("function", [km.search, km.load_cube, km.open_safe, mask_items,
                                      compose_items, mask_product, field_shares])  # fmt: skip
def test_areas_and_dates_have_types(function):
    hints = inspect.get_annotations(function)
    for name, like in {"area": "AreaLike", "fields": "AreaLike", "dates": "DatesLike"}.items():
        assert like in hints.get(name, like), (name, hints[name])
    assert Any not in typing.get_args(AreaLike) + typing.get_args(DatesLike)


@pytest.mark.slow
def test_a_users_mypy_takes_what_is_right_and_tells_what_is_not(tmp_path):
    api = pytest.importorskip("mypy.api")
    for name, text, faults in (("right", RIGHT, 0), ("wrong", WRONG, 3)):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        said, _, _ = api.run(["--follow-imports=silent", "--ignore-missing-imports", str(path)])
        assert said.count(f"{name}.py:") - said.count("note:") == faults, said


def test_names_that_are_shown_are_the_public_ones():
    shown = [name for name in dir(km) if not name.startswith("__")]
    assert shown == sorted(km.__all__)


def test_a_model_shows_itself_in_a_line():
    said = repr(km.load_model(precision="fp32"))
    assert said.startswith("<Model kappamask-")
    assert len(said) < 100
