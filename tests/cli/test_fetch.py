"""What a recipe needs from the Hub: found in the plan, listed with sizes, and put into both caches."""

from __future__ import annotations

import json
import os
import re
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

from harness.artifact import RunDir
from harness.cli import fetch
from harness.cli.main import app
from harness.components.sources import procedural
from harness.errors import USER_ERROR_EXIT, InputError
from harness.recipe import Benchmark, Task, load
from harness.runs import runner
from tests import SMALL
from tests.components.benchmarks.test_lm_eval import only_own
from tests.fake_hub import COMMIT as NEWEST
from tests.fake_hub import serving, write_dataset
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
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: None)
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


def test_an_unreachable_hub_is_one_line_with_the_reason(tmp_path: Path) -> None:
    """The real client, from a Hub that refuses: what refuses is said at once, and not what is left after half a minute of attempts."""
    done = run(tmp_path, "fetch", "zephyr-7b", HF_ENDPOINT="http://127.0.0.1:1", HF_HUB_OFFLINE="0")
    assert (done.returncode, done.stdout) == (USER_ERROR_EXIT, "")
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"error: model .*@[0-9a-f]{40} could not be fetched: .*Connection refused; check the network, .*", line)


RECIPE = f"""
from harness.recipe import Benchmark, ModelRef, PromptSource, Task, load, replace

small = load({str(SMALL)!r})
recipe = replace(
    small,
    name="from-hub",
    sft_model=ModelRef(source="hub", name="org/model", revision={COMMIT!r}),
    prompts=PromptSource(source="hub", dataset="org/prompts", revision={COMMIT!r}, split="train", num_prompts=32, shuffle_seed=0),
    iterations=small.iterations[:1],
    benchmarks=(
        Benchmark(
            name="open_llm",
            protocol="current",
            tasks=(
                Task(name="arc_challenge", shots=1, metric="acc_norm", limit=4),
                Task(name="openbookqa", shots=0, metric="acc_norm", limit=4),
            ),
        ),
    ),
)
"""


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, ended, with caches of its own in `folder`."""
    env = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", **variables}
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        env.pop(name, None)
    return subprocess.run([sys.executable, "-m", "harness", *arguments], env=env, cwd=folder, capture_output=True, text=True)


def harness(folder: Path, *arguments: str, **variables: str) -> str:
    """What the command prints, where it succeeds."""
    done = run(folder, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_paper_s_recipe_is_listed(tmp_path: Path) -> None:
    """The real client, from a Hub on this machine with every repository of zephyr-7b: each file once, with its commit and size."""
    hub, wanted = tmp_path / "hub", fetch.repositories(ZEPHYR)
    configs: dict[str, dict[str, Any]] = {}
    for repository in wanted:
        if repository.kind == "dataset":
            configs.setdefault(repository.name, {})[repository.config or "default"] = {"train": [{"text": "x"}]}
        else:
            folder = hub / f"{repository.kind}s" / repository.name
            for name in ("config.json", "model.safetensors") if repository.kind == "model" else repository.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(name)
    for name, splits in configs.items():
        write_dataset(hub / "datasets" / name, splits)
    with serving(hub) as address:
        printed = harness(tmp_path, "fetch", "zephyr-7b", "--dry-run", "--format", "json", HF_ENDPOINT=address, HF_HUB_OFFLINE="0")
    expected = set()
    for repository in wanted:
        folder = hub / f"{repository.kind}s" / repository.name
        part = repository.config or "default"
        names = (
            ["README.md", f"{part}/train.parquet"]
            if repository.kind == "dataset"
            else [str(p.relative_to(folder)) for p in files_in(folder)]
        )
        expected |= {(repository.name, repository.revision or NEWEST, name, (folder / name).stat().st_size) for name in names}
    assert {(row["repository"], row["revision"], row["file"], row["size"]) for row in json.loads(printed)} == expected
    assert [path for path in (tmp_path / "hf").rglob("*") if path.suffix in (".safetensors", ".parquet", ".arrow")] == []


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_whole_plan_runs_offline_after_fetch(tmp_path: Path) -> None:
    """Model, prompts and evaluation sets fetched from a Hub on this machine; then, without it and offline, every stage of the recipe."""
    model = word_checkpoint(tmp_path / "hub/models/org/model")
    examples = procedural.sample("train", 32, 0)
    turns = [[{"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.response}] for one in examples]
    write_dataset(tmp_path / "hub/datasets/org/prompts", {"default": {"train": [{"messages": turn} for turn in turns]}})
    choices = {"text": ["one", "two"], "label": ["A", "B"]}
    arc = [{"question": f"Which is {i}?", "choices": choices, "answerKey": "A"} for i in range(6)]
    book = [{"question_stem": f"The number {i} is", "choices": choices, "answerKey": "B"} for i in range(6)]
    splits = ("train", "validation", "test")
    write_dataset(tmp_path / "hub/datasets/allenai/ai2_arc", {"ARC-Challenge": dict.fromkeys(splits, arc)})
    write_dataset(tmp_path / "hub/datasets/allenai/openbookqa", {"main": dict.fromkeys(splits, book)})
    (tmp_path / "recipe.py").write_text(RECIPE)
    with serving(tmp_path / "hub") as address:
        online = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}
        listed = json.loads(harness(tmp_path, "fetch", "recipe.py", "--format", "json", **online))
    assert {row["repository"] for row in listed} == {"org/model", "org/prompts", "allenai/ai2_arc", "allenai/openbookqa"}
    harness(tmp_path, "reproduce", "recipe.py", "--out", "run", "--machine", "cpu1", HF_HUB_OFFLINE="1", HF_ENDPOINT=address)
    states = runner.survey(load(str(tmp_path / "recipe.py")), RunDir(tmp_path / "run"))
    assert {state for _, state in states} == {"done"}
    fetched = {path.name: path.read_bytes() for path in (tmp_path / "run/sft/model/checkpoint").iterdir()}
    assert fetched == {path.name: path.read_bytes() for path in model.iterdir()}
