"""Every example of the README and the pages runs, or says visibly why not and is checked."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import tomllib
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
from rasterio.transform import from_origin
from support.commands import COMMANDS
from support.eopf_stores import write_store
from support.rasters import write_raster
from support.safe_products import Recipe, write_safe
from support.scripts import ROOT, load_script

from kappamask.cli import main, make_parser
from kappamask.sample import AREA_L2A, catalog_path
from kappamask.scenes import catalogs
from kappamask.scenes.catalogs import Holding

pytestmark = pytest.mark.slow
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Pages that come with what they describe (training runs, benchmarks...): options and names only.
CHECKED_ONLY = {
    "docs/training.md",
    "docs/performance.md",
    "docs/model-card.md",
    "docs/reliability.md",
    "docs/security.md",
}
# The example area and dates of the pages, and where the embedded sample has the like.
BBOX = ",".join(map(str, AREA_L2A))
CORNERS = dict(zip(("west", "south", "east", "north"), AREA_L2A, strict=True))
STAND_INS = {
    "11.29,46.46,11.40,46.53": BBOX,
    "(11.29, 46.46, 11.40, 46.53)": str(AREA_L2A),
    '{"west": 11.29, "south": 46.46, "east": 11.40, "north": 46.53}': repr(CORNERS),
    "2022-06-01/2022-06-30": "2019-07-11/2019-07-31",
    '["2022-06-01", "2022-07-01"]': '["2019-07-11", "2019-08-01"]',
}
SERVED = "http://127.0.0.1:8080"


# --- examples of a page ------------------------------------------------------------------------

FENCE = re.compile(
    r"(?:^\*Not run by the tests: (?P<reason>[^*]+)\*\n\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SHELLS = ("console", "bash", "sh", "shell")


@dataclass(frozen=True)
class Example:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None  # why it is not run

    @property
    def commands(self):
        """Words of each command, without prompt and comment; lines that go on are joined."""
        joined = self.text.replace("\\\n", " ").splitlines()
        lines = [line for line in joined if line.strip()]
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def read_examples(path):
    """Find the fenced blocks of a page that hold commands or Python."""
    text = path.read_text("utf-8")
    return [
        Example(
            path.relative_to(ROOT).as_posix(),
            text[: found.start("language")].count("\n") + 1,
            found["language"],
            found["text"],
            " ".join(found["reason"].split()) if found["reason"] else None,
        )
        for found in FENCE.finditer(text)
        if found["language"] in (*SHELLS, "python")
    ]


def check_names(text):
    """Compile Python; whatever it says of kappamask exists."""
    tree = ast.parse(text)
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "kappamask":
                    importlib.import_module(alias.name)
                    known[alias.asname or "kappamask"] = importlib.import_module(
                        alias.name if alias.asname else "kappamask"
                    )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kappamask":
            for alias in node.names:
                module = importlib.import_module(node.module)
                known[alias.asname or alias.name] = getattr(module, alias.name)
    known.setdefault("km", importlib.import_module("kappamask"))  # imported further up a page
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _resolve(node, known)


def _resolve(node, known):
    """Look up `km.a.b`; None for anything else."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, known)
        return None if owner is None else getattr(owner, node.attr)
    return None


# --- a reader ---------------------------------------------------------------------------------


def every_example():
    return [example for page in PAGES for example in read_examples(page)]


def stand_in(text):
    for said, meant in STAND_INS.items():
        text = text.replace(said, meant)
    return text


@pytest.fixture
def sample_for_earth_search(monkeypatch):
    """Let the names of Earth Search lead to the embedded sample."""
    for name in ("earth-search", "earth-search-sentinel-2-l2a"):
        profile = catalogs.PROFILES[name]
        holding = Holding(("sentinel-2-l2a",), profile.levels["L2A"].assets)
        # Another spelling of the path: who asks for the sample itself gets it by its own items.
        url = f"{catalog_path().parent}/../sample/catalog.json"
        ours = replace(profile, url=url, levels={**profile.levels, "L2A": holding})
        monkeypatch.setitem(catalogs.PROFILES, name, ours)


def check_command(words):
    """Check a command that is not run: its options, or the extras and targets it names."""
    if words[0] == "kappamask":
        make_parser().parse_args(words[1:])
    elif words[:2] == ["pip", "install"]:
        named = re.search(r"\[(.*)\]", words[-1])
        extras = set(named[1].split(",")) if named else set()
        assert extras <= set(PYPROJECT["project"]["optional-dependencies"]), words
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:]), words


def is_install(words):
    """Tell what would install something, or run these tests again: checked, never run."""
    return words[:2] == ["pip", "install"] or words[0] == "make" or words[1:3] == ["-m", "venv"]


class Reader:
    """Someone who reads a page from top to bottom and does as it says."""

    def __init__(self, stack):
        self.stack, self.names, self.served = stack, {"__name__": "__main__"}, None

    def follow(self, example):
        if example.language == "python":
            self.run_python(example)
        else:
            for words in example.commands:
                meant = [stand_in(word) for word in words]
                if meant[:2] == ["kappamask", "evaluate"]:  # keeps a clear date out: 1 July is
                    meant = [word.replace("2019-07-11/", "2019-07-01/") for word in meant]
                self.run_command(meant)

    def run_python(self, example):
        text = stand_in(example.text)
        if SERVED in text:
            assert self.served, "a page starts a server before it connects to it"
            text = text.replace(SERVED, self.served)
        code = compile("\n" * example.line + text, example.page, "exec")
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            # numpy's: dates without any clear pixel, as users see them
            warnings.filterwarnings("ignore", "All-NaN slice|Mean of empty slice", RuntimeWarning)
            exec(code, self.names)  # noqa: S102

    def run_command(self, words):
        if is_install(words):
            check_command(words)
        elif words[:2] == ["kappamask", "serve"]:
            self.serve(make_parser().parse_args(words[1:]))
        else:
            assert words[0] == "kappamask", f"mark what is no command of ours as not run: {words}"
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(words[1:]) == 0, words

    def serve(self, options):
        pytest.importorskip("uvicorn")
        from support.openeo_server import serving

        from kappamask.openeo.server.settings import Settings

        assert options.catalog == "earth-search"
        assert SERVED.endswith(f":{options.port}")
        settings = Settings(catalog=str(catalog_path()), workdir=options.workdir, port=0)
        self.served = self.stack.enter_context(serving(settings))


def write_sources(folder):
    """Write what people have: a raster, a folder of products, one of them as a Zarr store."""
    recipe = Recipe(level="L2A", baseline="05.11", offset=-1000, shape=(60, 60))
    write_safe(folder / "products", recipe)
    write_store(folder / "products", recipe)
    place = {"crs": 32632, "transform": from_origin(600000, 5000040, 10, 10)}
    write_raster(folder / "mine.tif", np.full((4, 40, 50), 1500, "uint16"), **place)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
@pytest.mark.usefixtures("sample_for_earth_search")
def test_examples_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    examples = read_examples(page)
    monkeypatch.chdir(tmp_path)
    if page.name == "sources.md":
        write_sources(tmp_path)
    with contextlib.ExitStack() as stack:
        reader = Reader(stack)
        for example in examples:
            if example.reason or example.page in CHECKED_ONLY:
                check(example)
            else:
                reader.follow(example)


def check(example):
    if example.language == "python":
        check_names(example.text)
    else:
        for words in example.commands:
            check_command(cut_loop(words))


def cut_loop(words):
    """Take the command out of ``until kappamask ...; do ...``."""
    start = words.index("kappamask") if "kappamask" in words else 0
    ends = [index for index, word in enumerate(words) if word.endswith(";")]
    last = words[start : ends[0] + 1] if ends else words[start:]
    return [word.rstrip(";") for word in last]


def test_the_pages_have_examples_of_every_command():
    """What a reader is shown is run or parsed: nothing of the command line is left out."""
    shown = {
        words[1]
        for example in every_example()
        if example.language in SHELLS
        for words in example.commands
        if words[0] == "kappamask" and len(words) > 1
    }
    offered = {name.split()[0] for name in COMMANDS}
    missing = offered - shown - {"train", "evaluate"}  # docs/training.md, docs/model-card.md
    assert not missing


def test_reasons_are_reasons():
    marked = [example for example in every_example() if example.reason]
    assert marked
    for example in marked:
        assert len(example.reason) > 10, example
    loose = [
        path.name
        for path in PAGES
        if path.read_text("utf-8").count("*Not run by the tests:")
        != sum(1 for example in read_examples(path) if example.reason)
    ]
    assert not loose  # a mark that stands above no example marks nothing


def test_figures_on_pages_are_those_of_the_manifest():
    figures = load_script("docs/tools/figures.py")
    table = figures.figures_table(figures.read_registry())
    for page in figures.PAGES:
        text = page.read_text("utf-8")
        assert figures.with_figures(text, table) == text, "run: python docs/tools/figures.py"


def test_figures_follow_the_manifest():
    figures = load_script("docs/tools/figures.py")
    metrics = {"ukis_ref_dice": {"clear": 0.9, "cloud_shadow": 0.81}, "new_one": [0.5, 1.0]}
    registry = {"default": {"L2A": "b"}, "models": {"b": {"metrics": metrics}}}
    table = figures.figures_table(registry)
    assert "| measured on | b |" in table
    assert "dice of clear / cloud shadow | .900 / .810 |" in table
    assert "| new one | .500 / 1.000 |" in table


def test_the_page_of_classes_shows_the_legend():
    from kappamask.base.legend import LEGEND

    text = (ROOT / "docs" / "classes.md").read_text("utf-8")
    for entry in LEGEND:
        assert f"| {int(entry.label)} | `{entry.name}` | `#{entry.color}` |" in text
