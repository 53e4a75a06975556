"""Measure what dates and the sun add to single-date masks; prints tables in Markdown.

    python scripts/measure_dates.py ../shared/data [--weights RUN/best.safetensors] [PART ...]

Parts: bolzano, lazio (composites against clear dates kept out), ground (rivers, roofs and cliffs of
Bolzano), people (shadows drawn by people), change (fields that change), clouded (fields that
change, with simulated clouds near), simulated (clouds over places that no network saw), fields
(small areas), cost. Run it again for a new network: nothing here is fitted to one.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
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
CLEAR_DATES = ("2022-06-12", "2022-06-20", "2022-06-27", "2022-06-30")  # of Bolzano
UNSEEN = (  # clear, and of no split but `val` (whole_earth.csv)
    *(f"pairs/cr_1868_summer_{place}/clear.tif" for place in ("102_p100", "102_p500", "31_p100")),
    *(f"pairs/cr_test_{place}/clear.tif" for place in (1302, 4294, 5278, 7657)),
    "scenes/lazio_p81_2018-07-05.tif", "scenes/sharkbay_T49JGM_2017-10-22.tif",
)  # fmt: skip
DATES, SCENE_PX = 5, 256  # of simulated series
PLACES = (0, 0), (0, 340), (340, 0), (340, 340), (170, 620)  # row and column, of Bolzano
SUN_ELEVATION = 45.0  # whatever it is: heights of simulated clouds are lengths of shadows
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


def see_through_clouds(
    ground: np.ndarray, bands: list[str], rng: np.random.Generator, *, level: str
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Put simulated clouds on clear reflectance (band, y, x), NaN where there is none.

    Returns what is seen, its true codes (0: between two classes), and where the sun stands.
    """
    import torch

    from kappamask.base.bands import NAMES
    from kappamask.train.simulate import simulate

    whole = np.full((len(NAMES), *ground.shape[1:]), np.nan, np.float32)
    slots = [NAMES.index(name) for name in bands]
    whole[slots] = ground
    falls = copy.deepcopy(rng).uniform(0, 2 * np.pi)  # where shadows fall is what it draws first
    seen, truth = simulate(torch.from_numpy(whole), rng, level=level, resolution=10.0)
    azimuth = float(np.degrees(np.arctan2(-np.cos(falls), np.sin(falls))) % 360)
    return seen.numpy()[slots], truth.numpy(), (azimuth, SUN_ELEVATION)


def change_near_clouds(
    cube: xr.DataArray, kind: str, places: Sequence[tuple[int, int]], model: Any = "default"
) -> np.ndarray:
    """Change squares of Bolzano on later clear dates, and put simulated clouds on all of them.

    Counted are changed pixels, over `places` (row and column of 256 px).

    Returns
    -------
    numpy.ndarray
        (2, 3, 2) int: by one date and refined; in the clear, in shadow, under cloud; all of them,
        and those that are called not clear where they are, clear where they are not.
    """
    cube = cube.sel(time=cube["time"].dt.strftime("%Y-%m-%d").isin(CLEAR_DATES).values)
    squares = np.zeros((SCENE_PX, SCENE_PX), bool)
    for row in range(20, SCENE_PX - 30, 60):
        for column in range(20, SCENE_PX - 30, 60):
            squares[row : row + 30, column : column + 30] = True
    rng, counts = np.random.default_rng(3), np.zeros((2, 3, 2), int)
    for row, column in places:
        part = cube[:, :, row : row + SCENE_PX, column : column + SCENE_PX].copy(deep=True)
        truths, suns = [], []
        for date, pixels in enumerate(part.values):
            if date >= 2:  # the change lasts
                pixels[:, squares] = dict(changes(pixels))[kind][:, squares]
            pixels[:], truth, sun = see_through_clouds(pixels, FOUR, rng, level="L2A")
            truths.append(truth)
            suns.append(sun)
        azimuths, elevations = zip(*suns, strict=True)
        part = part.assign_coords(
            sun_azimuth=("time", list(azimuths)), sun_elevation=("time", list(elevations))
        )
        alone = km.predict_cube(part, model=model).compute()
        true = np.stack(truths)[2:, squares]
        groups = (true == Label.CLEAR, true == Label.CLOUD_SHADOW, true > Label.CLOUD_SHADOW)
        for figures, labels in zip(counts, (alone, km.refine(alone)), strict=True):
            clear = labels.values[2:, squares] == Label.CLEAR
            for figure, group, wrong in zip(figures, groups, (~clear, clear, clear), strict=True):
                figure += [group.sum(), (group & wrong).sum()]
    return counts


def measure_clouded(data: Path, model: Any) -> None:
    """Made change with simulated clouds near: what single dates and refined ones get wrong."""
    cube, _ = read_bolzano(data)
    for kind, _ in changes(cube.values[0]):
        counts = change_near_clouds(cube, kind, PLACES, model("L2A"))
        (lit, shade, cloud), refined = (figures[:, 1] / figures[:, 0] for figures in counts)
        print(
            f"- {kind}: in the clear {lit:.1%} not called so, refined {refined[0]:.1%}; "
            f"called clear in shadow {shade:.1%}, refined {refined[1]:.1%}; "
            f"under cloud {cloud:.1%}, refined {refined[2]:.1%}"
        )


def measure_simulated(data: Path, model: Any) -> None:
    """Five dates of simulated clouds over places that the network did not see: dice by class."""
    rng = np.random.default_rng(7)
    sums: dict[tuple[str, Label, str], Any] = {}
    classes = Label.CLOUD_SHADOW, Label.SEMI_TRANSPARENT, Label.CLOUD
    for name in UNSEEN:
        with rasterio.open(data / name) as raster:
            dn, bands = raster.read().astype(np.float32), list(raster.descriptions)
        ground = np.where(dn == 0, np.nan, dn / 1e4)[:, :SCENE_PX, :SCENE_PX]
        seen, truths, suns = [], [], []
        for _ in range(DATES):  # air and ground are a little others on each
            gain = rng.uniform(0.93, 1.07) * rng.uniform(0.97, 1.03, (len(bands), 1, 1))
            pixels, truth, sun = see_through_clouds(ground * gain, bands, rng, level="L1C")
            seen.append(pixels * 1e4)
            truths.append(truth)
            suns.append(sun)
        times = [f"2018-07-{1 + 5 * date:02d}T10:00" for date in range(DATES)]
        cube, true = make_cube(np.stack(seen), bands, times, suns, level="L1C"), np.stack(truths)
        for said, some in (("all bands", bands), ("4 bands", FOUR)):
            alone = km.predict_cube(cube.sel(band=some), model=model("L1C")).compute()
            both = {"alone": alone.values, "refined": km.refine(alone).values}
            for (how, codes), label in itertools.product(both.items(), classes):
                ours, theirs = (codes == label) & (true != Label.UNDEFINED), true == label
                counts = np.array([(ours & theirs).sum(), ours.sum(), theirs.sum()])
                key = said, label, how
                sums[key] = sums.get(key, 0) + counts
    for (said, label, how), (hits, ours, theirs) in sums.items():
        print(f"- {said}, {label.name.lower()}, {how}: dice {2 * hits / (ours + theirs):.3f}, "
              f"precision {hits / ours:.3f}, recall {hits / theirs:.3f}")  # fmt: skip


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
    "clouded": measure_clouded,
    "simulated": measure_simulated,
    "fields": measure_fields,
    "cost": measure_cost,
}

if __name__ == "__main__":
    main()
