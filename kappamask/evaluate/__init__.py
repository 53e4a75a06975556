"""Scores of cloud masks: ours against every mask that can be had.

`scenes` says on what, `peers` and `programs` which masks, `scoring` and `metrics` how;
`run` does it and `report` writes it down. `dates` keeps clear dates out of composites.
"""

from kappamask.evaluate.dates import keep_out
from kappamask.evaluate.report import write_report
from kappamask.evaluate.run import PEERS, Evaluation, Options, check_data, evaluate

__all__ = ["PEERS", "Evaluation", "Options", "check_data", "evaluate", "keep_out", "write_report"]
