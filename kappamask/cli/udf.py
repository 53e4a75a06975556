"""`kappamask udf build`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kappamask.cli.terminal import add_command, add_out, say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command below it, `build`."""
    build = add_command(
        parser.add_subparsers(required=True, metavar="build"),
        "build",
        "Make the archives for the job option udf-dependency-archives.",
        "",
    )
    build.set_defaults(run=run)
    build.epilog = "example:\n  kappamask udf build --out dist --engine onnx"
    add_out(build)
    build.add_argument(
        "--engine", default="onnx", choices=["onnx", "torch"], help="(default: %(default)s)"
    )
    build.add_argument(
        "--python",
        action="append",
        metavar="VERSION",
        help="of the workers, again for more (default: 3.11)",
    )
    build.add_argument("--base-url", metavar="URL", help="where the archives will lie")
    source = build.add_mutually_exclusive_group()
    source.add_argument("--wheels", type=Path, metavar="DIR", help="use these, download nothing")
    source.add_argument(
        "--from-installed", action="store_true", help="use the packages installed here"
    )


def run(options: argparse.Namespace) -> int:
    """Build both archives; print their sizes and the job options to paste."""
    from kappamask.base.files import check_folder
    from kappamask.openeo.archives import HOST, build_archives
    from kappamask.openeo.graphs import PYTHON

    check_folder(options.out, "the archives")  # before wheels are downloaded
    for python in dict.fromkeys(options.python or [PYTHON]):
        built = build_archives(
            options.out,
            engine=options.engine,
            python=python,
            wheels=options.wheels,
            from_installed=options.from_installed,
        )
        for path in (built.library, built.runtime):
            say(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")
        say(f"Put both where a back end with Python {python} can download them, then give the job:")
        say(json.dumps(built.job_options(options.base_url or HOST), indent=2))
    return 0
