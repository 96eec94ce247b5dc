"""No table says of a difference what another denies: every committed run and sweep, every verdict, every interval, every p."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.analysis.claims import summarize
from harness.analysis.differences import GOAL_MET, NOISE, direction
from harness.analysis.table_schema import Delta, ResultTable, SeedTable
from harness.runs.sweeps import SWEEP_FILE
from tests.committed import RESULTS, committed_table

SWEEPS = sorted(path.parent for path in RESULTS.glob(f"*/{SWEEP_FILE}"))
RUNS = sorted(path.parent for pattern in ("*", "*/*") for path in RESULTS.glob(f"{pattern}/recipe.json"))
Named = tuple[tuple[str, str, str], Delta]


def leaves_0_out(difference: Delta) -> bool:
    return difference.low is not None and difference.high is not None and (difference.low > 0 or difference.high < 0)


def differences(table: ResultTable) -> Iterator[Named]:
    """((row, against, column), difference) wherever the table states one; a mean over tasks is named by its tasks."""
    for cell in table.cells:
        if cell.delta:
            yield (cell.row, cell.delta.against, cell.column), cell.delta
    for one in (*table.comparisons, *table.from_sft, *table.gains):
        yield from (((one.row, one.against, column), found) for column, found in one.tasks.items())
        if one.mean:
            yield (one.row, one.against, one.mean_over[0] if len(one.mean_over) == 1 else f"mean of {one.mean_over}"), one.mean


def check(difference: Delta) -> None:
    """An interval has a width and holds its difference; p and interval say the same."""
    assert (difference.low is None) == (difference.high is None) == (difference.p is None)
    if difference.low is not None and difference.high is not None and difference.p is not None:
        assert difference.low < difference.high
        assert difference.low <= difference.difference <= difference.high
        assert leaves_0_out(difference) == (difference.p < 0.05)


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.relative_to(RESULTS).as_posix())
def test_a_runs_tables_agree(run: Path) -> None:
    """One difference has one interval and one p in all tables; no 'better' beside a p above 0.05."""
    table = committed_table(run)
    assert isinstance(table, ResultTable)
    seen: dict[tuple[str, str, str], Delta] = {}
    for name, difference in differences(table):
        check(difference)
        assert seen.setdefault(name, difference) == difference
    for one in (*table.comparisons, *table.from_sft):
        if one.mean and not one.missing:
            assert one.verdict.startswith(GOAL_MET) == (one.mean.p is not None and one.mean.p < 0.05 and one.mean.difference > 0)
    for step in table.gains:
        if step.mean and not step.missing:
            assert step.verdict == direction(step.mean, lower_is_better=False)
    assert all(cell.low is None or cell.high is None or cell.low < cell.high for cell in table.cells)
    assert summarize(table).headline


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.name)
def test_a_sweeps_verdicts_agree(sweep: Path) -> None:
    """A comparison's verdict and a claim's are those of the interval over seeds, where there are several."""
    table = committed_table(sweep)
    assert isinstance(table, SeedTable)
    for one in table.comparisons:
        for difference in (one.pooled, one.over_seeds, *one.per_run):
            if difference:
                check(difference)
        decisive = one.over_seeds if len(table.runs) > 1 else one.pooled
        if decisive:
            says = one.verdict.startswith(("better", "worse", GOAL_MET, "goal not met: the interval lies below"))
            assert says == leaves_0_out(decisive)
            assert (NOISE in one.verdict) == (decisive.low is not None and not leaves_0_out(decisive))
