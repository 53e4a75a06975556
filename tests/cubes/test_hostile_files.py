"""Files of pixels that strangers made: other formats, other files' names, lies about sizes."""

import os
import shutil
import struct

import numpy as np
import pytest
import rasterio
from faults.scene import DATES, SIZE, encode, item_id, make_files, make_item
from faults.server import serve
from rasterio.transform import from_origin
from support import file_server
from support.rasters import write_raster
from support.safe_products import EPSG, LEFT, TOP, Recipe, write_jp2, write_safe, zip_safe

from kappamask import load_cube, open_safe
from kappamask.base.errors import InputError, ReadError
from kappamask.cubes.native import check_band
from kappamask.cubes.rasters import Access, FileReader
from kappamask.scenes.formats import open_pixels
from kappamask.scenes.sources import scene_of

BANDS = ["B02", "B03", "B04", "B08"]
ELSEWHERE = 7777  # DN of a file that no product holds
VRT = (
    '<VRTDataset rasterXSize="240" rasterYSize="180"><SRS>EPSG:32632</SRS>'
    "<GeoTransform>600000,10,0,5500020,0,-10</GeoTransform>"
    '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="0">{}</SourceFilename><SourceBand>1</SourceBand>'
    "</SimpleSource></VRTRasterBand></VRTDataset>"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_safe(tmp_path_factory.mktemp("whole"), Recipe())


@pytest.fixture
def product(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / whole.name)


def band(product, name="B02"):
    return next(product.rglob(f"*_{name}.jp2"))


def raster(path, value=ELSEWHERE, shape=(180, 240), **options):
    place = {"crs": EPSG, "transform": from_origin(LEFT, TOP, 10, 10)}
    write_raster(path, np.full((1, *shape), value, np.uint16), **place, **options)
    return path


def read(product):
    return open_safe(product, bands=BANDS).sel(band="B02").values


# --- products -------------------------------------------------------------------------------


def as_vrt(path, folder, _url):
    path.write_text(VRT.format(raster(folder / "elsewhere.tif")))


def as_vrt_of_an_address(path, _folder, url):
    path.write_text(VRT.format(f"/vsicurl/{url}/latest/meta-data"))


def as_pipe(path, _folder, _url):
    path.unlink()
    os.mkfifo(path)


def as_link(path, folder, _url):
    path.unlink()
    path.symlink_to(raster(folder / "elsewhere.tif"))


def as_device(path, _folder, _url):
    path.unlink()
    path.symlink_to("/dev/zero")


def as_other_tiles(path, _folder, _url):
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\x51") + 4 + 2 + 16  # SIZ: rows and columns of a tile
    assert struct.unpack(">2I", content[at : at + 8]) == (240, 64)
    content[at : at + 8] = struct.pack(">2I", 240, 32)
    path.write_bytes(content)


def as_other_levels(path, _folder, _url):
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\x52") + 4 + 5] -= 1  # COD
    path.write_bytes(content)


def cut_short(path, _folder, _url):
    path.write_bytes(path.read_bytes()[:-500])


def without_a_tile(path, _folder, _url):
    content = path.read_bytes()
    first = content.index(b"\xff\x90\x00\x0a")
    second = content.index(b"\xff\x90\x00\x0a", first + 4)
    path.write_bytes(content[:first] + content[second:])


def as_zeros(path, _folder, _url):
    with rasterio.open(path) as source:
        place = source.crs, source.transform
    write_jp2(path, np.zeros((180, 240), np.uint16), *place, block=64)


SPOILED = [
    (as_vrt, "not recognized as being in a supported file format"),
    (as_vrt_of_an_address, "not recognized as being in a supported file format"),
    (as_pipe, "an ordinary file is needed, .* is a pipe"),
    (as_link, "is a link out of it"),
    (as_device, "is a link out of it"),
    (as_other_tiles, r"its header says 6 tiles, 3 follow"),
    (as_other_levels, r"opj_read_header|step sizes"),
    (cut_short, "its pixels end at byte"),
    (without_a_tile, "its pixels end at byte|2 follow"),
    (as_zeros, "B02 of .* has none where all others have"),
]


@pytest.mark.parametrize(("spoil", "told"), SPOILED, ids=[spoil.__name__ for spoil, _ in SPOILED])
@pytest.mark.parametrize("packed", [False, True])
def test_a_band_that_is_none_is_named_and_nothing_else_is_read(
    product, tmp_path, spoil, told, packed
):
    if packed and spoil in (as_pipe, as_link, as_device):
        pytest.skip("archives of today's tools hold neither")
    with file_server.serve(file_server.Files()) as server:
        spoil(band(product), tmp_path, server.url)
        asked = zip_safe(product) if packed else product
        with pytest.raises((ReadError, InputError), match=told) as caught:
            read(asked)
    assert "B02" in str(caught.value)
    assert server.asked == []


def test_what_lies_beside_a_band_is_not_read(product, whole, tmp_path):
    path, expected = band(product), read(whole)
    raster(tmp_path / "x.tif", shape=(90, 120)).rename(path.with_name(f"{path.name}.ovr"))
    raster(tmp_path / "y.tif", 0, dtype="uint8").rename(path.with_name(f"{path.name}.msk"))
    path.with_name(f"{path.name}.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>"
        "<Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>/etc/passwd</MDI></Metadata>"
        "</PAMDataset>"
    )
    np.testing.assert_array_equal(read(product), expected)
    coarse = open_safe(product, bands=BANDS, resolution=20).sel(band="B02").values
    np.testing.assert_array_equal(
        coarse, open_safe(whole, bands=BANDS, resolution=20).sel(band="B02").values
    )


@pytest.mark.parametrize("name", ["a{b}.zip", "a{b.zip", "a}b.zip", "{a}}.zip"])
def test_a_zip_may_have_braces_in_its_name(whole, tmp_path, name):
    packed = zip_safe(shutil.copytree(whole, tmp_path / whole.name)).rename(tmp_path / name)
    np.testing.assert_array_equal(read(packed), read(whole))
    with pytest.raises(InputError, match="come in pairs"):
        read(packed.rename(tmp_path / "a{b.safe"))


@pytest.mark.parametrize("named", ["product", "metadata"])
def test_a_product_that_is_a_pipe_is_not_opened(tmp_path, named):
    path = tmp_path / ("x.zip" if named == "product" else "MTD_MSIL1C.xml")
    os.mkfifo(path)
    with pytest.raises(ReadError, match="is a pipe"):
        open_safe(path)


# --- files of items -------------------------------------------------------------------------


@pytest.fixture
def items(tmp_path):
    for name, content in make_files().items():
        path = tmp_path / name[1:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return [make_item(date, str(tmp_path)) for date in DATES]


def overviews_elsewhere(path):
    place = {"crs": EPSG, "transform": from_origin(680000, 5150000, 10, 10)}
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE, width=SIZE, count=1, dtype="uint16", **place
    ) as target:
        target.write(np.ones((SIZE, SIZE), np.uint16), 1)
        target.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(raster(path.with_suffix(".x"))))


def block_of_everything(path):
    """Flip TileWidth and TileLength to the largest that TIFF takes."""
    content = bytearray(encode(np.ones((SIZE, SIZE), np.uint16)))
    for tag in (322, 323):
        at = content.index(struct.pack("<HHI", tag, 3, 1))
        content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 2**31 - 16)
    path.write_bytes(content)


@pytest.mark.parametrize("engine", ["stackstac", "odc"])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (overviews_elsewhere, "names another one for its overviews"),
        (block_of_everything, "in blocks of 2147483632 x 2147483632"),
        (lambda path: path.write_text(VRT.format(path.with_name("B03.tif"))), "not recognized"),
        (lambda path: path.write_bytes(b""), "not recognized|B02"),
    ],
    ids=["overviews elsewhere", "tiles of 2^31", "VRT", "empty"],
)
def test_a_file_of_an_item_is_looked_at_before_a_pixel_is_read(
    items, tmp_path, engine, spoil, told
):
    spoil(tmp_path / item_id(DATES[0]) / "B02.tif")
    cube = load_cube(items[:1], bands=BANDS, engine=engine)
    with pytest.raises(ReadError, match=told) as caught:
        cube.compute(scheduler="synchronous")
    assert item_id(DATES[0]) in str(caught.value)


@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_a_band_of_zeros_among_others_is_an_error_of_its_item(items, tmp_path, engine):
    path = tmp_path / item_id(DATES[0]) / "B04.tif"
    path.write_bytes(encode(np.zeros((SIZE, SIZE), np.uint16)))
    with pytest.raises(ReadError, match=f"B04 of item {item_id(DATES[0])} has none"):
        load_cube(items[:1], bands=BANDS, engine=engine).compute()
    load_cube(items[:1], bands=["B04"], engine=engine).compute()  # nothing to compare it with


def test_a_pipe_in_the_place_of_a_file_is_not_opened(items, tmp_path):
    path = tmp_path / item_id(DATES[0]) / "B02.tif"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ReadError, match="is a pipe"):
        load_cube(items[:1], bands=["B02"]).compute()
    with pytest.raises(ReadError, match="from files"):
        open_pixels("/vsistdin/")


@pytest.mark.parametrize("engine", ["stackstac", "odc", "product"])
def test_other_pixels_at_the_same_address_are_read_by_the_next_job(engine):
    path = f"/{item_id(DATES[0])}/B02.tif"

    def pixels():
        if engine != "product":
            return load_cube(world.items[:1], bands=["B02"], engine=engine).compute().values
        file = Access.to([scene_of(world.items[0])]).claims
        ((_, found),) = next(claims for href, claims in file.items() if href.endswith(path))
        with FileReader({"B02": found}) as reader:
            return reader.read("B02", slice(0, SIZE), slice(0, SIZE))

    with serve() as world:
        before = pixels()
        world.files[world.place + path] = encode(np.full((SIZE, SIZE), 4321, np.uint16))
        after = pixels()
    assert np.isfinite(before).any()
    assert not np.array_equal(before, after, equal_nan=True)
    assert np.unique(after).size == 1


# --- bands beside one another -----------------------------------------------------------------


def test_only_what_all_others_have_is_lost():
    whole, none = np.ones((600, 600), bool), np.zeros((600, 600), bool)
    begins = np.ones((600, 600), bool)
    begins[:180] = False  # where a scene begins, neighbouring bands end 2 km apart

    def lost(whole=(600, 600), **valid):
        try:
            for name in valid:
                check_band(name, valid, valid.__getitem__, where="x", resolution=10, whole=whole)
        except ReadError:
            return True
        return False

    assert lost(B02=whole, B03=none, B04=whole)
    assert not lost(B02=whole, B03=whole, B04=begins)
    assert not lost(B02=none, B03=none, B04=whole)  # two of three: not known which
    assert not lost(B02=whole, AOT=none)
    assert not lost(B02=none)
    strip = {"B02": whole[:, :60], "B03": none[:, :60], "B04": whole[:, :60]}
    assert lost((600, 60), **strip)
    assert not lost((600, 6000), **strip)  # an edge chunk: as wide as where a scene begins
