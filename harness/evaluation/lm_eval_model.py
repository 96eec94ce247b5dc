"""lm-eval's `hf` model, but: shared prefixes are computed once, sampling is seeded per question, answers are kept on disk.

Tokenization, stop strings and truncation from the left are lm-eval's own, so scores equal its `hf` backend's. A model whose family
harness/lm/prefix_forward.py does not name, or whose generation_config bends decoding, takes lm-eval's own path.

The work on a list of requests is cut into units, which are answered in this process or by the machine's replicas
(harness/lm/replicas.py), each with the checkpoint on devices of its own. A unit's answers are the same wherever it is answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from torch import Tensor
from transformers import LogitsProcessorList

from harness.contracts import DTYPES
from harness.errors import InputError
from harness.evaluation.answer_cache import Answers, hash_checkpoint, identity
from harness.files import canonical
from harness.lm.decoding import Draw, Ends, buffer_bytes, decode, greedy
from harness.lm.prefix_forward import PrefixForward, is_supported
from harness.lm.prefix_tree import Row, Scored, layout
from harness.lm.progress import progress
from harness.lm.replicas import Replica, Replicas, Shard
from harness.lm.seeded_sampling import SeededNoise
from harness.machine import Machine

ROW_TOKENS = {"cpu": 256, "cuda": 4096}
"""Tokens of one forward pass where prompts are short: enough to be bound by arithmetic, few enough that the mask stays small."""
DECODED_ROWS = 4
"""Questions decoded together, for each the machine scores together: a decoding step is bound by reading the weights."""
BUFFER_BYTES = {"cpu": 2**24, "cuda": 2**30}
"""Keys and values of the questions decoded together, likewise for each; those of the trunk they share come on top."""
STOP_MARGIN = 2
"""A stop string is looked for in as many last tokens as it has, and these more, as lm-eval does."""
SHARD_REQUESTS = 32
"""What a replica is handed at a time: units of as many requests together, next to one another in the prefix tree."""
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

T = TypeVar("T")
TokenRequest = tuple[tuple[str, str], list[int], list[int]]
"""(context and continuation as text, context ids, continuation ids), as lm-eval makes them."""


class Settings(NamedTuple):
    """How a group of questions is answered. `temperature` None is greedy."""

    stops: tuple[str, ...]
    max_new_tokens: int
    temperature: float | None


class Unit(NamedTuple):
    """A piece of work: the numbers of the requests it answers, and how a model answers them: {request: answer}. It can be pickled."""

    requests: tuple[int, ...]
    answer: Callable[[SharedPromptLM], dict[int, Any]]

    @property
    def size(self) -> int:
        return len(self.requests)


class SharedPromptLM(HFLM):  # type: ignore[misc]
    """A checkpoint behind lm-eval's model interface. No BOS is added; `seed` and the prompt alone decide a sampled answer.

    Answers are kept under `workspace` where one is given. `asked` counts what the model itself was asked. Where `machine` has several
    replicas they answer on its devices, and this process keeps the checkpoint on the CPU, for its tokenizer and settings.
    """

    def __init__(
        self, checkpoint: Path, precision: str, device: str, batch: int, seed: int, *,
        workspace: Path | None = None, machine: Machine | None = None,
    ) -> None:  # fmt: skip
        if not (checkpoint / "config.json").is_file():
            raise InputError(f"{checkpoint} holds no config.json; expected a saved transformers checkpoint")
        build = partial(open_replica, checkpoint.absolute(), precision, device, batch, seed)
        replicated = machine is not None and (machine.num_replicas > 1 or machine.replicas_on == "ray")
        self._replicas = Replicas(build, machine) if machine is not None and replicated else None
        own_device = "cpu" if replicated else device
        super().__init__(pretrained=str(checkpoint), dtype=DTYPES[precision], device=own_device, batch_size=batch, add_bos_token=False)
        self.seed = seed
        self.asked = 0
        self._kind = device.partition(":")[0]
        self._workspace = workspace
        self._identity = [hash_checkpoint(checkpoint) if workspace else None, precision, device, batch, seed, self.max_length]
        self._forward: PrefixForward | None = None

    @property
    def row_tokens(self) -> int:
        return ROW_TOKENS[self._kind]

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
        units = [
            Unit((*row.paths,), partial(SharedPromptLM._score_row, row=row, sequences={i: sequences[i] for i in row.paths})) for row in rows
        ]
        answers = self._answered("rows", sequences, units)
        return [(answers[i][0], answers[i][1]) for i in range(len(requests))]

    def _score_row(self, row: Row, sequences: Mapping[int, Scored]) -> dict[int, Any]:
        return {i: [*score] for i, score in self._prefixes().score(row, sequences).items()}

    def _prefixes(self) -> PrefixForward:
        self._forward = self._forward or PrefixForward(self.model)
        return self._forward

    def _plain(self, requests: list[TokenRequest]) -> list[tuple[float, bool]]:
        """lm-eval's own computation, the longest requests first."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        size = 16 * int(self.batch_size)
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        units = [Unit((*part,), partial(SharedPromptLM._score_plainly, requests={i: requests[i] for i in part})) for part in parts]
        tokens = [[context, continuation] for _, context, continuation in requests]
        answers = self._answered("plain", tokens, units)
        return [(answers[i][0], answers[i][1]) for i in range(len(requests))]

    def _score_plainly(self, requests: Mapping[int, TokenRequest]) -> dict[int, Any]:
        found = super()._loglikelihood_tokens([*requests.values()], disable_tqdm=True)
        return dict(zip(requests, found, strict=True))

    def _answered(self, way: str, requests: Iterable[Any], units: Sequence[Unit]) -> dict[int, Any]:
        """{request: answer} over all units: those on disk as they are, the others by asking."""
        asked = [*self._identity, way, *requests, *(unit.requests for unit in units)]
        kept = Answers(self._workspace, identity(asked)) if self._workspace else None
        found = {number: kept.get(number) if kept is not None else None for number in range(len(units))}
        missing = [number for number, some in found.items() if some is None]
        total = sum(units[number].size for number in missing)
        with progress("answer" if way == "text" else "score", total, "requests") as advance:
            for number, some in self._ask(units, missing):
                found[number] = some
                self.asked += units[number].size
                if kept is not None:
                    kept.add(number, some)
                advance(units[number].size)
        self._forward = None  # and with it the caches of the last trunks
        return {i: one for some in found.values() for i, one in some or ()}

    def _ask(self, units: Sequence[Unit], numbers: Sequence[int]) -> Iterator[tuple[int, list[Any]]]:
        """(number, answers) of the units so numbered, as they come."""
        if self._replicas is None:
            for number in numbers:
                yield number, self.answer_unit(units[number])
            return
        parts = _runs(numbers, lambda part: sum(units[n].size for n in part) <= SHARD_REQUESTS)
        shards = [Shard(first, [(n, units[n]) for n in part]) for first, part in enumerate(parts)]
        for shard in self._replicas.answer(shards):
            for line in shard.lines:
                yield line["unit"], line["answers"]

    def answer_unit(self, unit: Unit) -> list[Any]:
        """[request, answer] for every request of a unit."""
        return [[i, one] for i, one in unit.answer(self).items()]

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
        units = []
        for some in _runs(rows, self._decoded_together):
            of_unit = {i: prompts[i] for row in some for i in row.paths}
            units.append(Unit((*of_unit,), partial(SharedPromptLM._decode_rows, rows=some, prompts=of_unit, settings=settings)))
        answers = self._answered("text", [prompts, settings], units)
        return [answers[i] for i in range(len(requests))]

    def _decoded_together(self, rows: list[Row]) -> bool:
        fits = buffer_bytes(self.model, rows) <= BUFFER_BYTES[self._kind] * int(self.batch_size)
        return fits and sum(len(row.paths) for row in rows) <= DECODED_ROWS * int(self.batch_size)

    def _decode_rows(self, rows: list[Row], prompts: dict[int, list[int]], settings: Settings) -> dict[int, Any]:
        draw = self._draw(prompts, settings.temperature)
        said = decode(self._prefixes(), rows, settings.max_new_tokens, draw, self._ends(settings.stops))
        stops, thinking = [*settings.stops], self.think_end_token
        return {i: postprocess_generated_text(self.tok_decode(tokens), stops, thinking) for i, tokens in said.items()}

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
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        units = [Unit((*part,), partial(SharedPromptLM._generate_plainly, requests={i: requests[i] for i in part})) for part in parts]
        answers = self._answered("text", [request.args for request in requests], units)
        return [answers[i] for i in range(len(requests))]

    def _generate_plainly(self, requests: Mapping[int, Instance]) -> dict[int, Any]:
        return dict(zip(requests, super().generate_until([*requests.values()], disable_tqdm=True), strict=True))

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """Token ids (B, T) continued; a `do_sample` request is drawn by `SeededNoise` instead of torch's global generator."""
        if generation_kwargs.pop("do_sample", False):
            prompts = [row[mask.bool()].tolist() for row, mask in zip(context, generation_kwargs["attention_mask"], strict=True)]
            noise = SeededNoise(prompts, self.seed, generation_kwargs.pop("temperature"))
            generation_kwargs["logits_processor"] = LogitsProcessorList([noise])
        generation_kwargs.pop("temperature", None)
        tokens: Tensor = super()._model_generate(context, max_length, stop, do_sample=False, temperature=0.0, **generation_kwargs)
        return tokens


def open_replica(checkpoint: Path, precision: str, device: str, batch: int, seed: int) -> Replica:
    """In a replica: load the checkpoint; the function returned answers numbered units."""
    lm = SharedPromptLM(checkpoint, precision, device, batch, seed)
    return lambda items: [{"unit": number, "answers": lm.answer_unit(unit)} for number, unit in items]


def _runs(items: Iterable[T], fit: Callable[[list[T]], bool]) -> Iterator[list[T]]:
    """Runs of consecutive items, each as long as they `fit` together; an item that does not fit is alone."""
    run: list[T] = []
    for item in items:
        if run and not fit([*run, item]):
            yield run
            run = []
        run.append(item)
    if run:
        yield run
