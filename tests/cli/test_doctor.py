"""The doctor says what is there and what to do, and never shows a secret."""

from __future__ import annotations

from datetime import date
from importlib import metadata
from pathlib import Path

import pytest

from harness.artifact import RunDir
from harness.cli.doctor import Context, Finding, examine
from harness.cli.listings import plan_list
from harness.evaluation.judge_shutdowns import RECOMMENDED, SHUTDOWN, warning
from harness.machine import load as load_machine
from harness.recipe import Judge, Recipe, load, replace
from harness.recipe_parts import REVISION_PATTERN

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
