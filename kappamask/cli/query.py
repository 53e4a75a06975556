"""Area, dates, catalogue, reading: what commands that search and label ask for. Row 7."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kappamask.base.errors import InputError

EXAMPLE = "--bbox 11.29,46.46,11.40,46.53 --date 2022-06-01/2022-06-30"


def add_query(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that say where, when and from which catalogue."""
    area = parser.add_mutually_exclusive_group(required=required)
    area.add_argument("--bbox", metavar="W,S,E,N", help="degrees, one comma-separated argument")
    area.add_argument("--area", type=Path, metavar="FILE.geojson", help="polygon in degrees")
    parser.add_argument(
        "--date",
        required=required,
        metavar="START/END",
        help="2022-06-01/2022-06-30, one day, or one month; both ends included",
    )
    parser.add_argument(
        "--catalog",
        default="earth-search",
        metavar="NAME|URL|DIR/catalog.json",
        help="a known catalogue, a STAC API, or a static catalogue (default: %(default)s)",
    )
    parser.add_argument("--level", default="L2A", choices=["L1C", "L2A"])
    parser.add_argument(
        "--max-cloud-cover",
        type=float,
        metavar="PERCENT",
        help="of the whole item, as the catalogue says",
    )
    parser.add_argument("--max-items", type=int, metavar="N", help="keep so many, the earliest")


def add_labelling(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how items are read and labelled."""
    parser.add_argument("--model", default="default", help="see `kappamask models`")
    parser.add_argument(
        "--resolution",
        type=float,
        default=10,
        metavar="METRES",
        help="of a pixel (default: %(default)s)",
    )
    parser.add_argument("--engine", default="stackstac", choices=["stackstac", "odc"])
    parser.add_argument(
        "--dn-offset",
        type=int,
        metavar="DN",
        help="0 or -1000, for items that do not tell their offset",
    )


def area_of(options: argparse.Namespace) -> Any:
    """Give the area as `kappamask.search` takes it."""
    if options.area is not None:
        return options.area
    try:
        return tuple(float(part) for part in options.bbox.split(","))
    except ValueError:
        raise InputError(
            "--bbox is west,south,east,north in degrees as one argument, "
            f"got {options.bbox!r}: write for example 11.29,46.46,11.40,46.53"
        ) from None


def has_area(options: argparse.Namespace) -> bool:
    """Tell whether an area was given."""
    return options.area is not None or options.bbox is not None


def search_items(options: argparse.Namespace) -> list[Any]:
    """Search with the options of `add_query`."""
    from kappamask.scenes.search import search

    return search(
        area_of(options),
        options.date,
        catalog=options.catalog,
        level=options.level,
        max_cloud_cover=options.max_cloud_cover,
        max_items=options.max_items,
    )
