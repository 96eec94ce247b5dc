"""Recipe -> tuple of stages: the pipeline as one short text. Pure: it reads no data and runs nothing.

    sft/model ─ (pretraining/train) ─ (sft/train) ─┬─ control/train ─ control/eval/*
    prompts ───────────────────────────────────────┼─ sft/eval/*
                                                   └─ iter0/generate ─ iter0/train ─ iter0/eval/* ─ iter1/generate ─ ...
    dpo/preferences ─ dpo/train ─ dpo/eval/*          where the recipe has rivals

Each stage's spec is the part of the recipe that can change its result, and nothing else: changing iteration 1's beta
makes stale exactly iter1/train and what follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.artifact import Stage, make_stage
from harness.contracts import (
    EvaluateSpec,
    GenerateSpec,
    ModelSpec,
    PreferencesSpec,
    PromptsSpec,
    TrainSpec,
    branches,
    functions,
    parameters,
    version,
)
from harness.errors import RecipeError, suggest
from harness.files import pinned
from harness.recipe import Benchmark, Finetuning, ModelRef, PairTraining, PromptSource, Recipe, pinned_parts

PIPELINE_VERSIONS = {"train": 1, "generate": 1, "evaluate": 1, "model": 1, "prompts": 1, "preferences": 1}


class Policy(NamedTuple):
    """A row of the tables: its name and the stage whose `checkpoint/` it is."""

    row: str
    stage: Stage


def plan(recipe: Recipe) -> tuple[Stage, ...]:
    """Every stage of the reproduction, in an order in which each stage's inputs come before it.

    Of a recipe with anchors: each pinned checkpoint and its evaluations.
    """
    if recipe.anchors:
        return tuple(_anchors(recipe))
    prompts = _prompts("prompts", recipe.prompts)
    stages = [_model("sft/model", recipe.sft_model), prompts]
    sft = stages[0]
    for row, tuning in (("pretraining", recipe.pretraining), ("sft", recipe.sft)):
        if tuning:
            stages += _finetune(recipe, row, tuning, sft, prompts)
            sft = stages[-1]
    stages += _evaluate(recipe, Policy("sft", sft))
    for row, control in recipe.controls.items():
        stages += _finetune(recipe, row, control, sft, prompts)
        stages += _evaluate(recipe, Policy(row, stages[-1]))
    stages += _iterations(recipe, sft, prompts)
    return (*stages, *_rivals(recipe, {"sft": sft, "prompts": prompts, **{stage.path: stage for stage in stages}}))


def rows(recipe: Recipe) -> tuple[str, ...]:
    """The rows of the tables, in order: a rival stands before the iterations, or after them where it starts from one."""
    if recipe.anchors:
        return tuple(recipe.anchors)
    iterations = tuple(f"iter{t}" for t in range(len(recipe.iterations)))
    late = tuple(row for row in recipe.rivals if row not in baselines(recipe))
    return (*baselines(recipe), *iterations, *late)


def steps_of(recipe: Recipe, t: int) -> int:
    """Gradient steps of iteration t; the last partial batch of an epoch is dropped, as in the release's loader."""
    iteration = recipe.iterations[t]
    return iteration.stop_after_epochs * (recipe.prompts.num_prompts * len(iteration.pairs_from) // recipe.global_batch_size)


def folder_of(benchmark: Benchmark, benchmarks: Sequence[Benchmark]) -> str:
    """Where a benchmark's results lie: under its name and, where the recipe has it under several protocols, under each protocol."""
    same = [one for one in benchmarks if one.title == benchmark.title]
    return benchmark.title if len(same) == 1 else f"{benchmark.title}/{benchmark.protocol}"


def _anchors(recipe: Recipe) -> Iterator[Stage]:
    for row, anchor in recipe.anchors.items():
        if anchor.model is not None:
            model = _model(f"{row}/model", anchor.model)
            yield model
            yield from _evaluate(recipe, Policy(row, model))


def _model(path: str, ref: ModelRef) -> Stage:
    return make_stage(path, "model", ModelSpec(model=ref), _versions("model"), {})


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
        engine=pinned("engines", recipe.engine),
        sampling=recipe.sampling,
        template=recipe.generation_template,
        chat=recipe.chat,
        dtype=_dtype(recipe),
        seed=recipe.seed + t,
    )
    versions = {**_versions("generate"), "engine": version("engines", recipe.engine)}
    return make_stage(f"iter{t}/generate", "generate", spec, versions, {"policy": policy, "prompts": prompts})


def _self_play(recipe: Recipe, t: int, policy: Stage, prompts: Stage, responses: dict[int, Stage]) -> Stage:
    iteration = recipe.iterations[t]
    spec = _train_spec(
        recipe,
        objective=pinned("objectives", recipe.objective),
        parameters=_checked_parameters(recipe.objective, iteration.parameters, f"iterations.{t}"),
        beta=iteration.beta,
        learning_rate=iteration.learning_rate,
        optimizer=recipe.optimizer,
        schedule_epochs=iteration.schedule_epochs,
        stop_after_epochs=iteration.stop_after_epochs,
        num_steps=None,
        global_batch_size=recipe.global_batch_size,
        lora=recipe.lora,
    )
    inputs = {"policy": policy, "prompts": prompts, **{f"responses{i}": responses[i] for i in iteration.pairs_from}}
    if "proto" in branches(recipe.objective):
        inputs["proto"] = responses[0]
    return make_stage(f"iter{t}/train", "train", spec, _train_versions(recipe.objective), inputs)


def _rivals(recipe: Recipe, made: dict[str, Stage]) -> list[Stage]:
    """The rivals' stages, after `made` ({path: stage}, and the row `sft`); rivals with the same preference data share its stage."""
    stages: list[Stage] = []
    data: dict[PromptSource, Stage] = {}
    for row, rival in recipe.rivals.items():
        start = made.get("sft" if rival.start == "sft" else f"{rival.start}/train")
        if start is None:
            raise RecipeError(f"rivals.{row} starts from {rival.start!r}{suggest(rival.start, rows(recipe))}")
        if rival.prompts and rival.prompts not in data:
            data[rival.prompts] = _preferences(f"{row}/preferences", rival.prompts)
            stages.append(data[rival.prompts])
        pairs = {"prompts": made["prompts"], "responses0": made["iter0/generate"]}
        if rival.prompts:
            pairs = dict.fromkeys(pairs, data[rival.prompts])
        trained = _rival(recipe, row, rival, {"policy": start, **pairs})
        made[trained.path] = trained
        stages += [trained, *_evaluate(recipe, Policy(row, trained))]
    return stages


def _rival(recipe: Recipe, row: str, rival: PairTraining, inputs: dict[str, Stage]) -> Stage:
    spec = _train_spec(
        recipe,
        objective=pinned("objectives", rival.objective),
        parameters=_checked_parameters(rival.objective, rival.parameters, f"rivals.{row}"),
        beta=rival.beta,
        learning_rate=rival.learning_rate,
        optimizer=rival.optimizer,
        schedule_epochs=rival.num_epochs,
        stop_after_epochs=rival.num_epochs,
        num_steps=None,
        global_batch_size=rival.global_batch_size,
        lora=recipe.lora,
    )
    return make_stage(f"{row}/train", "train", spec, _train_versions(rival.objective), inputs)


def _preferences(path: str, source: PromptSource) -> Stage:
    if "load_preferences" not in functions("sources", source.source):
        raise RecipeError(f"source {source.source!r} holds no preferences; name one that defines `load_preferences`")
    versions = {**_versions("preferences"), "source": version("sources", source.source)}
    return make_stage(path, "preferences", PreferencesSpec(prompts=pinned_parts(source)), versions, {})


def _prompts(path: str, source: PromptSource) -> Stage:
    versions = {**_versions("prompts"), "source": version("sources", source.source)}
    return make_stage(path, "prompts", PromptsSpec(prompts=pinned_parts(source)), versions, {})


def _finetune(recipe: Recipe, row: str, sft: Finetuning, policy: Stage, prompts: Stage) -> list[Stage]:
    """The training of `row`, after a stage for its own prompts where it has some."""
    is_control = sft.num_epochs is None
    steps = sum(steps_of(recipe, t) for t in range(len(recipe.iterations))) if is_control else None
    own = [_prompts(f"{row}/prompts", sft.prompts)] if sft.prompts else []
    spec = _train_spec(
        recipe,
        objective="sft",
        parameters={},
        beta=1.0,
        learning_rate=sft.learning_rate,
        optimizer=sft.optimizer,
        schedule_epochs=sft.num_epochs or 1,
        stop_after_epochs=sft.num_epochs or 1,
        num_steps=sft.num_steps or steps,
        global_batch_size=sft.global_batch_size,
        lora=recipe.lora if is_control else None,
    )
    inputs = {"policy": policy, "prompts": own[0] if own else prompts}
    return [*own, make_stage(f"{row}/train", "train", spec, _train_versions("sft"), inputs)]


def _train_spec(recipe: Recipe, **values: object) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "template": recipe.training_template,
            "chat": recipe.chat,
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
    stages, engine = [], pinned("engines", recipe.engine)
    for benchmark in recipe.benchmarks:
        own = pinned_parts(benchmark)
        spec = EvaluateSpec(benchmark=own, chat=recipe.chat, engine=engine, precision=recipe.precision, seed=recipe.seed)
        versions = {**_versions("evaluate"), "benchmark": version("benchmarks", benchmark.name)}
        if benchmark.judge:
            versions["judge"] = version("judges", benchmark.judge.name)
        path = f"{policy.row}/eval/{folder_of(benchmark, recipe.benchmarks)}"
        stages.append(make_stage(path, "evaluate", spec, versions, {"policy": policy.stage}))
    return stages


def _checked_parameters(objective: str, stated: dict[str, float], where: str) -> dict[str, float]:
    """What the recipe states, where that is exactly what the objective takes."""
    taken = parameters(objective)
    if set(stated) != set(taken):
        raise RecipeError(
            f"{where} states the parameters {sorted(stated)}, objective {objective!r} takes {sorted(taken)}; "
            "give each of them a value in `parameters`, and no other"
        )
    return stated


def _train_versions(objective: str) -> dict[str, int]:
    return {**_versions("train"), "objective": version("objectives", objective)}


def _versions(kind: str) -> dict[str, int]:
    return {kind: PIPELINE_VERSIONS[kind]}


def _dtype(recipe: Recipe) -> str:
    return "bfloat16" if recipe.precision == "bf16" else "float32"


def baselines(recipe: Recipe) -> tuple[str, ...]:
    """The rows no iteration had a part in: what the last iteration is compared with."""
    found = ["sft", *recipe.controls]
    for row, rival in recipe.rivals.items():
        if rival.start in found:
            found.append(row)
    return tuple(found)


def contests(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """(row, against): the last iteration against every baseline, and a rival that goes on from an iteration against its start."""
    if not recipe.iterations:
        return ()
    last = f"iter{len(recipe.iterations) - 1}"
    late = [(row, rival.start) for row, rival in recipe.rivals.items() if row not in baselines(recipe)]
    return (*((last, against) for against in baselines(recipe)), *late)


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
        opponent = 2 * num * len(iteration.pairs_from) * row
        spent += generation + opponent + 6 * steps_of(recipe, t) * recipe.global_batch_size * row
    return round(spent / (6 * global_batch_size * (sizes.prompt_tokens + sizes.real_tokens)))
