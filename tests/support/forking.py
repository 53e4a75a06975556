"""The process that other ones are forked from: it has imported what any of them needs.

Importing takes seconds, forking milliseconds. `multiprocessing` keeps one such process per process
of tests, and who is first says what it loads: so all say the same.
"""

import multiprocessing
from multiprocessing import forkserver

from kappamask.openeo.server import worker

PRELOADED = [
    *worker._LIBRARIES,
    *(
        "kappamask.cli",
        "kappamask.jobs.masks",
        "kappamask.jobs.stream",
        "kappamask.jobs.composites",
    ),
    *("kappamask.networks.unet", "kappamask.plot.report", "kappamask.train.fit"),
    *("stackstac", "pystac_client", "safetensors.torch", "dask.array", "jinja2", "h5py", "pooch"),
    *("requests", "rich.progress", "distributed", "torch._dynamo"),
]


def context():
    """Give what starts processes, those of the openEO server too, from one that is ready."""
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    return chosen
