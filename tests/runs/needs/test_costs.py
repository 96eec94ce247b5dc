"""Estimates follow from arithmetic that can be done by hand, and stand in the right order beside the paper's own times."""

from __future__ import annotations

import pytest

from harness import machine, paper
from harness.artifact import Stage
from harness.plan import plan, steps_of
from harness.recipe import Recipe, load, replace
from harness.runs.needs.costs import Cost, estimate

ZEPHYR = load("zephyr-7b")
A100X8 = machine.load("a100x8")
PARAMETERS = 7.24e9


def stages_of(recipe: Recipe) -> dict[str, Stage]:
    return {stage.path: stage for stage in plan(recipe)}


def cost(path: str, recipe: Recipe = ZEPHYR, place: machine.Machine = A100X8) -> Cost:
    return estimate(recipe, stages_of(recipe)[path], place)


def test_generation_by_hand() -> None:
    """50k prompts of 170 tokens and 220 tokens each: 19.5 M tokens, 2 FLOPs a parameter and token; 11 M tokens drawn."""
    found = cost("iter0/generate")
    assert found.tokens == 50_000 * (170 + 220) == 19_500_000
    assert found.flops == pytest.approx(2 * PARAMETERS * 19.5e6)
    assert found.device_hours == pytest.approx(11e6 / (2200 / 7.24) / 3600)
    assert found.hours == pytest.approx(found.device_hours / 8)


def test_training_by_hand() -> None:
    """1562 steps of 64 pairs of 670 tokens, forward and backward, and the opponent's forward: in bf16 over each pair a step sees, in fp32
    once over all 50k."""
    found = cost("iter0/train")
    assert found.tokens == 1562 * 64 * 670
    assert found.flops == pytest.approx(PARAMETERS * 8 * 1562 * 64 * 670)
    exact = cost("iter0/train", replace(ZEPHYR, name="exact", precision="fp32"))
    assert exact.flops == pytest.approx(PARAMETERS * (6 * 1562 * 64 * 670 + 2 * 50_000 * 670))
    assert found.hours == pytest.approx(found.flops / (8 * 312e12 * A100X8.mfu) / 3600)
    assert found.device_hours == pytest.approx(8 * found.hours)
    assert cost("iter1/train").flops == pytest.approx(2 * found.flops, rel=1e-3)


def test_replicas_share_the_tasks_of_lm_eval_alone() -> None:
    """Eight replicas take an eighth of the time for open_llm, at the same device hours; MT-Bench has one device either way."""
    one = A100X8.model_copy(update={"num_replicas": 1})
    assert cost("sft/eval/open_llm").hours == pytest.approx(cost("sft/eval/open_llm", place=one).hours / 8)
    assert cost("sft/eval/open_llm").device_hours == pytest.approx(cost("sft/eval/open_llm", place=one).device_hours)
    assert cost("sft/eval/mt_bench") == cost("sft/eval/mt_bench", place=one)


def test_groups_score_a_shared_prompt_once() -> None:
    """Two pairs of 170 + 280 + 220 tokens, as one group: 170 + 280 + 2 x 220 = 890 tokens in place of 1340, in the same steps."""
    grouped = cost("iter1/train", replace(ZEPHYR, name="grouped", grouping="groups"))
    assert grouped.tokens == pytest.approx(cost("iter1/train").tokens * 890 / 1340)


def test_control_takes_the_steps_of_all_iterations() -> None:
    """A control's estimate is for as many steps, on prompt and real response, without an opponent."""
    tiny = load("tiny")
    (row, control), *_ = tiny.controls.items()
    found = cost(f"{row}/train", tiny, machine.load("cpu"))
    steps = sum(steps_of(tiny, t) for t in range(len(tiny.iterations)))
    assert found.tokens == steps * control.global_batch_size * (tiny.sizes.prompt_tokens + tiny.sizes.real_tokens)
    assert found.flops == pytest.approx(6 * tiny.sizes.num_parameters * found.tokens)


def test_estimates_are_of_the_order_of_the_papers_times() -> None:
    """Generation within a factor of 2 of the paper's hours; training a quarter of its hours, for the reasons the module states."""
    for t in range(4):
        generated, trained = cost(f"iter{t}/generate"), cost(f"iter{t}/train")
        assert (generated.paper_hours, trained.paper_hours) == (
            paper.TIMES["generation_hours"].value[t],
            paper.TIMES["training_hours"].value[t],
        )
        assert 0.5 < generated.hours / paper.TIMES["generation_hours"].value[t] < 2
        assert 0.2 < trained.hours / paper.TIMES["training_hours"].value[t] < 0.4


def test_papers_own_rate_is_what_the_module_says() -> None:
    """The released code's work for iteration 0 (8 FLOPs, prompt twice) in 4.32 h on 8 devices is 39 TFLOPS each, an mfu of 0.125."""
    flops = 8 * PARAMETERS * (2 * 170 + 280 + 220) * 100_000
    rate = flops / (4.32 * 3600 * 8)
    assert rate / 1e12 == pytest.approx(39, abs=0.5)
    assert rate / 312e12 == pytest.approx(0.125, abs=0.002)


def test_memory_a_device() -> None:
    """More than fp32 weights, gradients and RMSProp state over 8 devices for training; bf16 weights on one device for the rest."""
    assert 12 * 7.24 / 8 < cost("iter0/train").memory_gb < 12 * 7.24 / 8 + 20
    assert cost("iter0/generate").memory_gb == pytest.approx(2 * 7.24)
    assert cost("sft/eval/open_llm").memory_gb == pytest.approx(2 * 7.24)
    assert cost("iter0/train", place=machine.load("h100x1")).memory_gb > (12 + 2) * 7.24
    assert cost("prompts").memory_gb == 0


def test_papers_times_stand_only_beside_the_papers_model() -> None:
    """A recipe that claims nothing of the paper gets no paper hours, nor does an evaluation."""
    assert cost("iter0/train", load("tiny"), machine.load("cpu")).paper_hours is None
    assert cost("sft/eval/open_llm").paper_hours is None


def test_judge_calls_count_turns_of_asked_endpoints() -> None:
    """Two turns a question and repeat where a model judges; none where no judge was chosen or the judge is a rule."""
    assert cost("sft/eval/mt_bench").judge_calls == 0
    benchmarks = [b for b in ZEPHYR.benchmarks if b.name != "mt_bench"]
    (bench,) = (b for b in ZEPHYR.benchmarks if b.name == "mt_bench")
    assert bench.judge is not None
    asked = bench.model_copy(update={"judge": bench.judge.model_copy(update={"model": "gpt-4", "repeats": 3})})
    judged = replace(ZEPHYR, name="judged", benchmarks=(*benchmarks, asked))
    assert cost("sft/eval/mt_bench", judged).judge_calls == 80 * 2 * 3
    assert cost("sft/eval/mt_bench", load("tiny"), machine.load("cpu")).judge_calls == 0


def test_limits_and_subtasks_scale_an_evaluation() -> None:
    """`limit` questions of each named subtask are counted, never more than the set holds."""
    smollm = load("smollm2-135m")
    found = cost("sft/eval/big_bench", smollm, machine.load("cpu"))
    limits = {task.name: task.limit for task in next(b for b in smollm.benchmarks if b.name == "big_bench").tasks}
    assert all(limits.values())
    assert 0 < found.tokens < cost("sft/eval/big_bench").tokens
