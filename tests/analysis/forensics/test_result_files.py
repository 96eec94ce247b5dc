"""Results that others made are read as they stand, and their questions are found again among ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from harness.analysis.forensics.result_files import Question, match, read_results, texts_of
from harness.errors import InputError


def write_lm_eval(folder: Path, **changes: Any) -> Path:
    """Two questions of a task as lm-eval's own tracker writes them."""
    from lm_eval.loggers import EvaluationTracker

    doc = [{"question": "1+1"}, {"question": "2+2"}]
    samples = [
        {"doc_id": i, "doc": doc[i], "target": "2", "arguments": [(f"Q: {doc[i]['question']}", {"until": ["\n"]})], "resps": [["2"]],
         "filtered_resps": ["2"], "filter": chosen, "metrics": ["exact_match"], "doc_hash": f"{i:064x}", "prompt_hash": "p",
         "target_hash": "t", "exact_match": float(i == 0 or chosen == "flexible")}
        for i in range(2) for chosen in ("strict", "flexible")
    ]  # fmt: skip
    metrics = {"alias": "sums", "exact_match,strict": 0.5, "exact_match_stderr,strict": 0.5, "exact_match,flexible": 1.0,
               "exact_match_stderr,flexible": "N/A"}  # fmt: skip
    results = {"results": {"sums": metrics}, "configs": {"sums": {"metadata": {"version": 1.0}}}, "n-shot": {"sums": 3}, **changes}
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = "theirs"
    tracker.save_results_aggregated(results, {"sums": samples})
    tracker.save_results_samples("sums", samples)
    return folder


def test_lm_evals_own_files(tmp_path: Path) -> None:
    """Promise: metric, filter, shots and each question's value are what lm-eval's tracker wrote; shares become percent."""
    strict, flexible = read_results([write_lm_eval(tmp_path)])
    assert (strict.task, strict.metric, strict.value, strict.stderr, strict.shots) == ("sums", "exact_match,strict", 50.0, 50.0, 3)
    assert (flexible.metric, flexible.value, flexible.stderr, flexible.n) == ("exact_match,flexible", 100.0, None, 2)
    assert [question.value for question in strict.questions] == [100.0, 0.0]
    assert strict.questions[1].prompt == "Q: 2+2"
    assert {"2+2", "Q: 2+2"} <= strict.questions[1].texts


def test_an_old_release_without_filters_or_hashes(tmp_path: Path) -> None:
    """The layout of 0.3 gives metrics without a filter; a question without a hash gets the one lm-eval would have given."""
    (tmp_path / "results_old.json").write_text(json.dumps({"results": {"arc": {"acc": 0.25, "acc_stderr": 0.1}}, "versions": {"arc": 0}}))
    (one,) = read_results([tmp_path])
    assert (one.task, one.metric, one.value, one.stderr, one.n, one.questions) == ("arc", "acc", 25.0, 10.0, None, ())


def write_details(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


TWO = [
    {"example": "Q one", "full_prompt": "shots\n\nQ one", "choices": ["a", "b"], "gold": 0, "input_tokens": [1], "truncated": 0},
    {"example": "Q two", "full_prompt": "shots\n\nQ two", "choices": ["a", "b"], "gold": 1, "input_tokens": [2], "truncated": 0},
]


@pytest.mark.parametrize("struct", [False, True], ids=["columns", "struct"])
def test_a_leaderboards_details(tmp_path: Path, struct: bool) -> None:
    """Promise: task and shots come from the file's name, acc and acc_norm from its columns or its struct `metrics`, values in percent."""
    scored = [{"acc": 1.0, "acc_norm": float(i)} for i in range(2)]
    rows = [{**row, **({"metrics": one} if struct else one)} for row, one in zip(TWO, scored, strict=True)]
    acc, norm = read_results([write_details(tmp_path / "details_harness|arc:challenge|25_2023-10-10T07-39-47.1.parquet", rows)])
    assert (acc.task, acc.metric, acc.value, acc.shots, acc.n) == ("arc_challenge", "acc", 100.0, 25, 2)
    assert (norm.metric, norm.value, norm.stderr) == ("acc_norm", 50.0, 50.0)
    assert [question.value for question in norm.questions] == [0.0, 100.0]


def test_mmlu_of_the_leaderboard_is_named_as_lm_eval_names_it(tmp_path: Path) -> None:
    """hendrycksTest-anatomy is mmlu_anatomy."""
    rows = [{**row, "acc": 1.0} for row in TWO]
    (one,) = read_results([write_details(tmp_path / "details_harness|hendrycksTest-anatomy|5_2023.parquet", rows)])
    assert (one.task, one.shots) == ("mmlu_anatomy", 5)


def ours(*prompts: str) -> dict[str, Question]:
    return {f"id{i}": Question(None, texts_of({"q": prompt}, f"shots\n\nQ: {prompt}\nA:"), 1.0) for i, prompt in enumerate(prompts)}


def theirs(*texts: str) -> list[Question]:
    return [Question(None, frozenset({text}), float(i)) for i, text in enumerate(texts)]


@pytest.mark.parametrize("rendered", ["{}", "Q: {}\nA:", "shots\n\nQ: {}\nA:"])
def test_questions_without_hashes_are_found_by_their_text(rendered: str) -> None:
    """By the document's own text, the rendered question or the whole prompt, in any order."""
    found = match(ours("one", "two", "three"), theirs(*map(rendered.format, ("three", "one"))))
    assert {key: question.value for key, question in found.items()} == {"id2": 0.0, "id0": 1.0}


def test_a_text_of_two_questions_names_neither() -> None:
    """What recurs on either side is left out rather than guessed."""
    assert match(ours("one", "one", "two"), theirs("one", "two", "two")) == {}
    assert [*match(ours("one", "one", "two"), theirs("one", "two"))] == ["id2"]


def test_a_question_that_recurs_is_paired_one_after_another() -> None:
    """Of the same hash twice, the first is the first and the second the second."""
    mine = {name: Question("aa", frozenset(), 1.0) for name in ("aa", "aa#2")}
    found = match(mine, [Question("aa", frozenset(), value) for value in (5.0, 6.0)])
    assert {key: question.value for key, question in found.items()} == {"aa": 5.0, "aa#2": 6.0}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("results_x.json", b"{", "cannot be read"),
        ("results_x.json", b'{"a": 1}', "cannot be read"),
        ("other.json", b"{}", "no results in"),
        ("details_x.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    """One line says what was expected."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{reason}.*expected lm-eval's results_\*\.json"):
        read_results([tmp_path])


@pytest.mark.parametrize(
    "read",
    [
        5, [], {"results": 5}, {"results": {"a": 5}}, {"results": {"a": {"acc": 1}}, "configs": []},
        {"results": {"a": {"acc": 1}}, "n-shot": 5},
        {"results": {"a": {"acc": 1}}, "group_subtasks": {"a": ["b"], "b": ["a"]}}, {"results": {"a": {"acc": 1}}, "n-samples": {"a": 5}},
    ],
)  # fmt: skip
def test_odd_results_are_one_line(tmp_path: Path, read: Any) -> None:
    """Promise: JSON of another shape, a group that holds itself too, is named and no traceback."""
    (tmp_path / "results_odd.json").write_text(json.dumps(read))
    with pytest.raises(InputError, match=r"results_odd\.json cannot be read \(\w+Error: ") as caught:
        read_results([tmp_path])
    assert len(str(caught.value).splitlines()) == 1
