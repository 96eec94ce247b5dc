"""A row of a run or a sweep against another: paired statistics, the questions that changed sides, samples of both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from harness.analysis.differences import RULE, delta, delta_text, direction
from harness.analysis.samples import answered
from harness.analysis.scores import (
    RunScores,
    TaskColumn,
    difference_of,
    load_scores,
    mean_score,
    other_opponents,
    other_rules,
)
from harness.analysis.sweep_table import find_row
from harness.analysis.table_schema import Delta
from harness.config import Strict
from harness.contracts import Score
from harness.contracts.run_files import read_lines
from harness.errors import HarnessError, suggest
from harness.evaluation.paired import t_interval
from harness.evaluation.units import is_less_better
from harness.report.formatting import Block, shortened, visible
from harness.report.tables import print_block
from harness.rows import met_by
from harness.runs.sweeps import is_sweep, read_sweep

PROMPT_END = 800
"""Characters of a prompt that are shown: its end, where the question stands after the few-shot examples."""
NOISE_SHARE = 1e-5
"""Two values that differ by a smaller share are one: another CPU moved `tiny`'s kl by 7e-7."""


class Member(NamedTuple):
    """A row of one run."""

    run: Path
    scores: RunScores
    row: str


class Side(NamedTuple):
    """A row of a run, or of a sweep with a member a seed."""

    title: str
    row: str
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        return f"{self.title}:{self.row}"

    @property
    def scores(self) -> RunScores:
        """The first member's."""
        return self.members[0].scores

    def score(self, column: TaskColumn) -> Score | None:
        """The members' scores as one; None where a run lacks it or they were made under different rules."""
        known = [score for one in self.members if (score := one.scores.score(one.row, column)) is not None]
        if len(known) < len(self.members) or any(other_rules(score, known[0]) for score in known):
            return None
        return known[0] if len(known) == 1 else mean_score(known)


class Changed(Strict):
    """A question whose score differs: its id, both scores, and, where samples are here, the prompt's end and both answers."""

    question: str
    left: float
    right: float
    prompt: str | None = None
    left_answer: str | None = None
    right_answer: str | None = None


class TaskComparison(Strict):
    """`right - left` on a task. `gained` questions score higher on the right, `lost` on the left; their ids stand below.

    Of a sweep, values are means over its seeds, `difference` is paired over questions, and `over_seeds` is the t interval over the
    seeds' differences, which decides what is said. `changed` are some questions with both answers; `note` says why there is no difference.
    """

    task: str
    left: float | None
    right: float | None
    difference: Delta | None
    over_seeds: Delta | None = None
    says: str
    gained: int
    lost: int
    gained_questions: tuple[str, ...] = ()
    lost_questions: tuple[str, ...] = ()
    changed: tuple[Changed, ...]
    note: str | None


class HeadToHead(Strict):
    """What the right row adds to the left one, on every task both have."""

    left: str
    right: str
    tasks: tuple[TaskComparison, ...]


def parse_side(text: str) -> Side:
    """'RUN:ROW', or 'RUN' for its last row; a sweep as well. HarnessError for an unknown row, InputError where no run is there."""
    path, _, row = (text, "", "") if Path(text).is_dir() else text.rpartition(":")
    folder = Path(path or text)
    if is_sweep(folder):
        places = find_row(folder, row or None)
        return Side(read_sweep(folder).name, row or places[0][1], tuple(Member(run, load_scores(run), own) for run, own in places))
    scores = load_scores(folder)
    if row and row not in scores.rows:
        raise HarnessError(f"{scores.recipe.name} has no row {row!r}{suggest(row, scores.rows)}")
    return side_of(folder, scores, row or scores.rows[-1])


def side_of(run: Path, scores: RunScores, row: str) -> Side:
    """A row of one run."""
    return Side(scores.recipe.name, row, (Member(run, scores, row),))


def compare(left: Side, right: Side, num_samples: int) -> HeadToHead:
    """`right - left` on the tasks both recipes have, with `num_samples` changed questions a task shown whole."""
    theirs = right.scores.by_label
    shared = [(column, theirs[column.label]) for column in left.scores.tasks if column.label in theirs]
    if not shared:
        raise HarnessError(f"{left.name} and {right.name} share no task; expected two runs that were evaluated on the same ones")
    tasks = tuple(_task(left, right, ours, other, num_samples) for ours, other in shared)
    return HeadToHead(left=left.name, right=right.name, tasks=tasks)


def print_comparison(found: HeadToHead, console: Console) -> None:
    """The statistics, then the changed questions with both answers side by side."""
    has_seeds = any(one.over_seeds for one in found.tasks)
    grid = tuple(
        (
            one.task,
            _number(one.left),
            _number(one.right),
            delta_text(one.difference, None, p=True),
            *([delta_text(one.over_seeds, None, p=True)] if has_seeds else []),
            one.says,
            str(one.gained),
            str(one.lost),
        )
        for one in found.tasks
    )
    lines = (
        f"{RULE}.",
        "Up, down: questions with a higher score on the right, on the left.",
        *(["Over seeds: t interval over the seeds' differences; it decides. The other pairs the questions' means."] if has_seeds else []),
    )
    notes = tuple(f"{one.task}: {one.note}." for one in found.tasks if one.note)
    header = ("", "left", "right", "right - left", *(["over seeds"] if has_seeds else []), "right is", "up", "down")
    print_block(Block(f"{found.right} (right) - {found.left} (left)", header, grid, lines + notes), console)
    for one in found.tasks:
        for change in one.changed:
            _print_changed(one.task, change, console)


def _task(left: Side, right: Side, ours: TaskColumn, theirs: TaskColumn, num_samples: int) -> TaskComparison:
    a, b = left.score(ours), right.score(theirs)
    if a is None or b is None:
        lacking = left if a is None else right
        several = ", or not in every seed under the same rules" if len(lacking.members) > 1 else ""
        return _without(ours.label, a, b, f"not run in {lacking.name}{several}")
    if rules := other_rules(a, b):
        return _without(ours.label, a, b, "; ".join(rules).replace("the rows above", right.name))
    if ours.has_opponent and not _met_the_same(left, right):
        return _without(ours.label, a, b, other_opponents(left.name))
    b = _without_noise(b, a)
    changed = [
        Changed(question=key, left=x, right=y)
        for key, x in a.values.items()
        if x is not None and (y := b.values.get(key)) is not None and x != y
    ]
    gained = tuple(one.question for one in changed if one.right > one.left)
    lost = tuple(one.question for one in changed if one.right < one.left)
    difference = difference_of(b, a, left.name, ours)
    found, over_seeds = delta(left.name, difference.paired), _over_seeds(left, right, ours, theirs)
    return TaskComparison(
        task=ours.label,
        left=a.value,
        right=b.value,
        difference=found,
        over_seeds=over_seeds,
        says=_says(over_seeds or found, lower_is_better=is_less_better(a)),
        gained=len(gained),
        lost=len(lost),
        gained_questions=gained,
        lost_questions=lost,
        changed=tuple(_with_answers(left, right, ours, theirs, changed, num_samples)),
        note=difference.note,
    )


def _without_noise(score: Score, other: Score) -> Score:
    """`score` with the other's value wherever the two differ by float noise: the same weights on another machine are no change."""
    values = {key: other.values[key] if _is_noise(value, other.values.get(key)) else value for key, value in score.values.items()}
    return score.model_copy(update={"values": values, "value": other.value if _is_noise(score.value, other.value) else score.value})


def _is_noise(value: float | None, other: float | None) -> bool:
    return value is not None and other is not None and math.isclose(value, other, rel_tol=NOISE_SHARE, abs_tol=1e-9)


def _met_the_same(left: Side, right: Side) -> bool:
    """Whether both rows met one opponent on held-out prompts: that of one run, or the model that both runs begin with."""
    theirs = {met_by(side.scores.recipe, member.row) for side in (left, right) for member in side.members}
    runs = {member.run for side in (left, right) for member in side.members}
    return len(theirs) == 1 and (len(runs) == 1 or theirs == {"sft"})


def _says(difference: Delta | None, *, lower_is_better: bool) -> str:
    return direction(difference, lower_is_better=lower_is_better) if difference else "no question is scored in both"


def _over_seeds(left: Side, right: Side, ours: TaskColumn, theirs: TaskColumn) -> Delta | None:
    """The t interval over the differences seed by seed; None where the sides have not the same number of seeds, or one seed."""
    if len(left.members) != len(right.members) or len(left.members) == 1:
        return None
    found = []
    for one, other in zip(left.members, right.members, strict=True):
        a, b = one.scores.score(one.row, ours), other.scores.score(other.row, theirs)
        paired = difference_of(b, a, left.name, ours).paired
        if paired is None or paired.difference is None:
            return None
        found.append(paired.difference)
    return delta(left.name, t_interval(found, "t over seeds"))


def _without(task: str, a: Score | None, b: Score | None, note: str) -> TaskComparison:
    values = [score.value if score else None for score in (a, b)]
    return TaskComparison(
        task=task, left=values[0], right=values[1], difference=None, says="no difference", gained=0, lost=0, changed=(), note=note
    )


def _with_answers(left: Side, right: Side, ours: TaskColumn, theirs: TaskColumn, changed: list[Changed], num: int) -> Iterator[Changed]:
    """The first `num` gains and losses with what both answered."""
    chosen = [one for one in changed if one.right > one.left][:num] + [one for one in changed if one.right < one.left][:num]
    if chosen:
        asked, answers = _answers(left, ours)
        _, others = _answers(right, theirs)
        for one in chosen:
            key = one.question
            yield one.model_copy(update={"prompt": asked.get(key), "left_answer": answers.get(key), "right_answer": others.get(key)})


def _answers(side: Side, column: TaskColumn) -> tuple[dict[str, str], dict[str, str]]:
    """({question: its prompt's end}, {question: the answer}) from the first member's samples; empty where they are not here."""
    first = side.members[0]
    found = [*answered(read_lines(first.run, f"{column.stage_path(first.row)}/samples/{column.task.name}.jsonl"))]
    return {one.question: one.prompt[-PROMPT_END:] for one in found}, {one.question: one.said for one in found}


def _print_changed(task: str, one: Changed, console: Console) -> None:
    console.rule(escape(f"{task} {one.question[:16]}"), align="left")
    if one.prompt is None:
        console.print("no samples here")
        return
    console.print(escape(visible(one.prompt)))
    sides = (("left", one.left, one.left_answer), ("right", one.right, one.right_answer))
    panels = [
        Panel(escape(visible(shortened(answer or ""))), title=escape(f"{name}: {value:g}"), width=max(20, console.width // 2 - 1))
        for name, value, answer in sides
    ]
    console.print(Columns(panels))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
