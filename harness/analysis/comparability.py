"""Which published numbers stand beside a recipe's, and every reason why ours may not be compared with one of them.

Two comparisons are told apart. Under the same evaluation two numbers differ by their weights and chance: it says how far our model is
from theirs. Under the same evaluation and training they differ by chance alone: it says whether the paper repeats.
"""

from __future__ import annotations

from typing import NamedTuple

from harness.analysis.deviations import training_differences
from harness.analysis.published import CLAIMS, Claim
from harness.contracts import Score, grade
from harness.errors import RecipeError, suggest
from harness.paper import NOT_STATED, PROTOCOL, RELEASED, RERUNS, SETTINGS
from harness.recipe import Benchmark, ModelRef, Recipe, Task
from harness.rows import iteration_of

AVERAGE = "average"
CERTAIN = ("A", "B")
"""Grades of a formula that was read where it was published or released."""

PUBLISHED = ("paper", "leaderboard")
"""Sources of the tables shown: the paper's own, and the live leaderboard's rows of the same checkpoints."""

FOLLOW_UPS = {"t_spin": ("follow_up/tspin_zephyr", "follow_up/tspin_zephyr_without_history", "follow_up/tspin_mistral")}
"""Objective -> the tables of the paper that proposes it."""

SAME_METRIC = {("truthfulqa_mc2", "acc", "mc2")}
"""(task, metric in lm-eval 0.4, metric in the paper) of one and the same quantity."""

SAME_TASK = {f"leaderboard_{name}": name.removesuffix("_hard") for name in ("math_hard", "musr", "mmlu_pro", "gpqa", "bbh", "ifeval")}
"""Task of lm-eval -> its name in T-SPIN's tables, which do not say which of lm-eval's tasks they are of."""

FULL_SETS = {"hellaswag": 10042, "mmlu": 14042, "truthfulqa_mc2": 817}
"""Questions of a whole set, where the published values do not tell how many were asked."""

LEADERBOARD_TASKS = tuple(dict.fromkeys(claim.task for claim in CLAIMS if claim.table == "paper/leaderboard" and claim.task != AVERAGE))
"""The six tasks whose unweighted mean is the `average`."""


def published_tables(recipe: Recipe) -> tuple[str, ...]:
    """Ids of the published tables that hold the models `recipe.claims` names; none where it names nothing.

    Raises RecipeError where no published table knows that model.
    """
    if recipe.claims is None:
        return ()
    models = {_short(claim.model) for claim in CLAIMS if claim.row == "sft" and claim.source in PUBLISHED}
    model = _short(recipe.claims)
    if model not in models:
        raise RecipeError(f"recipe {recipe.name}: claims names {recipe.claims!r}, which no published table has{suggest(model, models)}")
    return tuple(dict.fromkeys(c.table for c in CLAIMS if c.source in PUBLISHED and _short(c.model).startswith(model)))


def shown_tables(recipe: Recipe) -> tuple[str, ...]:
    """The published tables, the authors' ablations, those of everybody who ran SPIN again, and those of another objective's paper.

    None where the recipe names no model.
    """
    found = published_tables(recipe)
    ablations = dict.fromkeys(claim.table for claim in CLAIMS if claim.source == "authors")
    return (*found, *ablations, *RERUNS, *FOLLOW_UPS.get(recipe.objective, ())) if found else ()


def claim_for(recipe: Recipe, row: str, task: str, protocol: str | None) -> Claim | None:
    """The published cell for ours: of the table made under `protocol` where there is one, else of the first that has it."""
    found = published_claims(recipe, row, task)
    return next((claim for claim in found if claim.protocol == protocol), found[0] if found else None)


class Reasons(NamedTuple):
    """Why our number may not be compared with a published one: the evaluation differs, or the weights and their training do."""

    evaluation: tuple[str, ...]
    training: tuple[str, ...]


def reasons_against(recipe: Recipe, row: str, benchmark: Benchmark, task: Task, score: Score | None, claim: Claim) -> Reasons:
    """Every reason against comparing our score of `task` in `row` with `claim`. Without a score, the recipe's plan is judged."""
    return Reasons(evaluation_against(recipe, benchmark, task, score, claim), training_against(recipe, row, claim))


def evaluation_against(recipe: Recipe, benchmark: Benchmark, task: Task, score: Score | None, claim: Claim) -> tuple[str, ...]:
    """The reasons that lie in the evaluation: its rules and its precision."""
    return (*rules_against(benchmark, task, score, claim), *_precision(recipe))


def training_against(recipe: Recipe, row: str, claim: Claim) -> tuple[str, ...]:
    """Why the weights of `row` are not those of `claim`, made again or as published."""
    if recipe.anchors:
        ref = recipe.anchors[row].model
        return _weights(ref, claim.model, _revision(row)) if ref else ()
    t = iteration_of(row)
    if t is None and row != "sft":
        return (f"how the published {row} was trained is not stated in full",)
    base = _weights(recipe.sft_model, SETTINGS["sft_model.name"].value, _revision("sft"))
    tuned = ("the sft row was fine-tuned here",) if recipe.sft or recipe.pretraining else ()
    return (*base, *tuned, *(training_differences(recipe, t) if t is not None else ()))


def rules_against(benchmark: Benchmark, task: Task, score: Score | None, claim: Claim) -> tuple[str, ...]:
    """The reasons that lie in how the task was scored, whatever the model: protocol, questions, shots, metric."""
    return (
        *_protocol(benchmark, task, claim),
        *_questions(task, score, claim),
        *_length(benchmark, task),
        *_shots(benchmark, score.shots if score else task.shots, claim),
        *_metric(score.metric if score else task.metric, claim),
    )


def published_claims(recipe: Recipe, row: str, task: str) -> tuple[Claim, ...]:
    """Every published cell for ours, of all tables that hold the model."""
    tables = published_tables(recipe)
    return tuple(claim for claim in CLAIMS if claim.table in tables and (claim.row, claim.task) == (row, task))


def _short(model: str) -> str:
    return model.split("/")[-1]


def _revision(row: str) -> str | None:
    """The commit of the published weights, where it is known."""
    return str(RELEASED["sft_model.revision"].value) if row == "sft" else None


def _weights(ref: ModelRef, published: str, revision: str | None) -> tuple[str, ...]:
    """Why `ref` is not the published model: only the Hub's commit shows that it is, since no hash of the weights is published."""
    if ref.source != "hub":
        return (f"weights from source '{ref.source}': nothing shows that they are {published}",)
    if ref.name != published:
        return (f"another model: {ref.name}, the paper's is {published}",)
    if revision and ref.revision != revision:
        return (f"another revision of the model: {str(ref.revision)[:7]}, the release's is {revision[:7]}",)
    return ()


def formula_notes(recipe: Recipe) -> tuple[str, ...]:
    """A line for each objective of the recipe whose formula was not read in a primary text or released code."""
    rows = {objective: "the iterations" for objective in [recipe.objective] if recipe.iterations}
    for row, rival in recipe.rivals.items():
        rows.setdefault(rival.objective, row)
    return tuple(
        f"{row} use {objective}, whose formula is not certain (grade {grade(objective)}): see {_file(objective)}"
        for objective, row in rows.items()
        if grade(objective) not in CERTAIN
    )


def _file(objective: str) -> str:
    """Where an objective is written: in harness, or kept with the run under its pinned name."""
    return objective if "@" in objective else f"harness/components/objectives/{objective}.py"


def _protocol(benchmark: Benchmark, task: Task, claim: Claim) -> tuple[str, ...]:
    if task.name == "mt_bench" and NOT_STATED in claim.protocol:
        ours = benchmark.judge.model or benchmark.judge.name if benchmark.judge else "none"
        return (f"judge: ours {ours}, the paper's {NOT_STATED}",)
    if NOT_STATED in claim.protocol:
        return (claim.protocol,)
    return () if benchmark.protocol == claim.protocol else (f"protocol: ours {benchmark.protocol}, theirs {claim.protocol}",)


def _questions(task: Task, score: Score | None, claim: Claim) -> tuple[str, ...]:
    limit = score.limit if score else task.limit
    theirs = claim.n or FULL_SETS.get(claim.task)
    reasons = []
    if task.subtasks:
        reasons.append(f"only {len(task.subtasks)} of its subtasks")
    if limit is not None:
        reasons.append(f"limited to {limit} questions{' of each subtask' if task.subtasks else ''}")
    elif score and theirs is not None and score.n != theirs and not task.subtasks:
        reasons.append(f"questions: ours {score.n}, theirs {theirs}")
    if score and score.n_unscored:
        reasons.append(": ".join(filter(None, (f"{score.n_unscored} of {score.n} unscored", score.details.get("note")))))
    return tuple(reasons)


def _length(benchmark: Benchmark, task: Task) -> tuple[str, ...]:
    """A cap on answers that the protocol does not set; MT-Bench's is part of its rules, and endings are not generated."""
    capped = benchmark.max_new_tokens is not None and task.metric == "exact_match"
    return (f"answers cut at {benchmark.max_new_tokens} tokens, a limit of ours",) if capped else ()


def _shots(benchmark: Benchmark, ours: int | None, claim: Claim) -> tuple[str, ...]:
    if claim.task == "mt_bench":
        return ()
    if claim.shots is None:
        return (f"shots: ours {ours}, the paper's {NOT_STATED}",)
    if ours != claim.shots:
        return (f"shots: ours {ours}, theirs {claim.shots}",)
    effective = PROTOCOL[claim.task].shots_in_effect if claim.task in PROTOCOL else None
    if claim.source == "paper" and benchmark.protocol != claim.protocol and effective not in (None, claim.shots):
        return (f"shots: ours {ours}, theirs {effective} in effect although {claim.shots} are stated",)
    return ()


def _metric(ours: str, claim: Claim) -> tuple[str, ...]:
    named = " " not in claim.metric  # the others are descriptions, not names of a metric
    name = ours.split(",")[0].strip()
    same = name == claim.metric or (claim.task, name, claim.metric) in SAME_METRIC
    return (f"metric: ours {ours}, theirs {claim.metric}",) if named and not same else ()


def _precision(recipe: Recipe) -> tuple[str, ...]:
    stated = SETTINGS["precision"].value
    return () if recipe.precision == stated else (f"precision: ours {recipe.precision}, the paper's {stated}",)
