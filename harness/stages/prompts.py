"""Stage `prompts`: the recipe's instructions and real responses as `prompts.jsonl`, in training order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.contracts import Demonstration, PromptsSpec, load
from harness.errors import InputError
from harness.machine import Machine
from harness.recipe import PromptSource
from harness.training.pairs import write_demonstrations


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Load, check and write the rows."""
    source = PromptsSpec.model_validate(spec).prompts
    write_prompts(out, source, load("sources", source.source).load(source))


def write_prompts(out: Path, source: PromptSource, rows: list[Demonstration]) -> None:
    """`prompts.jsonl` with the first `num_prompts` rows; too few rows or a prompt given twice is an error."""
    if len(rows) < source.num_prompts:
        raise InputError(
            f"{source.dataset} [{source.split}] gives {len(rows)} usable prompts, the recipe asks for {source.num_prompts}; "
            "lower `num_prompts` or widen the length limits"
        )
    rows = rows[: source.num_prompts]
    if len({row.prompt_id for row in rows}) < len(rows):
        raise InputError(f"{source.dataset} [{source.split}] gives a prompt twice; rows are keyed by prompt")
    write_demonstrations(out / "prompts.jsonl", rows)
