"""A stage may run under another interpreter than the command's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import MachineError
from harness.machine import load as load_machine
from harness.plan import plan
from harness.recipe import load
from harness.runs import launches
from tests.checkpoints import MACHINE

STAGES = {stage.path: stage for stage in plan(load("tiny"))}


def test_each_kind_of_stage_has_its_interpreter(tmp_path: Path) -> None:
    """The machine's `python` rules the stages of its kind, launcher included; the others keep the command's own."""
    other = tmp_path / "python"
    other.touch()
    machine = MACHINE.model_copy(update={"python": {"train": str(other)}, "launcher": ("{python}", "-m", "launcher")})
    assert launches._interpreter(STAGES["iter0/generate"], machine) == sys.executable
    train = STAGES["iter0/train"]
    command = launches._command(train, machine, launches._interpreter(train, machine), tmp_path)
    assert command == [str(other), "-m", "launcher", "-m", "harness", "stage", str(tmp_path)]


def test_a_missing_interpreter_is_one_line(tmp_path: Path) -> None:
    """A named interpreter that is not there, and one without harness, say what to do."""
    machine = MACHINE.model_copy(update={"python": {"generate": str(tmp_path / "none")}})
    with pytest.raises(MachineError, match=r"python for generate stages is .*none, which is no file"):
        launches._interpreter(STAGES["iter0/generate"], machine)
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\ncd / && PYTHONPATH= exec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(MachineError, match=r"cannot import harness .*pip install -e \."):
        launches._provenance_in(str(bare))


def test_the_record_names_the_versions_that_computed(tmp_path: Path) -> None:
    """Versions recorded for a stage are those of the interpreter that runs it."""
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    asked = "import json; from harness.runs.provenance import versions; print(json.dumps(versions()))"
    expected = json.loads(subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout)
    assert launches._provenance_in(str(other))["versions"] == expected
    assert launches._provenance_in(sys.executable) == {}


def test_replica_launcher_stands_before_generation_and_evaluation(tmp_path: Path) -> None:
    """A Ray cluster can be started around the stages that have replicas; a stage with one is not forked."""
    machine = load_machine("cpu").model_copy(update={"replica_launcher": ("ray-run", "--", "{python}")})
    for path, expected in {"iter0/generate": ["ray-run", "--", "py"], "iter0/train": ["py"], "sft/model": ["py"]}.items():
        command = launches._command(STAGES[path], machine, "py", tmp_path)
        assert command == [*expected, "-m", "harness", "stage", str(tmp_path)]
    assert not launches._forks(STAGES["iter0/generate"], machine, sys.executable)
    assert launches._forks(STAGES["iter0/train"], machine, sys.executable)
