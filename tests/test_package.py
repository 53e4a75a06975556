"""The front door: the public names of the contract, fast to import, never hidden by a room."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys

import pytest

import kappamask as km
from kappamask.base.errors import WeightsError
from kappamask.jobs import MaskOptions, mask_items
from kappamask.networks import model as networks
from kappamask.networks.runners import ENVIRONMENT
from kappamask.networks.weights import WeightsFile, weights_of
from kappamask.sample import SCENES, catalog_path

# What labels, draws, or reads what a small job from files of this machine does not have.
NOT_YET = {
    "torch", "onnxruntime", "xarray", "pandas", "dask", "scipy", "rioxarray", "stackstac", "odc",
    "zarr", "matplotlib", "PIL", "openeo", "netCDF4", "h5py", "pyarrow", "safetensors",
}  # fmt: skip
AT_FIRST_READ = """
import os, sys
from kappamask import cli
from kappamask.cubes import rasters
from kappamask.networks.runners import ENVIRONMENT

def told(*_, **__):
    set_before = ENVIRONMENT.keys() & os.environ.keys()
    print(*{name.partition(".")[0] for name in sys.modules} | set_before, flush=True)
    os._exit(0)

rasters.FileReader.read = told  # whoever reads pixels of a local file comes by here
cli.main(sys.argv[1:])
"""


def test_public_names_are_functions_whatever_was_imported_before():
    for room in pkgutil.iter_modules(km.__path__):
        if room.name not in ("openeo", "train"):  # these need extras
            importlib.import_module(f"kappamask.{room.name}")
    for name in ("search", "load_cube", "predict_cube", "predict_array", "write_mask", "quicklook"):
        assert inspect.isfunction(getattr(km, name)), name
    assert km.catalogs.resolve_assets
    assert [label.value for label in km.Label] == [0, 1, 2, 3, 4, 5]


def test_every_name_that_is_offered_can_be_had():
    assert set(km.__all__) <= set(dir(km))
    for name in km.__all__:
        assert getattr(km, name) is not None


def test_importing_does_not_import_torch():
    code = "import sys, kappamask; print('torch' in sys.modules, 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("picture", [[], ["--no-pictures"]])
def test_reading_begins_before_what_labels_and_draws_is_imported(tmp_path, picture):
    west, south, east, north = SCENES[1].bbox
    words = ["mask", "--catalog", catalog_path(), "--bbox", f"{west},{south},{east},{north}"]
    words += ["--date", "2019-07-11", "--level", SCENES[1].level, "--out", tmp_path, *picture]
    said = subprocess.run(
        [sys.executable, "-c", AT_FIRST_READ, *map(str, words)],
        capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if name not in ENVIRONMENT},
    )  # fmt: skip
    there = set(said.stdout.splitlines()[-1].split())
    assert {"kappamask", "rasterio"} <= there, said.stderr
    assert there >= set(ENVIRONMENT)  # set later it would race with decoders that read it
    assert not NOT_YET & there


@pytest.mark.parametrize("damage", ["absent", "cut short"])
def test_weights_are_checked_before_anything_is_written(tmp_path, monkeypatch, damage):
    scene = SCENES[1]
    items = km.search(scene.bbox, "2019-07-11", catalog=catalog_path(), level=scene.level)
    path = tmp_path / "net.safetensors"

    def damaged(entry):
        if damage == "cut short":
            path.write_bytes(weights_of(entry).path.read_bytes()[:-1])
        return WeightsFile(entry, path, entry.sha256)

    monkeypatch.setattr(networks, "weights_of", damaged)
    # Without weights onnxruntime is tried, and another test may have loaded a network with it.
    monkeypatch.setattr(networks, "_load", networks._load.__wrapped__)
    with pytest.raises(WeightsError, match=r"net\.safetensors"):
        mask_items(items, scene.bbox, tmp_path / "masks", options=MaskOptions())
    assert not (tmp_path / "masks").exists()


def test_an_announced_model_is_the_loaded_one():
    announced, loaded = networks.announce_model("default", "L2A"), km.load_model("default", "L2A")
    assert announced.runner is loaded.runner
    assert (announced.precision, announced.engine) == (loaded.precision, loaded.engine)
    assert announced.entry is loaded.entry
