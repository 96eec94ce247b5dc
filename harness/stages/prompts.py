"""Stage `prompts`: the recipe's instructions and real responses as `prompts.jsonl`, in training order.

samples/left_out.json   {reason: {"rows", "example"}} of the rows the source could not give, where there are any
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.contracts import Demonstration, LeftOut, Preference, load
from harness.contracts.stage_specs import PromptsSpec
from harness.errors import InputError
from harness.files import write_json
from harness.machine import Machine
from harness.recipe import PromptSource
from harness.training.pairs import write_demonstrations

Item = TypeVar("Item", Demonstration, Preference)


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Load, check and write the rows."""
    source = PromptsSpec.model_validate(spec).prompts
    rows: list[Demonstration] = usable(out, source, load("sources", source.source).load(source))
    write_demonstrations(out / "prompts.jsonl", rows)


def usable(out: Path, source: PromptSource, found: Iterable[Item | LeftOut]) -> list[Item]:
    """The first `num_prompts` items; what was left out is said and counted. Too few items or a prompt given twice is an error."""
    items: list[Item] = []
    left_out: list[LeftOut] = []
    for item in found:
        if isinstance(item, LeftOut):
            left_out.append(item)
        else:
            items.append(item)
    if len(items) < source.num_prompts:
        raise InputError(
            f"{source.dataset} [{source.split}] gives {len(items)} usable prompts, the recipe asks for {source.num_prompts}; "
            f"lower `num_prompts` or widen the length limits{f' ({counted(left_out)})' if left_out else ''}"
        )
    items = items[: source.num_prompts]
    if len({item.prompt_id for item in items}) < len(items):
        raise InputError(f"{source.dataset} [{source.split}] gives a prompt twice; rows are keyed by prompt")
    record_left_out(out, f"{source.dataset} [{source.split}]", left_out)
    return items


def counted(left_out: Sequence[LeftOut]) -> str:
    """'left out 3 rows: 2 because the response is empty, 1 because ...', the most frequent reason first."""
    reasons = Counter(one.reason for one in left_out)
    rows = "row" if len(left_out) == 1 else "rows"
    return f"left out {len(left_out)} {rows}: {', '.join(f'{num} because {why}' for why, num in reasons.most_common())}"


def record_left_out(out: Path, name: str, left_out: Sequence[LeftOut]) -> None:
    """Say what was left out of the source called `name`, and write samples/left_out.json; nothing where nothing was."""
    if left_out:
        print(f"{name}: {counted(left_out)}", file=sys.stderr, flush=True)
        examples = {one.reason: one.row for one in reversed(left_out)}
        reasons = Counter(one.reason for one in left_out)
        write_json(
            out / "samples" / "left_out.json",
            {why: {"rows": num, "example": examples[why]} for why, num in reasons.most_common()},
        )
