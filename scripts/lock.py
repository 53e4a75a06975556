"""Write locks/*.txt: the versions of constraints.txt with the sha256 of all their files.

``python scripts/lock.py``, with uv on the path and an index that holds the files of PyPI; `make
lock` does that after a change of pyproject.toml or constraints.txt. torch, and what it brings for
graphics cards, is left out: its builds for processors come from whichever index a machine has, and
each has hashes of its own. constraints.txt names its version.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {"demo": [], "dev": ["--extra", "dev"], "serve": ["--extra", "serve"]}  # `make`, the image
LEFT_OUT = re.compile(r"(?:torch|triton|nvidia-|cuda-)")
HEAD = "# Written by scripts/lock.py: what {} needs but torch, as in constraints.txt.\n"
COMMAND = (
    "uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11.5",
    "--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--constraint",
    "constraints.txt",
)  # fmt: skip


def lock(name: str) -> str:
    """Resolve what a lock installs, on all systems: lines of requirements."""
    command = [*COMMAND, *LOCKS[name]]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own words
    entries = re.split(r"(?m)^(?=[a-z0-9])", said.stdout)
    return HEAD.format(name) + "".join(one for one in entries if one and not LEFT_OUT.match(one))


def main() -> None:
    """Write all of them."""
    for name in LOCKS:
        (ROOT / "locks" / f"{name}.txt").write_text(lock(name), "utf-8")


if __name__ == "__main__":
    main()
