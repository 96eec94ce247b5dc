"""What MT-Bench ratings add up to, and judgments made elsewhere: FastChat's model_judgment files, re-read verdict by verdict.

A line of such a file is one single-answer judgment: question_id, model, judge [model, prompt], judgment (the judge's text), score
(FastChat's reading, -1 where it found none), turn. The recorded score is never used, only compared with our own reading.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.contracts import load
from harness.errors import InputError
from harness.evaluation.statistics import bootstrap, estimate, question_of, t_of

FASTCHAT_UNREADABLE = -1
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
FIRST_QUESTION, QUESTIONS_PER_CATEGORY = 81, 10
"""MT-Bench's questions 81 to 160: ten of each category, in this order."""

Ratings = Mapping[str, float | None]


class Judgment(NamedTuple):
    """One verdict on one turn; `recorded` is the score the file holds beside it, None where it holds FastChat's -1."""

    model: str
    judge: str
    question_id: str
    turn: int
    text: str
    recorded: float | None


def rating_of(readings: Sequence[float | None]) -> float | None:
    """A turn's rating from the readings of its verdicts: the mean of those that could be read, None where none could."""
    known = [reading for reading in readings if reading is not None]
    return sum(known) / len(known) if known else None


def group_means(ratings: Ratings, groups: Mapping[str, str]) -> dict[str, dict[str, float | int | None]]:
    """{group: mean of its scored ratings or None, n of them}."""
    members: dict[str, list[float]] = {group: [] for group in groups.values()}
    for key, rating in ratings.items():
        if rating is not None:
            members[groups[key]].append(rating)
    return {group: {"mean": sum(found) / len(found) if found else None, "n": len(found)} for group, found in members.items()}


def intervals(ratings: Ratings) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of the mean of {'QUESTION-TURN': rating}, with questions as clusters: 't' (cluster-robust) and 'bootstrap'.

    Tables use t: its coverage is the nearer to 95 % at few questions; the bootstrap needs no symmetry. None below two questions.
    """
    return {"t": t_of(ratings, question_of), "bootstrap": bootstrap(ratings, question_of)}


def read_judgments(paths: Sequence[Path]) -> list[Judgment]:
    """Every judgment of the files, plain or gzipped jsonl. Raises `InputError` that names file and line."""
    return [judgment for path in paths for judgment in _read(path)]


def summarize(judgments: Sequence[Judgment]) -> list[dict[str, Any]]:
    """A row for each (judge, model), in the order of the files: mean, error, intervals, means per turn and category, what was unreadable.

    Several verdicts on a turn are repeats. `disagree` counts the verdicts whose recorded score is not our reading.
    """
    found: dict[tuple[str, str], list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        found[judgment.judge, judgment.model].append(judgment)
    return [{"judge": judge, "model": model, **_summary(group)} for (judge, model), group in found.items()]


def rows(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The summaries as a printed table: a row for each measure, a column for each model under its judge."""
    shown = {f"{one['model']} by {one['judge']}": _measures(one) for one in summaries}
    names = dict.fromkeys(name for measures in shown.values() for name in measures)
    return [{"measure": name, **{column: measures.get(name, "-") for column, measures in shown.items()}} for name in names]


def _measures(one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "mean": _short(one["mean"]),
        "standard error": _short(one["stderr"]),
        **{f"95 %, {name}": " to ".join(map(_short, found)) if found else "-" for name, found in one["intervals"].items()},
        **{f"turn {turn}": _short(found["mean"]) for turn, found in sorted(one["turns"].items())},
        **{name: _short(one["categories"][name]["mean"]) for name in (*CATEGORIES, "other") if name in one["categories"]},
        **{name.replace("n_", ""): str(one[name]) for name in ("n", "n_unscored", "verdicts", "unreadable", "disagree")},
    }


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def category_of(question_id: str) -> str:
    """The category of an MT-Bench question by its number; 'other' for a question that is not MT-Bench's."""
    place = int(question_id) - FIRST_QUESTION if question_id.isdigit() else -1
    return CATEGORIES[place // QUESTIONS_PER_CATEGORY] if 0 <= place < len(CATEGORIES) * QUESTIONS_PER_CATEGORY else "other"


def _summary(judgments: Sequence[Judgment]) -> dict[str, Any]:
    parse = load("judges", "mt_bench_single").parse
    readings: dict[str, list[float | None]] = defaultdict(list)
    disagree = 0
    for judgment in judgments:
        reading = parse(judgment.text)
        readings[f"{judgment.question_id}-{judgment.turn}"].append(reading)
        disagree += reading != judgment.recorded
    ratings = {key: rating_of(found) for key, found in readings.items()}
    estimated = estimate(ratings, question_of)
    return {
        "mean": estimated.value,
        "stderr": estimated.stderr,
        "intervals": intervals(ratings),
        "turns": group_means(ratings, {key: key.rpartition("-")[2] for key in ratings}),
        "categories": group_means(ratings, {key: category_of(question_of(key)) for key in ratings}),
        "n": len(ratings),
        "n_unscored": estimated.n_unscored,
        "verdicts": len(judgments),
        "unreadable": sum(reading is None for found in readings.values() for reading in found),
        "disagree": disagree,
    }


def _read(path: Path) -> Iterator[Judgment]:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _judgment(path, number, line)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); expected FastChat's model_judgment file, plain or .gz") from None


def _judgment(path: Path, number: int, line: str) -> Judgment:
    place = f"{path}, line {number}"
    try:
        row = json.loads(line)
        if "g1_winner" in row:
            raise InputError(f"{place} is a pairwise judgment; expected single-answer grading (*_single.jsonl)")
        recorded = float(row["score"])
        return Judgment(
            model=str(row["model"]),
            judge=str(row["judge"][0]),
            question_id=str(row["question_id"]),
            turn=int(row["turn"]),
            text=str(row["judgment"]),
            recorded=None if recorded == FASTCHAT_UNREADABLE else recorded,
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{place} is no judgment ({type(error).__name__}: {error}); expected question_id, model, judge, judgment, score, turn"
        ) from None
