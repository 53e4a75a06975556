"""20 m through every door: stream, cube and UDF chunk give one mask, on the same pixels."""

import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin
from shapely.geometry import box, mapping
from support.rasters import write_raster
from support.reflectance import FOUR, make_scene
from support.stac_items import EARTH_SEARCH_KEYS, make_item

from kappamask import load_cube, load_model, predict_array, predict_cube
from kappamask.base.pixels import average_dn
from kappamask.jobs import MaskOptions, mask_items
from kappamask.predict.chunk import Digits, find_origin, find_step, label_chunk

EPSG, LEFT, TOP, SIZE = 32632, 600000, 5200020, 320


def test_every_door_gives_one_mask_of_20_m_pixels(tmp_path):
    dn = np.clip(make_scene(FOUR, SIZE, SIZE) * 10000, 1, None).astype(np.uint16)
    dn[:, :41, :101] = 0  # ends inside coarse pixels
    item = make_item("06-02", baseline="02.14", **{"proj:epsg": EPSG})
    there = Transformer.from_crs(EPSG, 4326, always_xy=True)
    corners = (LEFT, TOP - 10 * SIZE), (LEFT + 10 * SIZE, TOP)
    item["geometry"] = mapping(box(*there.transform(*corners[0]), *there.transform(*corners[1])))
    for key, band in EARTH_SEARCH_KEYS.items():
        path = tmp_path / f"{band}.tif"
        place = {"crs": EPSG, "transform": from_origin(LEFT, TOP, 10, 10), "nodata": 0}
        form = {"driver": "COG", "blocksize": 128, "overview_resampling": "average"}
        write_raster(path, dn[FOUR.index(band)][None], **form, **place)
        grid = {"proj:transform": [10, 0, LEFT, 0, -10, TOP], "proj:shape": [SIZE, SIZE]}
        item["assets"][key] |= {"href": str(path), **grid}
    coarse = np.stack([average_dn(band, 2) for band in dn])
    reflectance = np.where(coarse == 0, np.nan, coarse / np.float32(10000)).astype(np.float32)
    model = load_model(level="L2A")
    origin = round(-TOP / 20), round(LEFT / 20)
    cube = load_cube([item], resolution=20)
    assert cube.sizes["y"] == cube.sizes["x"] == SIZE // 2
    # To the last bit but one: in bf16 that bit flips a label here and there.
    np.testing.assert_allclose(cube.values[0], reflectance, rtol=2e-7)
    wanted = predict_array(cube.values[0], FOUR, level="L2A", model=model, origin=origin)
    assert len(np.unique(wanted)) > 2
    np.testing.assert_array_equal(predict_cube(cube).values[0], wanted)

    options = MaskOptions(resolution=20, pictures=False)
    (mask,) = mask_items([item], None, tmp_path / "masks", options=options).masks
    with rasterio.open(mask) as raster:
        assert raster.transform == from_origin(LEFT, TOP, 20, 20)
        np.testing.assert_array_equal(raster.read(1), wanted)

    y, x = (cube[dim].values.astype(np.float32) for dim in "yx")  # as a back end has them
    assert find_step(y, x) == (20, 20)
    assert find_origin(y, x) == origin
    (chunk,) = label_chunk(coarse, FOUR, model=model, digits=Digits(), origin=find_origin(y, x))
    np.testing.assert_array_equal(chunk, wanted)
