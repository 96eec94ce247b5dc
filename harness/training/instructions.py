"""Rows of data sets as instructions: the usual layouts, which turn is the response, what is left out and why, and which rows are taken.

    messages, conversations, chosen, real   a dialogue: messages with role and content, or ShareGPT's with from and value
    prompt and response (completion, chosen), instruction (with input) and output, question and answer: text, or messages

The column of `messages` may hold JSON text, as in CSV files. A prompt's id is the sha256 of the whole prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from harness.contracts import Demonstration, LeftOut, Preference
from harness.errors import InputError, suggest
from harness.files import NO_JSON, canonical
from harness.recipe import PromptSource

ID_DIGITS = 16
SHOWN = 200
"""Characters that are kept of a row that is left out."""
REPEATED = "its prompt stood in an earlier row"

DIALOGUES = ("messages", "conversations", "chosen", "real")
HALVES = (("instruction", "output"), ("question", "answer"), ("prompt", "response"), ("prompt", "completion"), ("prompt", "chosen"))
ROLES = {
    "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
"""{a role as data sets call it: as it is called here}."""

Messages = list[dict[str, str]]
Item = TypeVar("Item", Demonstration, Preference)


class RowError(ValueError):
    """Why a row cannot be trained on, in the same words for every such row."""


class Layout(NamedTuple):
    """Where the dialogue of a row is: in one column, or its prompt in one (with a further `context` column) and the response in another."""

    prompt: str
    response: str | None = None
    context: str | None = None


def prompt_id(messages: Sequence[Mapping[str, str]]) -> str:
    """The sha256 of a prompt: of its text where it is one user turn, else of all its messages."""
    only = len(messages) == 1 and messages[0]["role"] == "user"
    return hashlib.sha256((messages[0]["content"] if only else canonical([dict(m) for m in messages])).encode()).hexdigest()


def text_of(content: Any) -> str:
    """A message's text, also where it is a list of text parts. Raises `RowError` for anything else, null above all."""
    if isinstance(content, str):
        return content
    if content is None:
        raise RowError("content is null")
    if isinstance(content, list) and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    raise RowError("content is not text")


def turns_of(value: Any) -> list[Mapping[str, Any]]:
    """A dialogue's turns as they stand; plain text is one user turn."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if value is None:
        raise RowError("content is null")
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise RowError("a dialogue is no list of messages")
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except NO_JSON:
        return text


def role_of(turn: Mapping[str, Any]) -> str:
    """Whose turn it is, by our names. Raises `RowError` for a role that is not known."""
    role = _known_role(turn)
    if role is None:
        raise RowError(f"a role is {str(turn.get('role', turn.get('from')))[:SHOWN]!r}")
    return role


def _known_role(turn: Mapping[str, Any]) -> str | None:
    named = turn.get("role", turn.get("from"))
    return ROLES.get(named) if isinstance(named, str) else None


def message(turn: Mapping[str, Any]) -> dict[str, str]:
    """A turn as a message with role and content."""
    return {"role": role_of(turn), "content": text_of(turn.get("content", turn.get("value")))}


def divide(turns: Sequence[Mapping[str, Any]], response: str) -> tuple[Messages, str]:
    """The prompt and the response, which is the `first` of the assistant or the `last`; what stands after it is not looked at."""
    if not turns:
        raise RowError("a dialogue is empty")
    answers = [i for i, turn in enumerate(turns) if _known_role(turn) == "assistant"]
    if not answers:
        raise RowError("nothing is answered")
    used = [message(turn) for turn in turns[: (answers[0] if response == "first" else answers[-1]) + 1]]
    dialogue = used[1:] if used[0]["role"] == "system" else used
    if dialogue[0]["role"] == "assistant":
        raise RowError("the assistant begins")
    if [turn["role"] for turn in dialogue] != [("user", "assistant")[i % 2] for i in range(len(dialogue))]:
        raise RowError("one speaks twice in a row")
    if not all(turn["content"].strip() for turn in dialogue[:-1]):
        raise RowError("a prompt is empty")
    if not dialogue[-1]["content"].strip():
        raise RowError("a response is empty")
    return used[:-1], used[-1]["content"]


def find_layout(names: Iterable[str], spec: PromptSource) -> Layout:
    """Where the dialogues of a data set with these columns are. Raises `InputError` where nothing says."""
    known, stated = _checked(names, spec), spec.columns
    if stated.messages:
        return Layout(stated.messages)
    if stated.prompt and stated.response:
        return Layout(stated.prompt, stated.response)
    if not stated.prompt and not stated.response:
        for column in DIALOGUES:
            if column in known and not (column == "chosen" and "prompt" in known):
                return Layout(column)
    for usual_prompt, usual_response in HALVES:  # of two columns one may be stated
        prompt, response = stated.prompt or usual_prompt, stated.response or usual_response
        if prompt in known and response in known and prompt != response:
            return Layout(prompt, response, "input" if prompt == "instruction" and "input" in known else None)
    raise InputError(
        f"{spec.dataset} has columns {', '.join(known)[:SHOWN]}; expected one of {', '.join(DIALOGUES)} with messages, or two of "
        f"{'; '.join(' and '.join(pair) for pair in HALVES)}: say in `columns` which of them is what"
    )


def dialogue(row: Any, layout: Layout) -> Sequence[Mapping[str, Any]]:
    """A row's prompt and response as the turns of one dialogue."""
    if not isinstance(row, Mapping):
        raise RowError("a row is no object")
    if layout.response is None:
        return turns_of(row.get(layout.prompt))
    prompt, response = turns_of(row.get(layout.prompt)), row.get(layout.response)
    further = row.get(layout.context) if layout.context else None
    if further:
        prompt = [*prompt[:-1], {"role": "user", "content": f"{text_of(prompt[-1].get('content'))}\n\n{text_of(further)}"}]
    if isinstance(response, list) and all(isinstance(turn, Mapping) and {"role", "from"} & set(turn) for turn in response):
        is_whole = any(role_of(turn) == "user" for turn in response[:2])  # some sets put the prompt before the response, too
        return response if is_whole else [*prompt, *response]
    return [*prompt, {"role": "assistant", "content": response}]


def _checked(names: Iterable[str], spec: PromptSource) -> list[str]:
    """The columns, which must be all that the recipe names."""
    known = [*names]
    for column in spec.columns.model_dump(exclude_none=True).values():
        if column not in known:
            raise InputError(f"{spec.dataset} has no column {column!r}, which the recipe names{suggest(column, known)}")
    return known


def preference_layouts(names: Iterable[str], spec: PromptSource) -> tuple[Layout, Layout]:
    """Where the responses preferred are, and those that were not; with the prompt where it is a column of its own."""
    known, stated = _checked(names, spec), spec.columns
    better, worse, prompt = stated.chosen or "chosen", stated.rejected or "rejected", stated.prompt or "prompt"
    if better not in known or worse not in known:
        raise InputError(f"{spec.dataset} has columns {', '.join(known)[:SHOWN]}; expected chosen and rejected: name them in `columns`")
    return (Layout(prompt, better), Layout(prompt, worse)) if prompt in known else (Layout(better), Layout(worse))


def instructions(rows: Iterable[Any], layout: Layout, response: str) -> Iterator[Demonstration | LeftOut]:
    """Each row's prompt with its response, or why it has none."""
    for row in rows:
        try:
            prompt, real = divide(dialogue(row, layout), response)
        except RowError as error:
            yield left_out(str(error), row)
        else:
            yield Demonstration(prompt_id(prompt), prompt, real)


def preferences(rows: Iterable[Any], better: Layout, worse: Layout, response: str) -> Iterator[Preference | LeftOut]:
    """Each row's prompt with the response preferred and the one that was not, or why there are none."""
    for row in rows:
        try:
            (prompt, chosen), (other, rejected) = (divide(dialogue(row, layout), response) for layout in (better, worse))
            if prompt != other:
                raise RowError("the two responses do not answer one prompt")
            if chosen == rejected:
                raise RowError("the two responses are the same")
        except RowError as error:
            yield left_out(str(error), row)
        else:
            yield Preference(prompt_id(prompt), prompt, chosen, rejected)


def left_out(reason: str, row: Any) -> LeftOut:
    """A row left out, as much of it as is shown."""
    return LeftOut(reason, json.dumps(row, ensure_ascii=False, default=str)[:SHOWN])


def select(items: Iterable[Item | LeftOut], spec: PromptSource) -> Iterator[Item | LeftOut]:
    """The items `prompt_ids` names, in that order; else the first `num_prompts`. The first of several with one prompt is kept."""
    found: dict[str, Item] = {}
    for item in items:
        if isinstance(item, LeftOut):
            yield item
        elif item.prompt_id in found:
            yield left_out(REPEATED, item.prompt[-1]["content"])
        else:
            found[item.prompt_id] = item
            if not spec.prompt_ids:
                yield item
                if len(found) == spec.num_prompts:
                    return
    if spec.prompt_ids:
        yield from _named({name[:ID_DIGITS]: item for name, item in found.items()}, spec)


def _named(found: Mapping[str, Item], spec: PromptSource) -> Iterator[Item]:
    missing = [name for name in spec.prompt_ids if name not in found]
    if missing:
        raise InputError(
            f"{spec.dataset} [{spec.split}] lacks {len(missing)} of the {len(spec.prompt_ids)} prompts the recipe names, "
            f"first {missing[0]}; check dataset and revision"
        )
    yield from (found[name] for name in spec.prompt_ids)
