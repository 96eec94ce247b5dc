"""Stage `preferences`: preference data in the layout of `prompts` and `generate` together, so that training reads it as any pairs.

    prompts.jsonl            prompt, and the chosen response as `real`
    responses/00000.jsonl    {"prompt_id", "response", "finish_reason"}: the rejected response

A rejected response ended by itself as far as anybody knows, so its finish_reason is 'stop'.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.contracts import Demonstration, Preference, load
from harness.contracts.stage_specs import PreferencesSpec
from harness.files import write_jsonl
from harness.machine import Machine
from harness.stages.prompts import usable
from harness.training.pairs import write_demonstrations


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Load, check and write the preferences; too few or a prompt given twice is an error."""
    source = PreferencesSpec.model_validate(spec).prompts
    preferences: list[Preference] = usable(out, source, load("sources", source.source).load_preferences(source))
    rejected = [{"prompt_id": given.prompt_id, "response": given.rejected, "finish_reason": "stop"} for given in preferences]
    write_demonstrations(out / "prompts.jsonl", [Demonstration(given.prompt_id, given.prompt, given.chosen) for given in preferences])
    write_jsonl(out / "responses" / "00000.jsonl", rejected)
