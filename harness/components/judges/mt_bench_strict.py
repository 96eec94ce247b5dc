"""MT-Bench's single-answer grading with verdicts read strictly: FastChat's prompts, and only what stands as "Rating: [[n]]" is a rating.

FastChat's rule (mt_bench_single) takes the first [[n]] of the text, else the first [n]: a quoted rating, one in the judge's thinking, or
the number of a step. Here thinking is left out, and of what stands as "Rating:" before a number or a bracket the last one decides. It is a
rating as [[n]], spaces, escapes and markdown emphasis allowed, or by fallback as [n]; n from 1 to 10. Everything else is unscored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from harness.contracts import Turn, load
from harness.evaluation.mt_bench.ratings import without_thinking

VERSION = 1
NEEDS_MODEL = True

_QUOTE = r"""["'\u201c\u2018\u201e\u00ab]"""
_MARKS, _NUMBER = r"[\s*_`]*", r"\s*(\d+(?:\.\d+)?)\s*"
CLAIM = re.compile(rf"(?P<quote>{_QUOTE})?[*_`]{{0,4}}(?<![a-z])rating{_MARKS}[:\uff1a]{_MARKS}(?=\\?\[|\d)", re.IGNORECASE)
"""Where a rating is claimed; in quotation marks somebody else's claim is cited."""
DOUBLE, SINGLE = re.compile(rf"\\?\[\s*\\?\[{_NUMBER}\\?\]\s*\\?\]"), re.compile(rf"\\?\[{_NUMBER}\\?\]")
LOWEST, HIGHEST = 1.0, 10.0


def render(turn: Turn, templates: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """The judge's chat messages for a turn: FastChat's."""
    messages: list[dict[str, str]] = load("judges", "mt_bench_single").render(turn, templates)
    return messages


def parse(verdict: str) -> float | None:
    """The rating the verdict ends in; None where none stands as one, or one outside 1 to 10 does."""
    claim = _last_claim(verdict)
    found = DOUBLE.match(claim) or SINGLE.match(claim)
    rating = float(found[1]) if found else None
    return rating if rating is not None and LOWEST <= rating <= HIGHEST else None


def is_fallback(verdict: str) -> bool:
    """Whether the rating is read from single brackets."""
    return parse(verdict) is not None and not DOUBLE.match(_last_claim(verdict))


def _last_claim(verdict: str) -> str:
    """The text after the last "Rating:" that is the judge's own; empty where there is none."""
    said = without_thinking(verdict)
    own = [claim.end() for claim in CLAIM.finditer(said) if not claim["quote"]]
    return said[own[-1] :] if own else ""
