"""What a plan costs before it runs: tokens, FLOPs, hours on a named machine, disk, judge calls. Estimates, never measurements.

A forward pass is 2 FLOPs a parameter and token, a backward pass 4; recomputed activations and attention's own FLOPs are left out.
Hours of training and scoring follow from the machine's `peak_tflops` and `mfu`, hours of generation from its
`generate_tokens_per_second`. Lengths are the recipe's `sizes`, without padding. Training works on all devices, generation on those
of its engines, evaluation on one.

Our training counts a pair's prompt once, and the opponent once an iteration: for zephyr-7b's iteration 0 (50k pairs twice,
170 + 280 + 220 tokens) 3.4e18 FLOPs. The released code encodes the prompt with each response and asks the opponent in every step:
8 FLOPs a parameter for 840 tokens a pair, 4.9e18, in the paper's 4.32 h on 8 A100s 39 TFLOPS a device, an mfu of 0.125 without
padding. At the mfu of 0.35 assumed for `a100x8` our estimate is a quarter of the paper's time; neither is a measurement of ours.

Memory is what must fit on each device (harness/runs/memory.py).
Disk is what stays; while training, two states of twice the checkpoint's size (with AdamW three times) come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness import paper
from harness.artifact import Stage
from harness.contracts import EvaluateSpec, PreferencesSpec, PromptsSpec, TrainSpec, branches, has_opponent, load
from harness.machine import Machine
from harness.recipe import Benchmark, Recipe
from harness.runs.memory import ADAPTERS, OPTIMIZER_BYTES, needed

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
    """Of one stage. `hours` are wall-clock on the machine, `device_hours` times the devices at work; `paper_hours` what the paper took.

    `memory_gb` is the least that each of them needs.
    """

    tokens: float
    flops: float
    hours: float
    device_hours: float
    memory_gb: float
    disk_gb: float
    judge_calls: int
    paper_hours: float | None


REPLICATED_BENCHMARKS = ("open_llm", "big_bench")
"""Those whose requests the machine's replicas share; the others run on one device."""


def estimate(recipe: Recipe, stage: Stage, machine: Machine) -> Cost:
    """The cost of one stage of `recipe` on `machine`."""
    tokens, flops, hours, disk, calls = {
        "model": _model,
        "prompts": _prompts,
        "preferences": _preferences,
        "generate": _generate,
        "train": _train,
        "evaluate": _evaluate,
    }[stage.kind](recipe, stage, machine)
    device_hours = hours * devices_of(stage, machine)
    return Cost(tokens, flops, hours, device_hours, needed(recipe, stage, machine).total, disk, calls, _paper_hours(recipe, stage))


def peak_disk_gb(recipe: Recipe, stages: Sequence[Stage], machine: Machine) -> float:
    """The most that making `stages` in their order holds at a time: what they leave, and beside it a training's two states.

    Example: zephyr-7b has four checkpoints of 29 GB behind it when its last iteration saves states of 58 GB: 232 GB and some text.
    """
    left, peak = 0.0, 0.0
    for stage in stages:
        kept = estimate(recipe, stage, machine).disk_gb
        peak = max(peak, left + max(kept, _states_gb(recipe, stage)))
        left += kept
    return peak


def _states_gb(recipe: Recipe, stage: Stage) -> float:
    """Two states of a training, of which one is being written; nothing for another stage."""
    if stage.kind != "train":
        return 0.0
    spec = TrainSpec.model_validate(stage.spec)
    optimizer = OPTIMIZER_BYTES[spec.optimizer.name] * (ADAPTERS if spec.lora else 1.0)
    return 2 * (4 + optimizer) * recipe.sizes.num_parameters / 1e9


def devices_of(stage: Stage, machine: Machine) -> int:
    """How many of the machine's devices work on a stage."""
    if stage.kind == "evaluate" and EvaluateSpec.model_validate(stage.spec).benchmark.name in REPLICATED_BENCHMARKS:
        return machine.num_replicas
    return {"train": machine.num_devices, "generate": machine.num_replicas * machine.tensor_parallel}.get(stage.kind, 1)


Parts = tuple[float, float, float, float, int]


def _model(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    return 0.0, 0.0, 0.0, _checkpoint_gb(recipe), 0


def _prompts(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    num, sizes = PromptsSpec.model_validate(stage.spec).prompts.num_prompts, recipe.sizes
    return 0.0, 0.0, 0.0, num * (sizes.prompt_tokens + sizes.real_tokens) * 5 / 1e9, 0


def _preferences(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    num, sizes = PreferencesSpec.model_validate(stage.spec).prompts.num_prompts, recipe.sizes
    return 0.0, 0.0, 0.0, num * (sizes.prompt_tokens + 2 * sizes.real_tokens) * 5 / 1e9, 0


def _generate(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    sizes, num = recipe.sizes, recipe.prompts.num_prompts
    tokens = num * (sizes.prompt_tokens + sizes.generated_tokens)
    hours = _decode_hours(recipe, stage, machine, num * sizes.generated_tokens)
    return tokens, 2 * sizes.num_parameters * tokens, hours, num * sizes.generated_tokens * 5 / 1e9, 0


def _train(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    """Policy forward and backward over every pair seen, and the opponent's forward, where it is read, once over each pair."""
    spec, sizes = TrainSpec.model_validate(stage.spec), recipe.sizes
    iterations = sum(role.startswith("responses") for role in stage.inputs)
    sharing = max(iterations, 1) if spec.grouping == "groups" else 1  # pairs that share one prompt and one real response
    row = (sizes.prompt_tokens + sizes.real_tokens) / sharing + (len(branches(spec.objective)) - 1) * sizes.generated_tokens
    pairs = _num_prompts(recipe, stage) * max(iterations, 1)
    steps = spec.num_steps or spec.stop_after_epochs * (pairs // spec.global_batch_size)
    tokens = steps * spec.global_batch_size * row
    flops = sizes.num_parameters * (6 * tokens + (2 * pairs * row if has_opponent(spec.objective) else 0))
    return tokens, flops, _compute_hours(stage, machine, flops), _checkpoint_gb(recipe), 0


def _num_prompts(recipe: Recipe, stage: Stage) -> int:
    """Of the prompts a training reads: the recipe's, or its row's own."""
    trainings = {"pretraining": recipe.pretraining, "sft": recipe.sft, **recipe.controls, **recipe.rivals}
    own = trainings.get(stage.path.split("/")[0])
    return (own.prompts if own and own.prompts else recipe.prompts).num_prompts


def _evaluate(recipe: Recipe, stage: Stage, machine: Machine) -> Parts:
    benchmark = EvaluateSpec.model_validate(stage.spec).benchmark
    questions = {task.name: _num_questions(benchmark, task.name) for task in benchmark.tasks}
    tokens = float(sum(num * TASK_SIZES.get(name, DEFAULT_TASK_SIZE)[1] for name, num in questions.items()))
    flops = 2 * recipe.sizes.num_parameters * tokens
    calls = sum(2 * num for num in questions.values()) * _calls_a_turn(benchmark)
    if benchmark.name == "mt_bench":  # half of the tokens are answers
        return tokens, flops, _decode_hours(recipe, stage, machine, tokens / 2), 0.0, calls
    hours = _compute_hours(stage, machine, flops)
    return tokens, flops, hours, 0.0, calls


def _calls_a_turn(benchmark: Benchmark) -> int:
    """How often an endpoint is asked about one turn: never where there is no judge or it is a rule."""
    judge = benchmark.judge
    return judge.repeats if judge and judge.model and load("judges", judge.name).NEEDS_MODEL else 0


def _num_questions(benchmark: Benchmark, name: str) -> int:
    task = next(task for task in benchmark.tasks if task.name == name)
    full = TASK_SIZES.get(name, DEFAULT_TASK_SIZE)[0]
    return full if task.limit is None else min(full, task.limit * max(len(task.subtasks), 1))


def _compute_hours(stage: Stage, machine: Machine, flops: float) -> float:
    return flops / (machine.peak_tflops * 1e12 * machine.mfu * devices_of(stage, machine)) / 3600


def _decode_hours(recipe: Recipe, stage: Stage, machine: Machine, tokens: float) -> float:
    rate = machine.generate_tokens_per_second * devices_of(stage, machine) / (recipe.sizes.num_parameters / 1e9)
    return tokens / rate / 3600


def _checkpoint_gb(recipe: Recipe) -> float:
    return recipe.sizes.num_parameters * 4 / 1e9


def _paper_hours(recipe: Recipe, stage: Stage) -> float | None:
    """The paper's own time for a stage of the iterations, where the recipe makes the paper's model."""
    row, _, step = stage.path.partition("/")
    if recipe.claims is None or step not in ("generate", "train"):
        return None
    hours = paper.TIMES["generation_hours" if step == "generate" else "training_hours"].value
    return {f"iter{t}": float(value) for t, value in enumerate(hours)}.get(row)
