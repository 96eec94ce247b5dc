"""Stage `generate`: a response of the policy to every prompt.

    responses/00000.jsonl   {"prompt_id", "response", "finish_reason", "num_tokens"} a line; one file a shard, written whole
    statistics.json         last: lengths, finish reasons, empty and repetitive responses, in all and by shard

Prompts are sorted by length and cut into shards before anything is known to be answered, so a killed and resumed launch forms the same
batches, hence the same bytes, as an undisturbed one. The longest are answered first: too little memory shows at once, and at the end
replicas wait for short shards only. Shards are whole batches of the `hf` engine: a response is the same with any number of replicas. This
process alone writes; replicas read their prompts themselves. It holds an index of the prompts and the shards in hand, never all texts.
One of several processes that have a share each (`Share`) writes its own shards and no statistics.

Special tokens are left out of the text. The prompt is cut off as token ids, so the release's clean-up of the decoded text (removing
'</s>', `lstrip`) is not needed: whitespace that remains in front was generated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from harness.contracts import Response, load
from harness.contracts.stage_specs import GenerateSpec
from harness.errors import InputError
from harness.files import write_json
from harness.lm.progress import progress
from harness.lm.replicas import Replica, Shard, answer
from harness.machine import Machine
from harness.stages.prompt_file import PromptFile
from harness.stages.response_shards import Line, Responses, own_share, shards


class Job(NamedTuple):
    """What a replica needs to know, wherever it runs."""

    settings: GenerateSpec
    checkpoint: Path
    prompts: Path
    machine: Machine


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Answer the prompts of `inputs["prompts"]` with the checkpoint of `inputs["policy"]` that no finished shard answers yet."""
    job = Job(
        GenerateSpec.model_validate(spec),
        _existing(inputs["policy"] / "checkpoint", "policy"),
        _existing(inputs["prompts"] / "prompts.jsonl", "prompts"),
        machine,
    )
    prompts = _prompt_file(job).index()
    responses = Responses(out / "responses", {prompt.prompt_id: i for i, prompt in enumerate(prompts)})
    answered = responses.answered()
    offsets = [prompt.offset for prompt in prompts]
    del prompts
    share = own_share(os.environ)
    asked = [shard for shard in _unanswered(offsets, answered, machine) if share is None or share.holds(shard.number)]
    with progress("generate", len(offsets), "responses") as advance:
        advance(answered.count(1))
        for index, lines in answer(asked, partial(open_replica, job), machine) if asked else ():
            responses.write(index, lines)
            advance(len(lines))
    if share is None:
        write_json(out / "statistics.json", responses.statistics())


def open_replica(job: Job) -> Replica:
    """An engine with the job's checkpoint: from the offsets of prompts to the lines of their responses."""
    engine = load("engines", job.settings.engine).open_engine(job.checkpoint, job.settings.dtype, job.machine)
    prompts = _prompt_file(job)

    def replica(offsets: Sequence[int]) -> list[Line]:
        return [_line(response, prompts.tokenizer) for response in engine.generate(prompts.requests(offsets))]

    return replica


def _unanswered(offsets: Sequence[int], answered: bytearray, machine: Machine) -> list[Shard]:
    """The unanswered prompts of each shard that has some, the longest prompts first."""
    found = [Shard(index, [offsets[i] for i in places if not answered[i]]) for index, places in enumerate(shards(len(offsets), machine))]
    return [shard for shard in reversed(found) if shard.items]


def _prompt_file(job: Job) -> PromptFile:
    return PromptFile(job.prompts, AutoTokenizer.from_pretrained(job.checkpoint, local_files_only=True), job.settings)


def _existing(path: Path, role: str) -> Path:
    if not path.exists():
        raise InputError(f"the {role} input has no {path.name} ({path}); run the stage that makes it again")
    return path


def _line(response: Response, tokenizer: Any) -> Line:
    return {
        "prompt_id": response.request_id,
        "response": tokenizer.decode(response.token_ids, skip_special_tokens=True),
        "finish_reason": response.finish_reason,
        "num_tokens": len(response.token_ids),
    }
