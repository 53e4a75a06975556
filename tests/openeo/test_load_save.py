"""Collections into cubes as on Copernicus, and cubes into files."""

import dask.array as da
import numpy as np
import openeo
import pytest
import rasterio
import xarray as xr
from openeo.internal.graph_building import MultiLeafGraph, PGNode
from openeo.metadata import CollectionMetadata
from rio_cogeo import cog_validate
from support import bolzano, stac_server, synthetic
from support.process_graphs import DATES, load, one_node

from kappamask.base.errors import NoItemsError
from kappamask.base.legend import LEGEND
from kappamask.openeo.engine.flat_graph import GraphError
from kappamask.openeo.engine.load import load_stac
from kappamask.openeo.local import LocalEngine
from kappamask.sample import SCENES, catalog_path

# third parties, while netCDF files are written and read
pytestmark = pytest.mark.filterwarnings("ignore:numpy.ndarray size changed:RuntimeWarning")


# --- load_collection -------------------------------------------------------------------------


def test_values_are_dn_with_the_offset_applied(scene, engine):
    """Invariant 2: the offset is taken off once; NaN is what was stored as 0."""
    cube = engine.run(load(scene).flat_graph())
    assert cube.dims == ("t", "bands", "y", "x")
    assert cube.dtype == np.float32
    assert cube.chunks is not None
    np.testing.assert_array_equal(cube, scene.dn)
    assert cube.rio.crs == synthetic.EPSG
    days = np.array(["2022-06-02", "2022-06-20", "2022-07-05"], "M8[ns]")
    assert cube.t.values.tolist() == days.tolist()


def test_bands_come_in_the_order_asked_for_with_the_scene_classes(scene, engine):
    cube = engine.run(load(scene, bands=["SCL", "B08", "B02"]).flat_graph())
    assert cube.bands.values.tolist() == ["SCL", "B08", "B02"]
    np.testing.assert_array_equal(cube.sel(bands="SCL"), scene.scl)
    np.testing.assert_array_equal(cube.sel(bands="B08"), scene.dn[:, 3])


def test_without_names_all_bands_come(scene, engine):
    cube = engine.run(load(scene, bands=None).flat_graph())
    assert cube.bands.values.tolist() == [*synthetic.BANDS, "SCL"]


@pytest.mark.parametrize(
    ("end", "count"),
    [("2022-06-20", 1), ("2022-06-20T10:15:59.024Z", 1), ("2022-06-20T10:16:00Z", 2), (None, 3)],
)
def test_the_end_of_the_dates_is_excluded(scene, engine, end, count):
    """An item of 2022-06-20 is of 10:15:59.024."""
    cube = load(scene, temporal_extent=["2022-06-01", end])
    assert engine.run(cube.flat_graph()).sizes["t"] == count


def test_degrees_cover_the_box(scene, engine):
    west, south, east, north = scene.bbox
    box = {"west": west, "south": south, "east": east, "north": north}
    cube = engine.run(load(scene, spatial_extent=box).flat_graph())
    left = round((float(cube.x[0]) - 5 - synthetic.LEFT) / 10)
    top = round((synthetic.TOP - float(cube.y[0]) - 5) / 10)
    assert 15 < left <= 20
    expected = scene.dn[..., top : top + cube.sizes["y"], left : left + cube.sizes["x"]]
    np.testing.assert_array_equal(cube, expected)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    again = engine.run(load(scene, spatial_extent=polygon).flat_graph())
    xr.testing.assert_equal(again, cube)


def test_a_box_in_the_projection_of_the_tiles_is_cut_exactly(scene, engine):
    extent = scene.extent | {"west": synthetic.LEFT + 40, "north": synthetic.TOP - 30}
    cube = engine.run(load(scene, spatial_extent=extent).flat_graph())
    np.testing.assert_array_equal(cube, scene.dn[..., 3:, 4:])


def test_conditions_on_properties_are_met(scene, engine):
    passing = load(scene, properties={"platform": lambda v: v == "sentinel-2a"})
    assert engine.run(passing.flat_graph()).sizes["t"] == 3
    failing = load(scene, properties={"platform": lambda v: v == "sentinel-2b"})
    with pytest.raises(GraphError, match="none of the 3 items meets the condition") as caught:
        engine.run(failing.flat_graph())
    assert isinstance(caught.value.__cause__, NoItemsError)
    assert caught.value.code == "NoDataAvailable"


def test_items_that_tell_no_cloud_cover_are_kept(scene, engine):
    assert engine.run(load(scene, max_cloud_cover=50).flat_graph()).sizes["t"] == 3


def test_the_sample_is_loaded_at_both_levels():
    for area in SCENES:
        extent = dict(zip(("west", "south", "east", "north"), area.bbox, strict=True))
        first, last = area.dates.split("/")
        dates = [first, f"{last}T23:59:59Z"]
        name = f"SENTINEL2_{area.level}"
        cube = openeo.DataCube.load_collection(name, None, extent, dates, ["B04"])
        loaded = LocalEngine(catalog=catalog_path()).run(cube.flat_graph())
        assert loaded.sizes["t"] == {"L1C": 1, "L2A": 12}[area.level]
        values = loaded.isel(t=0).compute()
        assert 100 < float(values.median()) < 10000
        np.testing.assert_array_equal(values, np.round(values))


@pytest.mark.parametrize(
    ("change", "code", "cause"),
    [
        ({"bands": ["B99"]}, "ProcessParameterInvalid", "unknown band 'B99'"),
        ({"bands": ["B10"]}, "ProcessParameterInvalid", "unknown band 'B10'"),
        ({"bands": ["B11"]}, "ProcessParameterInvalid", "B11"),  # which the items lack
        ({"spatial_extent": None}, "ProcessParameterRequired", "spatial_extent"),
        ({"temporal_extent": None}, "ProcessParameterRequired", "temporal_extent"),
        ({"temporal_extent": ["2023-01-01", "2023-02-01"]}, "NoDataAvailable", "no L2A item"),
        ({"collection_id": "SENTINEL2"}, "CollectionNotFound", "unknown collection"),
    ],
)
def test_what_cannot_be_loaded_is_named(scene, engine, change, code, cause):
    with pytest.raises(GraphError, match="loadcollection1") as caught:
        engine.run(load(scene, **change).flat_graph())
    assert caught.value.code == code
    assert cause in str(caught.value)


# --- load_stac -------------------------------------------------------------------------------


def stac_graph(url, scene):
    extents = {"spatial_extent": scene.extent, "temporal_extent": DATES}
    graph = one_node("load_stac", url=url, bands=["B02"], **extents)
    del graph["n"]["arguments"]["data"]
    return graph


@pytest.fixture(scope="module")
def stac_api(scene):
    """The same items in an API on loopback."""
    folder = scene.catalog.parents[1] / "scenes"
    items = [bolzano.make_item(place) for place in sorted(folder.iterdir())]
    with stac_server.serve(stac_server.Api(items=items)) as api:
        yield api.url


def test_load_stac_gives_numbers_as_they_are_stored(scene, engine, stac_api):
    for url in (stac_api, f"{stac_api}/collections/sentinel-2-c1-l2a"):
        cube = engine.run(stac_graph(url, scene))
        np.testing.assert_array_equal(cube.isel(bands=0), scene.dn[:, 0] + 1000)


def test_load_stac_reads_no_file_of_this_machine(scene, engine):
    for url in (str(scene.catalog), f"file://{scene.catalog}"):
        with pytest.raises(GraphError, match="argument 'url'"):
            engine.run(stac_graph(url, scene))
    with pytest.raises(GraphError, match=r"http\(s\) addresses only"):
        load_stac(str(scene.catalog))


# --- what is told ----------------------------------------------------------------------------


def test_the_client_reads_the_collections():
    engine = LocalEngine(catalog="earth-search")
    l2a, l1c = (CollectionMetadata(each) for each in engine.collections())
    assert l2a.dimension_names() == ["x", "y", "t", "bands"]
    assert l2a.band_names == [
        *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
        *("AOT", "WVP", "SCL"),
    ]
    assert "B10" in l1c.band_names
    assert l2a.band_common_names[1:4] == ["blue", "green", "red"]


def test_collections_that_a_known_catalogue_lacks_are_not_listed():
    listed = LocalEngine(catalog="planetary-computer").collections()
    assert [each["id"] for each in listed] == ["SENTINEL2_L2A"]


# --- save_result -----------------------------------------------------------------------------


def test_a_geotiff_per_date(scene, engine, tmp_path):
    paths = engine.run(load(scene).save_result("GTiff").flat_graph())
    days = ("2022-06-02", "2022-06-20", "2022-07-05")
    assert paths == [tmp_path / "results" / f"openEO_{day}Z.tif" for day in days]
    for path, expected in zip(paths, scene.dn, strict=True):
        assert cog_validate(path, quiet=True)[0]
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(source.read(), expected)
            assert source.descriptions == synthetic.BANDS
            assert source.dtypes == ("float32",) * 4
            assert np.isnan(source.nodata)
            assert source.crs == synthetic.EPSG
            assert source.transform.c == synthetic.LEFT
    assert set((tmp_path / "results").iterdir()) == set(paths)


def label_cube(name):
    values = np.full((1, 1, synthetic.HEIGHT, synthetic.WIDTH), 1, np.float32)
    values[..., :50] = 4
    values[..., 0, :] = 5
    y = synthetic.TOP - 5 - 10 * np.arange(synthetic.HEIGHT)
    x = synthetic.LEFT + 5 + 10 * np.arange(synthetic.WIDTH)
    return xr.DataArray(
        values,
        dims=("t", "bands", "y", "x"),
        coords={"t": [np.datetime64("2022-06-02", "ns")], "bands": [name], "y": y, "x": x},
    ).rio.write_crs(synthetic.EPSG)


def save_graph(**arguments):
    return one_node("save_result", **({"format": "GTiff"} | arguments))


def test_labels_and_masks_are_small_integers_labels_with_their_colours(engine):
    (path,) = engine.run(save_graph(), parameters={"cube": label_cube("cloud_labels")})
    assert cog_validate(path, quiet=True)[0]
    with rasterio.open(path) as source:
        assert (source.dtypes, source.nodata) == (("uint8",), 5)
        assert np.unique(source.read()).tolist() == [1, 4, 5]
        assert source.colormap(1)[4][:3] == LEGEND[4].rgb
    (path,) = engine.run(save_graph(), parameters={"cube": label_cube("cloud_mask") % 2})
    with rasterio.open(path) as source:
        assert (source.dtypes, source.nodata) == (("uint8",), None)
        assert np.unique(source.read()).tolist() == [0, 1]


def test_two_passes_of_a_day_are_two_files(engine):
    cube = xr.concat([label_cube("B02")] * 2, dim="t")
    times = np.array(["2022-06-02T10:10:31", "2022-06-02T21:00:00"], "M8[ns]")
    paths = engine.run(save_graph(), parameters={"cube": cube.assign_coords(t=times)})
    names = [path.name for path in paths]
    assert names == ["openEO_2022-06-02T101031Z.tif", "openEO_2022-06-02T210000Z.tif"]


def test_a_netcdf_with_a_variable_per_band(scene, engine, tmp_path):
    (path,) = engine.run(load(scene).save_result("netCDF").flat_graph())
    assert path == tmp_path / "results" / "openEO.nc"
    with xr.open_dataset(path, decode_coords="all") as dataset:
        assert set(dataset) == set(synthetic.BANDS)
        np.testing.assert_array_equal(dataset["B02"], scene.dn[:, 0])
        assert dataset.rio.crs == synthetic.EPSG


def test_without_dates_or_bands_there_is_one_file(scene, engine):
    reduced = load(scene).max_time().ndvi(nir="B08", red="B04")
    (path,) = engine.run(reduced.save_result("GTiff").flat_graph())
    assert path.name == "openEO.tif"
    (path,) = engine.run(reduced.save_result("netCDF").flat_graph())
    with xr.open_dataset(path) as dataset:
        assert "var" in dataset


def test_every_save_result_of_a_graph_is_done(scene, engine):
    cube = load(scene)
    graph = cube.save_result("netCDF", options={"filename_prefix": "all"}).flat_graph()
    second = {"data": {"from_node": "loadcollection1"}, "format": "GTiff"}
    graph["second"] = {"process_id": "save_result", "arguments": second}
    assert len(engine.run(graph)) == 4


def counted_cube(made):
    """A lazy cube of two dates that adds to `made` whenever a block of it is computed."""

    def block(block_info=None):
        made.append(block_info[None]["chunk-location"])
        return np.full(block_info[None]["chunk-shape"], 500.0, np.float32)

    data = da.map_blocks(
        block, chunks=((1, 1), (1,), (300, 300), (300, 300)), dtype=np.float32, meta=np.empty(0)
    )
    coords = {
        "t": np.array(["2022-06-02", "2022-06-20"], "M8[ns]"),
        "bands": ["B04"],
        "y": 5000395.0 - 10 * np.arange(600),
        "x": 600005.0 + 10 * np.arange(600),
    }
    return xr.DataArray(data, dims=("t", "bands", "y", "x"), coords=coords).rio.write_crs(32632)


def saves(**prefixes):
    """Save a cube, and its mean over the dates."""
    cube = openeo.DataCube(
        PGNode("filter_bands", data={"from_parameter": "cube"}, bands=["B04"]), connection=None
    )
    mean = cube.reduce_dimension("t", "mean")
    saved = [
        each.save_result("GTiff", options={"filename_prefix": prefix})
        for each, prefix in zip((cube, mean), prefixes.values(), strict=True)
    ]
    graph = MultiLeafGraph(saved).flat_graph()
    next(n for n in reversed(graph.values()) if n["process_id"] == "save_result")["result"] = True
    return graph


def test_what_several_nodes_save_is_computed_once(engine):
    made = []
    paths = engine.run(saves(a="each", b="mean"), parameters={"cube": counted_cube(made)})
    assert [path.name for path in paths] == [
        "mean.tif",
        "each_2022-06-02Z.tif",
        "each_2022-06-20Z.tif",
    ]
    assert len(made) == len(set(made)) == 8
    for path in paths:
        with rasterio.open(path) as raster:
            assert raster.shape == (600, 600)
            assert (raster.read() == 500).all()


def test_files_of_two_nodes_of_one_name_are_refused_before_anything_is_computed(engine, tmp_path):
    made = []
    cube = counted_cube(made).isel(t=[0])
    graph = saves(a="same", b="same")
    for node in graph.values():  # both of the date, so that names are the same
        if node["process_id"] == "save_result":
            node["arguments"]["data"] = {"from_node": "filterbands1"}
    with pytest.raises(GraphError, match=r"same_2022-06-02Z\.tif of .* too: give each") as caught:
        engine.run(graph, parameters={"cube": cube})
    assert caught.value.process == "save_result"
    assert not made
    assert not list(tmp_path.rglob("*.tif"))


def test_a_failed_computation_leaves_nothing_behind(engine, tmp_path):
    def fail(_):
        raise OSError("disk gone")

    cube = label_cube("B02").chunk(x=30)
    cube = cube.copy(data=cube.data.map_blocks(fail, meta=np.empty((0, 0, 0, 0), np.float32)))
    with pytest.raises(GraphError, match="save_result"):
        engine.run(save_graph(), parameters={"cube": cube})
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"format": "JPEG2000"}, "unknown format 'JPEG2000': expected one of GTiff, COG, netCDF"),
        ({"options": {"filename_prefix": "../../etc/x"}}, "letters, digits"),
    ],
)
def test_what_cannot_be_written_is_named(engine, arguments, cause):
    with pytest.raises(GraphError, match="save") as caught:
        engine.run(save_graph(**arguments), parameters={"cube": label_cube("B02")})
    assert cause in str(caught.value)


def test_saving_needs_a_folder(scene):
    engine = LocalEngine(catalog=str(scene.catalog))
    with pytest.raises(GraphError, match="no folder"):
        engine.run(save_graph(), parameters={"cube": label_cube("B02")})
