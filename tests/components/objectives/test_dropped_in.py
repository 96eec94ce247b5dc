"""A new objective is one new file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import harness

MARGIN = '''"""A loss of nobody's: a third branch, a parameter and an opponent at once."""

from torch import Tensor

from harness.contracts import PairLogps

VERSION = 3
BRANCHES = ("real", "generated", "proto")
OPPONENT = False
GRADE = "D"


def loss(logps: PairLogps, beta: float, *, weight: float) -> Tensor:
    """One loss per pair (B,)."""
    return weight * (logps.policy_proto - beta * logps.policy_real) ** 2
'''

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from harness.stages import train
from harness.artifact import DONE_FILE, Record
from harness.files import dump
from harness.contracts import Demonstration
from harness.training.pairs import write_demonstrations
from harness.plan import plan
from harness.recipe import replace
from harness.recipe import Iteration
from tests.checkpoints import MACHINE, save_checkpoint
from tests.tiny_family import small_recipe

iterations = (Iteration(beta=0.5, learning_rate=1e-3, pairs_from=(0,), parameters={"weight": 2.0}),)
recipe = replace(small_recipe(), name="new", objective="mine", iterations=iterations, rivals={})
stage = next(stage for stage in plan(recipe) if stage.path == "iter0/train")
assert stage.versions["objective"] == 3

root = Path(sys.argv[1])
save_checkpoint(root / "policy" / "checkpoint")
(root / "prompts").mkdir()
(root / "answers" / "responses").mkdir(parents=True)
rows = [Demonstration(f"p{i}", [{"role": "user", "content": "pick 2 a b c d e"}], "a b") for i in range(8)]
write_demonstrations(root / "prompts" / "prompts.jsonl", rows)
lines = [{"prompt_id": row.prompt_id, "response": "c d", "finish_reason": "stop"} for row in rows]
(root / "answers" / "responses" / "0.jsonl").write_text("".join(json.dumps(line) + chr(10) for line in lines))
inputs = {"policy": root / "policy", "prompts": root / "prompts", "responses0": root / "answers", "proto": root / "answers"}
for role, path in inputs.items():
    (path / DONE_FILE).write_bytes(dump(Record(fingerprint=role, outputs={}, content=role, seconds=1, peak_memory_mb=1)))
assert set(stage.inputs) == set(inputs)
(root / "out").mkdir()
train.run({**stage.spec, "num_steps": 3}, inputs, root / "out", MACHINE)
log = [json.loads(line) for line in (root / "out" / "log.jsonl").read_text().splitlines()]
print("LOSSES", log[0]["loss"], log[-1]["loss"], (root / "out" / "opponent_logps.json").exists())
"""


def test_one_file_is_all(tmp_path: Path) -> None:
    """Promise: a copy of the package with one more file plans and trains that objective: identity, third branch, parameter, no opponent."""
    shutil.copytree(Path(harness.__file__).parent, tmp_path / "harness")
    for folder in ("recipes", "machines", "tests"):
        (tmp_path / folder).symlink_to(Path(harness.__file__).parent.parent / folder)
    (tmp_path / "harness" / "components" / "objectives" / "mine.py").write_text(MARGIN)
    (tmp_path / "work").mkdir()
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "work")], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    _, first, last, has_opponent = next(line for line in done.stdout.splitlines() if line.startswith("LOSSES")).split()
    assert float(last) < float(first)
    assert has_opponent == "False"
