"""Rows, pairs and their token ids: prompt templates and the two tokenizations, release and modern.

Prompt and response are tokenized apart, so every response to a prompt continues the same token ids.

    release   what uclaml/SPIN did: no BOS; the template's own end of turn stays in the response and one more EOS follows it, also
              after a response cut by length; every EOS but that last one is hidden from attention, yet its log-probability counts
    modern    one EOS at the end of a response, none elsewhere in it; a response cut by length (finish_reason 'length') gets none
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.contracts import Demonstration
from harness.errors import InputError, RecipeError
from harness.files import read_jsonl, write_jsonl
from harness.recipe import Chat

NO_CHAT = Chat()
"""Neither arguments for the chat template nor a system prompt."""


class Pair(NamedTuple):
    """A prompt with its real response and, for self-play, the opponent's. `finish_reason` ('stop', 'length') is the generated one's.

    `proto`, where the objective has that branch, is iteration 0's response to the prompt.
    """

    prompt_id: str
    prompt: list[dict[str, str]]
    real: str
    generated: str | None
    finish_reason: str | None
    proto: str | None = None
    proto_finish_reason: str | None = None


class Encoding(NamedTuple):
    """How text becomes token ids; lengths in tokens. `max_length` bounds prompt and response together."""

    template: str
    tokenization: str
    max_length: int
    max_prompt_length: int
    chat: Chat = NO_CHAT


class Tokens(NamedTuple):
    """Token ids, and which of them later tokens may attend to."""

    ids: list[int]
    keys: list[bool]


class EncodedPair(NamedTuple):
    """Pairs that share a prompt as token ids; `responses` is real, then a generated one a pair, then `proto` where there is one."""

    prompt: Tokens
    responses: tuple[Tokens, ...]


def write_demonstrations(path: Path, rows: Iterable[Demonstration]) -> None:
    """`prompts.jsonl`: a JSON object a line with prompt_id, prompt (messages), real."""
    write_jsonl(path, (row._asdict() for row in rows))


def read_demonstrations(path: Path) -> list[Demonstration]:
    """Those of a `prompts.jsonl`; none is an error."""
    rows = [Demonstration(**line) for line in read_jsonl(path)]
    if not rows:
        raise InputError(f"{path.name} holds no prompt; check the recipe's `prompts` (split, length limits)")
    return rows


def read_pairs(inputs: Mapping[str, Path]) -> list[Pair]:
    """The pairs of all iterations `responsesI` among `inputs`, oldest first; each prompt with None where there are no responses.

    Raises `InputError` unless each prompt is answered exactly once in every iteration.
    """
    rows = read_demonstrations(inputs["prompts"] / "prompts.jsonl")
    roles = sorted((role for role in inputs if role.startswith("responses")), key=lambda role: int(role.removeprefix("responses")))
    if not roles:
        return [Pair(row.prompt_id, row.prompt, row.real, None, None) for row in rows]
    pairs = [pair for role in roles for pair in _answered(rows, role, inputs[role] / "responses")]
    if "proto" not in inputs:
        return pairs
    protos = {pair.prompt_id: pair for pair in _answered(rows, "proto", inputs["proto"] / "responses")}
    return [
        pair._replace(proto=protos[pair.prompt_id].generated, proto_finish_reason=protos[pair.prompt_id].finish_reason) for pair in pairs
    ]


def _answered(rows: Sequence[Demonstration], role: str, folder: Path) -> list[Pair]:
    answers: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in read_jsonl(path):
            if line["prompt_id"] in answers:
                raise InputError(
                    f"{role}: prompt {line['prompt_id']} is answered twice, expected once; remove {path.name} and generate again"
                )
            answers[line["prompt_id"]] = (line["response"], line["finish_reason"])
    missing = [row.prompt_id for row in rows if row.prompt_id not in answers]
    if missing or len(answers) != len(rows):
        raise InputError(
            f"{role}: {len(answers)} responses, {len(rows)} prompts, {len(missing)} prompts unanswered"
            f"{' (first: ' + missing[0] + ')' if missing else ''}; expected each prompt once: generate again"
        )
    return [Pair(row.prompt_id, row.prompt, row.real, *answers[row.prompt_id]) for row in rows]


def render_prompt(tokenizer: Any, template: str, messages: Sequence[Mapping[str, str]], chat: Chat = NO_CHAT) -> str:
    """The prompt as text, up to where the response begins.

    alpaca   '### Instruction: {prompt}\\n\\n### Response: ' (SPIN's generate.py); later turns follow in the same form
    zephyr   '<|user|>\\n{prompt}</s>\\n<|assistant|>\\n' after a system turn, empty where none is given (SPIN's training)
    chat     the tokenizer's own chat template
    """
    if chat.system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": chat.system_prompt}, *messages]
    if template == "alpaca":
        forms = {"user": "### Instruction: {}\n\n### Response: ", "assistant": "{}\n\n", "system": "{}\n\n"}
        return "".join(forms[message["role"]].format(message["content"]) for message in messages)
    if template == "zephyr":
        system = [] if messages[0]["role"] == "system" else [{"role": "system", "content": ""}]
        said = (f"<|{turn['role']}|>\n{turn['content']}{tokenizer.eos_token}\n" for turn in [*system, *messages])
        return "".join(said) + "<|assistant|>\n"
    if template == "chat":
        if tokenizer.chat_template is None:
            raise RecipeError("the template is 'chat' but the model's tokenizer defines no chat template; choose 'alpaca' or 'zephyr'")
        turns, settings = [dict(m) for m in messages], {"tokenize": False, "add_generation_prompt": True}
        return str(tokenizer.apply_chat_template(turns, **settings, **chat.template_args))
    raise RecipeError(f"no prompt template called {template!r} (known: alpaca, chat, zephyr)")


def prompt_ids(tokenizer: Any, template: str, messages: Sequence[Mapping[str, str]], add_bos: bool, chat: Chat = NO_CHAT) -> list[int]:
    """The prompt's token ids; `add_bos` puts one BOS in front unless the template already did."""
    ids = _ids(tokenizer, render_prompt(tokenizer, template, messages, chat))
    if not add_bos:
        return ids
    bos = tokenizer.bos_token_id
    if bos is None:
        raise RecipeError("the recipe adds a BOS but the model's tokenizer has none; set sampling.add_bos to False")
    return ids if ids[:1] == [bos] else [bos, *ids]


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], encoding: Encoding) -> EncodedPair:
    """The token ids of one prompt with the real and every generated response of `pairs`, which share them; `proto` comes last.

    A response may be cut, and empty where nothing is left of it.
    """
    encode = _encode_release if encoding.tokenization == "release" else _encode_modern
    return encode(tokenizer, pairs[0].prompt, _responses(pairs), encoding)


def encode_pair(tokenizer: Any, pair: Pair, encoding: Encoding) -> EncodedPair:
    """`encode_pairs` of one pair."""
    return encode_pairs(tokenizer, [pair], encoding)


Messages = Sequence[Mapping[str, str]]
TextResponse = tuple[str, str | None]
"""A response as text, and how it ended: 'stop' or 'length'."""


def _encode_release(tokenizer: Any, messages: Messages, texts: Sequence[TextResponse], encoding: Encoding) -> EncodedPair:
    """SPIN's trainer (TRL 0.7.4): where the longest response does not fit, first the prompt keeps its end, then responses their start."""
    end_of_turn = f"{tokenizer.eos_token}\n" if encoding.template == "zephyr" else ""
    prompt = _hiding_eos(tokenizer, prompt_ids(tokenizer, encoding.template, messages, False, encoding.chat))
    responses = [_hiding_eos(tokenizer, _ids(tokenizer, text + end_of_turn)) for text, _ in texts]
    responses = [Tokens([*r.ids, tokenizer.eos_token_id], [*r.keys, True]) for r in responses]
    longest = max(len(r.ids) for r in responses)
    if len(prompt.ids) + longest > encoding.max_length:
        prompt = Tokens(prompt.ids[-encoding.max_prompt_length :], prompt.keys[-encoding.max_prompt_length :])
    if len(prompt.ids) + longest > encoding.max_length:
        room = encoding.max_length - encoding.max_prompt_length
        responses = [Tokens(r.ids[:room], r.keys[:room]) for r in responses]
    return EncodedPair(prompt, tuple(responses))


def _encode_modern(tokenizer: Any, messages: Messages, texts: Sequence[TextResponse], encoding: Encoding) -> EncodedPair:
    """The prompt keeps its last `max_prompt_length` tokens; a response is cut to what fits. Nothing is hidden from attention."""
    prompt = prompt_ids(tokenizer, encoding.template, messages, False, encoding.chat)[-encoding.max_prompt_length :]
    responses = [_ids(tokenizer, text, split_special_tokens=True) for text, _ in texts]
    for ids, (_, reason) in zip(responses, texts, strict=True):
        if reason == "stop":
            ids.append(tokenizer.eos_token_id)
    room = encoding.max_length - len(prompt)
    return EncodedPair(_all_visible(prompt), tuple(_all_visible(ids[:room]) for ids in responses))


def _responses(pairs: Sequence[Pair]) -> list[TextResponse]:
    first = pairs[0]
    generated = [(pair.generated, pair.finish_reason) for pair in pairs if pair.generated is not None]
    proto = [(first.proto, first.proto_finish_reason)] if first.proto is not None else []
    return [(first.real, "stop"), *generated, *proto]


def _ids(tokenizer: Any, text: str, split_special_tokens: bool = False) -> list[int]:
    """Token ids of `text` alone; with `split_special_tokens` a '</s>' written out in the text is text, not an EOS."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)["input_ids"])


def _hiding_eos(tokenizer: Any, ids: list[int]) -> Tokens:
    return Tokens(ids, [token != tokenizer.eos_token_id for token in ids])


def _all_visible(ids: list[int]) -> Tokens:
    return Tokens(ids, [True] * len(ids))
