"""Every command of the command line, those below others too."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from kappamask.cli import make_parser


def all_commands(parser=None, words=()) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Give the words of each command, and its parser; those that only hold others too."""
    for action in (parser or make_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield " ".join((*words, name)), below
                yield from all_commands(below, (*words, name))


HOLDING = {"udf"}  # what only holds others
COMMANDS = dict(all_commands())
