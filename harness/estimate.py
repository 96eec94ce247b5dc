"""What a plan costs before it runs: tokens, FLOPs, hours on a named machine, disk, judge calls. Estimates, never measurements.

A forward pass is 2 FLOPs a parameter and token, a backward pass 4. Hours of training follow from the machine's `peak_tflops` and `mfu`,
hours of generation from its `generate_tokens_per_second`. Lengths are the recipe's `sizes`.
"""

from __future__ import annotations

from typing import NamedTuple

from harness import paper
from harness.artifact import Stage
from harness.machine import Machine
from harness.plan import EvaluateSpec, PromptsSpec, TrainSpec
from harness.recipe import Benchmark, Recipe

# questions in the full set, and tokens scored or generated a question at the paper's shots; counted on the real sets, rounded
TASK_SIZES = {
    "arc_challenge": (1172, 1100),
    "hellaswag": (10042, 1250),
    "truthfulqa_mc2": (817, 350),
    "mmlu": (14042, 750),
    "winogrande": (1267, 320),
    "gsm8k": (1319, 1250),
    "openbookqa": (500, 60),
    "bbh_causal_judgement": (187, 1500),
    "bbh_formal_fallacies": (250, 1700),
    "bbh_sports_understanding": (250, 700),
    "mt_bench": (80, 2000),
}
DEFAULT_TASK_SIZE = (200, 100)


class Cost(NamedTuple):
    """Of one stage. `hours` are wall-clock on the machine, `device_hours` times its devices; `paper_hours` what the paper took."""

    tokens: float
    flops: float
    hours: float
    device_hours: float
    disk_gb: float
    judge_calls: int
    paper_hours: float | None


def estimate(recipe: Recipe, stage: Stage, machine: Machine) -> Cost:
    """The cost of one stage of `recipe` on `machine`."""
    tokens, flops, hours, disk, calls = {
        "model": _model,
        "prompts": _prompts,
        "generate": _generate,
        "train": _train,
        "evaluate": _evaluate,
    }[stage.kind](recipe, stage, machine)
    return Cost(tokens, flops, hours, hours * machine.num_devices, disk, calls, _paper_hours(recipe, stage))


Parts = tuple[float, float, float, float, int]


def _model(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    return 0.0, 0.0, 0.0, _checkpoint_gb(recipe), 0


def _prompts(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    num, sizes = PromptsSpec.model_validate(stage.spec).prompts.num_prompts, recipe.sizes
    return 0.0, 0.0, 0.0, num * (sizes.prompt_tokens + sizes.real_tokens) * 5 / 1e9, 0


def _generate(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    sizes, num = recipe.sizes, recipe.prompts.num_prompts
    tokens = num * (sizes.prompt_tokens + sizes.generated_tokens)
    hours = _decode_hours(recipe, machine, num * sizes.generated_tokens)
    return tokens, 2 * sizes.num_parameters * tokens, hours, num * sizes.generated_tokens * 5 / 1e9, 0


def _train(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    """Policy forward and backward over every pair seen, and the opponent's forward once over each pair."""
    spec, sizes = TrainSpec.model_validate(stage.spec), recipe.sizes
    iterations = sum(role.startswith("responses") for role in stage.inputs)
    row = sizes.prompt_tokens + sizes.real_tokens + (sizes.generated_tokens if iterations else 0)
    pairs = _num_prompts(recipe, stage) * max(iterations, 1)
    steps = spec.num_steps or spec.stop_after_epochs * (pairs // spec.global_batch_size)
    tokens = steps * spec.global_batch_size * row
    flops = sizes.num_parameters * (6 * tokens + (2 * pairs * row if iterations else 0))
    return tokens, flops, _compute_hours(machine, flops), _checkpoint_gb(recipe), 0


def _num_prompts(recipe: Recipe, stage: Stage) -> int:
    """Of the prompts a training reads: the recipe's, or its row's own."""
    own = {"pretraining": recipe.pretraining, "sft": recipe.sft, **recipe.controls}.get(stage.path.split("/")[0])
    return (own.prompts if own and own.prompts else recipe.prompts).num_prompts


def _evaluate(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    benchmark = EvaluateSpec.model_validate(stage.spec).benchmark
    questions = {task.name: _num_questions(benchmark, task.name) for task in benchmark.tasks}
    tokens = float(sum(num * TASK_SIZES.get(name, DEFAULT_TASK_SIZE)[1] for name, num in questions.items()))
    flops = 2 * recipe.sizes.num_parameters * tokens
    judge = benchmark.judge
    calls = sum(2 * num for num in questions.values()) * judge.repeats if judge and judge.model else 0
    hours = _decode_hours(recipe, machine, tokens / 2) if benchmark.name == "mt_bench" else _compute_hours(machine, flops)
    return tokens, flops, hours, 0.0, calls


def _num_questions(benchmark: Benchmark, name: str) -> int:
    task = next(task for task in benchmark.tasks if task.name == name)
    full = TASK_SIZES.get(name, DEFAULT_TASK_SIZE)[0]
    return full if task.limit is None else min(full, task.limit * max(len(task.subtasks), 1))


def _compute_hours(machine: Machine, flops: float) -> float:
    return flops / (machine.peak_tflops * 1e12 * machine.mfu * machine.num_devices) / 3600


def _decode_hours(recipe: Recipe, machine: Machine, tokens: float) -> float:
    rate = machine.generate_tokens_per_second * machine.num_devices / (recipe.sizes.num_parameters / 1e9)
    return tokens / rate / 3600


def _checkpoint_gb(recipe: Recipe) -> float:
    return recipe.sizes.num_parameters * 4 / 1e9


def _paper_hours(recipe: Recipe, stage: Stage) -> float | None:
    """The paper's own time for a stage of the iterations, where the recipe makes the paper's model."""
    row, _, step = stage.path.partition("/")
    if recipe.claims is None or not row.startswith("iter") or step not in ("generate", "train"):
        return None
    hours = paper.TIMES["generation_hours" if step == "generate" else "training_hours"].value
    t = int(row.removeprefix("iter"))
    return float(hours[t]) if t < len(hours) else None
