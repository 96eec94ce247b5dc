"""Which published gains exceed their own sampling error: what a table of single scores can show, and what it cannot.

Nobody published the answers behind these scores, so the two rows of a gain are taken as independent samples. That errs to the wide
side: both rows answered the same questions, and answers that agree cancel. `changed_at_most` says how far: a paired exact McNemar
test would find the same gain at the 5 % level as long as no greater share of all answers changed between the two rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

from harness.analysis.published import CLAIMS, Claim, claims
from harness.evaluation.statistics import CONFIDENCE, holm, mcnemar
from harness.paper import STANDARD_ERRORS
from harness.plan import iteration_of

PROPORTIONS = ("acc", "acc_norm", "exact_match", "accuracy, few-shot CoT")
"""Metrics that are a share of right answers, so that value and n give their error."""
AVERAGE = "average"
ERRORS_OF = "paper/leaderboard"
"""The table whose scores STANDARD_ERRORS speaks about; its questions are those of every full run of these tasks."""


class Gain(NamedTuple):
    """`row - against` on one task, in the task's unit, with its unpaired 95 % interval. None is unknown.

    `p_holm` corrects the two-sided p for all gains of the table. `exceeds` says whether the interval leaves 0 out.
    `changed_at_most` is a share of all questions, 0 where even the fewest possible changes would not do.
    """

    row: str
    against: str
    task: str
    gain: float
    stderr: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    exceeds: bool | None = None
    changed_at_most: float | None = None


def gains(table: str) -> tuple[Gain, ...]:
    """Every task's gain of each row over the row before it, from `sft` through the iterations, in a published table.

    An unknown table is a LookupError that lists the known ones.
    """
    cells = {(cell.row, cell.task): cell for cell in claims(table)}
    rows = [row for row in dict.fromkeys(row for row, _ in cells) if row == "sft" or iteration_of(row) is not None]
    found = [
        _gain(cells[row, task], cells[against, task])
        for against, row in pairwise(rows)
        for task in dict.fromkeys(task for _, task in cells)
        if (row, task) in cells and (against, task) in cells
    ]
    return tuple(one._replace(p_holm=p) for one, p in zip(found, holm([one.p for one in found]), strict=True))


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


def sentence(gain: Gain) -> str:
    """One line for under a table, such as 'iter3 over iter2, average: +0.19, within its sampling error (-1.17 to +1.55)'."""
    place = f"{gain.row} over {gain.against}, {gain.task}: {gain.gain:+.2f}"
    if gain.exceeds is None:
        return f"{place}, sampling error unknown"
    return f"{place}, {'exceeds' if gain.exceeds else 'within'} its sampling error ({gain.low:+.2f} to {gain.high:+.2f})"


def summary(table: str, tasks: Collection[str] | None = None) -> str | None:
    """One line for under a published table: which gains over the row before, on `tasks` or all, exceed their sampling error.

    None where no gain has a known error.
    """
    known = [gain for gain in gains(table) if gain.exceeds is not None and (tasks is None or gain.task in tasks)]
    if not known:
        return None
    beyond = [f"{gain.row} {gain.task} {gain.gain:+.2f}" for gain in known if gain.exceeds]
    return (
        f"Of {len(known)} gains over the row before, {len(beyond)} exceed their own unpaired 95 % sampling error"
        f"{': ' if beyond else ''}{', '.join(beyond)}"
    )


def _leaderboard_tasks() -> set[str]:
    return {claim.task for claim in CLAIMS if claim.table == ERRORS_OF and claim.task != AVERAGE}


def _gain(cell: Claim, before: Claim) -> Gain:
    errors = standard_error(cell), standard_error(before)
    found = Gain(cell.row, before.row, cell.task, round(cell.value - before.value, 6), None)
    if errors[0] is None or errors[1] is None:
        return found
    stderr = math.hypot(errors[0], errors[1])
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * stderr
    return found._replace(
        stderr=stderr,
        low=found.gain - reach,
        high=found.gain + reach,
        p=2 * (NormalDist().cdf(-abs(found.gain) / stderr)),
        exceeds=abs(found.gain) > reach,
        changed_at_most=_changed_at_most(round(abs(found.gain) * cell.n / 100), cell.n) if cell.n else None,
    )


def _changed_at_most(net: int, n: int) -> float:
    """The largest share of n answers that may have changed while a net change of `net` still has an exact McNemar p of 5 %."""
    changed = 0
    for total in range(max(net, 1), n + 1, 2):
        if mcnemar((total + net) // 2, (total - net) // 2) > 1 - CONFIDENCE:
            break
        changed = total
    return changed / n
