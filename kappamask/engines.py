"""Reading digital numbers of many items onto one grid. Row 3: imports `windows` and row 0.

Two engines behind one door: stackstac (frozen, yet fast and small) and odc-stac.
Both are handed plain items made here, so that no metadata of a catalogue (scale,
offset, a bbox broken at the antimeridian) can reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.errors import InputError, ReadError
from kappamask.windows import LATTICE

if TYPE_CHECKING:
    import dask.array as da

# GDAL: ask a failing server again a few times (429 and 5xx), then give up and say so.
HTTP_OPTIONS = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}
Chunks = tuple[tuple[int, ...], tuple[int, ...]]  # sizes along y and x


@dataclass(frozen=True)
class Grid:
    """A north-up pixel grid."""

    epsg: int  # projected, metres
    resolution: float  # metres per pixel
    left: float  # projected coordinates of the upper left corner
    top: float
    height: int  # pixels
    width: int

    def __post_init__(self) -> None:
        """Check that there is a pixel."""
        if self.height < 1 or self.width < 1:
            raise InputError(
                f"an area needs at least one pixel, got {self.height} x {self.width}: widen it"
            )

    @classmethod
    def covering(
        cls,
        bounds: tuple[float, float, float, float],
        *,
        epsg: int,
        resolution: float,
        anchor: tuple[float, float],
    ) -> Grid:
        """Make the smallest grid that covers `bounds`, pixel edges in line with `anchor`.

        Examples
        --------
        >>> Grid.covering((3, 1, 22, 39), epsg=32632, resolution=10, anchor=(600000, 5000040))
        Grid(epsg=32632, resolution=10, left=0.0, top=40.0, height=4, width=3)
        """
        left, right = (_snapped(bounds[i], anchor[0], resolution, up=i == 2) for i in (0, 2))
        bottom, top = (_snapped(bounds[i], anchor[1], resolution, up=i == 3) for i in (1, 3))
        height = round((top - bottom) / resolution)
        return cls(epsg, resolution, left, top, height, round((right - left) / resolution))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        return (
            self.left,
            self.top - self.height * self.resolution,
            self.left + self.width * self.resolution,
            self.top,
        )

    @property
    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates x and y of the pixel centres."""
        return (
            self.left + (np.arange(self.width) + 0.5) * self.resolution,
            self.top - (np.arange(self.height) + 0.5) * self.resolution,
        )

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the first pixel, counted from the projected origin."""
        return round(-self.top / self.resolution), round(self.left / self.resolution)


def _snapped(value: float, anchor: float, step: float, *, up: bool) -> float:
    count = (value - anchor) / step
    nearest = round(count)
    if abs(count - nearest) > 1e-4:  # a thousandth of a metre is no reason for one more pixel
        nearest = int(np.ceil(count) if up else np.floor(count))
    return float(anchor + nearest * step)


def snap_chunks(grid: Grid, chunks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunk sizes along y and x, cut where the projected grid's multiples of `chunks` lie."""
    if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
        raise InputError(f"chunks is pixels per side, an integer above 0, got {chunks!r}")
    row, column = grid.origin
    return _snap(grid.height, row, chunks), _snap(grid.width, column, chunks)


def _snap(length: int, origin: int, chunk: int) -> tuple[int, ...]:
    if chunk >= LATTICE.core and length <= LATTICE.whole:
        return (length,)  # one window labels it: one chunk feeds that
    cuts = [0, *range(-origin % chunk or chunk, length, chunk), length]
    return tuple(int(size) for size in np.diff(cuts))


@dataclass(frozen=True)
class Source:
    """The files of one item, as an engine needs them."""

    id: str
    time: np.datetime64
    footprint: Any  # GeoJSON geometry, degrees
    crs: int | None
    hrefs: dict[str, str]  # by band
    placement: dict[str, dict[str, Any]]  # by band: proj:transform, proj:shape
    gdal_options: dict[str, str]

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
                name: {"href": href, "roles": ["data"], **code, **self.placement[name]}
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
    """
    resampling = "average" if grid.resolution > 10 else "nearest"
    kept, dn = ENGINES[engine](sources, bands, grid, chunks, resampling)
    return kept, dn.rechunk({0: 1, 1: -1})


def _read_stackstac(
    sources: Sequence[Source], bands: Sequence[str], grid: Grid, chunks: Chunks, resampling: str
) -> tuple[list[int], da.Array]:
    import dask.array as da
    import stackstac
    from rasterio.enums import Resampling
    from stackstac.rio_reader import DEFAULT_GDAL_ENV

    options = {key: value for source in sources for key, value in source.gdal_options.items()}
    stack = stackstac.stack(
        [source.to_item() for source in sources],
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
        reader=_named_reader(),
    )
    order = {source.id: index for index, source in enumerate(sources)}
    kept = [order[str(name)] for name in stack.id.values]  # it drops what misses the grid
    held = [str(name) for name in stack.band.values]  # and bands that no source has there
    layers = [
        stack.data[:, held.index(name)]
        if name in held
        else da.zeros((len(kept), grid.height, grid.width), np.uint16, chunks=(1, *chunks))
        for name in bands
    ]
    return kept, stack.data if held == list(bands) else da.stack(layers, axis=1)


def _named_reader() -> type:
    """Make stackstac's reader say which file failed, in the package's own error."""
    from rasterio.errors import RasterioError
    from stackstac.rio_reader import AutoParallelRioReader

    class NamedReader(AutoParallelRioReader):  # type: ignore[misc]
        def read(self, window: Any, **options: Any) -> np.ndarray:
            try:
                return super().read(window, **options)  # type: ignore[no-any-return]
            except (RasterioError, RuntimeError, OSError) as error:
                cause = error.__cause__ or error
                raise ReadError(
                    f"cannot read {self.url}: {_reason(cause)}; "
                    "the file is damaged, gone or not allowed: try again or leave its item out"
                ) from error

        def __reduce__(self) -> tuple[Any, ...]:
            return _remake_reader, (self.__getstate__(),)

    return NamedReader


def _remake_reader(state: dict[str, Any]) -> Any:
    return _named_reader()(**state)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
    cube = odc.stac.load(
        [pystac.Item.from_dict(source.to_item()) for source in sources],
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
        stac_cfg={"*": {"assets": {"*": {"data_type": "uint16", "nodata": 0}}}},
    )
    stacked = cube[list(bands)].to_array("band").transpose("time", "band", "y", "x")
    return list(range(len(sources))), stacked.data


Engine = Callable[
    [Sequence[Source], Sequence[str], Grid, Chunks, str], "tuple[list[int], da.Array]"
]
ENGINES: dict[str, Engine] = {"stackstac": _read_stackstac, "odc": _read_odc}
