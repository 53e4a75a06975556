"""How long a whole product takes: `python benchmarks/product.py [--sizes 2745 5490 10980]`.

Products are made of the real strip of T32UPV in ../shared/data/safe, mirrored until a
tile is full, in JP2 files like ESA's (1024, 640 and 192 px tiles, lossless), and kept
in a folder of the machine's temporary one. So the bits per pixel are real, the scene
is not. Every figure comes from a process of its own.

Merely decoding the JP2 files with as many threads as there are cores is the floor that
no reader can pass; the ratio to it is what the product costs on top. Cold is the first
run: the product's files are put out of the system's cache, and the start of Python, its
imports and the network's weights count. Warm is the median of `--repeats` runs whose files
lie in the cache; imports and weights are there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from machine import peak_gb, print_machine, record
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from shapely.geometry import mapping

from kappamask.base.bands import BANDS
from kappamask.networks.runners import available_threads

STRIP = Path(__file__).parents[2] / "shared/data/safe"
STRIP /= "S2A_MSIL1C_20170430T103021_N0205_R108_T32UPV_20170430T103024.SAFE"
EPSG, LEFT, TOP = 32632, 600000, 5500020
HEIGHT, WIDTH = 1560, 420  # the largest full rectangle of the strip, pixels of 10 m
JP2_TILE = {10: 1024, 20: 640, 60: 192}  # as ESA stores them
JP2 = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", "RESOLUTIONS": "5"}
GEOTIFF = {"driver": "COG", "compress": "DEFLATE", "predictor": "YES", "blocksize": 1024}
TARGETS = (
    "targets: whole product at most 1.45 x decoding, at 20 m at most 0.45 x its time at 10 m, "
    "1.7 GB; 10980 px from COGs at most 28 s"
)


def build(folder: Path, size: int) -> tuple[Path, Path]:
    """Make the product of `size` 10 m pixels, once; return its folder and its item."""
    product, cogs = folder / f"{size}" / STRIP.name, folder / f"{size}" / "cogs"
    done = folder / f"{size}" / "done"
    if not done.exists():
        for path in STRIP.rglob("*.xml"):
            text = re.sub(
                r'<Size resolution="(\d+)">.*?</Size>',
                lambda found: size_xml(int(found[1]), size),
                path.read_text("utf-8"),
                flags=re.DOTALL,
            )
            target = product / path.relative_to(STRIP)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
        cogs.mkdir(exist_ok=True)
        for band in BANDS:
            write_band(product, cogs, band.name, band.gsd, size)
        done.touch()
    (cogs / "item.json").write_text(json.dumps(make_item(cogs, size)))
    return product, cogs / "item.json"


def size_xml(gsd: int, size: int) -> str:
    """Say rows and columns in the words of MTD_TL.xml."""
    count = size * 10 // gsd
    return f'<Size resolution="{gsd}"><NROWS>{count}</NROWS><NCOLS>{count}</NCOLS></Size>'


def write_band(product: Path, cogs: Path, name: str, gsd: int, size: int) -> None:
    """Mirror the strip until it fills the band; write it as JP2 and as COG."""
    (source,) = STRIP.glob(f"GRANULE/*/IMG_DATA/*_{name}.jp2")
    with rasterio.open(source) as raster:
        strip = raster.read(1, window=Window(0, 0, WIDTH * 10 // gsd, HEIGHT * 10 // gsd))
    pair = np.concatenate([strip, strip[:, ::-1]], axis=1)
    block = np.concatenate([pair, pair[::-1]])
    count = size * 10 // gsd
    times = [-(-count // length) for length in block.shape]
    full = np.tile(block, times)[:count, :count]
    grid = {
        "width": count,
        "height": count,
        "count": 1,
        "dtype": "uint16",
        "crs": EPSG,
        "transform": from_origin(LEFT, TOP, gsd, gsd),
    }
    target = product / source.relative_to(STRIP)
    target.parent.mkdir(exist_ok=True)
    block_size = {"BLOCKXSIZE": JP2_TILE[gsd], "BLOCKYSIZE": JP2_TILE[gsd]}
    with rasterio.open(target, "w", **JP2, **block_size, **grid) as raster:
        raster.write(full, 1)
    with rasterio.open(cogs / f"{name}.tif", "w", **GEOTIFF, **grid, nodata=0) as raster:
        raster.write(full, 1)


def make_item(cogs: Path, size: int) -> dict[str, Any]:
    """Describe the COGs as a catalogue would."""
    assets = {}
    for band in BANDS:
        count = size * 10 // band.gsd
        assets[band.name] = {
            "href": str(cogs / f"{band.name}.tif"),
            "proj:transform": [band.gsd, 0, LEFT, 0, -band.gsd, TOP],
            "proj:shape": [count, count],
        }
    bounds = LEFT, TOP - 10 * size, LEFT + 10 * size, TOP
    box = transform_bounds(EPSG, 4326, *bounds)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": STRIP.stem,
        "geometry": mapping(shapely.box(*box)),
        "bbox": box,
        "links": [],
        "properties": {
            "datetime": "2017-04-30T10:30:21.026Z",
            "proj:epsg": EPSG,
            "s2:product_type": "S2MSI1C",
            "s2:processing_baseline": "02.05",
        },
        "assets": assets,
    }


# --- what is measured, each in a process of its own -------------------------------------------


def decode(product: Path, _: Path) -> None:
    """Decode every JP2 file whole, one row of JP2 tiles at a time."""
    threads = available_threads()
    paths = sorted(product.glob("GRANULE/*/IMG_DATA/*.jp2"), key=os.path.getsize, reverse=True)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode_file, paths))


def decode_file(path: Path) -> None:
    """Decode one JP2 file."""
    with rasterio.Env(GDAL_NUM_THREADS="2"), rasterio.open(path) as raster:
        step = raster.block_shapes[0][0]
        for top in range(0, raster.height, step):
            raster.read(1, window=Window(0, top, raster.width, min(step, raster.height - top)))


def safe(product: Path, _: Path, resolution: int = 10) -> None:
    """Label the SAFE product."""
    from kappamask.jobs import MaskOptions, mask_product

    with tempfile.TemporaryDirectory() as folder:
        mask_product(product, folder, options=MaskOptions(resolution=resolution))


def cogs(_: Path, item: Path, resolution: int = 10) -> None:
    """Label the same scene in local COGs."""
    from kappamask.jobs import MaskOptions, mask_files

    with tempfile.TemporaryDirectory() as folder:
        options = MaskOptions(resolution=resolution)
        mask_files([json.loads(item.read_text())], folder, options=options)


WORK = {
    "decode": decode,
    "safe": safe,
    "safe at 20 m": partial(safe, resolution=20),
    "cogs": cogs,
    "cogs at 20 m": partial(cogs, resolution=20),
}


def measure(name: str, product: Path, item: Path) -> tuple[float, float, float]:
    """Do one piece of work in a new process: its seconds, those with its start, peak GB."""
    command = [sys.executable, __file__, "--only", name, str(product), str(item)]
    began = time.perf_counter()
    said = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    whole = time.perf_counter() - began
    seconds, peak = said.stdout.split()[-2:]
    return float(seconds), whole, float(peak)


def forget(folder: Path) -> None:
    """Put the files of a folder out of the system's cache, as far as it lets go of them."""
    os.sync()
    for path in folder.rglob("*.*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_only(name: str, product: Path, item: Path) -> None:
    """Do one piece of work; print seconds and peak GB."""
    import kappamask.jobs.masks  # noqa: F401
    from kappamask import load_model

    if name != "decode":
        load_model("default", "L1C")
    began = time.perf_counter()
    WORK[name](product, item)
    print(time.perf_counter() - began, peak_gb())


def print_size(size: int, cache: Path, repeats: int) -> None:
    """Print the line of one size."""
    product, item = build(cache, size)
    forget(product)
    _, cold, _ = measure("safe", product, item)
    warm: dict[str, float] = {}
    peaks: dict[str, float] = {}
    for name in WORK:
        runs = [measure(name, product, item) for _ in range(repeats)]
        warm[name] = statistics.median(seconds for seconds, _, _ in runs)
        peaks[name] = max(peak for _, _, peak in runs)
    halved = warm["safe at 20 m"] / warm["safe"]
    record("product", f"{size} x {size}", cold=cold, warm=warm, peaks=peaks, halved=halved)
    print(
        f"{size:>6} x {size:<5}{warm['decode']:9.1f} s {cold:6.1f} s {warm['safe']:6.1f} s"
        f" {warm['safe'] / warm['decode']:6.2f} {peaks['safe']:8.2f}"
        f" {warm['cogs']:6.1f} s {peaks['cogs']:8.2f}"
        f" {warm['safe at 20 m']:6.1f} s {halved:6.2f} {warm['cogs at 20 m']:6.1f} s",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2745, 5490, 10980])
    parser.add_argument("--repeats", type=int, default=1, help="of what is warm")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir(), "kappamask-bench")
    )
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        name, *paths = options.only
        run_only(name, *map(Path, paths))
        return
    print_machine()
    if not STRIP.is_dir():
        print(f"whole products: not measured, they need {STRIP.name}, which is not shipped")
        return
    print(TARGETS)
    print(
        f"\n{'pixels':>13} {'decoding':>10} {'cold':>8} {'warm':>8} {'ratio':>6} {'peak GB':>8}"
        f" {'COGs':>8} {'peak GB':>8} {'20 m':>8} {'ratio':>6} {'COGs':>8}"
    )
    for size in options.sizes:
        print_size(size, options.cache, options.repeats)


if __name__ == "__main__":
    main()
