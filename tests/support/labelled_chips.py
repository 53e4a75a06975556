"""A few tiny labelled chips, laid out as in ../shared/data, for tests of `evaluate`."""

import numpy as np

from kappamask.base.bands import NAMES
from kappamask.train.chips import SLOT, Chip
from support.chip_files import write_table
from support.rasters import write_raster as write

TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
FOUR = ("B02", "B03", "B04", "B08")
SCL_OF = {0: 7, 1: 4, 2: 3, 3: 10, 4: 9, 5: 0}
ROWS = (  # name, split, kind, level, bands, codes drawn from top to bottom
    ("clouds_1", "test", "human", "L2A", FOUR, (1, 4)),
    ("clouds_2", "test", "human", "L2A", FOUR, (4, 1, 4)),
    ("shadows", "test", "human", "L1C", FOUR, (1, 2, 4)),
    ("val_1", "val", "human", "L2A", TEN, (1, 2, 3, 4)),
    ("val_2", "val", "human", "L2A", TEN, (4, 0, 1)),
    ("bare", "val", "clear", "L2A", TEN, (1,)),
)


def make_chip(name="a", *, kind="human", level="L2A", bands=FOUR, codes=(1, 4), size=64):
    """Stripes of classes: cloud bright, thin cloud half as bright, shadow dark."""
    stripe = np.minimum(np.arange(size) * len(codes) // size, len(codes) - 1)
    label = np.repeat(np.array(codes, np.uint8)[stripe][:, None], size, axis=1)
    bright = np.array([700, 700, 150, 2600, 6000, 700])[label]
    dn = np.zeros((13, size, size), np.uint16)
    noise = np.random.default_rng(len(name)).integers(-40, 40, (13, size, size))
    for band in bands:
        dn[SLOT[band]] = bright + noise[SLOT[band]]
    return Chip(name, dn, label, level, 10.0, kind)


def write_chips(folder):
    """Write `chips.csv`, the chips and their labels; return the chips by name."""
    chips = {}
    for name, _, kind, level, bands, codes in ROWS:
        chips[name] = make_chip(name, kind=kind, level=level, bands=bands, codes=codes)
        write_chip(folder / "chips", chips[name])
    write_table(folder, [[f"chips/{name}.tif", *rest, 10] for name, *rest, _, _ in ROWS])
    return chips


def write_chip(folder, chip):
    """Write pixels and the four bands of labels, the scene classification as drawn."""
    held = [name for name in NAMES if chip.dn[SLOT[name]].any()]
    write(folder / f"{chip.name}.tif", chip.dn[[SLOT[name] for name in held]], held)
    scl = np.array([SCL_OF[code] for code in range(6)], np.uint8)[chip.label]
    if chip.level == "L1C":
        scl = np.full_like(scl, 255)
    layers = np.stack([chip.label, scl, chip.label, chip.label])
    write(folder / f"{chip.name}_label.tif", layers, ("label", "scl", "net", "net_confidence"))


def codes_at_20m(label):
    """Every second pixel: what a 20 m raster of the same area holds."""
    return label[::2, ::2]
