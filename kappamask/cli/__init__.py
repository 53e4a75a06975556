"""The command line: words to calls, no logic; imports everything below, inside commands only.

One module per command: `add_options` gives the parser its options, `run` calls the library.
A module is imported where its command is asked for, and what it calls where it runs: `--help`
stays fast. argparse, not cyclopts: the texts of `--help` are pinned, and nothing else would be
gained.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from kappamask import __version__
from kappamask.base.errors import KappaMaskWarning
from kappamask.cli.exit_codes import Signals, end, flush_errors, flush_output
from kappamask.cli.terminal import AGAIN, QUERY, add_command

PRODUCT = "S2A_MSIL1C_20170430T103021_N0205_R108_T32UPV_20170430T103024.SAFE"
KEPT = "finished dates are kept, repeat the command to go on"
COMMANDS = {  # name: help, example, what is kept of it when it is interrupted
    "demo": (
        "Label thirteen dates that come with the package: masks and pictures, without internet.",
        "--out kappamask-demo",
        KEPT,
    ),
    "search": ("List the Sentinel-2 items of an area and time.", QUERY, AGAIN),
    "mask": (
        "Label every date of an area and time, or a SAFE product: COG and STAC item each.",
        f"{QUERY} --max-cloud-cover 80 --out masks\n  kappamask mask {PRODUCT} --out masks",
        KEPT,
    ),
    "composite": (
        "Compose images without clouds: reflectance, number of dates, date of each pixel.",
        f"{QUERY} --period month --out june",
        "finished dates and images are kept, repeat the command to go on",
    ),
    "stats": (
        "Tell in one table what share of each field was seen clear on each date.",
        "--area fields.geojson --date 2022-06 --out june.csv",
        AGAIN,
    ),
    "vectorize": (
        "Write masks as polygons of their classes: GeoPackage or GeoJSON.",
        "mask.tif --classes cloud,cloud_shadow --out clouds.gpkg",
        AGAIN,
    ),
    "report": (
        "Write one HTML page of a folder of masks: pictures, class shares, settings.",
        "masks --out masks.html",
        AGAIN,
    ),
    "models": (
        "List the networks that can be used, or fetch the weights of one.",
        "fetch kappamask-2021-l2a",
        AGAIN,
    ),
    "evaluate": (
        "Score networks and other cloud masks on labelled chips: report, table, JSON.",
        "--data chips --split val --peers scl,ukis-csmask --out evaluation",
        "nothing is written before all is scored, repeat the command",
    ),
    "serve": (
        "Run an openEO back end on this machine, over one catalogue.",
        "--port 8080 --catalog earth-search --workdir openeo",
        AGAIN,
    ),
    "train": (
        "Train a network on labelled chips, as a configuration file says (docs/training.md).",
        "own.toml --out runs/own",
        "all up to the last validation is kept, repeat the command to go on",
    ),
    "udf": ("Make what an openEO back end needs to run the UDF.", None, AGAIN),
}


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
    words = _join_values(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser(words[:1])
    resume = "nothing was begun, repeat the command"
    if arguments is None:
        warnings.formatwarning = _format_warning
    with Signals(ours=arguments is None) as signals:
        try:
            options = parser.parse_args(words)
            resume = options.resume
            logging.basicConfig(
                format="kappamask: %(message)s", level=logging.WARNING, stream=sys.stderr
            )
            logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry, in words of its own
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


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> str:
    """Say in one line what was done all the same; whatever else is warned of as Python does."""
    if issubclass(category, KappaMaskWarning):
        return f"kappamask: warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _join_values(arguments: Sequence[str]) -> list[str]:
    """Take `--bbox -9.2,38.6,-9.0,38.8`, `--bbox 11 46 12 47` and `--date START END` as one value.

    argparse would take a minus for an option, and further words for a product.

    Examples
    --------
    >>> _join_values(["--bbox", "-9.2", "38.6,", "-9", "38.8", "--date", "2022-06-01", "2022-07"])
    ['--bbox=-9.2,38.6,-9,38.8', '--date=2022-06-01/2022-07']
    """
    joined: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        values: list[str] = []
        if word == "--bbox":
            while words and len(values) < 4 and re.fullmatch(r"[-+\d.,eE]*\d[-+\d.,eE]*", words[0]):
                values += [part for part in words.pop(0).split(",") if part]
            word = f"--bbox={','.join(values)}" if values else word
        if word == "--date":
            while words and len(values) < 2 and re.fullmatch(r"\d{4}[-\d:.TWZ]*|\.\.", words[0]):
                values.append(words.pop(0))
            word = f"--date={'/'.join(values)}" if values else word
        joined.append(word)
    return joined


class Parser(argparse.ArgumentParser):
    """A parser that says what a misspelt option was perhaps meant to be."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with 2."""
        unknown = re.findall(r"--[\w-]+", message.partition("unrecognized arguments:")[2])
        known = self._options()
        meant = [near[0] for word in unknown if (near := get_close_matches(word, known, 1))]
        super().error(message + (f": did you mean {', '.join(meant)}?" if meant else ""))

    def _options(self) -> list[str]:
        """List the options of this command and of those below it."""
        found = [*self._option_string_actions]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  has no other way
                for below in action.choices.values():
                    found += below._options()  # noqa: SLF001
        return found


def make_parser(asked: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Build the parser of all commands; those that are not asked for have no options."""
    parser = Parser(
        prog="kappamask",
        description="Cloud masks for Sentinel-2: clear, cloud shadow, semi-transparent, cloud.",
    )
    parser.add_argument("--version", action="version", version=f"kappamask {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (help_, example, resume) in COMMANDS.items():
        command = add_command(commands, name, help_, example, resume=resume)
        if name in asked:
            module = import_module(f"kappamask.cli.{name}")
            command.set_defaults(run=module.run)
            module.add_options(command)
    return parser
