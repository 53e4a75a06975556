"""`kappamask train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kappamask.cli.terminal import say, show_progress


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and the folder of the run."""
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


def run(options: argparse.Namespace) -> int:
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
