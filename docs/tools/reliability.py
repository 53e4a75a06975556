"""Run the fault bench many times and write its tables into docs/reliability.md.

``python docs/tools/reliability.py --times 20``; ``make reliability`` does that. The tables stand
between marks; tests/faults/test_table.py sees that every fault has its row.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from faults.bench import run  # noqa: E402  the bench lies with the tests
from faults.flips import CODECS, Flips, count_flips, gdal_version  # noqa: E402
from faults.table import FAULTS, REFUSED, SKIPPED, SURVIVED, Fault  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- {}: written by docs/tools/reliability.py -->"
END = "<!-- end of {} -->"
GOT = {
    SURVIVED: "all dates",
    SKIPPED: "the other dates; this one is named",
    REFUSED: "one line, no files",
}


def fault_row(fault: Fault, *, times: int) -> str:
    """Try a fault so many times and say what came of it."""
    outcomes = [run(fault) for _ in range(times)]
    for problem in {text for outcome in outcomes for text in outcome.problems}:
        print(f"{fault.name}: {problem}", file=sys.stderr)  # noqa: T201  a script
    held = sum(not outcome.problems for outcome in outcomes)
    lost = sum(outcome.bytes_lost for outcome in outcomes)
    wrong = sum(outcome.wrong_labels for outcome in outcomes)
    return f"| {fault.name} | {GOT[fault.expected]} | {times} | {held} | {lost} | {wrong} |"


def fault_table(*, times: int) -> str:
    """Make the table of faults, in markdown."""
    head = "| fault | what the user gets | tried | survived | bytes lost | wrong labels |"
    rows = [fault_row(fault, times=times) for fault in FAULTS]
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def flip_row(codec: str, flips: Flips) -> str:
    """Say what became of flipped bits."""
    counts = (flips.tried, flips.noticed, flips.harmless, flips.unnoticed)
    return f"| {codec} | " + " | ".join(map(str, counts)) + " |"


def flip_table(*, tries: int) -> str:
    """Make the table of flipped bits, in markdown."""
    head = (
        f"| file (GDAL {gdal_version()}) | bits flipped | noticed | no pixel changed | unnoticed |"
    )
    rows = [flip_row(codec, count_flips(codec, tries=tries)) for codec in CODECS]
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def with_table(text: str, name: str, table: str) -> str:
    """Put a table between its marks, which a page has once."""
    begin, end = BEGIN.format(name), END.format(name)
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    written, count = pattern.subn(lambda _: f"{begin}\n{table}\n{end}", text)
    if count != 1:
        raise SystemExit(f"the page has the marks of {name} once, got {count}: put them in")
    return written


def read_table(text: str, name: str) -> list[list[str]]:
    """Read the rows of a table between its marks: the cells of each."""
    begin, end = BEGIN.format(name), END.format(name)
    lines = text.split(begin)[1].split(end, maxsplit=1)[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="of each fault")
    parser.add_argument("--flips", type=int, default=2000, help="bits of each codec")
    options = parser.parse_args()
    text = with_table(PAGE.read_text("utf-8"), "flips", flip_table(tries=options.flips))
    PAGE.write_text(with_table(text, "faults", fault_table(times=options.times)), "utf-8")


if __name__ == "__main__":
    main()
