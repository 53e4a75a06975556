"""The examples of the README and the pages: taken from the text, run or checked."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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
