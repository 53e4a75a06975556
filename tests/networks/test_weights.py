"""Files of weights: hashes, hostile files; fetching, the record, the command line."""

import argparse
import hashlib
import json
import os
import pickle
import struct
import time
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save
from support.keras_files import entry_of, make_arrays, write_keras

from kappamask.base.errors import InputError, UnknownNameError, WeightsError
from kappamask.cli import main
from kappamask.cli.models import run_fetch
from kappamask.networks.keras_file import read_keras
from kappamask.networks.manifest import find_entry, get_entry
from kappamask.networks.model import load_model, open_model
from kappamask.networks.published import from_keras
from kappamask.networks.weights import (
    Origin,
    cache_folder,
    cached_path,
    fetch_weights,
    is_fetched,
    read_weights,
    record_path,
    weights_of,
)

NAME = "kappamask-2021-l2a"
ONCE = Origin(retries=0)

# --- files whose hash is known ------------------------------------------------------------------


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_weights_are_read_back_as_they_were_saved(tmp_path, kind):
    weights = {"w": torch.randn(3, 4), "b": torch.arange(5)}
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(weights))
    read = read_weights(path, digest(path.read_bytes()), kind)
    assert all(torch.equal(torch.as_tensor(read[key]), value) for key, value in weights.items())


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __reduce__(self):
        return open, ("owned", "w")


def pack(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../owned", "x")


LIES = [  # headers that say what does not follow
    2**62,
    {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}},
    {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**40]}},
    {"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
    {"w": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}},
    {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
     "v": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
    {"w": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 8]}},
    "[" * 100_000,
]  # fmt: skip


def lie(header, path):
    if isinstance(header, int):
        path.write_bytes(struct.pack("<Q", header) + b"{}")
        return
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(pickle.dumps(Trap(), 2)), "a pickle or a zip, which can ru"),
        (lambda path: path.write_bytes(pickle.dumps(Trap(), 4)), "a pickle or a zip, which can ru"),
        (pack, "is a pickle or a zip"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "no valid safetensors file"),
        (lambda _: None, r"cannot read the weights .*w\.safetensors"),
        *((partial(lie, header), "no valid safetensors file") for header in LIES),
        (os.mkfifo, "is a pipe"),
    ],
)
def test_what_is_no_safetensors_is_refused_and_never_run(tmp_path, monkeypatch, write, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.safetensors"
    write(path)
    hashed = digest(path.read_bytes()) if path.is_file() else "0" * 64
    with pytest.raises(WeightsError, match=message):
        read_weights(path, hashed)
    assert not list(tmp_path.parent.glob("**/owned"))


@pytest.mark.parametrize("damage", [slice(None, -10), slice(1, None)])
def test_damaged_weights_are_refused_by_their_hash(tmp_path, damage):
    content = save({"w": torch.randn(30)})
    path = tmp_path / "w.safetensors"
    path.write_bytes(content[damage])
    with pytest.raises(WeightsError, match=f"the manifest says {digest(content)}"):
        read_weights(path, digest(content))


# --- a server and a cache -----------------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, keeps what was asked, and can misbehave as the path says."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith("/busy/"):
            self.send_error(503)
        elif self.path.startswith(("/short/", "/changed/")):
            self.send_response(200)
            if self.path.startswith("/short/"):  # the connection drops
                self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"<html>not the weights</html>")
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Serve the folder `published` on loopback; gives its URL and the list of paths asked."""
    asked = []
    handler = type("Asked", (Handler,), {"asked": asked})
    folder = tmp_path / "published"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as http:
        Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


@pytest.fixture
def entry(tmp_path, server, monkeypatch):
    """The entry of a published model whose file is small and lies on the server."""
    monkeypatch.setenv("KAPPAMASK_CACHE", str(tmp_path / "cache"))
    pause = time.sleep  # pooch waits for seconds before it tries again
    monkeypatch.setattr("time.sleep", lambda seconds: pause(min(seconds, 0.01)))
    path = write_keras(tmp_path / "published/l2a_unet.hdf5", make_arrays())
    return entry_of(NAME, path, url=f"{server[0]}/l2a_unet.hdf5")


def kept(entry):
    """Names of everything in the cache folder, hidden files too."""
    folder = cached_path(entry).parent
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


# --- fetched ----------------------------------------------------------------------------------


def test_fetched_weights_are_those_of_the_file_and_run(entry, tmp_path):
    seen = []
    path = fetch_weights(entry, progress=lambda done, total: seen.append((done, total)))
    source = tmp_path / "published/l2a_unet.hdf5"
    assert seen[-1] == (source.stat().st_size, source.stat().st_size)
    assert kept(entry) == sorted([path.name, record_path(path).name])
    network = open_model(entry, "L2A").network.network
    found = network.state_dict()
    expected = read_keras(source)
    assert all(torch.equal(found[name], torch.from_numpy(expected[name])) for name in expected)
    x = torch.from_numpy(np.random.default_rng(0).random((1, 13, 16, 16), np.float32))
    torch.testing.assert_close(network(x), from_keras(source)(x))


def test_it_is_fetched_once_and_gives_the_same_bytes_anywhere(entry, server, monkeypatch, tmp_path):
    path = fetch_weights(entry)
    assert fetch_weights(entry) == path
    assert server[1] == ["/l2a_unet.hdf5"]
    monkeypatch.setenv("KAPPAMASK_CACHE", str(tmp_path / "other"))
    assert fetch_weights(entry).read_bytes() == path.read_bytes()


def test_models_that_share_a_file_share_what_was_fetched(entry):
    fetch_weights(entry)
    faithful = get_entry("kappamask-2021-l2a-faithful")
    assert faithful.sha256 == get_entry(NAME).sha256
    assert is_fetched(replace(faithful, sha256=entry.sha256))
    assert not is_fetched(get_entry("kappamask-2021-l1c"))


@pytest.mark.parametrize("at_hand", ["published", "published/l2a_unet.hdf5", None])
def test_a_folder_a_file_or_a_mirror_stands_for_the_publisher(entry, server, tmp_path, at_hand):
    origin = Origin(files=tmp_path / at_hand) if at_hand else Origin(mirror=server[0] + "/")
    fetch_weights(replace(entry, url="http://127.0.0.1:9/none"), origin)
    assert open_model(entry, "L2A").precision == "fp32"
    assert bool(server[1]) == (at_hand is None)


def test_the_cache_is_the_users_unless_a_variable_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("KAPPAMASK_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("KAPPAMASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/kappamask"


# --- not fetched ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mirror", "message"),
    [
        ("{}/changed", r"has not the sha256 \w{64} that the manifest says.*nothing is kept"),
        ("{}/short", "cannot download .*Error"),
        ("{}/busy", "HTTP 503"),
        ("{}/none", "HTTP 404"),
        ("http://127.0.0.1:9", r"cannot download http://127.0.0.1:9/l2a_unet.hdf5 \(Connect"),
    ],
)
def test_a_bad_answer_keeps_nothing_and_names_the_offline_way(entry, server, mirror, message):
    with pytest.raises(WeightsError, match=message) as error:
        fetch_weights(entry, replace(ONCE, mirror=mirror.format(server[0])))
    assert f"`kappamask models fetch {NAME} --from FOLDER`" in str(error.value)
    assert not kept(entry)


def test_a_failed_download_is_tried_again(entry, server):
    with pytest.raises(WeightsError, match="HTTP 503"):
        fetch_weights(entry, Origin(mirror=f"{server[0]}/busy", retries=1))
    assert len(server[1]) == 2


def test_a_server_that_sends_without_end_is_stopped(entry):
    with pytest.raises(WeightsError, match="at most 1000 bytes, the server sent more"):
        fetch_weights(entry, replace(ONCE, largest=1000))
    assert not kept(entry)


def test_a_file_of_the_right_hash_that_is_no_network_keeps_nothing(entry, tmp_path):
    path = tmp_path / "other.hdf5"
    path.write_bytes(pickle.dumps(["not run"]))
    with pytest.raises(WeightsError, match=r"is a pickle or a zip"):
        fetch_weights(entry_of(NAME, path), Origin(files=path))
    assert not kept(entry)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("published/l2a_unet.hdf5", "has sha256 .*, the manifest says 0000"),
        ("none", "cannot read .*none .*--from names l2a_unet.hdf5 or its folder"),
        (".", "cannot read .*l2a_unet.hdf5"),
    ],
)
def test_a_wrong_or_absent_file_at_hand_is_refused(entry, tmp_path, files, message):
    with pytest.raises(WeightsError, match=message):
        fetch_weights(replace(entry, sha256="0" * 64), Origin(files=tmp_path / files))
    assert not kept(entry)


def test_shipped_weights_and_contradictions_are_refused(tmp_path):
    with pytest.raises(InputError, match="come with kappamask: there is nothing to do"):
        fetch_weights(find_entry("default", "L2A"))
    with pytest.raises(InputError, match="from files or from a mirror, got both"):
        Origin(files=tmp_path, mirror="http://127.0.0.1")
    with pytest.raises(InputError, match=r"a mirror is a URL .* got 'folder'"):
        Origin(mirror="folder")


# --- what was kept is checked -----------------------------------------------------------------


def test_unfetched_weights_name_the_exact_command(entry):
    with pytest.raises(WeightsError, match=f"run `kappamask models fetch {NAME}`, or without"):
        load_model(NAME)
    with pytest.raises(WeightsError, match="were not fetched"):
        weights_of(entry)


def test_changed_weights_are_refused_by_their_hash(entry):
    path = fetch_weights(entry)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(WeightsError, match=r"has sha256 .*, the manifest says"):
        open_model(entry, "L2A")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"sha256": "0"}', "is damaged"),
        (json.dumps({"sha256": "0", "source_sha256": "1"}), "tells of weights with sha256 1"),
    ],
)
def test_a_damaged_record_is_refused(entry, record, message):
    path = fetch_weights(entry)
    record_path(path).write_text(record)
    with pytest.raises(WeightsError, match=f"{message}.*models fetch {NAME}` again"):
        open_model(entry, "L2A")


def test_safetensors_of_another_network_are_refused(entry):
    path = fetch_weights(entry)
    shipped = weights_of(find_entry("default", "L2A"))
    path.write_bytes(shipped.path.read_bytes())
    record = json.loads(record_path(path).read_text())
    record_path(path).write_text(json.dumps(record | {"sha256": shipped.sha256}))
    with pytest.raises(WeightsError, match="does not hold the network published in 2021"):
        open_model(entry, "L2A")


# --- command line -----------------------------------------------------------------------------


def fetch_by_command(entry, **options):
    given = {"name": entry.name, "files": None, "mirror": None} | options
    return run_fetch(argparse.Namespace(**given), models={entry.name: entry})


def test_the_command_fetches_once_and_then_says_it_is_there(entry, server, capsys):
    assert fetch_by_command(entry) == 0
    assert f"{NAME} is ready: {cached_path(entry)}" in capsys.readouterr().out
    assert fetch_by_command(entry) == 0
    assert "is already there" in capsys.readouterr().out
    assert len(server[1]) == 1


def test_the_command_takes_a_folder_and_a_name_that_it_knows(entry, tmp_path):
    assert fetch_by_command(entry, files=tmp_path / "published") == 0
    assert is_fetched(entry)
    with pytest.raises(UnknownNameError, match=f"expected one of {NAME}"):
        fetch_by_command(entry, name="x")


def link(target):
    """Put a link where the kernel of a layer stood."""

    def put(path):
        with h5py.File(path, "a") as file:
            name = "conv2d_3/conv2d_3/kernel:0"
            if target == "itself":
                del file[name]
                file[name] = h5py.SoftLink(f"/{name}")
            elif target == "a raw file":
                shape = file[name].shape
                del file[name]
                file.create_dataset(name, shape, "f4", external=str(path.with_name("secret")))
            else:
                del file[name]
                file[name] = h5py.ExternalLink(str(path.with_name("other.hdf5")), f"/{name}")

    return put


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (link("another file"), "of its own"),
        (link("a raw file"), "in the file itself"),
        (link("itself"), "of its own"),
        *((partial(lie, header), "is no HDF5 file") for header in LIES),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_the_command_keeps_nothing_that_is_hostile(
    entry, server, tmp_path, capsys, monkeypatch, *, write, message, known
):
    """Also where its hash is that of the manifest: whoever writes that may have been deceived."""
    path = tmp_path / "published/l2a_unet.hdf5"
    write_keras(path.with_name("other.hdf5"), make_arrays())
    path.with_name("secret").write_bytes(bytes(10**5))
    write(path)
    entry = replace(entry, sha256=digest(path.read_bytes())) if known else entry
    monkeypatch.setattr(
        "kappamask.networks.manifest.read_registry", lambda: ((), {entry.name: entry})
    )
    assert main(["models", "fetch", entry.name]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("kappamask: error: ")
    assert (message if known else "has not the sha256") in told
    assert server[1] == ["/l2a_unet.hdf5"] * len(server[1])
    assert not kept(entry)


@pytest.mark.parametrize("header", LIES)
def test_a_lying_header_in_the_cache_is_refused_though_its_record_knows_it(entry, header):
    path = fetch_weights(entry)
    path.unlink()
    lie(header, path)
    record = json.loads(record_path(path).read_text())
    record_path(path).write_text(json.dumps(record | {"sha256": digest(path.read_bytes())}))
    with pytest.raises(WeightsError, match="no valid safetensors file"):
        open_model(entry, "L2A")


@pytest.mark.usefixtures("entry")
def test_models_tells_what_is_fetched(capsys):
    path = cached_path(get_entry("kappamask-2021-l1c"))
    path.parent.mkdir(parents=True)
    path.touch()
    record_path(path).touch()
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "weights: come with kappamask" in said
    assert "weights: fetched" in said
    assert f"weights: not fetched, run `kappamask models fetch {NAME}`" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["best"], 2, "unknown model 'best': expected one of kappamask-2026h"),
        ([NAME, "--mirror", "ftp://x"], 2, "a mirror is a URL"),
        ([NAME, "--from", "none"], 1, "cannot read none"),
    ],
)
@pytest.mark.usefixtures("entry")
def test_the_command_line_says_in_one_line_what_is_wrong(arguments, code, message, capsys):
    assert main(["models", "fetch", *arguments]) == code
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1
    assert message in said[0]


@pytest.mark.usefixtures("entry")
def test_mask_with_an_unfetched_model_or_without_its_bands_says_so(tmp_path, capsys):
    from kappamask.sample import AREA_L1C, AREA_L2A, catalog_path

    def run(area, *words):
        query = ["--catalog", str(catalog_path()), "--bbox", ",".join(map(str, area))]
        return main(["mask", *query, *words, "--out", str(tmp_path / "out")])

    assert run(AREA_L2A, "--date", "2019-07-01", "--model", NAME) == 1
    assert "no asset for AOT" in capsys.readouterr().err
    l1c = ["--date", "2017-02-16", "--level", "L1C", "--model", "kappamask-2021-l1c"]
    assert run(AREA_L1C, *l1c) == 1
    assert "run `kappamask models fetch kappamask-2021-l1c`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
