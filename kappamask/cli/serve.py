"""`kappamask serve`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from kappamask.cli.terminal import chosen, say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add catalogue, folder, and who may come."""
    parser.add_argument(
        "--catalog",
        default="earth-search",
        metavar="NAME|URL|DIR/catalog.json|DIR",
        help="what its collections are read from; a folder: of SAFE and EOPF Zarr products "
        "(default: %(default)s)",
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
    parser.add_argument(
        "--allow-load-stac",
        action="append",
        default=[],
        metavar="HOST",
        help="let graphs read catalogues and pixels of this host or s3 bucket too; without it, "
        "of public addresses only (again for more; '*': everything)",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="without a token, let pages of this origin ask (again for more), such as "
        "https://editor.openeo.org: what they send runs here",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from kappamask.base.errors import needs_extra
    from kappamask.openeo.server.settings import Settings, read_token

    settings = chosen(
        Settings,
        options,
        token=read_token(options.token_file),
        load_stac_hosts=tuple(options.allow_load_stac),
        origins=tuple(options.allow_origin),
    )
    with needs_extra("serve", "an openEO back end"):
        from kappamask.openeo.server.app import serve

    with suppress(KeyboardInterrupt):
        serve(settings, say=say)
    return 0
