"""`kappamask demo`."""

from __future__ import annotations

import argparse
import shlex
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
    """Search the embedded catalogue, label every date, and say where the pictures are."""
    from kappamask.sample import SCENES, catalog_path
    from kappamask.scenes.search import search

    failures = 0
    for scene in SCENES:
        say(f"{scene.title}\n  {scene.credit}")
        items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
        failures += mask_and_tell(items, scene.bbox, options.out / scene.name, title=scene.title)
    say(f"Open the pictures: {options.out.resolve()}")
    say(f"All on one page: kappamask report {shlex.quote(str(options.out))}")
    return 1 if failures else 0
