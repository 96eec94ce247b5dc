"""The contracts, on one page. A component is one file; its name in a recipe is its file's name; there is no registry.

Every component has `VERSION: int`, part of the identity of what it makes: bump it when its numbers change. A benchmark may state
{protocol: int} instead, so that a change under one protocol leaves the others' finished work as it is.

    sources/NAME.py      load(spec: PromptSource) -> list[Demonstration]
                         prompts and real responses, in training order
                         load_preferences(spec) -> list[Preference], where the source holds preferences
    engines/NAME.py      open_engine(checkpoint: Path, dtype: str, machine: Machine) -> Engine
                         Engine.generate(requests: Sequence[Request]) -> list[Response], in the order of the requests
    objectives/NAME.py   BRANCHES: tuple[str, ...]       the responses scored: a beginning of ("real", "generated", "proto")
                         OPPONENT: bool                  whether `loss` reads the opponent's log-probabilities
                         GRADE: str                      how certain its formula is: "A" read in the primary text, "B" from
                                                         released code, "C" from secondary sources ("C+": one quotes
                                                         the paper), "D" our own reading
                         loss(logps: PairLogps, beta: float, *, mu: float) -> Tensor (B,), one loss per pair;
                         the recipe's `parameters` give each keyword-only argument ("mu") its value
    benchmarks/NAME.py   open_benchmark(job: Job) -> Callable[[Task], Result]; the model is loaded once, then tasks are scored
    judges/NAME.py       NEEDS_MODEL: bool; parse(verdict: str) -> float | None
                         is_fallback(verdict: str) -> bool       whether that rating was read by a looser rule; and to get the verdict
                         a model's: render(turn: Turn, templates: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]
                         a rule's: decide(turn: Turn) -> str
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import SerializerFunctionWrapHandler, model_serializer

from harness.config import Strict
from harness.errors import RecipeError, suggest
from harness.machine import Machine
from harness.recipe import Benchmark, Lora, ModelRef, Optimizer, PromptSource, Recipe, Sampling

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""{a recipe's precision: torch's name of it}."""

Kind = Literal["sources", "engines", "objectives", "benchmarks", "judges"]
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""torch's name of each precision of a recipe."""


class Demonstration(NamedTuple):
    """An instruction with the response a human or a stronger model gave. `prompt` is a list of chat messages."""

    prompt_id: str
    prompt: list[dict[str, str]]
    real: str


class Preference(NamedTuple):
    """An instruction with the response that was preferred and the one that was not."""

    prompt_id: str
    prompt: list[dict[str, str]]
    chosen: str
    rejected: str


class Request(NamedTuple):
    """A prompt as token ids and how to answer it. `seed` alone decides the random draws; temperature 0 is greedy."""

    request_id: str
    token_ids: list[int]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


class Response(NamedTuple):
    """Generated token ids without the prompt or a final EOS. `finish_reason` is 'stop' (EOS) or 'length'."""

    request_id: str
    token_ids: list[int]
    finish_reason: str


class PairLogps(NamedTuple):
    """Summed response log-probabilities (B,), in nats, and token counts (B,). Absent branches and opponents are None.

    `proto` is iteration 0's generated response to the prompt: what the model said before any self-play.
    `mean_real_tokens` () is the mean over the global batch, so that no loss need depend on how the batch is divided.
    """

    policy_real: Tensor
    policy_generated: Tensor | None
    opponent_real: Tensor | None
    opponent_generated: Tensor | None
    real_tokens: Tensor
    mean_real_tokens: Tensor
    policy_proto: Tensor | None = None
    generated_tokens: Tensor | None = None

    @property
    def margin(self) -> Tensor:
        """(B,), in nats: how much more the policy prefers real to generated than the opponent does; 0 while both are equal."""
        assert self.policy_generated is not None
        assert self.opponent_real is not None
        assert self.opponent_generated is not None
        return (self.policy_real - self.opponent_real) - (self.policy_generated - self.opponent_generated)


class Turn(NamedTuple):
    """What a judge sees of one MT-Bench turn: `questions` and `answers` up to and including it, `references` where there are any."""

    question_id: str
    category: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    references: tuple[str, ...]


class Job(NamedTuple):
    """One benchmark on one checkpoint. A component may keep unfinished work under `workspace`.

    `inputs` are the directories of the stage's other inputs by role, and `encoding` how pairs become token ids, where it has them.
    """

    checkpoint: Path
    benchmark: Benchmark
    engine: str
    machine: Machine
    precision: str
    seed: int
    workspace: Path
    inputs: Mapping[str, Path] = {}
    encoding: PairEncoding | None = None

    @property
    def dtype(self) -> str:
        """'float32' or 'bfloat16', as engines take it."""
        return DTYPES[self.precision]


class Result(NamedTuple):
    """A score and the samples behind it, one JSON object a question (model output: untrusted text)."""

    score: Score
    samples: list[dict[str, Any]]


def load(kind: Kind, name: str) -> Any:
    """The module of component `name`."""
    _path(kind, name)
    return importlib.import_module(f"harness.components.{kind}.{name}")


def version(kind: Kind, name: str, protocol: str | None = None) -> int:
    """The component's VERSION, read from its source without importing it.

    Where it states one for each protocol, a protocol it does not know is at 1: a record of one can be read, running one is refused.
    """
    stated = _constant(_path(kind, name), "VERSION", "1")
    return int(stated.get(protocol, 1) if isinstance(stated, dict) else stated)


def branches(objective: str) -> tuple[str, ...]:
    """The responses an objective scores, read from its source without importing it."""
    return tuple(_constant(_path("objectives", objective), "BRANCHES", '("real", "generated")'))


def has_opponent(objective: str) -> bool:
    """Whether an objective reads the opponent's log-probabilities, read from its source without importing it."""
    return bool(_constant(_path("objectives", objective), "OPPONENT", "True"))


def grade(objective: str) -> str:
    """How certain an objective's formula is, "A" to "D", read from its source without importing it."""
    return str(_constant(_path("objectives", objective), "GRADE", '"D"'))


def parameters(objective: str) -> tuple[str, ...]:
    """What an objective's `loss` takes beside `beta`: its keyword-only arguments, read from its source without importing it."""
    defined = functions("objectives", objective)
    if "loss" not in defined:
        raise RecipeError(f"{objective}.py defines no `loss`; add `def loss(logps: PairLogps, beta: float) -> Tensor`")
    return defined["loss"]


def functions(kind: Kind, name: str) -> dict[str, tuple[str, ...]]:
    """{function: its keyword-only arguments} of a component, read from its source without importing it."""
    body = ast.parse(_path(kind, name).read_text()).body
    return {node.name: tuple(argument.arg for argument in node.args.kwonlyargs) for node in body if isinstance(node, ast.FunctionDef)}


def _constant(path: Path, constant: str, example: str) -> Any:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == constant for t in node.targets):
            return ast.literal_eval(node.value)
    raise RecipeError(f"{path.name} states no {constant}; add `{constant} = {example}`")


def _path(kind: Kind, name: str) -> Path:
    folder = Path(__file__).parent / "components" / kind
    path = folder / f"{name}.py"
    if not path.is_file():
        known = [p.stem for p in folder.glob("*.py") if p.stem != "__init__"]
        raise RecipeError(f"no {kind.removesuffix('s')} called {name!r}{suggest(name, known)}")
    return path


class Score(Strict):
    """A task's result. `value` is in percent (MT-Bench: points of 10), None when unscored; `stderr` in the same unit.

    `values` holds each question's own score under its id, None where it could not be read: the pairing for comparisons.
    `protocol` is everything two scores must share to stand in one column.
    """

    benchmark: str
    task: str
    metric: str
    value: float | None
    stderr: float | None
    n: int
    n_unscored: int = 0
    shots: int | None = None
    limit: int | None = None
    protocol: dict[str, Any] = {}
    values: dict[str, float | None] = {}
    details: dict[str, Any] = {}


class ModelSpec(Strict):
    """Stage `model`: weights and tokenizer as an ordinary safetensors checkpoint in `checkpoint/`."""

    model: ModelRef


class PromptsSpec(Strict):
    """Stage `prompts`: `prompts.jsonl`, one `Demonstration` a line, in training order."""

    prompts: PromptSource


class PreferencesSpec(Strict):
    """Stage `preferences`: `prompts.jsonl` with the chosen responses as real, and `responses/*.jsonl` with the rejected ones."""

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

    An objective with a branch `proto` has iteration 0's responses as the input `proto` as well.
    Training ends after `num_steps` steps where given, else after `stop_after_epochs` of the `schedule_epochs` scheduled.
    """

    objective: str
    parameters: dict[str, float]
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
    lora: Lora | None
    precision: str
    seed: int


class PairEncoding(Strict):
    """How text becomes token ids where pairs are trained on; lengths in tokens, `max_length` for prompt and response together."""

    template: str
    tokenization: str
    max_length: int
    max_prompt_length: int

    @classmethod
    def of(cls, recipe: Recipe) -> PairEncoding:
        """That of the recipe's training."""
        return cls(
            template=recipe.training_template,
            tokenization=recipe.tokenization,
            max_length=recipe.max_length,
            max_prompt_length=recipe.max_prompt_length,
        )


class EvaluateSpec(Strict):
    """Stage `evaluate`: `scores/TASK.json` and `samples/TASK.jsonl`. Input: policy.

    Benchmark `held_out` has an `encoding`, and the inputs opponent, prompts, generated (by the opponent) and, of a trained row, trained.
    """

    benchmark: Benchmark
    engine: str
    precision: str
    seed: int
    encoding: PairEncoding | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What a benchmark does not have is no part of its identity."""
        return {name: value for name, value in serialize(self).items() if name != "encoding" or value is not None}
