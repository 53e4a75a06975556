"""What a user's type checker and a user's eyes see of the public names."""

import inspect
import typing
from typing import Any

import pytest

import kappamask as km
from kappamask.jobs import compose_items, field_shares, mask_items, mask_product
from kappamask.scenes.area import AreaLike
from kappamask.scenes.dates import DatesLike


@pytest.mark.parametrize("function", [km.search, km.load_cube, km.open_safe, mask_items,
                                      compose_items, mask_product, field_shares])  # fmt: skip
def test_areas_and_dates_have_types(function):
    hints = inspect.get_annotations(function)
    for name, like in {"area": "AreaLike", "fields": "AreaLike", "dates": "DatesLike"}.items():
        assert like in hints.get(name, like), (name, hints[name])
    assert Any not in typing.get_args(AreaLike) + typing.get_args(DatesLike)


def test_names_that_are_shown_are_the_public_ones():
    shown = [name for name in dir(km) if not name.startswith("__")]
    assert shown == sorted(km.__all__)


def test_a_model_shows_itself_in_a_line():
    said = repr(km.load_model(precision="fp32"))
    assert said.startswith("<Model kappamask-")
    assert len(said) < 100
