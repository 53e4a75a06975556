"""What people type: forms that are understood, and remedies in the words of the command line."""

import logging
import re
import subprocess
import sys

import pytest

from kappamask.cli import main
from kappamask.sample import AREA_L2A, catalog_path

BBOX = list(map(str, AREA_L2A))
CATALOG = ["--catalog", str(catalog_path())]


def ask(words, capsys, *, code):
    """Run a command that ends itself; give the one line that it says."""
    assert main(words) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--bbox", *BBOX, "--date", "2019-07-01", "2019-07-12"], 2),
        (["--bbox", ", ".join(BBOX).split(" ")[0], *BBOX[1:], "--date", "20190701/20190712"], 2),
        (["--date", "20190711", "--bbox", ",".join(BBOX)], 1),
        (["--date=2019-07", "--bbox=" + ",".join(BBOX)], 4),
        (["--bbox", *BBOX, "--date", "2019-09-01", ".."], 2),
    ],
)
def test_boxes_and_dates_in_the_forms_that_people_type(words, count, capsys):
    assert main(["search", *CATALOG, *words]) == 0
    assert len(capsys.readouterr().out.splitlines()) == count


def test_west_and_east_swapped_are_told_at_once_and_nothing_is_asked(tmp_path, capsys):
    west, south, east, north = BBOX
    words = ["--bbox", east, south, west, north, "--date", "2022-06"]  # of a catalogue far away
    line = ask(["mask", *words, "--out", str(tmp_path / "out")], capsys, code=2)
    assert "swap west and east" in line


@pytest.mark.parametrize("command", ["mask", "composite"])
def test_a_large_area_is_refused_before_the_search_in_words_of_the_line(command, tmp_path, capsys):
    words = ["--bbox", "-9.2,38.6,9.0,38.8", "--date", "2022-06", "--out", str(tmp_path / "out")]
    line = ask([command, *words], capsys, code=2)
    assert "a minus missing before 9" in line
    assert line.endswith("give --yes-large")
    # meant, it is searched for: this catalogue holds nothing there
    assert main([command, *words, *CATALOG, "--yes-large"]) == 1
    assert "answers the search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "--catalog", "earthsearch", "--bbox", "1,2,3,4", "--date", "2022"],
         "did you mean earth-search?"),
        (["mask", *CATALOG, "--bbox", ",".join(BBOX), "--date", "2019-07-11", "--model",
          "kappamask-2021-L2a", "--out", "/nowhere"], "did you mean kappamask-2021-l2a?"),
        (["search", *CATALOG, "--bbox", ",".join(BBOX), "--date", "01/06/2022"],
         "begin with the year"),
    ],
)  # fmt: skip
def test_misspelt_names_are_told_what_was_meant(words, message, capsys):
    assert message in ask(words, capsys, code=2)


def test_a_misspelt_option_is_told_what_was_meant(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--bbox", ",".join(BBOX), "--date", "2022", "--max-cloudcover", "5"])
    assert "did you mean --max-cloud-cover?" in capsys.readouterr().err


def test_remedies_name_options_not_arguments(capsys):
    words = ["--bbox", ",".join(BBOX), "--date", "2019-07-11", "--max-cloud-cover", "0"]
    line = ask(["search", *CATALOG, *words], capsys, code=1)
    assert "--max-cloud-cover" in line
    assert "max_cloud_cover" not in line


def test_a_job_says_first_what_it_will_do_and_then_each_date(tmp_path, capsys):
    words = ["mask", *CATALOG, "--bbox", *BBOX, "--date", "2019-07-01", "2019-07-12"]
    assert main([*words, "--no-pictures", "--out", str(tmp_path)]) == 0
    first, *dates = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("area at 45.205 N 22.152 E, 1.00 x 1.00 km, 100 x 100 px of 10 m in ")
    assert "EPSG:3035; 2 dates 2019-07-01 to 2019-07-11; reads up to 180 kB" in first
    assert first.endswith(f"writes 2 masks to {tmp_path}")
    assert [line[:10] for line in dates] == ["2019-07-01", "2019-07-11"]
    for line in dates:
        shares = [float(share) for share in re.findall(r"([\d.]+) %", line)]
        assert sum(shares) == pytest.approx(100, abs=0.3)


@pytest.mark.slow
def test_offline_is_one_line(tmp_path):
    words = [
        "search",
        "--catalog",
        "http://127.0.0.1:9/stac",
        "--bbox",
        "1,2,3,4",
        "--date",
        "2022",
    ]
    command = [sys.executable, "-m", "kappamask", *words]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert said.returncode == 1
    assert len(said.stderr.strip().splitlines()) == 1


def test_python_m_kappamask_is_the_command():
    command = [sys.executable, "-m", "kappamask", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("kappamask ")


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("fastapi", "serve", "from kappamask.cli import main; sys.exit(main(sys.argv[1:]))"),
        ("openeo_processes_dask", "local", "import kappamask.openeo.local"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(package, extra, use, tmp_path):
    # In a process of its own: modules that are imported anew here would be others to later tests.
    code = f"import sys; sys.modules[{package!r}] = None; {use}"
    words = ["serve", *CATALOG, "--workdir", str(tmp_path), "--port", "0"]
    said = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert said.returncode == 1
    told = said.stderr.strip().splitlines()
    assert f"pip install 'kappamask[{extra}]'" in told[-1]
    if extra == "serve":  # a command tells it in one line
        assert len(told) == 1


def test_retries_of_urllib3_are_not_told(capsys):
    main(["models"])
    assert logging.getLogger("urllib3").level == logging.ERROR
    capsys.readouterr()
