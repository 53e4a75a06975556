"""`kappamask evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kappamask.cli.terminal import (
    add_out,
    add_pictures,
    add_query,
    area_of,
    chosen,
    say,
    search_items,
    show_progress,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add data, or area and dates; networks and peers; where the report goes."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder that holds chips.csv; or say --bbox and --date: then composites of your own "
        "area are compared with clear dates that were kept out of them",
    )
    add_query(parser, required=False)
    parser.set_defaults(refuse=parser.error)
    parser.add_argument(
        "--keep-out",
        nargs="+",
        default=[],
        metavar="DAY",
        help="with --date: the dates to compare with (default: the three clearest)",
    )
    parser.add_argument(
        "--within-days",
        type=int,
        metavar="N",
        help="with --date: compose only dates so near to the one kept out",
    )
    add_out(parser)
    parser.add_argument(
        "--split",
        dest="splits",
        action="append",
        default=[],
        choices=["val", "test"],
        help="repeat for both. Only `val` may choose between networks; look at `test` when "
        "nothing more will be changed (default: both, but with --weights `val` alone)",
    )
    parser.add_argument(
        "--model",
        dest="models",
        nargs="+",
        default=["default"],
        metavar="NAME",
        help="see `kappamask models`",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="best.safetensors of a training run, its best.toml beside it; scored before --model",
    )
    parser.add_argument(
        "--peers",
        metavar="LIST",
        help="masks to compare with, with commas between them; '' for none (default: all: scl, "
        "fmask, python-fmask, maja, ukis-csmask, s2cloudless, kappamask-2021-l2a, "
        "kappamask-2021-l1c; what cannot run is named in the report)",
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="rasters of other programs: fmask/NAME_Fmask4.tif, python-fmask/NAME.img, "
        "maja/NAME_CLM_R1.tif, NAME being a chip's",
    )
    parser.add_argument(
        "--cloudsen12",
        type=Path,
        metavar="DIR",
        help="CloudSEN12+ as published: .taco files, or "
        "ROI_... with its table; its splits are val and test",
    )
    parser.add_argument(
        "--pixbox",
        type=Path,
        metavar="DIR",
        help="PixBox-S2-CMIX as published, unpacked: the "
        "table, its definitions, the SAFE products; counts as test",
    )
    parser.add_argument(
        "--simulated", type=int, metavar="N", help="at most so many simulated scenes (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")
    add_pictures(parser, "tables only")


def run(options: argparse.Namespace) -> int:
    """Score, write, and print the first table."""
    if options.data is None:
        if not (options.date and (options.bbox or options.area)):
            options.refuse("say --data, or --date and --bbox (or --area)")
        return compare_dates(options)
    from kappamask.base.files import check_folder
    from kappamask.evaluate import PEERS, Options, check_data, evaluate, write_report
    from kappamask.evaluate.report import TABLE

    peers = PEERS if options.peers is None else tuple(filter(None, options.peers.split(",")))
    splits = tuple(dict.fromkeys(options.splits))
    asked = chosen(Options, options, models=tuple(options.models), peers=peers, splits=splits)
    check_data(options.data)
    check_folder(options.out, "the report")  # before hours of work
    with show_progress() as progress:
        evaluation = evaluate(options.data, asked, progress=progress)
    written = write_report(evaluation, options.out)
    say(written[TABLE].read_text("utf-8"))
    say(f"Report: {written['report.html'].resolve()}")
    return 0


def compare_dates(options: argparse.Namespace) -> int:
    """Keep clear dates of an area out of composites, and print how far these are from them."""
    import kappamask as km
    from kappamask.base.errors import ItemError
    from kappamask.base.files import check_folder
    from kappamask.cubes.classes import load_classes
    from kappamask.evaluate.dates import keep_out, to_table
    from kappamask.evaluate.programs import network_from_file

    check_folder(options.out, "the report")
    items = search_items(options)
    cube = km.load_cube(items, area_of(options))
    model = options.models[0]
    if options.weights is not None:
        model = network_from_file(options.weights).model_of(options.level)
    try:
        classes = load_classes(items, cube) if options.level == "L2A" else None
    except ItemError as error:
        say(f"without SCL: {error}")
        classes = None
    with show_progress() as progress:
        rows = keep_out(
            cube,
            km.predict_cube(cube, model=model),
            scl=classes,
            held_out=options.keep_out,
            within_days=options.within_days,
            progress=progress,
        )
    table = to_table(rows)
    path = options.out / "dates.md"
    path.write_text(table, encoding="utf-8")
    say(table)
    say(f"Report: {path.resolve()}")
    return 0
