# ruff: noqa: INP001  a back end gets this text and executes it: it belongs to no package
"""openEO UDF: clouds and cloud shadows on Sentinel-2, chunk by chunk.

Use it in `apply_neighborhood`, runtime "Python", with `size` 768 px and `overlap` 128 px
in x and y; `size` "P1D" in t labels date by date, no `size` in t gives all dates at once, which
may then correct one another (`refine`). It needs the library kappamask and an
engine (torch or onnxruntime): installed, or as the archives that `kappamask udf build`
makes, given to a batch job in the job option "udf-dependency-archives".

Context, all optional:

- scale, offset: what the values mean, reflectance = (value + offset) / scale. 10000 and 0
  for DN whose offset is applied (Copernicus' load_collection); offset -1000 for raw DN
  from processing baseline 04.00 on; scale 1 for reflectance.
- level: "L2A" or "L1C".
- model: a name that `kappamask models` lists, or "default".
- output: "labels" (1 clear, 2 cloud shadow, 3 semi-transparent cloud, 4 cloud, 5 missing),
  "mask" (1 = shadow, semi-transparent, cloud or missing; else 0), "probabilities" of
  clear, shadow, semi-transparent and cloud (NaN where data is missing), or "snow" (0 none,
  100 snow, 205 hidden by cloud or shadow, 255 missing), which needs the band B11.
- refine: true lets the dates of a chunk correct one another, and the sun where the bands
  sunAzimuthAngles and sunZenithAngles are there: roofs, rivers and lakes become clear.
- buffer_px: with "mask", pixels by which clouds and shadows are grown.
- threads: how many the engine may use; by default what the container grants.

Bands: blue, green, red and a near infrared at least, in any order and usual spelling;
others are passed over. Dimensions (t,) bands, y, x in any order; they are kept. Coordinates
y and x at pixel centres, in metres, make labels independent of where a chunk begins; without
them, or where they cannot be true, they depend on it a little.
"""

# No postponed annotations and no import of kappamask up here: back ends compare the
# annotations as they stand, and execute this text also where no archive is unpacked.
import functools
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray

try:
    from openeo.udf import inspect as log_to_job
except ImportError:  # a worker without the client
    log_to_job = None

DEFAULTS = {
    "scale": 10000,
    "offset": 0,
    "level": "L2A",
    "model": "default",
    "output": "labels",
    "buffer_px": 0,
    "refine": False,
    "threads": None,
}
# As kappamask.predict.chunk.OUTPUT_BANDS, which cannot be asked where no archive is unpacked.
OUTPUT_BANDS = {
    "labels": ("cloud_labels",),
    "mask": ("cloud_mask",),
    "probabilities": ("clear", "cloud_shadow", "semi_transparent_cloud", "cloud"),
    "snow": ("snow",),
}
BAND_DIMS = ("bands", "band", "spectral")
TIME_DIMS = ("t", "time", "temporal")
ENGINES = ("torch", "onnxruntime")
PYTHON_FILE = "kappamask_python.txt"  # in archives: for which Python they were made


def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:
    """Label a chunk; each date by itself."""
    options = read_context(context)
    find_packages()
    from kappamask.predict.chunk import (
        Digits,
        Wanted,
        find_origin,
        find_step,
        label_chunk,
        label_dates,
    )

    bands, time = find_dims(cube)
    names = [str(name) for name in cube[bands].values]
    model = load(options["model"], options["level"], options["threads"])
    # Float32 at best, and not to be trusted: they only say where the network's grid begins, and
    # how far and which way shadows fall.
    places = [cube[dim].values if dim in cube.coords else None for dim in "yx"]
    given = {
        "bands": names,
        "model": model,
        "digits": Digits(options["scale"], options["offset"]),
        "wanted": Wanted(options["output"], options["buffer_px"]),
        "origin": find_origin(*places),
    }

    dims = (time, bands, "y", "x") if time else (bands, "y", "x")
    values = cube.transpose(*dims).values
    if time and options["refine"] and time in cube.coords:
        labels = label_dates(values, times=cube[time].values, step=find_step(*places), **given)
    elif time:
        labels = np.stack([label_chunk(date, **given) for date in values])
    else:
        labels = label_chunk(values, **given)
    result = xarray.DataArray(
        labels,
        dims=dims,
        coords={
            **{name: axis for name, axis in cube.coords.items() if bands not in axis.dims},
            bands: list(OUTPUT_BANDS[options["output"]]),
        },
        attrs={**cube.attrs, "kappamask_model": model.entry.name, "level": model.level},
    )
    return result.transpose(*cube.dims)


def apply_metadata(metadata: Any, context: dict) -> Any:
    """Tell the back end which bands come out."""
    labels = list(OUTPUT_BANDS[read_context(context)["output"]])
    if not metadata.has_band_dimension():  # some back ends leave it out
        metadata = metadata.add_dimension(name="bands", label=labels[0], type="bands")
    return metadata.rename_labels(dimension=metadata.band_dimension.name, target=labels)


def read_context(context: Any) -> dict:
    """Fill in what is not given; a key that nobody knows is a typing error."""
    if not isinstance(context or {}, dict):
        text = f"kappamask: the context is an object, got {context!r}: correct it"
        raise ValueError(text)  # noqa: TRY004  as of all that is wrong in a context
    given = {key: value for key, value in (context or {}).items() if value is not None}
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        raise ValueError(
            f"kappamask: the context may hold {', '.join(DEFAULTS)}, got {', '.join(unknown)}: "
            "correct or remove it"
        )
    options = {**DEFAULTS, **given}
    for key, kind in {
        "level": str,
        "model": str,
        "output": str,
        "threads": int,
        "refine": bool,
    }.items():
        if not isinstance(options[key], (kind, type(DEFAULTS[key]))):
            text = f"kappamask: {key} is of type {kind.__name__}, got {options[key]!r}: correct it"
            raise ValueError(text)  # noqa: TRY004
    if options["output"] not in OUTPUT_BANDS:
        raise ValueError(
            f"kappamask: output must be one of {', '.join(OUTPUT_BANDS)}, "
            f"got {options['output']!r}: correct the context"
        )
    return options


def find_dims(cube: xarray.DataArray) -> tuple:
    """Find what the dimensions of bands and of time are called; time may be absent."""
    if 0 in cube.shape:
        raise ValueError(f"kappamask: a chunk has pixels, got {dict(cube.sizes)}: check the extent")
    bands = next((dim for dim in BAND_DIMS if dim in cube.dims), None)
    time = next((dim for dim in TIME_DIMS if dim in cube.dims), None)
    if set(cube.dims) - {time} != {bands, "y", "x"} or bands not in cube.coords:
        raise ValueError(
            f"kappamask: a chunk has dimensions (t, bands, y, x) with named bands, got "
            f"{cube.dims} and coordinates {tuple(cube.coords)}: rename or reduce the others before"
        )
    return bands, time


def find_packages() -> None:
    """Append unpacked archives to the module path, unless all is installed."""
    if not is_there("kappamask") or not any(map(is_there, ENGINES)):
        for folder in sorted(Path.cwd().iterdir()):
            held = [folder / name / "__init__.py" for name in ("kappamask", *ENGINES)]
            # Appended, never put first: the back end's own numpy and xarray stay in use.
            if str(folder) not in sys.path and any(path.is_file() for path in held):
                check_python(folder / PYTHON_FILE)
                sys.path.append(str(folder))
    absent = [] if is_there("kappamask") else ["kappamask"]
    absent += [] if any(map(is_there, ENGINES)) else [" or ".join(ENGINES)]
    if absent:
        raise ImportError(
            f"kappamask: {' and '.join(absent)} not found, neither installed nor in a folder of "
            f"{Path.cwd()}: give the job the archives that `kappamask udf build` makes, in the "
            'option "udf-dependency-archives" (batch jobs only)'
        )


def check_python(told: Path) -> None:
    """Compare the Python that an archive was made for with this one: compiled code is of one."""
    made = told.read_text().strip() if told.is_file() else ""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if made and made != running:
        image = f"python{made.replace('.', '')}"
        raise ImportError(
            f"kappamask: the archive in {told.parent} is for Python {made}, this worker runs "
            f'{running}: say version="{made}" in run_udf and "image-name": "{image}" in the job '
            f"options, or build it again with --python {running}"
        )


def is_there(name: str) -> bool:
    """Tell whether a package can be imported; a mere folder of that name is none."""
    found = find_spec(name)
    return found is not None and found.origin is not None


@functools.lru_cache(maxsize=4)
def load(name: str, level: str, threads: Any) -> Any:
    """Load the network, once per worker, and tell the job's log what is used."""
    from kappamask import __version__
    from kappamask.networks.model import load_model
    from kappamask.networks.runners import available_threads

    model = load_model(name, level, threads=threads or available_threads())
    used = {
        "kappamask": __version__,
        "model": model.entry.name,
        "sha256": model.entry.sha256,
        "level": level,
        "engine": model.runner.version,
        "precision": model.precision,
        "device": model.device,
        "threads": model.threads,
        "folder": str(Path(sys.modules["kappamask"].__file__ or "").parent),
    }
    if log_to_job is not None:
        said = "kappamask {kappamask}: model {model} in {engine}, {precision}, {threads} threads"
        log_to_job(data=used, message=said.format(**used), code="kappamask", level="info")
    return model
