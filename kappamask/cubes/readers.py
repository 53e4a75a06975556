"""Readers of single files for stackstac and odc-stac. Row 3: imports `patience` and row 0.

They read patiently, name item and asset in the package's own error, and refuse a file that
is not what its item says: pixels in the wrong place would be labelled, and wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from kappamask.base.errors import ReadError
from kappamask.base.retry import is_remote, read_patiently, without_query

# GDAL itself asks again, once, after what is over at once. A server that is busy (429, 503) and
# may say how long is left to `patience`, which waits as it asks: GDAL does not.
HTTP_OPTIONS = {
    "CPL_VSIL_CURL_USE_HEAD": "NO",  # half the requests where files are opened
    "GDAL_HTTP_MAX_RETRY": "1",
    "GDAL_HTTP_RETRY_DELAY": "0.5",  # seconds; GDAL at least doubles it, with jitter
    "GDAL_HTTP_RETRY_CODES": "500,502,504",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "20",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}
DTYPES = ("uint8", "uint16", "int16")  # that Sentinel-2 layers are stored in
# A remote file of another format, such as VRT, may name files of this machine.
REMOTE_FORMATS = ("COG", "GTiff", "JP2ECW", "JP2KAK", "JP2MrSID", "JP2OpenJPEG")


@dataclass(frozen=True)
class Claim:
    """What an item says of one of its files."""

    name: str  # of item and asset, for messages
    epsg: int | None = None
    bounds: tuple[float, float, float, float] | None = None  # left, bottom, right, top

    def check(self, raster: Any, href: str) -> None:
        """Compare with the open file.

        Raises
        ------
        ReadError
            If it is no layer of Sentinel-2, or lies elsewhere than the item says.
        """
        if is_remote(href) and raster.driver not in REMOTE_FORMATS:
            self._refuse(href, "is GeoTIFF or JPEG 2000 where it is remote", f"got {raster.driver}")
        got = f"got {raster.height} x {raster.width} pixels of {raster.dtypes[0]}"
        if raster.count != 1 or raster.dtypes[0] not in DTYPES:
            self._refuse(href, "must hold one band of uint16", f"{got} in {raster.count} bands")
        if raster.crs is None:
            self._refuse(href, "must say where it lies", f"{got} without a CRS")
        code = raster.crs.to_epsg()
        if self.epsg and code and code != self.epsg:
            self._refuse(href, f"is in EPSG:{self.epsg} as its item says", f"got EPSG:{code}")
        if self.bounds and self.epsg:
            off = np.abs(np.subtract(tuple(raster.bounds), self.bounds)).max()
            if off > max(map(abs, raster.res)):
                self._refuse(
                    href,
                    f"lies at {_rounded(self.bounds)} as its item says (proj:transform, "
                    "proj:shape)",
                    f"{got} at {_rounded(raster.bounds)}",
                )

    def _refuse(self, href: str, rule: str, got: str) -> None:
        raise ReadError(
            f"{self.name} {rule}, {got} at {without_query(href)}: item and file do not belong "
            "together, leave the item out"
        )


def _rounded(bounds: Any) -> tuple[int, ...]:
    return tuple(round(edge) for edge in bounds)


class Href(str):
    """The address of a file, which carries what its item claims through stackstac."""

    __slots__ = ("claim",)
    claim: Claim

    def __new__(cls, href: str, claim: Claim) -> Self:
        """Make it of both."""
        made = super().__new__(cls, href)
        made.claim = claim
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle both."""
        return Href, (str(self), self.claim)


def claim_of(href: str) -> Claim:
    """Give what an item claims of a file; nothing, if the address does not carry it."""
    return href.claim if isinstance(href, Href) else Claim("a file")


def forget_file(href: str) -> None:
    """Drop what GDAL remembers of a file on a server: that it is absent, and its bytes."""
    import rasterio
    from rasterio.errors import RasterioError

    if not is_remote(href):
        return
    # GDAL forgets a file when it closes it, if told so before it opens it; it need not look for
    # the seven files that might lie beside it.
    options = {**HTTP_OPTIONS, "CPL_VSIL_CURL_NON_CACHED": "/vsi", "GDAL_HTTP_MAX_RETRY": "0"}
    options["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    with rasterio.Env(**options):
        try:
            rasterio.open(href, sharing=False).close()
        except (RasterioError, OSError):
            return


def _errors() -> tuple[type[Exception], ...]:
    from rasterio.errors import RasterioError

    # Attributes: stackstac takes it that a file has a CRS, and one that is cut short has none.
    return RasterioError, RuntimeError, OSError, AttributeError


def stackstac_reader() -> type:
    """Make the class of stackstac's readers, which is known only once that is imported."""
    from stackstac.rio_reader import AutoParallelRioReader

    class PatientReader(AutoParallelRioReader):  # type: ignore[misc]
        def read(self, window: Any, **options: Any) -> np.ndarray:
            read = super().read
            return read_patiently(
                lambda: read(window, **options),
                self.url,
                name=claim_of(self.url).name,
                forget=self._forget,
                errors=_errors(),
                proxy=self._proxy,
            )

        def _proxy(self) -> str | None:
            import rasterio.env

            with self.gdal_env.open:
                proxy: str | None = rasterio.env.getenv().get("GDAL_HTTP_PROXY")
            return proxy

        def _forget(self, cached: bool) -> None:
            self.close()
            if cached:
                with self.gdal_env.open:
                    forget_file(self.url)

        def _open(self) -> Any:
            import rasterio

            # The header is read once: GDAL remembers it for stackstac's own opening.
            with self.gdal_env.open, rasterio.open(self.url, sharing=False) as raster:
                claim_of(self.url).check(raster, self.url)
            return super()._open()

        def __reduce__(self) -> tuple[Any, ...]:
            return _remake_reader, (self.__getstate__(),)

    return PatientReader


def _remake_reader(state: dict[str, Any]) -> Any:
    return stackstac_reader()(**state)


def odc_driver(claims: Mapping[str, Claim]) -> Any:
    """Make odc-stac's driver, which is known only once that is imported.

    Parameters
    ----------
    claims
        By address.
    """
    from odc.loader._rio import RioDriver, RioReader

    class PatientRioReader(RioReader):  # type: ignore[misc]
        def read(self, *arguments: Any, **options: Any) -> Any:
            import rasterio

            href, read = self._src.uri, super().read
            claim = claims.get(href, Claim("a file"))

            def checked() -> Any:
                with rasterio.open(href, sharing=False) as raster:
                    claim.check(raster, href)
                return read(*arguments, **options)

            return read_patiently(
                checked,
                href,
                name=claim.name,
                forget=lambda cached: forget_file(href) if cached else None,
                errors=_errors(),
            )

    class PatientDriver(RioDriver):  # type: ignore[misc]
        def open(self, src: Any, ctx: Any) -> Any:
            return PatientRioReader(src, ctx)

        def __reduce__(self) -> tuple[Any, ...]:
            return odc_driver, (claims,)

    return PatientDriver()
