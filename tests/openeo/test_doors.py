"""Invariant 3 on real pixels: every door gives the labels of `predict_cube`."""

from dataclasses import dataclass

import numpy as np
import openeo
import pytest
import xarray as xr
from openeo.udf import execute_local_udf
from support import bolzano
from support.openeo_server import serving

from kappamask.base.windows import LATTICE, SURROUNDINGS
from kappamask.cubes.cube import load_cube
from kappamask.openeo.graphs import cloud_labels, udf_code
from kappamask.openeo.local import LocalEngine
from kappamask.openeo.server.settings import Settings
from kappamask.predict.cube import lattice_origin, predict_cube
from kappamask.sample import SCENES, catalog_path
from kappamask.scenes.search import search

L1C = next(scene for scene in SCENES if scene.level == "L1C")
# Shares of pixels labelled alike. `predict_cube` knows what lies around the area and a graph does
# not, which shows along the edges: far from them, and without surroundings, the doors are one.
ENOUGH = 0.998
SMALL = 0.997  # of all of a small area with and without its surroundings
INSIDE = 0.9999  # farther from its edges than these reach
MARGIN = 128  # pixels


@dataclass(frozen=True)
class Place:
    """One date of one catalogue, and what `predict_cube` says of it."""

    catalog: str
    bbox: tuple[float, float, float, float]
    day: str
    cube: xr.DataArray
    labels: np.ndarray  # (y, x)
    alone: np.ndarray  # (y, x), without what lies around the area

    @property
    def level(self):
        return self.cube.attrs["level"]

    def graph(self, connection=None):
        load = openeo.DataCube.load_collection if connection is None else connection.load_collection
        cube = load(
            f"SENTINEL2_{self.level}",
            spatial_extent=dict(zip(("west", "south", "east", "north"), self.bbox, strict=True)),
            temporal_extent=[self.day, str(np.datetime64(self.day) + 1)],
            bands=[str(band) for band in self.cube["band"].values],
        )
        return cloud_labels(cube, level=self.level)

    def check(self, labels):
        """Labels of another door agree as much as two doors must."""
        got = np.squeeze(labels)
        assert got.shape == self.labels.shape
        same = got == self.labels
        assert np.mean(same) >= SMALL
        assert np.mean(same[MARGIN:-MARGIN, MARGIN:-MARGIN]) >= INSIDE
        assert np.mean(got == self.alone) >= ENOUGH


def look_at(catalog, bbox, day, *, level="L2A", bands=None):
    items = search(bbox, day, catalog=catalog, level=level)
    cube = load_cube(items, bbox, bands=bands).compute()
    alone = cube.drop_encoding()
    assert SURROUNDINGS not in alone.encoding
    labels = [predict_cube(one).isel(time=0).to_numpy() for one in (cube, alone)]
    return Place(catalog, bbox, day, cube, *labels)


@pytest.fixture(scope="module", params=["bolzano", "germany"])
def place(request, tmp_path_factory):
    """Cumulus with shadows at L2A, 4 bands; thin cloud with its shadow at L1C, 13 bands."""
    if request.param == "germany":
        return look_at(str(catalog_path()), L1C.bbox, L1C.dates[:10], level="L1C")
    scenes = request.getfixturevalue("shared_data") / "bolzano"
    catalog = bolzano.write_catalog(tmp_path_factory.mktemp("stac"), scenes)
    return look_at(str(catalog), bolzano.BBOX, "2022-06-02", bands=list(bolzano.BANDS))


def run_udf(place, coords=("y", "x"), dtype=np.float32):
    """Label the whole scene as one chunk, with the client's own runner."""
    dn = (place.cube * 10_000).round().rename(time="t", band="bands")
    chunk = xr.DataArray(
        dn.to_numpy(),
        dims=dn.dims,
        coords={
            "bands": dn["bands"].values,
            **{dim: dn[dim].values.astype(dtype) for dim in coords},
        },
    )
    udf = openeo.UDF(udf_code(), context={"level": place.level})
    (result,) = execute_local_udf(udf, chunk).datacube_list
    return result.get_array().to_numpy()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_udf_agrees(place, dtype):
    """One chunk, the same windows; what lies beside it, a UDF's chunk does not hold."""
    got = run_udf(place, dtype=dtype)
    place.check(got)
    np.testing.assert_array_equal(np.squeeze(got), place.alone)


def test_without_coordinates_the_lattice_begins_elsewhere(place):
    """What the tests around this one would miss if `predict_cube` began at the first pixel."""
    assert any(start % LATTICE.stride for start in lattice_origin(place.cube))
    assert 0.98 < np.mean(np.squeeze(run_udf(place, coords=())) == place.alone) < 1
    assert len(np.unique(place.labels)) >= 3


def test_the_local_engine_agrees(place):
    labels = LocalEngine(catalog=place.catalog).run(place.graph().flat_graph())
    place.check(labels.to_numpy())


@pytest.mark.slow
def test_the_server_agrees(place, tmp_path):
    settings = Settings(place.catalog, tmp_path / "work", port=0)
    with serving(settings) as url:
        place.graph(openeo.connect(url)).download(tmp_path / "labels.nc")
    with xr.open_dataset(tmp_path / "labels.nc", mask_and_scale=False) as content:
        place.check(content["cloud_labels"].to_numpy())
