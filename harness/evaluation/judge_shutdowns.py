"""Judges with an end: when their maker shuts them down, and the open judge to use instead.

Dates are those of developers.openai.com/api/docs/deprecations, read in October and November 2026; the endpoint's own GET /v1/models
carries them as `shutdown_date`. A model that is not listed has no known date, which does not mean it has none.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from harness.contracts import load
from harness.recipe import Benchmark, Judge, Recipe, replace

SOURCE = "developers.openai.com/api/docs/deprecations"
WARN_DAYS = 60

_DATES: dict[date, tuple[str, ...]] = {
    date(2026, 10, 23): (
        "gpt-3.5-turbo", "gpt-3.5-turbo-0125", "gpt-4", "gpt-4-0613", "gpt-4-1106-preview", "gpt-4-turbo",
        "gpt-4-turbo-2024-04-09", "gpt-4o-2024-05-13",
    ),
    date(2026, 12, 11): (
        "gpt-5", "gpt-5-2025-08-07", "gpt-5-mini", "gpt-5-mini-2025-08-07", "gpt-5-nano", "gpt-5-pro", "o3", "o3-pro",
    ),
    date(2027, 1, 14): (
        "gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-4.1",
        "gpt-4.1-2025-04-14", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14",
    ),
}  # fmt: skip
SHUTDOWN: dict[str, date] = {model: day for day, models in _DATES.items() for model in models}
"""{model name: the day from which its endpoint answers no more}."""


class OpenJudge(NamedTuple):
    """An open-weights judge pinned to a commit, and why it."""

    model: str
    revision: str
    reason: str


RECOMMENDED = OpenJudge(
    model="Qwen/Qwen2.5-32B-Instruct",
    revision="5ede1c97bbab6ce5cda5812749b4c0bdf79b18dd",
    reason=(
        "it cannot be shut down; Apache-2.0; of another family than the Mistral models it grades; one 80 GB GPU holds it in bf16. "
        "Its agreement with GPT-4 or with people on MT-Bench was not measured here"
    ),
)
"""The commit is the one that public code pins for this model in many places; we could not ask the Hub itself."""


def judges_of(benchmarks: tuple[Benchmark, ...]) -> tuple[Judge, ...]:
    """The judges behind an endpoint that the benchmarks name; rules and judges not chosen yet are left out."""
    named = (benchmark.judge for benchmark in benchmarks if benchmark.judge and benchmark.judge.model)
    return tuple(judge for judge in named if load("judges", judge.name).NEEDS_MODEL)


def judged(recipe: Recipe, name: str) -> Recipe:
    """`recipe` under a name of its own, with the open judge in place of every one that must be a model."""
    benchmarks = tuple(_judged(benchmark) for benchmark in recipe.benchmarks)
    return replace(recipe, name=name, benchmarks=benchmarks, because={"benchmarks": f"an open judge, pinned: {RECOMMENDED.reason}"})


def _judged(benchmark: Benchmark) -> Benchmark:
    judge = benchmark.judge
    if judge is None or not load("judges", judge.name).NEEDS_MODEL:
        return benchmark
    chosen = judge.model_copy(update={"model": RECOMMENDED.model, "revision": RECOMMENDED.revision})
    return benchmark.model_copy(update={"judge": chosen})


def not_chosen(benchmarks: tuple[Benchmark, ...]) -> str | None:
    """What follows where a benchmark's judge must be a model and none is named; None where every judge is chosen."""
    names = [one.name for one in benchmarks if one.judge and not one.judge.model and load("judges", one.judge.name).NEEDS_MODEL]
    if not names:
        return None
    return (
        f"{' and '.join(names)} has no judge: answers are made and stay unscored; for an open one, {RECOMMENDED.model} at "
        f"{RECOMMENDED.revision}, one line in a recipe of your own is enough: judged(load(...), name=...) (docs/judging.md)"
    )


def warning(judge: Judge, today: date) -> str | None:
    """What is wrong with grading by `judge` from `today` on; None where nothing is known to be."""
    day = SHUTDOWN.get(judge.model or "")
    if day is None:
        return None
    if today >= day:
        when = f"was shut down on {day}"
    elif (day - today).days <= WARN_DAYS:
        when = f"is shut down on {day}, in {(day - today).days} days"
    else:
        return None
    return (
        f"judge {judge.model} {when} ({SOURCE}): scores under it cannot be made again; "
        f"an open judge can, such as {RECOMMENDED.model} at {RECOMMENDED.revision[:12]}"
    )
