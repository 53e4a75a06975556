"""`kappamask demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kappamask.cli.mask import mask_and_tell
from kappamask.cli.terminal import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add where the masks go."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("kappamask-demo"),
        metavar="DIR",
        help="(default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Search the embedded catalogue, label every date, and write a page of all."""
    from kappamask.plot.report import write_report
    from kappamask.sample import SCENES, catalog_path
    from kappamask.scenes.search import search

    failures = 0
    for scene in SCENES:
        say(f"{scene.title}\n  {scene.credit}")
        items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
        failures += mask_and_tell(items, scene.bbox, options.out / scene.name, title=scene.title)
    if failures:
        return 1
    say(f"Open the page: {write_report(options.out).resolve()}")
    return 0
