"""Digital numbers of many scenes on one grid. Imports `rasters`, `scenes` and `base`.

Two engines behind one door: stackstac (frozen, yet fast and small) and odc-stac.
Both are handed plain items made here, so that no metadata of a catalogue (scale,
offset, a bbox broken at the antimeridian) can reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import ItemError, KappaMaskError
from kappamask.base.windows import Chunks, Grid
from kappamask.cubes.rasters import Access, find_place
from kappamask.scenes.scene import BandFile, Scene

if TYPE_CHECKING:
    import dask.array as da


def _numbered(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """Write plain items whose ids are their places: two scenes may have one id.

    An engine would take them for one, and the offset of the one for that of the other.
    """
    return [_to_item(scene, str(index)) for index, scene in enumerate(scenes)]


def _to_item(scene: Scene, name: str) -> dict[str, Any]:
    """Write a plain STAC item: hrefs and grids, nothing else."""
    from shapely.geometry import shape

    code = {"proj:epsg": scene.epsg, "proj:code": f"EPSG:{scene.epsg}"} if scene.epsg else {}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
        "id": name,
        "geometry": scene.footprint,
        "bbox": list(shape(scene.footprint).bounds),
        "properties": {"datetime": f"{scene.time}Z", **code},
        "links": [],
        "assets": {
            band: {"href": find_place(file.href), "roles": ["data"], **code, **_grid_of(file)}
            for band, file in scene.files.items()
        },
    }


def _grid_of(file: BandFile) -> dict[str, Any]:
    if file.bounds is None:
        return {}
    return {
        "proj:transform": [file.gsd, 0, file.left, 0, -file.gsd, file.top],
        "proj:shape": [file.height, file.width],
    }


def read_dn(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    *,
    chunks: Chunks,
    engine: str,
    apart: bool,
) -> tuple[list[int], da.Array]:
    """Read DN of every scene onto the grid, lazily; an `ItemError` where an engine gives up.

    Returns the indices of the scenes that reach the grid, and (scene, band, y, x) uint16 with
    all bands of a scene in one chunk, 0 = no data and bands that a scene lacks. `apart` reads
    each band of a chunk by a task of its own.
    """
    resampling = "average" if grid.resolution > 10 else "nearest"
    try:
        kept, dn = ENGINES[engine](scenes, bands, grid, chunks, resampling, apart)
    except KappaMaskError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of the engine's own
        raise ItemError(
            f"engine {engine!r} must understand the items, got {type(error).__name__}: {error} "
            f"for {', '.join(scene.id for scene in scenes):.200}: correct them, or try the "
            "other engine"
        ) from error
    return kept, dn.rechunk({0: 1, 1: -1})


def _read_stackstac(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    chunks: Chunks,
    resampling: str,
    apart: bool,
) -> tuple[list[int], da.Array]:
    import dask.array as da
    import stackstac
    from rasterio.enums import Resampling
    from stackstac.rio_reader import DEFAULT_GDAL_ENV

    access = Access.to(scenes)
    stack = stackstac.stack(
        _numbered(scenes),
        assets=list(bands),
        epsg=grid.epsg,
        resolution=grid.resolution,
        bounds=grid.bounds,
        snap_bounds=False,
        resampling=Resampling[resampling],
        chunksize=(1, 1 if apart else -1, *chunks),
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(0),
        rescale=False,
        sortby_date=False,
        xy_coords="center",
        properties=False,
        band_coords=False,
        # With nothing of its own `open_vrt` is `open`, which cannot be entered twice: a thread
        # would keep the options of this catalogue for files of others.
        gdal_env=DEFAULT_GDAL_ENV.updated(always=access.options, open_vrt={"VSI_CACHE": True}),
        errors_as_nodata=(),
        reader=partial(stackstac_reader, access),
    )
    kept = [int(name) for name in stack.id.values]  # it drops what misses the grid
    held = [str(name) for name in stack.band.values]  # and bands that no scene has there
    layers = [
        stack.data[:, held.index(name)]
        if name in held
        else da.zeros((len(kept), grid.height, grid.width), np.uint16, chunks=(1, *chunks))
        for name in bands
    ]
    return kept, stack.data if held == list(bands) else da.stack(layers, axis=1)


def _read_odc(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    chunks: Chunks,
    resampling: str,
    _apart: bool,  # they always are
) -> tuple[list[int], da.Array]:
    import odc.stac
    import pystac
    from affine import Affine
    from odc.geo.geobox import GeoBox

    step = grid.resolution
    cube = odc.stac.load(
        [pystac.Item.from_dict(item) for item in _numbered(scenes)],
        bands=list(bands),
        geobox=GeoBox(
            (grid.height, grid.width),
            Affine(step, 0, grid.left, 0, -step, grid.top),
            f"EPSG:{grid.epsg}",
        ),
        chunks={"time": 1, "y": max(chunks[0]), "x": max(chunks[1])},
        resampling=resampling,
        dtype="uint16",
        nodata=0,
        groupby="id",
        preserve_original_order=True,
        use_overviews=False,  # which of them is read is settled where files are opened: `levels`
        driver=odc_driver(Access.to(scenes)),
        stac_cfg={"*": {"assets": {"*": {"data_type": "uint16", "nodata": 0}}}},
    )
    stacked = cube[list(bands)].to_array("band").transpose("time", "band", "y", "x")
    return list(range(len(scenes))), stacked.data


def stackstac_reader(access: Access, **arguments: Any) -> Any:
    """Make one of stackstac's readers that reads with patience."""
    reader = _patient_reader()(**arguments)
    reader.access = access
    return reader


@cache
def _patient_reader() -> Any:
    """Make the class of these readers, which is known only once stackstac is imported."""
    from rasterio.vrt import WarpedVRT
    from stackstac.rio_reader import (
        MULTITHREADED_DRIVER_ALLOWLIST,
        AutoParallelRioReader,
        SingleThreadedRioDataset,
        ThreadLocalRioDataset,
    )

    class PatientReader(AutoParallelRioReader):  # type: ignore[misc]
        access: Access

        def read(self, window: Any, **options: Any) -> np.ndarray:
            read = super().read
            return self.access.read(lambda: read(window, **options), self.url, forget=self._forget)

        def _forget(self, cached: bool) -> None:
            self.close()
            if cached:
                with self.gdal_env.open:
                    self.access.forget(self.url)

        def _open(self) -> Any:
            # As stackstac's own, which would let GDAL guess the format. Threads open the file
            # again, by the driver that was found here.
            with self.gdal_env.open:
                raster = self.access.open(self.url)
                own = {name: getattr(raster, name) for name in ("transform", "height", "width")}
                wanted, vrt = self.spec.vrt_params, None
                if wanted != own | {"crs": raster.crs.to_epsg()}:
                    with self.gdal_env.open_vrt:
                        vrt = WarpedVRT(
                            raster,
                            sharing=False,
                            resampling=self.resampling,
                            add_alpha=raster.nodata is None,
                            **wanted,
                        )
            threads = raster.driver in MULTITHREADED_DRIVER_ALLOWLIST
            kind = ThreadLocalRioDataset if threads else SingleThreadedRioDataset
            return kind(self.gdal_env, raster, vrt=vrt)

        def __reduce__(self) -> tuple[Any, ...]:
            state: Any = self.__getstate__()
            return partial(stackstac_reader, self.access.only(self.url), **state), ()

    return PatientReader


def odc_driver(access: Access) -> Any:
    """Make odc-stac's driver, which is known only once that is imported."""
    import rasterio
    from odc.loader import _rio as odc

    class PatientRioReader(odc.RioReader):  # type: ignore[misc]
        def read(self, cfg: Any, dst_geobox: Any, *, dst: Any = None, **_: Any) -> Any:
            href = self._src.uri

            def checked() -> Any:
                # As odc-stac's own, which would let GDAL guess the format.
                with access.open(href) as raster:
                    shift = 0.9 if cfg.nearest else 0.05  # of a pixel, without warping
                    place = odc._reproject_info_from_rio(raster, dst_geobox, ttol=shift)  # noqa: SLF001
                    with odc.rio_env(VSI_CACHE=False):
                        layer = rasterio.band(raster, 1)
                        return odc._do_read(layer, cfg, dst_geobox, place, dst=dst)  # noqa: SLF001

            forget = access.forget
            return access.read(checked, href, forget=lambda cached: cached and forget(href))

    class PatientDriver(odc.RioDriver):  # type: ignore[misc]
        def capture_env(self) -> dict[str, Any]:
            # Only of what this driver reads: `odc.stac.configure_rio` would change the process.
            return {**super().capture_env(), **access.options}

        def open(self, src: Any, ctx: Any) -> Any:
            return PatientRioReader(src, ctx)

        def __reduce__(self) -> tuple[Any, ...]:
            return odc_driver, (access,)

    return PatientDriver()


Engine = Callable[
    [Sequence[Scene], Sequence[str], Grid, Chunks, str, bool], "tuple[list[int], da.Array]"
]
ENGINES: dict[str, Engine] = {"stackstac": _read_stackstac, "odc": _read_odc}
