"""FastChat's single-answer grading: the prompt as it was really asked, the rating as it was really read."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from harness.components.judges import rule_based
from harness.components.judges.mt_bench_single import is_fallback, parse, render, template_name
from harness.contracts import Turn
from harness.errors import InputError
from harness.evaluation.mt_bench.questions import judge_templates, questions_of
from harness.recipe import Task

MEANS = {"ultrachat_baseline": 6.39375, "ultrachat_cai": 6.5125, "ultrachat_sai": 6.675}


@pytest.fixture(scope="module")
def judgments(shared_data: Path) -> list[dict[str, Any]]:
    """480 real GPT-4 judgments of three models."""
    with gzip.open(shared_data / "mt_bench" / "gpt-4_single.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def answers(folder: Path, model: str) -> dict[int, list[str]]:
    with open(folder / "mt_bench" / f"answers.{model}.jsonl") as file:
        return {row["question_id"]: row["choices"][0]["turns"] for row in map(json.loads, file)}


def test_real_prompts_render_exactly(judgments: list[dict[str, Any]], shared_data: Path, hf_cache: Path) -> None:
    """Each of 480 real judge prompts is reproduced to the byte from question, answers and reference."""
    questions = {question.question_id: question for question in questions_of(Task(name="mt_bench", metric="points of 10"))}
    templates, given = judge_templates(), {model: answers(shared_data, model) for model in MEANS}
    exact = 0
    for row in judgments:
        question, end = questions[str(row["question_id"])], row["turn"]
        answered = tuple(given[row["model"]][row["question_id"]][:end])
        turn = Turn(question.question_id, question.category, question.turns[:end], answered, question.references[:end])
        system, user = render(turn, templates)
        assert template_name(turn) == row["judge"][1]
        assert system == {"role": "system", "content": templates[row["judge"][1]]["system_prompt"]}
        exact += user == {"role": "user", "content": row["user_prompt"]}
    assert (exact, len(judgments)) == (480, 480)


def test_real_verdicts_are_read(judgments: list[dict[str, Any]]) -> None:
    """The ratings read from 480 real verdicts are the recorded ones, and so are the means of the three models."""
    ratings: dict[str, list[float]] = defaultdict(list)
    for row in judgments:
        rating = parse(row["judgment"])
        assert rating == row["score"]
        assert rating is not None
        ratings[row["model"]].append(rating)
    assert {model: sum(found) / len(found) for model, found in ratings.items()} == MEANS


@pytest.mark.parametrize(
    ("verdict", "rating"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("Rating: [[7.5]]", 7.5),
        ("Rating: [[10]] I repeat: [[10.0]]", 10.0),
        ("Rating: [6]", 6.0),
        ("as in [1], hence [[8]]", 8.0),
        ("[[3]] or rather [[4]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[11]]", None),
        ("Rating: [[-3]]", None),
        ("Rating: [[rating]]", None),
        ("Rating: 7/10", None),
        ("[1] and [2] are cited", None),
        ("", None),
    ],
)
def test_verdicts(verdict: str, rating: float | None) -> None:
    """A rating is read where there is exactly one from 1 to 10; anything else is None, never 0."""
    assert parse(verdict) == rating
    assert is_fallback(verdict) == (verdict == "Rating: [6]")


def test_a_missing_reference_is_an_error() -> None:
    """A math question without its reference answer cannot be graded as FastChat does and says so."""
    templates = {"single-math-v1": {"system_prompt": "", "prompt_template": "{ref_answer_1}"}}
    with pytest.raises(InputError, match="question 111 \\(math\\) has 0 reference answers, expected 1"):
        render(Turn("111", "math", ("q",), ("a",), ()), templates)


def test_braces_in_answers_stay(hf_cache: Path) -> None:
    """Model output is text: braces in it are not fields of the template."""
    _, user = render(Turn("1", "writing", ("{answer}",), ("{question} {0} }{",), ()), judge_templates())
    assert "{question} {0} }{" in user["content"]
    assert "[Question]\n{answer}\n" in user["content"]


def test_the_rule_speaks_the_judges_format() -> None:
    """The rule-based verdict is deterministic, looks at the last turn, and is read by the same parser."""
    right = Turn("q", "shuffle", ("shuffle a b c", "shuffle b f c a"), ("a", "a b c f"), ())
    wrong = right._replace(answers=("a", "a b"))
    assert rule_based.parse(rule_based.decide(right)) == 10.0
    rating = rule_based.parse(rule_based.decide(wrong))
    assert rating is not None
    assert 1 <= rating < 10
