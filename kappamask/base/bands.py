"""The one band table: Sentinel-2 MSI. Imports `errors` only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kappamask.base.errors import InputError, UnknownNameError

LEVELS = ("L1C", "L2A")


@dataclass(frozen=True)
class Band:
    """One band, or one auxiliary layer of an L2A product."""

    name: str  # as the canonical cube spells it
    common_name: str  # STAC eo:common_name, or the product's own word
    gsd: int  # native pixel size, metres
    wavelength_nm: float | None  # centre on Sentinel-2A; None for auxiliary layers
    levels: tuple[str, ...]  # the levels whose products hold it
    is_reflectance: bool = True  # False: takes neither offset nor the scale of reflectance
    dn_scale: float = 10000.0  # DN per unit of the physical value


# Centres: Sentinel-2 MSI spectral response functions 3.1 (S2A), ESA.
BANDS: tuple[Band, ...] = (
    Band("B01", "coastal", 60, 442.7, LEVELS),
    Band("B02", "blue", 10, 492.7, LEVELS),
    Band("B03", "green", 10, 559.8, LEVELS),
    Band("B04", "red", 10, 664.6, LEVELS),
    Band("B05", "rededge1", 20, 704.1, LEVELS),
    Band("B06", "rededge2", 20, 740.5, LEVELS),
    Band("B07", "rededge3", 20, 782.8, LEVELS),
    Band("B08", "nir", 10, 832.8, LEVELS),
    Band("B8A", "nir08", 20, 864.7, LEVELS),
    Band("B09", "nir09", 60, 945.1, LEVELS),
    Band("B10", "cirrus", 60, 1373.5, ("L1C",)),
    Band("B11", "swir16", 20, 1613.7, LEVELS),
    Band("B12", "swir22", 20, 2202.4, LEVELS),
)
# Layers that a cube may carry on request; no own network reads them.
# DN scale: aerosol optical thickness and water vapour in cm, both times 1000 (ESA product format).
AUXILIARY: tuple[Band, ...] = (
    Band("AOT", "aot", 10, None, ("L2A",), is_reflectance=False, dn_scale=1000.0),
    Band("WVP", "wvp", 10, None, ("L2A",), is_reflectance=False, dn_scale=1000.0),
)

NAMES: tuple[str, ...] = tuple(band.name for band in BANDS)
BY_NAME: dict[str, Band] = {band.name: band for band in BANDS + AUXILIARY}
REQUIRED: tuple[str, ...] = ("B02", "B03", "B04")
NEAR_INFRARED: tuple[str, ...] = ("B08", "B8A")  # one of them is required, the first is preferred

# Other common names: STAC eo extension 1.1 and 2.0, and what Earth Search calls them.
_COMMON_NAMES = {band.common_name: band.name for band in BANDS + AUXILIARY} | {
    "rededge071": "B05",
    "rededge075": "B06",
    "rededge078": "B07",
}
# B2, B08A, B02_10m, TOC-B02_10M, S2-L2A-B02: a product before it, a resolution behind it.
_SPELLING = re.compile(r"(?:(?:s2|l1c|l2a|toa|toc|boa)[-_])*(b\d{1,2}a?|aot|wvp)(?:[-_][126]0m)?")


def get_band(name: str) -> Band:
    """Look a band up by its canonical name.

    Raises
    ------
    UnknownNameError
        If no Sentinel-2 band has that name.

    Examples
    --------
    >>> get_band("B8A").gsd
    20
    """
    try:
        return BY_NAME[name]
    except (KeyError, TypeError):
        raise UnknownNameError.of("band", str(name), list(BY_NAME)) from None


def canonical_name(name: str) -> str:
    """Find the band that a catalogue or a back end spells in its own way.

    Known spellings: the canonical name in either case, with or without zeros, a
    resolution or a product (``b2``, ``B08A``, ``B02_10m``, ``TOC-B02_10M``), and
    common names of STAC (``blue``, ``nir08``).

    Raises
    ------
    UnknownNameError
        If that is no Sentinel-2 band.

    Examples
    --------
    >>> [canonical_name(name) for name in ("B02_10m", "b8", "B08A", "blue", "nir08", "B8A")]
    ['B02', 'B08', 'B8A', 'B02', 'B8A', 'B8A']
    """
    spelled = str(name).strip().lower()
    if spelled in _COMMON_NAMES:
        return _COMMON_NAMES[spelled]
    found = _SPELLING.fullmatch(spelled)
    canonical = found[1].upper() if found else ""
    if canonical.startswith("B"):
        number = int(canonical[1:].rstrip("A"))
        canonical = f"B{number}A" if canonical.endswith("A") else f"B{number:02d}"
    if canonical not in BY_NAME:
        raise UnknownNameError.of("band", str(name), [*BY_NAME])
    return canonical


def find_bands(names: Sequence[str], level: str) -> dict[str, int]:
    """Where the reflectance bands stand among the names that a back end gives its bands.

    Others (``SCL``, angles, ``AOT``...) are passed over. The names are checked as
    `check_network_bands` does.

    Returns
    -------
    dict of str to int
        Position by canonical name, in the order of the band table.

    Raises
    ------
    InputError
        If a band that a network needs is not there, or two names mean one band.

    Examples
    --------
    >>> find_bands(["SCL", "red", "green", "blue", "B8A"], "L2A")
    {'B02': 3, 'B03': 2, 'B04': 1, 'B8A': 4}
    """
    places = {}
    for place, name in enumerate(names):
        try:
            places[place] = canonical_name(name)
        except UnknownNameError:
            continue
    optical = {place: name for place, name in places.items() if name in NAMES}
    try:
        check_network_bands(list(optical.values()), level)
    except InputError as error:
        raise InputError(f"{error}; the bands are called {', '.join(map(str, names))}") from None
    places_by_name = {name: place for place, name in optical.items()}
    return {name: places_by_name[name] for name in NAMES if name in places_by_name}


def check_level(level: str | None) -> str:
    """Return `level` if it is ``"L1C"`` or ``"L2A"``.

    Raises
    ------
    InputError
        If it is anything else, absent included.

    Examples
    --------
    >>> check_level("L2A")
    'L2A'
    """
    if level not in LEVELS:
        raise InputError(
            f"the processing level must be 'L1C' or 'L2A', got {level!r}: "
            "pass level=... or set cube.attrs['level']"
        )
    return level


def bands_of_level(level: str) -> tuple[str, ...]:
    """Names of the reflectance bands that products of `level` hold, in band order.

    Examples
    --------
    >>> "B10" in bands_of_level("L2A")
    False
    """
    level = check_level(level)
    return tuple(band.name for band in BANDS if level in band.levels)


def check_names(names: Sequence[str], level: str) -> tuple[str, ...]:
    """Check that names are known at `level` and stand once each; any order is fine.

    Examples
    --------
    >>> check_names(["B04", "B03"], "L2A")
    ('B04', 'B03')
    """
    check_level(level)
    names = tuple(str(name) for name in names)
    for name in names:
        if level not in get_band(name).levels:
            raise InputError(f"band {name} does not exist at level {level}: leave it out")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"each band may stand once, got {', '.join(twice)} more than once")
    return names


def check_network_bands(names: Sequence[str], level: str) -> tuple[str, ...]:
    """Check that a network can work with these bands; any order is fine.

    Parameters
    ----------
    names
        Canonical band names, as they stand along the array's band axis.
    level
        ``"L1C"`` or ``"L2A"``.

    Returns
    -------
    tuple of str
        The same names.

    Raises
    ------
    UnknownNameError
        If a name is no Sentinel-2 band.
    InputError
        If a band stands twice, does not exist at this level, or if B02, B03,
        B04 and one of B08 and B8A are not all there.

    Examples
    --------
    >>> check_network_bands(["B04", "B03", "B02", "B8A"], "L2A")
    ('B04', 'B03', 'B02', 'B8A')
    """
    names = check_names(names, level)
    absent = [name for name in REQUIRED if name not in names]
    if not any(name in names for name in NEAR_INFRARED):
        absent.append(" or ".join(NEAR_INFRARED))
    if absent:
        raise InputError(
            f"a cloud mask needs B02, B03, B04 and B08 (or B8A); missing {', '.join(absent)}, "
            f"got {', '.join(names) or 'no band'}: load the missing bands too"
        )
    return names
