"""The doctor says what is there and what to do, and never shows a secret."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.artifact import RunDir
from harness.cli import preflight
from harness.cli.doctor import examine, ready_machine
from harness.cli.doctor import preflight as preflight_of
from harness.cli.listings import diff_list, plan_list
from harness.cli.preflight import Context, Finding, context_for
from harness.errors import MachineError
from harness.evaluation.judge_shutdowns import RECOMMENDED, SHUTDOWN, warning
from harness.machine import load as load_machine
from harness.recipe import Benchmark, Judge, Lora, Recipe, Task, load, replace
from harness.recipe_parts import REVISION_PATTERN
from harness.runs.needs import hardware
from harness.runs.needs.gpus import Gpu
from harness.runs.needs.hardware import Hardware
from tests import ROOT

DAY = date(2026, 11, 24)


def judged_by(model: str | None) -> Recipe:
    zephyr = load("zephyr-7b")
    benchmarks = tuple(b.model_copy(update={"judge": Judge(model=model)}) if b.judge else b for b in zephyr.benchmarks)
    return replace(zephyr, name="judged", benchmarks=benchmarks)


def findings(recipe: Recipe | None = None) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(Context(recipe, Path("results"), DAY))}


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("gpt-4", "was shut down on 2026-10-23"),
        ("gpt-5", "is shut down on 2026-12-11, in 17 days"),
        ("gpt-4.1", "is shut down on 2027-01-14, in 51 days"),
        ("served-by-vllm", None),
        (None, None),
    ],
)
def test_judges_have_an_end(model: str | None, says: str | None) -> None:
    """A judge past its shutdown date or within 60 days of it is warned about, with the source and a way out."""
    found = warning(Judge(model=model), DAY)
    assert (found is None) if says is None else (found is not None and says in found and RECOMMENDED.model in found)


def test_no_warning_long_before() -> None:
    """61 days ahead nothing is said; on the day itself it is gone."""
    assert warning(Judge(model="gpt-4"), date(2026, 8, 23)) is None
    assert "was shut down" in str(warning(Judge(model="gpt-4"), SHUTDOWN["gpt-4"]))


def test_the_open_judge_is_pinned() -> None:
    """By 40 hexadecimal digits, as every model of a recipe."""
    assert REVISION_PATTERN.fullmatch(RECOMMENDED.revision)


def test_the_plan_warns(tmp_path: Path) -> None:
    """`harness plan` carries the warning; a recipe whose judge is not chosen is told what follows, and one judged by a rule nothing."""
    cpu = load_machine("cpu")
    assert any(line.startswith("judge gpt-4 was shut down") for line in plan_list(judged_by("gpt-4"), RunDir(tmp_path), cpu)["warnings"])
    unjudged = plan_list(judged_by(None), RunDir(tmp_path), cpu)["warnings"]
    assert any(line.startswith("mt_bench has no judge: answers are made and stay unscored") for line in unjudged)
    assert not any("judge" in line for line in plan_list(load("tiny"), RunDir(tmp_path), cpu)["warnings"])


def test_secrets_are_told_by_presence_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor the endpoint's address appear in any finding."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN"):
        monkeypatch.setenv(name, "do-not-show-me")
    found = findings(judged_by("gpt-4"))
    assert found["OPENAI_API_KEY"].found == "set"
    assert "do-not-show-me" not in str(found)


def test_a_missing_key_is_an_error_only_where_a_judge_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe with a judge behind an endpoint needs a key, one judged by a rule does not."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert findings(judged_by("gpt-4"))["OPENAI_API_KEY"].state == "error"
    assert findings(judged_by("gpt-4"))["judge gpt-4"].state == "warning"
    assert findings(load("tiny"))["OPENAI_API_KEY"].state == "ok"
    assert findings()["OPENAI_API_KEY"].state == "ok"


def test_an_empty_offline_cache_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline with nothing in the cache can find no data; with something, or online, it may."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert findings()["HF cache"].state == "error"
    (tmp_path / "datasets--openai--gsm8k").mkdir()
    assert findings()["HF cache"] == Finding("HF cache", "ok", f"1 repositories in {tmp_path}, offline")


def test_packages_are_those_harness_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, too old and present packages are told apart, with the command that mends them; extras are not required."""
    monkeypatch.setattr(metadata, "requires", lambda name: ["rich>=1", "rich>=999", "no-such-thing>=2", "vllm==1; extra == 'vllm'"])
    found = [f for f in examine(Context(None, Path("results"), DAY)) if f.check.startswith("package ")]
    assert [(f.check, f.state) for f in found] == [("package rich", "ok"), ("package rich", "error"), ("package no-such-thing", "error")]
    assert found[2].todo == "pip install 'no-such-thing>=2'"


def test_vllm_is_looked_at_where_a_recipe_generates_with_it(tmp_path: Path) -> None:
    """A recipe with vLLM as its engine is told what keeps vLLM from starting; other recipes are not bothered where it is absent."""
    checks = {finding.check for finding in examine(Context(load("zephyr-7b-vllm"), tmp_path, date(2026, 11, 24)))}
    others = {finding.check for finding in examine(Context(load("tiny"), tmp_path, date(2026, 11, 24)))}
    assert any(name.startswith("vllm") for name in checks)
    assert others <= checks


# Before a recipe runs

HERE = Hardware((), 2, 25.0)


def eight(gigabytes: float = 86.0) -> Hardware:
    return Hardware((Gpu("NVIDIA A100-SXM4-80GB", gigabytes, 8.0),) * 8, 64, 1000.0)


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Hardware, float], None]:
    """`computer(hardware, free_gb)` puts another computer in this one's place: offline, with an empty cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def replace_it(here: Hardware, free_gb: float) -> None:
        monkeypatch.setattr(hardware, "look", lambda: here)
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=free_gb * 1e9))

    return replace_it


def fill_the_cache(home: Path, recipe: Recipe) -> None:
    """The pinned model and data of `recipe` in the Hub's cache."""
    kinds = (("models", recipe.sft_model.name, recipe.sft_model), ("datasets", recipe.prompts.dataset, recipe.prompts))
    for kind, name, ref in kinds:
        snapshot = home / "hub" / f"{kind}--{name.replace('/', '--')}" / "snapshots" / str(ref.revision)
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").touch()


def looked_at(recipe: Recipe, machine: str | None, run: Path, only: str | None = None) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(context_for(recipe, machine, run, only))}


def test_a_node_that_has_everything_is_ready(computer: Callable[..., None], tmp_path: Path) -> None:
    """Eight A100s, a full cache and room on the disk: only the judge is missing, which is said and stops nothing."""
    computer(eight(), 500.0)
    fill_the_cache(tmp_path / "hf", load("zephyr-7b"))
    for machine in (None, "a100x8"):
        assert ready_machine(load("zephyr-7b"), machine, tmp_path / "run").num_devices == 8
    found = looked_at(load("zephyr-7b"), "a100x8", tmp_path / "run")
    assert [finding.check for finding in found.values() if finding.state != "ok"] == ["judge"]
    assert "stay unscored; for an open one" in found["judge"].found
    assert RECOMMENDED.revision in found["judge"].found


def test_an_open_judge_is_one_line_away(tmp_path: Path) -> None:
    """The file that docs/judging.md shows is a recipe whose judge is pinned; nothing but the judge differs, and the plan is silent."""
    page = (ROOT / "docs" / "judging.md").read_text()
    example = page.split("(`harness reproduce ./judged.py`):\n\n")[1].split("\n\nRepeats")[0]
    file = tmp_path / "judged.py"
    file.write_text("\n".join(line.removeprefix("    ") for line in example.splitlines()))
    recipe = load(str(file))
    assert {row["field"] for row in diff_list(load("zephyr-7b"), recipe)} == {"benchmarks.2.judge.model", "benchmarks.2.judge.revision"}
    assert not any("judge" in line for line in plan_list(recipe, RunDir(tmp_path), load_machine("a100x8"))["warnings"])


@pytest.mark.parametrize(
    ("machine", "here", "free_gb", "check", "says"),
    [
        ("h100x1", HERE, 500.0, "machine", "machine h100x1 has 1 GPU, here is no GPU"),
        ("a100x8", eight()._replace(gpus=eight().gpus[:2]), 500.0, "machine", r"machine a100x8 has 8 GPUs, here is 2 x NVIDIA"),
        ("a100x8", eight(16.0), 500.0, "machine", r"need \d+ GB on each device \(weights 3\.6 \+ .*\), a device has 16"),
        (None, HERE, 500.0, "machine", "zephyr-7b computes in bf16, which needs a GPU"),
        ("a100x8", eight(), 78.0, "disk", "78 GB free at .*, 232.0 needed at the peak"),
        ("a100x8", eight(), 500.0, "model", "zephyr-7b-sft-full is not in the cache, and HF_HUB_OFFLINE is set"),
        ("a100x8", eight(), 500.0, "data", "ultrachat_200k is not in the cache, and HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_missing_is_one_line_before_anything_is_spent(
    computer: Callable[..., None], tmp_path: Path, machine: str | None, here: Hardware, free_gb: float, check: str, says: str
) -> None:
    """`doctor` shows it as an error with a way out, `reproduce` refuses to start, and nothing is left behind."""
    computer(here, free_gb)
    found = looked_at(load("zephyr-7b"), machine, tmp_path / "run")[check]
    assert found.state == "error"
    assert re.search(says, found.found)
    with pytest.raises(MachineError, match=rf"zephyr-7b cannot run here as it stands: .*{says}") as caught:
        ready_machine(load("zephyr-7b"), machine, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_launcher_of_another_number_is_an_error(computer: Callable[..., None], tmp_path: Path) -> None:
    """A machine file whose launcher starts eight processes for four devices is caught, with what to write."""
    computer(eight(), 500.0)
    file = tmp_path / "mine.py"
    file.write_text(
        "from harness.machine import load\nbase = load('a100x8')\n"
        "words = tuple(word.replace('{num_devices}', '8') for word in base.launcher)\n"
        "machine = base.model_copy(update={'name': 'mine', 'num_devices': 4, 'launcher': words})\n"
    )
    found = looked_at(load("zephyr-7b"), str(file), tmp_path / "run")["launcher"]
    assert (found.state, found.found) == ("error", "starts 8 processes for 4 devices")
    assert "{num_devices}" in found.todo
    assert looked_at(load("zephyr-7b"), "a100x8-two-nodes", tmp_path / "run")["launcher"].found == "starts 16 processes for 16 devices"


def test_only_what_is_to_be_made_counts(computer: Callable[..., None], tmp_path: Path) -> None:
    """A glob of stages needs no more than they do: prompts alone need data, and neither a model nor memory for training."""
    computer(eight(16.0), 78.0)
    found = looked_at(load("zephyr-7b"), "a100x8", tmp_path / "run", only="prompts")
    assert (found["machine"].state, found["disk"].state, found["data"].state) == ("ok", "ok", "error")
    assert "model" not in found


def test_adapters_and_vllm_need_their_packages(computer: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an extra holds is looked for where the recipe or the machine needs it; a machine with a python of its own has it there."""
    computer(eight(), 500.0)
    monkeypatch.setattr(metadata, "requires", lambda _: ["no-such-vllm==9; extra == 'vllm'", "rich>=999; extra == 'lora'"])
    lora = Lora(rank=8, alpha=16, targets=("q_proj",))
    recipe = replace(load("zephyr-7b-vllm"), name="both", lora=lora, because={"lora": "one GPU"})
    found = looked_at(recipe, "a100x8", tmp_path / "run")
    assert (found["package no-such-vllm"].state, found["package rich"].state) == ("error", "warning")
    assert found["package no-such-vllm"].todo == "pip install 'no-such-vllm==9'"
    file = tmp_path / "mine.py"
    elsewhere = "load('a100x8').model_copy(update={'python': {'generate': 'vllm/bin/python'}})"
    file.write_text(f"from harness.machine import load\nmachine = {elsewhere}\n")
    assert "package no-such-vllm" not in looked_at(recipe, str(file), tmp_path / "run")


def test_tiny_is_ready_anywhere(computer: Callable[..., None], tmp_path: Path) -> None:
    """No GPU, no network, no cache: the README's first command starts."""
    computer(HERE, 1.0)
    assert ready_machine(load("tiny"), None, tmp_path / "run").num_threads == 1


def test_what_tasks_lack_is_an_error_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """IFEval without its sentence tokenizer: what is missing and the command that gets it; not where another interpreter scores."""
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    ifeval = Benchmark(name="lm_eval", protocol="p", tasks=(Task(name="ifeval"),))
    recipe = replace(load("tiny"), name="asks-ifeval", because={"benchmarks": "a test"}, benchmarks=(ifeval,))
    context = Context(recipe, tmp_path, DAY, machine=load_machine("cpu"))
    wanted = Finding("task data", "error", "ifeval scores with nltk's tokenizers/punkt_tab, which is not here", PUNKT)
    assert wanted in [*preflight.recipe_checks(context)]
    with pytest.raises(MachineError, match=PUNKT):
        preflight_of(context)
    apart = load_machine("cpu").model_copy(update={"python": {"evaluate": "elsewhere/bin/python"}})
    assert wanted not in [*preflight.recipe_checks(context._replace(machine=apart))]
    assert wanted not in [*preflight.recipe_checks(context._replace(only="sft/model"))]


PUNKT = "python -m nltk.downloader punkt_tab"
