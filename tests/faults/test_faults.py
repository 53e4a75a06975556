"""Each fault once, through `kappamask mask` and through Python: whole or absent, and one line."""

import pytest

from faults.bench import run
from faults.table import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_costs_at_most_its_own_date_and_is_told_in_one_line(fault):
    outcome = run(fault)
    assert outcome.problems == [], outcome.seen
    assert outcome.bytes_lost == 0, outcome.seen
    assert outcome.wrong_labels == 0
