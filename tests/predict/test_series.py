"""Long series: a small graph that grows with the dates only, and does its work elsewhere too."""

import copy
import pickle
import subprocess
import sys
from datetime import datetime, timedelta
from importlib import import_module

import cloudpickle
import dask.array as da
import numpy as np
import pytest
from support.reflectance import FOUR, make_cube

from kappamask import load_cube, load_model, predict_cube, search
from kappamask.networks.weights import weights_of
from kappamask.sample import AREA_L2A, catalog_path

DATES = (1, 10, 200)
WINDOWS = 4  # of 2100 x 2100 px


@pytest.fixture(scope="module")
def items():
    """Twelve dates of the sample, as dicts."""
    found = search(AREA_L2A, "2019", catalog=catalog_path(), level="L2A")
    return [item.to_dict() for item in found]


def repeat(items, count):
    """Give `count` items, five days apart."""
    made = []
    for index in range(count):
        item = copy.deepcopy(items[index % len(items)])
        item["id"] += f"_{index}"
        day = datetime(2015, 7, 1, 9, 30) + timedelta(days=5 * index)  # noqa: DTZ001
        item["properties"]["datetime"] = f"{day.isoformat()}Z"
        made.append(item)
    return made


@pytest.fixture(scope="module")
def labels_of_200(items):
    """The labels of 200 dates, not computed."""
    return predict_cube(load_cube(repeat(items, 200), AREA_L2A))


def make_zeros(dates, *, size=2100, chunks=700):
    """Zeros, of no size in a graph."""
    return make_cube(
        da.zeros((dates, 4, size, size), np.float32, chunks=(1, -1, chunks, chunks)), FOUR
    )


@pytest.mark.parametrize("dates", DATES)
def test_labelling_adds_one_task_per_window_and_date_whatever_the_chunks(dates):
    cube = make_zeros(dates)
    labels = predict_cube(cube)
    added = len(dict(labels.__dask_graph__())) - len(dict(cube.__dask_graph__()))
    bands_chosen = 9 * dates  # one per chunk of the cube: the bands that the network takes
    assert labels.data.npartitions == WINDOWS * dates
    assert added <= WINDOWS * dates + bands_chosen


@pytest.mark.slow
def test_tasks_grow_with_the_dates_and_nothing_else(items, labels_of_200):
    tasks = {200: len(dict(labels_of_200.__dask_graph__()))}
    for dates in (1, 10):
        labels = predict_cube(load_cube(repeat(items, dates), AREA_L2A))
        tasks[dates] = len(dict(labels.__dask_graph__()))
    assert tasks[1] <= 12  # opening, reading, offsets, labelling of one chunk
    assert [tasks[dates] for dates in DATES] == [tasks[1] * dates for dates in DATES]


@pytest.mark.slow
def test_nothing_large_is_in_the_graph(labels_of_200):
    labels = labels_of_200
    size = len(cloudpickle.dumps(labels.__dask_graph__()))
    assert size < 200 * 5000  # bytes; 2 % of one date's pixels
    assert size < weights_of(load_model("default", "L2A").entry).path.stat().st_size
    task = next(iter(labels.data.dask.layers[labels.data.name].values()))
    assert len(cloudpickle.dumps(task)) < 2000  # what a worker is sent


def test_a_scheduler_that_passes_tasks_on_loads_no_network(tmp_path):
    path = tmp_path / "graph.pickle"
    path.write_bytes(cloudpickle.dumps(dict(predict_cube(make_zeros(1)).__dask_graph__())))
    code = (
        "import pathlib, pickle, sys\n"
        f"tasks = pickle.loads(pathlib.Path({str(path)!r}).read_bytes())\n"
        "again = pickle.dumps(tasks)\n"
        "print(len(tasks), len(again), 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tasks, size, *loaded = said.stdout.split()
    assert int(tasks) > WINDOWS
    assert int(size) < 20_000
    assert loaded == ["False", "False"]


def test_work_arrives_as_it_was():
    cube = make_zeros(1, size=40, chunks=20).fillna(0) + np.float32(0.05)
    labels = predict_cube(cube)
    arrived = pickle.loads(pickle.dumps(labels))  # noqa: S301  packed on this line
    assert np.array_equal(arrived.values, labels.values)


@pytest.mark.slow
def test_a_cluster_of_processes_gives_the_same_labels_and_loads_the_network_once_each(items):
    distributed = pytest.importorskip("distributed")
    labels = predict_cube(load_cube(items[:6], AREA_L2A))
    expected = labels.values
    local = {"host": "127.0.0.1", "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **local) as cluster,
        distributed.Client(cluster) as client,
    ):
        got = labels.compute().values
        loads = client.run(
            lambda: import_module("kappamask.networks.model")._load.cache_info().misses
        )
    assert np.mean(got == expected) >= 0.999  # engines may sum in another order with other threads
    assert max(loads.values()) == 1
    assert len(loads) == 2
