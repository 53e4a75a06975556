"""Pictures. Row 5: never imports files of masks or composites.

`scene` draws one date, `series` all dates, `days` a calendar of them, `compare` a composite
beside what it was made of, `maps` a map for notebooks.
"""

from __future__ import annotations

from kappamask.plot.compare import plot_before_after
from kappamask.plot.days import plot_calendar
from kappamask.plot.maps import show_map
from kappamask.plot.scene import quicklook
from kappamask.plot.series import plot_series

__all__ = ["plot_before_after", "plot_calendar", "plot_series", "quicklook", "show_map"]
