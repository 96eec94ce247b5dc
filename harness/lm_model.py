"""lm-eval's `hf` model, but: shared prefixes are computed once, sampling is seeded per question, answers are kept on disk.

Tokenization, stop strings and truncation from the left are lm-eval's own, so scores equal its `hf` backend's. A model whose family
harness/prefix_forward.py does not name, or whose generation_config bends decoding, takes lm-eval's own path.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from harness.answers import Answers, hash_checkpoint, identity
from harness.artifact import canonical
from harness.decoding import Draw, Ends, cache_bytes, decode, greedy
from harness.errors import InputError
from harness.prefix_forward import PrefixForward, is_supported
from harness.prefixes import Row, Scored, layout
from harness.progress import progress

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
ROW_TOKENS = {"cpu": 256, "cuda": 4096}
"""Tokens of one forward pass where prompts are short: enough to be bound by arithmetic, few enough that the mask stays small."""
DECODED_ROWS = 4
"""Questions decoded together, for each the machine scores together: a decoding step is bound by reading the weights."""
CACHE_BYTES = {"cpu": 2**30, "cuda": 2**34}
"""Keys and values of the questions decoded together; the trunks above them are one path of the tree and come on top."""
STOP_MARGIN = 2
"""A stop string is looked for in as many last tokens as it has, and these more, as lm-eval does."""
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

TokenRequest = tuple[tuple[str, str], list[int], list[int]]
"""(context and continuation as text, context ids, continuation ids), as lm-eval makes them."""


class Settings(NamedTuple):
    """How a group of questions is answered. `temperature` None is greedy."""

    stops: tuple[str, ...]
    max_new_tokens: int
    temperature: float | None


class SharedPromptLM(HFLM):  # type: ignore[misc]
    """A checkpoint behind lm-eval's model interface. No BOS is added; `seed` and the prompt alone decide a sampled answer.

    Answers are kept under `workspace` where one is given. `asked` counts what the model itself was asked.
    """

    def __init__(
        self, checkpoint: Path, precision: str, device: str, batch: int, seed: int, *, workspace: Path | None = None
    ) -> None:
        if not (checkpoint / "config.json").is_file():
            raise InputError(f"{checkpoint} holds no config.json; expected a saved transformers checkpoint")
        super().__init__(pretrained=str(checkpoint), dtype=DTYPES[precision], device=device, batch_size=batch, add_bos_token=False)
        self.seed = seed
        self.asked = 0
        self._workspace = workspace
        self._identity = [hash_checkpoint(checkpoint) if workspace else None, precision, device, batch, seed, self.max_length]

    @property
    def row_tokens(self) -> int:
        return ROW_TOKENS[self.device.type]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> Any:
        """(log-probability in nats, whether greedy decoding would say it) for each (context, continuation)."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if not is_supported(self.model):
            return self._plain(requests)
        sequences = [self._sequence(context, continuation) for _, context, continuation in requests]
        rows = layout(sequences, self.row_tokens)
        forward = PrefixForward(self.model)

        def ask(row: Row) -> dict[int, Any]:
            return {i: [*score] for i, score in forward.score(row, sequences).items()}

        answers = self._answered("rows", sequences, [(row, len(row.paths)) for row in rows], ask)
        return [(answers[i][0], answers[i][1]) for i in range(len(requests))]

    def _plain(self, requests: list[TokenRequest]) -> list[tuple[float, bool]]:
        """lm-eval's own computation, the longest requests first."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        size = 16 * int(self.batch_size)
        units = [order[start : start + size] for start in range(0, len(order), size)]

        def ask(unit: list[int]) -> dict[int, Any]:
            found = super(SharedPromptLM, self)._loglikelihood_tokens([requests[i] for i in unit], disable_tqdm=True)
            return dict(zip(unit, found, strict=True))

        tokens = [[context, continuation] for _, context, continuation in requests]
        answers = self._answered("plain", tokens, [(unit, len(unit)) for unit in units], ask)
        return [(answers[i][0], answers[i][1]) for i in range(len(requests))]

    def _answered(
        self, way: str, requests: Iterable[Any], units: Sequence[tuple[Any, int]], ask: Callable[[Any], dict[int, Any]]
    ) -> dict[int, Any]:
        """{request: answer} over all units: those on disk as they are, the others by asking."""
        kept = Answers(self._workspace, identity([*self._identity, way, *requests])) if self._workspace else None
        found = {number: kept.get(number) if kept is not None else None for number in range(len(units))}
        missing = sum(size for number, (_, size) in enumerate(units) if found[number] is None)
        answers: dict[int, Any] = {}
        with progress("answer" if way == "text" else "score", missing, "requests") as advance:
            for number, (unit, size) in enumerate(units):
                some = found[number]
                if some is None:
                    some = [*ask(unit).items()]
                    self.asked += size
                    if kept is not None:
                        kept.add(number, some)
                    advance(size)
                answers.update(dict(some))
        return answers

    def _sequence(self, context: list[int], continuation: list[int]) -> Scored:
        """A request's tokens with the end of the context that fits beside the continuation, as lm-eval's `hf` cuts it."""
        if len(continuation) > self.max_length:
            raise InputError(f"an ending has {len(continuation)} tokens, the model reads {self.max_length}; leave the task out")
        fitting = context[-(self.max_length + 1 - len(continuation)) :]
        return Scored((*fitting, *continuation), len(fitting))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> Any:
        """The text generated for each (context, generation settings), cut at its stop strings."""
        groups: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            groups[canonical(request.args[1])].append(i)
        texts: dict[int, str] = {}
        for members in groups.values():
            settings = self._settings(requests[members[0]].args[1])
            some = [requests[i] for i in members]
            answers = self._continued(some, settings) if settings else self._plain_text(some)
            texts.update(zip(members, answers, strict=True))
        return [texts[i] for i in range(len(requests))]

    def _settings(self, arguments: dict[str, Any]) -> Settings | None:
        """What a request asks for, or None where only lm-eval's own path can do it."""
        asked = normalize_gen_kwargs({**arguments}, self.max_gen_toks)
        stops = handle_stop_sequences([*asked.pop("until", [])], eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False))
        max_new_tokens, sampled, temperature = asked.pop("max_gen_toks"), asked.pop("do_sample"), asked.pop("temperature")
        config = self.model.generation_config.to_dict()
        bent = any(config.get(name) not in (None, neutral) for name, neutral in NEUTRAL.items())
        if asked or bent or not is_supported(self.model):
            return None
        return Settings(tuple(stops), max_new_tokens, temperature if sampled else None)

    def _continued(self, requests: list[Instance], settings: Settings) -> list[str]:
        """The answers to questions that share their settings, decoded in batches over the prefixes they share."""
        room = self.max_length - settings.max_new_tokens
        if room < 1:
            raise InputError(f"{settings.max_new_tokens} tokens are asked for, the model holds {self.max_length}; lower max_new_tokens")
        prompts = [self.tok_batch_encode([request.args[0]], left_truncate_len=room)[0][0].tolist() for request in requests]
        rows = layout([Scored((*prompt, -1), len(prompt)) for prompt in prompts], self.row_tokens)
        forward = PrefixForward(self.model)

        def ask(unit: list[Row]) -> dict[int, Any]:
            draw = self._draw({i: prompts[i] for row in unit for i in row.paths}, settings.temperature)
            said = decode(forward, unit, settings.max_new_tokens, draw, self._ends(settings.stops))
            stops = [*settings.stops]
            return {i: postprocess_generated_text(self.tok_decode(tokens), stops, None) for i, tokens in said.items()}

        size = DECODED_ROWS * int(self.batch_size)
        longest = max(map(len, prompts)) + settings.max_new_tokens
        size = max(1, min(size, CACHE_BYTES[self.device.type] // (longest * cache_bytes(self.model))))
        units = [(unit, sum(len(row.paths) for row in unit)) for unit in _units(rows, size)]
        answers = self._answered("text", [prompts, settings], units, ask)
        return [answers[i] for i in range(len(requests))]

    def _ends(self, stops: tuple[str, ...]) -> Ends:
        end = self.model.generation_config.eos_token_id
        end_ids = {end} if isinstance(end, int) else {*(end or ())}
        window = max(len(self.tokenizer.encode(stop, add_special_tokens=False)) for stop in stops) + STOP_MARGIN

        def ends(tokens: list[int]) -> bool:
            if tokens[-1] in end_ids:
                return True
            tail = self.tokenizer.decode(tokens[-window:])
            return any(stop in tail for stop in stops)

        return ends

    def _draw(self, prompts: dict[int, list[int]], temperature: float | None) -> Draw:
        if temperature is None:
            return greedy
        noise = SeededNoise([*prompts.values()], self.seed, temperature)
        places = {index: place for place, index in enumerate(prompts)}
        return lambda indices, logits: noise.add([places[index] for index in indices], logits).argmax(dim=1)

    def _plain_text(self, requests: list[Instance]) -> list[str]:
        """lm-eval's own generation, a batch a unit."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
        size = int(self.batch_size)
        units = [order[start : start + size] for start in range(0, len(order), size)]

        def ask(unit: list[int]) -> dict[int, Any]:
            found = super(SharedPromptLM, self).generate_until([requests[i] for i in unit], disable_tqdm=True)
            return dict(zip(unit, found, strict=True))

        answers = self._answered("text", [request.args for request in requests], [(unit, len(unit)) for unit in units], ask)
        return [answers[i] for i in range(len(requests))]

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """Token ids (B, T) continued; a `do_sample` request is drawn by `SeededNoise` instead of torch's global generator."""
        if generation_kwargs.pop("do_sample", False):
            prompts = [row[mask.bool()].tolist() for row, mask in zip(context, generation_kwargs["attention_mask"], strict=True)]
            noise = SeededNoise(prompts, self.seed, generation_kwargs.pop("temperature"))
            generation_kwargs["logits_processor"] = LogitsProcessorList([noise])
        generation_kwargs.pop("temperature", None)
        tokens: Tensor = super()._model_generate(context, max_length, stop, do_sample=False, temperature=0.0, **generation_kwargs)
        return tokens


class SeededNoise(LogitsProcessor):  # type: ignore[misc]
    """Gumbel noise on the logits, each row from a generator of its own: the argmax is then a draw from softmax(logits / temperature).

    A row's draws depend on its prompt and the seed, not on the other rows of its batch.
    """

    def __init__(self, prompts: list[list[int]], seed: int, temperature: float) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(_seed_of(prompt, seed)) for prompt in prompts]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, vocabulary) with noise added."""
        return self.add(range(len(scores)), scores)

    def add(self, prompts: Sequence[int], scores: Tensor) -> Tensor:
        """Scores (B, vocabulary) with the noise of the prompts so numbered."""
        drawn = [torch.rand(scores.shape[-1], generator=self.generators[i], dtype=torch.float64) for i in prompts]
        gumbel = -torch.log(-torch.log(torch.stack(drawn).clamp(min=torch.finfo(torch.float64).tiny)))
        return scores.float() / self.temperature + gumbel.to(scores.device, torch.float32)


def _seed_of(prompt: list[int], seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:7], "big")


def _units(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Consecutive rows that hold at most `size` prompts together (more where one row does)."""
    unit: list[Row] = []
    for row in rows:
        if unit and sum(len(one.paths) for one in (*unit, row)) > size:
            yield unit
            unit = []
        unit.append(row)
    if unit:
        yield unit
