"""Products and folders of them, of any format, as people name them. Imports `scenes` and `base`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kappamask.base.errors import ReadError
from kappamask.base.retry import is_remote
from kappamask.scenes import safe
from kappamask.scenes.eopf import is_store, read_store
from kappamask.scenes.safe import PRODUCT_METADATA, Product
from kappamask.scenes.safe_remote import read_remote

RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".nc", ".png")


def read_product(path: str | os.PathLike[str]) -> Product:
    """Read the metadata of a SAFE or EOPF Zarr product, here or at an https or s3 address.

    Errors as of `open_safe`.
    """
    if is_store(path):
        return read_store(path)
    return read_remote(os.fspath(path)) if is_remote(os.fspath(path)) else safe.read_product(path)


def find_products(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """List products and rasters, in order; of a folder that is none, what lies in it.

    Raises
    ------
    ReadError
        If there is nothing at a path, or no product in a folder.
    """
    found: list[str] = []
    for path in (os.fspath(path) for path in paths):
        if is_remote(path) or not Path(path).is_dir() or _is_product(Path(path)):
            found.append(path)
            continue
        inside = [str(one) for one in sorted(Path(path).iterdir()) if _is_product(one)]
        if not inside:
            # a folder of another name may be a product that is damaged: its error says more
            safe.read_product(path)
            raise ReadError(f"no product lies in {path}: check the path")
        found += inside
    return found


def _is_product(path: Path) -> bool:
    if path.is_dir():
        return is_store(path) or any(PRODUCT_METADATA.fullmatch(one.name) for one in path.iterdir())
    return path.suffix.lower() in (".zip", *RASTERS)


def is_raster(path: str) -> bool:
    """Tell whether a path is that of a raster of one's own, and of no product.

    Examples
    --------
    >>> is_raster("stack.TIF"), is_raster("S2A.SAFE"), is_raster("https://host/S2A.zarr")
    (True, False, False)
    """
    return path.partition("?")[0].lower().endswith(RASTERS)
