"""Where a response ends, and which requests cannot be answered: the same rules for every engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from harness.contracts import Request, Response
from harness.errors import InputError

STOP_MARGIN = 2
"""A stop string is looked for in as many last tokens as it has, and these more, as lm-eval does."""


def eos_ids(checkpoint: Path) -> tuple[int, ...]:
    """The ids that end a response: those of the model's generation settings, then the tokenizer's.

    Raises `InputError` when the directory is not a checkpoint.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        settings = _generation_config(checkpoint)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{checkpoint} cannot be loaded as a model ({reason}); rebuild the stage that makes it") from None
    return tuple(dict.fromkeys([*_as_ids(settings.eos_token_id), *_as_ids(tokenizer.eos_token_id)]))


def cut(request: Request, generated: list[int], eos: Collection[int]) -> Response:
    """`generated` up to the request's limit and the first EOS, which is no part of the response."""
    generated = generated[: request.max_new_tokens]
    end = next((i for i, token in enumerate(generated) if token in eos), None)
    return Response(request.request_id, generated[:end], "length" if end is None else "stop")


def says_a_stop(tokenizer: Any, stops: Collection[str]) -> Callable[[list[int]], bool]:
    """Whether the tokens said so far end with one of the texts `stops`, or with a token that says more than that."""
    window = max((len(tokenizer.encode(stop, add_special_tokens=False)) for stop in stops), default=0) + STOP_MARGIN

    def says(tokens: list[int]) -> bool:
        tail = tokenizer.decode(tokens[-window:])
        return any(stop in tail for stop in stops)

    return says


def require_prompts(requests: Iterable[Request]) -> None:
    """Raise `InputError` for a request without a token."""
    for request in requests:
        if not request.token_ids:
            raise InputError(f"request {request.request_id} has an empty prompt; expected at least one token")


def lack_of_room(requests: Iterable[Request], context: int) -> str | None:
    """The first request that does not fit into a context of so many tokens with its longest response, in words for an error."""
    for request in requests:
        needed = len(request.token_ids) + request.max_new_tokens
        if needed > context:
            return (
                f"request {request.request_id} needs {needed} tokens of context ({len(request.token_ids)} of prompt, up to "
                f"{request.max_new_tokens} of response)"
            )
    return None


def _generation_config(checkpoint: Path) -> GenerationConfig:
    """The checkpoint's generation settings, as transformers derives them where there is no file of their own."""
    if (checkpoint / "generation_config.json").exists():
        return GenerationConfig.from_pretrained(checkpoint, local_files_only=True)
    return GenerationConfig.from_pretrained(checkpoint, config_file_name="config.json", local_files_only=True)


def _as_ids(value: int | Iterable[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
