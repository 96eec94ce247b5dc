"""Pairs are complete or refused, and token ids are what the two tokenizations say, token by token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from harness.contracts import Demonstration
from harness.errors import InputError, RecipeError
from harness.recipe import Chat
from harness.training.pairs import Encoding, Pair, encode_pair, prompt_ids, read_pairs, render_prompt, write_demonstrations

SPECIAL = ("<s>", "</s>", "<unk>")
LETTERS = [chr(code) for code in range(32, 127)] + ["\n"]
CHATML = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
BOS, EOS = 0, 1


def letters_tokenizer(chat_template: str | None = CHATML, letters: Sequence[str] = LETTERS) -> PreTrainedTokenizerFast:
    """A character a token; pad is EOS, as in SmolLM2."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>")),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = chat_template
    return tokenizer


TOKENIZER = letters_tokenizer()


def ids(text: str) -> list[int]:
    """Ids of `text` by hand: '^' stands for EOS."""
    return [EOS if char == "^" else len(SPECIAL) + LETTERS.index(char) for char in text]


def pair(real: str = "yes", generated: str | None = "no", finish_reason: str | None = "stop", prompt: str = "Q") -> Pair:
    return Pair("p0", [{"role": "user", "content": prompt}], real, generated, finish_reason)


def hidden(keys: list[bool]) -> list[int]:
    return [place for place, visible in enumerate(keys) if not visible]


def test_templates() -> None:
    """Promise: the three prompts, character by character; later turns follow in the same form."""
    turns = [{"role": "user", "content": "{Q}"}]
    more = [*turns, {"role": "assistant", "content": "A"}, {"role": "user", "content": "R"}]
    assert render_prompt(TOKENIZER, "alpaca", turns) == "### Instruction: {Q}\n\n### Response: "
    assert render_prompt(TOKENIZER, "alpaca", more).endswith("### Response: A\n\n### Instruction: R\n\n### Response: ")
    assert render_prompt(TOKENIZER, "zephyr", turns) == "<|system|>\n</s>\n<|user|>\n{Q}</s>\n<|assistant|>\n"
    system = [{"role": "system", "content": "S"}, *turns]
    assert render_prompt(TOKENIZER, "zephyr", system) == "<|system|>\nS</s>\n<|user|>\n{Q}</s>\n<|assistant|>\n"
    assert render_prompt(TOKENIZER, "chat", turns) == "<user>{Q}</s><assistant>"


def test_bos_is_added_once_and_only_on_request() -> None:
    """Promise: `add_bos` decides; a template that brings its own BOS does not get a second."""
    turns = [{"role": "user", "content": "Q"}]
    assert BOS not in prompt_ids(TOKENIZER, "alpaca", turns, add_bos=False)
    assert prompt_ids(TOKENIZER, "alpaca", turns, add_bos=True).count(BOS) == 1
    own = letters_tokenizer("<s>" + CHATML)
    assert prompt_ids(own, "chat", turns, add_bos=True).count(BOS) == 1


def test_templates_that_cannot_be_had() -> None:
    """Promise: an unknown template or a tokenizer without chat template is one clear line."""
    turns = [{"role": "user", "content": "Q"}]
    with pytest.raises(RecipeError, match="defines no chat template"):
        render_prompt(letters_tokenizer(None), "chat", turns)
    with pytest.raises(RecipeError, match="known: alpaca, chat, zephyr"):
        render_prompt(TOKENIZER, "vicuna", turns)


def test_release_golden_ids() -> None:
    """Promise (FIELD.md 0.6): the tail is '</s> \\n </s>'; interior EOS are hidden, the appended one is not; no BOS; cut responses too."""
    encoding = Encoding("zephyr", "release", 1024, 512)
    for finish_reason in ("stop", "length"):
        prompt, (real, generated) = encode_pair(TOKENIZER, pair(finish_reason=finish_reason), encoding)
        assert prompt.ids == ids("<|system|>\n^\n<|user|>\nQ^\n<|assistant|>\n")
        assert hidden(prompt.keys) == [11, 23]
        assert (real.ids, hidden(real.keys)) == (ids("yes^\n^"), [3])
        assert (generated.ids, hidden(generated.keys)) == (ids("no^\n^"), [2])


def test_release_truncation() -> None:
    """Promise: first the prompt keeps its end, and only if the longer response still does not fit are both responses cut."""
    prompt, (real, generated) = encode_pair(TOKENIZER, pair("y" * 9, "n", prompt="Q" * 40), Encoding("alpaca", "release", 30, 20))
    assert prompt.ids == ids("QQQQ\n\n### Response: ")[-20:]
    assert len(real.ids) == 10
    assert generated.ids == ids("n^")
    prompt, (real, generated) = encode_pair(TOKENIZER, pair("y" * 19, "n" * 12), Encoding("alpaca", "release", 30, 20))
    assert len(prompt.ids) == 20
    assert real.ids == ids("y" * 10)
    assert generated.ids == ids("n" * 10)
    prompt, (real, _) = encode_pair(TOKENIZER, pair("y" * 19, "n" * 12), Encoding("alpaca", "release", 60, 20))
    assert len(prompt.ids) == len(ids("### Instruction: Q\n\n### Response: "))
    assert real.ids == ids("y" * 19 + "^")


def test_modern_has_one_eos_at_the_end() -> None:
    """Promise: one EOS after a response, none after one cut by length, and '</s>' written in a text is text. Nothing is hidden."""
    encoding = Encoding("chat", "modern", 1024, 512)
    prompt, (real, generated) = encode_pair(TOKENIZER, pair(), encoding)
    assert prompt.ids == ids("<user>Q^<assistant>")
    assert (real.ids, generated.ids) == (ids("yes^"), ids("no^"))
    assert all(prompt.keys)
    assert all(real.keys)
    assert all(generated.keys)
    _, (real, generated) = encode_pair(TOKENIZER, pair("a</s>b", "no", "length"), encoding)
    assert real.ids == ids("a</s>b^")
    assert generated.ids == ids("no")
    _, responses = encode_pair(TOKENIZER, pair(generated=None, finish_reason=None), encoding)
    assert len(responses) == 1


def test_modern_truncation() -> None:
    """Promise: the prompt keeps its last `max_prompt_length` tokens and the whole is at most `max_length`."""
    prompt, (real, generated) = encode_pair(TOKENIZER, pair("y" * 50, "n"), Encoding("chat", "modern", 24, 12))
    assert prompt.ids == ids("Q^<assistant>")[-12:]
    assert len(real.ids) == 12
    assert EOS not in real.ids
    assert generated.ids == ids("n^")


def write_inputs(folder: Path, responses: dict[int, list[str]], num_rows: int = 3) -> dict[str, Path]:
    rows = [Demonstration(f"p{i}", [{"role": "user", "content": f"Q{i}"}], f"real {i}") for i in range(num_rows)]
    inputs = {"prompts": folder / "prompts"}
    inputs["prompts"].mkdir()
    write_demonstrations(inputs["prompts"] / "prompts.jsonl", rows)
    for t, prompt_ids_answered in responses.items():
        inputs[f"responses{t}"] = folder / f"iter{t}"
        (inputs[f"responses{t}"] / "responses").mkdir(parents=True)
        for shard, prompt_id in enumerate(prompt_ids_answered):
            line = {"prompt_id": prompt_id, "response": f"{prompt_id} of {t}", "finish_reason": "stop", "num_tokens": 3}
            (inputs[f"responses{t}"] / "responses" / f"{shard:05}.jsonl").write_text(json.dumps(line) + "\n")
    return inputs


def test_pairs_of_all_iterations(tmp_path: Path) -> None:
    """Promise: iterations follow one another by number (10 after 2), in prompt order whatever the shards' order."""
    pairs = read_pairs(write_inputs(tmp_path, {10: ["p2", "p0", "p1"], 2: ["p0", "p1", "p2"]}))
    assert [pair.generated for pair in pairs] == [f"p{i} of {t}" for t in (2, 10) for i in range(3)]
    assert [pair.real for pair in pairs[:3]] == ["real 0", "real 1", "real 2"]


def test_no_responses_means_real_only(tmp_path: Path) -> None:
    """Promise: supervised fine-tuning needs no generated response, and none is invented."""
    assert [pair.generated for pair in read_pairs(write_inputs(tmp_path, {}))] == [None] * 3


@pytest.mark.parametrize(
    ("answered", "message"),
    [(["p0", "p2"], "first: p1"), (["p0", "p1", "p2", "p0"], "p0 is answered twice"), (["p0", "p1", "p2", "p9"], "4 responses, 3 prompts")],
    ids=["missing", "twice", "foreign"],
)
def test_each_prompt_is_answered_exactly_once(tmp_path: Path, answered: list[str], message: str) -> None:
    """Promise: a missing, repeated or foreign response is an error that names the iteration and the prompt."""
    with pytest.raises(InputError, match=message):
        read_pairs(write_inputs(tmp_path, {0: answered}))


def test_a_cut_response_file_is_named(tmp_path: Path) -> None:
    """Promise: half a line names file and line."""
    inputs = write_inputs(tmp_path, {0: ["p0", "p1", "p2"]})
    path = inputs["responses0"] / "responses" / "00001.jsonl"
    path.write_text(path.read_text()[:20])
    with pytest.raises(InputError, match=r"responses/00001.jsonl line 1 is not whole JSON"):
        read_pairs(inputs)


def test_third_response_is_encoded_like_the_second() -> None:
    """Promise: iteration 0's response follows as a third branch, with an EOS where it ended by itself and none where it was cut."""
    three = pair()._replace(proto="maybe", proto_finish_reason="length")
    encoding = Encoding("chat", "modern", 64, 32)
    responses = encode_pair(TOKENIZER, three, encoding).responses
    assert [r.ids for r in responses] == [ids("yes^"), ids("no^"), ids("maybe")]
    stopped = encode_pair(TOKENIZER, three._replace(proto_finish_reason="stop"), encoding).responses
    assert stopped[2].ids == ids("maybe^")
    assert encode_pair(TOKENIZER, three, encoding)[:1] == encode_pair(TOKENIZER, pair(), encoding)[:1]


def test_third_response_is_iteration_0s_whatever_the_pairs(tmp_path: Path) -> None:
    """Promise: with the input proto each pair carries iteration 0's answer to its own prompt; without it there is none."""
    write_demonstrations(tmp_path / "prompts.jsonl", [Demonstration(name, [{"role": "user", "content": name}], "real") for name in "ab"])
    for role, order in (("r1", "ab"), ("r0", "ba")):
        (tmp_path / role / "responses").mkdir(parents=True)
        lines = [{"prompt_id": name, "response": f"{role} {name}", "finish_reason": "length"} for name in order]
        (tmp_path / role / "responses" / "0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = {"prompts": tmp_path, "responses1": tmp_path / "r1"}
    assert [(p.generated, p.proto) for p in read_pairs(inputs)] == [("r1 a", None), ("r1 b", None)]
    found = read_pairs({**inputs, "proto": tmp_path / "r0"})
    assert [(p.generated, p.proto, p.proto_finish_reason) for p in found] == [("r1 a", "r0 a", "length"), ("r1 b", "r0 b", "length")]


THINKS = "{% if thinks is defined and not thinks %}N{% endif %}{% for m in messages %}{{ m['content'] }}{% endfor %}"


def test_a_system_prompt_and_arguments_reach_the_chat_template() -> None:
    """They stand in the prompt that is generated from and trained on; a dialogue's own system turn stays."""
    tokenizer = letters_tokenizer(THINKS)
    turns, chat = [{"role": "user", "content": "Q"}], Chat(template_args={"thinks": False}, system_prompt="S")
    assert render_prompt(tokenizer, "chat", turns) == "Q"
    assert render_prompt(tokenizer, "chat", turns, chat) == "NSQ"
    assert render_prompt(tokenizer, "chat", [{"role": "system", "content": "T"}, *turns], chat) == "NTQ"
    assert render_prompt(TOKENIZER, "zephyr", turns, chat).startswith("<|system|>\nS</s>")
    assert encode_pair(tokenizer, pair(), Encoding("chat", "modern", 64, 32, chat)).prompt.ids == ids("NSQ")
