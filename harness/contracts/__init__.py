"""The contracts, on one page. A component is one file; its name in a recipe is its file's name; there is no registry.

Every component has `VERSION: int`, part of the identity of what it makes: bump it when its numbers change. A benchmark may state
{protocol: int} instead, so that a change under one protocol leaves the others' finished work as it is. A recipe may name instead of one
of harness's own the path of a Python file, relative to the recipe's file, or a module that an installed package offers in the entry-point
group `harness.KIND` (`harness.objectives`). What is not harness's own has the sha256 of its file in the identity as well.

    sources/NAME.py      load(spec: PromptSource) -> Iterable[Demonstration | LeftOut]
                         prompts and real responses, in training order, and what cannot be trained on, with the reason
                         load_preferences(spec) -> Iterable[Preference | LeftOut], where the source holds preferences
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
                         TASK_NAMES: tuple[str, ...]     the tasks it has, where they can be listed ("tiny_*": any that begins so); else
                         check(benchmark: Benchmark) -> None, where names can be checked before anything runs and without heavy imports
                         lacks(benchmark: Benchmark) -> list[tuple[str, str]], likewise: what is missing, the command that gets it
    judges/NAME.py       NEEDS_MODEL: bool; parse(verdict: str) -> float | None
                         is_fallback(verdict: str) -> bool       whether that rating was read by a looser rule; and to get the verdict
                         a model's: render(turn: Turn, templates: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]
                         a rule's: decide(turn: Turn) -> str
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from harness.config import Strict, constant, functions_in, load_module, title
from harness.contracts.own_files import component_file, is_shipped, offered
from harness.errors import RecipeError, suggest
from harness.files import bare_name, pin
from harness.machine import Machine
from harness.recipe import Benchmark, Chat

if TYPE_CHECKING:
    from torch import Tensor

    from harness.contracts.stage_specs import PairEncoding

OWN_MODULE = "harness_own_"
"""What the name of a module that is not harness's own begins with."""
Kind = Literal["sources", "engines", "objectives", "benchmarks", "judges"]
OWN_ENGINE = "hf"
"""The engine whose answers to lm-eval's tasks harness/evaluation/lm_eval_model.py gives itself, faster: prompts of a task begin alike.
Any other is asked, and its VERSION is part of an evaluation's identity."""
RESPONSES = ("real", "generated", "proto")
"""What an objective can score of a pair."""
GRADES = ("A", "B", "C+", "C", "D")
"""How certain a formula can be, best first."""
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


class LeftOut(NamedTuple):
    """What a source holds and cannot give: why, in the same words for every such row, and the row as text (untrusted)."""

    reason: str
    row: str


class Request(NamedTuple):
    """A prompt as token ids and how to answer it. `seed` alone decides the random draws; temperature 0 is greedy.

    An engine may end a response once it has said one of the texts `stops`; who asks cuts it there, whether or not the engine did.
    """

    request_id: str
    token_ids: list[int]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stops: tuple[str, ...] = ()


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
        assert self.policy_generated is not None, 'the margin needs BRANCHES = ("real", "generated")'
        assert self.opponent_real is not None, "the margin needs OPPONENT = True"
        assert self.opponent_generated is not None, "the margin needs OPPONENT = True"
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
    chat: Chat = Chat()

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
    path = component_file(kind, name)
    if is_shipped(kind, path):
        return importlib.import_module(f"harness.components.{kind}.{name}")
    if not bare_name(name).endswith(".py"):
        return importlib.import_module(offered(f"harness.{kind}")[bare_name(name)])
    module = f"{OWN_MODULE}{pin(path)}"
    return sys.modules.get(module) or load_module(path, module)


def check_tasks(benchmarks: tuple[Benchmark, ...]) -> None:
    """A `RecipeError` for a task that its benchmark knows to be none, as far as benchmarks can tell before anything runs."""
    for benchmark in benchmarks:
        if "check" in functions("benchmarks", benchmark.name):
            load("benchmarks", benchmark.name).check(benchmark)
        known = constant(component_file("benchmarks", benchmark.name), "TASK_NAMES", '("kl",)', ())
        for task in benchmark.tasks if known else ():
            if not any(fnmatchcase(task.name, name) for name in known):
                raise RecipeError(f"benchmark {benchmark.title} has no task {task.name!r}{suggest(task.name, known)}")


def lacking(benchmarks: Iterable[Benchmark]) -> list[tuple[str, str]]:
    """(what is missing, the command that gets it), as far as benchmarks can tell before anything runs."""
    able = [benchmark for benchmark in benchmarks if "lacks" in functions("benchmarks", benchmark.name)]
    return [*dict.fromkeys(one for benchmark in able for one in load("benchmarks", benchmark.name).lacks(benchmark))]


def version(kind: Kind, name: str, protocol: str | None = None) -> int:
    """The component's VERSION, read from its source without importing it.

    Where it states one for each protocol, a protocol it does not know is at 1: a record of one can be read, running one is refused.
    """
    path = component_file(kind, name)
    stated = constant(path, "VERSION", "1")
    found = stated.get(protocol, 1) if isinstance(stated, dict) else stated
    if not isinstance(found, int):
        raise RecipeError(f"{path.name}: VERSION is {found!r}, expected a whole number such as 1")
    return found


def branches(objective: str) -> tuple[str, ...]:
    """The responses an objective scores, read from its source without importing it."""
    path = component_file("objectives", objective)
    found = constant(path, "BRANCHES", '("real", "generated")')
    if not isinstance(found, tuple) or not found or found != RESPONSES[: len(found)]:
        raise RecipeError(f"{path.name}: BRANCHES is {found!r}, expected a beginning of {RESPONSES}, such as {RESPONSES[:2]}")
    return found


def has_opponent(objective: str) -> bool:
    """Whether an objective reads the opponent's log-probabilities, read from its source without importing it."""
    path = component_file("objectives", objective)
    found = constant(path, "OPPONENT", "True")
    if not isinstance(found, bool):
        raise RecipeError(f"{path.name}: OPPONENT is {found!r}, expected True or False")
    return found


def grade(objective: str) -> str:
    """How certain an objective's formula is, "A" to "D", read from its source without importing it."""
    path = component_file("objectives", objective)
    found = constant(path, "GRADE", '"D"')
    if found not in GRADES:
        raise RecipeError(f"{path.name}: GRADE is {found!r}, expected one of {', '.join(GRADES)}")
    return str(found)


def parameters(objective: str) -> tuple[str, ...]:
    """What an objective's `loss` takes beside `beta`: its keyword-only arguments, read from its source without importing it."""
    defined = functions("objectives", objective)
    if "loss" not in defined:
        raise RecipeError(f"{title(objective)}.py defines no `loss`; add `def loss(logps: PairLogps, beta: float) -> Tensor`")
    return defined["loss"]


def functions(kind: Kind, name: str) -> dict[str, tuple[str, ...]]:
    """{function: its keyword-only arguments} of a component, read from its source without importing it."""
    return functions_in(component_file(kind, name))


class Score(Strict):
    """A task's result. `value` is in percent (MT-Bench: points of 10; lm-eval's own unit where `protocol` says so), None when unscored;
    `stderr` is in the same unit.

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
