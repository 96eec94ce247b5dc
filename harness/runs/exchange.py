"""An iteration's pairs out to other tools, and pairs of others in as an iteration's, both with their provenance.

Imported pairs stand in a run as the finished stages `prompts` and `iterT/generate`, marked like work kept by `harness accept`: tables and
`explain` say where they come from.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.artifact import Accepted, RunDir, Stage, write_recipe
from harness.contracts import Demonstration
from harness.errors import InputError
from harness.files import digest, dump, write_atomic, write_json
from harness.machine import Machine
from harness.plan import plan
from harness.recipe import Recipe
from harness.runs import lock, pair_files, provenance
from harness.runs.committed_records import refuse_packed
from harness.runs.needs.directory import refuse_foreign
from harness.runs.pair_files import Layout
from harness.runs.runner import is_half_imported
from harness.stages.prompts import counted, record_left_out
from harness.stages.response_shards import Responses
from harness.training.pairs import Pair, read_demonstrations, read_pairs, write_demonstrations

SHARD = 2048

COLUMNS = {
    "prompt_id": "the prompt's id: its sha256, or the source's own",
    "real": "messages: the prompt and the response of a human or a stronger model",
    "generated": "messages: the prompt and the response that the opponent generated",
    "prompt": "messages: the prompt",
    "chosen": "a message: the response of a human or a stronger model",
    "rejected": "a message: the response that the opponent generated",
    "finish_reason": "'stop' where the generated response ended by itself, 'length' where it was cut",
}
"""What a column of either layout holds."""


def export(run: RunDir, recipe: Recipe, iteration: int, layout: Layout, folder: Path, license: str = "unknown") -> dict[str, int]:
    """Write the pairs of one iteration to `folder`, which must be new or empty, with a data set card; return rows by split."""
    stage = _generate_stage(recipe, iteration)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name a new directory")
    contents = {path: run.checked_content(path) for path in ("prompts", stage.path)}
    pairs = read_pairs({"prompts": run.stage_dir("prompts"), f"responses{iteration}": run.stage_dir(stage.path)})
    count = pair_files.write(pairs, layout, folder)
    made = {
        "recipe": recipe.name,
        "stage": stage.path,
        "fingerprint": stage.fingerprint,
        "contents": contents,
        "spec": stage.spec,
        "layout": layout,
        "rows": count,
        "exported_by": provenance.collect(),
    }
    write_json(folder / "provenance.json", made)
    write_atomic(folder / "README.md", _card(recipe, iteration, layout, count, license).encode())
    return count


def _card(recipe: Recipe, iteration: int, layout: Layout, count: dict[str, int], license: str) -> str:
    """The Hub's data set card: licence, size and files as metadata; columns, counts and origin as text."""
    from huggingface_hub import DatasetCardData

    files = [{"split": split, "path": f"data/{split}-*"} for split in count]
    data = DatasetCardData(
        license=license,
        size_categories=_size(sum(count.values())),
        source_datasets=[recipe.prompts.dataset] if recipe.prompts.source == "hub" else None,
        task_categories=["text-generation"],
        tags=["spin", "preference", "synthetic"],
        pretty_name=f"Pairs of {recipe.name}, iteration {iteration}",
        configs=[{"config_name": "default", "data_files": files}],
    )
    source = f"`{recipe.prompts.dataset}`" + (f" at `{recipe.prompts.revision}`" if recipe.prompts.revision else "")
    model = f"`{recipe.sft_model.name}`"
    lines = [
        f"Pairs of iter{iteration} of the recipe `{recipe.name}`: the real response and the one its opponent generated "
        "([SPIN](https://arxiv.org/abs/2401.01335)). `provenance.json` says how they were made.",
        "",
        "| split | rows |",
        "|---|---:|",
        *(f"| {split} | {num} |" for split, num in count.items()),
        "",
        "| column | holds |",
        "|---|---|",
        *(f"| `{name}` | {COLUMNS[name]} |" for name in pair_files.columns(layout)),
        "",
        f"Prompts and real responses are those of {source} and keep its licence; the generated responses are by {model} as trained in the "
        f"run, whose licence may bind them. Licence as stated at the export: {license}.",
    ]
    return f"---\n{data.to_yaml()}\n---\n" + "\n".join([*lines, ""])


def _size(rows: int) -> str:
    """The Hub's word for a number of rows."""
    bounds = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((word for bound, word in bounds.items() if rows < bound), "1M<n<10M")


def import_pairs(recipe: Recipe, run: RunDir, machine: Machine, iteration: int, source: str, split: str, because: str) -> int:
    """Make the pairs of `source` the responses of an iteration, and its prompts the run's where it has none; return their number.

    Raises `InputError` unless they answer each of the recipe's prompts once and the iteration's opponent is there.
    """
    stage = _generate_stage(recipe, iteration)
    pairs, left_out = pair_files.read(source, split)
    if len(pairs) != recipe.prompts.num_prompts:
        raise InputError(
            f"{source} [{split}] holds {len(pairs)} prompts, recipe {recipe.name} trains on {recipe.prompts.num_prompts}; "
            f"make a recipe with num_prompts={len(pairs)}{f' ({counted(left_out)})' if left_out else ''}"
        )
    refuse_foreign(run.path, recipe)
    origin = {"source": Path(source).name, "split": split, "sha256": pair_files.hash_source(source), "rows": len(pairs)}
    with lock.hold(run.path):
        refuse_packed(run)
        prompts = next(planned for planned in plan(recipe) if planned.path == "prompts")
        for one in (prompts, stage):
            if is_half_imported(one, run):
                shutil.rmtree(run.stage_dir(one.path))
        if run.state(stage) != "missing":
            raise InputError(f"{stage.path} is {run.state(stage)} in {run.path}; remove it to import responses, or name another --out")
        run.checked_content(stage.inputs["policy"])
        write_recipe(run.path, recipe)
        if run.record("prompts") is None:
            rows = [Demonstration(pair.prompt_id, pair.prompt, pair.real) for pair in pairs]
            _begin(run, prompts, machine, origin, because)
            write_demonstrations(run.stage_dir("prompts") / "prompts.jsonl", rows)
            run.finish(prompts, 0.0, 0.0)
        _require_same_prompts(read_demonstrations(run.stage_dir("prompts") / "prompts.jsonl"), pairs, source)
        _begin(run, stage, machine, origin, because, _unknown_ends(pairs))
        record_left_out(run.stage_dir(stage.path), f"{source} [{split}]", left_out)
        _write_responses(pairs, run.stage_dir(stage.path), run.stage_dir(stage.inputs["policy"]) / "checkpoint")
        run.finish(stage, 0.0, 0.0)
    return len(pairs)


def _generate_stage(recipe: Recipe, iteration: int) -> Stage:
    stages = [stage for stage in plan(recipe) if stage.path == f"iter{iteration}/generate"]
    if not stages:
        raise InputError(f"recipe {recipe.name} has no iteration {iteration}; expected one from 0 to {len(recipe.iterations) - 1}")
    return stages[0]


def _begin(
    run: RunDir, stage: Stage, machine: Machine, origin: dict[str, Any], because: str, further: Sequence[tuple[str, Any, Any]] = ()
) -> None:
    """A `stage.json` that says the work was brought in, and from where."""
    run.begin(stage, machine, {**provenance.collect(), "imported": origin})
    launch = run.launch(stage.path)
    assert launch is not None
    name = f"imported from {origin['source']} [{origin['split']}], sha256 or revision {origin['sha256']}"
    entry = Accepted(fingerprint=digest(origin), difference=[("made by", name, f"stage {stage.kind}"), *further], because=because)
    write_atomic(run.stage_dir(stage.path) / "stage.json", dump(launch.model_copy(update={"accepted": [*launch.accepted, entry]})))


def _unknown_ends(pairs: Sequence[Pair]) -> list[tuple[str, Any, Any]]:
    """The released sets do not tell which responses were cut; as in the release's training, all count as ended."""
    num = sum(pair.finish_reason is None for pair in pairs)
    return [("finish_reason", f"unknown for {num} of {len(pairs)}, taken as 'stop'", "told by the engine")] if num else []


def _require_same_prompts(rows: Sequence[Demonstration], pairs: Sequence[Pair], source: str) -> None:
    expected = {row.prompt_id: (row.prompt, row.real) for row in rows}
    foreign = [pair.prompt_id for pair in pairs if expected.get(pair.prompt_id) != (pair.prompt, pair.real)]
    if foreign:
        raise InputError(
            f"{source} has {len(foreign)} pairs whose prompt or real response is not the run's (first: {foreign[0]}); "
            "each iteration must answer the same prompts"
        )


def _write_responses(pairs: Sequence[Pair], folder: Path, checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    responses = Responses(folder / "responses", {pair.prompt_id: i for i, pair in enumerate(pairs)})
    for start in range(0, len(pairs), SHARD):
        lines = [
            {
                "prompt_id": pair.prompt_id,
                "response": str(pair.generated),
                "finish_reason": pair.finish_reason or "stop",
                "num_tokens": len(tokenizer(pair.generated, add_special_tokens=False)["input_ids"]),
            }
            for pair in pairs[start : start + SHARD]
        ]
        responses.write(start // SHARD, lines)
    write_json(folder / "statistics.json", responses.statistics())
