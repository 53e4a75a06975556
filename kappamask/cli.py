"""The command line: one `add_*` and one `run_*` per command, no logic. Row 7.

Every import beyond argparse happens inside a command: `--help` stays fast.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kappamask import __version__
from kappamask.errors import InputError, KappaMaskError, UnknownNameError

EXAMPLE = "--bbox 11.29,46.46,11.40,46.53 --date 2022-06-01/2022-06-30"
_Commands = Any  # argparse does not name the type of its sub-parsers' collection


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
    for add in (add_demo, add_search, add_mask, add_models, add_serve, add_udf):
        add(commands)
    return parser


def _add(
    commands: _Commands, name: str, run: Callable[..., int], help_: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=help_,
        epilog=f"example:\n  kappamask {name} {example}".rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


# --- demo -----------------------------------------------------------------------------------


def add_demo(commands: _Commands) -> None:
    """Add `kappamask demo`."""
    parser = _add(
        commands,
        "demo",
        run_demo,
        "Run the main job on the embedded sample.",
        "--out kappamask-demo",
    )
    parser.add_argument("--out", type=Path, default=Path("kappamask-demo"), metavar="DIR")


def run_demo(options: argparse.Namespace) -> int:
    """Search the embedded catalogue, label every date, and say where the pictures are."""
    from kappamask.sample import SCENES, catalog_path
    from kappamask.stac_search import search

    failures = 0
    for scene in SCENES:
        _say(f"{scene.title}\n  {scene.credit}")
        items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
        failures += _mask(items, scene.bbox, options.out / scene.name, title=scene.title)
    _say(f"Open the pictures: {options.out.resolve()}")
    return 1 if failures else 0


# --- search ---------------------------------------------------------------------------------


def add_search(commands: _Commands) -> None:
    """Add `kappamask search`."""
    parser = _add(
        commands, "search", run_search, "List the Sentinel-2 items of an area and time.", EXAMPLE
    )
    _add_query(parser)
    parser.add_argument("--json", action="store_true", help="print a STAC ItemCollection")


def run_search(options: argparse.Namespace) -> int:
    """Print one line per item, or the items themselves."""
    items = _search(options)
    if options.json:
        features = [item.to_dict() for item in items]
        _say(json.dumps({"type": "FeatureCollection", "features": features}, indent=1))
        return 0
    for item in items:
        cover = item.properties.get("eo:cloud_cover")
        said = "  cloud   ?" if cover is None else f"  cloud {cover:3.0f} %"
        _say(f"{item.datetime:%Y-%m-%d %H:%M:%S}{said}  {item.id}")
    _say(f"{len(items)} items", file=sys.stderr)
    return 0


def _add_query(parser: argparse.ArgumentParser) -> None:
    area = parser.add_mutually_exclusive_group(required=True)
    area.add_argument("--bbox", metavar="W,S,E,N", help="degrees, one comma-separated argument")
    area.add_argument("--area", type=Path, metavar="FILE.geojson", help="polygon in degrees")
    parser.add_argument(
        "--date",
        required=True,
        metavar="START/END",
        help="2022-06-01/2022-06-30, one day, or one month; both ends included",
    )
    parser.add_argument(
        "--catalog",
        default="earth-search",
        metavar="NAME|URL|DIR/catalog.json",
        help="a known catalogue, a STAC API, or a static catalogue (default: %(default)s)",
    )
    parser.add_argument("--level", default="L2A", choices=["L1C", "L2A"])
    parser.add_argument(
        "--max-cloud-cover",
        type=float,
        metavar="PERCENT",
        help="of the whole item, as the catalogue says",
    )
    parser.add_argument("--max-items", type=int, metavar="N", help="keep so many, the earliest")


def _area(options: argparse.Namespace) -> Any:
    if options.area is not None:
        return options.area
    try:
        return tuple(float(part) for part in options.bbox.split(","))
    except ValueError:
        raise InputError(
            "--bbox is west,south,east,north in degrees as one argument, "
            f"got {options.bbox!r}: write for example 11.29,46.46,11.40,46.53"
        ) from None


def _search(options: argparse.Namespace) -> list[Any]:
    from kappamask.stac_search import search

    return search(
        _area(options),
        options.date,
        catalog=options.catalog,
        level=options.level,
        max_cloud_cover=options.max_cloud_cover,
        max_items=options.max_items,
    )


# --- mask -----------------------------------------------------------------------------------


def add_mask(commands: _Commands) -> None:
    """Add `kappamask mask`."""
    parser = _add(
        commands,
        "mask",
        run_mask,
        "Label every date of an area and time: COG, STAC item and picture each.",
        f"{EXAMPLE} --max-cloud-cover 80 --out masks",
    )
    _add_query(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="finished dates in it are kept: repeat the command to go on",
    )
    parser.add_argument("--model", default="default", help="see `kappamask models`")
    parser.add_argument(
        "--resolution",
        type=float,
        default=10,
        metavar="METRES",
        help="of the mask (default: %(default)s)",
    )
    parser.add_argument("--engine", default="stackstac", choices=["stackstac", "odc"])
    parser.add_argument(
        "--dn-offset",
        type=int,
        metavar="DN",
        help="0 or -1000, for items that do not tell their offset",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write no PNG")


def run_mask(options: argparse.Namespace) -> int:
    """Search, label, write; name the dates that failed."""
    items = _search(options)
    return _mask(
        items,
        _area(options),
        options.out,
        model=options.model,
        resolution=options.resolution,
        engine=options.engine,
        dn_offset=options.dn_offset,
        pictures=not options.no_pictures,
    )


def _mask(items: Sequence[Any], area: Any, folder: Path, **settings: Any) -> int:
    from kappamask.pipeline import MaskOptions, mask_items

    with _progress() as progress:
        report = mask_items(items, area, folder, options=MaskOptions(**settings), progress=progress)
    _say(f"{len(report.masks)} dates labelled in {folder.resolve()}")
    for date, reason in report.failed.items():
        _say(f"kappamask: {date} failed: {reason}", file=sys.stderr)
    if report.failed:
        _say("kappamask: repeat the command to try the failed dates again", file=sys.stderr)
    return 1 if report.failed else 0


# --- models ---------------------------------------------------------------------------------


def add_models(commands: _Commands) -> None:
    """Add `kappamask models`."""
    _add(commands, "models", run_models, "List the networks that can be used.", "")


def run_models(_: argparse.Namespace) -> int:
    """Print the manifest: name, levels, licence, training data and measured figures."""
    from kappamask.model import read_registry

    default, models = read_registry()
    for name, entry in models.items():
        used = [level for level, chosen in default.items() if chosen == name]
        chosen_for = f"  (default for {' and '.join(used)})" if used else ""
        _say(name + chosen_for)
        _say(f"  {entry.title}\n  levels: {', '.join(entry.levels)}; licence: {entry.licence}")
        _say(f"  trained on: {entry.training_data}")
        for what, value in entry.metrics.items():
            _say(f"  {what}: {value}")
    return 0


# --- serve ----------------------------------------------------------------------------------


def add_serve(commands: _Commands) -> None:
    """Add `kappamask serve`."""
    parser = _add(
        commands,
        "serve",
        run_serve,
        "Run an openEO back end on this machine, over one catalogue.",
        "--port 8080 --catalog earth-search --workdir openeo",
    )
    parser.add_argument(
        "--catalog",
        default="earth-search",
        metavar="NAME|URL|DIR/catalog.json",
        help="what its collections are read from (default: %(default)s)",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        required=True,
        metavar="DIR",
        help="its jobs, results and stored processes; start again with it to go on",
    )
    parser.add_argument("--port", type=int, default=8080, help="0: any free one")
    parser.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="let it listen beyond this machine: it runs code that its clients send",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token that clients must show (or: KAPPAMASK_SERVE_TOKEN)",
    )


def run_serve(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from kappamask.openeo.settings import Settings, read_token

    settings = Settings(
        catalog=options.catalog,
        workdir=options.workdir,
        host=options.host,
        port=options.port,
        allow_remote=options.allow_remote,
        token=read_token(options.token_file),
    )
    from kappamask.openeo.server import serve

    with suppress(KeyboardInterrupt):
        serve(settings, say=_say)
    return 0


# --- udf ------------------------------------------------------------------------------------


def add_udf(commands: _Commands) -> None:
    """Add `kappamask udf build`."""
    udf = commands.add_parser("udf", help="Make what an openEO back end needs to run the UDF.")
    parser = _add(
        udf.add_subparsers(required=True, metavar="build"),
        "build",
        run_udf_build,
        "Make the archives for the job option udf-dependency-archives.",
        "--out dist --engine onnx",
    )
    parser.epilog = "example:\n  kappamask udf build --out dist --engine onnx"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--engine", default="onnx", choices=["onnx", "torch"], help="(default: %(default)s)"
    )
    parser.add_argument("--python", default="3.11", help="of the workers (default: %(default)s)")
    parser.add_argument("--base-url", metavar="URL", help="where the archives will lie")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wheels", type=Path, metavar="DIR", help="use these, download nothing")
    source.add_argument(
        "--from-installed", action="store_true", help="use the packages installed here"
    )


def run_udf_build(options: argparse.Namespace) -> int:
    """Build both archives; print their sizes and the job options to paste."""
    from kappamask.openeo.archives import HOST, build_archives

    built = build_archives(
        options.out,
        engine=options.engine,
        python=options.python,
        wheels=options.wheels,
        from_installed=options.from_installed,
    )
    for path in (built.library, built.runtime):
        _say(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")
    _say("Put both where the back end can download them, then give the batch job:")
    _say(json.dumps(built.job_options(options.base_url or HOST), indent=2))
    return 0


# --- terminal -------------------------------------------------------------------------------


def _say(text: str, *, file: Any = None) -> None:
    print(text, file=file or sys.stdout)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("labelling", total=None)

        def show(date: str, done: int, total: int) -> None:
            bar.update(task, description=date, completed=done, total=total)

        yield show


if __name__ == "__main__":
    sys.exit(main())
