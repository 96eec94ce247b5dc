"""The variants of a sweep side by side: one table whose rows are those of every variant, mean and spread over the seeds.

    sweep.json   {"name", "summary", "runs": {variant: [run's directory, one a seed]}}

The first variant's rows keep their names, those of another are called `VARIANT ROW`. A row whose scores come from stages that the
variants share (`sft`, say) stands once. Every other variant's last iteration is compared with its `sft` and with the first variant's
iteration of the same number, where it has one, else its last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.analysis.comparability import formula_notes
from harness.analysis.differences import REFERENCE
from harness.analysis.scores import RunScores, TaskColumn, load_scores
from harness.analysis.seed_table import check_same, seed_table, unfinished_runs
from harness.analysis.table_schema import SeedTable
from harness.artifact import read_recipe
from harness.config import flatten
from harness.contracts import Score
from harness.errors import HarnessError, InputError, suggest
from harness.files import digest
from harness.plan import SCORED, plan
from harness.recipe import Recipe
from harness.rows import contests, rows
from harness.runs.sweeps import read_sweep


def compare_variants(folder: Path) -> SeedTable:
    """The table of the sweep at `folder`, from the committed records of its runs.

    Raises InputError where runs of a variant differ in more than their seeds, or variants in their benchmarks.
    """
    record = read_sweep(folder)
    variants = {variant: [load_scores(folder / name) for name in names] for variant, names in record.runs.items()}
    for runs in variants.values():
        check_same(runs)
    _check_benchmarks(variants)
    first, *others = variants
    names = {variant: dict(_names(variant, variants[first][0].recipe, variants[variant][0].recipe)) for variant in others}
    names = {first: {row: row for row in rows(variants[first][0].recipe)}, **names}
    merged = [_merged(seed, names) for seed in _by_seed(variants)]
    pairs = tuple(_pairs(variants, names))
    notes = [f"{variant}: {note}" for variant, runs in variants.items() for note in formula_notes(runs[0].recipe)]
    notes += unfinished_runs(record.folders(folder))
    seeds = {f"seed {number}": run for number, run in enumerate(merged)}
    return seed_table(record.name, record.summary, seeds, pairs, notes, tuple(_sizes(variants, names)))


def find_row(folder: Path, name: str | None) -> list[tuple[Path, str]]:
    """[(run, its own row)], one a seed, of the row called `name` in the table of the sweep at `folder`; without a name of its last row.

    Raises HarnessError with a suggestion for an unknown row.
    """
    record = read_sweep(folder)
    recipes = {variant: read_recipe(folder / names[0]) for variant, names in record.runs.items()}
    first, *others = recipes
    places = {row: (first, row) for row in rows(recipes[first])}
    for variant in others:
        places |= {shown: (variant, row) for row, shown in _names(variant, recipes[first], recipes[variant])}
    name = name or rows(recipes[first])[-1]
    if name not in places:
        raise HarnessError(f"{record.name} has no row {name!r}{suggest(name, places)}")
    variant, row = places[name]
    return [(folder / run, row) for run in record.runs[variant]]


def _check_benchmarks(variants: Mapping[str, Sequence[RunScores]]) -> None:
    first, *others = ((variant, runs[0].recipe.benchmarks) for variant, runs in variants.items())
    for variant, benchmarks in others:
        if benchmarks != first[1]:
            raise InputError(f"variants {first[0]} and {variant} are evaluated on other benchmarks; a sweep needs the same for all")


def _names(variant: str, first: Recipe, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(row, its name in the table) of the rows of `recipe` that `first` does not share."""
    shared = {(stage.path, stage.fingerprint) for stage in plan(first) if stage.kind in SCORED}
    evaluations = [stage for stage in plan(recipe) if stage.kind in SCORED]
    own = {stage.path.split("/eval/")[0] for stage in evaluations if (stage.path, stage.fingerprint) not in shared}
    yield from ((row, f"{variant} {row}") for row in rows(recipe) if row in own)


def _by_seed(variants: Mapping[str, Sequence[RunScores]]) -> Iterator[dict[str, RunScores]]:
    for seed in zip(*variants.values(), strict=True):
        yield dict(zip(variants, seed, strict=True))


def _merged(seed: Mapping[str, RunScores], names: Mapping[str, Mapping[str, str]]) -> RunScores:
    """One run with the named rows of all variants."""
    places = {name: (variant, row) for variant in seed for row, name in names[variant].items()}

    def read(name: str, column: TaskColumn) -> Score | None:
        variant, row = places[name]
        return seed[variant].score(row, column)

    def met(name: str) -> str:
        variant, row = places[name]
        opponent = seed[variant].met(row)
        return names[variant].get(opponent, opponent)

    return RunScores(next(iter(seed.values())).recipe, tuple(places), read, met)


def _pairs(variants: Mapping[str, Sequence[RunScores]], names: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """(row, against) in the names of the merged table."""
    first, *others = (variants[variant][0].recipe for variant in variants)
    yield from contests(first)
    for variant, recipe in zip(list(variants)[1:], others, strict=True):
        own, last = names[variant], _last(recipe)
        if last in own:
            yield own[last], last if last in rows(first) else _last(first)
        yield from ((own[row], own.get(against, against)) for row, against in contests(recipe) if row in own)


def _sizes(variants: Mapping[str, Sequence[RunScores]], names: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """(last iteration, the same on less data) of variants that differ in the number of prompts alone; the least against `sft`."""
    alike: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for variant, (run, *_) in variants.items():
        row = names[variant].get(_last(run.recipe))
        if row is not None:
            start = names[variant].get(REFERENCE, REFERENCE)
            alike[_all_but_size(run.recipe)].append((run.recipe.prompts.num_prompts, row, start))
    for members in map(sorted, alike.values()):
        last = [row for _, row, _ in members]
        yield from zip(last, [members[0][-1], *last], strict=False) if len(last) > 1 else ()


def _all_but_size(recipe: Recipe) -> str:
    own = ("name", "summary", "because", "prompts.num_prompts")
    return digest({field: value for field, value in flatten(recipe.model_dump(mode="json")).items() if not field.startswith(own)})


def _last(recipe: Recipe) -> str:
    """The row of the last iteration, or the last row where there is no iteration."""
    return f"iter{len(recipe.iterations) - 1}" if recipe.iterations else rows(recipe)[-1]
