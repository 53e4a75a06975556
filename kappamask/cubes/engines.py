"""Digital numbers of many items on one grid. Row 3: imports `readers`, `windows` and row 0.

Two engines behind one door: stackstac (frozen, yet fast and small) and odc-stac.
Both are handed plain items made here, so that no metadata of a catalogue (scale,
offset, a bbox broken at the antimeridian) can reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import ItemError, KappaMaskError
from kappamask.base.grid import Chunks, Grid
from kappamask.base.retry import GUARD
from kappamask.cubes.readers import HTTP_OPTIONS, Claim, Href, odc_driver, stackstac_reader

if TYPE_CHECKING:
    import dask.array as da


@dataclass(frozen=True)
class Source:
    """The files of one item, as an engine needs them."""

    id: str
    time: np.datetime64
    footprint: Any  # GeoJSON geometry, degrees
    crs: int | None
    hrefs: dict[str, str]  # by band
    keys: dict[str, str]  # by band: what its asset is called in the item
    placement: dict[str, dict[str, Any]]  # by band: proj:transform, proj:shape
    gdal_options: dict[str, str]

    def claim(self, band: str) -> Claim:
        """Tell what the item says of the file of a band."""
        placed = self.placement[band]
        bounds = None
        if len(placed) == 2:
            a, _, left, _, e, top = placed["proj:transform"][:6]
            height, width = placed["proj:shape"]
            bounds = (left, top + e * height, left + a * width, top)
        name = f"asset {self.keys[band]!r} ({band}) of item {self.id}"
        return Claim(name, self.crs, bounds)

    def to_item(self) -> dict[str, Any]:
        """Write a plain STAC item: hrefs and grids, nothing else."""
        from shapely.geometry import shape

        code = {"proj:epsg": self.crs, "proj:code": f"EPSG:{self.crs}"} if self.crs else {}
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
            "id": self.id,
            "geometry": self.footprint,
            "bbox": list(shape(self.footprint).bounds),
            "properties": {"datetime": f"{self.time}Z", **code},
            "links": [],
            "assets": {
                name: {
                    "href": Href(href, self.claim(name)),
                    "roles": ["data"],
                    **code,
                    **self.placement[name],
                }
                for name, href in self.hrefs.items()
            },
        }


def read_dn(
    sources: Sequence[Source], bands: Sequence[str], grid: Grid, *, chunks: Chunks, engine: str
) -> tuple[list[int], da.Array]:
    """Read DN of every source onto the grid, lazily.

    Parameters
    ----------
    sources
        In the order wanted.
    bands
        Names along the second axis; a source that lacks one has 0 there.
    grid, chunks
        Of the result.
    engine
        A key of `ENGINES`.

    Returns
    -------
    tuple
        Indices of the sources that reach the grid, and (source, band, y, x) uint16
        with all bands of a source in one chunk, 0 = no data.

    Raises
    ------
    ItemError
        If the engine does not understand what the items say.
    """
    resampling = "average" if grid.resolution > 10 else "nearest"
    try:
        kept, dn = ENGINES[engine](sources, bands, grid, chunks, resampling)
    except KappaMaskError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of the engine's own
        raise ItemError(
            f"engine {engine!r} must understand the items, got {type(error).__name__}: {error} "
            f"for {', '.join(source.id for source in sources):.200}: correct them, or try the "
            "other engine"
        ) from error
    return kept, dn.rechunk({0: 1, 1: -1})


def numbered(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Write plain items whose ids are their places: two sources may have one id.

    An engine would take them for one, and the offset of the one for that of the other.
    """
    return [{**source.to_item(), "id": str(index)} for index, source in enumerate(sources)]


def _read_stackstac(
    sources: Sequence[Source], bands: Sequence[str], grid: Grid, chunks: Chunks, resampling: str
) -> tuple[list[int], da.Array]:
    import dask.array as da
    import stackstac
    from rasterio.enums import Resampling
    from stackstac.rio_reader import DEFAULT_GDAL_ENV

    options = {key: value for source in sources for key, value in source.gdal_options.items()}
    if GUARD.get():
        options |= {"GDAL_HTTP_PROXY": ""}  # of the environment: none leads to this machine
    stack = stackstac.stack(
        numbered(sources),
        assets=list(bands),
        epsg=grid.epsg,
        resolution=grid.resolution,
        bounds=grid.bounds,
        snap_bounds=False,
        resampling=Resampling[resampling],
        chunksize=(1, -1, *chunks),
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(0),
        rescale=False,
        sortby_date=False,
        xy_coords="center",
        properties=False,
        band_coords=False,
        gdal_env=DEFAULT_GDAL_ENV.updated(always={**HTTP_OPTIONS, **options}),
        errors_as_nodata=(),
        reader=stackstac_reader(),
    )
    kept = [int(name) for name in stack.id.values]  # it drops what misses the grid
    held = [str(name) for name in stack.band.values]  # and bands that no source has there
    layers = [
        stack.data[:, held.index(name)]
        if name in held
        else da.zeros((len(kept), grid.height, grid.width), np.uint16, chunks=(1, *chunks))
        for name in bands
    ]
    return kept, stack.data if held == list(bands) else da.stack(layers, axis=1)


def _read_odc(
    sources: Sequence[Source], bands: Sequence[str], grid: Grid, chunks: Chunks, resampling: str
) -> tuple[list[int], da.Array]:
    import odc.stac
    import pystac
    from affine import Affine
    from odc.geo.geobox import GeoBox

    step = grid.resolution
    options = {key: value for source in sources for key, value in source.gdal_options.items()}
    odc.stac.configure_rio(cloud_defaults=True, **HTTP_OPTIONS, **options)
    claims = {href: source.claim(name) for source in sources for name, href in source.hrefs.items()}
    cube = odc.stac.load(
        [pystac.Item.from_dict(item) for item in numbered(sources)],
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
        use_overviews=False,  # they may be made by decimation; a mean is a mean of all pixels
        driver=odc_driver(claims),
        stac_cfg={"*": {"assets": {"*": {"data_type": "uint16", "nodata": 0}}}},
    )
    stacked = cube[list(bands)].to_array("band").transpose("time", "band", "y", "x")
    return list(range(len(sources))), stacked.data


Engine = Callable[
    [Sequence[Source], Sequence[str], Grid, Chunks, str], "tuple[list[int], da.Array]"
]
ENGINES: dict[str, Engine] = {"stackstac": _read_stackstac, "odc": _read_odc}
