"""FastChat's single-answer grading of MT-Bench (lm-sys/FastChat, fastchat/llm_judge/common.py): prompt and verdict parser; pure.

This is the MT-Bench protocol, for numbers that stand beside others made under it. mt_bench_strict reads verdicts more carefully.

A turn of a math, reasoning or coding question is graded against GPT-4's reference answers, every other turn without. The prompts
themselves are `data/judge_prompts.jsonl` of the Space lmsys/mt-bench; the benchmark loads them and hands them over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from harness.contracts import Turn
from harness.errors import InputError

VERSION = 1
NEEDS_MODEL = True

REFERENCE_CATEGORIES = ("math", "reasoning", "coding")
RATING_PATTERNS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
LOWEST, HIGHEST = 1.0, 10.0

Templates = Mapping[str, Mapping[str, str]]
"""{name: {"system_prompt", "prompt_template"}}, the rows of judge_prompts.jsonl by name."""


def template_name(turn: Turn) -> str:
    """The name in judge_prompts.jsonl of the prompt that grades this turn."""
    kind = "math-v1" if turn.category in REFERENCE_CATEGORIES else "v1"
    return f"single-{kind}{'-multi-turn' if len(turn.questions) > 1 else ''}"


def render(turn: Turn, templates: Templates) -> list[dict[str, str]]:
    """The judge's chat messages for a turn: the system prompt and the user prompt."""
    name = template_name(turn)
    if name not in templates:
        raise InputError(f"judge_prompts.jsonl has no prompt {name!r}; expected the file of the Space lmsys/mt-bench")
    if turn.category in REFERENCE_CATEGORIES and len(turn.references) < len(turn.questions):
        raise InputError(
            f"MT-Bench question {turn.question_id} ({turn.category}) has {len(turn.references)} reference answers, "
            f"expected {len(turn.questions)}; check data/mt_bench/reference_answer/gpt-4.jsonl of the Space lmsys/mt-bench"
        )
    user = templates[name]["prompt_template"].format(**_fields(turn))
    return [{"role": "system", "content": templates[name]["system_prompt"]}, {"role": "user", "content": user}]


def _fields(turn: Turn) -> dict[str, str]:
    fields = {"question": turn.questions[0], "answer": turn.answers[0]}
    for name, texts in (("question", turn.questions), ("answer", turn.answers), ("ref_answer", turn.references)):
        fields |= {f"{name}_{number}": text for number, text in enumerate(texts, 1)}
    return fields


def parse(verdict: str) -> float | None:
    """The rating in a verdict: [[rating]], else [rating] as FastChat falls back to.

    None when there is no rating, one outside 1 to 10, or two that differ (FastChat takes the first of them).
    """
    for pattern in RATING_PATTERNS:
        ratings = _ratings(pattern, verdict)
        if ratings:
            rating = ratings.pop()
            return rating if not ratings and LOWEST <= rating <= HIGHEST else None
    return None


def is_fallback(verdict: str) -> bool:
    """Whether the rating is read from single brackets."""
    return parse(verdict) is not None and not _ratings(RATING_PATTERNS[0], verdict)


def _ratings(pattern: re.Pattern[str], verdict: str) -> set[float]:
    return {float(text) for text in pattern.findall(verdict)}
