"""Profiles against 124 real items, and hand-written ones for what the real ones do not show."""

import json
import re

import pystac
import pytest
from pyproj import CRS
from support.real_items import REFUSED, make_item, readable_items, real_items, refuses

from kappamask.base import bands as band_table
from kappamask.base.errors import InputError, ItemError, UnknownNameError
from kappamask.scenes.catalogs import (
    PROFILES,
    Holding,
    Profile,
    ResolvedAsset,
    get_profile,
    profile_of,
    resolve_assets,
)
from kappamask.scenes.items import view_of

# pystac says this of Earth Search items whose hrefs are https: nothing that is read here.
pytestmark = pytest.mark.filterwarnings("ignore:Could not parse bucket/account:UserWarning")

L1C, L2A = band_table.bands_of_level("L1C"), band_table.bands_of_level("L2A")

# Folder and level of the real items: the profile, how many, how many with offset -1000.
EXPECTED = {
    ("cdse/sentinel-2-l2a", "L2A"): ("copernicus", 6, 6),
    ("earthsearch_v0/sentinel-s2-l2a-cogs", "L2A"): ("earth-search-v0", 2, 0),
    ("earthsearch_v1/sentinel-2-c1-l2a", "L2A"): ("earth-search", 13, 13),
    ("earthsearch_v1/sentinel-2-l1c", "L1C"): ("earth-search", 4, 4),
    ("earthsearch_v1/sentinel-2-l2a", "L2A"): ("earth-search-sentinel-2-l2a", 24, 0),
    ("other/collection", "L2A"): ("earth-search-v0", 1, 0),
    ("other/nocoll", "L1C"): ("earth-search", 3, 0),
    ("other/nocoll", "L2A"): ("earth-search", 6, 4),
    ("other/sentinel-s2-l2a", "L2A"): (None, 7, 6),  # two spellings of asset keys
    ("other/sentinel2-l1c-example", "L1C"): ("earth-search", 1, 0),
    ("other/sentinel2-l2a-example", "L2A"): ("earth-search", 1, 0),
    ("planetary_computer/sentinel-2-l2a", "L2A"): ("planetary-computer", 47, 2),
}


@pytest.fixture(scope="module")
def documents(shared_data):
    return real_items(shared_data / "stac-items")


@pytest.fixture(scope="module")
def readable(shared_data):
    return readable_items(shared_data / "stac-items")


def made_after_the_change(text):
    """Tell from when the product was made whether its DN are raised: an oracle without baselines.

    Baseline 04.00 went live on 2022-01-25; whatever ESA or Planetary Computer made
    later, reprocessed old scenes included, is raised.
    """
    made = re.search(
        r"MSIL(?:1C|2A)_\d{8}T\d{6}_(?:N\d{4}_)?R\d{3}_T\w{5}_(\d{8}T\d{6})", text
    ) or re.search(r"_MSI_L(?:1C|2A)_TL_\w{4}_(\d{8}T\d{6})", text)
    return made.group(1) > "20220125T000000"


@pytest.mark.shared
def test_there_are_124_real_documents_and_each_is_expected(documents, readable):
    assert len(documents) == 124
    assert len(readable) == 115 == sum(number for _, number, _ in EXPECTED.values())
    assert sum(number for number, _ in REFUSED.values()) == 9


@pytest.mark.shared
@pytest.mark.parametrize("form", ["dict", "pystac"])
@pytest.mark.parametrize(("folder", "level"), list(EXPECTED))
def test_real_items_resolve_to_the_right_files_and_offsets(
    readable, folder, level, form, monkeypatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")  # else their https alternates are taken
    expected_profile, number, raised = EXPECTED[folder, level]
    offsets = []
    for path, (where, document) in readable.items():
        if where != folder or view_of(document).level != level:
            continue
        item = document if form == "dict" else pystac.Item.from_dict(document)
        assert expected_profile in (None, profile_of(item).name), path
        assets = resolve_assets(item)
        assert tuple(assets) == (L1C if level == "L1C" else L2A), path
        for band, asset in assets.items():
            file_name = asset.href.rsplit("/", 1)[1] if "/" in asset.href else asset.href
            assert re.findall(r"B\d[\dA]", file_name) == [band], path
            assert asset.gsd == band_table.get_band(band).gsd, path
            assert asset.scale == 1e-4
            assert asset.nodata == 0
            for resolution in re.findall(r"(?:/R|_)([126]0)m(?=[/.])", asset.href):
                assert asset.gsd == float(resolution), path
        told = {asset.dn_offset for asset in assets.values()}
        text = json.dumps(document)
        if '"earthsearch:boa_offset_applied": true' in text:
            assert told == {0}, path
        elif folder != "earthsearch_v0/sentinel-s2-l2a-cogs":
            assert told == {-1000 if made_after_the_change(text) else 0}, path
        offsets += told
    assert (len(offsets), offsets.count(-1000)) == (number, raised)


@pytest.mark.shared
def test_auxiliary_layers_of_real_items_take_no_offset(readable, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    number = 0
    for path, (_, document) in readable.items():
        if view_of(document).level == "L2A":
            assets = resolve_assets(document, ["WVP", "B04", "AOT"])
            assert list(assets) == ["B04", "AOT", "WVP"]
            for name in ("AOT", "WVP"):
                assert name in assets[name].href.rsplit("/", 1)[-1], path
                assert (assets[name].dn_offset, assets[name].scale) == (0, 1e-3), path
            number += 1
        else:
            with pytest.raises(ItemError, match=rf"{document['id']}.*no asset for AOT.*red"):
                resolve_assets(document, ["AOT"])
    assert number == 107


@pytest.mark.shared
def test_real_documents_that_are_no_sentinel_2_item_are_refused_by_name(documents):
    refused = dict.fromkeys(REFUSED, 0)
    named = 0
    for path, (folder, text) in documents.items():
        if refuses(folder, path):
            with pytest.raises(ItemError, match=REFUSED[folder][1]) as error:
                resolve_assets(json.loads(text))
            refused[folder] += 1
            named += path.rsplit("__", 1)[-1].removesuffix(".json") in str(error.value)
    assert refused == {folder: number for folder, (number, _) in REFUSED.items()}
    assert named == 3  # the other four Zarr structures do not say whose they are


@pytest.mark.shared
def test_an_items_own_scale_and_offset_are_not_believed(readable):
    """Earth Search says `boa_offset_applied` and still lists offset -0.1: 16 real items."""
    believed = wrong = 0
    for _, document in readable.values():
        asset = document["assets"].get("red") or {}
        stated = (asset.get("raster:bands") or [{}])[0].get("offset")
        if stated is not None:
            resolved = resolve_assets(document, ["B04"])["B04"].dn_offset
            believed += stated * 10000 == resolved
            wrong += stated * 10000 != resolved
    assert (believed, wrong) == (42, 16)


# --- hand-written items ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("baseline", "offset"),
    [
        ("02.04", 0),
        ("03.01", 0),
        ("04.00", -1000),
        ("05.11", -1000),
        ("0510", -1000),
        ("4.00", -1000),
        ("10.00", -1000),
    ],
)
@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize(
    "name",
    ["s2:processing_baseline", "processing:version", "sentinel:processing_baseline"],
)
def test_the_baseline_decides_the_offset_of_both_levels(name, level, baseline, offset):
    item = make_item(**{name: baseline, "s2:product_type": f"S2MSI{level[1:]}"})
    assert resolve_assets(item)["B04"].dn_offset == offset


@pytest.mark.parametrize("name", ["earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"])
def test_an_offset_that_the_publisher_subtracted_is_not_subtracted_again(name):
    item = make_item(**{name: True, "s2:processing_baseline": "05.09"})
    assert resolve_assets(item)["B04"].dn_offset == 0
    old = make_item(**{name: False, "s2:processing_baseline": "02.14"})
    assert resolve_assets(old)["B04"].dn_offset == 0


def test_a_false_flag_at_a_new_baseline_is_not_guessed_about():
    # Element84/earth-search issues 66 and 71: some of these pixels are shifted, some are not.
    item = make_item(
        **{"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.11"},
        id="S2B_33UXP_20250302_0_L2A",
    )
    with pytest.raises(
        ItemError, match=r"S2B_33UXP_20250302_0_L2A.*wrong on some.*dn_offset=-1000"
    ):
        resolve_assets(item)
    assert resolve_assets(item, dn_offset=0)["B04"].dn_offset == 0
    assert resolve_assets(item, dn_offset=-1000)["B04"].dn_offset == -1000


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"s2:processing_baseline": "99.99"},
        {"processing:version": "v2"},
        {"processing:version": ""},
    ],
)
def test_an_unknown_baseline_stops_and_says_how_to_go_on(properties):
    item = make_item(**properties)
    with pytest.raises(
        ItemError, match=r"S2A_T32TPS_20230611T101601_L2A.*baseline is unknown.*dn_offset=0"
    ):
        resolve_assets(item)
    assert resolve_assets(item, dn_offset=-1000)["B02"].dn_offset == -1000
    item["assets"]["wvp"] = {"href": "wvp.tif"}
    assert resolve_assets(item, ["WVP"])["WVP"].dn_offset == 0  # needs no baseline


@pytest.mark.parametrize("offset", [1000, -0.1, 0.0, "0", True, -20000])
def test_an_offset_that_is_none_is_refused(offset):
    with pytest.raises(InputError, match=r"0 or -1000, got"):
        resolve_assets(make_item(), dn_offset=offset)


def test_an_asset_checks_itself():
    good = {
        "band": "AOT",
        "key": "aot",
        "href": "a.tif",
        "dn_offset": 0,
        "scale": 1e-3,
        "gsd": 10.0,
    }
    assert ResolvedAsset(**good).nodata == 0
    with pytest.raises(InputError, match=r"AOT takes no offset"):
        ResolvedAsset(**good | {"dn_offset": -1000})
    with pytest.raises(UnknownNameError, match=r"B99"):
        ResolvedAsset(**good | {"band": "B99"})
    for wrong in ({"href": ""}, {"scale": 0}, {"gsd": -10.0}):
        with pytest.raises(InputError, match=r"href, a scale and a gsd"):
            ResolvedAsset(**good | wrong)


def test_a_band_that_an_item_lacks_is_named_with_what_it_has():
    item = make_item(**{"s2:processing_baseline": "05.09"})
    with pytest.raises(
        ItemError, match=r"item S2A_T32TPS.*no asset for B08, B11.*'earth-search', got red, blue"
    ):
        resolve_assets(item, ["B11", "B04", "B08"][::-1])
    with pytest.raises(UnknownNameError, match=r"unknown band 'nir'"):
        resolve_assets(item, ["nir"])
    item["assets"]["red"]["href"] = ""
    with pytest.raises(ItemError, match=r"asset 'red' has no href"):
        resolve_assets(item)


def test_bands_come_in_the_order_of_the_table():
    keys = ["swir22", "blue", "nir08", "red", "coastal"]
    item = make_item(keys, **{"s2:processing_baseline": "05.09"})
    assert list(resolve_assets(item)) == ["B01", "B02", "B04", "B8A", "B12"]
    assert list(resolve_assets(item, ["B12", "B02"])) == ["B02", "B12"]


def test_the_native_resolution_is_preferred_at_copernicus():
    keys = ["B02_20m", "B02_60m", "B02_10m", "B01_20m", "B01_60m", "B8A_60m"]
    assets = resolve_assets(make_item(keys, **{"processing:version": "05.11"}))
    assert {a.key: a.gsd for a in assets.values()} == {
        "B01_60m": 60.0, "B02_10m": 10.0, "B8A_60m": 60.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "collection", "level", "profile"),
    [
        (["blue", "red"], None, "L2A", "earth-search"),
        (["blue", "red"], "my-scenes", "L2A", "earth-search"),
        (["blue", "red"], "sentinel-2-l2a", "L2A", "earth-search-sentinel-2-l2a"),
        (["blue", "red", "cirrus"], "sentinel-2-l1c", "L1C", "earth-search"),
        (["B02_10m", "B04_10m"], "my-scenes", "L2A", "copernicus"),
        (["B02", "B04"], "sentinel-2-l2a", "L2A", "planetary-computer"),
        (["B02", "B04"], "sentinel-2-l1c", "L1C", "copernicus"),
        (["B02", "B04"], "my-scenes", "L1C", "copernicus"),
    ],
)
def test_asset_keys_and_collection_tell_the_profile(keys, collection, level, profile):
    item = make_item(keys, collection=collection, **{"s2:product_type": f"S2MSI{level[1:]}"})
    assert profile_of(item).name == profile


def test_a_profile_of_ones_own_reads_any_keys():
    mine = Profile("mine", "https://stac.example", {"L2A": Holding(("s2",), {"B04": ("rot",)})})
    item = make_item(["rot"], **{"s2:processing_baseline": "05.09"})
    assert resolve_assets(item, profile=mine)["B04"].key == "rot"
    with pytest.raises(ItemError, match=r"no asset has a key.*got rot: pass profile="):
        resolve_assets(item)
    with pytest.raises(ItemError, match=r"is L1C, which profile 'mine' does not hold"):
        resolve_assets(make_item(["rot"], id="S2A_x_L1C"), profile=mine)
    with pytest.raises(InputError, match=r"level must be L1C or L2A, got 'L3'"):
        Profile("wrong", "", {"L3": Holding((), {})})
    with pytest.raises(UnknownNameError, match=r"B99"):
        Profile("wrong", "", {"L2A": Holding((), {"B99": ("x",)})})


def test_profiles_are_looked_up_by_name():
    assert get_profile("copernicus") is PROFILES["copernicus"]
    with pytest.raises(UnknownNameError, match=r"unknown catalogue 'landsat'.*earth-search, "):
        get_profile("landsat")


# --- addresses --------------------------------------------------------------------------------


KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_NO_SIGN_REQUEST",
    "AWS_ROLE_ARN",
)


@pytest.mark.parametrize("key", [None, *KEYS])
def test_the_https_alternate_is_taken_where_there_are_no_keys(monkeypatch, tmp_path, key):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    if key:
        monkeypatch.setenv(key, "YES")
    item = make_item(**{"s2:processing_baseline": "05.09"})
    item["assets"]["red"] |= {
        "href": "s3://bucket/B04.jp2",
        "alternate": {"s3": {"href": "s3://other/B04.jp2"}, "https": {"href": "https://host/B04"}},
    }
    href = resolve_assets(item, ["B04"])["B04"].href
    assert href == ("s3://bucket/B04.jp2" if key else "https://host/B04")


def test_a_crs_that_is_written_out_has_its_code():
    item = make_item()
    item["properties"] |= {"proj:wkt2": CRS.from_epsg(32632).to_wkt()}
    assert view_of(item).place("red") == {"epsg": 32632}
    assert view_of(item | {"properties": {"proj:wkt2": "no"}}).place("red") == {"epsg": None}


def test_arrays_of_a_store_are_assets_whose_offset_is_their_own():
    item = make_item()
    item["assets"] = {
        f"{band}_{gsd}m": {"href": f"https://host/S2A.zarr/measurements/reflectance/r{gsd}m/{band}"}
        for band, gsd in (("b02", 10), ("B02", 20), ("B05", 20))
    }
    item["assets"]["B02_10m"] = item["assets"].pop("b02_10m")
    files = resolve_assets(item)
    assert [(file.key, file.gsd, file.dn_offset) for file in files.values()] == [
        ("B02_10m", 10, -1000),
        ("B05_20m", 20, -1000),
    ]
