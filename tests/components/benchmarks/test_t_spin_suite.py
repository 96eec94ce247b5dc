"""T-SPIN's ten tasks, and the others of lm-eval whose data sets are not in the offline cache: asked here over rows of their form."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import lm_eval.tasks
import pytest
import yaml
from datasets import Dataset, DatasetDict
from lm_eval.tasks import TaskManager

from harness import recipe as recipes
from harness.analysis.comparability import SAME_TASK
from harness.analysis.published import claims
from harness.components.benchmarks import lm_eval as component
from harness.contracts import check_tasks
from harness.errors import InputError
from harness.recipe import Task
from tests.components.benchmarks.test_lm_eval import answers_are_equal, job, only_own
from tests.tiny_checkpoints import byte_checkpoint

FOLDER = Path(lm_eval.tasks.__file__).parent
MATH = {"problem": "What is 2 + 2?", "level": "Level 5", "type": "Algebra", "solution": r"It is $\boxed{4}$."}
IFEVAL = {
    "key": 1,
    "prompt": "Say it in lower case.",
    "instruction_id_list": ["change_case:english_lowercase"],
    "kwargs": [{"num_words": None}],
}
GPQA = {"Question": "Which?", "Correct Answer": "this", **{f"Incorrect Answer {i}": f"that {i}" for i in (1, 2, 3)}}
MUSR = {"narrative": "Ada left.", "question": "Who left?", "choices": "['Ada', 'Bo']", "answer_index": 0, "answer_choice": "Ada"}
SUBJECTS = (
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law", "math", "other",
    "philosophy", "physics", "psychology",
)  # fmt: skip
SOLVED = "A: Let's think step by step. So the answer is (A)."
PRO = [
    {"question": f"Of {one}?", "options": ["yes", "no"], "answer": "A", "answer_index": 0, "category": one, "cot_content": SOLVED}
    for one in SUBJECTS
    for _ in range(5)
]
ROWS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "DigitalLearningGmbH/MATH-lighteval": {"train": [MATH], "test": [MATH]},
    "EleutherAI/hendrycks_math": {"train": [MATH], "test": [MATH]},
    "wis-k/instruction-following-eval": {"train": [IFEVAL]},
    "google/IFEval": {"train": [IFEVAL]},
    "Idavidrein/gpqa": {"train": [{**GPQA, "Question": f"Which of {i}?"} for i in range(20)]},
    "TAUR-Lab/MuSR": {kind: [MUSR] for kind in ("murder_mysteries", "object_placements", "team_allocation")},
    "TIGER-Lab/MMLU-Pro": {"test": PRO[::5], "validation": PRO},
}
"""{data set: {split: rows}} in the columns that its tasks read."""
NEEDS = {"ifeval": ("langdetect", "immutabledict"), "math": ("math_verify", "antlr4")}
"""Packages of lm-eval's extras."""
CASES = {
    "leaderboard_math_hard": ("leaderboard", 7, "math"),
    "leaderboard_musr": ("leaderboard", 3, None),
    "leaderboard_mmlu_pro": ("leaderboard", 1, None),
    "leaderboard_gpqa": ("leaderboard", 3, None),
    "leaderboard_bbh": ("leaderboard", 24, None),
    "leaderboard_ifeval": ("leaderboard", 1, "ifeval"),
    "minerva_math_algebra": ("minerva_math", 1, "math"),
    "gpqa": ("gpqa/zeroshot", 3, None),
    "mmlu_pro": ("mmlu_pro", 14, None),
    "bbh": ("bbh", 27, None),
    "ifeval": ("ifeval", 1, "ifeval"),
}
"""{task: its folder in lm-eval, its subtasks, the extra it needs}."""


class Loader(yaml.SafeLoader):
    """Reads lm-eval's files without running the functions they name."""


Loader.add_constructor("!function", lambda loader, node: None)


def bbh_rows(subset: str) -> list[dict[str, Any]]:
    """The worked examples of a subset's file: questions with their answers."""
    examples = yaml.load((FOLDER / f"leaderboard/bbh_mc/{subset}.yaml").read_text(), Loader)["fewshot_config"]["samples"]
    return [{"input": one["input"], "target": str(one["target"])} for one in examples]


@pytest.fixture(autouse=True)
def _rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets hold `ROWS`. GPQA's are read from a file: what a task makes of such a set is made once and kept in the cache."""
    read, file = datasets.load_dataset, tmp_path / "gpqa.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS["Idavidrein/gpqa"]["train"]))

    def load(path: str, name: str | None = None, **_: Any) -> DatasetDict:
        if path == "Idavidrein/gpqa":
            return read("json", data_files={"train": str(file)}, cache_dir=str(datasets.config.HF_DATASETS_CACHE))
        has_choices = path == "SaylorTwift/bbh" and (FOLDER / f"leaderboard/bbh_mc/{name}.yaml").exists()
        found = {"test": bbh_rows(str(name)) if has_choices else [{"input": "1 + 1 =", "target": "2"}]} if "bbh" in path else ROWS[path]
        return DatasetDict({split: Dataset.from_list(rows) for split, rows in found.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)


def missing(extra: str | None) -> list[str]:
    return [package for package in NEEDS.get(extra or "", ()) if find_spec(package) is None]


@pytest.mark.parametrize("name", CASES)
def test_each_task_is_lm_evals(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: value and every answer are those of `simple_evaluate`, with GPQA's shuffled choices; without its packages a line says so."""
    only_own(monkeypatch)
    folder, num_subtasks, extra = CASES[name]
    task, checkpoint = Task(name=name, limit=1), byte_checkpoint(tmp_path / "model", max_length=256)
    one = job(checkpoint, tmp_path, FOLDER / folder, task)
    one = one._replace(benchmark=one.benchmark.model_copy(update={"max_new_tokens": 4}))
    random.seed(1)  # what lm-eval draws must not come from here
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "ours")
    (tmp_path / "nltk/tokenizers/punkt_tab").mkdir(parents=True)  # IFEval asks for it; the row here is scored without
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    if missing(extra):
        with pytest.raises(InputError, match=rf"{name} cannot be loaded: .*({'|'.join(missing(extra))}|lm-eval\[math\])"):
            component.open_benchmark(one)(task)
        return
    result = component.open_benchmark(one)(task)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "theirs")
    theirs = lm_eval.simple_evaluate(
        "hf", model_args={"pretrained": str(checkpoint), "dtype": "float32", "add_bos_token": False}, tasks=[name], limit=1, device="cpu",
        task_manager=TaskManager(include_path=str(FOLDER / folder)), batch_size=4, bootstrap_iters=0, gen_kwargs={"max_gen_toks": 4},
    )  # fmt: skip
    assert len(theirs["samples"]) == num_subtasks
    reported = theirs["results"].get(name, {})
    key = result.score.metric
    of_subtasks = [found[key] for subtask, found in theirs["results"].items() if subtask in theirs["samples"]]
    assert result.score.value == pytest.approx(100 * reported.get(key, sum(of_subtasks) / len(of_subtasks)))
    for subtask, samples in theirs["samples"].items():
        ours = [line for line in result.samples if line["subtask"] == subtask]
        answers_are_equal(result._replace(samples=ours), [sample for sample in samples if sample["filter"] == key.split(",")[1]])


@pytest.mark.parametrize("name", ["zephyr-7b-t-spin", "zephyr-7b-spin-of-t-spin"])
def test_the_suite_is_the_ten_tasks_of_the_published_rows(name: str) -> None:
    """Promise: lm-eval has every task with the shots and metric asked for; each stands beside its column of T-SPIN's Table 1."""
    (suite,) = (one for one in recipes.load(name).benchmarks if one.name == "lm_eval")
    check_tasks((suite,))
    published = {claim.task: claim for claim in claims("rerun/tspin_zephyr") if claim.task != "average_10"}
    assert {SAME_TASK.get(task.name, task.name) for task in suite.tasks} == set(published)
    for task in suite.tasks:
        claim = published[SAME_TASK.get(task.name, task.name)]
        assert task.shots == claim.shots, task.name
        assert task.metric == claim.metric or (claim.metric, task.name) in {
            ("acc", "gsm8k"), ("acc", "leaderboard_math_hard"), ("acc", "leaderboard_ifeval")
        }  # fmt: skip
