"""MT-Bench's questions: the real ones from the Space lmsys/mt-bench, or procedural ones for tasks called tiny_*."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from harness.contracts import load
from harness.errors import InputError
from harness.files import read_jsonl
from harness.recipe import Task

SPACE, SPACE_REVISION = "lmsys/mt-bench", "b427a0a304ef2e49da0a6c604e969ea09f72c3b6"
QUESTIONS_FILE = "data/mt_bench/question.jsonl"
REFERENCES_FILE = "data/mt_bench/reference_answer/gpt-4.jsonl"
JUDGE_PROMPTS_FILE = "data/judge_prompts.jsonl"
TINY_PREFIX, TINY_QUESTIONS, TINY_SEED = "tiny_", 120, 0


class Question(NamedTuple):
    """A question of two turns; `references` holds a reference answer to each turn, or nothing."""

    question_id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()


def questions_of(task: Task) -> list[Question]:
    """The questions `task` asks; `InputError` when the Space's files could not be loaded."""
    return select(_tiny_questions() if is_tiny(task) else _real_questions(), task.limit)


def is_tiny(task: Task) -> bool:
    """Whether the task asks procedural questions."""
    return task.name.startswith(TINY_PREFIX)


def judge_templates() -> dict[str, dict[str, str]]:
    """The Space's judge prompts by name: system_prompt, prompt_template and more."""
    return {row["name"]: row for row in _space_rows(JUDGE_PROMPTS_FILE)}


def select(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """`limit` questions spread evenly over the categories: the first of each category, then the second of each, and so on."""
    if limit is None:
        return list(questions)
    seen: Counter[str] = Counter()
    rank = {}
    for question in questions:
        rank[question.question_id] = seen[question.category]
        seen[question.category] += 1
    chosen = {q.question_id for q in sorted(questions, key=lambda q: rank[q.question_id])[:limit]}
    return [question for question in questions if question.question_id in chosen]


def _real_questions() -> list[Question]:
    references = {row["question_id"]: tuple(row["choices"][0]["turns"]) for row in _space_rows(REFERENCES_FILE)}
    return [
        Question(str(row["question_id"]), row["category"], tuple(row["turns"]), references.get(row["question_id"], ()))
        for row in _space_rows(QUESTIONS_FILE)
    ]


def _tiny_questions() -> list[Question]:
    """Two instructions of one family of the procedural source's test split to a question."""
    by_family: dict[str, list[str]] = defaultdict(list)
    for example in load("sources", "procedural").sample("test", 2 * TINY_QUESTIONS, TINY_SEED):
        by_family[example.family].append(example.prompt)
    return [
        Question(f"{family}{i // 2}", family, (prompts[i], prompts[i + 1]))
        for family, prompts in by_family.items()
        for i in range(0, len(prompts) - 1, 2)
    ]


def _space_rows(file: str) -> list[dict[str, Any]]:
    try:
        path = hf_hub_download(SPACE, file, repo_type="space", revision=SPACE_REVISION)
    except (OSError, EntryNotFoundError) as error:
        raise InputError(
            f"MT-Bench file {file} of the Space {SPACE}@{SPACE_REVISION[:12]} could not be loaded ({type(error).__name__}); "
            "check the network, or set HF_HUB_CACHE to a cache that holds it"
        ) from None
    return list(read_jsonl(Path(path)))
