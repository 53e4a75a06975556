"""Products of which a file is another one: formats, links, pipes, devices, headers that lie."""

from __future__ import annotations

import os
import socket
import struct

import numpy as np
from hypothesis import strategies as st
from rasterio.io import MemoryFile
from support.safe_products import EPSG

ELSEWHERE = 7777  # DN of files that no product holds
VRT = (
    '<VRTDataset rasterXSize="48" rasterYSize="36"><SRS>EPSG:32632</SRS>'
    "<GeoTransform>600000,10,0,5500020,0,-10</GeoTransform>"
    '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{}</SourceFilename>'
    "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
)
HOW = (
    "vrt", "vrt of an address", "vrt of a sibling", "tiff", "png", "text", "empty", "zeros", "pipe",
    "link out", "link to a device", "link to itself", "link to a sibling", "folder", "socket",
    "gone", "cut", "tiles", "size", "first bytes", "sidecar", "long",
)  # fmt: skip


def encode(driver, shape=(36, 48)):
    """A raster of another format, of pixels that no product holds."""
    value = ELSEWHERE if driver == "GTiff" else 77
    kind = "uint16" if driver == "GTiff" else "uint8"
    grid = {"height": shape[0], "width": shape[1], "count": 1, "dtype": kind, "crs": EPSG}
    with MemoryFile() as memory:
        with memory.open(
            driver=driver, **(grid if driver == "GTiff" else grid | {"crs": None})
        ) as to:
            to.write(np.full((1, *shape), value, kind))
        return bytes(memory.read())


def swap(draw, path, *, others, elsewhere, url):  # noqa: C901, PLR0912  a trick a branch
    """Put something else in the place of a file; tell what."""
    how = draw(st.sampled_from(HOW))
    content = path.read_bytes()
    other = draw(st.sampled_from(others))
    path.unlink()
    texts = {"vrt": elsewhere, "vrt of an address": f"/vsicurl/{url}/x", "vrt of a sibling": other}
    if how in texts:
        path.write_text(VRT.format(texts[how]))
    elif how in ("tiff", "png"):
        path.write_bytes(encode("GTiff" if how == "tiff" else "PNG"))
    elif how == "text":
        path.write_bytes(draw(st.binary(max_size=100)))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "long":
        path.write_bytes(content + bytes(10_000))
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "socket":
        # Its name would be too long where tests lie: from its own folder.
        with socket.socket(socket.AF_UNIX) as made:
            at = os.open(path.parent, os.O_RDONLY)
            made.bind(f"/proc/self/fd/{at}/{path.name}")
            os.close(at)
    elif how == "folder":
        path.mkdir()
    elif how.startswith("link"):
        targets = {"link out": elsewhere, "link to a device": "/dev/zero",
                   "link to itself": path, "link to a sibling": other}  # fmt: skip
        path.symlink_to(targets[how])
    elif how == "cut":
        path.write_bytes(content[: draw(st.integers(0, len(content)))])
    elif how in ("tiles", "size"):
        spoiled = bytearray(content)
        at = content.find(b"\xff\x51")
        if at >= 0:
            place = at + 6 + draw(st.integers(0, 3)) * 4 + (16 if how == "tiles" else 0)
            number = draw(st.sampled_from([0, 1, 7, 16, 31, 64, 10_980, 2**31 - 1, 2**32 - 1]))
            spoiled[place : place + 4] = struct.pack(">I", number)
        path.write_bytes(spoiled)
    elif how == "first bytes":
        spoiled = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            spoiled[draw(st.integers(0, min(60, len(spoiled) - 1)))] ^= 1 << draw(st.integers(0, 7))
        path.write_bytes(spoiled)
    elif how == "sidecar":
        path.write_bytes(content)
        for suffix in (".ovr", ".msk"):
            path.with_name(path.name + suffix).write_bytes(encode("GTiff", (18, 24)))
        path.with_name(f"{path.name}.aux.xml").write_text(
            "<PAMDataset><PAMRasterBand band='1'><NoDataValue>9</NoDataValue></PAMRasterBand>"
            f"<Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>{elsewhere}</MDI></Metadata>"
            "</PAMDataset>"
        )
    return how
