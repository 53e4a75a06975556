"""openeo-test-suite on the local engine: how many cases pass may only grow.

The suite's wheel holds no cases. Three sets are run, each with its own count in
`openeo_suite_floor.json`:

- specifications: the examples in the specifications that openeo-processes-dask ships;
- cubes: our own, in the suite's form, for processes of cubes that have no example;
- checkout: all of Open-EO/openeo-processes, where OPENEO_PROCESSES names a checkout. Why each
  of the others fails is told in `openeo_suite_reasons.json`, by process.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support import suite_cases
from support.suite_cases import OURS

HERE = Path(__file__).parents[1]
FLOOR = HERE / "openeo_suite_floor.json"
REASONS = HERE / "openeo_suite_reasons.json"
WRITERS = {"specifications": suite_cases.write_examples, "cubes": suite_cases.write_ours}


def run_suite(cases, folder):
    """Run the suite in a process of its own; returns the outcome of each case."""
    assert list((cases / "tests").glob("*.json5")), f"{cases} holds no cases: name its parent"
    (folder / "pytest.ini").write_text("[pytest]\n")
    report = folder / "report.xml"
    command = [
        *(sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-c", folder / "pytest.ini"),
        *("-p", "openeo_test_suite.lib.pytest_plugin", "-p", "support.suite_runner"),
        *("-p", "no:cacheprovider", "--runner=dask", "--experimental", f"--junitxml={report}"),
        *("--pyargs", "openeo_test_suite.tests.processes.processing"),
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": f"{HERE}:{HERE.parent}", "KAPPAMASK_SUITE_CASES": str(cases)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    tests = list(ET.parse(report).iter("testcase"))  # noqa: S314  written just now, by pytest
    return {
        test.attrib["name"]: next((child.tag for child in test if child.tag != "system-out"), "ok")
        for test in tests
    }


def process_of(case):
    """Tell the process that a case of the suite is of, by its name in the report."""
    return case.partition("[")[2].partition("-")[0]


def check_floor(name, outcomes):
    floor = json.loads(FLOOR.read_text())[name] or 0
    passed = sum(outcome == "ok" for outcome in outcomes.values())
    failed = sorted(case for case, outcome in outcomes.items() if outcome != "ok")
    print(f"openeo-test-suite, {name}: {passed} of {len(outcomes)} pass, floor {floor}")  # noqa: T201
    if passed > floor:
        print(f"better than before: write {passed} for {name} into {FLOOR.name}")  # noqa: T201
    assert passed >= floor, failed


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Outcomes by case of both sets, run together: no process is in both."""
    folder = tmp_path_factory.mktemp("suite")
    counts = {name: write(folder / "cases") for name, write in WRITERS.items()}
    outcomes, ours = (
        run_suite(folder / "cases", folder),
        {path.stem for path in OURS.glob("*.json")},
    )
    found = {name: {} for name in WRITERS}
    for case, outcome in outcomes.items():
        found["cubes" if process_of(case) in ours else "specifications"][case] = outcome
    assert {name: len(outcomes) for name, outcomes in found.items()} == counts
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WRITERS))
def test_cases_pass(name, sets):
    check_floor(name, sets[name])


@pytest.mark.skipif(
    "OPENEO_PROCESSES" not in os.environ,
    reason="the cases of Open-EO/openeo-processes are in no package: name a checkout",
)
def test_the_cases_of_a_checkout_pass(tmp_path):
    outcomes = run_suite(Path(os.environ["OPENEO_PROCESSES"]), tmp_path)
    check_floor("checkout", outcomes)
    failed = Counter(process_of(case) for case, outcome in outcomes.items() if outcome != "ok")
    explained = Counter()
    for processes in json.loads(REASONS.read_text()).values():
        explained.update(processes)
    assert failed <= explained, f"fail without a reason: {failed - explained}"


@pytest.mark.slow
def test_a_folder_without_cases_fails(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssertionError, match="holds no cases"):
        run_suite(tmp_path / "empty", tmp_path)
