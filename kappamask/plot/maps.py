"""Items and masks on a map that moves, for notebooks; folium only when a map is made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import odc.geo.xr  # noqa: F401  (registers the .odc accessor)

from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, Label
from kappamask.outputs.label_cube import check_labels
from kappamask.scenes.formats import open_layers
from kappamask.scenes.items import view_of

if TYPE_CHECKING:
    import folium
    import xarray as xr

TRANSPARENT = (Label.CLEAR, Label.MISSING, Label.UNDEFINED)  # the map is seen through these
LONGEST_PX = 1000  # of an overlay: it travels inside the page


def show_map(items: Iterable[Any] = (), masks: Iterable[Any] | xr.DataArray = ()) -> folium.Map:
    """Make a map of footprints and masks; a notebook shows it, ``.save("map.html")`` keeps it.

    Parameters
    ----------
    items
        ``pystac.Item`` or dicts: outlines with id, time and cloud cover as tooltips.
    masks
        Files that `write_mask` wrote; or a label cube as `predict_cube` gives it, which is
        computed date by date. Each date can be switched on and off; what is clear is
        transparent.

    Returns
    -------
    folium.Map
        The background comes from OpenStreetMap when the map is opened.

    Raises
    ------
    InputError
        If folium is not installed, or there is nothing to show.

    Examples
    --------
    >>> item = {"id": "S2A_a", "assets": {}, "properties": {"datetime": "2022-06-02T10:15:59Z"},
    ...         "geometry": {"type": "Polygon", "coordinates":
    ...                      [[[11, 46], [12, 46], [12, 47], [11, 47], [11, 46]]]}}
    >>> page = show_map([item]).get_root().render()
    >>> "S2A_a" in page
    True
    """
    try:
        import folium
    except ImportError:
        raise InputError(
            "a map needs the library folium, which is not installed: "
            "pip install kappamask[notebooks]"
        ) from None
    items, planes = list(items), list(_planes(masks))
    if not items and not planes:
        raise InputError("a map shows items or masks, got neither: pass one of them")
    chart = folium.Map(control_scale=True)
    corners: list[tuple[float, float]] = []  # latitude, longitude
    if items:
        outlines = folium.GeoJson(
            {"type": "FeatureCollection", "features": [_feature(item) for item in items]},
            name=f"{len(items)} items",
            style_function=lambda _: {"color": "#3D348B", "weight": 1.5, "fillOpacity": 0.04},
            tooltip=folium.GeoJsonTooltip(fields=["id", "time", "cloud cover"]),
        )
        outlines.add_to(chart)
        corners += [tuple(corner) for corner in outlines.get_bounds()]
    palette = np.array([(*entry.rgb, 255) for entry in LEGEND], np.uint8)
    palette[list(TRANSPARENT), 3] = 0
    for number, (name, plane) in enumerate(planes):
        overlay = plane.odc.add_to(
            chart,
            name=name,
            cmap=palette,
            max_size=LONGEST_PX,
            resampling="mode" if max(plane.shape) > LONGEST_PX else "nearest",
            opacity=0.75,
            show=number == 0,
        )
        corners += overlay.bounds
    folium.LayerControl(collapsed=len(planes) > 8).add_to(chart)
    if planes:
        chart.get_root().html.add_child(folium.Element(_legend()))
    latitudes, longitudes = zip(*corners, strict=True)
    chart.fit_bounds([(min(latitudes), min(longitudes)), (max(latitudes), max(longitudes))])
    return chart


def _feature(item: Any) -> dict[str, Any]:
    view = view_of(item)
    cover = view.properties.get("eo:cloud_cover")
    return {
        "type": "Feature",
        "geometry": view.geometry,
        "properties": {
            "id": view.id,
            "time": str(view.properties.get("datetime"))[:19].replace("T", " "),
            "cloud cover": "?" if cover is None else f"{cover:.0f} %",
        },
    }


def _planes(masks: Any) -> Iterable[tuple[str, xr.DataArray]]:
    """Give each date of the masks by name: uint8 (y, x) with a CRS."""
    if hasattr(masks, "dims"):
        for plane in check_labels(masks):
            yield str(plane["time"].values)[:16].replace("T", " "), plane.compute()
        return
    for path in masks:
        with open_layers(Path(path)) as raster:
            yield Path(path).stem, raster.squeeze("band", drop=True).load()


def _legend() -> str:
    """Explain the colours in a corner of the page."""
    rows = "".join(
        f'<div><span style="display:inline-block;width:12px;height:12px;border:1px solid #404040;'
        f'background:#{entry.color}"></span> {entry.title}</div>'
        for entry in LEGEND
        if entry.label not in TRANSPARENT
    )
    return (
        '<div style="position:fixed;bottom:30px;left:10px;z-index:9999;background:white;'
        f'padding:6px 10px;font:12px sans-serif;border:1px solid #999">{rows}</div>'
    )
