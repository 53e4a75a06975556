"""Single files over HTTP: what is read again, what the server is asked, what is never told."""

import os
import pickle
import time

import numpy as np
import pytest

from faults.bench import hurried
from faults.scene import DATES, DN, LEFT, SIZE, TOP, item_id
from faults.server import Trouble, serve
from kappamask import load_cube
from kappamask.base import retry
from kappamask.base.errors import ReadError
from kappamask.base.retry import Reply, ask
from kappamask.cubes.engines import stackstac_reader
from kappamask.cubes.rasters import Access, FileReader
from kappamask.scenes.scene import BandFile, Scene
from kappamask.scenes.sources import renew, scene_of

PATH = f"/{item_id(DATES[0])}/B02.tif"
WHOLE = slice(0, SIZE), slice(0, SIZE)


@pytest.fixture
def world():
    with hurried(), serve() as served:
        yield served


def reader(world, *, height=SIZE):
    href = world.url + world.place + PATH
    grid = {"gsd": 10, "left": LEFT, "top": TOP, "height": height, "width": SIZE}
    file = BandFile(band="B02", href=href, dn_offset=-1000, scale=1e-4, **grid)
    return FileReader({"B02": file})


@pytest.mark.parametrize(
    "trouble",
    [
        {"what": "status", "times": 2},
        {"what": "status", "status": 404},
        {"what": "reset", "times": 2},
        {"what": "cut"},
    ],
    ids=lambda trouble: trouble["what"],
)
def test_a_product_on_a_server_is_read_again(world, trouble):
    world.troubles = [Trouble(PATH, **trouble)]
    with reader(world) as files:
        np.testing.assert_array_equal(files.read("B02", *WHOLE), DN[0, 0])


def test_a_file_of_another_size_is_refused_every_time(world):
    with reader(world, height=SIZE // 2) as files:
        for _ in range(2):
            with pytest.raises(ReadError, match="must hold 64 x 128"):
                files.read("B02", *WHOLE)


def test_the_server_says_what_ails_a_file_and_how_long(world):
    world.troubles = [Trouble(PATH, "status", status=503, headers={"Retry-After": "7"})]
    url = world.url + world.place + PATH
    assert ask(url) == Reply(503, 7.0)
    assert ask(f"/vsicurl/{url}").status == 206
    world.troubles = [Trouble(PATH, "reset", times=None)]
    assert ask(url) == Reply(silent=True)
    assert ask("s3://eodata/B02.jp2") == Reply()


def test_waits_grow_are_spread_and_end(monkeypatch):
    waits, answers = [], iter([Reply(500), Reply(429, 3600.0), Reply(200)])
    monkeypatch.setattr(retry, "ask", lambda href, proxy: next(answers))  # noqa: ARG005
    monkeypatch.setattr(time, "sleep", waits.append)

    def read():
        raise OSError("https://host/x.tif?se=1&sig=SECRET is broken")

    with pytest.raises(ReadError) as caught:
        Access({}, {}).read(read, "https://host/x.tif?sig=SECRET", forget=lambda _: None)
    assert str(caught.value).startswith(
        "cannot read a file at https://host/x.tif: https://host/x.tif"
    )
    assert "SECRET" not in str(caught.value)
    assert 1 <= waits[0] <= 1.5
    assert waits[1] == retry.FILES.longest_wait_s
    assert len(waits) == 2


def test_waits_of_many_readers_differ():
    assert len({retry.FILES.wait(1) for _ in range(20)}) == 20


def test_what_a_scene_says_of_its_files_travels_to_other_processes(world):
    scene = scene_of(world.items[0])
    access, href = Access.to([scene]), scene.files["B02"].href
    settings = dict.fromkeys(("spec", "resampling", "dtype", "fill_value", "scale_offset"))
    reader = stackstac_reader(access, url=href, **settings)
    there = pickle.loads(pickle.dumps(reader))  # noqa: S301  packed on this line
    assert there.url == href
    assert there.access.claims == {href: access.claims[href]}
    assert there.access.options == access.options


def test_what_nobody_signs_is_not_renewed(world):
    for scene in (scene_of(world.items[0]), Scene("x")):
        assert renew(scene) is scene


# --- what GDAL is told, and how often a server is asked ---------------------------------------


@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_a_window_is_asked_for_as_often_as_the_one_table_says(world, engine):
    """GDAL's tries and those of an engine would come on top, and multiply."""
    world.troubles = [Trouble(PATH, "status", status=500, times=None)]
    cube = load_cube(world.items[:1], bands=["B02"], engine=engine)
    with pytest.raises(ReadError, match=r"HTTP 500.* in 3 tries"):
        cube.compute(scheduler="synchronous")
    asked = [status for _, _, path, status in world.asked if PATH in path]
    assert asked == [500] * 2 * retry.FILES.tries  # each time the file, and what ails it


@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_settings_of_the_process_stay_as_they_are(world, engine):
    import odc.loader._rio

    before = dict(os.environ), odc.loader._rio.get_rio_env(), odc.loader._rio._CFG.configured
    load_cube(world.items[:1], bands=["B02"], engine=engine).compute()
    assert not odc.loader._rio._CFG.configured
    assert before == (dict(os.environ), odc.loader._rio.get_rio_env(), False)


@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_files_of_strangers_are_read_without_the_proxy_of_the_environment(
    world, monkeypatch, engine
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    guard = retry.GUARD.set(lambda **_: None)
    try:
        cube = load_cube(world.items[:1], bands=["B02"], engine=engine)
    finally:
        retry.GUARD.reset(guard)
    assert np.isfinite(cube.compute()).any()
    with pytest.raises(ReadError, match="B02"):
        load_cube(world.items[1:2], bands=["B02"], engine=engine).compute()


def test_a_cube_travels_to_other_processes_with_its_readers(world):
    cube = load_cube(world.items[:1], bands=["B02"])
    there = pickle.loads(pickle.dumps(cube))  # noqa: S301  packed on this line
    np.testing.assert_array_equal(there.compute(), cube.compute())
