"""`harness rehearse` runs every stage for real from a configuration, a tokenizer and prompts, and leaves nothing that looks like a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import MistralConfig

from harness.errors import RecipeError
from harness.machine import load
from harness.runs.lock import hold
from tests import ROOT
from tests.tiny_checkpoints import byte_checkpoint

RECIPE = """
from harness.recipe import load, replace
base = load("zephyr-7b-vllm")
held_out = tuple(benchmark for benchmark in base.benchmarks if benchmark.name == "held_out")
recipe = replace(
    base, name="mine", iterations=base.iterations[:1], benchmarks=held_out, generation_template="alpaca", training_template="alpaca",
    sampling=base.sampling.model_copy(update={"max_new_tokens": 8}),
)
"""


def harness(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line, in `folder`."""
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**_ENVIRONMENT, "PYTHONPATH": str(ROOT)})


_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a 7B recipe has been rehearsed, with no network, no GPU and no weights."""
    folder = tmp_path_factory.mktemp("rehearsal")
    files = folder / "files"
    byte_checkpoint(files)
    (files / "model.safetensors").unlink()
    MistralConfig(vocab_size=257, max_position_embeddings=4096).save_pretrained(files)
    for split, start in (("train_sft", 0), ("test_sft", 20)):
        rows = ({"messages": _dialogue(number)} for number in range(start, start + 20))
        (files / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(RECIPE)
    done = harness(folder, "rehearse", "mine.py", "--random-weights", "--files", files, "--machine", "cpu", "--format", "json")
    assert done.returncode == 0, done.stderr
    (folder / "shown.json").write_text(done.stdout)
    (folder / "said.txt").write_text(done.stderr)
    return folder


def _dialogue(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "word " * number + "end"}]


def test_every_stage_of_the_recipe_ran(folder: Path) -> None:
    """Promise: a line a stage with seconds and memory, nothing foretold, and vLLM's absence is said."""
    found = json.loads((folder / "shown.json").read_text())
    stages = ["sft/model", "prompts", "held_out/prompts", "sft/held_out", "sft/eval/held_out"]
    stages += ["iter0/generate", "iter0/train", "iter0/eval/held_out"]
    assert [line["path"] for line in found["stages"]] == stages
    assert all(line["seconds"] > 0 and line["memory_gb"] > 0 and line["foretold_hours"] is None for line in found["stages"])
    assert "vLLM is not installed here: the engine is hf, where the recipe says vllm" in (folder / "said.txt").read_text()


def test_a_run_is_not_rehearsed_in(folder: Path, tmp_path: Path) -> None:
    """Promise: a run's directory, finished or at work, is refused and stays a run; a machine's name is no path."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.json").write_text("{}")
    done = harness(folder, "rehearse", "tiny", "--machine", "cpu", "--out", tmp_path / "run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is a run, which a rehearsal would mark as its own" in done.stderr
    with hold(tmp_path / "at work"):
        done = harness(folder, "rehearse", "tiny", "--machine", "cpu", "--out", tmp_path / "at work")
    assert "is in use by pid" in done.stderr
    assert not [*tmp_path.rglob("rehearsal.json")]
    with pytest.raises(RecipeError, match=r"Machine.name: .*found .\.\./\.\./x y"):
        load("cpu1").model_copy(update={"name": "../../x y"})


@pytest.mark.parametrize("command", ["tables", "verify", "report", "bundle"])
def test_no_result_can_be_read_from_it(folder: Path, command: str) -> None:
    """Promise: there are no tables, and whatever reads a run says in one line that this is none."""
    where = folder / "rehearsals" / "mine" / "cpu-random-weights"
    assert not (where / "tables").exists()
    done = harness(folder, command, where)
    assert done.returncode == 1
    assert "is a rehearsal, not a run" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_cannot_be_made_of_it(folder: Path) -> None:
    """Promise: `reproduce` into its directory is refused before anything runs."""
    done = harness(folder, "reproduce", "mine.py", "--machine", "cpu", "--out", folder / "rehearsals" / "mine" / "cpu-random-weights")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
