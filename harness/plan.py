"""Recipe -> tuple of stages: the pipeline as one short text. Pure: it reads no data and runs nothing.

    sft/model ─ (pretraining/train) ─ (sft/train) ─┬─ control/train ─ control/eval/*
    prompts ───────────────────────────────────────┼─ sft/eval/*
                                                   └─ iter0/generate ─ iter0/train ─ iter0/eval/* ─ iter1/generate ─ ...
    dpo/preferences ─ dpo/train ─ dpo/eval/*          where the recipe has rivals
    iter0/eval/mt_bench ─ iter0/eval/judged/*         where another judge grades the same answers
    held_out/prompts ─ sft/held_out ─ iter0/eval/held_out       where the recipe has held-out prompts: the opponent answers them

Each stage's spec is the part of the recipe that can change its result, and nothing else: changing iteration 1's beta
makes stale exactly iter1/train and what follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.artifact import Stage, make_stage
from harness.contracts import DTYPES, OWN_ENGINE, branches, functions, grade, has_opponent, parameters, version
from harness.contracts.own_files import pinned, pinned_parts
from harness.contracts.stage_specs import (
    EvaluateSpec,
    GenerateSpec,
    ModelSpec,
    PairEncoding,
    PreferencesSpec,
    PromptsSpec,
    TrainSpec,
    VerdictsSpec,
)
from harness.errors import RecipeError, suggest
from harness.recipe import Benchmark, Finetuning, Lora, ModelRef, PairTraining, PromptSource, Recipe
from harness.rows import iteration_of, rows

PIPELINE_VERSIONS = {"train": 1, "generate": 1, "evaluate": 1, "verdicts": 1, "model": 1, "prompts": 1, "preferences": 1}
BF16_OPPONENT_VERSION = 3
"""3: scored in the micro-batches of every epoch, 2: of the first. Other packings move each margin by a nat or so in bf16, not in fp32."""
SCORED = ("evaluate", "verdicts")
"""Kinds of stages that leave a score of each of their benchmark's tasks."""


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
            stages += _finetune(recipe, row, tuning, {"policy": sft, "prompts": prompts}, None)
            sft = stages[-1]
    stages += _evaluate(recipe, _Policy("sft", sft, sft), prompts if recipe.sft else None)
    for row, control in recipe.controls.items():
        stages += _finetune(recipe, row, control, {"policy": sft, "prompts": prompts}, recipe.lora)
        stages += _evaluate(recipe, _Policy(row, stages[-1], sft), prompts)
    stages += _iterations(recipe, sft, prompts)
    stages += _rivals(recipe, {"sft": sft, "prompts": prompts, **{stage.path: stage for stage in stages}})
    return tuple({stage.path: stage for stage in stages}.values())  # rows with one opponent share its answers to the held-out prompts


def steps_of(recipe: Recipe, t: int) -> int:
    """Gradient steps of iteration t; the last partial batch of an epoch is dropped, as in the release's loader."""
    iteration = recipe.iterations[t]
    return iteration.stop_after_epochs * (recipe.prompts.num_prompts * len(iteration.pairs_from) // recipe.global_batch_size)


def folder_of(benchmark: Benchmark, benchmarks: Sequence[Benchmark]) -> str:
    """Where a benchmark's results lie: under its name and, where the recipe has it under several protocols, under each protocol.

    Those of another judge on the same answers lie apart, so that the answers stay where they are.
    """
    if benchmark.answers_from is not None:
        return f"judged/{benchmark.protocol}"
    same = [other for other in benchmarks if other.title == benchmark.title and other.answers_from is None]
    return benchmark.title if len(same) == 1 else f"{benchmark.title}/{benchmark.protocol}"


def _anchors(recipe: Recipe) -> Iterator[Stage]:
    for row, anchor in recipe.anchors.items():
        if anchor.model is not None:
            model = _model(f"{row}/model", anchor.model)
            yield model
            yield from _evaluate(recipe, _Policy(row, model, model), None)


def _model(path: str, ref: ModelRef) -> Stage:
    return make_stage(path, "model", ModelSpec(model=ref), _versions("model"), {})


def _iterations(recipe: Recipe, sft: Stage, prompts: Stage) -> list[Stage]:
    stages: list[Stage] = []
    policy, responses = sft, dict[int, Stage]()
    for t in range(len(recipe.iterations)):
        responses[t] = _generate(recipe, f"iter{t}/generate", recipe.seed + t, policy, prompts)
        trained = _self_play(recipe, t, policy, prompts, responses)
        stages += [responses[t], trained, *_evaluate(recipe, _Policy(f"iter{t}", trained, policy), prompts)]
        policy = trained
    return stages


def _generate(recipe: Recipe, path: str, seed: int, policy: Stage, prompts: Stage) -> Stage:
    spec = GenerateSpec(
        engine=pinned("engines", recipe.engine),
        sampling=recipe.sampling,
        template=recipe.generation_template,
        chat=recipe.chat,
        dtype=DTYPES[recipe.precision],
        seed=seed,
    )
    versions = {**_versions("generate"), "engine": version("engines", recipe.engine)}
    return make_stage(path, "generate", spec, versions, {"policy": policy, "prompts": prompts})


def _self_play(recipe: Recipe, t: int, policy: Stage, prompts: Stage, responses: dict[int, Stage]) -> Stage:
    iteration = recipe.iterations[t]
    inputs = {"policy": policy, "prompts": prompts, **{f"responses{i}": responses[i] for i in iteration.pairs_from}}
    if "proto" in branches(recipe.objective):
        inputs["proto"] = responses[0]
    training = PairTraining(
        objective=recipe.objective,
        beta=iteration.beta,
        parameters=iteration.parameters,
        learning_rate=iteration.learning_rate,
        num_epochs=iteration.schedule_epochs,
        global_batch_size=recipe.global_batch_size,
        optimizer=recipe.optimizer,
    )
    return _train(recipe, f"iter{t}", training, inputs, recipe.lora, stop_after_epochs=iteration.stop_after_epochs)


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
        if rival.prompts is None and not recipe.iterations:
            raise RecipeError(f"rivals.{row} trains on the pairs of iteration 0, and there are no iterations; give it `prompts` of its own")
        shared = data[rival.prompts] if rival.prompts else None
        pairs = {"prompts": shared or made["prompts"], "responses0": shared or made["iter0/generate"]}
        trained = _train(recipe, row, rival, {"policy": start, **pairs}, recipe.lora)
        made[trained.path] = trained
        stages += [trained, *_evaluate(recipe, _Policy(row, trained, start), made["prompts"])]
    return stages


def _preferences(path: str, source: PromptSource) -> Stage:
    if "load_preferences" not in functions("sources", source.source):
        raise RecipeError(f"source {source.source!r} holds no preferences; name one that defines `load_preferences`")
    versions = {**_versions("preferences"), "source": version("sources", source.source)}
    return make_stage(path, "preferences", PreferencesSpec(prompts=pinned_parts(source)), versions, {})


def _prompts(path: str, source: PromptSource) -> Stage:
    versions = {**_versions("prompts"), "source": version("sources", source.source)}
    return make_stage(path, "prompts", PromptsSpec(prompts=pinned_parts(source)), versions, {})


def _finetune(recipe: Recipe, row: str, tuning: Finetuning, inputs: dict[str, Stage], lora: Lora | None) -> list[Stage]:
    """The training of `row`, after a stage for its own prompts where it has some."""
    own = [_prompts(f"{row}/prompts", tuning.prompts)] if tuning.prompts else []
    num_steps = tuning.num_steps
    if num_steps is None and tuning.num_epochs is None:
        num_steps = sum(steps_of(recipe, t) for t in range(len(recipe.iterations)))
    training = PairTraining(
        objective="sft",
        beta=1.0,
        learning_rate=tuning.learning_rate,
        num_epochs=tuning.num_epochs or 1,
        global_batch_size=tuning.global_batch_size,
        optimizer=tuning.optimizer,
    )
    return [*own, _train(recipe, row, training, {**inputs, "prompts": own[0]} if own else inputs, lora, num_steps=num_steps)]


def _train(
    recipe: Recipe,
    row: str,
    training: PairTraining,
    inputs: dict[str, Stage],
    lora: Lora | None,
    *,
    stop_after_epochs: int | None = None,
    num_steps: int | None = None,
) -> Stage:
    """The training stage of any row; what `training` does not say is the recipe's. The objective `sft` reads no second response."""
    spec = TrainSpec(
        objective=pinned("objectives", training.objective),
        parameters=_checked_parameters(row, training),
        grouping=recipe.grouping,
        beta=training.beta,
        learning_rate=training.learning_rate,
        optimizer=training.optimizer,
        schedule_epochs=training.num_epochs,
        stop_after_epochs=stop_after_epochs or training.num_epochs,
        num_steps=num_steps,
        global_batch_size=training.global_batch_size,
        **dict(PairEncoding.of(recipe)),
        accepted_checks=recipe.accepted_checks,
        lora=lora,
        precision=recipe.precision,
        seed=recipe.seed,
    )
    versions = {**_versions("train"), "objective": version("objectives", training.objective)}
    for stated in (branches, has_opponent, grade):
        stated(training.objective)  # a RecipeError where it is none
    if recipe.precision == "bf16" and has_opponent(training.objective):
        versions["opponent"] = BF16_OPPONENT_VERSION
    return make_stage(f"{row}/train", "train", spec, versions, inputs)


def _checked_parameters(row: str, training: PairTraining) -> dict[str, float]:
    """What the recipe states, where that is exactly what the objective takes."""
    stated, taken = training.parameters, parameters(training.objective)
    if set(stated) != set(taken):
        t = iteration_of(row)
        raise RecipeError(
            f"{f'rivals.{row}' if t is None else f'iterations.{t}'} states the parameters {sorted(stated)}, "
            f"objective {training.objective!r} takes {sorted(taken)}; give each of them a value in `parameters`, and no other"
        )
    return stated


class _Policy(NamedTuple):
    """A row's name, the stage whose `checkpoint/` it is, and that of its opponent, which for `sft` is itself."""

    row: str
    stage: Stage
    opponent: Stage


def _evaluate(recipe: Recipe, policy: _Policy, trained: Stage | None) -> list[Stage]:
    """The evaluations of a row; before that of held-out prompts those prompts and its opponent's answers.

    `trained` makes the prompts its training here has seen, if any.
    """
    stages, engine = [], pinned("engines", recipe.engine)
    for benchmark in (one for one in recipe.benchmarks if one.answers_from is None):
        inputs, encoding = {"policy": policy.stage}, None
        if benchmark.name == "held_out" and recipe.held_out:
            prompts = _prompts("held_out/prompts", recipe.held_out)
            answers = _generate(recipe, f"{policy.opponent.path.split('/')[0]}/held_out", recipe.seed, policy.opponent, prompts)
            stages += [prompts, answers]
            inputs |= {"opponent": policy.opponent, "prompts": prompts, "generated": answers, **({"trained": trained} if trained else {})}
            encoding = PairEncoding.of(recipe)
        spec = EvaluateSpec(
            benchmark=pinned_parts(benchmark),
            chat=recipe.chat,
            engine=engine,
            precision=recipe.precision,
            seed=recipe.seed,
            encoding=encoding,
        )
        versions = {**_versions("evaluate"), "benchmark": version("benchmarks", benchmark.name, benchmark.protocol)}
        if engine != OWN_ENGINE:
            versions["engine"] = version("engines", recipe.engine)
        if benchmark.judge:
            versions["judge"] = version("judges", benchmark.judge.name)
        path = f"{policy.row}/eval/{folder_of(benchmark, recipe.benchmarks)}"
        stages.append(make_stage(path, "evaluate", spec, versions, inputs))
    return [*stages, *_verdicts(recipe, policy.row, {stage.path: stage for stage in stages})]


def _verdicts(recipe: Recipe, row: str, made: dict[str, Stage]) -> Iterator[Stage]:
    """Other judges' verdicts on the answers of the evaluations `made` ({path: stage})."""
    answered = {one.protocol: folder_of(one, recipe.benchmarks) for one in recipe.benchmarks if one.name == "mt_bench"}
    for benchmark in recipe.benchmarks:
        if benchmark.answers_from is not None and benchmark.judge is not None:
            versions = {"benchmark": version("benchmarks", benchmark.name), "judge": version("judges", benchmark.judge.name)}
            spec = VerdictsSpec(benchmark=pinned_parts(benchmark))
            path = f"{row}/eval/{folder_of(benchmark, recipe.benchmarks)}"
            inputs = {"answers": made[f"{row}/eval/{answered[benchmark.answers_from]}"]}
            yield make_stage(path, "verdicts", spec, {**_versions("verdicts"), **versions}, inputs)


def _versions(kind: str) -> dict[str, int]:
    return {kind: PIPELINE_VERSIONS[kind]}
