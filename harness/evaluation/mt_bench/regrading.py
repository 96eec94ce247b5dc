"""Answers that others judged, graded by another judge: FastChat's judgments in, FastChat's judgments out.

Each judgment holds what its judge was asked (`user_prompt`), the answers with it, so the other judge is asked the very same: no answer is
made and no question rendered again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.contracts import Turn, load
from harness.errors import InputError
from harness.evaluation.judge_endpoint import Endpoint, Verdict, collect
from harness.evaluation.mt_bench.questions import judge_templates
from harness.evaluation.mt_bench.ratings import FASTCHAT_UNREADABLE, Judgment, read_judgments
from harness.files import write_jsonl
from harness.machine import Machine
from harness.recipe import Judge


def regrade(files: Sequence[Path], judge: Judge, machine: Machine, out: Path) -> list[dict[str, Any]]:
    """Ask `judge` what the judgments' own were asked, once a repeat, and write its judgments to `out`; they are returned.

    Verdicts are kept beside `out` until all are there, so a call that was cut short asks for the missing ones alone. A turn whose request
    the endpoint refused has no line.
    """
    component = load("judges", judge.name)
    if not component.NEEDS_MODEL or judge.model is None:
        raise InputError(f"the judge {judge.name} is a rule or names no model; expected a judge that can be asked, with judge.model")
    first = _first_of_each(read_judgments(files))
    templates, endpoint = judge_templates(), Endpoint(judge, out.with_suffix(".verdicts"), machine)
    turns = {f"{key}.{repeat + 1}": one for key, one in first.items() for repeat in range(judge.repeats)}

    def ask(key: str, _: Turn) -> Verdict:
        one = turns[key]
        if one.template not in templates:
            raise InputError(f"{one.place} was asked with the prompt {one.template!r}, which judge_prompts.jsonl has not")
        system = {"role": "system", "content": templates[one.template]["system_prompt"]}
        return endpoint.ask(key, [system, {"role": "user", "content": str(one.prompt)}])

    verdicts = collect({key: Turn(one.question_id, "", (), (), ()) for key, one in turns.items()}, ask, machine.judge_threads)
    lines = list(_lines(turns, verdicts, str(judge.model), component.parse))
    write_jsonl(out, lines)
    return lines


def _first_of_each(judgments: Sequence[Judgment]) -> dict[str, Judgment]:
    """One judgment of each turn of each model, whoever judged it."""
    found: dict[str, Judgment] = {}
    for one in judgments:
        if one.prompt is None:
            raise InputError(f"{one.place} has no user_prompt, so what its judge was asked is not known; expected judgments that have it")
        other = found.setdefault(f"{one.model}-{one.question_id}-{one.turn}".replace("/", "__"), one)
        if other.prompt != one.prompt:
            raise InputError(f"{one.place} and {other.place} grade different answers of {one.model}; grade each run by itself")
    return found


def _lines(
    turns: dict[str, Judgment], verdicts: dict[str, Verdict], model: str, parse: Callable[[str], float | None]
) -> Iterator[dict[str, Any]]:
    for key, one in turns.items():
        verdict = verdicts[key]
        if verdict.refused is None:
            rating = parse(verdict.text)
            yield {
                "question_id": int(one.question_id) if one.question_id.isdigit() else one.question_id,
                "model": one.model,
                "judge": [model, one.template],
                "user_prompt": one.prompt,
                "judgment": verdict.text,
                "score": FASTCHAT_UNREADABLE if rating is None else rating,
                "turn": one.turn,
                "repeat": int(key.rpartition(".")[2]),
            }
