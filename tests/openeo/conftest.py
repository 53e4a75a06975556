"""A synthetic scene and an engine that reads it."""

import pytest
from support import synthetic

from kappamask.openeo.local import LocalEngine


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture
def engine(scene, tmp_path):
    return LocalEngine(catalog=str(scene.catalog), folder=tmp_path / "results")
