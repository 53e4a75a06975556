"""Write the default network's figures into docs/model-card.md, from registry.toml.

Figures stand in the manifest alone; ``python docs/tools/figures.py`` copies them between the
two marks, and tests/test_docs.py compares.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "docs" / "model-card.md",)
BEGIN = "<!-- figures: written by docs/tools/figures.py from kappamask/networks/registry.toml -->"
END = "<!-- end of figures -->"
# What the metrics of the manifest are called for people; another one is called by its key.
ROWS = {
    "people_l8_biome_dice": (
        "people's labels, L8 Biome (7 chips of Landsat 8, 30 m, as L1C): dice of {classes}"
    ),
    "people_alberta_dice": "people's labels, Alberta (2 dates, L2A, 30 m): dice of {classes}",
    "people_any_cloud_dice": (
        "people's labels, On-Cloud-N `ocnx` and 38-Cloud (a chip each): dice of any cloud"
    ),
    "cirrus_called_clear": "pixels with B10 above .02 at L1C, real scenes: share called clear",
    "ground_called": "sea, salt, sand, snow, roofs, shade without cloud: share called {classes}",
    "ground_called_four_bands": "the same with B02, B03, B04 and B08 alone: share called {classes}",
    "snow_called_cloud": "snow and ice that people call clear (2 chips): share called cloud",
    "on_cloud_n_cloud_dice_widened_40m": (
        "On-Cloud-N `ocn_1`, `ocn_3`, `ocn_5`: dice of cloud, prediction widened by 40 m"
    ),
    "on_cloud_n_cloud_dice": "the same, not widened",
    "ukis_ref_dice": "`ukis_ref` (L1C, 6 bands, 30 m): dice of {classes}",
    "val_series_dice": (
        "validation, 72 dates of one place, labelled by its other dates: dice of {classes}"
    ),
    "val_dice_algorithmic_labels": "validation, labels made by programs: dice of {classes}",
}


def figures_table(registry: Mapping[str, Any]) -> str:
    """Make the table, in markdown, of the network that is the default for L2A."""
    name = registry["default"]["L2A"]
    lines = [f"| measured on | {name} |", "|---|---|"]
    for key, value in registry["models"][name]["metrics"].items():
        lines.append(f"| {_say_row(key, value)} | {_say_figures(value)} |")
    return "\n".join(lines)


def _say_row(key: str, value: Any) -> str:
    classes = " / ".join(value).replace("_", " ") if isinstance(value, Mapping) else ""
    return ROWS.get(key, key.replace("_", " ")).format(classes=classes)


def _say_figures(value: Any) -> str:
    if isinstance(value, Mapping):
        return _say_figures(list(value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " / ".join(map(_say_figures, value))
    return f"{value:.3f}".removeprefix("0") if isinstance(value, float) else str(value)


def read_registry() -> dict[str, Any]:
    """Read the manifest."""
    return tomllib.loads((ROOT / "kappamask" / "networks" / "registry.toml").read_text("utf-8"))


def with_figures(text: str, table: str) -> str:
    """Put the table between the marks of a page, which has them once."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    written, count = pattern.subn(lambda _: f"{BEGIN}\n{table}\n{END}", text)
    if count != 1:
        raise SystemExit(f"a page has the marks of the figures once, got {count}: put them in")
    return written


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_figures(page.read_text("utf-8"), figures_table(read_registry())))
