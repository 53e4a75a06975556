"""`kappamask search`."""

from __future__ import annotations

import argparse
import json
import sys

from kappamask.cli.terminal import add_query, say, search_items


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add area and time."""
    add_query(parser)
    parser.add_argument("--json", action="store_true", help="print a STAC ItemCollection")


def run(options: argparse.Namespace) -> int:
    """Print one line per item, or the items themselves."""
    items = search_items(options)
    if options.json:
        features = [item.to_dict() for item in items]
        say(json.dumps({"type": "FeatureCollection", "features": features}, indent=1))
        return 0
    for item in items:
        cover = item.properties.get("eo:cloud_cover")
        said = "  cloud   ?" if cover is None else f"  cloud {cover:3.0f} %"
        say(f"{item.datetime:%Y-%m-%d %H:%M:%S}{said}  {item.id}")
    say(f"{len(items)} items", file=sys.stderr)
    return 0
