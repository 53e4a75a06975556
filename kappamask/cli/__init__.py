"""The command line: a file per command with its parser and `run_*`, no logic. Row 7.

Every import beyond argparse happens inside a command: `--help` stays fast.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from kappamask import __version__
from kappamask.cli.composite import add_composite
from kappamask.cli.demo import add_demo
from kappamask.cli.evaluate import add_evaluate
from kappamask.cli.mask import add_mask
from kappamask.cli.models import add_models
from kappamask.cli.report import add_report
from kappamask.cli.search import add_search
from kappamask.cli.serve import add_serve
from kappamask.cli.train import add_train
from kappamask.cli.udf import add_udf
from kappamask.errors import InputError, KappaMaskError, UnknownNameError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 (done), 1 (failed), 2 (wrong usage) or 130 (interrupted)."""
    parser = make_parser()
    options = parser.parse_args(_glue_negative(sys.argv[1:] if arguments is None else arguments))
    logging.basicConfig(format="kappamask: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        return int(options.run(options))
    except KappaMaskError as error:
        print(f"kappamask: error: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, InputError | UnknownNameError) else 1
    except KeyboardInterrupt:
        print("kappamask: interrupted; finished dates are kept", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        return 1


def _glue_negative(arguments: Sequence[str]) -> list[str]:
    """Let `--bbox -9.2,38.6,-9.0,38.8` through: argparse would take the value for an option."""
    glued: list[str] = []
    for argument in arguments:
        if glued and glued[-1] == "--bbox" and argument.startswith("-") and "," in argument:
            glued[-1] = f"--bbox={argument}"
        else:
            glued.append(argument)
    return glued


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="kappamask",
        description="Cloud masks for Sentinel-2: clear, cloud shadow, semi-transparent, cloud.",
    )
    parser.add_argument("--version", action="version", version=f"kappamask {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_demo,
        add_search,
        add_mask,
        add_composite,
        add_report,
        add_models,
        add_evaluate,
        add_serve,
        add_train,
        add_udf,
    ):
        add(commands)
    return parser
