"""Batched decoding over prompts whose shared prefixes are computed once: `decode` continues a unit of prompts until each has said its stop.

Keys and values of the prefix that all prompts share are kept once (harness/lm/trunk_attention.py); the others of each prompt are laid into
a buffer with room, so a step copies nothing that is already there. A step reads each prompt's last token and a guess at the next few
(harness/lm/prompt_lookup.py), and keeps as much of the guess as is drawn anyway: the answers are those of one token a step, in fewer
steps. A prompt that has ended leaves the batch as soon as half of the batch has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from harness.lm.prefix_forward import PrefixForward, is_supported, windowed
from harness.lm.prefix_tree import Row, Trunk, end_of, trunks_of
from harness.lm.prompt_lookup import PromptLookup
from harness.lm.trunk_attention import IMPLEMENTATION, States

STEP_TOKENS = {"cpu": 32, "cuda": 256}
"""Tokens of all prompts that a step reads, guesses included: few enough that reading the weights stays a large part of the work.
The number for CUDA follows from that alone, it was not measured."""
LONGEST_GUESS = 4
"""Longer guesses saved few steps more and made each slower (SmolLM2-135M, GSM8K and Big-Bench Hard)."""
ROOM = 64
"""Places by which the buffers grow."""
NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "num_beams": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    **dict.fromkeys(
        ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "sequence_bias",
         "exponential_decay_length_penalty", "guidance_scale", "stop_strings")
    ),
}  # fmt: skip
"""Settings of a generation_config that change greedy decoding, at the values (or None) that do not."""

Draw = Callable[[list[int], Tensor], Tensor]
"""(indices of prompts, logits (B, V)) -> token ids (B,). Called once for each token of an answer, in their order."""
Ends = Callable[[list[int]], bool]
"""Whether the tokens said so far end an answer."""


def decodes_as_itself(model: PreTrainedModel) -> bool:
    """Whether `decode` says what the model's own `generate` would."""
    config = model.generation_config.to_dict()
    return is_supported(model) and all(config.get(name) in (None, neutral) for name, neutral in NEUTRAL.items())


def cache_bytes(model: PreTrainedModel) -> int:
    """Bytes of one token's keys and values."""
    layers = model.base_model.layers
    return int(2 * len(layers) * layers[0].self_attn.k_proj.out_features * model.dtype.itemsize)


def greedy(_: list[int], logits: Tensor) -> Tensor:
    return logits.argmax(dim=1)


@torch.inference_mode()
def decode(forward: PrefixForward, rows: Sequence[Row], max_new_tokens: int, draw: Draw, ends: Ends) -> dict[int, list[int]]:
    """{index: token ids} of the answers to the prompts in `rows`: each goes on until `ends` says so, for at most `max_new_tokens`."""
    answers = [_Answer(index, _prompt(row, places), max_new_tokens, ends) for row in rows for index, places in row.paths.items()]
    said = {answer.index: answer.said for answer in answers}
    batch = _Batch(forward, rows)
    _say(answers, batch.read(rows)[:, None], [[] for _ in answers], draw)
    with _decoding_attention(forward.model):
        while alive := [b for b, answer in enumerate(answers) if not answer.ended]:
            if 2 * len(alive) <= len(answers):
                answers = [answers[b] for b in alive]
                batch.keep(alive)
            num_guessed = min(LONGEST_GUESS, max(0, STEP_TOKENS[forward.model.device.type] // len(answers) - 1))
            guesses = [answer.text.guess(num_guessed) for answer in answers]
            read = [[answer.said[-1], *guess] for answer, guess in zip(answers, guesses, strict=True)]
            logits = batch.step(read, [len(answer.text.tokens) - 1 for answer in answers])
            _say(answers, logits, guesses, draw)
    return said


def _say(answers: Sequence[_Answer], logits: Tensor, guesses: Sequence[list[int]], draw: Draw) -> None:
    """Go on with each answer: from logits[:, 0], then from those after a guessed token, logits (B, 1 + G, V), while the guess is drawn."""
    alive = [b for b, answer in enumerate(answers) if not answer.ended]
    for place in range(logits.shape[1]):
        drawn = draw([answers[b].index for b in alive], logits[alive, place]).tolist()
        for b, token in zip(alive, drawn, strict=True):
            answers[b].say(token)
        alive = [b for b, token in zip(alive, drawn, strict=True) if guesses[b][place : place + 1] == [token] and not answers[b].ended]
        if not alive:
            return


class _Answer:
    """What is said to one prompt: its tokens so far, alone and after the prompt's."""

    def __init__(self, index: int, prompt: list[int], max_new_tokens: int, ends: Ends) -> None:
        self.index = index
        self.text = PromptLookup(prompt)
        self.said: list[int] = []
        self.ended = False
        self._max_new_tokens, self._ends = max_new_tokens, ends

    def say(self, token: int) -> None:
        self.text.append(token)
        self.said.append(token)
        self.ended = self._ends(self.said) or len(self.said) == self._max_new_tokens


class _Batch:
    """The keys and values of a batch of prompts and their answers, and the step that reads the next tokens of each.

    Those of the trunk that all prompts share lie in `trunk`, the others flush left in buffers: a token's place is its position less
    `num_shared`. What lies after a prompt's last token is a guess that failed, or another prompt's room: masked, and written over.
    """

    def __init__(self, forward: PrefixForward, rows: Sequence[Row]) -> None:
        self.forward = forward
        self.shared = _shared_trunk(rows)
        self.num_shared = end_of(self.shared)
        self.trunk: list[States] = []
        num_rows, width = sum(len(row.paths) for row in rows), max(_own_lengths(rows, self.shared))
        self.cache = DynamicCache()
        self.cache.layers = [_Buffer(layer.self_attn, num_rows, width) for layer in forward.model.base_model.layers]

    def read(self, rows: Sequence[Row]) -> Tensor:
        """Run the prompts and lay their keys and values into the buffers; the logits (B, V) of their first new tokens."""
        last: list[Tensor] = []
        for row in rows:
            if row.trunk is None and len(row.paths) == 1:
                straight = DynamicCache()
                straight.layers = [_Straight(buffer, len(last)) for buffer in self.cache.layers]
                hidden, _ = self.forward.run(row, straight)
            else:
                hidden, cache = self.forward.run(row)
                self._lay(row, cache, len(last))
            last += [hidden[path[-1]] for path in row.paths.values()]
        if self.shared:
            self.trunk = [(layer.keys, layer.values) for layer in self.forward.cache_of(self.shared).layers]
        return self.forward.head(torch.stack(last)).float()  # type: ignore[no-any-return]

    def _lay(self, row: Row, cache: DynamicCache, first: int) -> None:
        """Copy each prompt's own keys and values out of the cache of its row, to the buffers' rows from `first` on."""
        num_past = end_of(row.trunk)
        for number, path in enumerate(row.paths.values(), first):
            own = [*range(self.num_shared, num_past), *(num_past + place for place in path)]
            places = torch.tensor(own, device=cache.layers[0].keys.device)
            for buffer, layer in zip(self.cache.layers, cache.layers, strict=True):
                buffer.lay(number, layer.keys.index_select(2, places), layer.values.index_select(2, places))

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        for buffer in self.cache.layers:
            buffer.keep(rows)

    def step(self, tokens: list[list[int]], starts: list[int]) -> Tensor:
        """Logits (B, T, V) after each of T tokens more in each row, the first of them at the positions `starts`."""
        model = self.forward.model
        read = torch.tensor(tokens, device=model.device)  # (B, T)
        positions = torch.tensor(starts, device=model.device)[:, None] + torch.arange(read.shape[1], device=model.device)
        places, end = positions - self.num_shared, max(starts) + read.shape[1]
        for buffer in self.cache.layers:
            buffer.make_room(places, end - self.num_shared)
        distance = (positions[:, :, None] - torch.arange(end, device=model.device))[:, None]  # (B, 1, T, end)
        hidden = model.base_model(
            input_ids=read,
            position_ids=positions,
            attention_mask=windowed(model.config, distance >= 0, distance),
            past_key_values=self.cache,
            use_cache=True,
            trunk=self.trunk,
        ).last_hidden_state  # (B, T, D)
        return self.forward.head(hidden).float()  # type: ignore[no-any-return]


@contextmanager
def _decoding_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model attends as harness/lm/trunk_attention.py does."""
    own = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


class _Buffer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values (B, heads, room, D). The room grows with the answers, by `ROOM` places at a time."""

    def __init__(self, attention: Any, num_rows: int, width: int) -> None:
        super().__init__()
        self.places = torch.empty(0)
        self.end = width
        depth = attention.head_dim
        heads = attention.k_proj.out_features // depth
        shape = num_rows, heads, width + ROOM, depth
        self.buffers = [attention.k_proj.weight.new_zeros(shape) for _ in range(2)]  # what is masked may be anything but NaN
        self.is_initialized = True

    def lay(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Copy keys and values (1, heads, T, D) to the beginning of a row."""
        for buffer, states in zip(self.buffers, (keys, values), strict=True):
            buffer[row, :, : states.shape[2]] = states[0]

    def make_room(self, places: Tensor, end: int) -> None:
        """The next tokens go to `places` (B, T); `end` is after the last."""
        self.places, self.end = places, end
        for i, buffer in enumerate(self.buffers):
            if end > buffer.shape[2]:
                self.buffers[i] = torch.nn.functional.pad(buffer, (0, 0, 0, end + ROOM - buffer.shape[2]))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The keys and values up to and including those of the new tokens."""
        rows = torch.arange(len(self.places), device=self.places.device)[:, None]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[rows, :, self.places] = new.transpose(1, 2)
        keys, values = (buffer[:, :, : self.end] for buffer in self.buffers)
        return keys, values

    def get_seq_length(self) -> int:
        """Places in use."""
        return self.end

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        self.buffers = [buffer[rows] for buffer in self.buffers]


class _Straight(DynamicLayer):  # type: ignore[misc]
    """A layer's cache while a prompt that shares nothing is read: its keys and values go straight to their row of the buffer."""

    def __init__(self, buffer: _Buffer, row: int) -> None:
        super().__init__()
        self.buffer, self.row = buffer, row

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All there is: what was given."""
        self.buffer.lay(self.row, key_states, value_states)
        return key_states, value_states


def buffer_bytes(model: PreTrainedModel, rows: Sequence[Row]) -> int:
    """Bytes of the keys and values that decoding these rows together begins with, beside those of the trunk they share."""
    lengths = _own_lengths(rows, _shared_trunk(rows))
    return len(lengths) * max(lengths) * cache_bytes(model)


def _prompt(row: Row, places: Sequence[int]) -> list[int]:
    """The tokens of the prompt at these places of a row, those of the trunks above it first."""
    above = [token for trunk in [*trunks_of(row)][::-1] for token in trunk.tokens]
    return above + [row.tokens[place] for place in places]


def _own_lengths(rows: Sequence[Row], shared: Trunk | None) -> list[int]:
    """How many tokens each prompt has after the shared trunk."""
    return [end_of(row.trunk) + len(path) - end_of(shared) for row in rows for path in row.paths.values()]


def _shared_trunk(rows: Sequence[Row]) -> Trunk | None:
    """The innermost trunk that is above all rows."""
    above = [{id(trunk) for trunk in trunks_of(row)} for row in rows[1:]]
    return next((trunk for trunk in trunks_of(rows[0]) if all(id(trunk) in some for some in above)), None)
