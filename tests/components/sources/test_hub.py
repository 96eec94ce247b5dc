"""A dataset on the Hub gives first turns, named by their text; what it cannot give is one clear line."""

from __future__ import annotations

import hashlib
from typing import Any

import datasets
import pytest

from harness.components.sources import hub
from harness.contracts import Demonstration, LeftOut, Preference
from harness.errors import InputError
from harness.recipe import PromptSource, load

REVISION = "b" * 40
SPEC = PromptSource(source="hub", dataset="org/set", revision=REVISION, num_prompts=4)


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation that begins with the user."""
    roles = ("user", "assistant")
    start = [{"role": "system", "content": system}] if system else []
    return [*start, *({"role": roles[i % 2], "content": text} for i, text in enumerate(texts))]


def serve(monkeypatch: pytest.MonkeyPatch, conversations: list[list[dict[str, str]]], column: str = "messages") -> list[Any]:
    """Put a dataset behind `load_dataset`; returns the calls made to it."""
    calls: list[Any] = []
    data = datasets.Dataset.from_dict({"other": [0] * len(conversations), column: conversations})

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        calls.append((args, kwargs))
        return data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def rows_of(spec: PromptSource) -> list[Demonstration]:
    """What can be trained on."""
    return [row for row in hub.load(spec) if not isinstance(row, LeftOut)]


def preferences_of(spec: PromptSource) -> list[Preference]:
    """What can be trained on."""
    return [row for row in hub.load_preferences(spec) if not isinstance(row, LeftOut)]


def identity(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()


CONVERSATIONS = [turns(f"q{i}", f"a{i}", "more", "again") for i in range(9)]


@pytest.mark.parametrize("column", ["messages", "chosen", "real"])
def test_first_turn_of_each_known_layout(monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    """Each known column of messages gives the first user turn and its response; revision and split go to the Hub as pinned."""
    calls = serve(monkeypatch, CONVERSATIONS, column)
    rows = rows_of(SPEC)
    assert calls == [(("org/set", None), {"split": "train", "revision": REVISION})]
    assert len(rows) == 4
    for row in rows:
        number = row.prompt[0]["content"].removeprefix("q")
        assert row == (identity(f"q{number}"), [{"role": "user", "content": f"q{number}"}], f"a{number}")


def test_shuffle_follows_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same rows in the same order, another seed another order; fewer prompts are a prefix."""
    serve(monkeypatch, CONVERSATIONS)
    rows = rows_of(SPEC)
    assert rows_of(SPEC) == rows
    assert rows_of(SPEC.model_copy(update={"num_prompts": 2})) == rows[:2]
    assert rows_of(SPEC.model_copy(update={"shuffle_seed": 7})) != rows


def test_what_cannot_be_trained_on_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unanswered, empty and assistant-first conversations are dropped, a system turn is skipped, and a repeated prompt counts once."""
    bad = [turns("lonely"), turns("empty", "  "), [{"role": "assistant", "content": "hello"}, *turns("late", "x")]]
    serve(monkeypatch, [*bad, turns("q", "first"), turns("q", "second"), turns("told", "x", system="be kind")])
    rows = rows_of(SPEC)
    assert sorted(row.prompt[0]["content"] for row in rows) == ["q", "told"]


def test_named_rows_come_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prompt_ids` finds its rows in any order of the set; one that is not there is named."""
    serve(monkeypatch, CONVERSATIONS)
    names = tuple(identity(f"q{i}")[:16] for i in (5, 2, 7))
    spec = SPEC.model_copy(update={"prompt_ids": names, "num_prompts": 3})
    assert [row.real for row in rows_of(spec)] == ["a5", "a2", "a7"]
    with pytest.raises(InputError, match=r"lacks 1 of the 2 prompts the recipe names, first 0{16}; check dataset and revision"):
        rows_of(spec.model_copy(update={"prompt_ids": (names[0], "0" * 16)}))


def test_unknown_layout_says_what_was_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set without a known column lists its own."""
    serve(monkeypatch, CONVERSATIONS, "dialogue")
    with pytest.raises(InputError, match=r"has columns other, dialogue; expected one of messages, conversations, chosen, real"):
        rows_of(SPEC)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset 'org/set' doesn't exist on the Hub"), "doesn't exist on the Hub"),
        (ValueError('Unknown split "trian".\nShould be one of'), 'Unknown split "trian"'),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_set_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, error: Exception, found: str) -> None:
    """A missing set, a missing split and a dead network are each one line with what to check."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = rf"dataset org/set \[train\] could not be loaded: .*{found}.*; check the name, the network"
    with pytest.raises(InputError, match=message) as caught:
        rows_of(SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hf_cache")
def test_missing_set_is_one_line_from_the_real_client() -> None:
    """Offline, a set that is not in the cache is an input error, from the datasets library itself."""
    with pytest.raises(InputError, match=r"dataset nobody/nothing \[train\] could not be loaded: .*; check the name"):
        rows_of(SPEC.model_copy(update={"dataset": "nobody/nothing"}))


@pytest.mark.usefixtures("hf_cache")
def test_named_prompts_of_the_shipped_recipe_are_in_the_real_set() -> None:
    """smollm2-135m's prompts are found in the pinned set, each with the response to its first turn."""
    spec = load("smollm2-135m").prompts
    rows = rows_of(spec)
    assert tuple(row.prompt_id[:16] for row in rows) == spec.prompt_ids
    assert all(row.prompt[0]["role"] == "user" and row.real.strip() for row in rows)
