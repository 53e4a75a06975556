"""Cloud-free composites. Row 5: imports rows 0-4.

`cube` is the front door, `periods` splits dates, `clear` says where the ground is seen,
`ranking` how good a date is, `methods` makes one pixel of many.
"""

from __future__ import annotations

from kappamask.composites.cube import composite
from kappamask.composites.ranking import Ranking

__all__ = ["Ranking", "composite"]
