"""Two judges of the same answers, turn by turn: a run's column, FastChat's judgments, or one beside the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.analysis.forensics.judge_agreement import Graded, compare, read_side
from harness.artifact import RECIPE_FILE, RunDir
from harness.errors import InputError
from harness.evaluation.mt_bench.ratings import category_of
from harness.files import dump, write_atomic
from harness.plan import plan
from harness.recipe import Benchmark, Judge, Task, replace
from tests.synthetic_runs import finish, score_of, small_recipe

TASK = Task(name="mt_bench", metric="points of 10")
FIRST = Benchmark(name="mt_bench", protocol="single", tasks=(TASK,), judge=Judge(name="mt_bench_single", model="a"))
SECOND = Benchmark(name="mt_bench", protocol="strict", tasks=(TASK,), judge=Judge(model="b"), answers_from="single")
QUESTIONS = (81, 82, 91, 92)


def write_run(path: Path) -> Path:
    """A run whose second judge rates the second turns of every question 2 points lower."""
    recipe, run = replace(small_recipe(), name="judged", benchmarks=(FIRST, SECOND)), RunDir(path)
    write_atomic(path / RECIPE_FILE, dump(recipe))
    for stage in plan(recipe):
        files = {}
        if stage.kind in ("evaluate", "verdicts"):
            lower = 2.0 if stage.kind == "verdicts" else 0.0
            values = {f"{q}-{turn}": 5.0 + q % 2 - lower * (turn - 1) for q in QUESTIONS for turn in (1, 2)}
            lines = [
                {"question_id": str(q), "category": category_of(str(q)), "questions": ["x", "y"], "answers": [f"one {q}", f"two {q}"]}
                for q in QUESTIONS
            ]
            files["scores/mt_bench.json"] = dump(score_of(FIRST, TASK, values))
            files["samples/mt_bench.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        finish(run, stage, files)
    return path


def judged_elsewhere(path: Path, rating: int = 5, answer: str = "one {q}") -> Path:
    """GPT-4's judgments of the first turns, as FastChat writes them."""
    lines = [
        {"question_id": q, "model": "ours", "judge": ["gpt-4", "single-v1"], "turn": 1, "score": rating,
         "judgment": f"Rating: [[{rating}]]", "user_prompt": f"[Question]\nx\n\n[Answer]\n{answer.format(q=q)}\n[End]"}
        for q in QUESTIONS
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_two_judges_of_a_run(tmp_path: Path) -> None:
    """Promise: per category and over all, n, both means, the paired difference, and the shares that are equal and within a point."""
    run = write_run(tmp_path / "run")
    found, others = compare(read_side(f"{run}:iter0:mt_bench"), read_side(f"{run}:iter0:judged/strict/mt_bench"))
    by_name = {one.category: one for one in found}
    assert [*by_name] == ["all", "writing", "roleplay"]
    assert (others, by_name["all"].n, by_name["writing"].n) == (0, 8, 4)
    assert (by_name["all"].left, by_name["all"].right, by_name["all"].difference) == (5.5, 4.5, 1.0)
    assert (by_name["all"].equal, by_name["all"].within_1) == (50.0, 50.0)
    itself, _ = compare(read_side(f"{run}:iter0:mt_bench"), read_side(f"{run}:iter0:mt_bench"))
    assert (itself[0].equal, itself[0].spearman) == (100.0, pytest.approx(1.0))


def test_a_run_beside_imported_judgments(tmp_path: Path) -> None:
    """A judgment counts where its judge was shown our answer; a judgment of another answer is left out and counted."""
    run = write_run(tmp_path / "run")
    ours, theirs = read_side(f"{run}:iter0:mt_bench"), read_side(f"{judged_elsewhere(tmp_path / 'gpt-4_single.jsonl')}:ours")
    for sides in ((ours, theirs), (theirs, ours)):
        found, others = compare(*sides)
        assert (found[0].n, others, found[0].spearman) == (4, 0, None)
    other = read_side(f"{judged_elsewhere(tmp_path / 'other.jsonl', answer='another')}:ours")
    with pytest.raises(InputError, match="4 turns are in both, 0 of them on the same answers"):
        compare(ours, other)


def test_an_unreadable_verdict_is_no_disagreement() -> None:
    """A turn that one judge left unscored is in neither mean."""
    left = {"81-1": Graded(5.0, "writing", ("a",)), "82-1": Graded(None, "writing", ("b",))}
    found, _ = compare(left, {key: one._replace(rating=7.0) for key, one in left.items()})
    assert (found[0].n, found[0].left, found[0].right) == (1, 5.0, 7.0)


def test_the_real_judgments(shared_data: Path) -> None:
    """GPT-4 agrees with itself on all 160 turns of a model, and grades of another model's answers are left out."""
    path = shared_data / "mt_bench/gpt-4_single.jsonl.gz"
    found, others = compare(read_side(f"{path}:ultrachat_sai"), read_side(f"{path}:ultrachat_sai:gpt-4"))
    assert (found[0].n, found[0].equal, others, len(found)) == (160, 100.0, 0, 9)
    other, num_others = compare(read_side(f"{path}:ultrachat_sai"), read_side(f"{path}:ultrachat_cai"))
    assert (other[0].n, num_others) == (14, 146), "only what both models answered alike"


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        ("nowhere", "is no side; expected RUN:ROW:COLUMN"),
        ("{run}:iter9:mt_bench", "has no row 'iter9'"),
        ("{run}:iter0:judged/mt_bench", "has no judged column"),
        ("{file}:somebody", "holds judgments of somebody by 0 such judges; name one of ours:gpt-4"),
    ],
)
def test_what_is_no_side_is_refused(tmp_path: Path, side: str, reason: str) -> None:
    """One line says what there is."""
    run, file = write_run(tmp_path / "run"), judged_elsewhere(tmp_path / "gpt-4_single.jsonl")
    with pytest.raises(InputError, match=reason):
        read_side(side.format(run=run, file=file))
