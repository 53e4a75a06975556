"""Tiny SAFE products, in the format of today and in the one before December 2016.

JP2 without loss, tiled, with the metadata that readers look at; everything else that a
product holds is left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from rasterio.transform import from_origin

from kappamask.base.bands import BANDS, BY_NAME
from kappamask.scenes.area import transformer
from support.rasters import write_raster

HEIGHT, WIDTH = 180, 240  # pixels of 10 m
EPSG, LEFT, TOP = 32632, 600000, 5500020
TILES = {"32UPV": (EPSG, LEFT, TOP)}
NEW = "S2{unit}_MSI{level}_20170430T103021_{n}_R108_T32UPV_20170430T103024"
OLD = "S2{unit}_OPER_PRD_MSI{level}_PDMC_20160430T161525_R108_V20160430T103021_20160430T103021"


@dataclass(frozen=True)
class Recipe:
    """What to write."""

    level: str = "L1C"
    old: bool = False  # the format before December 2016
    baseline: str | None = "02.05"
    offset: int | None = None  # listed in the metadata, and added to what is stored
    unit: str = "A"  # S2A to S2D
    tiles: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: TILES)
    gsds: tuple[int, ...] = (10, 20, 60)  # folders of an L2A product
    seed: int = 0
    shape: tuple[int, int] = (HEIGHT, WIDTH)
    block: int = 64  # JP2 tile
    scl: bool = False  # with the scene classification
    clouds: float | None = None  # percent, as the metadata tell
    smooth: bool = False  # a plane in place of noise

    @property
    def name(self) -> str:
        """Of the product."""
        number = f"N{self.baseline or '00.00'}".replace(".", "")
        return (OLD if self.old else NEW).format(unit=self.unit, level=self.level, n=number)


def make_dn(recipe: Recipe, tile: str, band: str, gsd: int) -> np.ndarray:
    """DN of one band before an offset, (y, x) uint16; a corner has no data."""
    number = list(BY_NAME).index(band) + 100 * sorted(recipe.tiles).index(tile)
    shape = [size * 10 // gsd for size in recipe.shape]
    if recipe.smooth:  # at 10 m; at 20 and 60 m its means
        rows, columns = (gsd // 10 * (np.arange(length) + 0.5) - 0.5 for length in shape)
        dn = np.rint(1000 + number + 4 * rows[:, None] + 2 * columns).astype(np.uint16)
    else:
        rng = np.random.default_rng([recipe.seed, number, gsd])
        dn = rng.integers(1, 6000, shape, dtype=np.uint16)
    dn[: len(dn) // 3, : dn.shape[1] // 4] = 0
    return dn


def make_classes(recipe: Recipe, tile: str) -> np.ndarray:
    """Classes of Sen2Cor at 20 m, (y, x) uint8."""
    rng = np.random.default_rng([recipe.seed, sorted(recipe.tiles).index(tile), 20])
    return rng.integers(0, 12, [size // 2 for size in recipe.shape], dtype=np.uint8)


def held(recipe: Recipe) -> list[tuple[str, int]]:
    """Bands and pixel sizes of the files of a product."""
    if recipe.level == "L1C":
        return [(band.name, band.gsd) for band in BANDS]
    bands = [band for band in (*BANDS, BY_NAME["AOT"]) if "L2A" in band.levels]
    return [
        (band.name, gsd)
        for band in bands
        for gsd in recipe.gsds
        if gsd >= band.gsd and not (band.name == "B08" and gsd > 10)
    ]


def write_safe(folder: Path, recipe: Recipe = Recipe()) -> Path:
    """Write a product into `folder`; return its own folder."""
    product = folder / f"{recipe.name}.SAFE"
    listed = []
    for tile, (epsg, left, top) in recipe.tiles.items():
        granule = product / "GRANULE" / granule_name(recipe, tile)
        (granule / "IMG_DATA").mkdir(parents=True)
        (granule / tile_metadata_name(recipe, tile)).write_text(tile_xml(recipe, tile))
        for band, gsd in held(recipe):
            dn = make_dn(recipe, tile, band, gsd)
            if recipe.offset and BY_NAME[band].is_reflectance:
                dn = np.where(dn == 0, 0, dn.astype(int) - recipe.offset).astype(np.uint16)
            path = granule / "IMG_DATA" / image_name(recipe, tile, band, gsd)
            path.parent.mkdir(exist_ok=True)
            write_jp2(path, dn, epsg, from_origin(left, top, gsd, gsd), block=recipe.block)
            listed.append(path.relative_to(product).with_suffix("").as_posix())
        if recipe.scl:
            path = granule / "IMG_DATA" / image_name(recipe, tile, "SCL", 20)
            grid = from_origin(left, top, 20, 20)
            write_jp2(path, make_classes(recipe, tile), epsg, grid, block=recipe.block)
    if recipe.old:
        listed = [Path(name).name for name in listed]
    name = f"MTD_MSI{recipe.level}.xml"
    if recipe.old:
        name = f"{recipe.name.replace('PRD_MSI', 'MTD_SAF')}.xml"
    (product / name).write_text(product_xml(recipe, listed))
    return product


def degrees(left: float, bottom: float, right: float, top: float):
    """Give a rectangle of the grid, some metres smaller, as a geometry in degrees."""
    inner = shapely.segmentize(shapely.box(left + 1, bottom + 1, right - 1, top - 1), 50)
    return shapely.transform(inner, transformer(EPSG, 4326).transform, interleaved=False)


def zip_safe(product: Path) -> Path:
    """Pack a product as Copernicus does, its folder at the root of the archive."""
    packed = shutil.make_archive(str(product.with_suffix("")), "zip", product.parent, product.name)
    return Path(packed)


def granule_name(recipe: Recipe, tile: str) -> str:
    if recipe.old:
        return f"{old_stem(recipe, 'OPER_MSI', tile)}_N{recipe.baseline}"
    return f"{recipe.level}_T{tile}_A009686_20170430T103024"


def tile_metadata_name(recipe: Recipe, tile: str) -> str:
    if not recipe.old:
        return "MTD_TL.xml"
    return f"{old_stem(recipe, 'OPER_MTD', tile)}.xml"


def old_stem(recipe: Recipe, kind: str, tile: str) -> str:
    return f"S2{recipe.unit}_{kind}_{recipe.level}_TL_EPA__20160430T161525_A000734_T{tile}"


def image_name(recipe: Recipe, tile: str, band: str, gsd: int) -> str:
    if recipe.level == "L2A":
        stem = f"T{tile}_20170430T103021"
        if recipe.old:
            stem = old_stem(recipe, "USER_MSI", tile)
        return f"R{gsd}m/{stem}_{band}_{gsd}m.jp2"
    if recipe.old:
        return f"{old_stem(recipe, 'OPER_MSI', tile)}_{band}.jp2"
    return f"T{tile}_20170430T103021_{band}.jp2"


def write_jp2(path: Path, dn: np.ndarray, epsg: int, transform, *, block: int) -> None:
    """Write one band without loss."""
    exact = {"QUALITY": "100", "REVERSIBLE": "YES", "RESOLUTIONS": "2"}
    tiles = {"BLOCKXSIZE": block, "BLOCKYSIZE": block}
    grid = {"crs": epsg, "transform": transform}
    write_raster(path, dn[None], driver="JP2OpenJPEG", **grid, **exact, **tiles)


def product_xml(recipe: Recipe, listed: list[str]) -> str:
    """Write the product's own metadata, as little as readers need."""
    level = recipe.level[1:]
    kind, tag = ("RADIO", "Radiometric_Offset_List")
    quantification = '<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>'
    if level == "2A":
        kind, tag = ("BOA", "BOA_ADD_OFFSET_VALUES_LIST")
        prefix = "L2A_" if recipe.old else ""
        quantification = "".join(
            f"<{prefix}{name}_QUANTIFICATION_VALUE>{value}</{prefix}{name}_QUANTIFICATION_VALUE>"
            for name, value in (("BOA", "10000"), ("AOT", "1000.0"), ("WVP", "1000.0"))
        )
    offsets = "".join(
        f'<{kind}_ADD_OFFSET band_id="{number}">{recipe.offset}</{kind}_ADD_OFFSET>'
        for number in range(13)
    )
    offsets = f"<{tag}>{offsets}</{tag}>" if recipe.offset is not None else ""
    image = "IMAGE_ID" if recipe.old else "IMAGE_FILE"
    images = "".join(f"<{image}>{name}</{image}>" for name in listed)
    baseline = (
        f"<PROCESSING_BASELINE>{recipe.baseline}</PROCESSING_BASELINE>" if recipe.baseline else ""
    )
    clouds = ""
    if recipe.clouds is not None:
        told = f"<Cloud_Coverage_Assessment>{recipe.clouds}</Cloud_Coverage_Assessment>"
        clouds = f"<n1:Quality_Indicators_Info>{told}</n1:Quality_Indicators_Info>"
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product.xsd">
<n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2017-04-30T10:30:21.026Z</PRODUCT_START_TIME>
<PRODUCT_URI>{recipe.name}.SAFE</PRODUCT_URI>
<PROCESSING_LEVEL>Level-{level}</PROCESSING_LEVEL>{baseline}
<Datatake><SPACECRAFT_NAME>Sentinel-2{recipe.unit}</SPACECRAFT_NAME></Datatake>
<Product_Organisation><Granule_List><Granule>{images}</Granule></Granule_List></Product_Organisation>
</Product_Info>
<Product_Image_Characteristics>{quantification}{offsets}</Product_Image_Characteristics>
</n1:General_Info>{clouds}
<n1:Geometric_Info><Product_Footprint><Product_Footprint><Global_Footprint>
<EXT_POS_LIST>49.64 10.38 49.64 10.42 49.62 10.42 49.64 10.38 </EXT_POS_LIST>
</Global_Footprint></Product_Footprint></Product_Footprint></n1:Geometric_Info>
</n1:Level-{level}_User_Product>"""


def tile_xml(recipe: Recipe, tile: str) -> str:
    """Write a granule's metadata."""
    epsg, left, top = recipe.tiles[tile]
    height, width = recipe.shape
    sizes = "".join(
        f'<Size resolution="{gsd}"><NROWS>{height * 10 // gsd}</NROWS>'
        f"<NCOLS>{width * 10 // gsd}</NCOLS></Size>"
        f'<Geoposition resolution="{gsd}"><ULX>{left}</ULX><ULY>{top}</ULY></Geoposition>'
        for gsd in (10, 20, 60)
    )
    level = recipe.level[1:]
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level}_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/Tile_Metadata.xsd">
<n1:General_Info><TILE_ID>{old_stem(recipe, "OPER_MSI", tile)}_N02.05</TILE_ID></n1:General_Info>
<n1:Geometric_Info><Tile_Geocoding>
<HORIZONTAL_CS_CODE>EPSG:{epsg}</HORIZONTAL_CS_CODE>{sizes}</Tile_Geocoding>
<Tile_Angles><Mean_Sun_Angle><ZENITH_ANGLE unit="deg">35.5</ZENITH_ANGLE>
<AZIMUTH_ANGLE unit="deg">165.25</AZIMUTH_ANGLE></Mean_Sun_Angle></Tile_Angles>
</n1:Geometric_Info>
</n1:Level-{level}_Tile_ID>"""
