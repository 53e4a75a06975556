"""Write what `make bench` measured into docs/performance.md: `python docs/tools/performance.py`.

Reads the file that `make bench` wrote (BENCH_JSON, bench.jsonl by default; another one as the
argument) and puts a table between each pair of marks, ``<!-- bench: NAME -->`` and ``<!-- end of
bench -->``. A table of which nothing was measured stays as it is. A run on a machine that did
other work is refused: its figures mean nothing (``--busy`` writes them all the same, and says so).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
BUSY = 0.5  # load before a run, as in benchmarks/machine.py
Rows = Sequence[dict[str, Any]]


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Make a table in markdown.

    Examples
    --------
    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    rows = [heads, ["---"] * len(heads), *lines]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return text.replace("| " + " | ".join(["---"] * len(heads)) + " |", "|" + "---|" * len(heads))


def _machine(rows: Rows) -> str:
    first, last = rows[0], rows[-1]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    loads = ", ".join(f"{row['load']:.1f}" for row in rows)
    busy = "" if max(row["load"] for row in rows[:1]) <= BUSY else " **The machine was not idle.**"
    return (
        f"{first['row']}, {first['cores']}, {first['when']} to {last['when'][-9:]}: {versions}. "
        f"Load before each part: {loads}; from the second on it is our own.{busy}"
    )


def _peers(rows: Rows) -> str:
    lines = []
    for row in rows:
        if reason := row.get("reason"):
            lines.append([row["row"], "", f"not measured: {reason}", "", ""])
            continue
        ratio = f"{row['ratio']:.1f} times faster" if "ratio" in row else ""
        wanted = f"{row['target']:g}" if "target" in row else ""
        lines.append([row["row"], row["pixels"], f"{row['speed']:.3g}", ratio, wanted])
    return table(["on the same pixels", "pixels", "Mpx/s", "ours is", "asked for"], lines)


def _doors(rows: Rows) -> str:
    lines = [[r["row"], r["pixels"], f"{r['speed']:.2f}", f"{r['share']:.0%}"] for r in rows]
    return table(["door", "pixels", "Mpx/s", "of network only"], lines)


def _series(rows: Rows) -> str:
    lines = [
        [r["row"], f"{r['first']:.2f} s", f"{r['again']:.2f} s", f"{r['share']:.0%}",
         f"{r['peak']:.2f} GB"]
        for r in rows
    ]  # fmt: skip
    return table(["dates x pixels", "first", "again", "of network only", "peak"], lines)


def _product(rows: Rows) -> str:
    lines = []
    for r in rows:
        warm, peaks = r["warm"], r["peaks"]
        lines.append([
            r["row"], f"{warm['decode']:.1f} s", f"{r['cold']:.1f} s", f"{warm['safe']:.1f} s",
            f"{warm['safe'] / warm['decode']:.2f}", f"{peaks['safe']:.2f} GB",
            f"{warm['safe at 20 m']:.1f} s", f"{r['halved']:.2f}",
            f"{warm['cogs']:.1f} s", f"{peaks['cogs']:.2f} GB", f"{warm['cogs at 20 m']:.1f} s",
        ])  # fmt: skip
    heads = ["pixels of 10 m", "merely decoding", "SAFE, cold", "SAFE, warm", "of decoding", "peak",
             "at 20 m", "of 10 m", "from COGs", "peak", "at 20 m"]  # fmt: skip
    return table(heads, lines)


def _bands(rows: Rows) -> str:
    lines = [
        [r["row"], f"{r['megabytes']:.2f} MB", f"{r['requests']:.0f}", f"{r['seconds']:.2f} s",
         f"{r['pictures']:.0%}", f"{r['same']:.2%}"]
        for r in rows
    ]  # fmt: skip
    heads = ["bands", "read a date", "requests a date", "time a date", "of it pictures",
             "labels as with all bands"]  # fmt: skip
    return table(heads, lines)


def _engines(rows: Rows) -> str:
    lines = [[r["row"], f"{r['speed']:.2f}", f"{r['ratio']:.2f}", f"{r['same']:.3%}"] for r in rows]
    return table(["engine", "Mpx/s", "of the first", "labels as torch in fp32"], lines)


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Rows], str]]] = {  # mark: what is read, writer
    "machine": (("machine",), _machine),
    "peers": (("peers",), _peers),
    "doors": (("doors",), _doors),
    "series": (("series",), _series),
    "product": (("product",), _product),
    "bands": (("field", "bands"), _bands),
    "engines": (("engines",), _engines),
}


def fill(page: str, rows: Rows) -> str:
    """Put the tables of what was measured between the marks of a page."""
    for name, (sources, write) in TABLES.items():
        own = [row for row in rows if row["table"] in sources]
        if not own:
            continue
        begin = f"<!-- bench: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}\n.*?<!-- end of bench -->", re.DOTALL)
        text = f"{begin}\n{write(own)}\n<!-- end of bench -->"
        page, count = pattern.subn(lambda _, text=text: text, page)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"a page has the marks of {name} once, got {count}: put them in")
    return page


def main() -> None:
    """Fill the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "bench.jsonl")
    parser.add_argument("--busy", action="store_true", help="write figures of a busy machine too")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.file.read_text("utf-8").splitlines()]
    load = next((row["load"] for row in rows if row["table"] == "machine"), 0.0)
    if load > BUSY and not options.busy:
        raise SystemExit(
            "figures of an idle machine go into the page, got a load of "
            f"{load:.1f} before the run: run `make bench` again when nothing else runs (--busy)"
        )
    PAGE.write_text(fill(PAGE.read_text("utf-8"), rows), "utf-8")


if __name__ == "__main__":
    main()
