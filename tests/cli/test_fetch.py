"""What a recipe needs from the Hub: found in the plan, listed with sizes, and put into both caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import lm_eval.tasks
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from typer.testing import CliRunner

from harness.cli import fetch
from harness.cli.main import app
from harness.errors import InputError
from harness.recipe import Benchmark, Task, load
from tests import SMALL
from tests.components.benchmarks.test_lm_eval import only_own
from tests.fake_hub import serving
from tests.tiny_checkpoints import word_checkpoint

COMMIT = "c" * 40
ZEPHYR = load("zephyr-7b")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A Hub of which every repository holds one file a pattern; returns what is asked of it."""
    asked: list[tuple[str, ...]] = []

    def snapshot(name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str], dry_run: bool) -> Any:
        asked.append(("list" if dry_run else "download", repo_type, name, *allow_patterns))
        commit = revision or COMMIT
        return [SimpleNamespace(commit_hash=commit, filename=name, file_size=1000, is_cached=False) for name in allow_patterns]

    def builder(name: str, config: str | None, revision: str | None) -> Any:
        url = f"hf://datasets/{name}@{revision or COMMIT}/{config or 'data'}/train.parquet"
        return SimpleNamespace(config=SimpleNamespace(data_files={"train": [url]}))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, revision: asked.append(("build", name, config or "")))
    return asked


def test_every_repository_of_the_paper_is_found_once() -> None:
    """Model, instructions, the leaderboard's data sets and MT-Bench's questions; pinned where the recipe pins them."""
    found = fetch.repositories(ZEPHYR)
    assert len(found) == len(set(found))
    by_name = {repository.name: repository for repository in found}
    assert by_name[ZEPHYR.sft_model.name].revision == ZEPHYR.sft_model.revision
    assert by_name[ZEPHYR.prompts.dataset].revision == ZEPHYR.prompts.revision
    assert {"allenai/ai2_arc", "lmsys/mt-bench", "cais/mmlu"} <= set(by_name)
    assert len([repository for repository in found if repository.name == "cais/mmlu"]) == 57
    assert by_name["allenai/ai2_arc"].config == "ARC-Challenge"


def test_the_data_sets_of_any_lm_eval_task_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a group's or tag's tasks are asked for with their configurations, only the subtasks named where some are."""
    only_own(monkeypatch)
    folder = Path(lm_eval.tasks.__file__).parent / "leaderboard"
    tasks = (
        Task(name="leaderboard_gpqa"),
        Task(name="leaderboard_bbh", subtasks=("leaderboard_bbh_snarks",)),
        Task(name="leaderboard_ifeval"),
    )
    found = fetch._of_benchmark(Benchmark(name="lm_eval", protocol="p", tasks=tasks, task_folder=str(folder)))
    assert {(one.name, one.config) for one in found} == {
        *(("Idavidrein/gpqa", f"gpqa_{part}") for part in ("diamond", "extended", "main")),
        ("SaylorTwift/bbh", "snarks"),
        ("wis-k/instruction-following-eval", None),
    }


def test_procedural_recipe_needs_nothing() -> None:
    """Nothing is asked of the Hub for a recipe that makes its own data."""
    assert fetch.repositories(load(str(SMALL))) == []


def test_listing_names_commit_file_and_size(hub: list[tuple[str, ...]]) -> None:
    """A data set is listed by the files of its configuration, and by the card that names them."""
    arc = next(repository for repository in fetch.repositories(ZEPHYR) if repository.name == "allenai/ai2_arc")
    assert [tuple(file) for file in fetch.files(arc)] == [
        ("allenai/ai2_arc", COMMIT, "README.md", 1000, False),
        ("allenai/ai2_arc", COMMIT, "ARC-Challenge/train.parquet", 1000, False),
    ]
    assert hub == [("list", "dataset", "allenai/ai2_arc", "README.md", "ARC-Challenge/train.parquet")]


def test_dry_run_downloads_nothing(hub: list[tuple[str, ...]]) -> None:
    """--dry-run prints every file; without it each repository is downloaded, and each data set built as its stage reads it."""
    done = CliRunner().invoke(app, ["fetch", "zephyr-7b", "--dry-run", "--format", "json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert {"repository", "revision", "file", "size", "cached"} == set(rows[0])
    assert {what for what, *_ in hub} == {"list"}
    assert CliRunner().invoke(app, ["fetch", "zephyr-7b"]).exit_code == 0
    assert {repository.name for repository in fetch.repositories(ZEPHYR)} == {name for what, _, name, *_ in hub if what == "download"}
    assert ("build", "allenai/ai2_arc", "ARC-Challenge") in hub


def test_offline_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the first repository is named, with what to look at."""

    def offline(*_: object, **__: object) -> None:
        raise OfflineModeIsEnabled("Cannot reach the Hub: offline mode is enabled.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"model .*@[0-9a-f]{40} could not be fetched: Cannot reach .*; check the network"):
        fetch.files(fetch.repositories(ZEPHYR)[0])


OFFLINE = """
import sys
from pathlib import Path
from harness.recipe import ModelRef
from harness.cli import fetch
from harness.machine import load
from harness.stages import model
ref = ModelRef(source="hub", name="org/model", revision="a" * 40)
if sys.argv[1] == "fetch":
    wanted = fetch.Repository("model", ref.name, ref.revision, tuple(model.HUB_FILES))
    before, _, after = fetch.files(wanted), fetch.fetch(wanted), fetch.files(wanted)
    print([(file.file, file.size, file.cached) for file in before if file.file == "config.json"], all(file.cached for file in after))
else:
    model.run({"model": ref.model_dump(mode="json")}, {}, Path(sys.argv[1]), load("cpu"))
"""


def test_fetched_model_becomes_a_checkpoint_offline(tmp_path: Path) -> None:
    """The real client: listed and fetched from a Hub on this machine, then, with HF_HUB_OFFLINE and no Hub, a whole model stage."""
    saved = word_checkpoint(tmp_path / "saved")
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    env.pop("HF_HUB_CACHE", None)
    with serving(saved) as address:
        command = [sys.executable, "-c", OFFLINE, "fetch"]
        done = subprocess.run(command, env={**env, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    size = (saved / "config.json").stat().st_size
    assert done.stdout.strip() == f"[('config.json', {size}, False)] True"
    out = tmp_path / "stage"
    done = subprocess.run([sys.executable, "-c", OFFLINE, str(out)], env={**env, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in (out / "checkpoint").iterdir()} == {
        path.name: path.read_bytes() for path in saved.iterdir()
    }
