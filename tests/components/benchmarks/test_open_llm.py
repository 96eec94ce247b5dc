"""The leaderboard tasks through lm-eval, on random checkpoints: protocol, arithmetic and errors, not skill."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from harness import machine
from harness.analysis.scores import strata_of
from harness.components.benchmarks import open_llm
from harness.contracts import Job, Result
from harness.contracts.stage_specs import EvaluateSpec
from harness.errors import InputError, RecipeError
from harness.evaluation import lm_eval_suite as lm_tasks
from harness.evaluation import lm_eval_tasks as lm_definitions
from harness.evaluation.answer_cache import Answers
from harness.recipe import Benchmark, Task
from harness.stages import evaluate
from tests.tiny_checkpoints import byte_checkpoint, word_checkpoint

REAL_TASKS = (
    Task(name="arc_challenge", shots=2, metric="acc_norm", limit=2),
    Task(name="hellaswag", shots=1, metric="acc_norm", limit=2),
    Task(name="truthfulqa_mc2", shots=0, metric="acc", limit=2),
    Task(name="mmlu", shots=1, metric="acc", limit=2, subtasks=("mmlu_astronomy", "mmlu_virology")),
    Task(name="winogrande", shots=2, metric="acc", limit=2),
    Task(name="gsm8k", shots=1, metric="exact_match", limit=2),
    Task(name="openbookqa", shots=1, metric="acc_norm", limit=2),
)
TINY_TASKS = (
    Task(name="tiny_shuffle_choice", shots=0, metric="acc", limit=6),
    Task(name="tiny_merge_sample", shots=0, metric="valid", limit=6),
    Task(name="tiny_mixed_greedy", shots=1, metric="valid", limit=6),
)


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_checkpoint(tmp_path_factory.mktemp("bytes"), max_length=4096)


@pytest.fixture(scope="module")
def words_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_checkpoint(tmp_path_factory.mktemp("words"))


def _job(checkpoint: Path, *tasks: Task, protocol: str = "current", max_new_tokens: int = 8) -> Job:
    benchmark = Benchmark(name="open_llm", protocol=protocol, tasks=tasks, max_new_tokens=max_new_tokens)
    return Job(checkpoint, benchmark, "hf", machine.load("cpu"), "fp32", 0, checkpoint / "workspace")


def _score(checkpoint: Path, *tasks: Task) -> list[Result]:
    score = open_llm.open_benchmark(_job(checkpoint, *tasks))
    return [score(task) for task in tasks]


@pytest.mark.usefixtures("hf_cache")
def test_every_real_task_is_asked_under_its_shots_and_metric(bytes_model: Path) -> None:
    """Seven tasks give a value and one value a question, whose subtask is told, and say the rules they were made under."""
    for task, (score, samples) in zip(REAL_TASKS, _score(bytes_model, *REAL_TASKS), strict=True):
        num = 2 * max(1, len(task.subtasks))
        assert (score.task, score.metric, score.shots, score.n, score.n_unscored) == (task.name, task.metric, task.shots, num, 0)
        assert score.value is not None
        assert len(score.values) == len(samples) == num
        assert score.value == pytest.approx(sum(v or 0.0 for v in score.values.values()) / num)
        assert score.protocol["chat_template"] is None
        assert score.protocol["add_bos"] is False
        assert samples[0]["prompt"].count("Answer:") in (0, (task.shots or 0) + 1)
        strata = strata_of(score)
        assert ([*strata.of.values()] if strata else []) == ([sample["subtask"] for sample in samples] if task.subtasks else [])
        under = score.details.get("under", {})
        assert ("lm-eval@46c7966" in under) == (task.name not in ("winogrande", "gsm8k"))
        if under:  # MMLU too: with as many questions in both subjects their mean is the mean of all; these truths come first
            assert under["lm-eval@46c7966"]["value"] == pytest.approx(score.value)


@pytest.mark.usefixtures("hf_cache")
def test_scores_equal_those_of_lm_eval_itself(bytes_model: Path) -> None:
    """Value and standard error are what `simple_evaluate` with the `hf` model gives, with questions matched by hash."""
    task = Task(name="arc_challenge", shots=3, metric="acc_norm", limit=6)
    ours = _score(bytes_model, task)[0].score
    folder = Path(lm_eval.tasks.__file__).parent
    theirs = simple_evaluate(
        model=HFLM(pretrained=str(bytes_model), device="cpu", dtype="float32", batch_size=4, add_bos_token=False),
        tasks=[str(folder / "arc" / "arc_challenge.yaml")],
        num_fewshot=3,
        limit=6,
        task_manager=TaskManager(include_defaults=False),
    )
    assert theirs is not None
    found = theirs["results"]["arc_challenge"]
    assert ours.value == pytest.approx(100 * found["acc_norm,none"])
    assert ours.stderr == pytest.approx(100 * found["acc_norm_stderr,none"])
    assert ours.values == {s["doc_hash"]: 100 * s["acc_norm"] for s in theirs["samples"]["arc_challenge"]}


@pytest.mark.usefixtures("hf_cache")
def test_a_data_set_that_is_not_in_the_cache_is_one_clear_line(bytes_model: Path) -> None:
    """Offline, the message names the data set and says what to do."""
    protocols = {"current": {"arc_easy": lm_definitions.Definition("arc/arc_easy.yaml")}}
    task = Task(name="arc_easy", shots=0, metric="acc", limit=2)
    score = lm_tasks.open_suite(_job(bytes_model, task), protocols)
    with pytest.raises(InputError, match=r"arc_easy could not be loaded: .*allenai/ai2_arc.*HF_HUB_OFFLINE") as error:
        score(task)
    assert "\n" not in str(error.value)


def test_procedural_tasks_go_through_lm_eval_in_the_chat_format(words_model: Path) -> None:
    """Choice, sampling and greedy tasks are scored, say that the chat template was used, and give the same again."""
    results, again = _score(words_model, *TINY_TASKS), _score(words_model, *reversed(TINY_TASKS))
    for task, (score, samples) in zip(TINY_TASKS, results, strict=True):
        assert score.n == len(samples) == 6
        assert score.protocol["chat_template"] == "tokenizer's"
        assert samples[0]["prompt"].startswith("<user>")
        assert samples[0]["prompt"].endswith("<assistant>")
        assert samples[0]["prompt"].count("<assistant>") == 1 + (task.shots or 0)
    assert results == [*reversed(again)]


def test_an_evaluation_killed_within_a_task_ends_in_the_same_bytes(
    words_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after three units of work and run again: the files are those of an undisturbed stage, and no unit was computed twice."""
    policy = tmp_path / "policy"
    shutil.copytree(words_model, policy / "checkpoint")
    tasks = tuple(task.model_copy(update={"limit": 60}) for task in TINY_TASKS)
    benchmark = _job(words_model, *tasks).benchmark
    spec = EvaluateSpec(benchmark=benchmark, engine="hf", precision="fp32", seed=0).model_dump(mode="json")
    units: dict[str, int] = {}

    def run(name: str, dies_after: int | None) -> dict[str, bytes]:
        add = Answers.add

        def counted(self: Answers, unit: int, answers: object) -> None:
            units[name] = units.get(name, 0) + 1
            add(self, unit, answers)
            if units[name] == dies_after:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Answers, "add", counted)
            evaluate.run(spec, {"policy": policy}, tmp_path / name, machine.load("cpu"))
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.json*")}

    undisturbed = run("undisturbed", None)
    with pytest.raises(KeyboardInterrupt):
        run("killed", 3)
    assert run("killed", None) == undisturbed
    assert units["killed"] == units["undisturbed"] > 6


def test_a_choice_ends_with_the_end_token(words_model: Path) -> None:
    """Without it a response cut short would always be likelier than the whole one."""
    (_, samples), *_ = _score(words_model, TINY_TASKS[0])
    for sample in samples:
        assert all(choice.endswith("<eos>") for choice in sample["question"]["choices"])
        assert sample["question"]["choices"][sample["target"]] == sample["question"]["response"] + "<eos>"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(name="arc_chalenge", metric="acc"), "did you mean 'arc_challenge'"),
        (Task(name="tiny_shufle_choice", metric="acc", limit=2), "did you mean 'tiny_shuffle_choice'"),
        (Task(name="tiny_shuffle_choice", metric="valid", limit=2), "measured by 'acc', found metric 'valid'"),
        (Task(name="tiny_shuffle_choice", metric="acc"), "give the task a `limit`"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused_before_the_model_is_loaded(task: Task, message: str, tmp_path: Path) -> None:
    """Misspelt names, wrong metrics and missing limits are one line; no checkpoint is needed to find out."""
    with pytest.raises(RecipeError, match=message):
        open_llm.open_benchmark(_job(tmp_path, task))


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    """The rules of a score are never guessed."""
    with pytest.raises(RecipeError, match="no protocol 'currant'; did you mean 'current'"):
        open_llm.open_benchmark(_job(tmp_path, REAL_TASKS[0], protocol="currant"))


@pytest.mark.usefixtures("hf_cache")
def test_a_metric_or_subtask_the_task_does_not_have_is_refused(bytes_model: Path) -> None:
    """The message lists what there is."""
    with pytest.raises(RecipeError, match=r"no metric 'f1'.*acc_norm"):
        _score(bytes_model, Task(name="arc_challenge", shots=0, metric="f1", limit=2))
    with pytest.raises(RecipeError, match="did you mean 'mmlu_virology'"):
        _score(bytes_model, Task(name="mmlu", shots=0, metric="acc", limit=2, subtasks=("mmlu_virolgy",)))


def test_the_standard_error_of_a_mean_over_subjects_adds_their_variances() -> None:
    """(0, 100) has variance 5000 and so 2500 for its mean; (100, 100) has 0: sqrt(2500 + 0) / 2 = 25."""
    assert lm_tasks.standard_error([[0.0, 100.0], [100.0, 100.0]]) == pytest.approx(25.0)
    assert lm_tasks.standard_error([[0.0, 100.0]]) == pytest.approx(50.0)
    assert lm_tasks.standard_error([[0.0, 100.0], [100.0, 100.0, 100.0, 100.0]], by_size=True) == pytest.approx(50.0 / 3)
    assert lm_tasks.standard_error([[0.0], [100.0]]) == pytest.approx(50.0)
    assert lm_tasks.standard_error([[0.0]]) is None
    assert lm_tasks.standard_error([[0.0, 100.0], [50.0]]) == pytest.approx(math.sqrt(5000 * 1.5) / 2)
    assert lm_tasks.standard_error([[0.0, 100.0], [50.0]], by_size=True) == pytest.approx(math.sqrt(5000 / 3))
    assert lm_tasks.standard_error([[0.0, 0.0], [100.0, 100.0]]) is None
    assert lm_tasks.standard_error([]) is None
