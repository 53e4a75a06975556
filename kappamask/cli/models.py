"""`kappamask models` and `kappamask models fetch`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask.cli.terminal import add_command, say, show_download

if TYPE_CHECKING:
    from kappamask.networks.manifest import ModelEntry


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command below it, `fetch`."""
    below = parser.add_subparsers(metavar="[fetch]")
    fetch = add_command(
        below,
        "fetch",
        "Fetch weights that do not come with kappamask, check and convert them.",
        "",
        resume="nothing is kept of what was not whole, repeat the command",
    )
    fetch.set_defaults(run=run_fetch)
    fetch.epilog = (
        "examples:\n  kappamask models fetch kappamask-2021-l1c\n"
        "  kappamask models fetch kappamask-2021-l2a --from downloads"
    )
    fetch.add_argument("name", metavar="NAME", help="as `kappamask models` lists it")
    origin = fetch.add_mutually_exclusive_group()
    origin.add_argument(
        "--from",
        dest="files",
        type=Path,
        metavar="DIR-OR-FILE",
        help="the published file, or a folder that holds it: needs no network",
    )
    origin.add_argument("--mirror", metavar="URL", help="a folder that holds the published file")


def run(_: argparse.Namespace) -> int:
    """Print the manifest: name, where its weights are, licence, training data, figures."""
    from kappamask.networks.manifest import read_registry
    from kappamask.networks.weights import is_fetched

    default, models = read_registry()
    for name, entry in models.items():
        used = [level for level, chosen in default.items() if chosen == name]
        chosen_for = f"  (default for {' and '.join(used)})" if used else ""
        say(name + chosen_for)
        say(f"  {entry.title}\n  levels: {', '.join(entry.levels)}; licence: {entry.licence}")
        if entry.shipped:
            say("  weights: come with kappamask")
        elif is_fetched(entry):
            say("  weights: fetched")
        else:
            say(f"  weights: not fetched, run `kappamask models fetch {name}`")
        say(f"  trained on: {entry.training_data}")
        for what, value in entry.metrics.items():
            say(f"  {what}: {value}")
    return 0


def run_fetch(
    options: argparse.Namespace, *, models: Mapping[str, ModelEntry] | None = None
) -> int:
    """Fetch the weights of one model; `models` stands for the manifest where it is given."""
    from kappamask.base.errors import UnknownNameError
    from kappamask.networks.manifest import read_registry
    from kappamask.networks.weights import Origin, cached_path, fetch_weights, is_fetched

    models = read_registry()[1] if models is None else models
    if options.name not in models:
        raise UnknownNameError.of("model", options.name, list(models))
    entry = models[options.name]
    if entry.shipped:
        say(f"the weights of {entry.name} come with kappamask: there is nothing to do")
        return 0
    if is_fetched(entry):
        say(f"{entry.name} is already there: {cached_path(entry)}")
        return 0
    origin = Origin(options.files, options.mirror)
    with show_download(entry.file) as progress:
        path = fetch_weights(entry, origin, progress=progress)
    say(f"{entry.name} is ready: {path}")
    return 0
