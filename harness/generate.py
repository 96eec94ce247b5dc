"""Stage `generate`: a response of the policy to every prompt.

    responses/00000.jsonl   {"prompt_id", "response", "finish_reason", "num_tokens"} a line; one file a shard, written whole
    statistics.json         last

Prompts are sorted by length and cut into shards of the machine's `generate_shard` before anything is known to be answered, so a
killed and resumed launch forms the same batches, hence the same bytes, as an undisturbed one. Special tokens are left out of the
text. The prompt is cut off as token ids, so the release's clean-up of the decoded text (removing '</s>', `lstrip`) is not needed:
whitespace that remains in front was generated.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from harness.artifact import digest, write_atomic
from harness.components import Request, Response, Row, load
from harness.data import prompt_ids, read_jsonl, read_rows
from harness.errors import InputError
from harness.machine import Machine
from harness.plan import GenerateSpec
from harness.progress import progress

FINISH_REASONS = ("stop", "length")
FIELDS = {"prompt_id": str, "response": str, "finish_reason": str, "num_tokens": int}


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Answer the prompts of `inputs["prompts"]` with the checkpoint of `inputs["policy"]` that no finished shard answers yet."""
    settings = GenerateSpec.model_validate(spec)
    checkpoint = _existing(inputs["policy"] / "checkpoint", "policy")
    rows = _unique(read_rows(_existing(inputs["prompts"] / "prompts.jsonl", "prompts")))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    requests = _requests(rows, tokenizer, settings)
    shards = [requests[start : start + machine.generate_shard] for start in range(0, len(requests), machine.generate_shard)]
    known = {row.prompt_id for row in rows}
    answered = _answered(out, known)
    missing = {i: [request for request in shard if request.request_id not in answered] for i, shard in enumerate(shards)}
    with progress("generate", len(requests), "responses") as advance:
        advance(len(answered))
        if len(answered) < len(requests):
            engine = load("engines", settings.engine).open_engine(checkpoint, settings.dtype, machine)
        for i in (i for i, asked in missing.items() if asked):
            lines = [_line(response, tokenizer) for response in engine.generate(missing[i])]
            _write_shard(_shard_path(out, i), lines, requests)
            advance(len(lines))
    _write_statistics(out, known)


def seed_of(seed: int, prompt_id: str) -> int:
    """The seed of one prompt's draws: 64 bits of the sha256 of the stage's seed and the prompt's id."""
    return int(digest([seed, prompt_id])[:16], 16)


def _existing(path: Path, role: str) -> Path:
    if not path.exists():
        raise InputError(f"the {role} input has no {path.name} ({path}); run the stage that makes it again")
    return path


def _unique(rows: list[Row]) -> list[Row]:
    repeated = [prompt_id for prompt_id, times in Counter(row.prompt_id for row in rows).items() if times > 1]
    if repeated:
        raise InputError(
            f"prompts.jsonl holds {len(repeated)} prompt ids more than once (first: {repeated[0]}); expected one row a prompt: "
            "fix the prompt source"
        )
    return rows


def _requests(rows: Sequence[Row], tokenizer: Any, settings: GenerateSpec) -> list[Request]:
    """One request a prompt, shortest prompt first, ties by id."""
    sampling = settings.sampling
    requests = [
        Request(
            request_id=row.prompt_id,
            token_ids=prompt_ids(tokenizer, settings.template, row.prompt, sampling.add_bos),
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed_of(settings.seed, row.prompt_id),
        )
        for row in rows
    ]
    return sorted(requests, key=lambda request: (len(request.token_ids), request.request_id))


def _shard_path(out: Path, index: int) -> Path:
    return out / "responses" / f"{index:05}.jsonl"


def _write_shard(path: Path, lines: Sequence[dict[str, Any]], requests: Sequence[Request]) -> None:
    """Write `lines` with those already in the shard, in the order of the requests."""
    position = {request.request_id: i for i, request in enumerate(requests)}
    kept = read_jsonl(path) if path.exists() else ()
    ordered = sorted([*kept, *lines], key=lambda line: position[line["prompt_id"]])
    write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in ordered).encode())


def _line(response: Response, tokenizer: Any) -> dict[str, Any]:
    return {
        "prompt_id": response.request_id,
        "response": tokenizer.decode(response.token_ids, skip_special_tokens=True),
        "finish_reason": response.finish_reason,
        "num_tokens": len(response.token_ids),
    }


def _answered(out: Path, known: set[str]) -> dict[str, dict[str, Any]]:
    """{prompt_id: line} of the shards on disk; a damaged, foreign or repeated line is an `InputError`."""
    answered: dict[str, dict[str, Any]] = {}
    for path in sorted((out / "responses").glob("*.jsonl")):
        for line in read_jsonl(path):
            fault = _fault(line, known, answered)
            if fault:
                raise InputError(f"responses/{path.name} {fault}; remove the file and run again")
            answered[line["prompt_id"]] = line
    return answered


def _fault(line: Any, known: set[str], answered: Mapping[str, Any]) -> str | None:
    if not isinstance(line, dict) or {name: type(value) for name, value in line.items()} != FIELDS:
        return f"holds a line that is not a response (expected {', '.join(FIELDS)})"
    if line["finish_reason"] not in FINISH_REASONS:
        return f"has the finish reason {line['finish_reason']!r} (expected {' or '.join(FINISH_REASONS)})"
    if line["prompt_id"] not in known:
        return f"answers {line['prompt_id']!r}, which is not among the prompts"
    if line["prompt_id"] in answered:
        return f"answers {line['prompt_id']!r} a second time"
    return None


def _write_statistics(out: Path, known: set[str]) -> None:
    """`statistics.json`, after a check that each prompt is answered exactly once."""
    lines = list(_answered(out, known).values())
    if len(lines) != len(known):
        raise InputError(f"{len(known) - len(lines)} of {len(known)} prompts have no response; run the same command again")
    statistics = {
        "num_responses": len(lines),
        "mean_tokens": sum(line["num_tokens"] for line in lines) / len(lines),
        "share_length": sum(line["finish_reason"] == "length" for line in lines) / len(lines),
        "share_empty": sum(not line["response"].strip() for line in lines) / len(lines),
    }
    write_atomic(out / "statistics.json", (json.dumps(statistics, indent=1) + "\n").encode())
