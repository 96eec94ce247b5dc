"""Answers are one stage, verdicts another: a second judge asks nothing of the model, and stands in a column of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.run_table import collect
from harness.analysis.scores import other_rules, task_columns
from harness.artifact import RECIPE_FILE
from harness.contracts import Score
from harness.contracts.stage_specs import EvaluateSpec, VerdictsSpec
from harness.errors import InputError
from harness.files import dump, read_jsonl, read_model, write_atomic
from harness.plan import plan
from harness.recipe import Benchmark, Judge, Recipe, Task, load, replace
from harness.runs.needs.costs import estimate
from harness.stages import evaluate, verdicts
from tests.checkpoints import MACHINE, save_checkpoint
from tests.scripted_judge import Reply, serving

TINY = Task(name="tiny_mt_bench", metric="points of 10", limit=5)
RULE = Benchmark(name="mt_bench", protocol="rule", tasks=(TINY,), judge=Judge(name="rule_based", model="rule"), max_new_tokens=6)
STRICT = Judge(model="scripted-judge", repeats=2)


def again(judge: Judge = STRICT, **changes: Any) -> Benchmark:
    return Benchmark(name="mt_bench", protocol="strict", tasks=(TINY,), judge=judge, answers_from="rule").model_copy(update=changes)


def judged(benchmark: Benchmark = RULE, *others: Benchmark) -> Recipe:
    tiny = load("tiny")
    return replace(tiny, name="mine", benchmarks=(benchmark, *others), because={})


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation whose checkpoint is gone."""
    folder = tmp_path_factory.mktemp("verdicts")
    save_checkpoint(folder / "policy/checkpoint")
    spec = EvaluateSpec(benchmark=RULE, engine="hf", precision="fp32", seed=1)
    evaluate.run(spec.model_dump(mode="json"), {"policy": folder / "policy"}, folder / "answers", MACHINE)
    (folder / "policy").rename(folder / "gone")
    return folder / "answers"


def test_a_second_judge_generates_nothing(answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: 0 answers are generated, 20 verdicts are asked for 10 turns graded twice; answers and their rules are the first judge's."""
    names = ("single-v1", "single-v1-multi-turn")
    templates = {name: {"system_prompt": "Judge.", "prompt_template": f"{name} {{question}} {{answer}}"} for name in names}
    monkeypatch.setattr("harness.evaluation.mt_bench.verdicts.judge_templates", lambda: templates)
    monkeypatch.setattr("harness.components.engines.hf.open_engine", None)
    with serving(lambda prompt, times: Reply("Rating: [[7]]" if times == 1 else "Rating: [[8]]")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        spec = VerdictsSpec(benchmark=again()).model_dump(mode="json")
        verdicts.run(spec, {"answers": answered}, tmp_path, MACHINE)
        verdicts.run(spec, {"answers": answered}, tmp_path, MACHINE)
    first, second = (read_model(Score, folder / "scores/tiny_mt_bench.json") for folder in (answered, tmp_path))
    assert len(server.asked) == second.details["verdicts"]["asked"] == 20
    assert (second.value, second.n, second.n_unscored) == (7.5, 10, 0)
    samples = [[*read_jsonl(folder / "samples/tiny_mt_bench.jsonl")] for folder in (answered, tmp_path)]
    assert [line["answers"] for line in samples[0]] == [line["answers"] for line in samples[1]]
    changed = {name for name in first.protocol if first.protocol[name] != second.protocol[name]}
    kept = {"questions", "selection", "engine", "precision", "max_new_tokens", "temperatures", "chat_template"}
    assert not changed & kept
    assert changed >= {"rules", "judge", "judge_model", "judge_repeats", "judge_served"}
    assert other_rules(second, first), "two judges are never subtracted"


def test_only_a_judge_that_can_answer_is_asked(answered: Path, tmp_path: Path) -> None:
    """Without a model there are no verdicts; answers to other questions are refused."""
    with pytest.raises(InputError, match="names no model as its judge"):
        verdicts.run(VerdictsSpec(benchmark=again(Judge())).model_dump(mode="json"), {"answers": answered}, tmp_path, MACHINE)
    more = again(RULE.judge, tasks=(TINY.model_copy(update={"limit": 6}),))
    with pytest.raises(InputError, match="no answers to 1 of 6 questions"):
        verdicts.run(VerdictsSpec(benchmark=more).model_dump(mode="json"), {"answers": answered}, tmp_path, MACHINE)


def test_a_second_judge_changes_no_finished_stage() -> None:
    """Promise: every stage the recipe had has its path and fingerprint still, and each row gets one stage more, in a column of its own."""
    before, after = ({stage.path: stage for stage in plan(recipe)} for recipe in (judged(), judged(RULE, again())))
    assert {path: stage.fingerprint for path, stage in after.items() if path in before} == {
        path: stage.fingerprint for path, stage in before.items()
    }
    new = {path: stage for path, stage in after.items() if path not in before}
    assert [*new] == [path.replace("/eval/mt_bench", "/eval/judged/strict") for path in before if path.endswith("/eval/mt_bench")]
    assert new["iter0/eval/judged/strict"].inputs == {"answers": "iter0/eval/mt_bench"}
    assert [column.label for column in task_columns(judged(RULE, again()))] == ["tiny_mt_bench", "judged/strict/tiny_mt_bench"]
    assert "answers_from" not in json.dumps(before["iter0/eval/mt_bench"].spec)


def write_recipe_of(path: Path, recipe: Recipe) -> Path:
    """A run of which nothing is made yet."""
    write_atomic(path / RECIPE_FILE, dump(recipe))
    return path


def test_each_judge_says_for_itself_whether_a_claim_holds(tmp_path: Path) -> None:
    """Promise: with two judges the paper's claim about MT-Bench is asked of each, under the judge's own column; of one, without a name."""
    table = collect(write_recipe_of(tmp_path / "two", judged(RULE, again())))
    claims = [found.claim for found in table.findings if "MT-Bench" in found.claim]
    assert claims == ["SPIN raises MT-Bench by tiny_mt_bench", "SPIN raises MT-Bench by judged/strict/tiny_mt_bench"]
    alone = collect(write_recipe_of(tmp_path / "one", judged()))
    assert [found.claim for found in alone.findings if "MT-Bench" in found.claim] == ["SPIN raises MT-Bench"]


def test_a_plan_counts_the_calls() -> None:
    """Promise: verdicts cost two calls a question and repeat, and no FLOPs, memory or disk."""
    recipe = judged(RULE, again())
    stage = next(stage for stage in plan(recipe) if stage.path == "iter0/eval/judged/strict")
    cost = estimate(recipe, stage, MACHINE)
    assert (cost.judge_calls, cost.tokens, cost.flops, cost.memory_gb, cost.disk_gb) == (2 * 5 * 2, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (again(answers_from="gpt"), "judges answers of protocol 'gpt'; expected one of .'rule'."),
        (again(tasks=(Task(name="tiny_mt_bench", metric="points of 10"),)), "asks the same tasks with the same limits"),
        (again(judge=None), "expected mt_bench with a judge"),
        (again(max_new_tokens=5), "without max_new_tokens"),
    ],
)
def test_what_is_judged_again_must_have_been_answered(other: Benchmark, reason: str) -> None:
    """A recipe that judges answers nobody makes is refused."""
    with pytest.raises(Exception, match=reason):
        judged(RULE, other)
