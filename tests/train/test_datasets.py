"""Data sets are read as their publishers lay them out: tiny files of the same layout."""

import csv
import io

import netCDF4
import numpy as np
import pandas as pd
import pytest
import rasterio
from support.chip_files import make_chip, patch, write_chip_folder, write_patches, write_raster

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, ReadError, UnknownNameError
from kappamask.base.legend import Label
from kappamask.train import cloudsen12
from kappamask.train.chips import distrust, read_bolzano, read_chips, read_safe_blocks
from kappamask.train.cloudsen12 import CloudSen12
from kappamask.train.datasets import ChipFolder, keep, open_dataset, read_split, read_training
from kappamask.train.kappaset import KappaSet, read_sub_tile, split_of
from kappamask.train.settings import Config, Source

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
PRODUCT = "S2A_MSIL1C_20200529T094041_N0209_R036_T35VLF_20200529T120441"


def write_sub_tile(path, dn, label=None, product=PRODUCT):
    """Write a file as cm-vsm does: DN / 65535 in float32, rows first in dimensions (x, y)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with netCDF4.Dataset(path, "w") as file:
        file.product_name = product
        file.createDimension("x", dn.shape[2])
        file.createDimension("y", dn.shape[1])
        for name, band in zip(NAMES, dn, strict=True):
            variable = file.createVariable(name, "f4", ("x", "y"))
            variable[:] = band.astype(np.float32) / np.float32(65535)
        if label is not None:
            file.createVariable("Label", "u1", ("x", "y"))[:] = label
        for part in "RGB":
            file.createVariable(f"TCI_{part}", "u1", ("x", "y"))[:] = 7


def ramp(size=256):
    """Give (13, y, x) DN in which each of 65536 values stands once."""
    return np.arange(size * size, dtype=np.uint16).reshape(1, size, size).repeat(13, 0)


def test_a_sub_tile_gives_every_dn_back_and_its_labels(tmp_path):
    label = np.arange(256 * 256).reshape(256, 256) % 6
    write_sub_tile(tmp_path / "T35VLF_tile_2_3.nc", ramp(), label)
    chip = read_sub_tile(tmp_path / "T35VLF_tile_2_3.nc")
    np.testing.assert_array_equal(chip.dn, ramp())
    np.testing.assert_array_equal(chip.label, label)
    assert (chip.level, chip.resolution, chip.kind) == ("L1C", 10.0, "human")
    assert chip.bands == NAMES


def test_the_offset_of_a_sub_tile_follows_its_baseline(tmp_path):
    dn = np.full((13, 8, 8), 1500, np.uint16)
    dn[:, 0] = 0
    dn[:, 1] = 900
    label = np.ones((8, 8))
    path = tmp_path / "tile.nc"
    write_sub_tile(path, dn, label, PRODUCT.replace("N0209", "N0400"))
    chip = read_sub_tile(path)
    assert chip.dn[3, :3, 0].tolist() == [0, 1, 500]  # none, dark, 0.05
    write_sub_tile(path, dn, label, "S2A_T35VLF")
    with pytest.raises(InputError, match="dn_offset"):
        read_sub_tile(path)
    assert read_sub_tile(path, dn_offset=-1000).dn[3, 2, 0] == 500


def test_sub_tiles_of_one_place_stay_in_one_split(tmp_path):
    dn = np.full((13, 4, 4), 1500, np.uint16)
    places = [f"T{zone}VLF" for zone in range(10, 40)]
    for place in places:
        for date in ("20190801", "20200529"):
            write_sub_tile(tmp_path / f"{place}_{date}_tile_0_0.nc", dn, np.ones((4, 4)))
    write_sub_tile(tmp_path / "T10VLF_20210101_tile_0_0.nc", dn)  # no Label
    write_sub_tile(tmp_path / "validation" / "T10VLF_a_tile_0_0.nc", dn, np.ones((4, 4)))
    dataset = KappaSet(tmp_path)
    names = {split: [c.name for c in dataset.chips(split)] for split in ("train", "val", "test")}
    assert sum(len(found) for found in names.values()) == 61
    assert names["val"].count("validation-T10VLF_a_tile_0_0") == 1
    for place in places:
        assert sum(any(f"-{place}_20" in name for name in found) for found in names.values()) == 1
    assert len(names["train"]) > 30
    limited = [chip.name for chip in dataset.chips("train", limit=3)]
    assert limited[0] == names["train"][0]
    assert limited[1:] == [names["train"][len(names["train"]) * i // 3] for i in (1, 2)]
    assert split_of(tmp_path / "a_tile_0_0.nc") == split_of(tmp_path / "a_tile_9_9.nc")


def test_a_sub_tile_that_is_none_is_named(tmp_path):
    path = tmp_path / "T35VLF_tile_0_0.nc"
    path.write_bytes(b"not NetCDF")
    with pytest.raises(ReadError, match="T35VLF_tile_0_0"):
        list(KappaSet(tmp_path).chips(split_of(path)))
    with netCDF4.Dataset(path, "w") as file:
        file.product_name = PRODUCT
        file.createDimension("x", 4)
        file.createVariable("Label", "u1", ("x", "x"))[:] = 1
        file.createVariable("B02", "f4", ("x", "x"))[:] = 1500.0
    with pytest.raises(InputError, match="65535"):
        read_sub_tile(path)


# --- CloudSEN12 ------------------------------------------------------------------------------


def expected_label(codes):
    table = {0: Label.CLEAR, 1: Label.CLOUD, 2: Label.SEMI_TRANSPARENT, 3: Label.CLOUD_SHADOW}
    label = np.vectorize(lambda code: table.get(code, Label.UNDEFINED))(codes)
    label[-1] = label[:, -1] = Label.UNDEFINED
    return label


def test_patches_of_geotiffs_are_found_by_the_table(tmp_path):
    write_patches(tmp_path)
    dn, codes = patch()
    (chip,) = CloudSen12(tmp_path).chips("train")
    assert chip.name == "ROI_0000-20190213T1"
    np.testing.assert_array_equal(chip.dn, dn)
    np.testing.assert_array_equal(chip.label, expected_label(codes))
    assert [c.name[:8] for c in CloudSen12(tmp_path).chips("val")] == ["ROI_0001"]
    assert [c.name[:8] for c in CloudSen12(tmp_path).chips("test")] == ["ROI_0002"]
    scribbles = CloudSen12(tmp_path, label_type="scribble").chips("train")
    assert [c.name[:8] for c in scribbles] == ["ROI_0003"]


def test_patches_of_l2a_have_no_cirrus_band(tmp_path):
    write_patches(tmp_path, bands=13, name="S2L2A.tif")  # 12 and one auxiliary layer
    (chip,) = CloudSen12(tmp_path, level="L2A").chips("train")
    assert chip.bands == tuple(name for name in NAMES if name != "B10")
    assert chip.dn[NAMES.index("B11"), 0, 0] == 2000
    with pytest.raises(InputError, match="cloudsen12_metadata"):
        list(CloudSen12(tmp_path / "high").chips("train"))


def bake(parts, **columns):
    """Lay parts (name, format, bytes) out as a file of TACO 1: header, data, table."""
    offset, rows, data = 200, [], b""
    for number, (name, kind, content) in enumerate(parts):
        row = {"tortilla:id": name, "tortilla:file_format": kind}
        row |= {"tortilla:offset": offset + len(data), "tortilla:length": len(content)}
        rows.append(row | {key: values[number] for key, values in columns.items()})
        data += content
    table = io.BytesIO()
    pd.DataFrame(rows).to_parquet(table)
    footer = table.getvalue()
    place = (offset + len(data)).to_bytes(8, "little") + len(footer).to_bytes(8, "little")
    return b"#y" + place + bytes(182) + data + footer


def tiff_bytes(layers, descriptions=()):
    with rasterio.MemoryFile() as memory:
        count, height, width = layers.shape
        options = {"driver": "GTiff", "height": height, "width": width, "count": count}
        with memory.open(dtype=layers.dtype, **options) as target:
            target.write(layers)
            for index, name in enumerate(descriptions, start=1):
                target.set_band_description(index, name)
        return memory.read()


def test_patches_of_a_taco_file_are_read_through_gdal(tmp_path):
    dn, codes = patch()
    swapped = [*NAMES[:11], "B12", "B11"]  # what a file says of its bands goes before their order
    image, label = tiff_bytes(dn, swapped), tiff_bytes(codes[None])
    sample = bake([("s2l1c", "GTiff", image), ("target", "GTiff", label)])
    names = ["ROI_0001", "ROI_0002", "ROI_0003"]
    taco = bake(
        [(name, "TORTILLA", sample) for name in names],
        **{
            "tortilla:data_split": ["train", "validation", "train"],
            "label_type": ["high", "high", "scribble"],
        },
    )
    (tmp_path / "cloudsen12-l1c.0000.part.taco").write_bytes(taco)
    (chip,) = CloudSen12(tmp_path).chips("train")
    assert chip.name == "ROI_0001"
    np.testing.assert_array_equal(chip.label, expected_label(codes))
    np.testing.assert_array_equal(chip.dn[:11], dn[:11])
    np.testing.assert_array_equal(chip.dn[11:], dn[[12, 11]])
    assert [c.name for c in CloudSen12(tmp_path).chips("val")] == ["ROI_0002"]
    assert list(CloudSen12(tmp_path).chips("test")) == []


def test_a_damaged_taco_file_and_an_absent_reader_are_named(tmp_path, monkeypatch):
    (tmp_path / "cloudsen12-l1c.taco").write_bytes(b"PK" + bytes(100))
    with pytest.raises(ReadError, match=r"cloudsen12-l1c\.taco"):
        list(CloudSen12(tmp_path).chips("train"))
    monkeypatch.setitem(cloudsen12.__dict__["__builtins__"], "__import__", refuse("tacoreader"))
    with pytest.raises(InputError, match="pip install"):
        list(CloudSen12(tmp_path).chips("train"))


def refuse(name):
    """Import everything but one package."""
    real = __import__

    def fake(wanted, *rest, **more):
        if wanted.split(".")[0] == name:
            raise ImportError(f"no {name}")
        return real(wanted, *rest, **more)

    return fake


def test_words_that_no_format_knows_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="L3"):
        CloudSen12(tmp_path, level="L3")
    with pytest.raises(UnknownNameError, match="nolabel"):
        CloudSen12(tmp_path, label_type="nolabel")
    with pytest.raises(UnknownNameError, match="chips, cloudsen12, kappaset"):
        open_dataset(Source("zarr", tmp_path))
    with pytest.raises(UnknownNameError, match="colour"):
        open_dataset(Source("cloudsen12", tmp_path, options={"colour": 1}))
    with pytest.raises(InputError, match="nowhere"):
        open_dataset(Source("chips", tmp_path / "nowhere"))
    assert open_dataset(Source("cloudsen12", tmp_path, options={"level": "L2A"})) == CloudSen12(
        tmp_path, "L2A"
    )


# --- chips -----------------------------------------------------------------------------------


def test_chips_are_read_by_band_name_and_unlabelled_ones_left_out(tmp_path):
    folder = write_chip_folder(tmp_path)
    train = read_chips(folder, "train")
    assert [chip.name for chip in train] == ["c0", "c1"]
    np.testing.assert_array_equal(train[1].dn, make_chip(seed=1).dn)
    assert train[0].bands == NAMES
    assert [chip.name for chip in ChipFolder(folder).chips("train", limit=1)] == ["c0"]
    assert [chip.name for chip in ChipFolder(folder).chips("val")] == ["c2"]


def test_what_is_wrong_with_a_folder_of_chips_is_said(tmp_path):
    with pytest.raises(InputError, match=r"chips\.csv"):
        read_chips(tmp_path, "train")
    (tmp_path / "chips.csv").write_text("file,split,level\n")
    with pytest.raises(InputError, match="label_kind, resolution_m"):
        read_chips(tmp_path, "train")
    folder = write_chip_folder(tmp_path)
    torn = folder / "bolzano" / "S2_L2A_20220602" / "label.tif"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"II*")
    with pytest.raises(ReadError, match="S2_L2A_20220602"):
        list(ChipFolder(folder).chips("train"))
    write_raster(folder / "c0_label.tif", np.ones((1, 8, 8), np.uint8))
    with pytest.raises(InputError, match="c0"):
        read_chips(folder, "train")
    (folder / "c0_label.tif").unlink()
    with pytest.raises(ReadError, match="c0"):
        read_chips(folder, "train")


TABLE = """file,split,label_kind,level,resolution_m,name,relabel,note
a/one.tif,train,human,L1C,30,,3>6 1>0,thin is the shade of a deck
a/clear.tif,train,seen clear,L2A,10,a_clear,,
a/cloudy.tif,train,dates,L2A,10,a_cloudy,,
a/deck.tif,train,seen overcast,L1C,10,,,
a/town.tif,train,teacher,L1C,10,,,
a/odd.tif,train,none,L1C,10,,,nobody can name it
"""


def test_a_table_of_its_own_names_relabels_and_says_what_needs_no_label(tmp_path):
    (tmp_path / "own.csv").write_text(TABLE)
    dn = np.full((3, 4, 4), 300, np.uint16)
    dn[1, 0, 0] = 0  # darker than 0, in one band
    dn[:, 3, 3] = 0  # cut out, in all
    for name in ("one", "clear", "cloudy", "deck", "town"):
        write_raster(tmp_path / "pixels" / "a" / f"{name}.tif", dn, ("B02", "B08", "VV"))
    drawn = np.array([[1, 3, 4, 2]] * 4, np.uint8)
    layers = np.stack([drawn, 9 - drawn])
    write_raster(tmp_path / "pixels" / "a" / "one_label.tif", layers, ("label", "as_drawn"))
    source = ChipFolder(tmp_path / "pixels", table=str(tmp_path / "own.csv"))
    chips = {chip.name: chip for chip in source.chips("train")}
    kinds = {name: chip.kind for name, chip in chips.items()}
    assert kinds == {
        "one": "human", "a_clear": "clear", "a_cloudy": "dates", "deck": "overcast", "town": "net",
    }  # fmt: skip
    assert chips["one"].label[0].tolist() == [0, 6, 4, 2]
    assert chips["one"].scl is None
    assert chips["one"].dn[NAMES.index("B08"), 0].tolist() == [1, 300, 300, 300]
    assert not chips["one"].dn[:, 3, 3].any()
    assert chips["one"].bands == ("B02", "B08")
    assert chips["a_clear"].label.tolist() == [[1] * 4] * 3 + [[1, 1, 1, 0]]
    assert not any(chips[name].label.any() for name in ("a_cloudy", "deck", "town"))
    assert chips["a_clear"].place == chips["a_cloudy"].place == "a"
    with pytest.raises(InputError, match="table is the path"):
        open_dataset(Source("chips", tmp_path, options={"table": 5}))
    with pytest.raises(InputError, match=r"got none at .*nowhere\.csv"):
        list(ChipFolder(tmp_path, table="nowhere.csv").chips("train"))


def test_the_shipped_table_says_why_each_chip_is_left_out_or_changed(request):
    path = request.config.rootpath / "scripts" / "whole_earth.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["name"] or row["file"].rpartition("/")[2] for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        assert row["split"] in ("train", "val", "test")
        if row["label_kind"] == "none" or row["relabel"]:
            assert row["note"], row["file"]


def test_a_single_networks_shadows_and_faint_clouds_are_not_believed():
    chip = make_chip(kind="net", label=Label.CLOUD_SHADOW)
    chip.label[:32] = Label.CLOUD
    chip.dn[NAMES.index("B02"), :16] = 5000
    label = distrust(chip).label
    assert (label[:16] == Label.CLOUD).all()
    assert (label[16:32] == Label.SEMI_TRANSPARENT).all()
    assert (label[32:] == Label.UNDEFINED).all()
    thin = distrust(make_chip(kind="scl+net", label=Label.SEMI_TRANSPARENT))
    assert (thin.label == Label.UNDEFINED).all()


def test_bolzano_is_read_with_its_offset_and_absent_folders_hold_nothing(tmp_path):
    assert read_bolzano(tmp_path) == []
    assert read_safe_blocks(tmp_path) == []
    date = tmp_path / "2022-06-02"
    stored = np.array([[[0, 900, 1500, 3000]]], np.uint16)
    for name in ("B02", "B03", "B04", "B08"):
        write_raster(date / f"{name}.tif", stored)
    write_raster(date / "label.tif", np.array([[[1, 1, 3, 4]], [[4, 4, 8, 9]]], np.uint8))
    (chip,) = read_bolzano(tmp_path)
    assert chip.dn[1, 0].tolist() == [0, 1, 500, 2000]
    assert chip.label[0].tolist() == [1, 1, 0, 4]
    assert chip.scl[0].tolist() == [4, 4, 8, 9]
    assert chip.bands == ("B02", "B03", "B04", "B08")


# --- mixing and unpacking --------------------------------------------------------------------


def test_chips_unpacked_to_disk_are_the_same_and_are_not_read_twice(tmp_path):
    scl = np.full((64, 64), 8, np.uint8)
    chips = [make_chip("a", seed=1), make_chip("b", seed=2, scl=scl)]
    kept = keep(iter(chips), tmp_path, name="train-all")

    def never():
        raise AssertionError("read again")
        yield

    for again in (kept, keep(never(), tmp_path, name="train-all")):
        for chip, original in zip(again, chips, strict=True):
            assert isinstance(chip.dn, np.memmap)
            np.testing.assert_array_equal(chip.dn, original.dn)
            np.testing.assert_array_equal(chip.label, original.label)
            assert (chip.name, chip.level, chip.kind) == (original.name, "L1C", "clear")
        assert again[0].scl is None
        np.testing.assert_array_equal(again[1].scl, scl)


def test_an_interrupted_unpacking_begins_anew(tmp_path):
    def broken():
        yield make_chip("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(broken(), tmp_path, name="train-all")
    assert len(keep([make_chip("a"), make_chip("b")], tmp_path, name="train-all")) == 2


def test_data_sets_are_mixed_in_groups_of_like_chips_with_their_weights(tmp_path):
    chips = write_chip_folder(tmp_path / "chips")
    (tmp_path / "patches").mkdir()
    write_patches(tmp_path / "patches")
    sources = (
        Source("chips", chips),
        Source("cloudsen12", tmp_path / "patches", weight=2.5, cache=tmp_path / "cache"),
    )
    groups = read_training(Config(sources))
    assert {name: len(found) for name, found in groups.chips.items()} == {
        "0-L1C-clear-10m-13-64x64": 2,
        "1-L1C-human-10m-13-8x8": 1,
    }
    assert list(groups.weights.values()) == [1.0, 2.5]
    assert isinstance(groups.chips["1-L1C-human-10m-13-8x8"][0].dn, np.memmap)
    assert (tmp_path / "cache" / "train-all.json").exists()
    assert len(read_split(sources[0], "val")) == 1


def test_no_chips_at_all_is_an_error(tmp_path):
    folder = write_chip_folder(tmp_path, splits=("val", "val"))
    with pytest.raises(InputError, match="none of train"):
        read_training(Config((Source("chips", folder),)))
