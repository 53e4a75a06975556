"""`kappamask demo`: the first command that a new user gives."""

import pytest

from kappamask.cli import main


@pytest.mark.slow
def test_every_date_of_the_sample_has_a_picture_and_all_are_on_one_page(tmp_path, capsys):
    out = tmp_path / "first"
    assert main(["demo", "--out", str(out)]) == 0
    for kind in ("tif", "json", "png"):
        counts = {place.name: len(list(place.glob(f"*.{kind}"))) for place in out.glob("*/")}
        assert counts == {"germany": 1, "romania": 12}
    page = out / "report.html"
    assert page.read_text(encoding="utf-8").count("<img ") == 13
    assert capsys.readouterr().out.splitlines()[-1] == f"Open the page: {page.resolve()}"
