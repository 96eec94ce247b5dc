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
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any, NamedTuple

from harness.contracts import TrainSpec
from harness.errors import InputError, RecipeError, suggest
from harness.files import write_atomic
from harness.lm.group_logps import Group
from harness.training.batches import Shared, encode

FILE = "audit.json"
EXAMPLE_FILE = "samples/example.json"
UNLIMITED = {"max_length": 1 << 40, "max_prompt_length": 1 << 39}
MIN_PAIRS_FOR_LENGTHS = 50
LIMITS = {
    "empty_real": 0.0,
    "empty_generated": 0.2,
    "missing_eos": 0.0,
    "double_bos": 0.0,
    "identical_pairs": 0.5,
    "cut_prompts": 0.2,
    "cut_real": 0.2,
    "length_shortcut": 0.98,
}
"""Each check's largest accepted share."""


class Facts(NamedTuple):
    """Of one group: token counts, and for each pair whether real and generated are the same and which is longer (1 real, 0, 0.5 equal)."""

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


def audit(tokenizer: Any, shared: Sequence[Shared], settings: TrainSpec, out: Path | None) -> str:
    """Look at every group, write the files into `out` (None: another process does), and return the findings in a few lines.

    Raises `RecipeError` for an unknown name in `accepted_checks` and `InputError` where a check fails that is not accepted.
    """
    unknown = [name for name in settings.accepted_checks if name not in LIMITS]
    if unknown:
        raise RecipeError(f"accepted_checks names no check called {unknown[0]!r}{suggest(unknown[0], LIMITS)}")
    report = _report([_facts(tokenizer, pairs, settings) for pairs in shared], settings.accepted_checks)
    if settings.template == "chat" and not _ends_turns_with_eos(tokenizer):
        next(check for check in report["checks"] if check["name"] == "missing_eos")["found"] = 1.0
    if out is not None:
        (out / EXAMPLE_FILE).parent.mkdir(exist_ok=True)
        write_atomic(out / FILE, _json(report))
        write_atomic(out / EXAMPLE_FILE, _json(_example(tokenizer, encode(tokenizer, shared[0], settings))))
    failing = [check for check in report["checks"] if check["found"] > check["limit"] and not check["accepted"]]
    if failing:
        failures = "; ".join(f"{check['name']} {check['found']:.1%} (at most {check['limit']:.0%})" for check in failing)
        raise InputError(f"the audit before step 0 fails: {failures}; see {FILE}, correct the recipe, or name them in its accepted_checks")
    return _brief(report)


def _facts(tokenizer: Any, shared: Shared, settings: TrainSpec) -> Facts:
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
    )


def _ends_turns_with_eos(tokenizer: Any) -> bool:
    """Whether EOS comes right after the text of an assistant's turn in the tokenizer's chat template."""
    text = "an answer"
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": text}]
    rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    return rendered.rpartition(text)[2].lstrip().startswith(tokenizer.eos_token or "no EOS")


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
        "cut_prompts": _share(group.cut_prompt for group in facts),
        "cut_real": _share(group.cut_real for group in facts),
        "length_shortcut": max(longer_share, 1 - longer_share) if len(pairs) >= MIN_PAIRS_FOR_LENGTHS else 0.0,
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


def _per_pair(group: Facts) -> tuple[Sequence[Any], ...]:
    return group.generated, group.generated_eos, group.empty_generated, group.identical, group.real_longer, group.cut_generated


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
