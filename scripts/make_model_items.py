"""Write docs/models/NAME.json, the STAC item of every network of the manifest."""

import json
from pathlib import Path

from kappamask.networks.manifest import read_registry
from kappamask.networks.model_item import describe_model

FOLDER = Path(__file__).parents[1] / "docs" / "models"

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, entry in read_registry()[1].items():
        text = json.dumps(describe_model(entry), indent=2) + "\n"
        (FOLDER / f"{name}.json").write_text(text, "utf-8")
        print(FOLDER / f"{name}.json")
