"""What is installed is complete: a wheel holds the recipes, machines and sweeps, and works far from any checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness import machine, recipe
from harness.runs import sweeps as sweep
from tests import ROOT


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed here; it comes with the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_ships_recipes_machines_and_sweeps_and_nothing_else(unpacked: Path) -> None:
    """Every recipe, machine and sweep of the checkout is inside the package; tests and results are not."""
    assert {path.name for path in unpacked.iterdir() if "dist-info" not in path.name} == {"harness"}
    for known in (recipe.available(), machine.available(), sweep.available()):
        for path in known.values():
            assert (unpacked / "harness" / path.parent.name / path.name).read_bytes() == path.read_bytes()


PAGE = (ROOT / "docs/extending.md").read_text()
BLOCK = re.compile(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^## Results in Python\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

JUDGED = ("tiny_mt_bench", "judged/by-rule/tiny_mt_bench")


class Away:
    """The installed package in a directory of the user's own, which holds what docs/extending.md says."""

    def __init__(self, site: Path, home: Path) -> None:
        self.site, self.home = site, home
        for name, text in BLOCK.findall(PAGE):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(text)

    def __call__(self, *command: str, fails: bool = False) -> str:
        """What the installed command says."""
        env = {**os.environ, "PYTHONPATH": str(self.site), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command], cwd=self.home, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode == 1) is fails, done.stderr
        return done.stdout + done.stderr


def test_everything_of_the_users_own_in_an_empty_directory(unpacked: Path, tmp_path: Path) -> None:
    """Own data, source, loss, judge, benchmark, task, engine and machine run, print tables and verify, in the page's own words.

    After a change of one character of the loss exactly its training and what follows is stale, and the refusal names the file.
    """
    harness = Away(unpacked, tmp_path)
    command = ("-m", "harness")
    assert harness(*command, "pin", "data/mine.jsonl").strip() in (tmp_path / "my_recipe.py").read_text()
    run = ("reproduce", "my_recipe.py", "--machine", "my_box.py")
    said = harness(*command, *run)
    assert "14 stages ran" in said
    assert "data/mine.jsonl" not in said
    table = harness(*command, "tables", "results/mine", "--format", "csv")
    assert {"small", "letters", "tiny_mt_bench"} <= set(re.findall(r"[a-z_]+", table))
    assert re.search(r"\d+ files match their records, 0 are not here", harness(*command, "verify", "results/mine"))
    judges = json.loads(harness(*command, "agreement", *("results/mine:iter0:" + name for name in JUDGED), "--format", "json"))
    assert (judges[0]["category"], judges[0]["n"]) == ("all", 6)
    harness(*command, "export-results", "results/mine", "iter0", "--out", "lm")
    assert '"task": "letters"' in harness(*command, "import-results", "lm", "--format", "json")
    paired = json.loads(harness(*command, "compare-results", "results/mine", "iter0", "lm", "--format", "json"))
    assert {one["task"]: (one["changed"], one["only_ours"]) for one in paired} == dict.fromkeys(("small", "letters", *JUDGED), (0, 0))
    (example,) = PYTHON.findall(PAGE)
    shown = harness("-c", example)
    assert "tiny_mt_bench" in shown
    assert "rewards/margin" in shown

    loss = tmp_path / "losses/my_loss.py"
    loss.write_text(loss.read_text().replace("relu(1.0", "relu(1.1"))
    status = harness(*command, "status", "my_recipe.py", "--format", "json")
    states = {stage["path"]: stage["state"] for stage in json.loads(status)}
    after = {path for path in states if path.startswith("iter0/") and path != "iter0/generate"}
    assert {path for path, state in states.items() if state == "stale"} == after
    refusal = harness(*command, *run, fails=True)
    assert re.search(r"iter0/train: objective is 'my_loss\.py@\w{16}' on disk, 'my_loss\.py@\w{16}' in the recipe", refusal)
    assert "Traceback" not in refusal


def test_installed_command_finds_its_recipes(unpacked: Path, tmp_path: Path) -> None:
    """Away from the checkout the package finds a recipe that builds on another, and the machine for it."""
    env = {**os.environ, "PYTHONPATH": str(unpacked), "COLUMNS": "80"}
    command = [sys.executable, "-m", "harness", "plan", "zephyr-7b-release"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "zephyr-7b-release on a100x8" in done.stdout
