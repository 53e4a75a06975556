"""kappamask: cloud masks for Sentinel-2 from STAC catalogues, arrays and openEO."""

from __future__ import annotations

__version__ = "0.1.0"
