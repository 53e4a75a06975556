"""Pictures: never imports files of masks or composites.

`scene` draws one date, and holds the sheet that all pictures are; `series` all dates of a cube,
`maps` a map for notebooks, `report` a page.
What is not drawn is not loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kappamask.plot.maps import show_map
    from kappamask.plot.scene import quicklook
    from kappamask.plot.series import plot_before_after, plot_calendar, plot_series

__all__ = ["plot_before_after", "plot_calendar", "plot_series", "quicklook", "show_map"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = {"quicklook": "scene", "show_map": "maps"}.get(name, "series")
    return getattr(import_module(f"{__name__}.{room}"), name)
