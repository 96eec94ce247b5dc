"""Stage `preferences`: preference data in the layout of `prompts` and `generate` together, so that training reads it as any pairs.

    prompts.jsonl            prompt, and the chosen response as `real`
    responses/00000.jsonl    {"prompt_id", "response", "finish_reason"}: the rejected response

A rejected response ended by itself as far as anybody knows, so its finish_reason is 'stop'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.contracts import Preference, PreferencesSpec, Row, load
from harness.files import write_atomic
from harness.machine import Machine
from harness.stages.prompts import usable
from harness.training.pairs import dump_rows


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Load, check and write the preferences; too few or a prompt given twice is an error."""
    source = PreferencesSpec.model_validate(spec).prompts
    found: list[Preference] = usable(out, source, load("sources", source.source).load_preferences(source))
    lines = [{"prompt_id": one.prompt_id, "response": one.rejected, "finish_reason": "stop"} for one in found]
    write_atomic(out / "prompts.jsonl", dump_rows([Row(one.prompt_id, one.prompt, one.chosen) for one in found]))
    write_atomic(out / "responses" / "00000.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
