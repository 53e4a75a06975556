"""`cube.kappamask`: the same as the functions, and registered without a cost."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from support.labels import make_pair

import kappamask as km
import kappamask.accessor
from kappamask.base.errors import InputError

BANDS = ("B02", "B03", "B04", "B08")


@pytest.fixture
def pair():
    codes = np.ones((2, 24, 20), np.uint8)
    codes[0, :6], codes[1, 10:14, 5:9] = 4, 2
    return make_pair(codes, bands=BANDS)


def test_it_does_what_the_functions_do(pair):
    cube, labels = pair
    xr.testing.assert_identical(cube.kappamask.labels().load(), km.predict_cube(cube).load())
    probabilities = km.predict_cube(cube, output="probabilities")
    xr.testing.assert_identical(cube.kappamask.probabilities().load(), probabilities.load())
    made = cube.kappamask.composite(labels, method="mean", period="month")
    expected = km.composite(cube, labels, method="mean", period="month")
    xr.testing.assert_identical(made.load(), expected.load())
    own = cube.kappamask.composite().load()
    xr.testing.assert_identical(own, km.composite(cube, km.predict_cube(cube)).load())


def test_mask_keeps_what_is_clear_and_what_a_cube_is(pair):
    cube, labels = pair
    masked = cube.kappamask.mask(labels)
    assert masked.dims == cube.dims
    assert masked.attrs == cube.attrs
    assert masked.rio.crs == cube.rio.crs
    np.testing.assert_array_equal(masked.notnull().all("band"), labels == 1)
    np.testing.assert_array_equal(masked.where(labels == 1, 0), cube.where(labels == 1, 0))
    wider = cube.kappamask.mask(labels, buffer_m={"cloud": 20})
    assert wider[0, 0].notnull().any("x").values.argmax() == 8  # six rows of cloud, 20 m more
    one = cube[0].kappamask.mask(labels[0], buffer_m={"cloud": 20})
    xr.testing.assert_identical(one.load(), wider[0].load())
    with pytest.raises(InputError, match="same dates"):
        cube.kappamask.mask(labels[1:])


def test_plot_gives_a_picture_that_a_notebook_shows(pair, tmp_path):
    cube, labels = pair
    picture = cube.kappamask.plot(labels, path=tmp_path / "both.png")
    assert isinstance(picture, Image.Image)
    with Image.open(tmp_path / "both.png") as kept:
        assert kept.size == picture.size
    assert cube[0].kappamask.plot(labels[0], title="one").size != picture.size
    assert [path.name for path in tmp_path.iterdir()] == ["both.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "registered"),
    [
        ("import kappamask", False),
        ("import kappamask; kappamask.search", False),
        ("import kappamask.accessor", True),
        ("import kappamask; kappamask.load_cube", True),
        ("from kappamask import composite", True),
    ],
)
def test_it_is_registered_by_the_first_use_of_cubes_and_not_by_the_import(use, registered):
    code = (
        f"{use}\nimport sys\nloaded = 'xarray' in sys.modules\nimport xarray\n"
        "print(loaded, hasattr(xarray.DataArray, 'kappamask'))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, found = said.stdout.split()
    assert found == str(registered)
    if use == "import kappamask":
        assert loaded == "False"
