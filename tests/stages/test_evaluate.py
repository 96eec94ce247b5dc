"""Stage `evaluate`: a score for each task, once, whatever interrupted it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import machine
from harness.contracts import Job, Result, Score
from harness.contracts.stage_specs import EvaluateSpec
from harness.errors import InputError, RecipeError
from harness.files import dump
from harness.recipe import Benchmark, Task
from harness.stages import evaluate

TASKS = (Task(name="first", metric="acc"), Task(name="second", metric="acc"))


class KilledError(Exception):
    """Stands for SIGKILL."""


class FakeBenchmark:
    """A component that remembers what it was asked and dies at `dies_at`."""

    def __init__(self, dies_at: str | None = None) -> None:
        self.asked: list[str] = []
        self.opened = 0
        self.dies_at = dies_at

    def open_benchmark(self, job: Job) -> Callable[[Task], Result]:
        self.opened += 1
        job.workspace.mkdir(parents=True, exist_ok=True)
        (job.workspace / "unfinished").write_text("work")
        return self._score

    def _score(self, task: Task) -> Result:
        if task.name == self.dies_at:
            raise KilledError
        self.asked.append(task.name)
        score = Score(benchmark="fake", task=task.name, metric="acc", value=50.0, stderr=None, n=1, values={"q": 50.0})
        return Result(score, [{"id": "q", "text": "grüße\n"}])


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "policy" / "checkpoint").mkdir(parents=True)
    return tmp_path / "policy"


def _run(monkeypatch: pytest.MonkeyPatch, fake: FakeBenchmark, policy: Path, out: Path, tasks: tuple[Task, ...] = TASKS) -> None:
    monkeypatch.setattr(evaluate, "load", lambda kind, name: fake)
    benchmark = Benchmark(name="fake", protocol="current", tasks=tasks)
    spec: dict[str, Any] = EvaluateSpec(benchmark=benchmark, engine="hf", precision="fp32", seed=0).model_dump(mode="json")
    evaluate.run(spec, {"policy": policy}, out, machine.load("cpu"))


def _files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_each_task_leaves_its_score_and_its_samples(monkeypatch: pytest.MonkeyPatch, policy: Path, tmp_path: Path) -> None:
    """A score and a line a question are on disk for each task; the workspace is gone."""
    _run(monkeypatch, FakeBenchmark(), policy, tmp_path / "out")
    files = _files(tmp_path / "out")
    assert sorted(files) == ["samples/first.jsonl", "samples/second.jsonl", "scores/first.json", "scores/second.json"]
    assert json.loads(files["samples/first.jsonl"]) == {"id": "q", "text": "grüße\n"}
    assert Score.model_validate_json(files["scores/first.json"]).value == 50.0


def test_a_killed_stage_goes_on_with_the_tasks_that_have_no_score(monkeypatch: pytest.MonkeyPatch, policy: Path, tmp_path: Path) -> None:
    """The finished task is not asked again and the files equal those of an undisturbed run."""
    with pytest.raises(KilledError):
        _run(monkeypatch, FakeBenchmark(dies_at="second"), policy, tmp_path / "killed")
    resumed = FakeBenchmark()
    _run(monkeypatch, resumed, policy, tmp_path / "killed")
    _run(monkeypatch, FakeBenchmark(), policy, tmp_path / "undisturbed")
    assert resumed.asked == ["second"]
    assert _files(tmp_path / "killed") == _files(tmp_path / "undisturbed")


def test_samples_without_a_score_are_not_a_finished_task(monkeypatch: pytest.MonkeyPatch, policy: Path, tmp_path: Path) -> None:
    """A kill between the two files asks the task again."""
    (tmp_path / "out" / "samples").mkdir(parents=True)
    (tmp_path / "out" / "samples" / "first.jsonl").write_text("{}\n")
    fake = FakeBenchmark()
    _run(monkeypatch, fake, policy, tmp_path / "out")
    assert fake.asked == ["first", "second"]


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda out: (out / "scores" / "first.json").write_bytes(b""), "first.json is not a readable score"),
    (lambda out: (out / "scores" / "second.json").rename(out / "scores" / "first.json"), "first.json is the score of another task"),
    (lambda out: (out / "samples" / "first.jsonl").unlink(), "samples/first.jsonl is missing"),
])  # fmt: skip
def test_a_score_that_is_none_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, policy: Path, tmp_path: Path, damage: Callable[[Path], Any], reason: str
) -> None:
    """An unfinished stage's score that cannot be read, is another task's, or has no samples, would stand in the record for good."""
    out = tmp_path / "out"
    _run(monkeypatch, FakeBenchmark(), policy, out)
    damage(out)
    with pytest.raises(InputError, match=reason):
        _run(monkeypatch, FakeBenchmark(), policy, out)
    (out / "scores" / "first.json").unlink()
    _run(monkeypatch, FakeBenchmark(), policy, out)
    _run(monkeypatch, FakeBenchmark(), policy, tmp_path / "undisturbed")
    assert _files(out) == _files(tmp_path / "undisturbed")


def test_nothing_is_loaded_when_every_task_is_scored(monkeypatch: pytest.MonkeyPatch, policy: Path, tmp_path: Path) -> None:
    """A launch that finds all scores opens no benchmark, so no model."""
    done = Score(benchmark="fake", task="first", metric="acc", value=1.0, stderr=None, n=1)
    evaluate.write_atomic(evaluate.score_path(tmp_path / "out", TASKS[0]), dump(done))
    evaluate.write_jsonl(evaluate.samples_path(tmp_path / "out", TASKS[0]), [])
    fake = FakeBenchmark()
    _run(monkeypatch, fake, policy, tmp_path / "out", TASKS[:1])
    assert fake.opened == 0


def test_a_missing_checkpoint_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the directory that is missing."""
    with pytest.raises(InputError, match="checkpoint is missing"):
        _run(monkeypatch, FakeBenchmark(), tmp_path / "nowhere", tmp_path / "out")


def test_a_task_listed_twice_is_refused(monkeypatch: pytest.MonkeyPatch, policy: Path, tmp_path: Path) -> None:
    """Two tasks of one name would write one file."""
    with pytest.raises(RecipeError, match="'first' is listed 2 times"):
        _run(monkeypatch, FakeBenchmark(), policy, tmp_path / "out", (TASKS[0], TASKS[0]))
