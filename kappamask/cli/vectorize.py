"""`kappamask vectorize`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kappamask.cli.terminal import add_out, say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add masks, classes and the file."""
    parser.add_argument(
        "masks", nargs="+", type=Path, metavar="MASK.tif", help="what `kappamask mask` wrote"
    )
    add_out(parser, "or FILE.geojson", metavar="FILE.gpkg")
    parser.add_argument(
        "--classes",
        metavar="NAME,NAME",
        help="such as cloud,cloud_shadow (default: all but missing)",
    )


def run(options: argparse.Namespace) -> int:
    """Outline the classes, and say where they are."""
    from kappamask.base.errors import UnknownNameError
    from kappamask.base.legend import LEGEND, Label
    from kappamask.outputs.vector import write_vector

    known = {entry.name: Label(entry.label) for entry in LEGEND}
    names = options.classes.split(",") if options.classes else None
    for name in names or ():
        if name not in known:
            raise UnknownNameError.of("class", name, list(known))
    classes = None if names is None else [known[name] for name in names]
    say(f"Polygons: {write_vector(options.masks, options.out, classes=classes).resolve()}")
    return 0
