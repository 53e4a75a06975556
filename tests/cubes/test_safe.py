"""SAFE products: both formats, folder and zip, offsets, areas, damage; rasterio is the oracle."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import shapely
from support import safe_products
from support.safe_products import (
    EPSG,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Recipe,
    degrees,
    write_safe,
    zip_safe,
)

import kappamask.cubes.native
from kappamask import load_cube, open_safe
from kappamask.base.bands import BY_NAME, bands_of_level
from kappamask.base.errors import InputError, ItemError, NoItemsError, ReadError
from kappamask.cubes.rasters import FileReader
from kappamask.jobs import mask_product
from kappamask.scenes.safe_metadata import parse_product, parse_tile

OFFSETS = {"02.05": None, "04.00": -1000, "05.10": -1000}
EAST = {"32UPV": (EPSG, LEFT, TOP), "32UQV": (EPSG, LEFT + 10 * WIDTH - 600, TOP)}  # 600 m overlap


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """Write a product once for all tests that leave it as it is."""
    made = {}

    def make(recipe):
        key = repr(recipe)
        if key not in made:
            made[key] = write_safe(tmp_path_factory.mktemp("safe"), recipe)
        return made[key]

    return make


def read_by_hand(path, *, offset, factor=1, scale=1e-4):
    """What a file means at 10 m: rasterio reads it, numpy repeats it."""
    with rasterio.open(path) as raster:
        dn = raster.read(1)
    dn = np.repeat(np.repeat(dn, factor, axis=0), factor, axis=1)
    return np.where(dn == 0, np.nan, (dn.astype(np.float64) + offset) * scale)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_every_format_gives_what_rasterio_reads(product, level, old, packed):
    offset = -1000
    recipe = Recipe(level=level, old=old, baseline="04.00", offset=offset)
    folder = product(recipe)
    cube = open_safe(zip_safe(folder) if packed else folder)
    assert cube.dims == ("time", "band", "y", "x")
    assert cube.dtype == np.float32
    assert cube.attrs["level"] == level
    assert cube.rio.crs.to_epsg() == EPSG
    assert tuple(cube.band.values) == bands_of_level(level)
    assert cube.rio.bounds() == (LEFT, TOP - 10 * HEIGHT, LEFT + 10 * WIDTH, TOP)
    pixels = cube.compute()
    for name in cube.band.values:
        gsd = BY_NAME[name].gsd
        suffix = f"_{gsd}m" if level == "L2A" else ""
        (path,) = folder.glob(f"GRANULE/*/IMG_DATA/**/*_{name}{suffix}.jp2")
        wanted = read_by_hand(path, offset=offset, factor=gsd // 10)
        np.testing.assert_allclose(pixels.sel(band=name)[0], wanted, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_one_scene_stored_at_two_baselines_gives_identical_cubes(product, level):
    cubes = [
        open_safe(product(Recipe(level=level, baseline=baseline, offset=offset))).compute()
        for baseline, offset in OFFSETS.items()
    ]
    assert np.isfinite(cubes[0]).any()
    for cube in cubes[1:]:
        np.testing.assert_array_equal(cubes[0].values, cube.values)


def test_metadata_of_the_product_come_along(product):
    cube = open_safe(product(Recipe(unit="D")))
    assert cube.time.values[0] == np.datetime64("2017-04-30T10:30:21.026")
    assert cube.attrs["platform"] == "sentinel-2d"
    assert cube.attrs["processing_baseline"] == "02.05"
    assert cube.tile.item() == "32UPV"
    assert cube.source_items.item() == Recipe(unit="D").name
    sun = cube.sun_zenith.item(), cube.sun_elevation.item(), cube.sun_azimuth.item()
    assert sun == pytest.approx((35.5, 54.5, 165.25))
    outline = shapely.from_wkt(cube.attrs["footprint"])
    assert outline.bounds == (10.38, 49.62, 10.42, 49.64)  # degrees, longitude first


@pytest.mark.parametrize("bands", [["B04", "B8A", "B01"], ["AOT", "B02"]])
def test_bands_come_in_the_order_asked_for(product, bands):
    cube = open_safe(product(Recipe(level="L2A", offset=-1000, baseline="04.00")), bands=bands)
    assert list(cube.band.values) == bands
    if "AOT" in bands:  # neither offset nor the scale of reflectance
        dn = safe_products.make_dn(Recipe(), "32UPV", "AOT", 10)
        wanted = np.where(dn == 0, np.nan, dn / 1000)
        np.testing.assert_allclose(cube.sel(band="AOT")[0], wanted, rtol=1e-6)


# --- other resolutions, other readers -------------------------------------------------------


def as_item(folder, level="L1C"):
    """The product's own JP2 files as an item of a catalogue."""
    assets = {}
    for path in sorted(folder.glob("GRANULE/*/IMG_DATA/*.jp2")):
        with rasterio.open(path) as raster:
            assets[path.stem[-3:]] = {
                "href": str(path),
                "proj:transform": list(raster.transform[:6]),
                "proj:shape": list(raster.shape),
            }
    outline = degrees(LEFT, TOP - 10 * HEIGHT, LEFT + 10 * WIDTH, TOP)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": folder.stem,
        "geometry": shapely.geometry.mapping(outline),
        "bbox": outline.bounds,
        "links": [],
        "properties": {
            "datetime": "2017-04-30T10:30:21.026Z",
            "proj:epsg": EPSG,
            "s2:product_type": f"S2MSI{level[1:]}",
            "s2:processing_baseline": "02.05",
        },
        "assets": assets,
    }


@pytest.mark.parametrize("resolution", [10, 20, 60])
def test_load_cube_gives_the_same_cube(product, resolution):
    folder = product(Recipe())
    area = degrees(LEFT + 330, TOP - 1410, LEFT + 1270, TOP - 90)  # begins inside coarse pixels
    own = open_safe(folder, resolution=resolution, area=area).compute()
    other = load_cube([as_item(folder)], area, resolution=resolution).compute()
    np.testing.assert_array_equal(own.x, other.x)
    np.testing.assert_array_equal(own.y, other.y)
    fine = [name for name in own.band.values if BY_NAME[name].gsd >= resolution]
    np.testing.assert_array_equal(own.sel(band=fine).values, other.sel(band=fine).values)
    # GDAL's mean rounds some ties the other way
    np.testing.assert_allclose(own.values, other.values, atol=1.01e-4, rtol=0)
    assert (own.fillna(0).values == other.fillna(0).values).mean() > 0.99


def test_coarser_than_the_sensor_is_the_products_own_file_or_the_mean(product):
    l2a = open_safe(product(Recipe(level="L2A")), resolution=60, bands=["B02", "B08"])
    dn = safe_products.make_dn(Recipe(level="L2A"), "32UPV", "B02", 60)
    np.testing.assert_allclose(l2a.sel(band="B02")[0], np.where(dn == 0, np.nan, dn / 1e4))
    dn = safe_products.make_dn(Recipe(level="L2A"), "32UPV", "B08", 10).astype(float)
    wanted = dn
    for side in (2, 3):  # halved first, as a level of the file would be, then by three
        height, width = (size // side for size in wanted.shape)
        blocks = np.where(wanted == 0, np.nan, wanted).reshape(height, side, width, side)
        counts = np.isfinite(blocks).sum((1, 3))
        wanted = np.floor(np.nansum(blocks, (1, 3)) / np.maximum(counts, 1) + 0.5)
    np.testing.assert_allclose(
        l2a.sel(band="B08")[0], np.where(counts == 0, np.nan, wanted / 1e4), rtol=1e-6
    )


def test_a_product_of_60_m_files_opens_at_60_m(product):
    folder = product(Recipe(level="L2A", gsds=(60,)))
    cube = open_safe(folder, resolution=60)
    assert "B08" not in cube.band.values  # it has no file at 60 m
    assert cube.sizes["y"] == HEIGHT // 6
    with pytest.raises(InputError, match=r"B02, .* only at 60 m.*pass resolution=60"):
        open_safe(folder)


# --- areas ----------------------------------------------------------------------------------


def test_an_area_is_that_part_of_the_product(product):
    folder = product(Recipe())
    area = degrees(LEFT + 330, TOP - 1410, LEFT + 1270, TOP - 90)
    part, whole = open_safe(folder, area=area), open_safe(folder)
    assert part.rio.bounds() == (LEFT + 330, TOP - 1410, LEFT + 1270, TOP - 90)
    np.testing.assert_array_equal(part.values, whole.sel(x=part.x, y=part.y).values)


def test_an_area_beyond_the_product_is_cut_at_its_edge(product):
    area = degrees(LEFT - 5000, TOP - 400, LEFT + 500, TOP + 5000)
    cube = open_safe(product(Recipe()), area=area)
    assert cube.rio.bounds() == (LEFT, TOP - 400, LEFT + 500, TOP)


@pytest.mark.parametrize("margin", [0, 12])
def test_an_area_reads_only_that_area_and_its_margin(product, monkeypatch, margin):
    read = []

    class SpyReader(FileReader):
        def read(self, band, rows, columns):
            read.append((BY_NAME[band].gsd, rows, columns))
            return super().read(band, rows, columns)

    monkeypatch.setattr(kappamask.cubes.native, "FileReader", SpyReader)
    area = degrees(LEFT + 600, TOP - 1200, LEFT + 1200, TOP - 600)
    cube = open_safe(product(Recipe()), area=area, margin=margin)
    assert not read  # lazy
    assert cube.shape[2:] == (60, 60)
    cube.sel(band=["B02", "B05", "B09"]).compute()
    low, high = 600 - 10 * margin, 1200 + 10 * margin
    spans = {gsd: slice(low // gsd, high // gsd) for gsd in (10, 20, 60)}
    own = [(gsd, span, span) for gsd, span in spans.items()]
    assert [entry for entry in own if entry not in read] == []
    assert [entry for entry in read if entry not in own] == []  # others: to see what is lost


@pytest.mark.parametrize("chunks", [64, 100, 1536])
def test_chunks_do_not_change_pixels(product, chunks):
    folder = product(Recipe())
    cube = open_safe(folder, chunks=chunks)
    np.testing.assert_array_equal(cube.values, open_safe(folder).values)
    assert max(cube.chunks[2]) <= max(chunks, HEIGHT)


def test_an_area_elsewhere_names_both(product):
    with pytest.raises(NoItemsError, match="32UPV"):
        open_safe(product(Recipe()), area=(26.5, 58.3, 26.8, 58.4))


# --- several granules -----------------------------------------------------------------------


def test_granules_of_one_zone_are_joined_and_the_first_with_data_wins(product):
    recipe = Recipe(old=True, tiles=EAST)
    cube = open_safe(product(recipe), bands=["B02"])
    assert cube.tile.item() == "32UPV 32UQV"
    assert cube.sizes["x"] == 2 * WIDTH - 60
    west, east = (safe_products.make_dn(recipe, tile, "B02", 10) / 1e4 for tile in EAST)
    wanted = np.zeros((HEIGHT, 2 * WIDTH - 60))
    wanted[:, -WIDTH:] = east
    wanted[:, :WIDTH] = np.where(west == 0, wanted[:, :WIDTH], west)
    np.testing.assert_allclose(cube.fillna(0)[0, 0], wanted, rtol=1e-6)


def test_a_tile_is_chosen_by_name_or_by_area(product):
    recipe = Recipe(old=True, tiles=EAST)
    folder = product(recipe)
    east = open_safe(folder, tile="T32UQV", bands=["B02"])
    assert east.source_items.item().endswith("_T32UQV_N02.05")  # the granule's own id
    np.testing.assert_allclose(
        east.fillna(0)[0, 0], safe_products.make_dn(recipe, "32UQV", "B02", 10) / 1e4, rtol=1e-6
    )
    area = degrees(LEFT + 100, TOP - 500, LEFT + 400, TOP - 100)
    assert open_safe(folder, area=area).tile.item() == "32UPV"
    with pytest.raises(InputError, match="holds the tiles 32UPV, 32UQV, got tile='31TCJ'"):
        open_safe(folder, tile="31TCJ")


def test_granules_of_two_zones_ask_for_one(product):
    tiles = {"32UPV": (EPSG, LEFT, TOP), "33UUQ": (32633, 300000, TOP)}
    folder = product(Recipe(old=True, tiles=tiles))
    with pytest.raises(InputError, match=r"33UUQ \(EPSG:32633\): pass tile='32UPV'"):
        open_safe(folder)
    assert open_safe(folder, tile="33UUQ").rio.crs.to_epsg() == 32633


# --- real products --------------------------------------------------------------------------


@pytest.mark.shared
def test_a_real_l1c_product(shared_data):
    (folder,) = shared_data.glob("safe/S2A_MSIL1C_*.SAFE")
    cube = open_safe(folder)
    assert cube.shape == (1, 13, 10980, 10980)
    assert cube.attrs["processing_baseline"] == "02.05"
    window = cube[0, :, 603:903, 600:720].sel(band=["B03", "B11", "B10"]).compute()
    assert 0.1 < np.isfinite(window).mean() < 1
    for name in window.band.values:
        gsd = BY_NAME[name].gsd
        path = next(folder.glob(f"GRANULE/*/IMG_DATA/*_{name}.jp2"))
        with rasterio.open(path) as raster:
            dn = raster.read(1, window=((6000 // gsd, 9600 // gsd), (6000 // gsd, 7200 // gsd)))
        dn = np.repeat(np.repeat(dn, gsd // 10, 0), gsd // 10, 1)
        wanted = np.where(dn == 0, np.nan, dn / 1e4)[3:303, :120]
        np.testing.assert_allclose(window.sel(band=name), wanted, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_l2a_product_of_60_m_files(shared_data):
    (folder,) = shared_data.glob("safe/S2A_MSIL2A_*.SAFE")
    cube = open_safe(folder, resolution=60)
    assert cube.shape == (1, 11, 1830, 1830)
    part = cube[0, :, 900:960, 700:800].sel(band=["B02", "B12"])
    for name in part.band.values:
        (path,) = folder.glob(f"GRANULE/*/IMG_DATA/R60m/*_{name}_60m.jp2")
        with rasterio.open(path) as raster:
            dn = raster.read(1, window=((900, 960), (700, 800))).astype(float)
        np.testing.assert_allclose(part.sel(band=name), (dn - 1000) / 1e4, rtol=1e-5)
    with pytest.raises(InputError, match="pass resolution=60"):
        open_safe(folder)


# --- bad input ------------------------------------------------------------------------------


def metadata_of(folder):
    return next(folder.glob("*MTD_*.xml"))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def image(folder, band):
    return next(folder.glob(f"GRANULE/*/IMG_DATA/*_{band}.jp2"))


def entities(folder):
    text = metadata_of(folder).read_text()
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]>'
    metadata_of(folder).write_text(text.replace("<n1:Level", f"{bomb}<n1:Level", 1))


NESTED = [f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 10)]
BOMB = f"<!DOCTYPE x [<!ENTITY e0 'aaaaaaaaaa'>{''.join(NESTED)}]>"  # e9: 10 GB of a


@pytest.mark.parametrize(
    ("doctype", "entity"),
    [
        (BOMB, "&e9;"),
        ("<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/hostname'>]>", "&e;"),
        ("<!DOCTYPE x [<!ENTITY e SYSTEM 'http://127.0.0.1:9/x'>]>", "&e;"),
        ("<!DOCTYPE x SYSTEM 'http://127.0.0.1:9/x.dtd'>", ""),
        ("<!DOCTYPE x [<!ENTITY % p SYSTEM 'http://127.0.0.1:9/x.dtd'> %p;]>", ""),
    ],
)
def test_xml_with_entities_is_refused_before_any_is_looked_up(doctype, entity, monkeypatch):
    """Bombs, files of this machine, addresses."""
    opened = []
    monkeypatch.setattr("socket.socket.connect", lambda *where: opened.append(where))
    content = f"<?xml version='1.0'?>{doctype}<x><PRODUCT_URI>{entity}</PRODUCT_URI></x>".encode()
    for parse in (parse_product, parse_tile):
        with pytest.raises(ReadError, match="without document type and entities"):
            parse(content, where="MTD_MSIL1C.xml")
    assert opened == []


def edited(*changes):
    """Damage the product's own metadata: each text of a pair becomes the other one."""
    return lambda folder: [edit(metadata_of(folder), *pair) for pair in changes]


def nameless(folder):
    """Leave nothing that tells the baseline."""
    edited((">02.05<", ">99.99<"), (f"{folder.stem}.SAFE", "mine.SAFE"))(folder)


LEVEL = "<PROCESSING_LEVEL>Level-1"
DAMAGE = {
    "no metadata": (lambda f: metadata_of(f).unlink(), InputError, "holds MTD_MSIL1C.xml or"),
    "no XML": (lambda f: metadata_of(f).write_text("{}"), ReadError, "must be XML"),
    "entities": (entities, ReadError, "without document type and entities"),
    "no granule": (
        lambda f: next(f.glob("GRANULE/*/MTD_TL.xml")).unlink(), ReadError, "must hold granules",
    ),
    "no band file": (lambda f: image(f, "B05").unlink(), ReadError, "T32UPV_20170430T103021_B05"),
    "another level": (edited((f"{LEVEL}C", f"{LEVEL}B")), ItemError, "got Level-1B"),
    "unknown baseline": (nameless, ItemError, "baseline is unknown.*pass dn_offset"),
    "no offsets at 04.00": (
        edited((">02.05<", ">04.00<")), ItemError, "got none of B01 at baseline 04.00",
    ),
    "no number": (
        edited((">10000<", ">ten<")), ItemError, "QUANTIFICATION_VALUE is a number, got 'ten'",
    ),
    "no time": (
        edited(("2017-04-30T10:30:21.026Z", "noon")), ItemError, "is a time, got 'noon'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_bad_product_says_what_and_where(tmp_path, case):
    damage, error, message = DAMAGE[case]
    folder = write_safe(tmp_path, Recipe(shape=(60, 60)))
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        open_safe(folder)
    assert folder.stem in str(caught.value) or "item mine" in str(caught.value)


def test_the_offset_can_be_given_where_the_metadata_do_not_tell(tmp_path):
    folder = write_safe(tmp_path, Recipe(shape=(60, 60)))
    plain = open_safe(folder).compute()
    nameless(folder)
    np.testing.assert_array_equal(open_safe(folder, dn_offset=0).values, plain.values)
    np.testing.assert_allclose(open_safe(folder, dn_offset=-1000), plain - 0.1, atol=1e-6)


def test_bands_that_are_absent_can_be_left_out(tmp_path):
    folder = write_safe(tmp_path, Recipe(shape=(60, 60)))
    image(folder, "B05").unlink()
    assert open_safe(folder, bands=["B02", "B03"]).shape[1] == 2
    with pytest.raises(ReadError, match="bands="):
        open_safe(folder, bands=["B05"])


def test_a_granule_that_is_absent_is_named(tmp_path):
    folder = write_safe(tmp_path, Recipe(old=True, tiles=EAST, shape=(60, 60)))
    for path in sorted(folder.glob("GRANULE/*UQV*/**/*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(ReadError, match=r"tiles 32UQV, which are not there.*tile='32UPV'"):
        open_safe(folder)
    assert open_safe(folder, tile="32UPV").tile.item() == "32UPV"


def test_a_jp2_of_another_size_is_refused(tmp_path):
    folder = write_safe(tmp_path, Recipe(shape=(60, 60)))
    image(folder, "B05").replace(image(folder, "B08"))
    (folder / "unused").touch()
    with pytest.raises(ReadError, match="must hold 60 x 60 pixels"):
        open_safe(folder, bands=["B08"]).compute()


@pytest.mark.parametrize("name", ["../x.xml", "/etc/x.xml", "a/../../x.xml", "C:/x.xml"])
def test_a_zip_whose_names_leave_it_is_refused(tmp_path, name):
    packed = zip_safe(write_safe(tmp_path, Recipe(shape=(60, 60))))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(InputError, match="names in a zip archive stay below its root"):
        open_safe(packed)


def test_a_zip_cut_short_and_other_files_are_refused(tmp_path):
    packed = zip_safe(write_safe(tmp_path, Recipe(shape=(60, 60))))
    packed.write_bytes(packed.read_bytes()[:1000])
    with pytest.raises(ReadError, match="no whole zip archive"):
        open_safe(packed)
    other = tmp_path / "notes.txt"
    other.write_text("no product")
    with pytest.raises(InputError, match="no SAFE product"):
        open_safe(other)
    with pytest.raises(ReadError, match=r"no SAFE product at .*gone\.SAFE"):
        open_safe(tmp_path / "gone.SAFE")


def test_the_folder_above_is_pointed_at_the_product(tmp_path):
    folder = write_safe(tmp_path, Recipe(shape=(60, 60)))
    assert open_safe(metadata_of(folder)).attrs["product"] == folder.stem
    with pytest.raises(InputError, match=f"give .*{folder.name}"):
        open_safe(tmp_path)
    with pytest.raises(InputError, match=f"give .*{folder.name}"):
        mask_product(tmp_path, tmp_path / "masks")  # not one of several
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 30}, "10, 20 or 60 m"),
        ({"bands": ["B02", "B02"]}, "stand once"),
        ({"bands": ["AOT"]}, "does not exist at level L1C"),
        ({"chunks": 0}, "chunks is pixels per side"),
    ],
)
def test_bad_arguments_get_one_clear_error(product, change, message):
    with pytest.raises(InputError, match=message):
        open_safe(product(Recipe()), **change)


def test_recipes_differ():
    """The products above are what their names say: a guard of the tests themselves."""
    one, other = Recipe(), replace(Recipe(), seed=1)
    assert (
        safe_products.make_dn(one, "32UPV", "B02", 10)
        != safe_products.make_dn(other, "32UPV", "B02", 10)
    ).any()
