"""How large an effect is beside the paper's: ours, the paper's, the difference, the share, and why the two may not be compared.

The paper prints gains without intervals, so a difference from one takes it as exact and moves our interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from harness.analysis.claims import headline, subject
from harness.analysis.comparability import AVERAGE, LEADERBOARD_TASKS
from harness.analysis.differences import ABSENT, REFERENCE, delta_text
from harness.analysis.published import CLAIMS
from harness.analysis.seed_table import MEAN
from harness.analysis.table_schema import Column, Delta, ResultTable, SeedComparison, SeedTable
from harness.paper import MISPRINTS, Misprint
from harness.report.formatting import Block
from harness.rows import iteration_of

PAPER_TABLES = ("paper/leaderboard", "paper/mt_bench")
OTHER_TASKS = "other tasks than the paper's six"
OTHER_MODEL = "another model than the paper's"
CANNOT_TELL = "cannot tell"
CANNOT_TELL_MEANS = "the interval contains both 0 and the paper's gain: too few questions, or seeds, for a share"
WORDS = (
    ("supported, better", "the 95 % interval of the difference lies above 0 (for ↓: below)"),
    ("contradicted, worse", "it lies on the other side of 0"),
    ("within noise", "it contains 0: these questions cannot tell"),
    ("not tested", "a row or a task that the claim needs is missing"),
    (CANNOT_TELL, CANNOT_TELL_MEANS),
)
"""What the words of a verdict mean. A claim about several differences holds only where all of them do."""


class Effect(NamedTuple):
    """`row - against`, ours and the paper's, over `what`. `reasons` say why the two may not be compared; `paper` None: it prints none.

    `same_tasks`: both are about the same tasks, so that a share of the paper's gain means something. `misprints` are corrected in `paper`.
    """

    row: str
    against: str
    what: str
    column: Column | None
    ours: Delta | None
    paper: float | None
    reasons: tuple[str, ...]
    same_tasks: bool
    misprints: tuple[Misprint, ...]

    @property
    def share(self) -> float | None:
        """Ours in percent of the paper's gain, where both are about the same tasks and the paper gained."""
        if not self.same_tasks or self.ours is None or self.paper is None or self.paper <= 0:
            return None
        return 100 * self.ours.difference / self.paper

    @property
    def cannot_tell(self) -> bool:
        """Whether our interval contains both 0 and the paper's gain, so that a share of it would be chance."""
        if self.ours is None or self.ours.low is None or self.ours.high is None or self.paper is None:
            return False
        return all(self.ours.low <= value <= self.ours.high for value in (0.0, self.paper))

    @property
    def from_paper(self) -> Delta | None:
        """Ours less the paper's, where both are about the same tasks."""
        if not self.same_tasks or self.ours is None or self.paper is None:
            return None
        low, high = (None if limit is None else limit - self.paper for limit in (self.ours.low, self.ours.high))
        return self.ours.model_copy(update={"difference": self.ours.difference - self.paper, "low": low, "high": high})


def effects(table: ResultTable | SeedTable) -> list[Effect]:
    """Every row against `sft`, then the last iteration against the other baselines, then the last iteration task by task."""
    return list(_of_run(table) if isinstance(table, ResultTable) else _of_seeds(table))


def main_effect(table: ResultTable | SeedTable) -> Effect | None:
    """The last iteration against `sft`: what a headline is about."""
    found = [one for one in effects(table) if one.against == REFERENCE and one.column is None and iteration_of(one.row) is not None]
    return found[-1] if found else None


def size_text(effect: Effect) -> str:
    """'+1.70 [+0.60, +2.80] of the paper's +4.83 (35 %; the paper's value lies outside our interval)', and why they may not be compared."""
    ours = f"{effect.row} - {effect.against}: {delta_text(effect.ours, effect.column)}"
    if effect.ours is None:
        return f"{effect.row} - {effect.against}: no difference yet ({effect.what})"
    if effect.paper is None:
        return f"{ours} ({effect.what}); the paper prints no such gain"
    if effect.share is None:
        return f"{ours} ({effect.what}); no share of the paper's {effect.paper:+.2f}: {', '.join(effect.reasons)}"
    not_comparable = f"; not comparable: {', '.join(effect.reasons)}" if effect.reasons else ""
    if effect.cannot_tell:
        what = f"{effect.what}{not_comparable}"
        return f"{ours} beside the paper's {effect.paper:+.2f}: our interval contains both 0 and the paper's value ({what})"
    inside = _is_inside(effect)
    where = "" if inside is None else f"; the paper's value lies {'inside' if inside else 'outside'} our interval"
    return f"{ours} of the paper's {effect.paper:+.2f} ({effect.share:z.0f} %{where}; {effect.what}{not_comparable})"


def size_block(table: ResultTable | SeedTable) -> Block:
    """The first table: how much each row gains, beside the paper's gain."""
    found = effects(table)
    numbers = {reason: number for number, reason in enumerate(dict.fromkeys(r for one in found for r in one.reasons), 1)}
    grid = tuple(
        (
            f"{one.row} - {one.against}, {one.what}",
            ours,
            paper,
            delta_text(one.from_paper, one.column),
            share,
            _comparable(one, numbers),
        )
        for one in found
        for ours, paper, share in [paper_cells(one)]
    )
    reasons = tuple(f"({number}) {reason}." for reason, number in numbers.items())
    main = main_effect(table)
    lines = (
        *([f"{size_text(main)}."] if main else []),
        "Percentage points, MT-Bench in points of 10; 95 % intervals, the paper's gain taken as exact: it is printed without one.",
        *notes_on(found),
        *reasons,
    )
    return Block("Size of the effect", ("", "ours", "paper", "ours - paper", "share", "comparable"), grid, lines)


def notes_on(found: Sequence[Effect]) -> list[str]:
    """What 'cannot tell' in place of a share means, and which of the paper's gains are not as it prints them, where these stand."""
    misprints = dict.fromkeys(chain(*(one.misprints for one in found)))
    return [
        *([f"{CANNOT_TELL.capitalize()}: {CANNOT_TELL_MEANS}."] if any(CANNOT_TELL in paper_cells(one) for one in found) else []),
        *(f"Misprint, corrected here: {one.what}, printed {one.printed:.2f}, by its own cells {one.recomputed:.2f} ({one.where})."
          for one in misprints),
    ]  # fmt: skip


def paper_cells(effect: Effect) -> tuple[str, str, str]:
    """Ours with its interval, the paper's gain, the share or that ours cannot tell; a dash where there is none."""
    paper = ABSENT if effect.paper is None else f"{effect.paper:+.2f}"
    share = ABSENT if effect.share is None else CANNOT_TELL if effect.cannot_tell else f"{effect.share:z.0f} %"
    return delta_text(effect.ours, effect.column), paper, share


def study_sentence(table: SeedTable) -> str:
    """'5 seeds: SPIN (iter2) is better than its SFT model on each, than dpo on 1; worse than control on 3', by each seed's own interval."""
    means = [one for one in table.comparisons if one.column == MEAN]
    last = next((one.row for one in means if iteration_of(one.row) is not None), None)
    num_runs = len(table.runs)
    seeds = f"{num_runs} {'seed' if num_runs == 1 else 'seeds'}"
    if last is None:
        return f"{seeds}: no comparison yet"
    own = {"its SFT model" if one.against == REFERENCE else one.against: one for one in means if one.row == last}
    variants = {one.row: one for one in means if one.against == last and one.row != last}
    sides = "; ".join(_sides(own, num_runs, ("better", "worse", "within noise"), ("than ", "than ", "of ")))
    sentence = f"{seeds}: {subject(table.findings)} ({last}) is {sides}"
    if not variants:
        return sentence
    return f"{sentence}; against {last}, {'; '.join(_sides(variants, num_runs, ('better:', 'worse:', 'within noise:'), ('', '', '')))}"


def _sides(found: Mapping[str, SeedComparison], num_runs: int, words: tuple[str, str, str], links: tuple[str, str, str]) -> Iterator[str]:
    """Which names are beaten on how many seeds, which beat on how many, and which do neither on any."""
    counts = {name: _better_and_worse(one) for name, one in found.items()}
    neither = {name: num_runs for name, both in counts.items() if not any(both)}
    better, worse = ({name: both[side] for name, both in counts.items()} for side in (0, 1))
    for word, link, told in zip(words, links, (better, worse, neither), strict=True):
        if any(told.values()):
            yield f"{word} {', '.join(_by_count(told, num_runs, link))}"


def _better_and_worse(one: SeedComparison) -> tuple[int, int]:
    """Seeds whose interval lies above 0, and below."""
    known = [delta for delta in one.per_run if delta is not None]
    better = sum(delta.low is not None and delta.low > 0 for delta in known)
    return better, sum(delta.high is not None and delta.high < 0 for delta in known)


def _by_count(counts: Mapping[str, int], num_runs: int, link: str) -> Iterator[str]:
    """The names with a count above 0, those of the highest first."""
    for count in sorted(set(counts.values()) - {0}, reverse=True):
        names = " and ".join(name for name, times in counts.items() if times == count)
        yield f"{link}{names}{'' if num_runs == 1 else ' on each' if count == num_runs else f' on {count}'}"


def _of_run(table: ResultTable) -> Iterator[Effect]:
    has_average = any(column.label == AVERAGE for column in table.columns)
    against_others = [one for one in table.comparisons if one.against != REFERENCE]
    for one in (*table.from_sft, *against_others):
        average = AVERAGE in one.tasks or (has_average and not one.mean_over)
        what = "six-task average" if average else f"mean of {len(one.mean_over)} tasks"
        paper, misprints = _paper_gain(AVERAGE, one.row, one.against)
        both = [_of_row(table, row) for row in (one.row, one.against)]
        reasons = _reasons(both, is_named=bool(table.published), same_tasks=average) if paper is not None else ()
        yield Effect(one.row, one.against, what, None, headline(one), paper, reasons, average, misprints)
    if has_average or table.published:
        yield from _by_task(table)


def _by_task(table: ResultTable) -> Iterator[Effect]:
    """The last iteration less `sft` on each task the paper prints."""
    last = [row for row in table.rows if iteration_of(row) is not None][-1:]
    for row in last:
        for column in table.columns:
            cell, other = table.cell(row, column.label), table.cell(REFERENCE, column.label)
            paper, misprints = _paper_gain(column.task, row, REFERENCE)
            if paper is not None and column.label != AVERAGE:
                reasons = _reasons([cell.reasons, other.reasons], is_named=bool(table.published), same_tasks=True)
                yield Effect(row, REFERENCE, column.label, column, cell.delta, paper, reasons, True, misprints)


def _of_row(table: ResultTable, row: str) -> tuple[str, ...]:
    """Why a row's average may not be compared with the paper's; where there is no average, what its training alone says."""
    cells = [cell for cell in table.cells if cell.row == row]
    average = [cell.reasons for cell in cells if cell.column == AVERAGE]
    return tuple(dict.fromkeys(chain(*(average or [cell.training_reasons for cell in cells]))))


def _of_seeds(table: SeedTable) -> Iterator[Effect]:
    tasks = [column.task for column in table.columns if column.is_accuracy and column.label != AVERAGE]
    same_tasks = sorted(tasks) == sorted(LEADERBOARD_TASKS)
    what = "six-task average" if same_tasks else f"mean of {len(tasks)} tasks"
    for one in table.comparisons:
        if one.column == MEAN:
            paper, misprints = _paper_gain(AVERAGE, one.row, one.against)
            both = [table.reasons.get(row, ()) for row in (one.row, one.against)]
            reasons = _reasons(both, is_named=bool(table.reasons), same_tasks=same_tasks) if paper is not None else ()
            ours = one.over_seeds if len(table.runs) > 1 else one.pooled
            yield Effect(one.row, one.against, what, None, ours, paper, reasons, same_tasks, misprints)


def _paper_gain(task: str, row: str, against: str) -> tuple[float | None, tuple[Misprint, ...]]:
    """The paper's own gain, from the two scores it prints, and the misprints that were corrected for it."""
    scores = {claim.row: claim.value for claim in CLAIMS if claim.table in PAPER_TABLES and claim.task == task}
    if row not in scores or against not in scores:
        return None, ()
    wrong = {(one.row, one.against): one for one in MISPRINTS if one.task == task}
    gain = wrong.get((row, against))
    if gain is not None:
        return gain.recomputed, (gain,)
    found = {name: wrong[name, None] for name in (row, against) if (name, None) in wrong}
    scores |= {name: one.recomputed for name, one in found.items()}
    return round(scores[row] - scores[against], 6), tuple(found.values())


def _reasons(both: Iterable[Sequence[str]], *, is_named: bool, same_tasks: bool) -> tuple[str, ...]:
    """Why a gain may not be compared with the paper's: the reasons of both rows, or that the recipe names no published model."""
    tasks = () if same_tasks else (OTHER_TASKS,)
    return tuple(dict.fromkeys((*tasks, *chain(*both)))) if is_named else (*tasks, OTHER_MODEL)


def _comparable(one: Effect, numbers: dict[str, int]) -> str:
    if one.paper is None:
        return "paper: none"
    return "no " + " ".join(f"({numbers[reason]})" for reason in one.reasons) if one.reasons else "yes"


def _is_inside(effect: Effect) -> bool | None:
    """Whether the paper's gain lies in our interval; None where there is none."""
    if effect.ours is None or effect.ours.low is None or effect.ours.high is None or effect.paper is None:
        return None
    return effect.ours.low <= effect.paper <= effect.ours.high
