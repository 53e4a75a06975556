"""`kappamask composite`."""

from __future__ import annotations

import argparse

from kappamask.base.errors import InputError
from kappamask.cli.terminal import (
    add_labelling,
    add_out,
    add_pictures,
    add_query,
    area_of,
    chosen,
    run_job,
    say,
    say_failed,
    search_items,
)
from kappamask.composites import BUFFER_M, FILLS, METHODS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add area and time, how they are composed, where the images go."""
    add_query(parser)
    add_out(parser, "what is finished in it is kept: repeat the command to go on")
    parser.add_argument("--method", default="median", choices=METHODS)
    parser.add_argument(
        "--period",
        metavar="NAME",
        help="day, week, dekad, month, season, year, or a pandas frequency such as 2MS; "
        "without it, one image of all dates",
    )
    for name, metres in BUFFER_M.items():
        parser.add_argument(
            f"--buffer-{name}",
            type=float,
            default=metres,
            metavar="METRES",
            help=f"around each {name} that are not used (default: %(default)s)",
        )
    parser.add_argument(
        "--target",
        metavar="DATE",
        help="best-pixel prefers dates near this one, or near the 'middle' of each period",
    )
    parser.add_argument(
        "--bands",
        type=lambda text: text.split(",") if text else None,
        metavar="B04,B03,B02",
        help="of the image (default: all that there are)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=50.0,
        metavar="0-100",
        help="of the method percentile (default: %(default)s)",
    )
    parser.add_argument(
        "--min-observations",
        type=int,
        default=1,
        metavar="N",
        help="dates that a pixel needs, else it is empty (default: %(default)s)",
    )
    parser.add_argument(
        "--max-observations",
        type=int,
        metavar="N",
        help="dates that a pixel is made of, the best; no more dates are read than that takes",
    )
    parser.add_argument(
        "--fill",
        choices=FILLS,
        help="what is taken where no date is clear (default: nothing); there, observations are 0",
    )
    parser.add_argument(
        "--mask",
        default="network",
        choices=["network", "scl"],
        help="who says what is clear: the network, or Sen2Cor's classes (L2A; fast, to compare)",
    )
    parser.add_argument(
        "--no-refine",
        dest="refine",
        action="store_false",
        help="do not let dates correct one another first",
    )
    parser.add_argument(
        "--no-quality",
        dest="quality",
        action="store_false",
        help="use haze and shade beside clouds too, where another date is clear",
    )
    add_labelling(parser)
    add_pictures(parser)


def run(options: argparse.Namespace) -> int:
    """Search, label, compose, write; say what came of it and name the dates that failed."""
    from kappamask.composites.ranking import Ranking
    from kappamask.jobs import CompositeOptions, compose_items
    from kappamask.outputs.records import read_item

    if options.target is not None and options.method != "best-pixel":
        raise InputError(
            f"--target is for --method best-pixel, got --method {options.method}: leave one out"
        )
    recipe = chosen(
        CompositeOptions,
        options,
        buffer_m={"cloud": options.buffer_cloud, "shadow": options.buffer_shadow},
        ranking=Ranking(target=options.target) if options.target else None,
    )
    items = search_items(options)
    report = run_job(compose_items, items, area_of(options), options.out, options=recipe)
    for path in report.images:
        known = read_item(path)["properties"]
        never = known["kappamask:never_clear_percentage"]
        say(
            f"{path.name}: {known['kappamask:mean_observations']:.1f} dates per pixel, "
            f"{never:.1f} % of pixels never clear"
        )
    folder = options.out.resolve()
    images, dates = len(report.images), len(report.masks)
    many = f"{images} composite{'s' * (images != 1)} of {dates} date{'s' * (dates != 1)}"
    say(f"{many} in {folder}")
    return say_failed(report.failed)
