# ruff: noqa: INP001, T201  a script, which prints
"""Write the user-defined processes and what the APEx catalogue needs of them.

    python udf/generate.py            writes udf/*.json, udf/records, udf/benchmark_scenarios
    python udf/generate.py --check    compares with what is there; 1 and a diff if it differs

No back end is asked. The text of the UDF is inlined: run this whenever it changes.
Conventions: https://github.com/ESA-APEx/apex_algorithms. Addresses in that catalogue
hold once the files are submitted there.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openeo import DataCube
from openeo.api.process import Parameter
from openeo.rest.udp import build_process_dict

from kappamask.base.bands import bands_of_level
from kappamask.openeo.graphs import (
    DEFAULT_JOB_OPTIONS,
    PERIODS,
    apply_udf,
    cloud_free_composite,
)
from kappamask.predict.chunk import OUTPUT_BANDS, SUN_BANDS

FOLDER = Path(__file__).resolve().parent
LEVEL = "L2A"
BACKEND = "openeofed.dataspace.copernicus.eu"
CATALOG = (
    "https://raw.githubusercontent.com/ESA-APEx/apex_algorithms/refs/heads/main/"
    "algorithm_catalog/kappamask"
)
EXAMPLE_AREA = {"west": 11.2925, "south": 46.4589, "east": 11.4107, "north": 46.5198}  # Bolzano
EXAMPLE_DATES = ["2022-06-01", "2022-07-01"]
CREATED = "2026-11-23T00:00:00Z"
PROVIDER = {"name": "The kappamask developers", "organization": "kappamask"}
LANGUAGE = {"code": "en-US", "name": "English (United States)"}
RECORD = "https://www.opengis.net/spec/ogcapi-records-1/1.0/req/record-core"
SOURCE = "KappaMask: Domnich et al. 2021, Remote Sensing 13(20):4100, doi:10.3390/rs13204100."

TITLES = {
    "kappamask": "Clouds and cloud shadows on Sentinel-2",
    "kappamask_composite": "Cloud-free composite of Sentinel-2",
}
DESCRIPTIONS = {
    "kappamask": (
        "Labels every 10 m pixel of Sentinel-2 L2A as clear, cloud shadow, semi-transparent "
        "cloud, cloud or missing, with a small U-Net that runs as a UDF on windows of 768 px "
        "with an overlap of 128 px; with `refine`, of 512 px with all their dates, which then "
        "correct one another. The result is a cube of the same dates and chains on, for "
        "example into `mask`. The network comes in the job option `udf-dependency-archives`, so "
        f"it runs as a batch job. {SOURCE}"
    ),
    "kappamask_composite": (
        "Masks clouds and cloud shadows on Sentinel-2 L2A with kappamask and takes the median of "
        "what is clear in every period; the dates of a window correct one another before "
        "(`refine`), so that roofs, rivers and lakes are not taken for cloud and shadow. The "
        "optical bands are loaded apart from those that the mask needs, so that cloudy pixels need "
        "not be read. The network comes in the job option "
        f"`udf-dependency-archives`, so it runs as a batch job. {SOURCE}"
    ),
}
RETURNS = {
    "kappamask": (
        "A cube (t, bands, y, x) with one band `cloud_labels` (1 clear, 2 cloud shadow, 3 "
        "semi-transparent cloud, 4 cloud, 5 missing) or `cloud_mask` (1 where the ground is not "
        "seen clearly or data is missing, else 0), or `snow` (0 none, 100 snow, 205 hidden, 255 "
        "missing; needs B11), or with the probabilities of four classes."
    ),
    "kappamask_composite": "A cube (t, bands, y, x) with one image per period.",
}

# --- parameters ----------------------------------------------------------------------------

SPATIAL_EXTENT = Parameter.bounding_box("spatial_extent")
TEMPORAL_EXTENT = Parameter.temporal_interval(
    "temporal_extent", "Start and end as dates or times; the end is excluded."
)


def band_parameter(
    name: str, description: str, default: tuple[str, ...], others: tuple[str, ...] = ()
) -> Parameter:
    """Describe a parameter that lists bands."""
    names = [*bands_of_level(LEVEL), *others]
    return Parameter.array(
        name, description, item_schema={"type": "string", "enum": names}, default=list(default)
    )


MASK_BANDS = band_parameter(
    "mask_bands",
    "What the network sees: B02, B03, B04 and B08 or B8A at least; more is better. With `refine`, "
    f"{' and '.join(SUN_BANDS)} tell which way shadows fall.",
    bands_of_level(LEVEL),
    SUN_BANDS,
)
BANDS = band_parameter("bands", "Bands of the composite.", ("B02", "B03", "B04", "B08"))
OUTPUT = Parameter.string(
    "output", "What is returned.", values=list(OUTPUT_BANDS), default="labels"
)
PERIOD = Parameter.string(
    "period", "One image for each of these.", values=list(PERIODS), default="month"
)
MODEL = Parameter.string("model", "Name of a network of kappamask.", default="default")
BUFFER = Parameter.integer(
    "buffer_px", "Pixels of 10 m by which clouds and shadows are grown in a mask.", default=0
)
CLOUD_COVER = Parameter.number(
    "max_cloud_cover", "Percent; products with more are not read.", default=95
)


def refine_parameter(*, default: bool) -> Parameter:
    """Describe the parameter that lets dates correct one another."""
    return Parameter.boolean(
        "refine",
        "Whether the dates of a window correct one another: roofs, rivers and lakes are then not "
        "taken for cloud and shadow. A window then holds all dates at once, so long intervals want "
        "workers with more memory.",
        default=default,
    )


# --- documents -----------------------------------------------------------------------------


def make_labels() -> dict[str, Any]:
    """Build the process `kappamask`."""
    cube = DataCube.load_collection(
        f"SENTINEL2_{LEVEL}",
        spatial_extent=SPATIAL_EXTENT,
        temporal_extent=TEMPORAL_EXTENT,
        bands=MASK_BANDS,
        max_cloud_cover=CLOUD_COVER,
    )
    refine = refine_parameter(default=False)
    labels = apply_udf(cube, OUTPUT, level=LEVEL, model=MODEL, refine=refine, buffer_px=BUFFER)
    parameters = [SPATIAL_EXTENT, TEMPORAL_EXTENT, OUTPUT, MASK_BANDS, CLOUD_COVER, refine, BUFFER]
    return make_process(
        "kappamask", labels, [*parameters, MODEL], ["sentinel-2", "masks", "cloud detection"]
    )


def make_composite() -> dict[str, Any]:
    """Build the process `kappamask_composite`; the mask is inlined, not called by its address."""
    refine = refine_parameter(default=True)
    composite = cloud_free_composite(
        None,
        SPATIAL_EXTENT,
        TEMPORAL_EXTENT,
        period=PERIOD,
        bands=BANDS,
        mask_bands=MASK_BANDS,
        max_cloud_cover=CLOUD_COVER,
        model=MODEL,
        refine=refine,
        buffer_px=BUFFER,
    )
    parameters = [SPATIAL_EXTENT, TEMPORAL_EXTENT, PERIOD, BANDS, MASK_BANDS, CLOUD_COVER]
    return make_process(
        "kappamask_composite",
        composite,
        [*parameters, refine, BUFFER, MODEL],
        ["sentinel-2", "composites"],
    )


def make_process(
    name: str, cube: DataCube, parameters: list[Parameter], categories: list[str]
) -> dict[str, Any]:
    """Write a process graph with what describes it."""
    process = build_process_dict(
        cube,
        process_id=name,
        summary=TITLES[name],
        description=DESCRIPTIONS[name],
        parameters=parameters,
        returns={
            "description": RETURNS[name],
            "schema": {"type": "object", "subtype": "datacube"},
        },
        categories=categories,
        links=[{"rel": "about", "href": "https://doi.org/10.3390/rs13204100"}],
        default_job_options=dict(DEFAULT_JOB_OPTIONS),
    )
    first = ("id", "summary", "description", "parameters", "returns")
    return {key: process[key] for key in (*first, *(key for key in process if key not in first))}


def process_address(name: str) -> str:
    """Tell where the catalogue serves a process."""
    return f"{CATALOG}/{name}/openeo_udp/{name}.json"


def make_record(name: str) -> dict[str, Any]:
    """Write the catalogue's record of a process (OGC API Records)."""
    editor = (
        f"https://editor.openeo.org/?wizard=UDP&wizard~process={name}"
        f"&wizard~processUrl={process_address(name)}&server=https://{BACKEND}"
    )
    links = [
        ("application", "application/vnd.openeo+json;type=process", "openEO Process Definition",
         process_address(name)),
        ("service", "application/json", "CDSE openEO federation", f"https://{BACKEND}"),
        # These two are paths in the catalogue itself, as its checks want them.
        ("platform", "application/json", "CDSE openEO federation",
         "../../../../platform_catalog/cdse_openeo_federation.json"),
        ("provider", "application/json", "kappamask", "../../record.json"),
        ("webapp", "text/html", "openEO Web Editor", editor),
        ("cite-as", "text/html", "Domnich et al. 2021", "https://doi.org/10.3390/rs13204100"),
    ]  # fmt: skip
    keys = ("rel", "type", "title", "href")
    properties = {
        "type": "service",
        "title": TITLES[name],
        "description": DESCRIPTIONS[name],
        "keywords": ["Sentinel-2", "Data Analysis and Visualization"],
        "formats": [{"name": "GeoTIFF"}, {"name": "netCDF"}],
        "license": "Apache-2.0",
    }
    roles = ["principal investigator", "processor"]
    return {
        **describe_entry(name, properties, roles),
        "conformsTo": [RECORD, "https://apex.esa.int/core/openeo-udp"],
        "geometry": None,
        "linkTemplates": [],
        "links": [dict(zip(keys, link, strict=True)) for link in links],
    }


def make_provider() -> dict[str, Any]:
    """Write the catalogue's record of who provides the processes."""
    logo = "https://YOUR-HOST/kappamask.png"  # the catalogue wants one
    properties = {
        "type": "algorithm_provider",
        "title": "kappamask",
        "description": "Cloud masks for Sentinel-2 that chain on.",
        "keywords": ["Sentinel-2", "clouds"],
        "license": "Apache-2.0",
        "acl": {"admin": ["@esa.int"]},
    }
    return {
        **describe_entry("kappamask", properties, ["processor"]),
        "conformsTo": [RECORD],
        "linkTemplates": [],
        "links": [
            {"rel": rel, "type": "image/png", "title": "Logo", "href": logo}
            for rel in ("logo-light", "logo-dark")
        ],
    }


def describe_entry(name: str, properties: dict[str, Any], roles: list[str]) -> dict[str, Any]:
    """Write what every record of the catalogue has."""
    contact = {
        **PROVIDER,
        "contactInstructions": "Through the issues of the project",
        "roles": roles,
        "links": [],
    }
    theme = {
        "concepts": [{"id": "Sentinel-2 MSI"}, {"id": "CLOUDS"}],
        "scheme": "https://gcmd.earthdata.nasa.gov/kms/concepts/concept_scheme/sciencekeywords",
    }
    told = {"created": CREATED, "updated": CREATED, **properties, "language": LANGUAGE}
    told |= {"languages": [LANGUAGE], "contacts": [contact], "themes": [theme]}
    return {"id": name, "type": "Feature", "properties": told}


def make_scenarios(name: str) -> list[dict[str, Any]]:
    """Write the catalogue's benchmark of a process: one small area and month."""
    node = {
        "process_id": name,
        "namespace": process_address(name),
        "arguments": {"spatial_extent": EXAMPLE_AREA, "temporal_extent": EXAMPLE_DATES},
    }
    save = {
        "process_id": "save_result",
        "arguments": {"data": {"from_node": name}, "format": "GTiff"},
        "result": True,
    }
    return [
        {
            "id": name,
            "type": "openeo",
            "description": f"{TITLES[name]}: Bolzano, June 2022",
            "backend": BACKEND,
            "process_graph": {name: node, "save": save},
            "job_options": dict(DEFAULT_JOB_OPTIONS),
            "reference_data": {},
        }
    ]


def make_documents() -> dict[str, str]:
    """Write all files; returns their text by path below `udf/`."""
    documents: dict[str, Any] = {"record.json": make_provider()}
    for process in (make_labels(), make_composite()):
        name = process["id"]
        documents[f"{name}.json"] = process
        documents[f"records/{name}.json"] = make_record(name)
        documents[f"benchmark_scenarios/{name}.json"] = make_scenarios(name)
    return {
        path: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for path, content in documents.items()
    }


def differences(documents: dict[str, str], folder: Path) -> Iterator[str]:
    """Yield the lines in which the files of a folder differ from what they should be."""
    for name, text in documents.items():
        path = folder / name
        there = path.read_text(encoding="utf-8") if path.is_file() else ""
        yield from difflib.unified_diff(
            there.splitlines(), text.splitlines(), str(path), "generated", lineterm=""
        )


def main(arguments: list[str] | None = None) -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    options = parser.parse_args(arguments)
    documents = make_documents()
    if options.check:
        lines = list(differences(documents, options.folder))
        print("\n".join(lines) if lines else "udf/*.json are as generated")
        if lines:
            print("run: python udf/generate.py", file=sys.stderr)
        return 1 if lines else 0
    for name, text in documents.items():
        path = options.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
