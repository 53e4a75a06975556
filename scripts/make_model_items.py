"""Write docs/models/NAME.json, the STAC item of every network of the manifest.

What it takes, gives and was trained on: STAC 1.1 with the extension Machine Learning Model
1.5.2, https://github.com/stac-extensions/mlm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kappamask.base.bands import AUXILIARY, BANDS, NAMES
from kappamask.base.legend import LEGEND, PREDICTED, Label
from kappamask.networks.manifest import ModelEntry, read_registry
from kappamask.networks.normalisation import PublishedNormalisation

FOLDER = Path(__file__).parents[1] / "docs" / "models"
MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
WORLD = [-180.0, -90.0, 180.0, 90.0]
PUBLISHED = {"unet": "2026-11-29T00:00:00Z", "published": "2022-09-13T00:00:00Z"}
ARTIFACT = {"unet": "safetensors.torch.save_file", "published": "tf.keras.Model.save_weights"}
DOCUMENTATION = "https://doi.org/10.3390/rs13204100"


def describe_model(entry: ModelEntry) -> dict[str, Any]:
    """Describe one network of the manifest as a STAC item.

    Parameters
    ----------
    entry
        Of the manifest (`kappamask.networks.manifest.get_entry`).

    Returns
    -------
    dict
        A STAC 1.1 item, JSON-ready. The geometry is the whole world and the date the day on
        which the weights were published: a network has no place.

    Examples
    --------
    >>> from kappamask.networks.manifest import get_entry
    >>> item = describe_model(get_entry("kappamask-2026h"))
    >>> item["properties"]["mlm:tasks"], len(item["properties"]["mlm:input"][0]["bands"])
    (['semantic-segmentation'], 13)
    """
    published = entry.architecture == "published"
    bands = entry.bands or NAMES
    west, south, east, north = WORLD
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    properties = {
        "datetime": PUBLISHED[entry.architecture],
        "title": entry.title,
        "description": f"Cloud mask for Sentinel-2 {' and '.join(entry.levels)}. "
        f"Trained on: {entry.training_data}.",
        "license": entry.licence,
        "bands": [_describe_band(name) for name in bands],
        "mlm:name": entry.name,
        "mlm:architecture": "U-Net" if published else "U-Net with a 20 m trunk",
        "mlm:framework": "Keras" if published else "PyTorch",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:pretrained": True,
        "mlm:input": _describe_input(entry, bands),
        "mlm:output": [_describe_output(entry)],
        "mlm:hyperparameters": {"widths": list(entry.widths)},
        "kappamask:levels": list(entry.levels),
        "kappamask:metrics": entry.metrics,
    }
    asset = {
        "href": entry.url or f"../../kappamask/networks/weights/{entry.file}",
        "title": "Weights",
        "type": "application/x-hdf5" if published else "application/octet-stream",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "bands": [{"name": name} for name in bands],  # STAC 1.1 allows them above only with these
        "mlm:artifact_type": ARTIFACT[entry.architecture],
        "file:checksum": f"1220{entry.sha256}",  # multihash: sha2-256, 32 bytes
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [FILE, MLM],
        "id": entry.name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": WORLD,
        "properties": properties,
        "links": [{"rel": "cite-as", "href": DOCUMENTATION}],
        "assets": {"weights": asset},
    }


def _describe_band(name: str) -> dict[str, Any]:
    (band,) = (band for band in (*BANDS, *AUXILIARY) if band.name == name)
    described: dict[str, Any] = {"name": name, "gsd": band.gsd}
    if band.wavelength_nm is not None:
        described["eo:common_name"] = band.common_name
        described["eo:center_wavelength"] = round(band.wavelength_nm / 1000, 4)
    return described


def _describe_input(entry: ModelEntry, bands: tuple[str, ...]) -> list[dict[str, Any]]:
    fed = entry.normalisation
    scene: dict[str, Any] = {
        "name": "scene",
        "bands": list(bands),
        "input": {
            "shape": [-1, len(bands), -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "resize_type": None,
    }
    if isinstance(fed, PublishedNormalisation):
        scene["description"] = "DN / 65535 at 10 m, upper bounds of the scaling per feature"
        scene["value_scaling"] = [
            {"type": "min-max", "minimum": 0, "maximum": float(highest)} for highest in fed.maximum
        ]
        return [scene]
    scene["description"] = "Square root of reflectance (1.0 = 100 %) at 10 m; absent bands are 0"
    scene["value_scaling"] = [
        {"type": "z-score", "mean": mean, "stddev": std}
        for mean, std in zip(fed.mean, fed.std, strict=True)
    ]
    presence = {
        "name": "presence",
        "description": "1 for every band that holds data, in the order of `scene`; then 1 for L1C",
        "input": {
            "shape": [-1, len(bands) + 1],
            "dim_order": ["batch", "flag"],
            "data_type": "float32",
        },
    }
    return [scene, presence]


def _describe_output(entry: ModelEntry) -> dict[str, Any]:
    codes = tuple(Label) if entry.architecture == "published" else PREDICTED
    return {
        "name": "classes",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, len(codes), -1, -1],
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [
            {
                "value": int(code),
                "name": LEGEND[code].name,
                "description": LEGEND[code].description,
                "color_hint": LEGEND[code].color,
            }
            for code in codes
        ],
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, entry in read_registry()[1].items():
        text = json.dumps(describe_model(entry), indent=2) + "\n"
        (FOLDER / f"{name}.json").write_text(text, "utf-8")
        print(FOLDER / f"{name}.json")
