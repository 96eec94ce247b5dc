"""Which published gains exceed their own sampling error: what a table of single scores can show, and what it cannot.

Nobody published the answers behind these scores, so the two rows of a gain are taken as independent samples. That errs to the wide
side: both rows answered the same questions, and answers that agree cancel.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

from harness.analysis.published import CLAIMS, Claim, claims
from harness.evaluation.statistics import CONFIDENCE
from harness.paper import STANDARD_ERRORS
from harness.rows import iteration_of

PROPORTIONS = ("acc", "acc_norm", "exact_match", "accuracy, few-shot CoT")
"""Metrics that are a share of right answers, so that value and n give their error."""
AVERAGE = "average"
ERRORS_OF = "paper/leaderboard"
"""The table whose scores STANDARD_ERRORS speaks about; its questions are those of every full run of these tasks."""


class GainWithError(NamedTuple):
    """`row` minus the row before it on one task, and its unpaired 95 % interval is `gain` +- `reach`; None where that is unknown."""

    row: str
    task: str
    gain: float
    reach: float | None

    @property
    def exceeds(self) -> bool:
        """Whether the interval is known and leaves 0 out."""
        return self.reach is not None and abs(self.gain) > self.reach


def gains_with_errors(table: str) -> tuple[GainWithError, ...]:
    """Every task's gain of each row over the row before it, from `sft` through the iterations, in a published table.

    An unknown table is a LookupError that lists the known ones.
    """
    cells = {(cell.row, cell.task): cell for cell in claims(table)}
    rows = [row for row in dict.fromkeys(row for row, _ in cells) if row == "sft" or iteration_of(row) is not None]
    return tuple(
        _gain(cells[row, task], cells[against, task])
        for against, row in pairwise(rows)
        for task in dict.fromkeys(task for _, task in cells)
        if (row, task) in cells and (against, task) in cells
    )


def standard_error(claim: Claim) -> float | None:
    """Sampling error of a published score in percentage points: binomial where n is known, else STANDARD_ERRORS, else unknown.

    The mean of the leaderboard's tasks: its tasks' errors as independent ones, sqrt(sum stderr^2) / number.
    """
    if claim.n is not None and claim.metric in PROPORTIONS:
        return math.sqrt(claim.value * (100 - claim.value) / claim.n)
    if claim.task == AVERAGE:
        tasks = [cell for cell in claims(claim.table) if cell.row == claim.row and cell.task != AVERAGE]
        errors = [error for cell in tasks if (error := standard_error(cell)) is not None]
        complete = len(errors) == len(_leaderboard_tasks())
        return math.sqrt(math.fsum(error**2 for error in errors)) / len(errors) if complete else None
    known = STANDARD_ERRORS.get(claim.task)
    return float(known.value) if known and claim.metric in (*PROPORTIONS, "mc2") else None


def summary(table: str, tasks: Collection[str] | None = None) -> str | None:
    """One line for under a published table: which gains over the row before, on `tasks` or all, exceed their sampling error.

    None where no gain has a known error.
    """
    known = [gain for gain in gains_with_errors(table) if gain.reach is not None and (tasks is None or gain.task in tasks)]
    if not known:
        return None
    beyond = [f"{gain.row} {gain.task} {gain.gain:+.2f}" for gain in known if gain.exceeds]
    return (
        f"Of {len(known)} gains over the row before, {len(beyond)} exceed their own unpaired 95 % sampling error"
        f"{': ' if beyond else ''}{', '.join(beyond)}"
    )


def _leaderboard_tasks() -> set[str]:
    return {claim.task for claim in CLAIMS if claim.table == ERRORS_OF and claim.task != AVERAGE}


def _gain(cell: Claim, before: Claim) -> GainWithError:
    errors = [error for one in (cell, before) if (error := standard_error(one)) is not None]
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.hypot(*errors) if len(errors) == 2 else None
    return GainWithError(cell.row, cell.task, round(cell.value - before.value, 6), reach)
