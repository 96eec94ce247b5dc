"""The tables of the committed runs and sweeps, each made once for all tests that look at them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from harness.analysis.table_schema import ResultTable, SeedTable
from harness.report.tables import read_table
from tests import ROOT

RESULTS = ROOT / "results"


@cache
def committed_table(folder: Path) -> ResultTable | SeedTable:
    """The table of a run's or a sweep's directory in `RESULTS`, from its records."""
    return read_table([folder])
