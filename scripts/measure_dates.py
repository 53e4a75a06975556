"""Measure what dates and the sun add to single-date masks; prints tables in Markdown.

    python scripts/measure_dates.py ../shared/data [--weights RUN/best.safetensors] [PART ...]

Parts: bolzano, lazio (composites against clear dates kept out), ground (rivers, roofs and cliffs of
Bolzano), people (shadows drawn by people), change (fields that change), fields (small areas),
cost. Run it again for a new network: nothing here is fitted to one.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rioxarray  # noqa: F401  registers cube.rio
import xarray as xr

import kappamask as km
from kappamask.base.legend import Label
from kappamask.cubes.classes import CODES
from kappamask.evaluate.dates import keep_out, to_table
from kappamask.evaluate.programs import network_from_file
from kappamask.scenes.scene import sun_position

FOUR = ["B02", "B03", "B04", "B08"]
BOLZANO = 11.35, 46.49  # degrees
PASSES = {2: "10:16", 0: "10:26"}  # UTC; by the day's remainder of 5, of the two orbits
KEPT_OUT = {
    "bolzano": ("2022-06-12", "2022-06-20", "2022-06-30"),
    "lazio": ("2018-07-30", "2018-10-08"),
}
FIELD_PX, FIELDS = 24, 10  # of every second date
BESIDE_PX = 0, 128, 192, 256


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--weights", type=Path, help="of a training run; else the shipped network")
    options = parser.parse_args()
    peer = None if options.weights is None else network_from_file(options.weights)
    for part in options.parts:
        print(f"\n## {part}\n")
        PARTS[part](options.data, lambda level: "default" if peer is None else peer.model_of(level))
        sys.stdout.flush()


# --- cubes --------------------------------------------------------------------------------------


def make_cube(
    dn: np.ndarray, bands: list[str], times: list[str], sun: list[tuple[float, float]], **about: Any
) -> xr.DataArray:
    """Dress DN (time, band, y, x), offset taken off, as a canonical cube."""
    step = about.get("step", 10.0)
    rows, columns = dn.shape[2:]
    reflectance = np.where(np.isnan(dn), np.nan, dn / np.float32(1e4)).astype(np.float32)
    return xr.DataArray(
        reflectance,
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.array(times, "M8[ns]"),
            "band": bands,
            "y": 5_154_955.0 - step * np.arange(rows),
            "x": 674_995.0 + step * np.arange(columns),
            "sun_azimuth": ("time", [azimuth for azimuth, _ in sun]),
            "sun_elevation": ("time", [elevation for _, elevation in sun]),
        },
        attrs={"level": about["level"]},
    ).rio.write_crs(32632)


def read_bolzano(data: Path) -> tuple[xr.DataArray, xr.DataArray]:
    """Read the cube, and Sen2Cor's classes as labels."""
    dn, classes, times = [], [], []
    for folder in sorted((data / "bolzano").iterdir()):
        day = folder.name[-8:]
        times.append(f"{day[:4]}-{day[4:6]}-{day[6:]}T{PASSES[int(day[6:]) % 5]}")
        for band in FOUR:
            with rasterio.open(folder / f"{band}.tif") as raster:
                stored = raster.read(1).astype(np.float32)
            dn.append(np.where(stored == 0, np.nan, stored - 1000))
        with rasterio.open(folder / "SCL.tif") as raster:
            classes.append(CODES[raster.read(1)])
    sun = [sun_position(np.datetime64(when, "ns"), *BOLZANO) for when in times]
    stack = np.array(dn).reshape(len(times), len(FOUR), *dn[0].shape)
    cube = make_cube(stack, FOUR, times, sun, level="L2A")
    return cube, cube.isel(band=0, drop=True).copy(data=np.stack(classes)).rename("labels")


def read_rasters(paths: list[Path], sun: list[tuple[float, float]], **about: Any) -> xr.DataArray:
    """Read dated rasters of all bands."""
    dn = []
    for path in paths:
        with rasterio.open(path) as raster:
            stored, bands = raster.read().astype(np.float32), list(raster.descriptions)
        dn.append(np.where(stored == 0, np.nan, stored))
    times = [f"{path.stem[-10:]}T10:00" for path in paths]
    return make_cube(np.stack(dn), bands, times, sun, **about)


# --- parts --------------------------------------------------------------------------------------


def measure_bolzano(data: Path, model: Any) -> None:
    """Twelve dates of June, L2A; Sen2Cor with the same buffers beside."""
    cube, classes = read_bolzano(data)
    labels = km.predict_cube(cube, model=model("L2A"))
    print(to_table(keep_out(cube, labels, scl=classes, held_out=KEPT_OUT["bolzano"])))


def measure_lazio(data: Path, model: Any) -> None:
    """Thirty dates of a year, L1C; composites of a month around each date kept out."""
    paths = sorted((data / "series" / "lazio_p0").glob("*.tif"))
    sun = []
    for path in paths:
        with rasterio.open(path) as raster:
            tags = raster.tags()
        sun.append((float(tags["sun_azimuth"]), float(tags["sun_elevation"])))
    cube = read_rasters(paths, sun, level="L1C")
    labels = km.predict_cube(cube, model=model("L1C"))
    days = np.datetime_as_string(labels["time"].values, unit="D")
    clear = days[(labels == Label.CLEAR).mean(("y", "x")).values >= 0.99].tolist()
    for name, chosen in {"two": KEPT_OUT["lazio"], f"all {len(clear)} clear": clear}.items():
        rows = keep_out(cube.sel(band=FOUR), labels, held_out=chosen, within_days=30)
        print(f"{name} dates\n\n{to_table(rows)}")


def measure_ground(data: Path, model: Any) -> None:
    """Share of Bolzano that is clear on its clear dates."""
    cube, _ = read_bolzano(data)
    labels = km.predict_cube(cube, model=model("L2A")).compute()
    refined = km.refine(labels).compute()
    for day in KEPT_OUT["bolzano"]:
        alone, together = ((one.sel(time=day) == Label.CLEAR).mean() for one in (labels, refined))
        print(f"- {day}: clear {float(alone):.4%}, refined {float(together):.4%}")


def measure_people(data: Path, model: Any) -> None:
    """Dice of shadow on the four dates of Alberta."""
    with (data / "people" / "people.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("layton_")]
    sun = [(float(row["sun_azimuth"]), float(row["sun_elevation"])) for row in rows]
    paths = [data / "people" / row["file"] for row in rows]
    cube = read_rasters(paths, sun, level="L2A", step=30.0)
    labels = km.predict_cube(cube, model=model("L2A")).compute()
    refined, scores = km.refine(labels).values, []
    for alone, together, path in zip(labels.values, refined, paths, strict=True):
        with rasterio.open(path.with_name(f"{path.stem}_label.tif")) as raster:
            people = raster.read(1)
        told = (people == Label.CLEAR) | (people == Label.CLOUD_SHADOW)
        pair = [dice((one == Label.CLOUD_SHADOW) & told, people == Label.CLOUD_SHADOW)
                for one in (alone, together)]  # fmt: skip
        print(f"- {path.stem[-10:]}: {pair[0]:.3f}, refined {pair[1]:.3f}")
        scores.append(pair)
    print("- mean: {:.3f}, refined {:.3f}".format(*np.mean(scores, axis=0)))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Twice what both say, by all that either says."""
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def changes(pixels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what a field looks like after it changed: blue, green, red, near infrared."""
    blue, green, red, near = pixels
    yield "harvest", np.stack([blue + 0.02, green + 0.03, red + 0.08, near * 0.7])
    yield "ploughing", np.stack([blue * 0.9, green * 0.85, red * 1.1, near * 0.45])
    yield "flood", np.stack([blue, green, red * 0.8, near * 0.15 + 0.01])
    yield "burn", np.stack([blue * 0.7, green * 0.5, red * 0.6, near * 0.35])
    yield "snow", np.stack([band * 0.1 + 0.75 for band in pixels])


def measure_change(data: Path, model: Any) -> None:
    """Made change on squares of 300 m, on the last four clear dates: share that is not clear."""
    cube, _ = read_bolzano(data)
    last = cube["time"].values >= np.datetime64("2022-06-20")
    squares = np.zeros(cube.shape[2:], bool)
    for row in range(60, 660, 120):
        for column in range(60, 880, 120):
            squares[row : row + 30, column : column + 30] = True
    before = km.predict_cube(cube, model=model("L2A")).compute()
    near = before.values[:, squares]
    for index, (name, _) in enumerate(changes(cube.values[0])):
        changed = cube.values.copy()
        for date in np.flatnonzero(last):
            new = list(changes(cube.values[date]))[index][1]
            changed[date][:, squares] = new[:, squares]
        labels = km.predict_cube(cube.copy(data=changed), model=model("L2A")).compute()
        refined = km.refine(labels).values
        was_clear = near[last] == Label.CLEAR
        alone, together = ((one[last][:, squares] != Label.CLEAR)[was_clear].mean()
                           for one in (labels.values, refined))  # fmt: skip
        print(f"- {name}: {alone:.3%} not clear, refined {together:.3%}")


def measure_fields(data: Path, model: Any) -> None:
    """Fields of 240 m against the labels of the whole, with and without what lies beside them."""
    cube, _ = read_bolzano(data)
    places = np.random.default_rng(0)
    shares: dict[int, list[float]] = {beside: [] for beside in BESIDE_PX}
    for scene in cube.sel(time=list(np.unique(cube["time"].values)[::2])).values:
        whole = km.predict_array(scene, FOUR, level="L2A", model=model("L2A"))
        for _ in range(FIELDS):
            row, column = (int(places.integers(0, size - FIELD_PX)) for size in whole.shape)
            field = slice(row, row + FIELD_PX), slice(column, column + FIELD_PX)
            for beside, found in shares.items():
                top, left = max(0, row - beside), max(0, column - beside)
                read = scene[:, top : field[0].stop + beside, left : field[1].stop + beside]
                codes = km.predict_array(
                    read, FOUR, level="L2A", model=model("L2A"), origin=(top, left)
                )
                inner = codes[row - top :, column - left :][:FIELD_PX, :FIELD_PX]
                found.append(float((inner == whole[field]).mean()))
    for beside, found in shares.items():
        print(f"- {beside} px beside: mean {np.mean(found):.2%}, worst {np.min(found):.2%}")


def measure_cost(data: Path, model: Any) -> None:
    """CPU seconds of this process, a date and million pixels."""
    cube, _ = read_bolzano(data)
    pixels = cube.size / len(FOUR) / 1e6
    start = time.process_time()
    labels = km.predict_cube(cube, model=model("L2A")).compute()
    network = (time.process_time() - start) / pixels
    start = time.process_time()
    km.refine(labels).compute()
    dates = (time.process_time() - start) / pixels
    print(f"- network {network:.3f}, refine {dates:.3f}: {dates / network:.2f} of it")


PARTS = {
    "bolzano": measure_bolzano,
    "lazio": measure_lazio,
    "ground": measure_ground,
    "people": measure_people,
    "change": measure_change,
    "fields": measure_fields,
    "cost": measure_cost,
}

if __name__ == "__main__":
    main()
