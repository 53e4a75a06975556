"""What must not change while the package is rebuilt: sha256 of files that its public doors write.

After a commit that asks for other output: `python tests/test_pinned.py --write [GROUP ...]`.

Bytes are pinned, and beside them the decoded pixels: where only the bytes differ, the form of the
file changed and not what it says. Each run is in a folder of its own beside its catalogue, so
relative links are the same everywhere. The version of the package stands in files and items and
is pinned with them: a release writes the hashes anew.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pytest
import rasterio
from support import bolzano

import kappamask as km
from kappamask.cli import main
from kappamask.networks.runners import has_bf16

HERE = Path(__file__).resolve().parent
PINS = HERE / "pinned.json"
SHARED = HERE.parents[1] / "shared" / "data"
UDF = HERE.parent / "udf"

L1C = {"bbox": "12.497906,52.457431,12.720672,52.521987", "date": "2017-02-16", "level": "L1C"}
L2A = {"bbox": "22.146626,45.200886,22.157797,45.208690", "date": "2019-06-16/2019-09-14"}
JULY = L2A | {"date": "2019-07"}
JUNE = {"bbox": ",".join(map(str, bolzano.BBOX)), "date": "2022-06"}
METHODS = ("median", "first-clear", "best-pixel")
OTHER_METHODS = ("mean", "geomedian", "medoid", "max-ndvi")
COMMANDS = (
    "",
    "demo",
    "search",
    "mask",
    "composite",
    "stats",
    "vectorize",
    "report",
    "models",
    "models fetch",
    "evaluate",
    "serve",
    "train",
    "udf",
    "udf build",
)


def digest(content):
    return sha256(content).hexdigest()


def digest_files(folder, prefix=""):
    """Hash every file of a folder, and what its rasters decode to; not the folders below."""
    found = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        found[f"{prefix}{path.name}"] = digest(path.read_bytes())
        if path.suffix == ".tif":
            with rasterio.open(path) as raster:
                pixels = raster.read()
            decoded = f"{pixels.dtype} {pixels.shape} ".encode() + pixels.tobytes()
            found[f"{prefix}{path.name} decoded"] = digest(decoded)
    return found


def run(*words, **options):
    """Run a command whose answer does not matter here."""
    command = [*map(str, words)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        code = main([*command, "--no-pictures"])
    assert code == 0, errors.getvalue()


def mask_dates(folder, catalog, query):
    """Mask all dates of a catalogue that lies below `folder`."""
    run("mask", catalog=catalog, out=folder / "masks", **query)
    return digest_files(folder / "masks", "masks/")


def compose_dates(folder, catalog, query, **options):
    """Compose the dates of `mask_dates`, of copies of its masks."""
    name = "-".join(options.values())
    shutil.copytree(folder / "masks", folder / name / "masks")  # kept: nothing is labelled twice
    run("composite", catalog=catalog, out=folder / name, **query, **options)
    return digest_files(folder / name, f"{name}/")


def copy_sample(folder):
    source = Path(km.__file__).with_name("sample")
    shutil.copytree(source, folder / "sample", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "sample" / "catalog.json"


def sample_l1c(folder):
    return mask_dates(folder, copy_sample(folder), L1C)


def sample_l2a(folder):
    """Twelve dates and their composites: of each month, of the whole time, of July alone."""
    catalog = copy_sample(folder)
    found = mask_dates(folder, catalog, L2A)
    for method in METHODS:
        found |= compose_dates(folder, catalog, L2A, method=method)
    for method in OTHER_METHODS:
        found |= compose_dates(folder, catalog, JULY, method=method)
    return found | compose_dates(folder, catalog, L2A, method="median", period="month")


def sample_in_fp32(folder):
    """Masks by the functions of the library; the commands compute in what the machine has."""
    catalog = copy_sample(folder)
    for query in (L1C, JULY):
        area = tuple(map(float, query["bbox"].split(",")))
        level = query.get("level", "L2A")
        items = km.search(area, query["date"], catalog=catalog, level=level)
        model = km.load_model(level=level, precision="fp32")
        labels = km.predict_cube(km.load_cube(items, area), model=model)
        km.write_mask(labels, folder / "masks", source_items=items)
    return digest_files(folder / "masks", "masks/")


def bolzano_l2a(folder):
    (folder / "catalog").mkdir()
    catalog = bolzano.write_catalog(folder / "catalog", SHARED / "bolzano")
    found = mask_dates(folder, catalog, JUNE)
    for method in METHODS:
        found |= compose_dates(folder, catalog, JUNE, method=method)
    return found


def safe_l1c(folder):
    """A whole tile at 10 m, of which a narrow strip holds pixels."""
    (product,) = SHARED.glob("safe/S2A_MSIL1C_*_T32UPV_*.SAFE")
    run("mask", product, out=folder / "masks")
    return digest_files(folder / "masks", "masks/")


def safe_l2a(folder):
    (product,) = SHARED.glob("safe/S2A_MSIL2A_*_T29UNU_*.SAFE")
    run("mask", product, out=folder / "masks", resolution=60)
    return digest_files(folder / "masks", "masks/")


def udf(_):
    """Process graphs, the records of both and the scenarios of the benchmark."""
    paths = sorted(UDF.rglob("*.json"))
    return {path.relative_to(UDF).as_posix(): digest(path.read_bytes()) for path in paths}


def help_texts(_):
    """What `--help` prints at a fixed width."""
    found = {}
    for command in COMMANDS:
        said = io.StringIO()
        # FORCE_COLOR of some machines would win over NO_COLOR
        width = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHON_COLORS": "0"}
        with patch.dict(os.environ, width), redirect_stdout(said), pytest.raises(SystemExit) as end:
            main([*command.split(), "--help"])
        assert end.value.code == 0
        found[f"kappamask {command}".strip()] = digest(said.getvalue().encode())
    return found


LABELLING = ("processor", "torch", "gdal")  # what labels and the bytes of a COG depend on
SAMPLE = {run_.__name__: run_ for run_ in (sample_l1c, sample_l2a, sample_in_fp32)}
REAL = {run_.__name__: run_ for run_ in (bolzano_l2a, safe_l1c, safe_l2a)}
TEXTS = {"udf": (udf, ()), "help_texts": (help_texts, ("python",))}  # argparse wraps by version


def describe_machine():
    """What hashes depend on beside the code: a sum in another order may flip a label."""
    import torch

    probes = {
        "CUDA": torch.cuda.is_available(),
        "AMX": getattr(torch.cpu, "_is_amx_tile_supported", bool)(),
        "bf16": has_bf16(),
    }
    found = [name for name, there in probes.items() if there]
    return {
        "processor": "+".join([torch.backends.cpu.get_cpu_capability(), *found]),
        "torch": torch.__version__.split("+")[0],
        "gdal": rasterio.__gdal_version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def check(group, make, folder, needed):
    """Compare with what was pinned; skip where the hashes are known not to hold."""
    pinned, machine = json.loads(PINS.read_text("utf-8")), describe_machine()
    made_with = pinned["made_with"][group]
    if other := [name for name in needed if machine[name] != made_with[name]]:
        reason = ", ".join(f"{name} {made_with[name]} and not {machine[name]}" for name in other)
        pytest.skip(f"hashes of {group} hold for {reason}")
    assert make(folder) == pinned["sha256"][group]


@pytest.mark.slow
@pytest.mark.parametrize("group", SAMPLE)
def test_files_of_the_sample_are_the_same(group, tmp_path):
    check(group, SAMPLE[group], tmp_path, LABELLING)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("group", REAL)
def test_files_of_real_scenes_are_the_same(group, shared_data, tmp_path):  # noqa: ARG001  skips
    check(group, REAL[group], tmp_path, LABELLING)


@pytest.mark.parametrize("group", TEXTS)
def test_texts_are_the_same(group, tmp_path):
    if group == "udf" and not UDF.is_dir():
        pytest.skip("needs udf/: a clone, not an installation")
    make, needed = TEXTS[group]
    check(group, make, tmp_path, needed)


def write(names):
    """Pin what this machine makes; groups that are not named stay as they are."""
    makers = SAMPLE | REAL | {name: make for name, (make, _) in TEXTS.items()}
    pinned = json.loads(PINS.read_text("utf-8")) if PINS.exists() else {}
    pinned = {key: pinned.get(key, {}) for key in ("made_with", "sha256")}
    for name in names or makers:
        with tempfile.TemporaryDirectory() as folder:
            pinned["sha256"][name] = makers[name](Path(folder))
        pinned["made_with"][name] = describe_machine()
    PINS.write_text(json.dumps(pinned, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--write"]:
        sys.exit("usage: python tests/test_pinned.py --write [GROUP ...]")
    write(sys.argv[2:])
