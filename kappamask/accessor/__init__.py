"""`cube.kappamask`: the main steps as methods of a DataArray.

xarray has no entry point for accessors, and `import kappamask` must not import xarray. So
this module registers when it is imported: by ``import kappamask.accessor``, or by the first use
of a function of `kappamask` that gives or takes cubes, such as ``kappamask.load_cube``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from kappamask.base.errors import InputError
from kappamask.base.legend import Label

if TYPE_CHECKING:
    from kappamask.composites.ranking import BufferLike


@xr.register_dataarray_accessor("kappamask")  # type: ignore[no-untyped-call]
class KappaMaskAccessor:
    """Methods of a canonical cube (time, band, y, x); ``labels`` are computed where not given.

    Examples
    --------
    >>> import numpy as np, rioxarray, kappamask.accessor
    >>> cube = xr.DataArray(
    ...     np.full((1, 4, 40, 40), 0.05, "float32"),
    ...     dims=("time", "band", "y", "x"),
    ...     coords={"time": np.array(["2022-06-02"], "M8[ns]"),
    ...             "band": ["B02", "B03", "B04", "B08"],
    ...             "y": 5000395.0 - 10 * np.arange(40), "x": 600005.0 + 10 * np.arange(40)},
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> cube.kappamask.labels().dims
    ('time', 'y', 'x')
    >>> sorted(cube.kappamask.composite(period="month").data_vars)
    ['date', 'never_clear', 'observations', 'reflectance', 'seen']
    """

    def __init__(self, cube: xr.DataArray) -> None:
        """Remember the cube; xarray makes one accessor per DataArray."""
        self._cube = cube

    def labels(self, *, model: Any = "default") -> xr.DataArray:
        """Label the cube, lazily: `kappamask.predict_cube`."""
        from kappamask.predict.cube import predict_cube

        return predict_cube(self._cube, model=model)

    def probabilities(self, *, model: Any = "default") -> xr.DataArray:
        """Give the probabilities of the classes, lazily: `kappamask.predict_cube`."""
        from kappamask.predict.cube import predict_cube

        return predict_cube(self._cube, model=model, output="probabilities")

    def snow(self, *, model: Any = "default") -> xr.DataArray:
        """Tell snow on clear ground, lazily, with B11: `kappamask.predict_cube`."""
        from kappamask.predict.cube import predict_cube

        return predict_cube(self._cube, model=model, output="snow")

    def mask(
        self,
        labels: xr.DataArray | None = None,
        *,
        buffer_m: BufferLike = None,
        model: Any = "default",
    ) -> xr.DataArray:
        """Keep what is clear, lazily; NaN stands for the rest.

        Parameters
        ----------
        labels
            uint8 (time, y, x) of the cube; None computes them.
        buffer_m
            Metres around clouds and shadows as `kappamask.composite` takes them; none
            unless given.
        model
            As in `labels`.

        Returns
        -------
        xarray.DataArray
            The cube, of the same dates and bands.

        Raises
        ------
        InputError
            If the labels are not of the cube.
        """
        from kappamask.composites.cube import clear_of

        found = self.labels(model=model) if labels is None else labels
        if "time" in self._cube.dims or "time" in self._cube.coords:
            clear = clear_of(self._cube, found, buffer_m=buffer_m)
            if "time" not in self._cube.dims:
                clear = clear.isel(time=0)
        elif buffer_m:
            raise InputError("buffers need a cube with a time: give it one with assign_coords")
        else:
            clear = found == Label.CLEAR
        return self._cube.where(clear).transpose(*self._cube.dims).assign_attrs(self._cube.attrs)

    def composite(
        self, labels: xr.DataArray | None = None, *, model: Any = "default", **options: Any
    ) -> xr.Dataset:
        """Compose images without clouds: `kappamask.composite`, which takes the options."""
        from kappamask.composites.cube import composite

        found = self.labels(model=model) if labels is None else labels
        return composite(self._cube, found, **options)

    def plot(
        self,
        labels: xr.DataArray | None = None,
        *,
        path: str | Path | None = None,
        title: str | None = None,
        model: Any = "default",
    ) -> Any:
        """Draw the cube and its labels: one date as `quicklook`, several as `plot_series`.

        Of labels themselves (``labels.kappamask.plot()``) what xarray draws, in the colours of
        the classes.

        Parameters
        ----------
        labels, model
            As in `mask`.
        path
            Where to keep the PNG, if anywhere.
        title
            Of the picture.

        Returns
        -------
        PIL.Image.Image
            A notebook shows it; of labels xarray's own artist or grid of panels.
        """
        if "band" not in self._cube.dims and self._cube.dtype == np.uint8:
            from kappamask.plot.picture import plot_labels

            return plot_labels(self._cube)
        import tempfile

        from PIL import Image

        from kappamask.plot import plot_series, quicklook

        found = self.labels(model=model) if labels is None else labels
        draw = plot_series if self._cube.sizes.get("time", 1) > 1 else quicklook
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "picture.png" if path is None else Path(path)
            draw(self._cube, found, target, title=title)
            with Image.open(target) as picture:
                picture.load()
        return picture
