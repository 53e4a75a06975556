"""`kappamask train`. Row 7."""

from __future__ import annotations

import argparse
from pathlib import Path

from kappamask.cli.terminal import Commands, add_command, say, show_progress


def add_train(commands: Commands) -> None:
    """Add `kappamask train`."""
    parser = add_command(
        commands,
        "train",
        run_train,
        "Train a network on labelled chips, as a configuration file says (docs/training.md).",
        "own.toml --out runs/own",
        resume="all up to the last validation is kept, repeat the command to go on",
    )
    parser.add_argument(
        "config",
        type=Path,
        metavar="CONFIG.toml",
        help="data, settings, teacher; its paths are seen from the current folder",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the run's folder (default: runs/ and the configuration's name); "
        "an interrupted run in it is gone on with",
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="WEIGHTS",
        help="safetensors of an earlier run to begin with",
    )


def run_train(options: argparse.Namespace) -> int:
    """Train, and say where the best weights are."""
    from kappamask.train.fit import fit
    from kappamask.train.run_files import WEIGHTS
    from kappamask.train.settings import read_config

    out = options.out or Path("runs") / options.config.stem
    config = read_config(options.config)
    with show_progress() as progress:
        fit(config, out, start_from=options.start, progress=progress, tell=say)
    say(f"The best weights are {(out / WEIGHTS).resolve()}")
    say(f"Score them: kappamask evaluate --weights {out / WEIGHTS} --data DIR --out evaluation")
    return 0
