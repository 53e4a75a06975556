"""Small files of the published network, as Keras 2 writes them, and their entries."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import h5py
import numpy as np

from kappamask.networks.manifest import get_entry
from kappamask.networks.published import PublishedUNet

POOLS = (2, 4, 6, 8)  # convolutions before which the graph pools: layers without weights


def make_arrays(width=2, seed=0):
    """Kernels (y, x, in, out) and biases in the order of the graph; activations stay in range."""
    rng = np.random.default_rng(seed)
    arrays = []
    for values in list(PublishedUNet(width).state_dict().values())[::2]:
        outputs, inputs, size, _ = values.shape
        spread = np.sqrt(2 / (size**2 * inputs))
        kernel = rng.normal(0, spread, (size, size, inputs, outputs))
        arrays.append((kernel.astype("f4"), rng.normal(0.1, 0.1, outputs).astype("f4")))
    return arrays


def write_keras(path, arrays, *, whole_model=False, first=0):
    """Write the arrays as `Model.save_weights`, or as `Model.save`, does; returns the path."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole_model else file
        names = ["input"]
        root.create_group("input").attrs["weight_names"] = np.array([], "S1")
        for index, (kernel, bias) in enumerate(arrays):
            if index in POOLS:
                names.append(f"max_pooling2d_{index}")
                root.create_group(names[-1]).attrs["weight_names"] = np.array([], "S1")
            names.append(f"conv2d_{index + first}" if index + first else "conv2d")
            group = root.create_group(names[-1])
            keys = [f"{names[-1]}/kernel:0", f"{names[-1]}/bias:0"]
            group.attrs["weight_names"] = np.array(keys, "S")
            for key, values in zip(keys, (kernel, bias), strict=True):
                group.create_dataset(key, data=values)
        root.attrs["layer_names"] = np.array(names, "S")
        root.attrs["keras_version"] = "2.15.0"
    return path


def entry_of(name, path, *, url="http://127.0.0.1:9/l2a_unet.hdf5"):
    """The entry of a published model, but for the small file at `path`."""
    entry = get_entry(name)
    return replace(entry, sha256=sha256(path.read_bytes()).hexdigest(), file=path.name, url=url)
