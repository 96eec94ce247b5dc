"""What a reproduction is: every value that can change a number, as frozen data.

A recipe is a Python file with a module-level `recipe = Recipe(...)`, or `recipe = replace(base, name=..., ..., because={...})`.
Where it runs is a `Machine` (harness/machine.py) and never part of a recipe.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.config import Strict, build
from harness.errors import RecipeError
from harness.python_file import find, load_attribute, shipped
from harness.recipe_parts import ModelRef as ModelRef
from harness.recipe_parts import PromptSource as PromptSource

RECIPES_DIR = shipped("recipes")
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*")
ROW_PATTERN = re.compile(r"[a-z0-9][a-z0-9._+-]*")


class Sampling(Strict):
    """How responses are drawn. `temperature` 0 is greedy; seeds are derived per prompt, so batches do not matter."""

    temperature: float = Field(ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(gt=0)
    add_bos: bool = False


class Optimizer(Strict):
    """torch's optimizer of that name, its schedule and clipping. `warmup_ratio` is a share of the scheduled steps."""

    name: Literal["rmsprop", "adamw"] = "rmsprop"
    weight_decay: float = 0.0
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    max_grad_norm: float | None = 1.0


class Lora(Strict):
    """Low-rank adapters (peft) on the linear layers named `targets`: the base weights stay, and are what the opponent is.

    The product is the base with the adapters added in, an ordinary checkpoint. There is no dropout: training is deterministic.
    """

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...]


class Iteration(Strict):
    """One round of self-play. 2 epochs scheduled and 2 of 6 scheduled are different runs: the learning rate differs at every step.

    `beta` is the coefficient of the log-ratio, the paper's lambda. `pairs_from` lists the iterations whose responses are trained on.
    `parameters` holds what the objective takes beside beta, by the names of its `loss` ({"mu": 1.0} for `space`).
    """

    beta: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    schedule_epochs: int = Field(default=2, gt=0)
    stop_after_epochs: int = Field(default=2, gt=0)
    pairs_from: tuple[int, ...]
    parameters: dict[str, float] = {}


class Finetuning(Strict):
    """Supervised training on real responses: of a base model as pretraining, then as `sft`, or of `sft` as a control.

    `prompts` None: the recipe's own. A control may state `num_epochs` or `num_steps`; with neither it takes as many gradient steps as all
    iterations together.
    """

    learning_rate: float = Field(gt=0)
    num_epochs: int | None = Field(default=None, gt=0)
    num_steps: int | None = Field(default=None, gt=0)
    global_batch_size: int = Field(gt=0)
    optimizer: Optimizer
    prompts: PromptSource | None = None


class PairTraining(Strict):
    """A row trained on two responses a prompt outside of self-play, from the row `start`, which is also its opponent.

    `prompts` names preference data: chosen is real, rejected is generated. None: the prompts and responses of iteration 0.
    """

    objective: str = "dpo"
    start: str = "sft"
    prompts: PromptSource | None = None
    beta: float = Field(gt=0)
    parameters: dict[str, float] = {}
    learning_rate: float = Field(gt=0)
    num_epochs: int = Field(gt=0)
    global_batch_size: int = Field(gt=0)
    optimizer: Optimizer


class Task(Strict):
    """A task of a benchmark. `limit` questions are asked (of each subtask, where `subtasks` are named); None asks all."""

    name: str
    shots: int | None = None
    metric: str
    limit: int | None = Field(default=None, gt=0)
    subtasks: tuple[str, ...] = ()


class Judge(Strict):
    """Who grades MT-Bench answers. `name` is a component of harness/judges; `model` None means no judge was chosen: answers only.

    `model` is the name the endpoint serves, `revision` the 40-hex commit of the weights behind it where they are open. A turn is graded
    `repeats` times and its score is the mean of the readable ratings. The endpoint is OPENAI_BASE_URL and its key OPENAI_API_KEY, both
    from the environment. A rule-based judge needs neither.
    """

    name: str = "mt_bench_single"
    model: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    temperature: float = 0.0
    max_tokens: int = 2048
    repeats: int = Field(default=1, gt=0)


class Benchmark(Strict):
    """A component of harness/benchmarks with its tasks. `protocol` names the rules the scores were made under."""

    name: str
    protocol: str
    tasks: tuple[Task, ...]
    judge: Judge | None = None
    max_new_tokens: int | None = None


class Figure(Strict):
    """A number somebody published for a checkpoint, under rules called `protocol`, read at `where`. `n` questions where that is known."""

    task: str
    value: float
    protocol: str
    where: str
    metric: str | None = None
    shots: int | None = None
    n: int | None = None


class Anchor(Strict):
    """A checkpoint somebody else published, to be evaluated here, and figures for it besides those of harness/analysis/published.py.

    `model` None: the weights cannot be pinned yet, and `note` says what is known and what must be found.
    """

    model: ModelRef | None = None
    note: str | None = None
    figures: tuple[Figure, ...] = ()

    @model_validator(mode="after")
    def _is_pinned_or_explained(self) -> Self:
        if self.model is None and not self.note:
            raise ValueError("an anchor needs a model, or a note that says why its weights cannot be pinned")
        return self


class Sizes(Strict):
    """What cost estimates assume; never part of an identity. Lengths are mean tokens."""

    num_parameters: float
    prompt_tokens: float
    real_tokens: float
    generated_tokens: float


class Recipe(Strict):
    """A reproduction. Iteration t is `iterations[t]`; its opponent is the product of t-1, or `sft` at 0.

    `controls` (more SFT) and `rivals` (training on pairs, such as DPO) are rows of the tables beside the iterations.
    `sft` is `sft_model`, after `pretraining` and a fine-tuning where the recipe has them. `grouping` says how carried-over pairs are
    trained on: 'pairs' shuffles every pair on its own (the paper), 'groups' keeps all pairs of a prompt in one batch. `accepted_checks`
    names checks of the tokenization audit that may fail. With `lora`, iterations and controls train adapters only (sft trains in full).
    A recipe with `anchors` trains nothing: its rows are these checkpoints.
    """

    name: str
    summary: str
    sft_model: ModelRef
    pretraining: Finetuning | None = None
    sft: Finetuning | None = None
    controls: dict[str, Finetuning] = {}
    rivals: dict[str, PairTraining] = {}
    anchors: dict[str, Anchor] = {}
    prompts: PromptSource
    engine: str
    sampling: Sampling
    generation_template: Literal["alpaca", "chat"]
    training_template: Literal["alpaca", "chat", "zephyr"]
    tokenization: Literal["release", "modern"]
    objective: str = "spin"
    grouping: Literal["pairs", "groups"] = "pairs"
    accepted_checks: tuple[str, ...] = ()
    lora: Lora | None = None
    optimizer: Optimizer
    precision: Literal["fp32", "bf16"]
    global_batch_size: int = Field(gt=0)
    max_length: int = Field(gt=0)
    max_prompt_length: int = Field(gt=0)
    iterations: tuple[Iteration, ...]
    benchmarks: tuple[Benchmark, ...]
    seed: int
    claims: str | None = None
    sizes: Sizes
    because: dict[str, str] = {}

    @field_validator("name")
    @classmethod
    def _name_is_a_directory(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(f"{name!r} is not a usable directory name; use lower-case letters, digits, '.', '_' and '-'")
        return name

    @model_validator(mode="after")
    def _rows_are_directories(self) -> Self:
        taken = {"sft", "pretraining", "prompts", "tables", *(f"iter{t}" for t in range(len(self.iterations)))}
        for row in (*self.controls, *self.rivals):
            if row in taken or not ROW_PATTERN.fullmatch(row):
                raise ValueError(f"a control or rival is called {row!r}; use lower-case letters, digits and '._+-', each name once")
            taken.add(row)
        return self

    @model_validator(mode="after")
    def _anchors_stand_alone(self) -> Self:
        if self.anchors and (self.iterations or self.pretraining or self.sft or self.controls or self.rivals):
            raise ValueError("a recipe with anchors trains nothing; expected no iterations, pretraining, sft, controls or rivals")
        return self

    @model_validator(mode="after")
    def _benchmarks_differ(self) -> Self:
        named = [(benchmark.name, benchmark.protocol) for benchmark in self.benchmarks]
        for name, protocol in named:
            if named.count((name, protocol)) > 1:
                raise ValueError(f"benchmark {name} is listed twice under protocol {protocol!r}; put its tasks into one")
        return self

    @model_validator(mode="after")
    def _pairs_exist(self) -> Self:
        for t, iteration in enumerate(self.iterations):
            if not iteration.pairs_from or any(i < 0 or i > t for i in iteration.pairs_from):
                raise ValueError(f"iterations.{t}.pairs_from is {iteration.pairs_from}; expected iterations from 0 to {t}")
            if iteration.stop_after_epochs > iteration.schedule_epochs:
                raise ValueError(f"iterations.{t} stops after {iteration.stop_after_epochs} of {iteration.schedule_epochs} epochs")
            pairs = self.prompts.num_prompts * len(iteration.pairs_from)
            if pairs < self.global_batch_size:
                raise ValueError(f"iterations.{t} has {pairs} pairs, fewer than one global batch of {self.global_batch_size}")
        return self

    @model_validator(mode="after")
    def _responses_fit(self) -> Self:
        if self.max_prompt_length >= self.max_length:
            raise ValueError(f"max_prompt_length {self.max_prompt_length} leaves a response no token of max_length {self.max_length}")
        return self


def replace(base: Recipe, **changes: Any) -> Recipe:
    """A new recipe: `base` with `changes`, its reasons kept where the field did not change. Give `because` for the new ones."""
    if "name" not in changes:
        raise RecipeError(f"replace({base.name}) gives no name; a changed recipe needs a name of its own")
    kept = {field: why for field, why in base.because.items() if field.split(".")[0] not in changes}
    values = {name: getattr(base, name) for name in Recipe.model_fields}
    return build(Recipe, **{**values, **changes, "because": {**kept, **changes.get("because", {})}})


def load(name_or_file: str) -> Recipe:
    """The recipe called `name_or_file` in recipes/, or the `recipe` of a Python file."""
    path = find(name_or_file, available(), "recipe")
    recipe = load_attribute(path, "recipe")
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path.name}: `recipe` is a {type(recipe).__name__}, expected a harness.recipe.Recipe")
    return recipe


def available() -> dict[str, Path]:
    """{recipe name: file} of recipes/."""
    return {path.stem.replace("_", "-"): path for path in sorted(RECIPES_DIR.glob("*.py")) if path.stem != "__init__"}


