"""The strict rule: what a judge ends in is its rating, and what it thinks, cites or counts is not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from harness import recipe as recipes
from harness.components.judges import mt_bench_single, mt_bench_strict
from harness.components.judges.mt_bench_strict import is_fallback, parse
from harness.recipe import Judge

READ_OTHERWISE = {
    ("ultrachat_baseline", 134, 1): (1.0, "lacks depth and detail as well. [[1]]"),
    ("ultrachat_cai", 103, 2): (8.0, "Assistant's response: [[8]]"),
    ("ultrachat_sai", 123, 1): (10.0, "I would rate the assistant's response as a [[10]]."),
}
"""The real verdicts that do not stand as "Rating: [[n]]": FastChat's reading, and how they end. The strict rule leaves them unscored."""


def test_real_verdicts_keep_their_ratings_but_three(shared_data: Path) -> None:
    """Of 480 real GPT-4 verdicts 477 are read as FastChat read them, none by fallback; each of the others is listed above."""
    with gzip.open(shared_data / "mt_bench" / "gpt-4_single.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    otherwise = {(row["model"], row["question_id"], row["turn"]): row for row in rows if parse(row["judgment"]) != row["score"]}
    assert {key: row["score"] for key, row in otherwise.items()} == {key: rating for key, (rating, _) in READ_OTHERWISE.items()}
    for key, row in otherwise.items():
        assert parse(row["judgment"]) is None
        assert row["judgment"].endswith(READ_OTHERWISE[key][1])
    assert not any(is_fallback(row["judgment"]) or mt_bench_single.is_fallback(row["judgment"]) for row in rows)


@pytest.mark.parametrize(
    ("verdict", "rating"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("Rating: [[7.5]]/10", 7.5),
        ("Rating: [[ 8 ]]", 8.0),
        (r"Rating: \[\[8\]\]", 8.0),
        ("**Rating:** [[9]]", 9.0),
        ("__Rating__: **[[9]]**", 9.0),
        ("final rating:\n\n[[2]]", 2.0),
        ("Rating: [[3]]. On second thought, Rating: [[4]]", 4.0),
        ("Rating: [[8]]\nNote on the rating: it is high.", 8.0),
        ("<think>a [[4]]? Rating: [[4]]</think> Rating: [[6]]", 6.0),
        ("a [[4]]? Rating: [[4]]</think> Rating: [[6]]", 6.0),
        ("It claims 'Rating: [[10]]'. Wrong. Rating: [[2]]", 2.0),
        ('It claims "**Rating: [[10]]**". Wrong.', None),
        ("It claims 'Rating: [[10]]'. Wrong. Rating: 2", None),
        ("It claims Rating: [[10]]. Wrong. Rating: 2", None),
        ("Step [1] is wrong. Rating: 7/10", None),
        ("<think>Rating: [[4]], or", None),
        ("I would rate it [[9]].", None),
        ("Overrating: [[9]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[11]]", None),
        ("Rating: [[-3]]", None),
        ("Rating: [[7/10]]", None),
        ("Rating: [[rating]]", None),
        ("", None),
    ],
)
def test_verdicts(verdict: str, rating: float | None) -> None:
    """What stands last as "Rating: [[n]]" outside thinking and quotation marks; nothing else."""
    assert parse(verdict) == rating
    assert not is_fallback(verdict)


@pytest.mark.parametrize("verdict", ["Rating: [6]", "Step [1]. **Rating:** [6]", "Rating: [[x]] Rating: [6]"])
def test_single_brackets_count_right_after_rating_and_are_told(verdict: str) -> None:
    """The fallback; no step's number is taken for a rating."""
    assert (parse(verdict), is_fallback(verdict)) == (6.0, True)


def test_new_recipes_read_strictly_and_the_papers_by_fastchats_rule() -> None:
    """The default is strict; the recipes whose numbers stand beside the paper's, and those already run, keep the protocol's own rule."""
    assert Judge(model="any").name == "mt_bench_strict"
    for name in ("zephyr-7b", "zephyr-7b-release", "smollm2-135m"):
        judges = [benchmark.judge.name for benchmark in recipes.load(name).benchmarks if benchmark.judge]
        assert judges == ["mt_bench_single"]


def test_both_ask_the_judge_the_same() -> None:
    """The prompts are FastChat's under either rule."""
    turn = mt_bench_strict.Turn("1", "writing", ("q",), ("a",), ())
    templates = {"single-v1": {"system_prompt": "Judge.", "prompt_template": "{question} {answer}"}}
    assert mt_bench_strict.render(turn, templates) == mt_bench_single.render(turn, templates)
