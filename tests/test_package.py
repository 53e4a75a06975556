"""The front door: the public names of the contract, fast to import, never hidden by a room."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import kappamask as km


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
