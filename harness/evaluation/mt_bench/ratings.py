"""What MT-Bench ratings add up to, and judgments made elsewhere: FastChat's model_judgment files, re-read verdict by verdict.

A line of such a file is one single-answer judgment: question_id, model, judge [model, prompt], judgment (the judge's text), score
(FastChat's reading, -1 where it found none), turn, and user_prompt (what the judge was asked). The recorded score is never used, only
compared with our own reading. Several verdicts on a turn are repeats only where the judge was asked the same: answers of two runs under
one model name are refused, and so is a judgment that is given twice.
"""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from harness.config import first_fault
from harness.contracts import load
from harness.errors import InputError
from harness.evaluation.statistics import bootstrap, estimate, question_of, t_of
from harness.files import DAMAGED_GZIP

FASTCHAT_UNREADABLE = -1
FASTCHAT_RULE, STRICT_RULE = "mt_bench_single", "mt_bench_strict"
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
FIRST_QUESTION, QUESTIONS_PER_CATEGORY = 81, 10
"""MT-Bench's questions 81 to 160: ten of each category, in this order."""

THINKING_BEGINS, THINKING_ENDS = re.compile(r"<think(?:ing)?>", re.IGNORECASE), re.compile(r"</think(?:ing)?>", re.IGNORECASE)

Ratings = Mapping[str, float | None]


class Judgment(NamedTuple):
    """One verdict on one turn; `recorded` is the score the file holds beside it, None where it holds FastChat's -1.

    `place` is its file and line, `prompt` what the judge was asked and `template` the name of the judge's prompt that it was asked in,
    None where the file does not say.
    """

    place: str
    model: str
    judge: str
    question_id: str
    turn: int
    prompt: str | None
    text: str
    recorded: float | None
    template: str | None = None


class _Line(BaseModel):
    """What is read of a line."""

    question_id: int | str
    model: str
    judge: list[str] = Field(min_length=1)
    judgment: str
    score: float
    turn: int
    user_prompt: str | None = None


def without_thinking(verdict: str) -> str:
    """What a judge says after its thinking has ended and before it begins anew; a template may have opened it in the prompt."""
    return THINKING_BEGINS.split(THINKING_ENDS.split(verdict)[-1])[0]


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
    """Every judgment of the files, plain or gzipped jsonl. Raises `InputError` that names file and line.

    A line that occurs twice, and two prompts for one turn of one model under one judge, are errors.
    """
    found: dict[str, Judgment] = {}
    for place, text in (line for path in paths for line in _lines(path)):
        text = text.strip()
        if text in found:
            raise InputError(f"{place} repeats {found[text].place}, word for word; give each judgment once")
        found[text] = _judgment(place, text)
    if not found:
        raise InputError(f"no judgment in {', '.join(map(str, paths))}; expected FastChat's *_single.jsonl")
    _require_one_prompt(found.values())
    return [*found.values()]


def _require_one_prompt(judgments: Iterable[Judgment]) -> None:
    """An `InputError` where verdicts on one turn are on different answers: their mean would be no run's."""
    first: dict[tuple[str, str, str, int], Judgment] = {}
    for one in judgments:
        other = first.setdefault((one.judge, one.model, one.question_id, one.turn), one)
        if one.prompt != other.prompt:
            raise InputError(
                f"{one.place} and {other.place} grade different answers of {one.model} to question {one.question_id}, turn {one.turn} "
                "(their user_prompt differs); expected one run under one name: import each run by itself, or give them two names"
            )


def summarize(judgments: Sequence[Judgment]) -> list[dict[str, Any]]:
    """A row for each (judge, model), in the order of the files: mean, error, intervals, means per turn and category, what was unreadable.

    Several verdicts on a turn are repeats. They are read by FastChat's rule: `disagree` counts those whose recorded score is not our
    reading, `by_fallback` those read in single brackets. `strict` holds the mean under the strict rule, what that leaves unreadable, and
    how many verdicts it reads otherwise.
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
        **{name.removeprefix("n_"): str(one[name]) for name in ("n", "n_unscored", "verdicts", "unreadable", "by_fallback", "disagree")},
        "mean, strict rule": _short(one["strict"]["mean"]),
        **{f"{name}, strict rule": str(one["strict"][name]) for name in ("unreadable", "otherwise")},
    }


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def category_of(question_id: str) -> str:
    """The category of an MT-Bench question by its number; 'other' for a question that is not MT-Bench's."""
    place = int(question_id) - FIRST_QUESTION if question_id.isdigit() else -1
    return CATEGORIES[place // QUESTIONS_PER_CATEGORY] if 0 <= place < len(CATEGORIES) * QUESTIONS_PER_CATEGORY else "other"


def _summary(judgments: Sequence[Judgment]) -> dict[str, Any]:
    fastchat, strict = load("judges", FASTCHAT_RULE), load("judges", STRICT_RULE)
    readings, strictly = ([rule.parse(judgment.text) for judgment in judgments] for rule in (fastchat, strict))
    ratings = _turn_ratings(judgments, readings)
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
        "unreadable": readings.count(None),
        "by_fallback": sum(fastchat.is_fallback(judgment.text) for judgment in judgments),
        "disagree": sum(reading != judgment.recorded for reading, judgment in zip(readings, judgments, strict=True)),
        "strict": {
            "mean": estimate(_turn_ratings(judgments, strictly), question_of).value,
            "unreadable": strictly.count(None),
            "otherwise": sum(reading != other for reading, other in zip(readings, strictly, strict=True)),
        },
    }


def _turn_ratings(judgments: Sequence[Judgment], readings: Sequence[float | None]) -> dict[str, float | None]:
    """{'QUESTION-TURN': rating} from the readings of the judgments, in their order."""
    found: dict[str, list[float | None]] = defaultdict(list)
    for judgment, reading in zip(judgments, readings, strict=True):
        found[f"{judgment.question_id}-{judgment.turn}"].append(reading)
    return {key: rating_of(of_turn) for key, of_turn in found.items()}


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file and number, text) of each line that is not blank."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", line
    except (OSError, UnicodeDecodeError, *DAMAGED_GZIP) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); expected FastChat's model_judgment file, plain or .gz") from None


def _judgment(place: str, text: str) -> Judgment:
    try:
        line = _Line.model_validate_json(text)
    except ValidationError as error:
        if '"g1_winner"' in text:
            raise InputError(f"{place} is a pairwise judgment; expected single-answer grading (*_single.jsonl)") from None
        raise InputError(
            f"{place} is no judgment ({first_fault(error)}); expected question_id, model, judge, judgment, score, turn"
        ) from None
    return Judgment(
        place=place,
        model=line.model,
        judge=line.judge[0],
        question_id=str(line.question_id),
        turn=line.turn,
        prompt=line.user_prompt,
        text=line.judgment,
        recorded=None if line.score == FASTCHAT_UNREADABLE else line.score,
        template=line.judge[1] if len(line.judge) > 1 else None,
    )
