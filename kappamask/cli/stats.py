"""`kappamask stats`."""

from __future__ import annotations

import argparse

from kappamask.cli.terminal import (
    add_labelling,
    add_out,
    add_query,
    area_of,
    chosen,
    say,
    say_failed,
    search_items,
    show_progress,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add fields and time, how items are labelled, where the table goes."""
    add_query(parser)
    add_out(parser, "or FILE.parquet", metavar="FILE.csv")
    add_labelling(parser)


def run(options: argparse.Namespace) -> int:
    """Search, label, count; say what came of it and name the dates that failed."""
    from kappamask.base.files import check_folder
    from kappamask.jobs import MaskOptions, field_shares
    from kappamask.jobs.fields import check_format

    check_format(options.out)
    check_folder(options.out.absolute().parent, "the table")  # before anything is read
    asked = chosen(MaskOptions, options)
    options.yes_large = True  # fields may lie far apart: each region is looked at by itself
    items = search_items(options)
    with show_progress() as progress:
        found = field_shares(items, area_of(options), options=asked, progress=progress)
    path = found.write(options.out)
    table = found.table
    say(f"{len(table)} rows of {table['field'].nunique()} fields: {path.resolve()}")
    return say_failed(found.failed)
