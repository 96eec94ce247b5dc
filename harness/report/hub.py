"""An iteration's Hub model card: `model-index` results with their rules, base model, data, recipe, deviations, provenance.

The metadata goes through huggingface_hub's own classes, which check it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from harness.analysis.deviations import flatten
from harness.analysis.run_table import collect
from harness.analysis.scores import read_recipe, read_scores, sources
from harness.analysis.table_schema import ResultTable
from harness.artifact import RunDir, write_atomic
from harness.cli.listings import deviation_list
from harness.errors import HarnessError, suggest
from harness.plan import rows
from harness.recipe import Recipe
from harness.report.formatting import delta_text, heading, questions_text, value_text
from harness.report.tables import markdown_text

DATASETS: dict[str, tuple[str, str | None]] = {
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge"),
    "truthfulqa_mc2": ("truthfulqa/truthful_qa", "multiple_choice"),
    "winogrande": ("allenai/winogrande", "winogrande_xl"),
    "gsm8k": ("openai/gsm8k", "main"),
    "hellaswag": ("Rowan/hellaswag", None),
    "mmlu": ("cais/mmlu", "all"),
    "openbookqa": ("allenai/openbookqa", "main"),
}
"""Hub dataset and configuration behind a task; the others go by the task's own name."""


def write_card(run: Path, row: str, target: Path | None = None) -> Path:
    """Write the card of `row` (default: RUN/cards/ROW.md); return its path. Raises HarnessError for an unknown row."""
    target = target or run / "cards" / f"{row}.md"
    write_atomic(target, str(to_card(run, row)).encode())
    return target


def to_card(run: Path, row: str) -> ModelCard:
    """The card of `row`. Unscored tasks are not among its results."""
    recipe = read_recipe(run)
    if row not in rows(recipe):
        raise HarnessError(f"{recipe.name} has no row {row!r}{suggest(row, rows(recipe))}")
    table = collect(run)
    data = ModelCardData(
        base_model=recipe.sft_model.name if recipe.sft_model.source == "hub" else None,
        datasets=[recipe.prompts.dataset] if recipe.prompts.source == "hub" else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["spin", "self-play-fine-tuning"],
        model_name=f"{recipe.name}-{row}",
        eval_results=list(_results(run, recipe, table, row)) or None,
    )
    body = "\n".join([*_about(recipe, row), *_scores(table, row), *_settings(recipe, row), *_deviations(recipe), *_provenance(run, row)])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n", ignore_metadata_errors=False)


def _results(run: Path, recipe: Recipe, table: ResultTable, row: str) -> Iterator[EvalResult]:
    scores = read_scores(run, recipe)
    for source in sources(recipe):
        score, cell = scores.get((row, source.label)), table.cell(row, source.label)
        if score is not None and cell.value is not None:
            dataset, config = DATASETS.get(source.task.name, (source.task.name, None))
            yield EvalResult(
                task_type="text-generation",
                task_name=source.label,
                dataset_type=dataset,
                dataset_name=source.label,
                dataset_config=config,
                dataset_args={
                    "num_few_shot": score.shots,
                    "limit": score.limit,
                    "n": score.n,
                    "protocol": flatten(score.protocol),
                },
                metric_type=score.metric.split(",")[0],
                metric_value=round(cell.value, 4),
                metric_name=f"{score.metric} ± {cell.stderr:.2f} (standard error)" if cell.stderr is not None else score.metric,
                verified=False,
            )


def _about(recipe: Recipe, row: str) -> Iterator[str]:
    yield f"# {markdown_text(recipe.name)}, {markdown_text(row)}"
    yield ""
    yield "A reproduction of Self-Play Fine-Tuning (SPIN, [arXiv 2401.01335](https://arxiv.org/abs/2401.01335))."
    yield ""
    yield f"- Recipe: {markdown_text(recipe.summary)}"
    model = recipe.sft_model
    yield f"- Base model: `{model.name}` ({model.source}{f', revision `{model.revision}`' if model.revision else ''})."
    prompts = recipe.prompts
    yield f"- Data: {prompts.num_prompts} prompts of `{prompts.dataset}`{f', revision `{prompts.revision}`' if prompts.revision else ''}."
    yield ""


def _scores(table: ResultTable, row: str) -> Iterator[str]:
    yield from ("## Scores", "", "| task | rules | score | difference from sft |", "|---|---|---:|---:|")
    for column in table.columns:
        cell = table.cell(row, column.label)
        shots = "" if column.shots is None else f"{column.shots}-shot, "
        rules = f"{shots}{column.metric}, {questions_text(column)} questions" if column.n else column.metric
        told = (heading(column), rules, value_text(cell, column), delta_text(cell.delta, column))
        yield "| " + " | ".join(markdown_text(text) for text in told) + " |"
    yield from ("", "Value ± standard error; differences paired on the same questions with a 95 % interval.", "")
    yield from ("## What this run says about the paper's claims", "")
    yield from (f"- **{one.verdict}**: {markdown_text(one.claim)}. {markdown_text('; '.join(one.evidence))}" for one in table.findings)
    yield ""


def _settings(recipe: Recipe, row: str) -> Iterator[str]:
    yield from ("## Recipe", "", "| setting | value |", "|---|---|")
    chosen = {name: getattr(recipe, name) for name in ("objective", "sampling", "generation_template", "training_template", "optimizer",
              "precision", "global_batch_size", "max_length", "seed")}  # fmt: skip
    number = row.removeprefix("iter")
    own = flatten(recipe.iterations[int(number)], f"iterations.{number}") if row.startswith("iter") and number.isdigit() else {}
    for field, value in {**flatten(chosen), **own}.items():
        yield f"| {markdown_text(field)} | {markdown_text(str(value))} |"
    yield ""


def _deviations(recipe: Recipe) -> Iterator[str]:
    yield from ("## Deviations from the paper", "", "| setting | paper | here | reason |", "|---|---|---|---|")
    for one in deviation_list(recipe):
        told = (one["field"], one["stated"], one["used"], one["reason"] or "no reason given")
        yield "| " + " | ".join(markdown_text(str(text)) for text in told) + " |"
    yield ""


def _provenance(run: Path, row: str) -> Iterator[str]:
    stage = f"{row}/train"
    launch = RunDir(run).launch(stage)
    yield from ("## Provenance", "")
    if launch is None:
        yield f"No stage {stage} was recorded."
    for one in launch.launches if launch else ():
        state = " with local changes" if one.get("dirty") else ""
        versions = ", ".join(f"{name} {number}" for name, number in one.get("versions", {}).items())
        yield f"- `{stage}`, identity `{launch.stage.fingerprint[:12] if launch else ''}`: commit `{one.get('commit')}`{state}; {versions}"
