"""Whatever stops a command, and wherever: repeated, it goes on, and nothing is done twice."""

import pytest
from support.jobs import NAMES, counting_moves, finished

# chips need no place on earth
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIGTERM = 128 + 15
MOMENTS = {"first": 0, "middle": 0.5, "last": 1}  # of all moves but one
CASES = [  # a report moves one file, weights two, a product three
    *(("mask", moment) for moment in (*MOMENTS, "never")),
    *(("mask PRODUCT", moment) for moment in (*MOMENTS, "never")),
    *(("composite", moment) for moment in ("middle", "last", "never")),
    ("report", "last"),
    *(("train", moment) for moment in ("middle", "never")),
    *(("models fetch", moment) for moment in ("first", "last", "never")),
]
ANEW = {"log.csv"}  # what each run writes, with the same words


def test_every_command_is_stopped():
    assert {name for name, _ in CASES} == set(NAMES)


@pytest.mark.parametrize(("name", "moment"), CASES)
def test_a_command_stopped_between_two_moves_goes_on_when_it_is_repeated(
    jobs, tmp_path, capsys, name, moment
):
    job, out, moved = jobs[name], tmp_path / "out", []
    if moment == "never":
        assert job.run(out) == 0
        assert job.check(out) == set(job.whole)
    else:
        with counting_moves(out, [], stop=round(MOMENTS[moment] * (len(job.moves) - 1))):
            assert job.run(out) == SIGTERM
        assert "repeat" in capsys.readouterr().err
        job.check(out)  # no item vouches for a file that is not there, or of another run
    kept = finished(out)
    with counting_moves(out, moved):
        assert job.run(out) == 0
    assert job.check(out) == set(job.whole)
    now = finished(out)
    assert {seal: now[seal] for seal in kept} == kept
    assert not set(moved) & set(kept)
    if moment == "never":
        assert set(moved) <= ANEW
