"""Any task of lm-eval, or of the user's own YAML: what lm-eval itself reports, whichever model answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks
import pytest
import yaml
from lm_eval.tasks import TaskManager

from harness.components.benchmarks import lm_eval as component
from harness.contracts import Job, Result
from harness.errors import RecipeError
from harness.files import KEPT_IN, keep, pin
from harness.recipe import Benchmark, Task
from tests.checkpoints import MACHINE
from tests.tiny_checkpoints import byte_checkpoint, word_checkpoint

WORDS = ["ka", "lo", "mi", "so", "ne", "tu"]
NUM = 4
MEAN = {"aggregation": "mean", "higher_is_better": True}
METRICS: dict[str, list[dict[str, Any]]] = {
    "multiple_choice": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
    "loglikelihood": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}, {"metric": "acc", **MEAN}],
    "loglikelihood_rolling": [
        {"metric": "word_perplexity"},
        {"metric": "byte_perplexity"},
        {"metric": "bits_per_byte"},
    ],
    "generate_until": [{"metric": "exact_match", "ignore_case": True, **MEAN}],
}


def documents(number: int) -> list[dict[str, Any]]:
    """Questions that differ from task to task."""
    texts = [" ".join(WORDS[(number + i + j * (i + 1)) % 6] for j in range(3 + (number + i) % 4)) for i in range(NUM)]
    return [{"q": text, "choices": WORDS[:4], "gold": (number + i) % 4, "a": WORDS[i % 6]} for i, text in enumerate(texts)]


def write_task(folder: Path, kind: str, number: int) -> str:
    """A task of an output type with its data beside it, some with examples, a description, or its own limits."""
    name = f"{kind}_{number}"
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in documents(number)))
    config: dict[str, Any] = {
        "task": name,
        "tag": ["own", f"own_{kind}"],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "output_type": kind,
        "metric_list": METRICS[kind],
        "doc_to_text": "" if kind == "loglikelihood_rolling" else "{{q}}",
        "doc_to_target": {"multiple_choice": "gold", "loglikelihood_rolling": "{{q}}"}.get(kind, " {{a}}"),
        "metadata": {"version": number},
    }
    if kind == "multiple_choice":
        config["doc_to_choice"] = "choices"
    if kind == "generate_until":
        config["generation_kwargs"] = {"until": ["\n", "ne"][: 1 + number % 2], "do_sample": False, "max_gen_toks": 4 + number}
    if kind != "loglikelihood_rolling" and number % 3 == 0:
        config |= {"num_fewshot": 1, "fewshot_split": "test", "description": "ka lo mi. "}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return name


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tasks of each output type, and a group of two."""
    folder = tmp_path_factory.mktemp("tasks")
    for kind in METRICS:
        for number in range(10):
            write_task(folder, kind, number)
    group = {"group": "pair", "task": ["multiple_choice_1", "multiple_choice_2"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "pair.yaml").write_text(yaml.safe_dump(group))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _in_the_folder(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lm-eval itself finds the data; ours finds it from anywhere."""
    monkeypatch.chdir(tasks)


def only_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave lm-eval's own 14,000 files unread, which takes it 10 s."""
    build = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", lambda self, **settings: build(self, **{**settings, "include_defaults": False}))


def job(checkpoint: Path, tasks: Path, folder: Path, *named: Task, chat: bool = False) -> Job:
    benchmark = Benchmark(name="lm_eval", protocol="own", tasks=named, task_folder=str(folder), chat_template=chat)
    return Job(checkpoint, benchmark, "hf", MACHINE, "fp32", 0, tasks.parent / "workspace")


@pytest.mark.parametrize("kind", METRICS)
def test_ten_tasks_of_each_output_type_are_lm_evals(
    kind: str, tasks: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value, standard error and every question's answer are those of `lm_eval.simple_evaluate`, from another working directory; the metrics
    of the output type are asked for in turn.
    """
    only_own(monkeypatch)
    names = [f"{kind}_{number}" for number in range(10)]
    settings = {"pretrained": str(checkpoint), "dtype": "float32", "add_bos_token": False}
    theirs = lm_eval.simple_evaluate(
        "hf", model_args=settings, tasks=names, task_manager=TaskManager(include_path=str(tasks)), batch_size=4, device="cpu",
        bootstrap_iters=0, limit=3,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    metrics = [METRICS[kind][number % len(METRICS[kind])]["metric"] for number in range(10)]
    named = tuple(
        Task(name=name, limit=3, metric=metric if number else "first")
        for number, (name, metric) in enumerate(zip(names, metrics, strict=True))
    )
    score = component.open_benchmark(job(checkpoint, tmp_path, tasks, *named))
    for task, metric in zip(named, metrics, strict=True):
        result = score(task)
        reported = theirs["results"][task.name]
        scale = 100.0 if metric in ("acc", "acc_norm", "exact_match") else 1.0
        assert result.score.metric == f"{metric},none"
        assert result.score.value == pytest.approx(scale * reported[f"{metric},none"], rel=1e-4)
        error = reported[f"{metric}_stderr,none"]
        assert result.score.stderr == (None if error == "N/A" else pytest.approx(scale * error, rel=1e-4))
        assert (result.score.n, result.score.shots) == (3, theirs["n-shot"][task.name])
        assert result.score.details["lower_is_better"] is not theirs["higher_is_better"][task.name][metric]
        assert result.score.protocol["unit"] == ("percent" if scale == 100.0 else "lm-eval's")
        answers_are_equal(result, theirs["samples"][task.name])
    backend = str(result.score.protocol["backend"])
    assert backend == ("hf, lm-eval's own (loglikelihood_rolling)" if "rolling" in kind else "hf, shared prefixes computed once")


@pytest.mark.usefixtures("hf_cache")
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("arc", "arc_challenge"),
        ("winogrande", "winogrande"),
        ("truthfulqa", "truthfulqa_mc2"),
        ("gsm8k", "gsm8k"),
        ("bbh/cot_fewshot", "bbh_cot_fewshot_causal_judgement"),
    ],
)
def test_real_sets_are_lm_evals(folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: lm-eval's own tasks over their real sets, examples and all, have the value and the answers of `simple_evaluate`."""
    only_own(monkeypatch)
    shipped, checkpoint = Path(lm_eval.tasks.__file__).parent / folder, byte_checkpoint(tmp_path / "model", max_length=512)
    one = job(checkpoint, tmp_path, shipped, Task(name=name, limit=2))
    result = component.open_benchmark(one._replace(benchmark=one.benchmark.model_copy(update={"max_new_tokens": 6})))(
        Task(name=name, limit=2)
    )
    theirs = lm_eval.simple_evaluate(
        "hf", model_args={"pretrained": str(checkpoint), "dtype": "float32", "add_bos_token": False}, tasks=[name], limit=2, device="cpu",
        task_manager=TaskManager(include_path=str(shipped)), batch_size=4, bootstrap_iters=0, gen_kwargs={"max_gen_toks": 6},
    )  # fmt: skip
    reported, chosen = theirs["results"][name], result.score.metric.split(",")[1]
    assert result.score.value == pytest.approx(100 * reported[result.score.metric], rel=1e-4)
    answers_are_equal(result, [sample for sample in theirs["samples"][name] if sample["filter"] == chosen])


def answers_are_equal(result: Result, theirs: list[dict[str, Any]]) -> None:
    assert len(result.samples) == len(theirs)
    for ours, other in zip(result.samples, theirs, strict=True):
        assert ours["prompt"] == other["arguments"][0][0]
        assert (ours["question"], ours["target"]) == (other["doc"], other["target"])
        for mine, its in zip(ours["responses"], other["resps"], strict=True):
            assert len(mine) == len(its)
            for a, b in zip(mine, its, strict=True):
                expected = [pytest.approx(float(x), abs=1e-4) if isinstance(x, float) else x for x in b] if isinstance(b, tuple) else b
                assert ([*a] if isinstance(b, tuple) else a) == (expected if not isinstance(b, float) else pytest.approx(b, abs=1e-3))


def test_a_group_has_lm_evals_own_aggregate_and_a_tag_the_mean(
    tasks: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that aggregates says what lm-eval's table says; a tag is the mean over its tasks; a metric may be named."""
    only_own(monkeypatch)
    second = Task(name="pair", metric="acc", subtasks=("multiple_choice_2",))
    named = (Task(name="pair"), Task(name="own_multiple_choice", metric="acc_norm"), second)
    score = component.open_benchmark(job(checkpoint, tmp_path, tasks, *named))
    group, tag, part = (score(task).score for task in named)
    assert (group.n, group.metric, group.protocol["aggregation"]) == (2 * NUM, "acc,none", "lm-eval's own")
    assert group.value == pytest.approx(sum(group.details["subtasks"].values()) / 2)
    assert (tag.n, tag.metric, tag.protocol["aggregation"]) == (10 * NUM, "acc_norm,none", "mean over subtasks")
    assert tag.value == pytest.approx(sum(tag.details["subtasks"].values()) / 10)
    assert part.value == group.details["subtasks"]["multiple_choice_2"]
    with pytest.raises(RecipeError, match=r"pair has no metric 'accuracy' \(known: acc,none, acc_norm,none\)"):
        score(Task(name="pair", metric="accuracy"))


def test_a_mean_of_perplexities_has_no_error(tasks: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: of a tag's perplexities, which are no means of their log-probabilities, no error is told; of its accuracies one is."""
    only_own(monkeypatch)
    named = (Task(name="own_loglikelihood", metric="perplexity"), Task(name="own_multiple_choice", metric="acc"))
    score = component.open_benchmark(job(checkpoint, tmp_path, tasks, *named))
    perplexity, accuracy = (score(task).score for task in named)
    assert perplexity.value == pytest.approx(sum(perplexity.details["subtasks"].values()) / 10)
    assert (perplexity.stderr, perplexity.protocol["unit"], perplexity.details["lower_is_better"]) == (None, "lm-eval's", True)
    assert accuracy.stderr is not None


def test_a_chat_template_is_used_and_stated(tasks: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the recipe's `chat_template` a question is asked in the tokenizer's format; without, as plain text."""
    only_own(monkeypatch)
    task = Task(name="multiple_choice_1", limit=1)
    plain, chat = (component.open_benchmark(job(checkpoint, tmp_path, tasks, task, chat=on))(task) for on in (False, True))
    assert (plain.score.protocol["chat_template"], chat.score.protocol["chat_template"]) == (None, "tokenizer's")
    assert plain.samples[0]["prompt"] == documents(1)[0]["q"]
    assert documents(1)[0]["q"] in chat.samples[0]["prompt"] != plain.samples[0]["prompt"]


CHECK = """
import sys
from harness.contracts import check_tasks
from harness.errors import RecipeError
from harness.recipe import Benchmark, Task
names = sys.argv[2].split()
check_tasks((Benchmark(name="lm_eval", protocol="p", task_folder=sys.argv[1], tasks=tuple(Task(name=name) for name in names)),))
try:
    check_tasks((Benchmark(name="lm_eval", protocol="p", tasks=(Task(name="ifevil"),)),))
except RecipeError as error:
    print(error)
print("torch" in sys.modules or "lm_eval" in sys.modules)
"""


def test_names_are_checked_without_torch(tasks: Path) -> None:
    """Tasks, groups and tags of lm-eval and of the folder are known before anything runs and with nothing heavy imported."""
    known = "ifeval minerva_math gpqa mmlu_pro leaderboard_musr bbh_cot_fewshot_snarks mmlu multiple_choice_3 pair own own_loglikelihood"
    done = subprocess.run([sys.executable, "-c", CHECK, str(tasks), known], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["lm-eval has no task, group or tag 'ifevil'; did you mean 'ifeval'?", "False"]


def test_the_folder_is_kept_with_the_run(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage finds the folder by its content."""
    keep(tasks, tmp_path)
    monkeypatch.setenv(KEPT_IN, str(tmp_path))
    assert (component.folder_of(pin(tasks)) / "pair.yaml").is_file()
    with pytest.raises(RecipeError, match="task folder nowhere does not exist"):
        component.folder_of("nowhere")
