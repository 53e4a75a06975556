"""Scenes and cubes, most of them a little wrong, and a network that can be checked by hand.

The network looks at one pixel at a time, so that its labels do not depend on windows:
whatever `predict_array` and `predict_cube` do with windows, chunks, orders of bands and
missing data, the right answer is one line of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from kappamask.base.bands import BY_NAME, NAMES
from kappamask.base.windows import Lattice
from kappamask.networks.manifest import find_entry
from kappamask.networks.model import Model

SMALL = Lattice(core=32, margin=32, whole=64, stride=32, mirror=32)  # small scenes are cut too
FOUR = ("B02", "B03", "B04", "B08")
HIGHEST, LOWEST = 10, -1  # reflectance that is refused lies beyond
MISSING = 5
SIZES = [1, 1, 2, 3, 5, 31, 32, 33, 63, 65, 70, 129, 0]
WEIGHTS = np.random.default_rng(7).normal(size=(4, len(NAMES)))  # of a made-up network


class PixelRunner:
    """An engine whose network is one matrix: logits of a pixel from its 13 slots."""

    engine, version, precision, device = "torch", "made up", "fp32", "cpu"

    def make_slots(self, count, height, width):
        return np.zeros((count, len(NAMES), height, width), np.float32)

    def run(self, slots, flags):
        assert np.shape(flags) == (len(slots), len(NAMES) + 1)
        return np.einsum("kb,nbyx->nkyx", WEIGHTS, slots).astype(np.float32)

    def find_largest(self, slots, flags):
        return self.run(slots, flags).argmax(1)

    def softmax(self, logits):
        shifted = np.exp(logits - logits.max(0))
        return (shifted / shifted.sum(0)).astype(np.float32)


def pixel_model(level):
    """Give the shipped model another network and small windows."""
    return Model(replace(find_entry("default", level), lattice=SMALL), level, PixelRunner)


@dataclass(frozen=True)
class Case:
    """What `predict_array` is called with."""

    values: np.ndarray
    bands: tuple
    level: object
    output: str
    origin: tuple[int, int]


# --- what is right, by the public words alone ----------------------------------------------


def is_refused(values, bands, level):
    """Tell whether the stated rules refuse a scene, its pixels apart."""
    known = level in ("L1C", "L2A") and all(
        isinstance(name, str) and name in BY_NAME and level in BY_NAME[name].levels
        for name in bands
    )
    return not (
        known
        and values.ndim == 3
        and values.dtype.kind == "f"
        and len(values) == len(bands)
        and len(set(bands)) == len(bands)
        and set(FOUR[:3]) <= set(bands)
        and {"B08", "B8A"} & set(bands)
        and min(values.shape) > 0
    )


def looks_like_dn(values, bands):
    """Tell whether finite pixels of bands of reflectance lie where no reflectance does."""
    optical = np.stack([v for v, name in zip(values, bands, strict=True) if name in NAMES])
    finite = optical[np.isfinite(as_float32(optical))]
    return bool(finite.size and (finite.max() > HIGHEST or finite.min() < LOWEST))


def as_float32(values):
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32)


def expected_missing(values, bands):
    """Missing is a pixel without blue, green, red or the near infrared."""
    nir = "B08" if "B08" in bands else "B8A"
    rows = [list(bands).index(name) for name in (*FOUR[:3], nir)]
    return ~np.isfinite(as_float32(values))[rows].all(0)


def expected_logits(values, bands, level):
    """The network, pixel by pixel: (4, y, x) float64."""
    fed = find_entry("default", level).normalisation
    slots = np.zeros((len(NAMES), *values.shape[1:]))
    for row, name in zip(as_float32(values), bands, strict=True):
        if name in NAMES:
            at = NAMES.index(name)
            root = np.sqrt(np.where(np.isfinite(row), row, 0).clip(0).astype(np.float64))
            slots[at] = np.where(np.isfinite(row), (root - fed.mean[at]) / fed.std[at], 0)
    return np.einsum("kb,byx->kyx", WEIGHTS, slots)


def check_result(result, values, bands, level, output):
    """Compare with the above: labels, or probabilities; missing is exactly what must be."""
    missing, logits = expected_missing(values, bands), expected_logits(values, bands, level)
    if output == "probabilities":
        assert result.shape == (4, *values.shape[1:])
        assert result.dtype == np.float32
        assert (np.isnan(result) == missing).all()
        right = np.exp(logits - logits.max(0))
        right /= right.sum(0)
        np.testing.assert_allclose(result[:, ~missing], right[:, ~missing], atol=1e-3)
        return
    assert result.shape == values.shape[1:]
    assert result.dtype == np.uint8
    assert ((result == MISSING) == missing).all()
    below, best = np.sort(logits, axis=0)[-2:]
    sure = ~missing & (best - below > 1e-3)
    assert (result[sure] == logits.argmax(0)[sure] + 1).all()
    assert np.isin(result[~missing], [1, 2, 3, 4]).all()


# --- what is tried -------------------------------------------------------------------------


@st.composite
def band_names(draw, level):
    """Names that are right in most cases, in any order."""
    others = [name for name in NAMES if level in BY_NAME[name].levels and name not in FOUR]
    names = [*FOUR, *draw(st.lists(st.sampled_from(others), unique=True, max_size=3))]
    names = list(draw(st.permutations(names)))
    wrong = draw(
        st.sampled_from(["no"] * 9 + ["drop", "twice", "unknown", "level", "nir", "layer"])
    )
    at = draw(st.integers(0, len(names) - 1))
    if wrong == "unknown":
        names[at] = draw(st.sampled_from(["b04", "B4", "", "SCL", "red", "B99", None, 4, " B04"]))
    changed = {
        "drop": [*names[:at], *names[at + 1 :]],
        "twice": [*names[:at], names[at - 1], *names[at + 1 :]],
        "level": [*names, "B10"],
        "nir": ["B8A" if name == "B08" else name for name in names],
        "layer": [*names, "AOT"],
    }
    return changed.get(wrong, names)


SPOILS = ["none"] * 3 + [
    "pixels", "band", "all", "stripe", "corner", "inf", "minus inf", "negative", "zero", "optional",
    "high", "huge", "huge optional", "fill", "dn",
]  # fmt: skip


def spoil(values, how, rng):
    """Put what is no reflectance into a scene (band, y, x)."""
    bands, height, width = values.shape
    if not values.size:
        return
    band = rng.integers(bands)
    some = rng.random((height, width)) < 0.2
    some[rng.integers(height), rng.integers(width)] = True
    marks = {
        "pixels": np.nan, "inf": np.inf, "minus inf": -np.inf, "negative": -0.4, "zero": 0.0,
        "high": 10.5, "huge": 1e30, "huge optional": 9.97e36, "fill": -9999.0, "optional": np.nan,
    }  # fmt: skip
    parts = {
        "band": np.s_[band], "all": np.s_[:], "stripe": np.s_[:, :, width // 2 :],
        "corner": np.s_[:, height // 2 :, : width // 2 + 1],
    }  # fmt: skip
    with np.errstate(over="ignore"):
        if how in marks:
            band = bands - 1 if how in ("optional", "huge optional") else band
            values[band][some] = np.asarray(marks[how]).astype(values.dtype)
        elif how in parts:
            values[parts[how]] = np.nan
        elif how == "dn":
            values *= 10000


@st.composite
def scenes(draw, bands, *, sizes=SIZES):
    """(band, y, x), of any float, laid out in memory in any way."""
    height, width = draw(st.sampled_from(sizes)), draw(st.sampled_from(sizes))
    if draw(st.integers(0, 15)) == 0:
        height, width = draw(st.sampled_from([(1, 700), (700, 1), (2, 513)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.random((bands, height, width)) * draw(st.sampled_from([0.1, 1.0, 3.0]))
    dtype = draw(st.sampled_from(["f4"] * 5 + ["f8", "f8", "f2", ">f4", ">f8"]))
    values = values.astype(dtype)
    for how in draw(st.lists(st.sampled_from(SPOILS), min_size=1, max_size=2)):
        spoil(values, how, rng)
    layout = draw(st.sampled_from(["C", "C", "F", "flip", "step", "read-only"]))
    if layout == "read-only":
        values.flags.writeable = False
    laid_out = {
        "F": np.asfortranarray,
        "flip": lambda values: values[:, ::-1, ::-1],
        "step": lambda values: np.repeat(values, 2, axis=2)[:, :, ::2],
    }
    return laid_out[layout](values) if layout in laid_out else values


@st.composite
def array_cases(draw, *, sizes=SIZES):
    """Calls of `predict_array`, one in three of them against a rule."""
    level = draw(st.sampled_from(["L2A", "L2A", "L1C"]))
    bands = draw(band_names(level))
    values = draw(scenes(len(bands), sizes=sizes))
    wrong = draw(st.sampled_from(["no"] * 12 + ["integers", "dims", "count", "level", "kind"]))
    if wrong == "integers":
        with np.errstate(all="ignore"):
            kind = draw(st.sampled_from(["u1", "i2", "u2", "i8", "?"]))
            values = np.nan_to_num(values, posinf=0, neginf=0).clip(0, 1).astype(kind)
    elif wrong == "dims":
        values = values[0] if draw(st.booleans()) else values[None]
    elif wrong == "count":
        values = values[:-1]
    elif wrong == "level":
        level = draw(st.sampled_from([None, "", "L3A", "l2a", "L2", 2]))
    elif wrong == "kind":
        values = values.astype(draw(st.sampled_from(["c8", "O", "U5"])))
    output = draw(st.sampled_from(["labels", "labels", "probabilities"]))
    steps = st.integers(-(10**6), 10**6)
    return Case(values, tuple(bands), level, output, (draw(steps), draw(steps)))


# --- cubes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class CubeCase:
    """A cube, and whether a rule refuses it."""

    cube: xr.DataArray
    values: np.ndarray  # (time, band, y, x)
    bands: tuple
    level: object
    output: str
    refused: bool


TIMES = [0, 0, 3, 1, 2, 2]  # days, unsorted and doubled


def axis(draw, size, *, down):
    """Coordinates of an axis, and whether they are even."""
    step = draw(st.sampled_from([10.0, 10.0, 20.0, 7.3, 1e-4]))
    first = draw(st.sampled_from([600005.0, 5000005.0, -35.0, 0.0]))
    centres = first + step * np.arange(size) * (-1 if down else 1)
    how = draw(st.sampled_from(["even"] * 8 + ["jump", "nan", "same", "shuffled", "inf"]))
    if size < 3 or how == "even":
        return centres, True
    half = size // 2
    places, there = {
        "jump": (np.s_[half:], centres[half:] + step * 5),
        "nan": (half, np.nan),
        "same": (np.s_[:], first),
        "shuffled": ([0, 1], centres[[1, 0]]),
        "inf": (-1, np.inf),
    }[how]
    centres[places] = there
    return centres, False


def put_crs(draw, cube):
    """Name a CRS in one of the ways that are in use, or not at all; tell whether it is named."""
    how = draw(st.sampled_from(["utm"] * 6 + ["attribute", "cf", "rotated", "none"]))
    if how == "utm":
        return cube.rio.write_crs(32632), True
    if how == "attribute":
        return cube.assign_attrs(crs="EPSG:32632"), True
    if how == "none":
        return cube, False
    marker = xr.DataArray(0, attrs={"grid_mapping_name": "transverse_mercator"})
    if how == "rotated":  # a north that is not up: pixels are pixels all the same
        marker.attrs["GeoTransform"] = "600000 9.9 1.4 5000000 1.4 -9.9"
    return cube.assign_coords(spatial_ref=marker), True


MEANT = dict.fromkeys(("b04", "B4", "red", " B04"), "B04")  # a cube's bands by other names


def meant_bands(bands):
    """Name the bands that a cube is labelled by, and tell where they are: other layers go."""
    names = [MEANT.get(name, name) for name in bands]
    places = [at for at, name in enumerate(names) if name in BY_NAME]
    return tuple(names[at] for at in places), places


@st.composite
def cube_cases(draw, *, sizes=SIZES):
    """Cubes in any order of dimensions, lazy or not, one in two of them against a rule."""
    import rioxarray  # noqa: F401  registers .rio

    level = draw(st.sampled_from(["L2A", "L2A", "L1C"]))
    bands = tuple(map(str, draw(band_names(level))))
    count = draw(st.sampled_from([1, 1, 2, 3, 0]))
    first = draw(scenes(len(bands), sizes=sizes))
    values = np.stack([np.roll(first, date, axis=-1) for date in range(count)] or [first])[:count]
    down, right = draw(st.booleans()), draw(st.booleans())
    y, even_y = axis(draw, values.shape[2], down=down)
    x, even_x = axis(draw, values.shape[3], down=not right)
    cube = xr.DataArray(
        values,
        dims=("time", "band", "y", "x"),
        coords={"band": list(bands), "y": y, "x": x},
        attrs={"level": level},
    )
    cube, has_crs = put_crs(draw, cube)
    refused = not (even_y and even_x and has_crs and count)
    bands, kept = meant_bands(bands)
    values = values[:, kept]
    refused |= is_refused(first[kept], bands, level)
    days = draw(st.permutations(TIMES))[:count]
    if draw(st.booleans()):
        cube = cube.assign_coords(time=np.array(days, "M8[D]").astype("M8[ns]"))
    if count == 1 and draw(st.booleans()):
        cube = cube.isel(time=0, drop=draw(st.booleans()))
    wrong = draw(st.sampled_from(["no"] * 9 + ["integers", "dim", "names", "level", "x", "extra"]))
    changes = {
        "integers": lambda: (cube * 0).fillna(0).astype("u2"),
        "dim": lambda: cube.rename(band="layer"),
        "names": lambda: cube.drop_vars("band"),
        "level": lambda: cube.assign_attrs(level=draw(st.sampled_from([None, "", "L3", 1]))),
        "x": lambda: cube.drop_vars("x"),
        "extra": lambda: cube.expand_dims("run"),
    }
    if wrong in changes and not (wrong == "x" and not values.shape[3]):
        cube, refused = changes[wrong](), True
    if "band" in cube.coords and draw(st.integers(0, 9)) == 9:
        cube = cube.rename(band="bands")  # as openEO says
    cube = cube.transpose(*draw(st.permutations(cube.dims)))
    if draw(st.booleans()) and 0 not in cube.shape:
        part = st.integers(1, 70)
        cube = cube.chunk({dim: draw(part) for dim in cube.dims})
    output = draw(st.sampled_from(["labels", "labels", "probabilities"]))
    return CubeCase(cube, values, bands, level, output, refused)


# --- chunks of a back end ------------------------------------------------------------------

SPELLINGS = {"B02": ["B02", "B2", "blue", "b02", "B02_10m"], "B03": ["B03", "green"],
             "B04": ["B04", "red", "TOC-B04_10M"], "B08": ["B08", "nir", "B8"]}  # fmt: skip


@dataclass(frozen=True)
class ChunkCase:
    """What a back end gives the UDF."""

    cube: xr.DataArray
    context: object
    dn: np.ndarray  # (time, the four bands, y, x), reflectance is (dn + offset) / 10000
    offset: int
    refused: bool  # by a rule, whatever the pixels are
    output: str


@st.composite
def chunk_cases(draw):
    """Chunks with bands spelled in any way, as DN of any type, with contexts that may be wrong."""
    height, width = draw(st.sampled_from([1, 2, 5, 32, 40, 0])), draw(st.sampled_from([1, 3, 33]))
    count = draw(st.sampled_from([1, 1, 2, 0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dn = rng.integers(1100, 9000, (count, 4, height, width))
    dn[rng.random((count, 4, height, width)) < 0.05] = 0
    dn[:, :, : height // 3, : width // 2] = 0
    kind = draw(st.sampled_from(["f4", "f4", "f8", "u2", "i2", "i4"]))
    values = dn.astype(kind)
    if kind[0] == "f" and values.size and draw(st.booleans()):
        values[..., -1, -1] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    names = [draw(st.sampled_from(SPELLINGS[name])) for name in FOUR]
    extra = draw(st.sampled_from([[], ["SCL"], ["sunZenithAngles", "AOT"], ["B02"]]))
    refused = (extra == ["B02"]) or not (height and count)
    more = np.full((count, len(extra), height, width), 7, kind)
    dims = ("t", draw(st.sampled_from(["bands", "band", "spectral"])), "y", "x")
    cube = xr.DataArray(
        np.concatenate([values, more], axis=1),
        dims=dims,
        coords={dims[1]: [*names, *extra], "y": np.arange(height) * -10.0 + 5e6},
    )
    offset = draw(st.sampled_from([0, 0, -1000]))
    output = draw(st.sampled_from(["labels", "mask", "probabilities"]))
    context = {"offset": offset, "output": output}
    wrong = draw(st.sampled_from(["no"] * 6 + ["context", "drop", "dims"]))
    if wrong == "context":
        context |= draw(st.sampled_from(BAD_CONTEXTS))
        refused = True
    elif wrong == "drop" and extra != ["B02"]:
        cube, refused = cube.isel({dims[1]: slice(1, None)}), True
    elif wrong == "dims":
        cube, refused = cube.rename(x="lon"), True
    if wrong != "dims" and draw(st.booleans()):
        cube = cube.transpose(*draw(st.permutations(cube.dims)))
    return ChunkCase(cube, context, values[:, : len(FOUR)], offset, refused, output)


BAD_CONTEXTS = [
    {"scale": "abc"}, {"scale": 0}, {"scale": -1}, {"scale": float("nan")}, {"scale": []},
    {"offset": "x"}, {"offset": float("inf")}, {"offset": {}}, {"level": "L3"}, {"level": []},
    {"model": "nothing"}, {"model": {}}, {"model": 4}, {"output": "picture"}, {"output": []},
    {"output": "mask", "buffer_px": -1}, {"output": "mask", "buffer_px": 1.5},
    {"output": "mask", "buffer_px": "x"}, {"output": "mask", "buffer_px": []},
    {"threads": "many"}, {"threads": -3}, {"threads": []}, {"colour": "red"},
    {"output": "mask", "buffer_px": float("nan")}, {"output": "mask", "buffer_px": float("inf")},
]  # fmt: skip
