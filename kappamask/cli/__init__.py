"""The command line: a file per command with its parser and `run_*`, no logic. Row 7.

Every import beyond argparse happens inside a command: `--help` stays fast.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress

from kappamask import __version__
from kappamask.cli.composite import add_composite
from kappamask.cli.demo import add_demo
from kappamask.cli.evaluate import add_evaluate
from kappamask.cli.exit_codes import Signals, end, flush_errors, flush_output
from kappamask.cli.mask import add_mask
from kappamask.cli.models import add_models
from kappamask.cli.report import add_report
from kappamask.cli.search import add_search
from kappamask.cli.serve import add_serve
from kappamask.cli.train import add_train
from kappamask.cli.udf import add_udf


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, as `kappamask.cli.exit_codes` and the pages list them.

    Parameters
    ----------
    arguments
        Words of the command line; None: those of this process, which then is the command's.

    Raises
    ------
    SystemExit
        With 2 for words that no command knows, 0 for ``--help``.
    """
    parser = make_parser()
    words = _glue_negative(sys.argv[1:] if arguments is None else arguments)
    resume = "nothing was begun, repeat the command"
    with Signals(ours=arguments is None) as signals:
        try:
            options = parser.parse_args(words)
            resume = options.resume
            logging.basicConfig(
                format="kappamask: %(message)s", level=logging.WARNING, stream=sys.stderr
            )
            code = int(options.run(options))
            flush_output()
            signals.over = True
        except SystemExit:
            with suppress(OSError):
                flush_output()
            raise
        except BaseException as error:  # noqa: BLE001  `end` raises it again if it is a bug
            code = end(error, signals, resume)
        flush_errors()
    return code


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
