"""A rule, not a model: grades procedural MT-Bench turns by checking the answer against the instruction. For the tiny recipe only."""

from __future__ import annotations

from harness.contracts import Turn, load

VERSION = 1
NEEDS_MODEL = False


def decide(turn: Turn) -> str:
    """The verdict on the turn's last answer, deterministic, in the format the other judges answer in: 'Rating: [[n]]', n from 1 to 10."""
    grade = load("sources", "procedural").grade(turn.questions[-1], turn.answers[-1])
    return f"Graded by rule. Rating: [[{grade}]]"


def parse(verdict: str) -> float | None:
    """The rating in a verdict, read as a model's would be."""
    rating: float | None = load("judges", "mt_bench_single").parse(verdict)
    return rating


def is_fallback(verdict: str) -> bool:
    """Never: the rule speaks the format."""
    return False
