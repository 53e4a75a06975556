"""Help of every command has an example that parses; public names are documented and tried."""

import doctest
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
from support.commands import COMMANDS, HOLDING

import kappamask as km
from kappamask.cli import make_parser

ROOT = Path(__file__).resolve().parents[1]


def shown_names():
    """What the API pages show: modules, and single names of modules."""
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    return re.findall(r"^::: (\S+)$", "\n".join(map(Path.read_text, pages)), re.MULTILINE)


def look_up(name):
    """Import a module, or a name of one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def members(name):
    """What a page shows of a module."""
    thing = look_up(name)
    return vars(thing).values() if inspect.ismodule(thing) else ()


def public_objects():
    """Functions and classes of `kappamask.__all__` and of the API pages, by full name."""
    things = [getattr(km, name) for name in km.__all__]
    for name in shown_names():
        thing = look_up(name)
        if inspect.ismodule(thing):
            names = getattr(thing, "__all__", None) or [
                name
                for name, member in vars(thing).items()
                if not name.startswith("_") and getattr(member, "__module__", "") == thing.__name__
            ]
            things += [getattr(thing, name) for name in names]
        else:
            things.append(thing)
    return {
        f"{thing.__module__}.{thing.__qualname__}": thing
        for thing in things
        if inspect.isfunction(thing) or inspect.isclass(thing)
    }


def has_example(thing):
    finder = doctest.DocTestFinder(recurse=False)
    return any(test.examples for test in finder.find(thing, thing.__qualname__))


def test_every_public_function_has_an_example_that_is_run():
    without = {
        name
        for name, thing in public_objects().items()
        if inspect.isfunction(thing) and not has_example(thing)
    }
    assert without == set(), "these need an example"


def test_every_public_name_has_a_docstring_that_begins_with_a_sentence():
    for name, thing in public_objects().items():
        said = inspect.getdoc(thing) or ""
        assert re.match(r"[^\n]+[.:]?(\n|$)", said), name
        assert said.splitlines()[0].rstrip().endswith((".", "?")), name


def test_every_main_name_is_on_an_api_page():
    shown = {id(thing) for name in shown_names() for thing in (look_up(name), *members(name))}
    assert not [name for name in km.__all__ if id(getattr(km, name)) not in shown]


@pytest.mark.parametrize(
    "name", [name for name in km.__all__ if inspect.isfunction(getattr(km, name))]
)
def test_the_main_names_have_numpydoc_sections(name):
    said = inspect.getdoc(getattr(km, name))
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert re.search(rf"^{section}\n-+$", said, re.MULTILINE), section
    for parameter in inspect.signature(getattr(km, name)).parameters:
        assert re.search(rf"^(\w+, )*{parameter}(, \w+)*\n    ", said, re.MULTILINE), parameter


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - HOLDING))
def test_help_of_every_command_ends_with_an_example_that_parses(name):
    parser = COMMANDS[name]
    _, _, examples = (parser.epilog or "").partition("\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert re.match(r"examples?:", parser.epilog or ""), "add an epilog"
    assert lines
    for line in lines:
        program, *rest = shlex.split(line)
        assert program == "kappamask"
        options = make_parser().parse_args(rest)
        assert options.run
    assert any(f"{line} ".startswith(f"kappamask {name} ") for line in lines)
    assert parser.description
