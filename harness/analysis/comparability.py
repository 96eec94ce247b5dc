"""Which published numbers stand beside a recipe's, and every reason why ours may not be compared with one of them."""

from __future__ import annotations

from harness.analysis.published import CLAIMS, Claim
from harness.contracts import Score, grade
from harness.errors import RecipeError, suggest
from harness.paper import NOT_STATED, PROTOCOL, RELEASED, RERUNS, SETTINGS
from harness.recipe import Benchmark, Recipe, Task

AVERAGE = "average"
CERTAIN = ("A", "B")
"""Grades of a formula that was read where it was published or released."""

PUBLISHED = ("paper", "leaderboard")
"""Sources of the tables shown: the paper's own, and the live leaderboard's rows of the same checkpoints."""

FOLLOW_UPS = {"t_spin": ("follow_up/tspin_zephyr", "follow_up/tspin_zephyr_without_history", "follow_up/tspin_mistral")}
"""Objective -> the tables of the paper that proposes it."""

SAME_METRIC = {("truthfulqa_mc2", "acc", "mc2")}
"""(task, metric in lm-eval 0.4, metric in the paper) of one and the same quantity."""

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


def reasons_against(recipe: Recipe, benchmark: Benchmark, task: Task, score: Score | None, claim: Claim) -> tuple[str, ...]:
    """Why our score of `task` may not be compared with `claim`; empty means it may. Without a score, the recipe's plan is judged."""
    return (*_model(recipe), *_objective(recipe, claim), *rules_against(benchmark, task, score, claim), *_precision(recipe))


def rules_against(benchmark: Benchmark, task: Task, score: Score | None, claim: Claim) -> tuple[str, ...]:
    """The reasons that lie in how the task was scored, whatever the model: protocol, questions, shots, metric."""
    return (
        *_protocol(benchmark, task, claim),
        *_questions(task, score, claim),
        *_shots(benchmark, score.shots if score else task.shots, claim),
        *_metric(score.metric if score else task.metric, claim),
    )


def published_claims(recipe: Recipe, row: str, task: str) -> tuple[Claim, ...]:
    """Every published cell for ours, of all tables that hold the model."""
    tables = published_tables(recipe)
    return tuple(claim for claim in CLAIMS if claim.table in tables and (claim.row, claim.task) == (row, task))


def _short(model: str) -> str:
    return model.split("/")[-1]


def _model(recipe: Recipe) -> tuple[str, ...]:
    stated, revision = SETTINGS["sft_model.name"].value, RELEASED["sft_model.revision"].value
    if recipe.sft_model.name != stated:
        return (f"another model: {recipe.sft_model.name}, the paper's is {stated}",)
    if recipe.sft is not None:
        return ("the sft row was fine-tuned here",)
    if recipe.sft_model.revision != revision:
        return (f"another revision of the model: {str(recipe.sft_model.revision)[:7]}, the release's is {revision[:7]}",)
    return ()


def _objective(recipe: Recipe, claim: Claim) -> tuple[str, ...]:
    is_iteration = claim.row in {f"iter{t}" for t in range(len(recipe.iterations))}
    stated = SETTINGS["objective"].value
    return (f"another objective: {recipe.objective}, the paper's is {stated}",) if is_iteration and recipe.objective != stated else ()


def formula_notes(recipe: Recipe) -> tuple[str, ...]:
    """A line for each objective of the recipe whose formula was not read in a primary text or released code."""
    rows = {objective: "the iterations" for objective in [recipe.objective] if recipe.iterations}
    for row, rival in recipe.rivals.items():
        rows.setdefault(rival.objective, row)
    return tuple(
        f"{row} use {objective}, whose formula is not certain (grade {grade(objective)}): see harness/components/objectives/{objective}.py"
        for objective, row in rows.items()
        if grade(objective) not in CERTAIN
    )


def _protocol(benchmark: Benchmark, task: Task, claim: Claim) -> tuple[str, ...]:
    if task.name == "mt_bench" and NOT_STATED in claim.protocol:
        ours = benchmark.judge.model or benchmark.judge.name if benchmark.judge else "none"
        return (f"judge: ours {ours}, the paper's {NOT_STATED}",)
    if NOT_STATED in claim.protocol:
        return (claim.protocol,)
    return () if benchmark.protocol == claim.protocol else (f"protocol: ours {benchmark.protocol}, theirs {claim.protocol}",)


def _questions(task: Task, score: Score | None, claim: Claim) -> tuple[str, ...]:
    limit = score.limit if score else task.limit
    reasons = []
    if limit is not None:
        reasons.append(f"limited to {limit} questions{' of each subtask' if task.subtasks else ''}")
    elif score and claim.n is not None and score.n != claim.n:
        reasons.append(f"questions: ours {score.n}, theirs {claim.n}")
    if score and score.n_unscored:
        reasons.append(": ".join(filter(None, (f"{score.n_unscored} of {score.n} unscored", score.details.get("note")))))
    return tuple(reasons)


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
