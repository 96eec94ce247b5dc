"""An iteration on the Hub: its model card, its results for the pages of benchmarks, and the upload of its checkpoint.

The card holds `model-index` results with their rules, base model, data, recipe, deviations and provenance; its metadata goes through
huggingface_hub's own classes, which check it. Only safetensors that are the recorded files are uploaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from huggingface_hub import CommitOperationAdd, EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import yaml_dump

from harness.analysis.claims import asked_of
from harness.analysis.deviations import deviation_list
from harness.analysis.differences import delta_text
from harness.analysis.run_table import collect
from harness.analysis.scores import RunScores, load_scores
from harness.analysis.table_schema import ResultTable
from harness.artifact import RunDir
from harness.config import flatten
from harness.errors import HarnessError, InputError, suggest
from harness.files import hash_file, write_atomic
from harness.recipe import Recipe
from harness.report.formatting import heading, questions_text, value_text
from harness.report.tables import code_text, markdown_text
from harness.rows import iteration_of
from harness.runs.provenance import describe

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
    scores = load_scores(run)
    recipe = scores.recipe
    if row not in scores.rows:
        raise HarnessError(f"{recipe.name} has no row {row!r}{suggest(row, scores.rows)}")
    table = collect(run, scores)
    data = ModelCardData(
        base_model=recipe.sft_model.name if recipe.sft_model.source == "hub" else None,
        datasets=[recipe.prompts.dataset] if recipe.prompts.source == "hub" else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["spin", "self-play-fine-tuning"],
        model_name=f"{recipe.name}-{row}",
        eval_results=list(_results(scores, table, row)) or None,
    )
    body = "\n".join([*_about(recipe, row), *_scores(table, row), *_settings(recipe, row), *_deviations(recipe), *_provenance(run, row)])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n", ignore_metadata_errors=False)


def _results(scores: RunScores, table: ResultTable, row: str) -> Iterator[EvalResult]:
    for column in scores.tasks:
        score, cell = scores.score(row, column), table.cell(row, column.label)
        if score is not None and cell.value is not None:
            dataset, config = DATASETS.get(column.task.name, (column.task.name, None))
            yield EvalResult(
                task_type="text-generation",
                task_name=column.label,
                dataset_type=dataset,
                dataset_name=column.label,
                dataset_config=config,
                dataset_args={
                    "num_few_shot": score.shots,
                    "limit": score.limit,
                    "n": score.n,
                    "protocol": {name: list(rule) if isinstance(rule, tuple) else rule for name, rule in flatten(score.protocol).items()},
                },
                metric_type=score.metric.split(",")[0],
                metric_value=round(cell.value, 4),
                metric_name=f"{score.metric} ± {cell.stderr:.2f} (standard error)" if cell.stderr is not None else score.metric,
                verified=False,
            )


def to_eval_results(run: Path, row: str) -> str:
    """`.eval_results/harness.yaml`, which the Hub shows beside others': tasks asked in full whose data set is known there."""
    scores = load_scores(run)
    entries = []
    for column in scores.tasks:
        score = scores.score(row, column)
        if score is not None and score.value is not None and column.task.name in DATASETS and not (score.limit or column.task.subtasks):
            dataset, config = DATASETS[column.task.name]
            rules = f"{score.metric}, {score.shots}-shot, {score.n} questions, rules {column.benchmark.protocol}"
            value, notes = round(score.value, 4), f"{rules}; {scores.recipe.name} {row}"
            entries.append(EvalResultEntry(dataset_id=dataset, task_id=config or "default", value=value, notes=notes))
    return str(yaml_dump(eval_result_entries_to_yaml(entries)))


def _about(recipe: Recipe, row: str) -> Iterator[str]:
    yield f"# {markdown_text(recipe.name)}, {markdown_text(row)}"
    yield ""
    yield "A reproduction of Self-Play Fine-Tuning (SPIN, [arXiv 2401.01335](https://arxiv.org/abs/2401.01335))."
    yield ""
    yield f"- Recipe: {markdown_text(recipe.summary)}"
    model = recipe.sft_model
    yield f"- Base model: {code_text(model.name)} ({model.source}{_revision(model.revision)})."
    prompts = recipe.prompts
    yield f"- Data: {prompts.num_prompts} prompts of {code_text(prompts.dataset)}{_revision(prompts.revision)}."
    yield ""


def _revision(revision: str | None) -> str:
    return f", revision {code_text(revision)}" if revision else ""


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
    yield from (line for told in asked_of(table.findings) for line in (markdown_text(told), ""))
    yield from (f"- **{one.verdict}**: {markdown_text(one.claim)}. {markdown_text('; '.join(one.evidence))}" for one in table.findings)
    yield ""


def _settings(recipe: Recipe, row: str) -> Iterator[str]:
    yield from ("## Recipe", "", "| setting | value |", "|---|---|")
    chosen = {name: getattr(recipe, name) for name in ("objective", "sampling", "generation_template", "training_template", "optimizer",
              "precision", "global_batch_size", "max_length", "seed")}  # fmt: skip
    t = iteration_of(row)
    own = {} if t is None else flatten(recipe.iterations[t], f"iterations.{t}")
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
    for text in map(describe, launch.launches if launch else ()):
        yield f"- `{stage}`, identity `{launch.stage.fingerprint[:12] if launch else ''}`: commit `{text.commit}`; {text.packages}"


CHECKPOINT = "checkpoint/"
EVAL_RESULTS = ".eval_results/harness.yaml"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class Hub(Protocol):
    """The two calls of huggingface_hub.HfApi that are made."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def create_commit(self, repo_id: str, operations: Sequence[CommitOperationAdd], *, commit_message: str) -> Any: ...


class Upload(NamedTuple):
    """What would be sent: {path in the repository: bytes of the file}."""

    repo: str
    files: dict[str, bytes | Path]


def prepare(run: Path, row: str, repo: str) -> Upload:
    """The checkpoint's recorded files, re-hashed, and the card. Raises InputError for what is missing, changed or not safe to load."""
    stage, folder = f"{row}/train", RunDir(run)
    card = str(to_card(run, row)).encode()
    record = folder.record(stage)
    if record is None:
        raise InputError(f"{stage} is not finished in {run}; only a finished iteration is uploaded")
    files: dict[str, bytes | Path] = {"README.md": card, EVAL_RESULTS: to_eval_results(run, row).encode()}
    for name, recorded in record.outputs.items():
        if name.startswith(CHECKPOINT):
            path = folder.stage_dir(stage) / name
            if not path.exists() or hash_file(path) != recorded:
                raise InputError(f"{stage}/{name} is missing or not the file its record names; see `harness verify`")
            if path.suffix in PICKLES:
                raise InputError(f"{stage}/{name} can run code when loaded; only safetensors are uploaded")
            files[name.removeprefix(CHECKPOINT)] = path
    if not any(isinstance(file, Path) for file in files.values()):
        raise InputError(f"{stage} recorded no checkpoint; there is nothing to upload")
    return Upload(repo, files)


def upload(prepared: Upload, hub: Hub, *, private: bool) -> None:
    """Create the repository where it is missing and send everything as one commit. Raises InputError where the Hub refuses."""
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in prepared.files.items()]
    try:
        hub.create_repo(prepared.repo, private=private, exist_ok=True)
        hub.create_commit(prepared.repo, operations, commit_message=f"Upload {len(operations)} files")
    except LocalTokenNotFoundError:
        raise InputError("no Hub token found; set HF_TOKEN or run `hf auth login`, then push again") from None
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE is set, so nothing was sent; unset it and push again") from None
    except HFValidationError:
        raise InputError(f"{prepared.repo!r} is no repository id; expected OWNER/NAME") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no response"
        raise InputError(f"the Hub refused {prepared.repo} (HTTP {status}); check its name and your token's rights") from None
