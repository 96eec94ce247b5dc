"""A row written as lm-eval's files: its own loaders read them, and reading them back gives the table they were made from."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.forensics import published_answers
from harness.analysis.forensics.result_files import read_results
from harness.analysis.run_table import collect
from harness.artifact import RECIPE_FILE, RunDir
from harness.contracts import Score
from harness.errors import InputError
from harness.files import dump, write_atomic
from harness.plan import folder_of, plan
from harness.recipe import Benchmark, Judge, Recipe, Task, replace
from harness.report.formats.lm_eval_files import write_results
from tests.synthetic_runs import finish, questions, score_of, small_recipe

NOW = datetime(2026, 11, 26, 12, 0, 0, 5)
MT = Task(name="mt_bench", metric="points of 10")
MMLU = Task(name="mmlu", shots=5, metric="acc", subtasks=("mmlu_anatomy", "mmlu_virology"))
JUDGED = "judged/again/mt_bench"
OWN = Task(name="letters", metric="first")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def recipe() -> Recipe:
    gsm8k = Task(name="gsm8k", shots=5, metric="exact_match", limit=40)
    open_llm = Benchmark(name="open_llm", protocol="current", tasks=(gsm8k, MMLU))
    judged = Benchmark(name="mt_bench", protocol="single", tasks=(MT,), judge=Judge(name="mt_bench_single"))
    kl = Benchmark(name="distribution", protocol="exact", tasks=(Task(name="kl", metric="nats", limit=40),))
    own = Benchmark(name="lm_eval", protocol="own", tasks=(OWN,))
    again = judged.model_copy(update={"protocol": "again", "answers_from": "single", "judge": Judge(model="b")})
    return replace(small_recipe(), name="synthetic", benchmarks=(open_llm, judged, kl, own, again))


def evaluated(row: str, benchmark: Benchmark, task: Task) -> tuple[Score, list[dict[str, Any]]]:
    """A score with ids as its benchmark names questions, and its samples."""
    known = dict(questions(row, task) or {})
    if task == MT:
        lower = 1.0 if benchmark.answers_from else 0.0
        rated = {f"{81 + i // 2}-{i % 2 + 1}": 4.0 - lower + (i + len(row)) % 5 for i in range(16)}
        lines = [
            {"question_id": str(q), "category": "writing", "questions": ["a", "b"], "prompts": ["a", "a b"], "answers": [row, f"{row} {q}"]}
            for q in range(81, 89)
        ]
        return score_of(benchmark, task, rated), lines
    name = {"gsm8k": sha, "kl": str, "letters": lambda key: f"letters/{int(key[1:])}-{sha(text_of(key))[:16]}"}.get(task.name, sha)
    values = {name(key): value for key, value in known.items()}
    score = score_of(benchmark, task, values)
    if task.name == "letters":
        score = score.model_copy(update={"metric": "acc,none", "shots": 0})
    if task.name == "gsm8k":
        score = score.model_copy(update={"protocol": {**score.protocol, "filter": "strict-match", "task_version": "3"}})
    if task == MMLU:
        details = {"questions": {"mmlu_anatomy": 15, "mmlu_virology": 25}, "subtasks": {"mmlu_anatomy": 40.0, "mmlu_virology": 60.0}}
        score = score.model_copy(update={"details": details})
    lines = [
        {"id": name(key), "subtask": task.name, "question": {"q": key}, "target": "t", "prompt": f"shots\n\nQ: {key}", "filtered": ["x"],
         "responses": [["x"]], "value": value}
        for key, value in known.items()
    ]  # fmt: skip
    return score, lines


def text_of(key: str) -> str:
    return json.dumps({"q": key}, indent=2, ensure_ascii=False)


def write(path: Path, *, with_samples: bool = True) -> Path:
    run, made = RunDir(path), recipe()
    write_atomic(path / RECIPE_FILE, dump(made))
    for stage in plan(made):
        files: dict[str, bytes] = {}
        if "/eval/" in stage.path:
            benchmark = next(one for one in made.benchmarks if folder_of(one, made.benchmarks) == stage.path.split("/eval/")[1])
            for task in benchmark.tasks:
                score, lines = evaluated(stage.path.split("/")[0], benchmark, task)
                if not with_samples:  # as older records: which question is of which subtask is not told
                    score = score.model_copy(update={"details": {k: v for k, v in score.details.items() if k != "questions"}})
                files[f"scores/{task.name}.json"] = dump(score)
                if with_samples:
                    files[f"samples/{task.name}.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        finish(run, stage, files)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("run") / "a")


def same_table(run: Path, row: str, folder: Path) -> None:
    """What the files say of each column is what the run's table says."""
    table, found = collect(run), read_results([folder])
    for column in table.columns:
        cell = table.cell(row, column.label)
        (one,) = (result for result in found if result.task == column.label)
        assert one.value == pytest.approx(cell.value)
        assert one.stderr == (None if cell.stderr is None else pytest.approx(cell.stderr))
        assert (one.n, one.shots, len(one.questions)) == (cell.n, column.shots, cell.n)


def test_lm_evals_own_loaders_read_them(run: Path, tmp_path: Path) -> None:
    """Promise: lm-eval finds results and samples by their names, prints its table of them, and `datasets` loads every samples file."""
    import datasets
    from lm_eval import utils

    paths = [str(path) for path in write_results(run, "iter1", tmp_path, NOW)]
    (results,) = utils.get_results_filenames(paths)
    samples = utils.get_sample_results_filenames(paths)
    assert utils.get_latest_filename([results]) == results
    assert Path(results).parent.name == utils.sanitize_model_name("synthetic-iter1")
    names = {utils.get_file_task_name(Path(path).name): path for path in samples}
    assert set(names) == {"gsm8k", "mmlu_anatomy", "mmlu_virology", "mt_bench", "kl", "letters", "judged__again__mt_bench"}
    read = json.loads(Path(results).read_text())
    table = utils.make_table(read)
    score, _ = evaluated("iter1", recipe().benchmarks[0], recipe().benchmarks[0].tasks[0])
    assert score.value is not None
    assert score.stderr is not None
    wanted = ["gsm8k", "3", "strict-match", "5", "exact_match", "↑", f"{score.value / 100:.4f}", "±", f"{score.stderr / 100:.4f}"]
    assert wanted in [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert "mmlu" in utils.make_table(read, "groups")
    for path, n in ((names["gsm8k"], 40), (names["mmlu_anatomy"], 15), (names["mt_bench"], 16)):
        loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.num_rows == n
        assert {"doc_id", "doc", "arguments", "resps", "filtered_resps", "doc_hash", "prompt_hash", "target_hash"} <= {*loaded.column_names}


@pytest.mark.parametrize("with_samples", [True, False], ids=["whole", "records only"])
def test_reading_them_back_gives_the_same_table(tmp_path: Path, with_samples: bool) -> None:
    """Promise: value, error, questions and shots of every task, shares, points and nats, from a run and from committed records alone."""
    run = write(tmp_path / "run", with_samples=with_samples)
    write_results(run, "iter1", tmp_path / "out", NOW)
    same_table(run, "iter1", tmp_path / "out")


def test_a_row_against_anothers_files_is_the_runs_own_difference(run: Path, tmp_path: Path) -> None:
    """Promise: paired with the files of `sft`, iter1 shows the difference, interval and p that the run's table does, task by task."""
    write_results(run, "sft", tmp_path, NOW)
    found = {one.task: one for one in published_answers.compare(run, "iter1", read_results([tmp_path]))}
    table = collect(run)
    assert set(found) == {"gsm8k", "mmlu", "mt_bench", "kl", "letters", JUDGED}
    assert found[JUDGED].ours == (found["mt_bench"].ours or 0) - 1
    for label, one in found.items():
        delta = table.cell("iter1", label).delta
        assert delta is not None
        assert (one.difference, one.low, one.p) == pytest.approx((delta.difference, delta.low, delta.p), rel=1e-4)
        assert (one.paired, one.only_ours, one.only_theirs) == (delta.n, 0, 0)
    assert (found["gsm8k"].same_prompts, found["mt_bench"].same_prompts) == (40, 16)
    itself = {one.task: one for one in published_answers.compare(run, "sft", read_results([tmp_path]))}
    assert {one.changed for one in itself.values()} == {0}


def test_what_cannot_be_written_is_refused(run: Path, tmp_path: Path) -> None:
    """An unknown row is one line."""
    with pytest.raises(InputError, match="has no row 'iter9'"):
        write_results(run, "iter9", tmp_path, NOW)
