"""What a plan costs before it runs: tokens, FLOPs, hours on a named machine, disk, judge calls. Estimates, never measurements.

A forward pass is 2 FLOPs a parameter and token, a backward pass 4; recomputed activations and attention's own FLOPs are left out.
Hours of training and scoring follow from the machine's `peak_tflops` and `mfu`, hours of generation from its
`generate_tokens_per_second`. Lengths are the recipe's `sizes`, without padding. Training works on all devices, generation on those
of its engines, evaluation on one.

Our training counts a pair's prompt once: for zephyr-7b's iteration 0 (50k pairs twice, 170 + 280 + 220 tokens, 8 FLOPs a parameter with the
opponent's pass) 3.9e18 FLOPs. The released code encodes the prompt with each response, 840 tokens a pair: 4.9e18, in the paper's 4.32 h on
8 A100s 39 TFLOPS a device, an mfu of 0.125 without padding. At the mfu of 0.35 assumed for `a100x8` our estimate is 0.29 of the paper's
time; neither is a measurement of ours.

Memory is what must fit on each device (harness/runs/needs/memory.py).
Disk is what stays; while training, two states of twice the checkpoint's size (with AdamW three times) come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness import paper
from harness.artifact import Stage
from harness.contracts import branches, has_opponent, load
from harness.contracts.stage_specs import EvaluateSpec, PreferencesSpec, PromptsSpec, TrainSpec, VerdictsSpec
from harness.machine import Machine
from harness.plan import steps_of
from harness.recipe import Benchmark, Recipe
from harness.rows import iteration_of
from harness.runs.needs.memory import ADAPTERS, OPTIMIZER_BYTES, needed

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


REPLICATED_BENCHMARKS = ("open_llm", "big_bench", "lm_eval")
"""Those whose requests the machine's replicas share; the others run on one device."""


def estimate(recipe: Recipe, stage: Stage, machine: Machine) -> Cost:
    """The cost of one stage of `recipe` on `machine`."""
    work = {
        "model": _model,
        "prompts": _prompts,
        "preferences": _preferences,
        "generate": _generate,
        "train": _train,
        "evaluate": _evaluate,
        "verdicts": _verdicts,
    }[stage.kind](recipe, stage, machine)
    device_hours = work.hours * devices_of(stage, machine)
    return Cost(
        **work._asdict(), device_hours=device_hours, memory_gb=needed(recipe, stage, machine).total, paper_hours=_paper_hours(recipe, stage)
    )


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


class Work(NamedTuple):
    """What a stage does and leaves, by its kind."""

    disk_gb: float
    tokens: float = 0.0
    flops: float = 0.0
    hours: float = 0.0
    judge_calls: int = 0


def _model(recipe: Recipe, stage: Stage, machine: Machine) -> Work:
    return Work(checkpoint_gb(recipe))


def _prompts(recipe: Recipe, stage: Stage, machine: Machine) -> Work:
    num, sizes = PromptsSpec.model_validate(stage.spec).prompts.num_prompts, recipe.sizes
    return Work(num * (sizes.prompt_tokens + sizes.real_tokens) * 5 / 1e9)


def _preferences(recipe: Recipe, stage: Stage, machine: Machine) -> Work:
    num, sizes = PreferencesSpec.model_validate(stage.spec).prompts.num_prompts, recipe.sizes
    return Work(num * (sizes.prompt_tokens + 2 * sizes.real_tokens) * 5 / 1e9)


def _generate(recipe: Recipe, stage: Stage, machine: Machine) -> Work:
    held_out = recipe.held_out if stage.inputs["prompts"] == "held_out/prompts" else None
    sizes, num = recipe.sizes, (held_out or recipe.prompts).num_prompts
    tokens = num * (sizes.prompt_tokens + sizes.generated_tokens)
    hours = _decode_hours(recipe, stage, machine, num * sizes.generated_tokens)
    return Work(num * sizes.generated_tokens * 5 / 1e9, tokens, 2 * sizes.num_parameters * tokens, hours)


def _train(recipe: Recipe, stage: Stage, machine: Machine) -> Work:
    """Policy forward and backward over every pair seen, and the opponent's forward, where it is read: `_opponent_pairs`."""
    spec, sizes = TrainSpec.model_validate(stage.spec), recipe.sizes
    iterations = sum(role.startswith("responses") for role in stage.inputs)
    sharing = max(iterations, 1) if spec.grouping == "groups" else 1  # pairs that share one prompt and one real response
    row = (sizes.prompt_tokens + sizes.real_tokens) / sharing + (len(branches(spec.objective)) - 1) * sizes.generated_tokens
    pairs = _num_prompts(recipe, stage) * max(iterations, 1)
    steps = spec.num_steps or spec.stop_after_epochs * (pairs // spec.global_batch_size)
    tokens = steps * spec.global_batch_size * row
    scored = _opponent_pairs(spec.precision, pairs, steps * spec.global_batch_size) if has_opponent(spec.objective) else 0
    flops = sizes.num_parameters * (6 * tokens + 2 * scored * row)
    return Work(checkpoint_gb(recipe), tokens, flops, _compute_hours(stage, machine, flops))


def _opponent_pairs(precision: str, pairs: int, seen: int) -> int:
    """Pairs of the opponent's pass: each once, or in bf16 each time that it is seen (harness/training/opponent.py)."""
    return seen if precision == "bf16" else pairs


def _num_prompts(recipe: Recipe, stage: Stage) -> int:
    """Of the prompts a training reads: the recipe's, or its row's own."""
    trainings = {"pretraining": recipe.pretraining, "sft": recipe.sft, **recipe.controls, **recipe.rivals}
    own = trainings.get(stage.path.split("/")[0])
    return (own.prompts if own and own.prompts else recipe.prompts).num_prompts


def _evaluate(recipe: Recipe, stage: Stage, machine: Machine) -> Work:
    benchmark = EvaluateSpec.model_validate(stage.spec).benchmark
    if recipe.held_out and benchmark.name == "held_out":
        tokens = _models_scored(stage) * recipe.held_out.num_prompts * _pair_tokens(recipe)
        flops = 2 * recipe.sizes.num_parameters * tokens
        return Work(0.0, tokens, flops, _compute_hours(stage, machine, flops))
    questions = {task.name: _num_questions(benchmark, task.name) for task in benchmark.tasks}
    tokens = float(sum(num * TASK_SIZES.get(name, DEFAULT_TASK_SIZE)[1] for name, num in questions.items()))
    flops = 2 * recipe.sizes.num_parameters * tokens
    calls = sum(2 * num for num in questions.values()) * _calls_a_turn(benchmark)
    is_generated = benchmark.name == "mt_bench"  # half of its tokens are answers
    hours = _decode_hours(recipe, stage, machine, tokens / 2) if is_generated else _compute_hours(stage, machine, flops)
    return Work(0.0, tokens, flops, hours, calls)


def _verdicts(recipe: Recipe, stage: Stage, machine: Machine) -> Work:
    benchmark = VerdictsSpec.model_validate(stage.spec).benchmark
    turns = sum(2 * _num_questions(benchmark, task.name) for task in benchmark.tasks)
    return Work(0.0, judge_calls=turns * _calls_a_turn(benchmark))


def _models_scored(stage: Stage) -> int:
    """Policy and opponent; one model where they are the same."""
    return len({stage.inputs["policy"], stage.inputs["opponent"]})


def _pair_tokens(recipe: Recipe) -> float:
    return recipe.sizes.prompt_tokens + recipe.sizes.real_tokens + recipe.sizes.generated_tokens


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


def checkpoint_gb(recipe: Recipe) -> float:
    """A checkpoint on the disk, in fp32."""
    return recipe.sizes.num_parameters * 4 / 1e9


def _paper_hours(recipe: Recipe, stage: Stage) -> float | None:
    """The paper's own time for a stage of the iterations, where the recipe makes the paper's model."""
    row, _, step = stage.path.partition("/")
    if recipe.claims is None or step not in ("generate", "train"):
        return None
    hours = paper.TIMES["generation_hours" if step == "generate" else "training_hours"].value
    t = iteration_of(row)
    return float(hours[t]) if t is not None and t < len(hours) else None


def steps_at_equal_flops(recipe: Recipe, global_batch_size: int) -> int:
    """Steps of further SFT that cost what all iterations cost: generation, the opponent's forward passes and training together.

    Example: 100 prompts, one iteration of 10 steps of 10 pairs, lengths 10 + 10 + 10: generation 2 * 100 * 20, opponent 2 * 100 * 30,
    training 6 * 10 * 10 * 30 make 28 000 per parameter; an SFT step of 10 rows is 6 * 10 * 20 = 1200, so 23 steps.
    """
    sizes, num = recipe.sizes, recipe.prompts.num_prompts
    row = sizes.prompt_tokens + sizes.real_tokens + sizes.generated_tokens
    spent = 0.0
    for t, iteration in enumerate(recipe.iterations):
        generation = 2 * num * (sizes.prompt_tokens + sizes.generated_tokens)
        seen = steps_of(recipe, t) * recipe.global_batch_size
        opponent = 2 * _opponent_pairs(recipe.precision, num * len(iteration.pairs_from), seen) * row
        spent += generation + opponent + 6 * seen * row
    return round(spent / (6 * global_batch_size * (sizes.prompt_tokens + sizes.real_tokens)))
