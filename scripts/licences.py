"""List the licences of everything that kappamask and its extras install; `make audit` prints it.

``python scripts/licences.py [EXTRA ...]``, all extras without one. Requirements are followed from
pyproject.toml through what is installed here. Exit code 1 where a licence is not on the list, or is
not told. tests/test_licences.py runs it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# Words of licences that an Apache-2.0 program may be shipped with. MPL and LGPL hold for their own
# files: they are used as they are. NOTICE names who is under them.
ALLOWED = (
    "apache", "mit", "mit-0", "mit-cmu", "bsd", "0bsd", "isc", "psf", "python software", "mpl",
    "mozilla", "lgpl", "lesser general public", "unlicense", "hpnd", "historical permission",
    "zlib", "cc0", "zpl", "zope", "etalab-2.0",
)  # fmt: skip
FORBIDDEN = re.compile(
    r"\bA?GPL|(?<!lesser )general public license|affero|cc[ -]by[ -](?:sa|nc)", re.IGNORECASE
)
# What metadata do not tell, or tell in other words; looked up in the files of each.
KNOWN = {"odc-stac": "Apache-2.0", "tacoreader": "MIT"}
# Only run, and only where the user asks for these extras: docs/security.md.
EXCEPT = {"s2cloudless": "CC BY-SA 4.0, extra evaluate"}


def requirements(extras: Iterable[str] | None = None) -> list[Requirement]:
    """Read what pyproject.toml asks for, of some extras or of all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    optional = project["optional-dependencies"]
    chosen = [*optional] if extras is None else [*extras]
    asked = list(project["dependencies"])
    seen: set[str] = set()
    while chosen:
        extra = chosen.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in optional[extra]:
            required = Requirement(line)
            if required.name == "kappamask":
                chosen += required.extras
            else:
                asked.append(line)
    return [Requirement(line) for line in asked]


def installed(extras: Iterable[str] | None = None) -> dict[str, Distribution]:
    """Follow the requirements: distributions by name; what is not installed is left out."""
    found: dict[str, Distribution] = {}
    pending = [(required, required.extras) for required in requirements(extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        required, wanted = pending.pop()
        name = canonicalize_name(required.name)
        if (name, frozenset(wanted)) in seen:
            continue
        seen.add((name, frozenset(wanted)))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in found[name].requires or ():
            inner = Requirement(line)
            environments = [{"extra": extra} for extra in (*wanted, "")]
            if inner.marker is None or any(map(inner.marker.evaluate, environments)):
                pending.append((inner, inner.extras))
    return found


def licence_of(found: Distribution) -> str:
    """Tell the licence in the words of the metadata, the most exact ones first."""
    metadata = found.metadata
    name = canonicalize_name(metadata["Name"])
    if name in KNOWN:
        return KNOWN[name]
    classified = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier") or ()
        if text.startswith("License ::") and not text.endswith("OSI Approved")
    ]
    told = metadata.get("License-Expression") or "; ".join(classified) or metadata.get("License")
    return " ".join((told or "").split())[:60]


def is_allowed(name: str, licence: str) -> bool:
    """Tell whether a licence is on the list; of alternatives ("OR") one is enough."""
    alternatives = re.split(r"\bOR\b", licence)
    fine = [
        any(word in one.lower() for word in ALLOWED) and not FORBIDDEN.search(one)
        for one in alternatives
    ]
    return any(fine) or name in EXCEPT


def main() -> int:
    """Print the table."""
    found = installed(sys.argv[1:] or None)
    rows = [(name, one.version, licence_of(one)) for name, one in sorted(found.items())]
    for name, version, licence in rows:
        mark = "" if is_allowed(name, licence) else "  <- not on the list"
        print(f"{name:32} {version:18} {licence or '(not told)'}{mark}")
    bad = [name for name, _, licence in rows if not is_allowed(name, licence)]
    print(f"{len(rows)} distributions, {len(bad)} not on the list", *bad)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
