"""Our responses against a released set (SPIN_iter0 to SPIN_iter3, say): how many are the same text, and how far the others run together.

Greedy decoding of the same weights from the same tokens gives the same text but for a few flips of near ties, after which a response goes
its own way; drawn responses, another template or a BOS part within a few words. So a handful of prompts tells which of several runs of ours
decodes as the set was decoded. Blanks around a response are left out, as the released code strips them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

from harness.artifact import RunDir
from harness.errors import InputError
from harness.files import read_jsonl
from harness.runs import pair_files
from harness.training.pairs import Pair

SAME, NEAR = 0.5, 0.25
"""Median shares of the shorter response that both begin with: from SAME on the two decode alike, below NEAR they do not."""


class Comparison(NamedTuple):
    """Over the `matched` prompts that both answer. Lengths in characters; `common_share` is the median share of the shorter response."""

    run: str
    matched: int
    identical: int
    common_prefix: float
    common_share: float
    our_length: float
    their_length: float
    verdict: str


def compare(runs: Sequence[RunDir], iteration: int, source: str, split: str) -> list[Comparison]:
    """Each run's responses of one iteration beside the set's, what agrees most first.

    Raises InputError where a run has no such responses, the set cannot be read, or no prompt is answered in both.
    """
    released, _ = pair_files.read(source, split)
    theirs = {_key(pair): pair.generated or "" for pair in released}
    found = [compare_texts(run.path.name, _responses(run, iteration), theirs, source) for run in runs]
    return sorted(found, key=lambda one: (-one.common_share, -one.identical))


def compare_texts(run: str, ours: Mapping[str, str], theirs: Mapping[str, str], source: str) -> Comparison:
    """{prompt: response} of a run beside that of a set."""
    both = [(ours[prompt].strip(), theirs[prompt].strip()) for prompt in ours if prompt in theirs]
    if not both:
        raise InputError(f"{source} and {run} answer no prompt in common; name the set of the same prompts, or another split")
    prefixes = [_common_prefix(*pair) for pair in both]
    shares = [prefix / max(1, min(map(len, pair))) for prefix, pair in zip(prefixes, both, strict=True)]
    identical = sum(a == b for a, b in both)
    return Comparison(
        run=run,
        matched=len(both),
        identical=identical,
        common_prefix=median(prefixes),
        common_share=median(shares),
        our_length=fmean(len(a) for a, _ in both),
        their_length=fmean(len(b) for _, b in both),
        verdict=_verdict(identical / len(both), median(shares)),
    )


def _common_prefix(a: str, b: str) -> int:
    """How many characters both begin with."""
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _verdict(identical: float, share: float) -> str:
    if identical == 1:
        return "the same responses"
    if share >= SAME:
        return "decoded alike: greedy, from the same weights and prompts but for near ties"
    if share >= NEAR:
        return "in between: nearly the same weights or prompts"
    return "decoded otherwise: drawn, or another template, BOS or weights"


def _responses(run: RunDir, iteration: int) -> dict[str, str]:
    """{prompt's last message: response} of an iteration."""
    folder, prompts = run.stage_dir(f"iter{iteration}/generate") / "responses", run.stage_dir("prompts") / "prompts.jsonl"
    files = sorted(folder.glob("*.jsonl"))
    if not files or not prompts.exists():
        raise InputError(f"{run.path.name} holds no responses of iter{iteration} (they are not committed); run its generation first")
    asked = {row["prompt_id"]: row["prompt"][-1]["content"] for row in read_jsonl(prompts)}
    return {asked[line["prompt_id"]]: line["response"] for file in files for line in read_jsonl(file) if line["prompt_id"] in asked}


def _key(pair: Pair) -> str:
    return pair.prompt[-1]["content"]
