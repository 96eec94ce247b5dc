"""Stages that take milliseconds: real processes that write a few bytes, so that the runner can be tested without torch.

`use(monkeypatch)` puts them in the place of the real ones; `python -m tests.fake_stages reproduce ...` is the command line over them.
FAKE_STAGES in the environment says what a stage does instead: 'iter0/train exit 70', 'iter0/train kill 9', 'iter0/train wait',
'sft/eval/x swap' (overwrites its first input, and goes on, or with 'swap exit 1' ends),
'iter0/train once' waits the first time only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.artifact import Stage
from harness.cli import main as cli
from harness.machine import Machine
from harness.runs import launches

LAUNCHES = "launches"

STAGE = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
stage = json.loads((folder / "stage.json").read_text())["stage"]
root = folder.joinpath(*[".."] * len(Path(stage["path"]).parts)).resolve()
with open(root / "launches", "a") as file:
    file.write(stage["path"] + "\\n")
path, what, *number = (os.environ.get("FAKE_STAGES") or "no thing").split()
if path == stage["path"] and not (what == "once" and (folder / "waits.tmp").exists()):
    if what in ("wait", "once"):
        (folder / "waits.tmp").touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            sys.exit(1)
    if what == "kill":
        os.kill(os.getpid(), int(number[0]))
    if what == "swap":
        input = root / next(iter(stage["inputs"].values())) / "checkpoint" / "model.safetensors"
        input.write_text("x" * input.stat().st_size)
    if number:
        sys.exit(int(number[-1]))
name = {"model": "checkpoint/model.safetensors", "train": "checkpoint/model.safetensors", "prompts": "prompts.jsonl",
        "preferences": "prompts.jsonl", "generate": "responses/00000.jsonl", "evaluate": "scores/kl.json"}[stage["kind"]]
(folder / name).parent.mkdir(exist_ok=True)
(folder / name).write_text(os.environ.get("FAKE_BYTES", "") + stage["fingerprint"])
if stage["kind"] == "train":
    (folder / "log.jsonl").write_text(str(time.time()))
"""


def _command(stage: Stage, machine: Machine, python: str, directory: Path) -> list[str]:
    return [sys.executable, "-S", "-c", STAGE, str(directory)]


def _forks(*_: object) -> bool:
    return False


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fakes in the place of the real stages."""
    monkeypatch.setattr(launches, "_command", _command)
    monkeypatch.setattr(launches, "_forks", _forks)


def launched(run: Path) -> list[str]:
    """The stages whose process was started, in order."""
    return (run / LAUNCHES).read_text().split() if (run / LAUNCHES).exists() else []


if __name__ == "__main__":
    launches._command, launches._forks = _command, _forks
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.argv = ["harness", *sys.argv[1:]]
    cli.main()
