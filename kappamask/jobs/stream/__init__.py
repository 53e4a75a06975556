"""Whole scenes to masks: decoding, network and writing at once. Row 6: imports rows 0-5.

`mask_product` reads SAFE products, `mask_files` items of a catalogue whose files lie on
this machine, `mask_scene` any scene in files of single bands. Memory holds a few windows
and the compressed mask, however large the scene is.
"""

from __future__ import annotations

from kappamask.jobs.stream.local_items import mask_files
from kappamask.jobs.stream.product import mask_product
from kappamask.jobs.stream.scene import StreamOptions, mask_scene

__all__ = ["StreamOptions", "mask_files", "mask_product", "mask_scene"]
