"""Where the sun stood on a date: told by items, else worked out of time and place."""

import numpy as np
import pytest

from kappamask import load_cube, search
from kappamask.outputs.masks import write_mask
from kappamask.predict.cube import predict_cube
from kappamask.sample import AREA_L2A, catalog_path
from kappamask.scenes.scene import Scene, sun_of, sun_position

# What the metadata of real products tell of the middle of their tile. The first one's time is
# that of the whole pass, as in old products.
TOLD = {
    "T32UPV": ("2017-04-30T10:30:24", 11.124, 49.139, 164.95, 55.00, 3.0),
    "T29UNU": ("2022-10-05T11:56:49", -8.18, 52.75, 172.84, 32.18, 0.5),
}


@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD)
def test_the_sun_is_where_products_say_it_is(told):
    time, longitude, latitude, azimuth, elevation, apart = told
    found = sun_position(np.datetime64(time, "ns"), longitude, latitude)
    assert found[0] == pytest.approx(azimuth, abs=apart)
    assert found[1] == pytest.approx(elevation, abs=0.5)


def test_several_scenes_give_their_mean_across_the_north():
    scenes = [Scene("a", sun=(359.0, 40.0)), Scene("b", sun=(3.0, 42.0)), Scene("c")]
    assert sun_of(scenes) == pytest.approx((1.0, 41.0))
    assert np.isnan(sun_of([Scene("c")])).all()


def test_cubes_and_items_of_masks_tell_the_sun(tmp_path):
    (item,) = search(AREA_L2A, "2019-07-16", catalog=catalog_path(), level="L2A")
    assert np.isnan(load_cube([item], AREA_L2A).sun_elevation.item())  # midnight: of no pass
    timed, told = item.clone(), item.clone()
    timed.datetime = timed.datetime.replace(hour=9, minute=30)
    timed.properties["datetime"] = "2019-07-16T09:30:00Z"
    told.properties |= {"view:sun_azimuth": 150.5, "view:sun_elevation": 60.25}
    cube = load_cube([told], AREA_L2A)
    assert (cube.sun_azimuth.item(), cube.sun_elevation.item()) == pytest.approx((150.5, 60.25))
    worked_out = load_cube([timed], AREA_L2A).sun_elevation.item()
    assert worked_out == pytest.approx(62, abs=3)  # July at 45 degrees north
    (path,) = write_mask(predict_cube(cube), tmp_path, source_items=[told])
    text = path.with_suffix(".json").read_text()
    assert '"view:sun_azimuth": 150.5' in text
    assert "view/v1.0.0" in text
