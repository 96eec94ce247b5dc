"""Two judges on the same answers: how far they agree, over all turns and in each category.

A judge's ratings are a column of a run, or FastChat's judgments of one model. Only turns that both graded on the very same answers are
compared: a run's samples hold the answers, a judgment the prompt that they stand in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from harness.analysis.samples import answered
from harness.analysis.scores import load_scores
from harness.contracts import load
from harness.errors import InputError, suggest
from harness.evaluation.mt_bench.ratings import FASTCHAT_RULE, category_of, rating_of, read_judgments
from harness.evaluation.paired import paired_difference
from harness.evaluation.statistics import question_of
from harness.files import read_jsonl

NEAR = 1.0
"""Ratings so many points apart, or less, are near."""
ALL = "all"


class Graded(NamedTuple):
    """A turn as a judge graded it: the answers up to it where a run has them, else the prompt in which they stood."""

    rating: float | None
    category: str
    answers: tuple[str, ...] | None = None
    prompt: str | None = None

    def on_same(self, other: Graded) -> bool:
        """Whether both grade the same answers; False where a file does not tell."""
        if self.answers is not None and other.answers is not None:
            return self.answers == other.answers
        if self.answers is not None and other.prompt is not None:
            return all(answer in other.prompt for answer in self.answers)
        if other.answers is not None:
            return self.prompt is not None and other.on_same(self)
        return self.prompt is not None and self.prompt == other.prompt


class Agreement(NamedTuple):
    """Over `n` turns both rated: means in points of 10, left less right with its 95 % interval (questions as clusters), shares in
    percent of equal ratings and of those at most a point apart, and Spearman's rank correlation, None where a side rates all alike."""

    category: str
    n: int
    left: float
    right: float
    difference: float
    low: float | None
    high: float | None
    equal: float
    within_1: float
    spearman: float | None


def read_side(text: str) -> dict[str, Graded]:
    """{'QUESTION-TURN': how it was graded} of RUN:ROW:COLUMN or FILE:MODEL[:JUDGE]. InputError where it is neither."""
    path, *parts = text.split(":")
    if Path(path).is_dir() and len(parts) == 2:
        return _of_run(Path(path), *parts)
    if Path(path).is_file() and len(parts) in (1, 2):
        return _of_file(Path(path), parts[0], parts[1] if len(parts) == 2 else None)
    raise InputError(f"{text} is no side; expected RUN:ROW:COLUMN of a run here, or FILE:MODEL or FILE:MODEL:JUDGE of FastChat's judgments")


def _of_run(run: Path, row: str, label: str) -> dict[str, Graded]:
    scores = load_scores(run)
    judged = {name: column for name, column in scores.by_label.items() if column.benchmark.name == "mt_bench"}
    if row not in scores.rows:
        raise InputError(f"{scores.recipe.name} has no row {row!r}{suggest(row, scores.rows)}")
    if label not in judged:
        raise InputError(f"{scores.recipe.name} has no judged column {label!r}{suggest(label, judged)}")
    column = judged[label]
    score, path = scores.score(row, column), run / column.stage_path(row) / "samples" / f"{column.task.name}.jsonl"
    if score is None or not path.is_file():
        raise InputError(f"{path} is not here: not made yet, or left out of what was committed; `harness status` says which")
    return {
        one.question: Graded(score.values[one.question], one.line["category"], tuple(one.line["answers"][: (one.turn or 0) + 1]))
        for one in answered(read_jsonl(path))
    }


def _of_file(file: Path, model: str, judge: str | None) -> dict[str, Graded]:
    """A model's judgments by one judge, read by FastChat's rule; several verdicts on a turn are its repeats."""
    judgments = [one for one in read_judgments([file]) if one.model == model and judge in (None, one.judge)]
    judges = sorted({one.judge for one in judgments})
    if len(judges) != 1:
        found = sorted({f"{one.model}:{one.judge}" for one in read_judgments([file])})
        raise InputError(f"{file} holds judgments of {model} by {len(judges)} such judges; name one of {', '.join(found)}")
    parse: Callable[[str], float | None] = load("judges", FASTCHAT_RULE).parse
    readings: dict[str, list[float | None]] = defaultdict(list)
    for one in judgments:
        readings[f"{one.question_id}-{one.turn}"].append(parse(one.text))
    prompts = {f"{one.question_id}-{one.turn}": one.prompt for one in judgments}
    return {key: Graded(rating_of(found), category_of(question_of(key)), None, prompts[key]) for key, found in readings.items()}


def compare(left: Mapping[str, Graded], right: Mapping[str, Graded]) -> tuple[list[Agreement], int]:
    """The agreement over all turns, then by category; and how many turns in common are not known to be on the same answers.

    Raises InputError where nothing can be compared.
    """
    common = [key for key in left if key in right]
    same = [key for key in common if left[key].on_same(right[key])]
    rated = [key for key in same if left[key].rating is not None and right[key].rating is not None]
    if not rated:
        raise InputError(
            f"{len(common)} turns are in both, {len(same)} of them on the same answers, and no one is rated by both judges; "
            "expected two judges of the same answers"
        )
    groups = {ALL: rated, **{name: [key for key in rated if left[key].category == name] for name in _categories(left, rated)}}
    return [_agreement(name, keys, left, right) for name, keys in groups.items()], len(common) - len(same)


def _categories(graded: Mapping[str, Graded], keys: list[str]) -> list[str]:
    return [*dict.fromkeys(graded[key].category for key in keys)]


def _agreement(name: str, keys: list[str], left: Mapping[str, Graded], right: Mapping[str, Graded]) -> Agreement:
    ours, theirs = ({key: side[key].rating for key in keys} for side in (left, right))
    pairs = [(float(ours[key] or 0), float(theirs[key] or 0)) for key in keys]
    found = paired_difference(ours, theirs, question_of)
    return Agreement(
        category=name,
        n=len(pairs),
        left=fmean(a for a, _ in pairs),
        right=fmean(b for _, b in pairs),
        difference=found.difference or 0.0,
        low=found.low,
        high=found.high,
        equal=100 * fmean(a == b for a, b in pairs),
        within_1=100 * fmean(abs(a - b) <= NEAR for a, b in pairs),
        spearman=_spearman(pairs),
    )


def _spearman(pairs: list[tuple[float, float]]) -> float | None:
    if any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    from scipy.stats import spearmanr

    return float(spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic)


def shown(found: Sequence[Agreement]) -> list[dict[str, Any]]:
    """The agreements as a terminal shows them."""
    return [
        {
            "category": one.category,
            "n": one.n,
            "left": f"{one.left:.2f}",
            "right": f"{one.right:.2f}",
            "left less right": f"{one.difference:+.2f}" + ("" if one.low is None else f" [{one.low:+.2f}, {one.high:+.2f}]"),
            "equal %": f"{one.equal:.1f}",
            "within 1 %": f"{one.within_1:.1f}",
            "Spearman": "" if one.spearman is None else f"{one.spearman:.2f}",
        }
        for one in found
    ]
