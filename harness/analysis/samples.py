"""Samples by question: `scores/TASK.json` has each question's score under an id, `samples/TASK.jsonl` what was asked and said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class Answered(NamedTuple):
    """A question by its id in `Score.values`, its line of samples, and of MT-Bench which turn of it, from 0."""

    question: str
    line: Mapping[str, Any]
    turn: int | None = None

    @property
    def prompt(self) -> str:
        """What was asked, few-shot examples included; of MT-Bench the turn's question alone. Empty where a benchmark does not tell."""
        return str(self.line.get("prompt", "") if self.turn is None else self.line["questions"][self.turn])

    @property
    def said(self) -> str:
        """What the model said, or which ending it found most likely; empty where a benchmark does not tell."""
        if self.turn is not None:
            return str(self.line["answers"][self.turn])
        if "response" in self.line:
            return str(self.line["response"])
        found = self.line.get("responses", ())
        if not found or all(isinstance(one[0], str) for one in found):
            return str(found[0][0]) if found else ""
        logps = [float(one[0][0]) for one in found]
        return f"ending {logps.index(max(logps)) + 1} of {len(logps)}; log-probabilities {', '.join(f'{logp:.2f}' for logp in logps)}"


def answered(lines: Iterable[Mapping[str, Any]]) -> Iterator[Answered]:
    """Each question of a task's samples, an MT-Bench line once a turn."""
    numbers = Numbered()
    for line in lines:
        if "answers" in line:
            yield from (Answered(f"{line['question_id']}-{turn + 1}", line, turn) for turn in range(len(line["answers"])))
        else:
            yield Answered(numbers(str(line["id"])), line)


class Numbered:
    """Gives an id as it is when it comes first, then with '#2', '#3', ..., as scores name questions that recur."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def __call__(self, name: str) -> str:
        """`name`, with how often it came where that is not once."""
        self.seen[name] += 1
        return name if self.seen[name] == 1 else f"{name}#{self.seen[name]}"
