"""Other masks: their files are read and mapped, their programs are called as they want."""

import sys

import numpy as np
import pytest
from safetensors.torch import save_file
from support.labelled_chips import TEN, codes_at_20m, make_chip, write, write_chips

from kappamask.base.bands import NAMES
from kappamask.base.errors import (
    InputError,
    KappaMaskError,
    ReadError,
    UnknownNameError,
    WeightsError,
)
from kappamask.base.legend import Label
from kappamask.evaluate.peers import (
    FMASK,
    MAJA_MUSCATE,
    MAJA_NATIVE,
    SCL,
    SclPeer,
    map_codes,
    map_maja,
    raster_peers,
)
from kappamask.evaluate.programs import (
    S2CLOUDLESS_BANDS,
    NetworkPeer,
    S2cloudlessPeer,
    UkisPeer,
    name_of,
    network_from_file,
)
from kappamask.evaluate.scenes import SIZE, cut, read_date, read_germany
from kappamask.networks.manifest import find_entry
from kappamask.predict.array import predict_array
from kappamask.train.chips import SLOT, read_chips

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
FROM_LABEL = {"fmask": [255, 0, 2, 255, 4, 255], "python": [0, 1, 3, 0, 2, 0]}


def refusal(peer, chip):
    """Why a mask does not label a chip."""
    with pytest.raises(KappaMaskError) as refused:
        peer.label(chip)
    return str(refused.value)


def test_codes_are_mapped_as_the_paper_mapped_them():
    assert map_codes(np.arange(12), SCL).tolist() == [5, 5, 1, 2, 1, 1, 1, 0, 4, 4, 3, 1]
    assert map_codes(np.array([0, 1, 2, 3, 4, 255]), FMASK).tolist() == [1, 1, 2, 1, 4, 5]
    with pytest.raises(InputError, match=r"got \[12\]"):
        map_codes(np.array([4, 12]), SCL)


@pytest.mark.parametrize(
    ("bits", "cloud", "shadows", "thin"),
    [(MAJA_MUSCATE, 2, (32, 64), 16), (MAJA_NATIVE, 2, (4, 8), 64)],
)
def test_maja_bits_go_cloud_shadow_thin_else_unsure(bits, cloud, shadows, thin):
    def say(*values):
        return map_maja(np.array([sum({*values})], np.uint8), bits)[0]

    assert say() == Label.CLEAR
    assert say(1, cloud) == say(1, cloud, *shadows, thin) == Label.CLOUD
    assert {say(1, shadow) for shadow in shadows} == {Label.CLOUD_SHADOW}
    assert say(1, shadows[0], thin) == Label.CLOUD_SHADOW
    assert say(thin) == Label.SEMI_TRANSPARENT
    assert say(1) == say(128) == Label.UNDEFINED


def test_scl_is_read_from_the_label_file_and_from_a_date_of_bolzano(tmp_path):
    chips = write_chips(tmp_path)
    val = {chip.name: chip for chip in read_chips(tmp_path, "val")}["val_1"]
    peer = SclPeer()
    np.testing.assert_array_equal(peer.label(val).codes, chips["val_1"].label)
    [shadows] = [c for c in read_chips(tmp_path, "test") if c.name == "shadows"]  # L1C: none stored
    assert "no scene classification" in refusal(peer, shadows)
    assert "no scene classification" in refusal(peer, make_chip("elsewhere"))
    date = tmp_path / "bolzano" / "S2_L2A_20220620"
    date.mkdir(parents=True)
    for band in ("B02", "B03", "B04", "B08"):
        write(date / f"{band}.tif", np.full((1, 64, 64), 1500, np.uint16))
    write(date / "SCL.tif", np.full((1, 32, 32), 10, np.uint8))  # of 20 m
    answer = peer.label(read_date(tmp_path, "S2_L2A_20220620"))
    assert answer.codes.shape == (64, 64)
    assert (answer.codes == Label.SEMI_TRANSPARENT).all()


def test_fmask_is_read_as_geotiff_at_its_20_m(tmp_path):
    chip = make_chip("a_1", codes=(1, 2, 4, 4))
    raster = np.array(FROM_LABEL["fmask"], np.uint8)[codes_at_20m(chip.label)]
    (tmp_path / "fmask").mkdir()
    write(tmp_path / "fmask" / "a_1_Fmask4.tif", raster[None])
    peer = raster_peers(tmp_path)["fmask"]
    np.testing.assert_array_equal(peer.label(chip).codes, chip.label)
    for other in ("a", "a_", "a_11"):
        assert "_Fmask4.tif" in refusal(peer, make_chip(other))


def test_python_fmask_is_read_as_imagine_with_its_own_codes(tmp_path):
    chip = make_chip("a", codes=(1, 2, 4))
    (tmp_path / "python-fmask").mkdir()
    raster = np.array(FROM_LABEL["python"], np.uint8)[chip.label]
    write(tmp_path / "python-fmask" / "a.img", raster[None], driver="HFA")
    np.testing.assert_array_equal(
        raster_peers(tmp_path)["python-fmask"].label(chip).codes, chip.label
    )


@pytest.mark.parametrize(
    ("ending", "field", "step"),
    [
        ("_CLM_R1.tif", [0, 0, 33, 16, 3, 0], 1),
        ("_CLM_R2.tif", [0, 0, 33, 16, 3, 0], 2),
        ("_CLD_R1.DBL.TIF", [0, 0, 5, 64, 3, 0], 1),
    ],
)
def test_maja_is_read_in_both_of_its_products(tmp_path, ending, field, step):
    chip = make_chip("a", codes=(1, 2, 3, 4))
    (tmp_path / "maja").mkdir()
    raster = np.array(field, np.uint8)[chip.label[::step, ::step]]
    write(tmp_path / "maja" / f"a{ending}", raster[None])
    np.testing.assert_array_equal(raster_peers(tmp_path)["maja"].label(chip).codes, chip.label)


def test_a_raster_of_another_area_and_a_broken_one_are_refused(tmp_path):
    (tmp_path / "maja").mkdir()
    write(tmp_path / "maja" / "a_CLM_R1.tif", np.zeros((1, 64, 50), np.uint8))
    with pytest.raises(InputError, match=r"64 x 50 for a: cut it to the chip"):
        raster_peers(tmp_path)["maja"].label(make_chip("a"))
    (tmp_path / "maja" / "b_CLM_R1.tif").write_bytes(b"II*\0 cut short")
    with pytest.raises(ReadError, match=r"b_CLM_R1\.tif"):
        raster_peers(tmp_path)["maja"].label(make_chip("b"))
    assert "--masks" in refusal(raster_peers(None)["maja"], make_chip("a"))


# --- programs --------------------------------------------------------------------------------


class FakeCsmask:
    """Called as ukis_csmask.mask.CSmask: 0 clear, 1 cloud, 2 shadow, by the red band."""

    def __init__(self, img, band_order, product_level="l1c"):
        assert img.dtype == np.float32
        assert np.isfinite(img).all()
        assert img.shape[2] == len(band_order)
        self.seen = band_order, product_level
        FakeCsmask.last = self
        red = img[..., band_order.index("red")]
        self.csm = np.select([red > 0.4, red < 0.03], [1, 2], 0).astype(np.uint8)[..., None]


def test_ukis_csmask_gets_reflectance_named_by_colour():
    chip = make_chip("a", codes=(1, 2, 4))
    chip.dn[:, 0, 0] = 0  # no data is no NaN for it
    peer = UkisPeer(FakeCsmask)
    codes = peer.label(chip).codes
    assert (codes[1:] == chip.label[1:]).all()
    assert FakeCsmask.last.seen == (["blue", "green", "red", "nir"], "l2a")
    peer.label(make_chip("b", level="L1C", bands=TEN))
    assert FakeCsmask.last.seen == (
        ["blue", "green", "red", "nir", "swir16", "swir22"], "l1c",
    )  # fmt: skip
    landsat = make_chip("c", bands=("B02", "B03", "B04", "B8A"))
    assert (peer.label(landsat).codes == landsat.label).all()
    assert FakeCsmask.last.seen[0][3] == "nir"
    assert "B08 or B8A" in refusal(peer, make_chip("d", bands=("B02", "B03", "B04")))
    assert "B04" in refusal(peer, make_chip("e", bands=("B02", "B03", "B08")))


class FakeDetector:
    """Called as s2cloudless.S2PixelCloudDetector."""

    def get_cloud_masks(self, data):
        assert data.shape == (1, 64, 64, 10)
        assert data.dtype == np.float32
        return (data[..., S2CLOUDLESS_BANDS.index("B04")] > 0.4).astype(np.uint8)


def test_s2cloudless_gets_ten_bands_of_l1c_and_says_cloud_or_clear():
    peer = S2cloudlessPeer(FakeDetector())
    chip = make_chip("a", level="L1C", bands=NAMES, codes=(1, 4))
    np.testing.assert_array_equal(peer.label(chip).codes, chip.label)
    assert refusal(peer, make_chip("b", bands=TEN)) == "needs L1C, the chip is L2A"
    assert "B01, B09, B10" in refusal(peer, make_chip("c", level="L1C", bands=TEN))


def test_programs_that_are_not_installed_say_how_to_install_them(monkeypatch):
    for name in ("ukis_csmask", "ukis_csmask.mask", "s2cloudless"):
        monkeypatch.setitem(sys.modules, name, None)
    for peer in (UkisPeer(), S2cloudlessPeer()):
        assert "pip install 'kappamask[evaluate]'" in refusal(peer, make_chip())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("package", "make"), [("ukis_csmask", UkisPeer), ("s2cloudless", S2cloudlessPeer)]
)
def test_the_real_programs_label_a_clear_winter_field(package, make):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'kappamask[evaluate]'")
    field = cut(read_germany(), 400, 1040)
    small = field.dn[:, :64, :80].copy()
    chip = make_chip("field", level="L1C", bands=NAMES)
    chip = type(chip)("field", small, field.label[:64, :80], "L1C", 10.0, "clear")
    peer = make()
    codes = peer.label(chip).codes
    assert codes.shape == (64, 80)
    assert (codes == Label.CLEAR).mean() > 0.9
    assert SIZE > 80  # below the window of ukis-csmask, which would warn


# --- networks --------------------------------------------------------------------------------


def test_a_network_is_scored_with_the_bands_it_is_given():
    chip = make_chip("a", bands=TEN, codes=(1, 2, 3, 4))
    answer = NetworkPeer("net").label(chip)
    assert answer.probabilities.sum(0) == pytest.approx(np.ones((64, 64)), abs=1e-5)
    bands = ("B02", "B03", "B04", "B08")
    part = NetworkPeer("net 4", only=bands).label(chip)
    expected = predict_array(chip.reflectance()[[SLOT[b] for b in bands]], bands, level="L2A")
    np.testing.assert_array_equal(part.codes, expected)
    assert (answer.codes != part.codes).any()
    assert "B11" in refusal(NetworkPeer("n", only=("B11",)), make_chip("b"))


def test_no_data_is_missing():
    chip = make_chip("a")
    chip.dn[:, :, :10] = 0
    assert (NetworkPeer("net").label(chip).codes[:, :10] == Label.MISSING).all()


def test_published_networks_say_what_they_lack(monkeypatch, tmp_path):
    monkeypatch.setenv("KAPPAMASK_CACHE", str(tmp_path))
    peer = NetworkPeer("kappamask-2021-l1c", "kappamask-2021-l1c")
    assert "L1C" in refusal(peer, make_chip("a", bands=TEN))
    assert "B01, B09, B10" in refusal(peer, make_chip("a", level="L1C", bands=TEN))
    reason = refusal(peer, make_chip("a", level="L1C", bands=NAMES))
    assert "`kappamask models fetch kappamask-2021-l1c`" in reason
    assert "/" not in reason  # no folder of this machine


def test_unknown_models_are_named():
    assert name_of("default") == find_entry("default", "L2A").name
    with pytest.raises(UnknownNameError, match="unknown model 'best'"):
        name_of("best")


def test_weights_of_a_training_run_give_the_labels_of_the_same_weights_shipped(tmp_path):
    from kappamask.networks.weights import read_weights, weights_of

    entry = find_entry("default", "L2A")
    shipped = weights_of(entry)
    save_file(read_weights(shipped.path, shipped.sha256), tmp_path / "best.safetensors")
    lines = [f"widths = {list(entry.widths)}", f"mean = {list(entry.normalisation.mean)}"]
    lines += [f"std = {list(entry.normalisation.std)}", "seed = 1", "val_mean = 0.8"]
    (tmp_path / "best.toml").write_text("\n".join(lines))
    peer = network_from_file(tmp_path / "best.safetensors")
    assert peer.name == f"{tmp_path.name}/best"
    chip = make_chip("a", bands=TEN, codes=(1, 2, 3, 4))
    expected = NetworkPeer("net").label(chip).probabilities
    np.testing.assert_array_equal(peer.label(chip).probabilities, expected)


def test_weights_without_their_table_say_what_is_missing(tmp_path):
    with pytest.raises(WeightsError, match=r"widths, mean and std.*best\.safetensors"):
        network_from_file(tmp_path / "best.safetensors")
