"""`kappamask.scenes.sources`: which items made a date."""

import json

import numpy as np
import pytest
from shapely.geometry import box, mapping
from support.labels import SOURCE, derived_from, make_item, make_labels, random_codes
from support.real_items import make_item as make_asset_item

from kappamask import load_cube, search
from kappamask.base.errors import InputError, ItemError
from kappamask.jobs import MaskOptions, mask_items
from kappamask.outputs.masks import write_mask
from kappamask.sample import AREA_L2A, catalog_path
from kappamask.scenes import items
from kappamask.scenes.sources import read_scenes, scene_of, source_of

# --- sources --------------------------------------------------------------------------------


def test_ids_on_the_labels_say_which_items_made_a_date(tmp_path):
    given = [
        make_item("S2A_32TPS_20220602_0_L2A", "2022-06-02T10:15:59Z"),
        make_item("S2A_32TPT_20220602_0_L2A", "2022-06-02T10:15:45Z"),
        make_item("S2B_32TPS_20220607_0_L2A", "2022-06-07T10:15:59Z"),
    ]
    first, second, third = (item["id"] for item in given)
    labels = make_labels(random_codes((2, 9, 9))).assign_coords(
        source_items=("time", [f"{first} {second}", third])
    )
    pair, single = write_mask(labels, tmp_path, source_items=given)
    assert derived_from(pair) == [f"https://stac.example/items/{name}" for name in (first, second)]
    assert derived_from(single) == [f"https://stac.example/items/{third}"]
    # A tile stands in the name only where it is the only one.
    assert pair.name.startswith("kappamask_20220602T101559_L2A_10m_")
    assert single.name.startswith("kappamask_20220607T101559_T32TPS_L2A_10m_")
    # Without the items their ids still say where a mask is from.
    (one,) = write_mask(labels.isel(time=1), tmp_path)
    assert one == single
    assert derived_from(one) == [third]


def test_without_ids_an_item_belongs_to_its_solar_day(tmp_path):
    # At 179 degrees east the solar day begins at noon UTC.
    labels = make_labels(
        random_codes((2, 9, 9)), crs="EPSG:32760", corner=(6e5, 5e6), first="2022-06-02T22:10"
    )
    given = [
        make_item("same-solar-day", "2022-06-03T00:05:00Z"),
        make_item("next", "2022-06-07T22:10:10Z"),
        make_item("not-used", "2022-06-03T13:00:00Z"),
    ]
    first, second = write_mask(labels, tmp_path, source_items=given)
    assert derived_from(first) == ["https://stac.example/items/same-solar-day"]
    assert derived_from(second) == ["https://stac.example/items/next"]


def test_two_sensing_times_of_one_day_each_keep_their_nearest_item(tmp_path):
    labels = make_labels(random_codes((2, 9, 9)))
    labels["time"] = np.array(["2022-06-02T10:15:59", "2022-06-02T10:16:13"], "datetime64[ns]")
    given = [
        make_item("late", "2022-06-02T10:16:13.5Z"),
        make_item("early", "2022-06-02T12:15:58+02:00"),
    ]
    first, second = write_mask(labels, tmp_path, source_items=given)
    assert derived_from(first) == ["https://stac.example/items/early"]
    assert derived_from(second) == ["https://stac.example/items/late"]


@pytest.mark.parametrize("named", [True, False])
def test_a_date_without_its_item_is_named(tmp_path, named):
    labels = make_labels(random_codes((2, 9, 9)))
    if named:
        labels = labels.assign_coords(source_items=("time", [SOURCE["id"], "S2B_lost"]))
    with pytest.raises(InputError, match="S2B_lost" if named else "2022-06-07T10:15:59"):
        write_mask(labels, tmp_path, source_items=[SOURCE])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["S2A_T32TPS", {}, {"id": "a", "properties": {"datetime": "?"}}])
def test_something_else_than_an_item_is_an_error(tmp_path, wrong):
    with pytest.raises(ItemError):
        write_mask(make_labels(random_codes((1, 9, 9))), tmp_path, source_items=[wrong])


@pytest.mark.shared
def test_real_items_give_tile_time_and_address(shared_data):
    read = {}
    for path in (shared_data / "stac-items").rglob("*.json"):
        document = json.loads(path.read_text())
        if document.get("type") == "Feature":
            read[document["id"]] = source_of(document)
    assert len(read) > 90
    assert all(source.time is not None for source in read.values())
    tiles = {
        "S2A_T13TDE_20240402T174230_L2A": "13TDE",
        "S2B_20EPT_20250731_0_L1C": "20EPT",
        "S2A_31NBJ_20190524_0_L2A": "31NBJ",
        "S2A_MSIL2A_20190101T000001_R116_T58UFE_20201007T214651": "58UFE",
        "S2A_MSIL2A_20200301T090901_N0500_R050_T35UPU_20230630T033416": "35UPU",
    }
    assert {name: read[name].tile for name in tiles} == tiles
    assert read["S2B_20EPT_20250731_0_L1C"].href.startswith("https://earth-search.aws.")


# --- one reading ----------------------------------------------------------------------------


def test_no_item_is_read_twice(tmp_path, monkeypatch):
    found = search(AREA_L2A, "2019-07", catalog=catalog_path(), level="L2A")
    viewed = []

    class CountedView(items.View):
        def __init__(self, *fields):
            super().__init__(*fields)
            viewed.append(self.id)

    monkeypatch.setattr(items, "View", CountedView)
    ids = sorted(item.id for item in found)
    load_cube(found, AREA_L2A)
    assert sorted(viewed) == ids
    viewed.clear()
    mask_items(found, AREA_L2A, tmp_path, options=MaskOptions(pictures=False))
    assert sorted(viewed) == ids


def test_a_scene_is_read_with_all_that_is_asked_of_it():
    item = make_asset_item(["red", "blue", "aot"], **{"s2:processing_baseline": "05.09"})
    item["geometry"] = mapping(box(11, 46, 12, 47))
    assert list(scene_of(item).files) == ["B02", "B04"]
    scene = scene_of(item, also=["AOT"])
    assert set(scene.files) == {"B02", "B04", "AOT"}
    assert scene_of(scene, ["B02"], also=["AOT"]) is scene
    with pytest.raises(ItemError, match="no asset for B05 was read, got B02, B04, AOT"):
        load_cube([scene], bands=["B05"])
    with pytest.raises(ItemError, match="no asset for WVP"):
        read_scenes([item], ["B04"], also=["WVP"])
