"""Recipe -> tuple of stages: the pipeline as one short text. Pure: it reads no data and runs nothing.

    sft/model ─ (pretraining/train) ─ (sft/train) ─┬─ control/train ─ control/eval/*
    prompts ───────────────────────────────────────┼─ sft/eval/*
                                                   └─ iter0/generate ─ iter0/train ─ iter0/eval/* ─ iter1/generate ─ ...

Each stage's spec is the part of the recipe that can change its result, and nothing else: changing iteration 1's beta
makes stale exactly iter1/train and what follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.artifact import Stage, make_stage
from harness.components import version
from harness.recipe import Benchmark, Finetuning, ModelRef, Optimizer, PromptSource, Recipe, Sampling
from harness.strict import Strict

PIPELINE_VERSIONS = {"train": 1, "generate": 1, "evaluate": 1, "model": 1, "prompts": 1}


class ModelSpec(Strict):
    """Stage `model`: weights and tokenizer as an ordinary safetensors checkpoint in `checkpoint/`."""

    model: ModelRef


class PromptsSpec(Strict):
    """Stage `prompts`: `prompts.jsonl`, one `Row` a line, in training order."""

    prompts: PromptSource


class GenerateSpec(Strict):
    """Stage `generate`: `responses/*.jsonl`, one response a prompt. Inputs: policy, prompts."""

    engine: str
    sampling: Sampling
    template: str
    dtype: str
    seed: int


class TrainSpec(Strict):
    """Stage `train`: `checkpoint/` and `log.jsonl`. Inputs: policy, prompts, and responsesI for each iteration I of the pairs.

    Training ends after `num_steps` steps where given, else after `stop_after_epochs` of the `schedule_epochs` scheduled.
    """

    objective: str
    grouping: str
    beta: float
    learning_rate: float
    optimizer: Optimizer
    schedule_epochs: int
    stop_after_epochs: int
    num_steps: int | None
    global_batch_size: int
    template: str
    tokenization: str
    max_length: int
    max_prompt_length: int
    accepted_checks: tuple[str, ...]
    precision: str
    seed: int


class EvaluateSpec(Strict):
    """Stage `evaluate`: `scores/TASK.json` and `samples/TASK.jsonl`. Input: policy."""

    benchmark: Benchmark
    engine: str
    precision: str
    seed: int


class Policy(NamedTuple):
    """A row of the tables: its name and the stage whose `checkpoint/` it is."""

    row: str
    stage: Stage


def plan(recipe: Recipe) -> tuple[Stage, ...]:
    """Every stage of the reproduction, in an order in which each stage's inputs come before it."""
    prompts = _prompts("prompts", recipe.prompts)
    stages = [make_stage("sft/model", "model", ModelSpec(model=recipe.sft_model), _versions("model"), {}), prompts]
    sft = stages[0]
    for row, tuning in (("pretraining", recipe.pretraining), ("sft", recipe.sft)):
        if tuning:
            stages += _finetune(recipe, row, tuning, sft, prompts)
            sft = stages[-1]
    stages += _evaluate(recipe, Policy("sft", sft))
    for row, control in recipe.controls.items():
        stages += _finetune(recipe, row, control, sft, prompts)
        stages += _evaluate(recipe, Policy(row, stages[-1]))
    return (*stages, *_iterations(recipe, sft, prompts))


def rows(recipe: Recipe) -> tuple[str, ...]:
    """The rows of the tables, in order."""
    return ("sft", *recipe.controls, *(f"iter{t}" for t in range(len(recipe.iterations))))


def steps_of(recipe: Recipe, t: int) -> int:
    """Gradient steps of iteration t; the last partial batch of an epoch is dropped, as in the release's loader."""
    iteration = recipe.iterations[t]
    return iteration.stop_after_epochs * (recipe.prompts.num_prompts * len(iteration.pairs_from) // recipe.global_batch_size)


def folder_of(benchmark: Benchmark, benchmarks: Sequence[Benchmark]) -> str:
    """Where a benchmark's results lie: under its name and, where the recipe has it under several protocols, under each protocol."""
    same = [one for one in benchmarks if one.name == benchmark.name]
    return benchmark.name if len(same) == 1 else f"{benchmark.name}/{benchmark.protocol}"


def _iterations(recipe: Recipe, sft: Stage, prompts: Stage) -> list[Stage]:
    stages: list[Stage] = []
    policy, responses = sft, dict[int, Stage]()
    for t in range(len(recipe.iterations)):
        responses[t] = _generate(recipe, t, policy, prompts)
        trained = _self_play(recipe, t, policy, prompts, responses)
        stages += [responses[t], trained, *_evaluate(recipe, Policy(f"iter{t}", trained))]
        policy = trained
    return stages


def _generate(recipe: Recipe, t: int, policy: Stage, prompts: Stage) -> Stage:
    spec = GenerateSpec(
        engine=recipe.engine,
        sampling=recipe.sampling,
        template=recipe.generation_template,
        dtype=_dtype(recipe),
        seed=recipe.seed + t,
    )
    versions = {**_versions("generate"), "engine": version("engines", recipe.engine)}
    return make_stage(f"iter{t}/generate", "generate", spec, versions, {"policy": policy, "prompts": prompts})


def _self_play(recipe: Recipe, t: int, policy: Stage, prompts: Stage, responses: dict[int, Stage]) -> Stage:
    iteration = recipe.iterations[t]
    spec = _train_spec(
        recipe,
        objective=recipe.objective,
        beta=iteration.beta,
        learning_rate=iteration.learning_rate,
        optimizer=recipe.optimizer,
        schedule_epochs=iteration.schedule_epochs,
        stop_after_epochs=iteration.stop_after_epochs,
        num_steps=None,
        global_batch_size=recipe.global_batch_size,
    )
    inputs = {"policy": policy, "prompts": prompts, **{f"responses{i}": responses[i] for i in iteration.pairs_from}}
    return make_stage(f"iter{t}/train", "train", spec, _train_versions(recipe.objective), inputs)


def _prompts(path: str, source: PromptSource) -> Stage:
    versions = {**_versions("prompts"), "source": version("sources", source.source)}
    return make_stage(path, "prompts", PromptsSpec(prompts=source), versions, {})


def _finetune(recipe: Recipe, row: str, sft: Finetuning, policy: Stage, prompts: Stage) -> list[Stage]:
    """The training of `row`, after a stage for its own prompts where it has some."""
    is_control = sft.num_epochs is None
    own = [_prompts(f"{row}/prompts", sft.prompts)] if sft.prompts else []
    spec = _train_spec(
        recipe,
        objective="sft",
        beta=1.0,
        learning_rate=sft.learning_rate,
        optimizer=sft.optimizer,
        schedule_epochs=sft.num_epochs or 1,
        stop_after_epochs=sft.num_epochs or 1,
        num_steps=sum(steps_of(recipe, t) for t in range(len(recipe.iterations))) if is_control else None,
        global_batch_size=sft.global_batch_size,
    )
    inputs = {"policy": policy, "prompts": own[0] if own else prompts}
    return [*own, make_stage(f"{row}/train", "train", spec, _train_versions("sft"), inputs)]


def _train_spec(recipe: Recipe, **values: object) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "template": recipe.training_template,
            "tokenization": recipe.tokenization,
            "max_length": recipe.max_length,
            "max_prompt_length": recipe.max_prompt_length,
            "grouping": recipe.grouping,
            "accepted_checks": recipe.accepted_checks,
            "precision": recipe.precision,
            "seed": recipe.seed,
            **values,
        }
    )


def _evaluate(recipe: Recipe, policy: Policy) -> list[Stage]:
    stages = []
    for benchmark in recipe.benchmarks:
        spec = EvaluateSpec(benchmark=benchmark, engine=recipe.engine, precision=recipe.precision, seed=recipe.seed)
        versions = {**_versions("evaluate"), "benchmark": version("benchmarks", benchmark.name)}
        if benchmark.judge:
            versions["judge"] = version("judges", benchmark.judge.name)
        path = f"{policy.row}/eval/{folder_of(benchmark, recipe.benchmarks)}"
        stages.append(make_stage(path, "evaluate", spec, versions, {"policy": policy.stage}))
    return stages


def _train_versions(objective: str) -> dict[str, int]:
    return {**_versions("train"), "objective": version("objectives", objective)}


def _versions(kind: str) -> dict[str, int]:
    return {kind: PIPELINE_VERSIONS[kind]}


def _dtype(recipe: Recipe) -> str:
    return "bfloat16" if recipe.precision == "bf16" else "float32"
