"""The release's tokenization of ten real conversations (ultrafeedback_binarized), lengths, cuts and masks worked out by hand.

The conversations are not committed: each is named by the sha256 of its prompt. The tokenizer is a byte a token (byte b is 2 + b), EOS is
'</s>' wherever it stands in a text, so that all follows from the lengths in bytes. With p bytes of user text the prompt is

    '<|system|>' NL  EOS NL  '<|user|>' NL  text  EOS NL  '<|assistant|>' NL    11 + 2 + 9 + p + 2 + 14 = 38 + p, EOS at 11 and 22 + p

and a response of r bytes is r + 3 tokens: text, EOS (hidden, at r), NL, EOS. The limits are the release's: over 1024 tokens the prompt
keeps its last 512; over 1024 still, responses keep their first 512.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from harness.training.pairs import EncodedPair, Encoding, Pair, encode_pair

EOS, NEWLINE = 0, 2 + 10
RELEASE = Encoding("zephyr", "release", 1024, 512)


class Golden(NamedTuple):
    """What is left of a conversation: where the prompt and the responses are cut, and the places hidden from attention."""

    prompt: slice
    real: slice
    generated: slice
    lengths: tuple[int, int, int]
    hidden: tuple[list[int], list[int], list[int]]


WHOLE, LAST, FIRST = slice(None), slice(-512, None), slice(512)
GOLDEN = {
    # short. 96, 46 and 33 bytes: prompt 134, EOS at 11 and 118; responses 49 and 36, EOS at 46 and 33
    "3620880131fd5c46": Golden(WHOLE, WHOLE, WHOLE, (134, 49, 36), ([11, 118], [46], [33])),
    # the longest that fits. 971, 12 and 12 bytes: prompt 1009, EOS at 11 and 993; 1009 + 15 = 1024
    "982daa1f4e823ee5": Golden(WHOLE, WHOLE, WHOLE, (1009, 15, 15), ([11, 993], [12], [12])),
    # over-long prompt. 6317, 90 and 152 bytes: prompt 6355 loses 5843; its last EOS from 6339 to 496; 512 + 155 fits
    "3286b20a64b53ea8": Golden(LAST, WHOLE, WHOLE, (512, 93, 155), ([496], [90], [152])),
    # a prompt that fits alone. 813, 165 and 336 bytes: 851 + 339 = 1190, so prompt 851 loses 339; EOS from 835 to 496
    "f2029ad58044e489": Golden(LAST, WHOLE, WHOLE, (512, 168, 339), ([496], [165], [336])),
    # over-long real. 74, 2140 and 89 bytes: prompt 112, its last 512 are all; 112 + 2143 > 1024 still: real keeps 512, without any EOS
    "443b2ee87f28b0b0": Golden(WHOLE, FIRST, WHOLE, (112, 512, 92), ([11, 96], [], [89])),
    # over-long generated. 45, 215 and 1745 bytes: prompt 83; real 218 is shorter than 512
    "1af20a72bdf21741": Golden(WHOLE, WHOLE, FIRST, (83, 218, 512), ([11, 67], [215], [])),
    # all three. 2654, 2821 and 1926 bytes: prompt 2692 -> 512, EOS from 2676 to 496; both responses 512
    "480d120bce5bcd1f": Golden(LAST, FIRST, FIRST, (512, 512, 512), ([496], [], [])),
    # EOS inside the text, prompt over-long. 1193, 798 and 1703 bytes, '</s>' at 258 and 477 of generated: four bytes become one token
    # each time, so 1697 + 3, EOS at 258 and 477 - 3 = 474, both among the first 512
    "f1edf5b3f1dc0a9d": Golden(LAST, FIRST, FIRST, (512, 512, 512), ([496], [], [258, 474])),
    # EOS inside the text, prompt short. 245, 94 and 764 bytes, '</s>' at 316 and 447: generated 764 - 6 + 3 = 761; 283 + 761 = 1044 is
    # over 1024, so generated keeps 512: EOS at 316 and 447 - 3 = 444
    "ccf359cd587e2d99": Golden(WHOLE, WHOLE, FIRST, (283, 97, 512), ([11, 267], [94], [316, 444])),
}
FOLLOW_UP = "fd7c50f312b1a468"
"""A second turn of 174 bytes, real 13, generated 12."""


@pytest.fixture(scope="module")
def rows(hf_cache: Path) -> dict[str, Any]:
    """{first 16 digits of the prompt's sha256: row}"""
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset("trl-lib/ultrafeedback_binarized", split="train")
    return {hashlib.sha256(row["chosen"][0]["content"].encode()).hexdigest()[:16]: row for row in found}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))])}
    model = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="</s>", pad_token="</s>", unk_token="<unk>")


def ids(text: str) -> list[int]:
    """A byte a token, '</s>' one token."""
    parts = [[2 + byte for byte in part.encode()] for part in text.split("</s>")]
    return [token for i, part in enumerate(parts) for token in ([EOS, *part] if i else part)]


def response(text: str) -> list[int]:
    return [*ids(text), EOS, NEWLINE, EOS]


def hidden(found: EncodedPair) -> tuple[list[int], ...]:
    return tuple([place for place, key in enumerate(part.keys) if not key] for part in (found.prompt, *found.responses))


@pytest.mark.parametrize("name", GOLDEN)
def test_one_turn(name: str, rows: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """Ids, cuts and masks of nine conversations are those worked out in GOLDEN."""
    row, golden = rows[name], GOLDEN[name]
    user, real, generated = row["chosen"][0]["content"], row["chosen"][1]["content"], row["rejected"][1]["content"]
    found = encode_pair(tokenizer, Pair(name, [row["chosen"][0]], real, generated, "stop"), RELEASE)
    prompt = ids(f"<|system|>\n</s>\n<|user|>\n{user}</s>\n<|assistant|>\n")
    assert found.prompt.ids == prompt[golden.prompt]
    assert found.responses[0].ids == response(real)[golden.real]
    assert found.responses[1].ids == response(generated)[golden.generated]
    assert (len(found.prompt.ids), *(len(part.ids) for part in found.responses)) == golden.lengths
    assert hidden(found) == golden.hidden


def test_several_turns(rows: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """The short one goes on with a second question: 11 + 2 + 9 + 96 + 2 + 14 + 46 + 2 + 9 + 174 + 2 + 14 = 381 tokens, nothing cut.

    EOS at 11, 118, after the first answer at 22 + 96 + 2 + 14 + 46 = 180, and at 180 + 2 + 9 + 174 = 365; responses 16 and 15.
    """
    first, second = rows["3620880131fd5c46"], rows[FOLLOW_UP]
    turns = [*first["chosen"], second["chosen"][0]]
    real, generated = second["chosen"][1]["content"], second["rejected"][1]["content"]
    found = encode_pair(tokenizer, Pair("p", turns, real, generated, "stop"), RELEASE)
    question, answer, follow_up = (turn["content"] for turn in turns)
    asked = f"<|user|>\n{question}</s>\n<|assistant|>\n{answer}</s>\n<|user|>\n{follow_up}</s>\n<|assistant|>\n"
    assert found.prompt.ids == ids(f"<|system|>\n</s>\n{asked}")
    assert [part.ids for part in found.responses] == [response(real), response(generated)]
    assert (len(found.prompt.ids), *(len(part.ids) for part in found.responses)) == (381, 16, 15)
    assert hidden(found) == ([11, 118, 180, 365], [13], [12])
