"""The network published in 2021: its file, its mathematics, its input, the doors (invariant 5)."""

import pickle
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.keras_files import entry_of, make_arrays, write_keras
from support.reflectance import make_cube, make_scene

import kappamask as km
from kappamask.base.errors import InputError, WeightsError
from kappamask.base.legend import Label
from kappamask.base.windows import Lattice, plan_windows
from kappamask.networks.keras_file import read_keras
from kappamask.networks.manifest import bands_of_model, get_entry
from kappamask.networks.model import open_model
from kappamask.networks.published import FourClasses, PublishedUNet, from_keras
from kappamask.networks.weights import Origin, fetch_weights
from kappamask.predict.array import predict_array
from kappamask.predict.cube import lattice_origin, predict_cube

L1C, L2A, FAITHFUL = "kappamask-2021-l1c", "kappamask-2021-l2a", "kappamask-2021-l2a-faithful"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A network of two filters instead of 64, as Keras writes it."""
    return write_keras(tmp_path_factory.mktemp("keras") / "l2a_unet.hdf5", make_arrays())


@pytest.fixture
def open_small(file, tmp_path, monkeypatch):
    """Open a published model with the small file, through the cache as a user does."""
    monkeypatch.setenv("KAPPAMASK_CACHE", str(tmp_path / "cache"))

    def open_it(name=L2A, *, lattice=None, **settings):
        entry = entry_of(name, file)
        fetch_weights(entry, Origin(files=file))
        entry = replace(entry, lattice=lattice or entry.lattice)
        return open_model(entry, entry.levels[0], **settings)

    return open_it


# --- parity -----------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("level", ["l1c", "l2a"])
def test_probabilities_are_those_of_keras(shared_data, level):
    network = km.networks.published.from_keras(shared_data / f"keras/{level}_unet_4filters.hdf5")
    known = np.load(shared_data / f"keras/{level}_unet_4filters_io.npz")
    x = torch.from_numpy(known["x"]).permute(0, 3, 1, 2)
    # Keras computed in single precision and is up to 8e-5 off what double precision gives. Torch is
    # as far off, the same way or the other: 1.3e-4 lie between them where AVX2 is all there is.
    of_torch = [
        network(x.contiguous(memory_format=order)).permute(0, 2, 3, 1).numpy()
        for order in (torch.contiguous_format, torch.channels_last)
    ]
    exact = network.double()(x.double().contiguous()).permute(0, 2, 3, 1).numpy()
    assert np.abs(exact - known["probabilities"]).max() <= 1e-4
    assert known["probabilities"].std() > 0.1
    for found in of_torch:
        either = np.minimum(np.abs(found - exact), np.abs(found - known["probabilities"]))
        assert either.max() <= 1e-4
        assert np.abs(found - known["probabilities"]).mean() <= 3e-6


def convolve(x, kernel, bias):
    """Keras' 'same', from its definition: (y, x, in) and (ky, kx, in, out) -> (y, x, out)."""
    size = kernel.shape[0]
    before = (size - 1) // 2  # the odd one goes after
    padded = np.pad(x, [(before, size - 1 - before)] * 2 + [(0, 0)])
    out = np.zeros((*x.shape[:2], kernel.shape[3]))
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            seen = padded[row : row + size, column : column + size]
            out[row, column] = np.tensordot(seen, kernel, 3) + bias
    return out


def run_brute_force(x, arrays):
    """The architecture as the paper and km_predict draw it, in plain numpy: (y, x, 13)."""
    layers = iter(arrays)

    def relu(x):
        return np.maximum(convolve(x, *next(layers)), 0)

    skips = []
    for level in range(5):
        if level:
            y, x_, c = x.shape
            x = x.reshape(y // 2, 2, x_ // 2, 2, c).max((1, 3))
        x = relu(relu(x))
        skips.append(x)
    for skip in skips[-2::-1]:
        x = relu(x.repeat(2, 0).repeat(2, 1))
        x = relu(relu(np.concatenate([skip, x], 2)))
    x = convolve(relu(x), *next(layers))
    return 1 / (1 + np.exp(-x))


def test_the_network_is_the_one_of_the_paper(tmp_path):
    arrays = make_arrays(width=1, seed=3)
    network = from_keras(write_keras(tmp_path / "w.hdf5", arrays))
    x = np.random.default_rng(0).random((16, 32, 13), np.float32)
    found = network(torch.from_numpy(x).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, run_brute_force(x, arrays), atol=1e-5)
    assert found.std(axis=(0, 1)).max() > 1e-3


@pytest.mark.parametrize("layout", [{"first": 24}, {"whole_model": True}])
def test_names_of_layers_and_a_saved_model_make_no_difference(tmp_path, file, layout):
    other = read_keras(write_keras(tmp_path / "other.hdf5", make_arrays(), **layout))
    expected = read_keras(file)
    assert list(other) == list(expected)
    assert all(np.array_equal(other[name], expected[name]) for name in expected)


def test_the_published_size_is_31_million_parameters():
    total = sum(values.numel() for values in PublishedUNet(64).parameters())
    assert 31.0e6 < total < 31.1e6
    assert abs(4 * total - 124_244_168) < 100_000  # bytes of the published file


def test_other_sizes_than_multiples_of_16_are_refused(file):
    with pytest.raises(InputError, match=r"multiples of 16 px, got \(1, 13, 32, 40\)"):
        from_keras(file)(torch.zeros(1, 13, 32, 40))


# --- hostile and damaged files ------------------------------------------------------------------


def change(edit):
    """Change an HDF5 file in place."""

    def changed(path):
        with h5py.File(path, "a") as file:
            edit(file)

    return changed


def put(name="conv2d_3/conv2d_3/kernel:0", *, link=None, **settings):
    """Put another array, or a link, where one of the network stood."""

    def edit(file):
        shape = file[name].shape
        del file[name]
        if link is not None:
            file[name] = link
        else:
            file.create_dataset(name, **({"shape": shape, "dtype": "f4"} | settings))

    return change(edit)


def make_virtual(file):
    layout = h5py.VirtualLayout(shape=(3, 3, 4, 4), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.hdf5", "x", shape=(3, 3, 4, 4))
    del file["conv2d_3/conv2d_3/kernel:0"]
    file.create_virtual_dataset("conv2d_3/conv2d_3/kernel:0", layout)


def shorten(file):
    file.attrs["layer_names"] = file.attrs["layer_names"][:-1]


def spoil(file):
    file["conv2d/conv2d/bias:0"][:] = np.nan


def pack(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../owned", "x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "cannot read the weights .*No such file"),
        (lambda p: p.write_bytes(b""), "is no HDF5 file, it begins with b''"),
        (lambda p: p.write_bytes(b"<html>404</html>"), "is no HDF5 file"),
        (lambda p: p.write_bytes(pickle.dumps([1])), "is a pickle or a zip"),
        (pack, "is a pickle or a zip"),
        (lambda p: p.write_bytes(p.read_bytes()[:9000]), "is a damaged HDF5 file"),
        (change(lambda file: file.attrs.pop("layer_names")), "is a damaged HDF5 file"),
        (change(lambda file: file.pop("conv2d_7")), "holds no conv2d_7 of its own"),
        (change(shorten), r"should hold the 24 convolutions .* got 23: \(3, 3, 13, 2\)"),
        (put(shape=(3, 3, 4, 5)), "it is another network, or damaged"),
        (put(shape=(1 << 40,), chunks=(1,)), "it is another network"),
        (
            put("conv2d_3/conv2d_3/bias:0", shape=(1 << 40,), chunks=(1,)),
            r"bias:0 should have shape \(4,\), got \(1099511627776,\)",
        ),
        (put(dtype="i8"), "float32 in the file itself, got int64"),
        (put(external="/etc/hostname"), "float32 in the file itself"),
        (change(make_virtual), "float32 in the file itself"),
        (put(link=h5py.SoftLink("/conv2d")), "of its own"),
        (put(link=h5py.ExternalLink("x.hdf5", "/y")), "of its own"),
        (change(spoil), "conv2d/bias:0 holds numbers that are not finite"),
    ],
)
def test_a_damaged_or_hostile_file_gets_one_clear_error(tmp_path, damage, message):
    path = write_keras(tmp_path / "w.hdf5", make_arrays())
    damage(path)
    with pytest.raises(WeightsError, match=message):
        from_keras(path)


def test_without_h5py_the_error_says_what_to_install(file, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match=r"need h5py .*pip install 'kappamask\[published\]'"):
        from_keras(file)


# --- what it is fed -----------------------------------------------------------------------------


def fill(name, layers, bands, kind):
    """Slots of one window without padding."""
    (window,) = plan_windows(*layers[0].shape, lattice=Lattice(mirror=0))
    slots = torch.zeros(1, 13, *layers[0].shape) if kind == "torch" else None
    slots = np.zeros((1, 13, *layers[0].shape), np.float32) if slots is None else slots
    get_entry(name).normalisation.fill(slots, layers, bands, window)
    return np.asarray(slots)[0]


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("name", [L1C, L2A])
def test_features_are_shares_of_their_maxima_in_dn(name, kind):
    """The oracle: DN / 65535 / maximum, from the integers that a product holds."""
    fed = get_entry(name).normalisation
    dn = np.random.default_rng(0).integers(1, 15000, (13, 32, 64))
    dn[5, :3] = -200  # below the offset
    layers = []
    for feature, stored in zip(fed.features, dn, strict=True):
        scale = 1000 if feature in ("AOT", "WVP") else 10000
        layers.append((stored / scale).astype(np.float32))
    layers[2][7, 9], layers[2][7, 10] = np.nan, np.inf
    expected = np.maximum(dn / 65535 / np.array(fed.maximum)[:, None, None], 0)
    expected[2, 7, 9:11] = 0
    order = np.random.default_rng(1).permutation(13)
    found = fill(name, [layers[i] for i in order], [fed.features[i] for i in order], kind)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.max() > 1


def test_bands_and_maxima_are_those_of_the_paper():
    l1c, l2a = get_entry(L1C).normalisation, get_entry(L2A).normalisation
    assert " ".join(l2a.features) == "AOT B01 B02 B03 B04 B05 B06 B08 B8A B09 B11 B12 WVP"
    assert (l2a.maximum[0], l2a.maximum[-1]) == (0.003906309604644775, 0.07557793706655502)
    assert dict(zip(l1c.features, l1c.maximum, strict=True))["B10"] == 0.055
    assert bands_of_model(L2A) == l2a.features


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_faithful_is_fixed_with_1000_dn_more(kind):
    """Bug 1: the offset of baseline 04.00 was never subtracted from L2A."""
    bands = list(get_entry(L2A).bands)
    layers = list(np.random.default_rng(0).random((13, 32, 32), np.float32))
    layers[3][4, 4] = np.nan
    raised = [
        layer + np.float32(0.1 * name.startswith("B"))
        for name, layer in zip(bands, layers, strict=True)
    ]
    found, expected = fill(FAITHFUL, layers, bands, kind), fill(L2A, raised, bands, kind)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    fixed = fill(L2A, layers, bands, kind)
    np.testing.assert_array_equal(found[[0, 12]], fixed[[0, 12]])  # AOT and WVP have no offset
    assert (found[3, 4, 4], fixed[3, 4, 4]) == (0, 0)


# --- the doors ----------------------------------------------------------------------------------


def test_array_and_cube_agree_and_missing_is_decided_by_data(open_small):
    model = open_small()
    scene = make_scene(model.bands, 70, 90)
    scene[3, 20:30, :5] = np.nan  # B03: no data
    scene[0, 40:50] = np.nan  # AOT: the network does without
    cube = make_cube(scene, model.bands)
    labels = predict_cube(cube, model=model)
    array = predict_array(scene, model.bands, level="L2A", model=model, origin=lattice_origin(cube))
    np.testing.assert_array_equal(labels.values[0], array)
    np.testing.assert_array_equal(array == Label.MISSING, np.isnan(scene[3]))
    assert set(np.unique(array)) <= {1, 2, 3, 4, 5}
    assert labels.attrs["kappamask_model"] == L2A
    assert labels.attrs["kappamask_model_sha256"] == model.entry.sha256


def test_probabilities_are_the_four_sigmoids_over_their_sum(open_small, file):
    """The oracle runs the six outputs on the same padded window."""
    model = open_small()
    scene = make_scene(model.bands, 64, 96)
    found = predict_array(scene, model.bands, level="L2A", model=model, output="probabilities")
    padded = np.pad(scene, [(0, 0), (32, 32), (32, 32)], mode="symmetric")
    layers = list(padded.astype(np.float32))
    six = from_keras(file)(torch.from_numpy(fill(L2A, layers, model.bands, "torch"))[None])
    four = six[0, 1:5, 32:-32, 32:-32].numpy()
    np.testing.assert_allclose(found, four / four.sum(0), atol=1e-5)
    labels = predict_array(scene, model.bands, level="L2A", model=model)
    np.testing.assert_array_equal(labels, four.argmax(0) + 1)
    assert len(np.unique(labels)) > 1


def test_saturated_outputs_still_sum_to_one(file):
    """Sigmoids of -200 are 0 in single precision; their logarithms are not."""
    network = from_keras(file)
    network.head.weight.zero_()
    network.head.bias.copy_(torch.tensor([50.0, -200, -201, -300, -200.5, 50]))
    four = FourClasses(network)(torch.zeros(1, 13, 16, 16), torch.ones(1, 14)).softmax(1)
    assert torch.isfinite(four).all()
    torch.testing.assert_close(four.sum(1), torch.ones(1, 16, 16))
    assert (four.argmax(1) == 0).all()


def test_bands_in_any_order_and_others_make_no_difference(open_small):
    model = open_small()
    scene = make_scene(model.bands, 70, 90)
    expected = predict_array(scene, model.bands, level="L2A", model=model)
    bands = ["B07", *model.bands[::-1]]
    turned = np.concatenate([np.full_like(scene[:1], 0.3), scene[::-1]])
    np.testing.assert_array_equal(predict_array(turned, bands, level="L2A", model=model), expected)


def test_faithful_labels_are_those_of_a_scene_with_the_offset_left_in(open_small):
    model, faithful = open_small(), open_small(FAITHFUL)
    scene = make_scene(model.bands, 70, 90)
    raised = scene + np.float32(0.1) * np.array([b[0] == "B" for b in model.bands])[:, None, None]
    given = {"level": "L2A", "output": "probabilities"}
    found = predict_array(scene, model.bands, model=faithful, **given)
    expected = predict_array(raised.astype(np.float32), model.bands, model=model, **given)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - predict_array(scene, model.bands, model=model, **given)).max() > 1e-3
    cube = make_cube(scene, model.bands)
    names = {predict_cube(cube, model=one).data.name for one in (model, faithful)}
    assert len(names) == 2  # or dask would take one's result for the other's


def test_windows_give_what_the_whole_scene_gives(open_small):
    """The margin is wider than what a label depends on: nothing of the cut is left."""
    whole = open_small()
    cut_up = open_small(lattice=replace(whole.entry.lattice, core=64, whole=128))
    scene = make_scene(whole.bands, 90, 460)
    one, other = (
        predict_array(
            scene, whole.bands, level="L2A", model=model, output="probabilities", origin=(13, 50)
        )
        for model in (whole, cut_up)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)
    # Where windows meet too: a label depends on pixels up to 123 px away.
    assert whole.entry.lattice == Lattice(core=768, margin=128, seam=128, whole=1024)
    assert get_entry(L1C).lattice == get_entry(FAITHFUL).lattice == whole.entry.lattice


def test_absent_features_are_named(open_small):
    model = open_small()
    scene = make_scene(model.bands, 70, 90)[1:-1]
    with pytest.raises(InputError, match=r"missing AOT, WVP, got B01, B02.* load them too"):
        predict_array(scene, model.bands[1:-1], level="L2A", model=model)


def test_the_l1c_network_runs_through_the_doors(open_small):
    model = open_small(L1C)
    scene = make_scene(model.bands, 70, 90)
    labels = predict_cube(make_cube(scene, model.bands, level="L1C"), model=model)
    assert set(np.unique(labels.values)) <= {1, 2, 3, 4}
    with pytest.raises(InputError, match="loaded for L1C, the input is L2A"):
        predict_array(scene[:10], model.bands[:10], level="L2A", model=model)


def test_it_computes_in_fp32_and_in_torch_only(open_small):
    assert open_small().precision == "fp32"
    with pytest.raises(InputError, match="computes in fp32, got precision 'bf16'"):
        open_small(precision="bf16")
    with pytest.raises(InputError, match="runs in torch only, got engine 'onnx'"):
        open_small(engine="onnx")
