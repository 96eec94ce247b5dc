"""What a reproduction is: every setting that can affect results, as frozen data.

A recipe is a Python file with a module-level `recipe = Recipe(...)`, or `recipe = replace(base, name=..., ..., because={...})`.
Where it runs is a `Machine` (harness/machine.py) and never part of a recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from harness.config import Engine, Objective, Reference, Strict, build, find, load_attribute, shipped
from harness.errors import RecipeError, suggest
from harness.recipe_parts import (
    Anchor,
    Benchmark,
    Chat,
    Columns,
    Figure,
    Finetuning,
    Iteration,
    Judge,
    Lora,
    ModelRef,
    Optimizer,
    PairTraining,
    PromptSource,
    Sampling,
    Task,
)

__all__ = [
    "Anchor", "Benchmark", "Chat", "Columns", "Figure", "Finetuning", "Iteration", "Judge", "Lora", "ModelRef", "Optimizer", "PairTraining",
    "PromptSource", "Recipe", "Sampling", "Sizes", "Task", "available", "load", "replace",
]  # fmt: skip

RECIPES_DIR = shipped("recipes")
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*")
ROW_PATTERN = re.compile(r"[a-z0-9][a-z0-9._+-]*")
OWN_KINDS = ("data", "task_folders")
"""Kinds of reference that always are a path."""
LOCAL = "local"
"""The source whose `dataset` is a file or folder of the user's own."""
ITERATION_PATTERN = re.compile(r"iter([0-9]+)")

Part = TypeVar("Part")
Change = Callable[[str, str, Strict], str]
"""From a reference's kind, its name and the part of the recipe it stands in to another name."""


class Sizes(Strict):
    """What cost estimates assume; never part of an identity."""

    num_parameters: float
    """Weights of the model, as a count."""
    prompt_tokens: float
    """Mean tokens of a prompt."""
    real_tokens: float
    """Mean tokens of a real response."""
    generated_tokens: float
    """Mean tokens of a generated response."""


class Recipe(Strict):
    """A reproduction."""

    name: str
    """The run's directory under results/."""
    summary: str
    """One line for lists."""
    sft_model: ModelRef
    """The weights all training starts from."""
    pretraining: Finetuning | None = None
    """Training of `sft_model` before `sft`; None: none."""
    sft: Finetuning | None = None
    """Fine-tuning before self-play, in full even with `lora`; None: `sft_model` is the row `sft` as it is."""
    controls: dict[str, Finetuning] = {}
    """Further SFT of `sft`, each a row of the tables beside the iterations."""
    rivals: dict[str, PairTraining] = {}
    """Training on pairs outside of self-play, such as DPO, each a row."""
    anchors: dict[str, Anchor] = {}
    """Published checkpoints that are evaluated, each a row; such a recipe trains nothing."""
    prompts: PromptSource
    """Instructions and real responses of every iteration, and of fine-tunings that name none."""
    held_out: PromptSource | None = None
    """Prompts and real responses never trained on, for the benchmark of that name; another split than `prompts`, or other prompt_ids."""
    engine: Engine
    """The component that generates responses and answers."""
    sampling: Sampling
    """How responses are drawn."""
    generation_template: Literal["alpaca", "chat"]
    """How a prompt is written for generation."""
    training_template: Literal["alpaca", "chat", "zephyr"]
    """How prompt and response are written for training."""
    chat: Chat = Field(default=Chat(), exclude_if=lambda value: value == Chat())
    """How prompts are put into the model's own chat format."""
    tokenization: Literal["release", "modern"]
    """'release' as the released code does, 'modern' with one EOS at the end of a response (harness/training/pairs.py)."""
    objective: Objective = "spin"
    """The loss of self-play, a component of harness/components/objectives."""
    grouping: Literal["pairs", "groups"] = "pairs"
    """Carried-over pairs: 'pairs' shuffles each on its own (the paper), 'groups' keeps all pairs of a prompt in one batch."""
    accepted_checks: tuple[str, ...] = ()
    """Checks of the tokenization audit that may fail, by name."""
    lora: Lora | None = None
    """Adapters trained by iterations, controls and rivals; None: all weights."""
    optimizer: Optimizer
    """Of the iterations."""
    precision: Literal["fp32", "bf16"]
    """Of forward and backward passes; weights are fp32 either way."""
    global_batch_size: int = Field(gt=0)
    """Pairs of one gradient step of an iteration, over all devices."""
    max_length: int = Field(gt=0)
    """Tokens of prompt and response together; more of a response are cut."""
    max_prompt_length: int = Field(gt=0)
    """Last tokens of a prompt that are kept: always ('modern'), or where both exceed `max_length` ('release')."""
    iterations: tuple[Iteration, ...]
    """Iteration t is `iterations[t]`; its opponent is the product of t-1, or `sft` at 0."""
    benchmarks: tuple[Benchmark, ...]
    """What every row is evaluated on."""
    seed: int
    """Of the order of batches, adapters and draws; iteration t generates with seed + t."""
    claims: str | None = None
    """The published model this reproduces, whose numbers stand in its tables; None: no published numbers."""
    sizes: Sizes
    """What cost estimates assume."""
    because: dict[str, str] = {}
    """{field: reason} for each setting that differs from the paper's text or fills a gap in it."""

    @field_validator("name")
    @classmethod
    def _name_is_a_directory(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(f"{name!r} is not a usable directory name; use lower-case letters, digits, '.', '_' and '-'")
        return name

    @model_validator(mode="after")
    def _rows_are_directories(self) -> Self:
        taken = {"sft", "pretraining", "prompts", "held_out", "tables"}
        for row in (*self.controls, *self.rivals):
            if row in taken or ITERATION_PATTERN.fullmatch(row) or not ROW_PATTERN.fullmatch(row):
                raise ValueError(f"a control or rival is called {row!r}; use lower-case letters, digits and '._+-', each name once")
            taken.add(row)
        return self

    @model_validator(mode="after")
    def _anchors_stand_alone(self) -> Self:
        if self.anchors and (self.iterations or self.pretraining or self.sft or self.controls or self.rivals):
            raise ValueError("a recipe with anchors trains nothing; expected no iterations, pretraining, sft, controls or rivals")
        return self

    @model_validator(mode="after")
    def _chat_arguments_have_a_template(self) -> Self:
        if self.chat.template_args and "chat" not in (self.generation_template, self.training_template):
            raise ValueError("chat.template_args are arguments of the model's own chat template; expected the template 'chat' somewhere")
        return self

    @model_validator(mode="after")
    def _benchmarks_differ(self) -> Self:
        named = [(benchmark.name, benchmark.protocol) for benchmark in self.benchmarks]
        for name, protocol in named:
            if named.count((name, protocol)) > 1:
                raise ValueError(f"benchmark {name} is listed twice under protocol {protocol!r}; put its tasks into one")
        return self

    @model_validator(mode="after")
    def _judged_answers_exist(self) -> Self:
        made = {one.protocol: one.tasks for one in self.benchmarks if one.name == "mt_bench" and one.answers_from is None}
        for one in (benchmark for benchmark in self.benchmarks if benchmark.answers_from is not None):
            if one.name != "mt_bench" or one.judge is None or one.max_new_tokens is not None:
                raise ValueError(f"benchmark {one.name} has answers_from; expected mt_bench with a judge, and without max_new_tokens")
            if not {*one.tasks} <= {*made.get(str(one.answers_from), ())}:
                raise ValueError(
                    f"mt_bench under protocol {one.protocol!r} judges answers of protocol {one.answers_from!r}; expected one of "
                    f"{sorted(made)} that asks the same tasks with the same limits"
                )
        return self

    @model_validator(mode="after")
    def _held_out_prompts_are_others(self) -> Self:
        used = any(benchmark.name == "held_out" for benchmark in self.benchmarks)
        if used and (self.held_out is None or self.anchors):
            raise ValueError("benchmark held_out needs prompts in the recipe's `held_out`, and rows with an opponent: no anchors")
        if self.held_out is None or (self.held_out.dataset, self.held_out.split) != (self.prompts.dataset, self.prompts.split):
            return self
        held_out, trained = set(self.held_out.prompt_ids), set(self.prompts.prompt_ids)
        if not (held_out and trained):
            raise ValueError(
                f"held_out names the split trained on, {self.prompts.split!r} of {self.prompts.dataset}; "
                "expected another, or prompt_ids in both"
            )
        if both := sorted(held_out & trained):
            raise ValueError(f"held_out and prompts share {len(both)} of their prompt_ids, such as {both[0]}; expected none in common")
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
    def _pairs_are_trained_as_sampled(self) -> Self:
        if self.sampling.add_bos and self.tokenization == "modern":
            raise ValueError(
                "sampling.add_bos samples from prompts with a BOS, which tokenization 'modern' trains without; expected add_bos=False "
                "(a BOS of the model's own chat template stays), or tokenization 'release', which does as the released code"
            )
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
    for field in recipe.because:
        if (name := field.split(".")[0]) not in Recipe.model_fields:
            raise RecipeError(f"{path.name}: because gives a reason for {field!r}, which no recipe has{suggest(name, Recipe.model_fields)}")
    return located(recipe, path.parent)


def located(part: Part, folder: Path) -> Part:
    """`part` with paths to files of the user's own, which are written relative to `folder`, as absolute ones."""

    def absolute(kind: str, name: str, owner: Strict) -> str:
        is_path = kind in OWN_KINDS or name.endswith(".py")
        return str((folder / Path(name).expanduser()).resolve()) if is_path else name

    return map_references(part, absolute)


def map_references(part: Part, change: Change) -> Part:
    """A copy of a recipe or a part of one in which every name of a component, data file or task folder is what `change` makes of it."""
    changed: Any = part
    if isinstance(part, Strict):
        found = {name: _mapped(part, name, change) for name in type(part).model_fields}
        changed = part.model_copy(update={name: new for name, new in found.items() if new is not getattr(part, name)})
    elif isinstance(part, tuple):
        changed = tuple(map_references(item, change) for item in part)
    elif isinstance(part, dict):
        changed = {name: map_references(item, change) for name, item in part.items()}
    return part if changed == part else changed


def _mapped(owner: Strict, name: str, change: Change) -> Any:
    value = getattr(owner, name)
    kind = next((mark.kind for mark in type(owner).model_fields[name].metadata if isinstance(mark, Reference)), None)
    if isinstance(owner, PromptSource) and owner.source == LOCAL and name == "dataset":
        kind = "data"
    return map_references(value, change) if kind is None or value is None else change(kind, value, owner)


def available() -> dict[str, Path]:
    """{recipe name: file} of recipes/."""
    return {path.stem.replace("_", "-"): path for path in sorted(RECIPES_DIR.glob("*.py")) if path.stem != "__init__"}
