"""`kappamask models`. Row 7."""

from __future__ import annotations

import argparse

from kappamask.cli.terminal import Commands, add_command, say


def add_models(commands: Commands) -> None:
    """Add `kappamask models`."""
    add_command(commands, "models", run_models, "List the networks that can be used.", "")


def run_models(_: argparse.Namespace) -> int:
    """Print the manifest: name, levels, licence, training data and measured figures."""
    from kappamask.model import read_registry

    default, models = read_registry()
    for name, entry in models.items():
        used = [level for level, chosen in default.items() if chosen == name]
        chosen_for = f"  (default for {' and '.join(used)})" if used else ""
        say(name + chosen_for)
        say(f"  {entry.title}\n  levels: {', '.join(entry.levels)}; licence: {entry.licence}")
        say(f"  trained on: {entry.training_data}")
        for what, value in entry.metrics.items():
            say(f"  {what}: {value}")
    return 0
