"""What the tokenization made of the pairs, looked at before step 0: counts, lengths, and checks that stop the stage.

    audit.json             what was counted, and every check with what was found and expected
    samples/example.json   the first group as text, as the model sees it (kept out of version control: it is the data's own text)

A check that fails stops the stage unless the recipe names it in `accepted_checks`.

    empty_real          a real response without a token besides EOS: nothing is learned from it. None is expected.
    empty_generated     the opponent said nothing; a few such are a sampled policy's own doing, over 20 % are not.
    missing_eos         an uncut real response that does not end in EOS, or a chat template that ends a turn with another token than
                        the tokenizer's EOS: the policy would not learn to stop where generation stops. None is expected.
    double_bos          a prompt that begins with two BOS: the template brought one and the tokenizer another. None is expected.
    identical_pairs     real and generated are the same tokens, so the margin is 0 whatever the policy: over half are lost work.
    cut_prompts         over 20 % of the prompts lost their beginning to `max_prompt_length`.
    cut_real            over 20 % of the real responses lost their end, and with it their EOS, to `max_length`.
    length_shortcut     real is longer in over 98 % of the pairs, or shorter in over 98 %: the policy can tell them apart by length
                        alone and need learn nothing else. Looked at from 50 pairs on; equal lengths count half.
    first_token_shortcut  over 98 % of the generated responses begin with a token that no real one begins with: the policy need
                        learn nothing else. Looked at from 50 pairs on.
    markers_in_prompts  over 1 % of the prompts write out a token such as '<s>' or '<think>', which becomes that token, not text.
    markers_in_responses  the same in over 1 % of the responses, real and generated; under 'modern' special tokens stay text there,
                        and only markers that the tokenizer does not flag as special are found.
    unlike_turns        the chat template begins an answer that is to be generated otherwise than one that is there, as one that opens
                        '<think>' does: responses would be trained in a place where they never stand. Not expected.
    eos_after_text      the tokenizer puts EOS after any text (`add_eos_token`), so users of the checkpoint end every prompt. Not expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any, NamedTuple

from harness.contracts.stage_specs import TrainSpec
from harness.errors import InputError, RecipeError, suggest
from harness.files import write_atomic
from harness.lm.group_logps import Group
from harness.training.batches import Shared, encode

FILE = "audit.json"
EXAMPLE_FILE = "samples/example.json"
QUESTION = {"role": "user", "content": "a question"}
ANSWER = {"role": "assistant", "content": "an answer"}
UNLIMITED = {"max_length": 1 << 40, "max_prompt_length": 1 << 39}
MIN_PAIRS_FOR_SHORTCUTS = 50
LIMITS = {
    "empty_real": 0.0,
    "empty_generated": 0.2,
    "missing_eos": 0.0,
    "double_bos": 0.0,
    "identical_pairs": 0.5,
    "cut_prompts": 0.2,
    "cut_real": 0.2,
    "length_shortcut": 0.98,
    "first_token_shortcut": 0.98,
    "markers_in_prompts": 0.01,
    "markers_in_responses": 0.01,
    "unlike_turns": 0.0,
    "eos_after_text": 0.0,
}
"""Each check's largest accepted share."""
MARKER = re.compile(r"<.*>|\[.*\]")
"""How the added tokens look that stand for something: not the runs of blanks that some tokenizers add."""


class Facts(NamedTuple):
    """Of one group: token counts, and for each pair whether real and generated are the same and which is longer (1 real, 0, 0.5 equal).

    A first token is None where the response is empty.
    """

    prompt: int
    real: int
    generated: tuple[int, ...]
    bos: int
    double_bos: bool
    real_eos: int
    generated_eos: tuple[int, ...]
    empty_real: bool
    empty_generated: tuple[bool, ...]
    missing_eos: bool
    identical: tuple[bool, ...]
    real_longer: tuple[float, ...]
    cut_prompt: bool
    cut_real: bool
    cut_generated: tuple[bool, ...]
    first_real: int | None
    first_generated: tuple[int | None, ...]
    marker_in_prompt: bool
    marker_in_real: bool
    marker_in_generated: tuple[bool, ...]


class Markers(NamedTuple):
    """What finds, in the text of a prompt or of a response, the added tokens that become token ids there."""

    in_prompts: re.Pattern[str]
    in_responses: re.Pattern[str]


def audit(tokenizer: Any, shared: Sequence[Shared], settings: TrainSpec, out: Path | None) -> str:
    """Look at every group, write the files into `out` (None: another process does), and return the findings in a few lines.

    Raises `RecipeError` for an unknown name in `accepted_checks` and `InputError` where a check fails that is not accepted.
    """
    unknown = [name for name in settings.accepted_checks if name not in LIMITS]
    if unknown:
        raise RecipeError(f"accepted_checks names no check called {unknown[0]!r}{suggest(unknown[0], LIMITS)}")
    markers = _markers(tokenizer, settings)
    report = _report([_facts(tokenizer, some, settings, markers) for some in shared], settings.accepted_checks)
    for name in _wrong_with(tokenizer, settings):
        next(check for check in report["checks"] if check["name"] == name)["found"] = 1.0
    if out is not None:
        (out / EXAMPLE_FILE).parent.mkdir(exist_ok=True)
        write_atomic(out / FILE, _json(report))
        write_atomic(out / EXAMPLE_FILE, _json(_example(tokenizer, encode(tokenizer, shared[0], settings))))
    failing = [check for check in report["checks"] if check["found"] > check["limit"] and not check["accepted"]]
    if failing:
        failures = "; ".join(f"{check['name']} {check['found']:.1%} (at most {check['limit']:.0%})" for check in failing)
        raise InputError(f"the audit before step 0 fails: {failures}; see {FILE}, correct the recipe, or name them in its accepted_checks")
    return _brief(report)


def _facts(tokenizer: Any, shared: Shared, settings: TrainSpec, markers: Markers) -> Facts:
    group = whole = encode(tokenizer, shared, settings)
    if _may_be_cut(group, settings):
        whole = encode(tokenizer, shared, settings.model_copy(update=UNLIMITED))
    num_generated = sum(pair.generated is not None for pair in shared)
    real, generated = group.branches[0], group.branches[1 : 1 + num_generated]
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    return Facts(
        prompt=len(group.prompt),
        real=len(real),
        generated=tuple(map(len, generated)),
        bos=0 if bos is None else group.prompt.count(bos),
        double_bos=bos is not None and group.prompt[:2] == [bos, bos],
        real_eos=real.count(eos),
        generated_eos=tuple(response.count(eos) for response in generated),
        empty_real=not shared[0].real.strip() or not real,
        empty_generated=tuple(not (pair.generated or "").strip() for pair in shared[:num_generated]),
        missing_eos=len(real) == len(whole.branches[0]) and real[-1:] != [eos],
        identical=tuple(response == real for response in generated),
        real_longer=tuple(0.5 if len(response) == len(real) else float(len(real) > len(response)) for response in generated),
        cut_prompt=len(group.prompt) < len(whole.prompt),
        cut_real=len(real) < len(whole.branches[0]),
        cut_generated=tuple(map(_is_shorter, generated, whole.branches[1:])),
        first_real=_first(real),
        first_generated=tuple(map(_first, generated)),
        marker_in_prompt=any(markers.in_prompts.search(message["content"]) for message in shared[0].prompt),
        marker_in_real=markers.in_responses.search(shared[0].real) is not None,
        marker_in_generated=tuple(markers.in_responses.search(pair.generated or "") is not None for pair in shared[:num_generated]),
    )


def _first(tokens: Sequence[int]) -> int | None:
    return tokens[0] if tokens else None


def _markers(tokenizer: Any, settings: TrainSpec) -> Markers:
    added = [token for token in tokenizer.added_tokens_decoder.values() if MARKER.fullmatch(token.content)]
    in_responses = [token for token in added if settings.tokenization == "release" or not token.special]
    return Markers(*(_any_of([token.content for token in some]) for some in (added, in_responses)))


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """What finds any of `texts`; never, where there are none."""
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def _wrong_with(tokenizer: Any, settings: TrainSpec) -> Iterator[str]:
    """The checks that the tokenizer and its chat template fail, whatever the pairs."""
    if tokenizer("a text")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        yield "eos_after_text"
    if settings.template == "chat":
        if not _ends_turns_with_eos(tokenizer):
            yield "missing_eos"
        if not _begins_turns_as_generation(tokenizer):
            yield "unlike_turns"


def _ends_turns_with_eos(tokenizer: Any) -> bool:
    """Whether EOS comes right after the text of an assistant's turn in the tokenizer's chat template."""
    rendered = str(tokenizer.apply_chat_template([QUESTION, ANSWER], tokenize=False))
    return rendered.rpartition(ANSWER["content"])[2].lstrip().startswith(tokenizer.eos_token or "no EOS")


def _begins_turns_as_generation(tokenizer: Any) -> bool:
    """Whether a conversation up to an assistant's answer is what the template writes where an answer is to be generated."""
    asked = str(tokenizer.apply_chat_template([QUESTION], tokenize=False, add_generation_prompt=True))
    return str(tokenizer.apply_chat_template([QUESTION, ANSWER], tokenize=False)).startswith(asked.rstrip())


def _may_be_cut(group: Group, settings: TrainSpec) -> bool:
    """Whether a part is as long as the shortest cut one can be, so that only the tokens without limits can tell."""
    room = settings.max_length - settings.max_prompt_length
    return len(group.prompt) >= settings.max_prompt_length or any(len(branch) >= room for branch in group.branches)


def _is_shorter(cut: Sequence[int], whole: Sequence[int]) -> bool:
    return len(cut) < len(whole)


def _report(facts: Sequence[Facts], accepted: Sequence[str]) -> dict[str, Any]:
    pairs = [values for group in facts for values in zip(*_per_pair(group), strict=True)]
    lengths, eos, empty, identical, longer, cut = zip(*pairs, strict=True) if pairs else ((),) * 6
    longer_share = _share(longer)
    shares = {
        "empty_real": _share(group.empty_real for group in facts),
        "empty_generated": _share(empty),
        "missing_eos": _share(group.missing_eos for group in facts),
        "double_bos": _share(group.double_bos for group in facts),
        "identical_pairs": _share(identical),
        "cut_prompts": _share(some.cut_prompt for some in facts),
        "cut_real": _share(some.cut_real for some in facts),
        "length_shortcut": max(longer_share, 1 - longer_share) if len(pairs) >= MIN_PAIRS_FOR_SHORTCUTS else 0.0,
        "first_token_shortcut": _first_token_shortcut(facts) if len(pairs) >= MIN_PAIRS_FOR_SHORTCUTS else 0.0,
        "markers_in_prompts": _share(some.marker_in_prompt for some in facts),
        "markers_in_responses": _share(found for some in facts for found in (some.marker_in_real, *some.marker_in_generated)),
        "unlike_turns": 0.0,
        "eos_after_text": 0.0,
    }
    return {
        "num_groups": len(facts),
        "num_pairs": max(len(pairs), len(facts)),
        "prompt": {"lengths": _distribution([group.prompt for group in facts]), "bos": sum(group.bos for group in facts)},
        "real": {"lengths": _distribution([group.real for group in facts]), "eos": sum(group.real_eos for group in facts)},
        "generated": {"lengths": _distribution(lengths), "eos": sum(eos), "cut": _share(cut)} if pairs else None,
        "real_longer": longer_share if pairs else None,
        "checks": [
            {"name": name, "found": round(share, 6), "limit": LIMITS[name], "accepted": name in accepted} for name, share in shares.items()
        ],
    }


def _first_token_shortcut(facts: Sequence[Facts]) -> float:
    """The share of the generated responses that begin with a token no real one begins with."""
    real = {some.first_real for some in facts}
    return _share(token not in real for some in facts for token in some.first_generated)


def _per_pair(some: Facts) -> tuple[Sequence[Any], ...]:
    return some.generated, some.generated_eos, some.empty_generated, some.identical, some.real_longer, some.cut_generated


def _share(values: Iterable[float]) -> float:
    known = list(values)
    return fmean(known) if known else 0.0


def _distribution(lengths: Sequence[int]) -> dict[str, float]:
    """Tokens: mean, extremes and the tenth, fifth (median) and ninth tenth."""
    tenths = quantiles(lengths, n=10, method="inclusive") if len(lengths) > 1 else [float(lengths[0])] * 9
    return {
        "mean": round(fmean(lengths), 2),
        "min": min(lengths),
        "p10": round(tenths[0], 1),
        "p50": round(tenths[4], 1),
        "p90": round(tenths[8], 1),
        "max": max(lengths),
    }


def _example(tokenizer: Any, group: Group) -> dict[str, Any]:
    """The first group: text with every special token, and the ids; hidden_keys are the places no later token attends to."""
    parts = zip((group.prompt, *group.branches), (group.prompt_keys or [], *(group.branch_keys or [])), strict=True)
    shown = [
        {"text": tokenizer.decode(ids), "ids": ids, "hidden_keys": [place for place, key in enumerate(keys) if not key]}
        for ids, keys in parts
    ]
    return {"prompt": shown[0], "responses": shown[1:]}


def _brief(report: dict[str, Any]) -> str:
    sides = []
    for side in ("prompt", "real", "generated"):
        if report[side]:
            lengths = report[side]["lengths"]
            sides.append(f"{side} {lengths['mean']:.0f} ({lengths['min']}-{lengths['max']})")
    failed = [check["name"] for check in report["checks"] if check["found"] > check["limit"]]
    longer = "" if report["real_longer"] is None else f", real longer in {report['real_longer']:.0%}"
    verdict = f"accepted although failing: {', '.join(failed)}" if failed else f"{len(report['checks'])} checks hold"
    return f"  audit: {report['num_pairs']} pairs, mean tokens {', '.join(sides)}{longer}; {verdict}"


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
