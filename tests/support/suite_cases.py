"""Cases for openeo-test-suite in the layout that it reads.

Its own cases lie in another repository (Open-EO/openeo-processes, `tests/`), not in its
wheel. Those made here come with packages that we have anyway: the examples in the
specifications that openeo-processes-dask ships; and cubes, in `openeo_cases/`, for
processes that the specifications show no example of.
"""

import json
from pathlib import Path

from kappamask.openeo.engine.library import specifications

OURS = Path(__file__).parent / "openeo_cases"


def write_examples(folder: Path) -> int:
    """Write the examples of the specifications as cases; returns how many there are."""
    count = 0
    for name, spec in specifications().items():
        tests = [
            {
                "arguments": encode_arguments(example["arguments"], spec),
                "returns": encode(example["returns"]),
            }
            for example in spec.get("examples", ())
            if "arguments" in example and "returns" in example
        ]
        if tests:
            write(folder, name, tests)
            count += len(tests)
    return count


def write_ours(folder: Path) -> int:
    """Write the cases of cubes; returns how many there are."""
    count = 0
    for path in sorted(OURS.glob("*.json")):
        tests = json.loads(path.read_text())
        write(folder, path.stem, tests)
        count += len(tests)
    return count


def write(folder: Path, name: str, tests: list) -> None:
    """Write the specification of a process, and its cases."""
    (folder / "tests").mkdir(parents=True, exist_ok=True)
    spec = specifications()[name] | {"experimental": False}
    (folder / f"{name}.json").write_text(json.dumps(spec))
    cases = {"id": name, "level": "L1", "tests": tests}
    (folder / "tests" / f"{name}.json5").write_text(json.dumps(cases))


def encode_arguments(arguments: dict, spec: dict) -> dict:
    """Say no data as the suite does; null stays where it is what the parameter defaults to."""
    defaults = {each["name"]: each.get("default", 0) for each in spec["parameters"]}
    return {
        name: value if value is None and defaults[name] is None else encode(value)
        for name, value in arguments.items()
    }


def encode(value):
    """Turn null into the suite's word for no data."""
    if value is None:
        return {"type": "nodata"}
    if isinstance(value, list):
        return [encode(inner) for inner in value]
    return value
