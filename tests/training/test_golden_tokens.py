"""Token ids and masks of ten made-up conversations, worked out by hand for both tokenizations.

The tokenizer is a character a token with these ids, so that each can be counted off:

    0 <s> (BOS)    1 </s> (EOS, pad)    2 <unk>    3 space    4 'a' ... 29 'z'    30 newline    31 '<'    32 '>'    33 '|'

so 'no' is 17 18, 'yes' 28 8 22, and the Zephyr markers are

    S = '<|system|>' NL       31 33 22 28 22 23 8 16 33 32 30             11 tokens
    U = '<|user|>' NL         31 33 24 22 8 21 33 32 30                    9 tokens
    A = '<|assistant|>' NL    31 33 4 22 22 12 22 23 4 17 23 33 32 30     14 tokens
    E = EOS NL                1 30                                         2 tokens

The release's prompt for a user's text X is S E U X E A: 11 + 2 + 9 + |X| + 2 + 14 = 38 + |X| tokens, with EOS at 11 and 22 + |X|.
Its response for a text Y is Y E EOS: |Y| + 3 tokens, the EOS at |Y| hidden, the last one at |Y| + 2 visible.
"""

from __future__ import annotations

import pytest

from harness.training.pairs import EncodedPair, Encoding, Pair, encode_pair, encode_pairs
from tests.training.test_pairs import letters_tokenizer

ALPHABET = [" ", *"abcdefghijklmnopqrstuvwxyz", "\n", "<", ">", "|"]
S = [31, 33, 22, 28, 22, 23, 8, 16, 33, 32, 30]
U = [31, 33, 24, 22, 8, 21, 33, 32, 30]
A = [31, 33, 4, 22, 22, 12, 22, 23, 4, 17, 23, 33, 32, 30]
E = [1, 30]
USER = [31, 24, 22, 8, 21, 32]
ASSISTANT = [31, 4, 22, 22, 12, 22, 23, 4, 17, 23, 32]
RELEASE = Encoding("zephyr", "release", 64, 48)
MODERN = Encoding("chat", "modern", 64, 48)


TOKENIZER = letters_tokenizer(letters=ALPHABET)


def release(real: str, generated: str, prompt: str = "hi", reason: str = "stop") -> EncodedPair:
    return encode_pair(TOKENIZER, Pair("p", [{"role": "user", "content": prompt}], real, generated, reason), RELEASE)


def modern(real: str, generated: str, prompt: str = "hi", reason: str = "stop") -> EncodedPair:
    return encode_pair(TOKENIZER, Pair("p", [{"role": "user", "content": prompt}], real, generated, reason), MODERN)


def hidden(found: EncodedPair) -> list[list[int]]:
    """The places later tokens do not attend to, in the prompt and in each response."""
    return [[place for place, key in enumerate(part.keys) if not key] for part in (found.prompt, *found.responses)]


def test_1_short() -> None:
    """'hi' (11 12), 'yes', 'no'. Prompt 40 tokens, EOS at 11 and 24; responses 'yes' E EOS and 'no' E EOS, hidden at 3 and at 2."""
    found = release("yes", "no")
    assert found.prompt.ids == [*S, *E, *U, 11, 12, *E, *A]
    assert [r.ids for r in found.responses] == [[28, 8, 22, 1, 30, 1], [17, 18, 1, 30, 1]]
    assert hidden(found) == [[11, 24], [3], [2]]
    found = modern("yes", "no")
    assert found.prompt.ids == [*USER, 11, 12, 1, *ASSISTANT]
    assert [r.ids for r in found.responses] == [[28, 8, 22, 1], [17, 18, 1]]
    assert hidden(found) == [[], [], []]


def test_2_longest_that_fits() -> None:
    """Real of 21 tokens: 'y' x 18 + 3. 40 + 21 = 61 fits into 64: nothing is cut. 'y' is 28."""
    found = release("y" * 18, "no")
    assert (len(found.prompt.ids), [len(r.ids) for r in found.responses]) == (40, [21, 5])
    assert found.responses[0].ids == [*[28] * 18, 1, 30, 1]


def test_3_over_long_prompt() -> None:
    """'q' (20) x 30: prompt 68, EOS at 11 and 52. 68 + 6 > 64, so it keeps its last 48: 20 are lost, S E among them, EOS at 32.

    48 + 6 = 54 fits, so the responses stay. Of the U turn nothing is left: 68 - 48 = 20 = 11 + 2 + 7, so U's last two (32 30) are.
    Modern: 6 + 30 + 1 + 11 = 48, nothing to cut; with 'q' x 33 it is 51, and '<us' is lost.
    """
    found = release("yes", "no", prompt="q" * 30)
    assert found.prompt.ids == [32, 30, *[20] * 30, *E, *A]
    assert [len(r.ids) for r in found.responses] == [6, 5]
    assert hidden(found) == [[32], [3], [2]]
    assert modern("yes", "no", prompt="q" * 30).prompt.ids == [*USER, *[20] * 30, 1, *ASSISTANT]
    assert modern("yes", "no", prompt="q" * 33).prompt.ids == [8, 21, 32, *[20] * 33, 1, *ASSISTANT]


def test_4_over_long_real() -> None:
    """Real 'y' x 30 + 3 = 33: 40 + 33 > 64; the prompt keeps its last 48, which is all 40; still 73, so responses keep their first 16.

    The cut real has no EOS at all; generated 'no' E EOS (5) is shorter than 16 and whole.
    Modern: prompt 20, so 64 - 20 = 44 tokens are left: 'y' x 30 and EOS fit, 'y' x 44 leaves no room for EOS.
    """
    found = release("y" * 30, "no")
    assert (len(found.prompt.ids), found.responses[0].ids, found.responses[1].ids) == (40, [28] * 16, [17, 18, 1, 30, 1])
    assert hidden(found) == [[11, 24], [], [2]]
    assert modern("y" * 30, "no").responses[0].ids == [*[28] * 30, 1]
    assert modern("y" * 44, "no").responses[0].ids == [28] * 44


def test_5_over_long_generated_cuts_real_too() -> None:
    """Generated 'n' (17) x 40 does not fit, so real 'y' x 15 + 3 = 18 is cut to 16 as well: 15 'y' and the hidden EOS at 15."""
    found = release("y" * 15, "n" * 40)
    assert [r.ids for r in found.responses] == [[*[28] * 15, 1], [17] * 16]
    assert hidden(found) == [[11, 24], [15], []]
    assert [r.ids for r in modern("y" * 15, "n" * 40).responses] == [[*[28] * 15, 1], [*[17] * 40, 1]]


def test_6_both_over_long() -> None:
    """Prompt 'q' x 30 (68 -> 48) and real 'y' x 30 (33 -> 16): 64 tokens in all. Modern: 48 + 16."""
    found = release("y" * 30, "n" * 2, prompt="q" * 30)
    assert (len(found.prompt.ids), len(found.responses[0].ids)) == (48, 16)
    assert found.responses[1].ids == [17, 17, 1, 30, 1]
    found = modern("y" * 30, "n" * 2, prompt="q" * 30)
    assert (len(found.prompt.ids), found.responses[0].ids) == (48, [28] * 16)


def test_7_several_turns() -> None:
    """'a' / 'b' / 'c': S E U 4 E A 5 E U 6 E A = 11+2 + 9+1+2 + 14+1+2 + 9+1+2 + 14 = 68, limits of 128; EOS at 11, 23, 40, 52 hidden."""
    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    found = encode_pair(TOKENIZER, Pair("p", turns, "yes", "no", "stop"), Encoding("zephyr", "release", 128, 96))
    assert found.prompt.ids == [*S, *E, *U, 4, *E, *A, 5, *E, *U, 6, *E, *A]
    assert hidden(found) == [[11, 23, 40, 52], [3], [2]]
    found = encode_pair(TOKENIZER, Pair("p", turns, "yes", "no", "stop"), MODERN)
    assert found.prompt.ids == [*USER, 4, 1, *ASSISTANT, 5, 1, *USER, 6, 1, *ASSISTANT]


def test_8_eos_inside_the_texts() -> None:
    """Prompt 'x</s>y' (27 1 28), real 'a</s>b' (4 1 5): the release reads EOS, hides it (prompt 11, 23, 25; real 1, 3), keeps it as label.

    Modern: in a response '</s>' is text, '<' '/' 's' '>' = 31 2 22 32 ('/' is unknown: 2).
    """
    found = release("a</s>b", "no", prompt="x</s>y")
    assert found.prompt.ids == [*S, *E, *U, 27, 1, 28, *E, *A]
    assert found.responses[0].ids == [4, 1, 5, 1, 30, 1]
    assert hidden(found) == [[11, 23, 25], [1, 3], [2]]
    assert modern("a</s>b", "no").responses[0].ids == [4, 31, 2, 22, 32, 5, 1]


def test_9_generated_cut_by_length() -> None:
    """finish_reason 'length': the release appends both EOS all the same (a response cut at 256 tokens is taught to stop); modern none."""
    found = release("yes", "no", reason="length")
    assert found.responses[1].ids == [17, 18, 1, 30, 1]
    assert modern("yes", "no", reason="length").responses[1].ids == [17, 18]


def test_10_own_system_turn_and_empty_generated() -> None:
    """A system turn of its own ('s', 22) takes the place of the empty one; an empty response is E EOS in the release, EOS in modern."""
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    found = encode_pair(TOKENIZER, Pair("p", turns, "yes", "", "stop"), RELEASE)
    assert found.prompt.ids == [*S, 22, *E, *U, 11, 12, *E, *A]
    assert found.responses[1].ids == [1, 30, 1]
    assert hidden(found) == [[12, 25], [3], [0]]
    assert modern("yes", "").responses[1].ids == [1]


def test_a_group_is_cut_as_one() -> None:
    """Two generated responses share prompt and real: in the release the longest of all decides the cut; alone, 'no' would cut nothing."""
    pairs = [Pair("p", [{"role": "user", "content": "hi"}], "y" * 15, text, "stop") for text in ("no", "n" * 40)]
    found = encode_pairs(TOKENIZER, pairs, RELEASE)
    assert [r.ids for r in found.responses] == [[*[28] * 15, 1], [17, 18, 1, 30, 1], [17] * 16]
    assert len(encode_pair(TOKENIZER, pairs[0], RELEASE).responses[0].ids) == 18


@pytest.mark.parametrize("text", ["", "hi there", "q" * 60])
def test_no_bos_is_ever_added(text: str) -> None:
    """Neither tokenization puts a BOS anywhere."""
    for found in (release("yes", "no", prompt=text), modern("yes", "no", prompt=text)):
        assert all(0 not in part.ids for part in (found.prompt, *found.responses))
