"""Judgments made elsewhere are re-read verdict by verdict; means are FastChat's, and nothing unreadable is counted as 0."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.evaluation.mt_bench.questions import questions_of
from harness.evaluation.mt_bench.ratings import category_of, rating_of, read_judgments, rows, summarize
from harness.recipe import Task


def line(question: int, turn: int, text: str, score: float, **changed: Any) -> str:
    row = {"question_id": question, "model": "m", "judge": ["gpt-4", "single-v1"], "judgment": text, "score": score, "turn": turn}
    return json.dumps({**row, **changed}) + "\n"


def test_the_real_file(shared_data: Path) -> None:
    """480 real GPT-4 judgments give 6.394, 6.513 and 6.675, none unreadable, none read otherwise than recorded."""
    found = {one["model"]: one for one in summarize(read_judgments([shared_data / "mt_bench" / "gpt-4_single.jsonl.gz"]))}
    assert {model: f"{one['mean']:.3f}" for model, one in found.items()} == {
        "ultrachat_baseline": "6.394",
        "ultrachat_cai": "6.513",
        "ultrachat_sai": "6.675",
    }
    for one in found.values():
        assert (one["n"], one["verdicts"], one["unreadable"], one["disagree"], one["by_fallback"]) == (160, 160, 0, 0, 0)
        assert (one["strict"]["otherwise"], one["strict"]["unreadable"]) == (1, 1)
        assert {name: group["n"] for name, group in one["categories"].items()} == dict.fromkeys(one["categories"], 20)
        assert len(one["categories"]) == 8
        assert sum(group["mean"] for group in one["categories"].values()) / 8 == pytest.approx(one["mean"])
        assert sum(group["mean"] for group in one["turns"].values()) / 2 == pytest.approx(one["mean"])
        for low, high in one["intervals"].values():
            assert low < one["mean"] < high


def test_unreadable_repeated_and_wrongly_recorded(tmp_path: Path) -> None:
    """Unreadable verdicts are counted and leave the mean alone, repeats of a turn are averaged, another recorded score is counted."""
    path = tmp_path / "single.jsonl"
    lines = [line(81, 1, "[[4]]", 4), line(81, 1, "[[8]]", 8), line(81, 2, "none", -1), line(111, 1, "[[3]] or [[5]]", 3)]
    path.write_text("".join(lines) + "\n" + line(111, 2, "[[10]]", 10))
    (one,) = summarize(read_judgments([path]))
    assert (one["mean"], one["n"], one["n_unscored"], one["verdicts"], one["unreadable"], one["disagree"]) == (8.0, 4, 2, 5, 2, 1)
    assert one["categories"] == {"writing": {"mean": 6.0, "n": 1}, "math": {"mean": 10.0, "n": 1}}
    assert one["turns"] == {"1": {"mean": 6.0, "n": 1}, "2": {"mean": 10.0, "n": 1}}


def test_different_answers_are_not_repeats(tmp_path: Path) -> None:
    """Two runs under one model name have other prompts on the same turns: their mean would be no run's."""
    path = tmp_path / "single.jsonl"
    path.write_text(line(81, 1, "[[4]]", 4, user_prompt="one answer") + line(81, 1, "[[8]]", 8, user_prompt="another"))
    with pytest.raises(InputError, match=r"line 2 and .*line 1 grade different answers of m to question 81, turn 1"):
        read_judgments([path])
    path.write_text(line(81, 1, "[[4]]", 4, user_prompt="one answer") + line(81, 1, "[[8]]", 8, user_prompt="one answer"))
    (one,) = summarize(read_judgments([path]))
    assert (one["mean"], one["verdicts"]) == (6.0, 2)


def test_two_real_runs_under_one_name_are_refused(shared_data: Path, tmp_path: Path) -> None:
    """320 real verdicts on 160 turns, once printed as one mean of 6.45."""
    with gzip.open(shared_data / "mt_bench" / "gpt-4_single.jsonl.gz", "rt") as file:
        rows = [row for row in map(json.loads, file) if row["model"] != "ultrachat_sai"]
    path = tmp_path / "single.jsonl"
    path.write_text("".join(json.dumps({**row, "model": "m"}) + "\n" for row in rows))
    with pytest.raises(InputError, match="grade different answers of m"):
        read_judgments([path])


def test_a_judgment_given_twice_is_refused(tmp_path: Path) -> None:
    """The same file twice, or a copy of it, is no second opinion; the same words at another time are."""
    path = tmp_path / "single.jsonl"
    path.write_text(line(81, 1, "[[4]]", 4, tstamp=1.0) + line(81, 1, "[[4]]", 4, tstamp=2.0))
    assert len(read_judgments([path])) == 2
    copy = tmp_path / "copy.jsonl"
    copy.write_text(path.read_text())
    for twice in (path, copy):
        with pytest.raises(InputError, match=rf"{twice.name}, line 1 repeats {path}, line 1, word for word"):
            read_judgments([path, twice])


def test_no_judgment_at_all_is_an_error(tmp_path: Path) -> None:
    """An empty file is not a table of nothing."""
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"no judgment in .*x.jsonl; expected FastChat's"):
        read_judgments([tmp_path / "x.jsonl"])


def test_judges_never_share_a_row(tmp_path: Path) -> None:
    """One model under two judges is two rows, and two columns in print."""
    path = tmp_path / "single.jsonl"
    path.write_text(line(81, 1, "[[4]]", 4) + line(81, 1, "[[9]]", 9, judge=["gpt-4-turbo", "single-v1"]))
    found = summarize(read_judgments([path]))
    assert [(one["judge"], one["mean"]) for one in found] == [("gpt-4", 4.0), ("gpt-4-turbo", 9.0)]
    assert rows(found)[0] == {"measure": "mean", "m by gpt-4": "4.000", "m by gpt-4-turbo": "9.000"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1 is no judgment"),
        ('{"model": "m"}', "line 1 is no judgment .*score"),
        ('{"g1_winner": "a"}', "line 1 is a pairwise judgment; expected single-answer"),
        (line(81, 1, "[[4]]", 4, model=["m"]), r"line 1 is no judgment \(model: Input should be a valid string\)"),
        (line(81, 1, "[[4]]", 4, judgment=None), r"line 1 is no judgment \(judgment: "),
        (line(81, 1, "[[4]]", 4, more=None).replace("null", "[" * 100_000), r"line 1 is no judgment \(Invalid JSON: recursion limit"),
    ],
)
def test_what_is_no_judgment_is_named(tmp_path: Path, text: str, says: str) -> None:
    """The error names the file, the line and what was expected."""
    (tmp_path / "x.jsonl").write_text(text + "\n")
    with pytest.raises(InputError, match=says):
        read_judgments([tmp_path / "x.jsonl"])


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    """Half a .gz is not silently half the judgments, and a changed byte, wherever it stands, is one line."""
    whole = gzip.compress("".join(line(81, 1, f"[[{i % 9 + 1}]] {i * 7919}", 1) for i in range(400)).encode())
    changed = [bytes([*whole[:place], whole[place] ^ 255, *whole[place + 1 :]]) for place in range(20, len(whole), len(whole) // 40)]
    for data in (whole[: len(whole) // 2], *changed):
        (tmp_path / "x.gz").write_bytes(data)
        with pytest.raises(InputError, match=r"cannot be read|is no judgment"):
            read_judgments([tmp_path / "x.gz"])


def test_categories_by_number_are_the_real_ones(hf_cache: Path) -> None:
    """Question numbers give FastChat's own categories."""
    real = {question.question_id: question.category for question in questions_of(Task(name="mt_bench", metric="points of 10"))}
    assert real == {str(number): category_of(str(number)) for number in range(81, 161)}
    assert [category_of(other) for other in ("80", "161", "shuffle0")] == ["other"] * 3


def test_a_turn_without_a_readable_verdict_has_no_rating() -> None:
    """None of none, never 0."""
    assert (rating_of([None, None]), rating_of([]), rating_of([3.0, None, 4.0])) == (None, None, 3.5)


def test_the_command(tmp_path: Path) -> None:
    """`harness import-judgments FILE --format json` prints the same summary."""
    path = tmp_path / "single.jsonl"
    path.write_text(line(81, 1, "[[4]]", 4) + line(82, 1, "[[5]]", 5))
    command = [sys.executable, "-m", "harness", "import-judgments", str(path), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [one["mean"] for one in json.loads(done.stdout)] == [4.5]
