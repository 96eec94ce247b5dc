"""Odd input and damage of every kind: one clear line each, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import DistributedType

from harness import machine
from harness.config import load_attribute
from harness.errors import InputError, JudgeError, RecipeError
from harness.evaluation.judge_endpoint import Endpoint
from harness.recipe import Judge, Task, load
from harness.training import checkpoints
from tests import ROOT, SMALL

CPU = machine.load("cpu")


class Loads:
    """In the place of an Accelerator whose state is cut."""

    is_main_process = True
    process_index, num_processes = 0, 1
    distributed_type = DistributedType.NO

    def load_state(self, path: str) -> None:
        raise RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory\nat file.cc")

    def wait_for_everyone(self) -> None:
        """Alone."""


@pytest.mark.parametrize(("progress", "reason"), [
    (None, "No such file"), ("{", "validation error"), ('{"identity": 1}', "validation error"),
    ('{"identity": "a", "step": -1}', "validation error"),
    ('{"identity": "a", "step": 5, "sharded": false, "files": {}}', "progress.json is of step 5"),
    ('{"identity": "a", "step": 4, "sharded": false, "files": {"a": {"size": 0, "sha256": "%s"}}}' % ("0" * 64), "a is not what was saved"),
    ('{"identity": "a", "step": 4, "sharded": false, "files": {}}', "PytorchStreamReader failed"),
])  # fmt: skip
def test_damaged_state_says_what_to_remove(tmp_path: Path, progress: str | None, reason: str) -> None:
    """A state whose progress is gone or no progress, or that the libraries cannot read, is named with the way out."""
    state = tmp_path / "iter0" / "train" / "state" / "step-00000004"
    state.mkdir(parents=True)
    if progress is not None:
        (state / "progress.json").write_text(progress)
    found: Any = Loads()
    told = rf"iter0/train/state/step-00000004 cannot be continued from \(.*{reason}.*; remove iter0/train/state"
    with pytest.raises(InputError, match=told):
        checkpoints.load_state(found, tmp_path / "iter0" / "train", "a")


def test_a_recipe_that_exits_is_a_mistake(tmp_path: Path) -> None:
    """sys.exit(0) in a recipe is not success."""
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(RecipeError, match=r"mine\.py line 2: SystemExit: 0; correct the file"):
        load_attribute(tmp_path / "mine.py", "recipe")


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "..", "", "a\nb", "a\x1b[2J", "C:x"])
def test_a_task_is_named_as_a_file_can_be(name: str) -> None:
    """A task's name becomes the name of its score's file."""
    with pytest.raises(ValueError, match=r"becomes a file's name|no path inside"):
        Task(name=name, metric="acc")


@pytest.mark.parametrize("beta", [float("inf"), float("nan")])
def test_numbers_are_finite(beta: float) -> None:
    """An infinite beta is refused where it is written."""
    with pytest.raises(RecipeError, match=r"Iteration\.beta: Input should be"):
        load(str(SMALL)).iterations[0].model_copy(update={"beta": beta})


def test_an_address_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_BASE_URL cut short is named, without its text."""
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://[::1")
    with pytest.raises(JudgeError, match=r"OPENAI_BASE_URL is no address \(.*expected one such as"):
        Endpoint(Judge(model="m"), tmp_path, CPU)


def test_an_ascii_terminal_gets_everything() -> None:
    """Characters an encoding lacks are spelt out."""
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "harness", "tables", str(ROOT / "results/tiny"), "--format", "markdown"]
    done = subprocess.run(command, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\\xb1" in done.stdout
