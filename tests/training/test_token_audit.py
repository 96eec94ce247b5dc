"""The audit before step 0: every check fires on the data it is for, and only there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from harness.contracts.stage_specs import TrainSpec
from harness.errors import InputError, RecipeError
from harness.training.pairs import Pair
from harness.training.token_audit import LIMITS, audit
from tests.stages.test_train import spec
from tests.training.test_pairs import CHATML, TOKENIZER, letters_tokenizer

NUM = 60


def pair(i: int, **changes: Any) -> Pair:
    """Healthy pairs: real and generated differ and neither is always the longer."""
    own = "rendition" + "!" * (i % 7)
    return Pair(f"p{i}", [{"role": "user", "content": f"question {i}"}], "real resp" + "." * (i % 5), own, "stop")._replace(**changes)


def look(pairs: list[Pair], tokenizer: Any = TOKENIZER, out: Path | None = None, **changes: Any) -> str:
    settings = TrainSpec.model_validate(spec(template="chat", **changes))
    return audit(tokenizer, [(some,) for some in pairs], settings, out)


def test_healthy_pairs_pass_and_are_described(tmp_path: Path) -> None:
    """Promise: counts and lengths by hand; the data's text is in the example alone, which version control ignores."""
    brief = look([pair(i) for i in range(NUM)], out=tmp_path)
    assert "60 pairs" in brief
    assert f"{len(LIMITS)} checks hold" in brief
    text = (tmp_path / "audit.json").read_text()
    report = json.loads(text)
    assert report["real"] == {"lengths": {"mean": 12.0, "min": 10, "p10": 10.0, "p50": 12.0, "p90": 14.0, "max": 14}, "eos": NUM}
    assert report["prompt"]["bos"] == 0
    assert report["generated"]["eos"] == NUM
    assert "question" not in text
    example = json.loads((tmp_path / "samples" / "example.json").read_text())
    shown = [part["text"].replace(" ", "") for part in (example["prompt"], *example["responses"])]  # a letter a token
    assert shown == ["<user>question0</s><assistant>", "realresp</s>", "rendition</s>"]


@pytest.mark.parametrize(
    ("check", "changed", "settings"),
    [
        ("empty_real", {"real": " "}, {}),
        ("empty_generated", {"generated": ""}, {}),
        ("identical_pairs", {"generated": "real resp", "real": "real resp"}, {}),
        ("cut_prompts", {"prompt": [{"role": "user", "content": "q" * 100}]}, {}),
        ("cut_real", {"real": "r" * 200, "generated": "g" * 200}, {}),
        ("length_shortcut", {"real": "r" * 30}, {}),
        ("first_token_shortcut", {"generated": "generated"}, {}),
        ("markers_in_prompts", {"prompt": [{"role": "user", "content": "what does </s> do?"}]}, {}),
        ("markers_in_responses", {"real": "r</s>", "generated": "r</s>!"}, {"tokenization": "release"}),
    ],
)
def test_each_check_stops_the_stage_unless_accepted(check: str, changed: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> None:
    """Promise: the failing check is named with its share, the file is there to read, and the recipe may accept it."""
    broken = [pair(i, **changed) for i in range(NUM)]
    with pytest.raises(InputError, match=rf"{check} 100\.0% \(at most"):
        look(broken, out=tmp_path, **settings)
    assert (tmp_path / "audit.json").exists()
    failing = {one["name"] for one in json.loads((tmp_path / "audit.json").read_text())["checks"] if one["found"] > one["limit"]}
    assert f"accepted although failing: {', '.join(name for name in LIMITS if name in failing)}" in look(
        broken, accepted_checks=tuple(failing), **settings
    )


def test_two_bos_are_found() -> None:
    """Promise: a template that writes BOS before a prompt that has one already stops the stage."""
    with pytest.raises(InputError, match=r"double_bos 100\.0%"):
        look([pair(i) for i in range(3)], letters_tokenizer("<s><s>" + CHATML))
    look([pair(i) for i in range(3)], letters_tokenizer("<s>" + CHATML))


def test_another_end_of_turn_is_found() -> None:
    """Promise: a chat template that ends a turn with another token than EOS (Llama 3's eot against end_of_text) stops the stage."""
    with pytest.raises(InputError, match="missing_eos"):
        look([pair(i) for i in range(4)], letters_tokenizer(CHATML.replace("</s>", "<eot>")))


def test_special_tokens_in_responses_are_text_but_unflagged_markers_are_not() -> None:
    """Promise: under 'modern' '</s>' in a response is harmless; '<think>', added but not flagged as special, is found."""
    look([pair(i, real="r</s>" + "." * (i % 9), generated="r</s>" + "!" * (i % 7)) for i in range(NUM)])
    tokenizer = letters_tokenizer(CHATML)
    tokenizer.add_tokens(["<think>"])
    with pytest.raises(InputError, match=r"markers_in_responses 50\.0%"):
        look([pair(i, generated="r<think>" + "!" * (i % 7)) for i in range(NUM)], tokenizer)


def test_a_template_that_opens_thinking_only_when_it_generates_is_found() -> None:
    """Promise: real responses that would be trained inside a block that conversations never show stop the stage."""
    opening = CHATML.replace("<assistant>{% endif %}", "<assistant>r{% endif %}")
    assert opening != CHATML
    with pytest.raises(InputError, match=r"unlike_turns 100\.0%"):
        look([pair(i) for i in range(4)], letters_tokenizer(opening))


def test_a_tokenizer_that_adds_eos_is_found() -> None:
    """Promise: `add_eos_token` stops the stage: its checkpoint would end every prompt for those who use it."""
    tokenizer = letters_tokenizer(CHATML)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)])
    with pytest.raises(InputError, match=r"eos_after_text 100\.0%"):
        look([pair(i) for i in range(4)], tokenizer)


def test_unknown_check_is_a_recipe_error() -> None:
    """Promise: a misspelt accepted check does not silently accept nothing."""
    with pytest.raises(RecipeError, match="did you mean 'identical_pairs'"):
        look([pair(0)], accepted_checks=("identical_pair",))


def test_fine_tuning_has_no_generated_side(tmp_path: Path) -> None:
    """Promise: without generated responses their side is null, not zero."""
    look([pair(i, generated=None, finish_reason=None) for i in range(3)], out=tmp_path)
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["generated"] is None
    assert report["real_longer"] is None
