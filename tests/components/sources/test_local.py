"""A file of the user's own: every layout and format gives the same rows, and what cannot be trained on is counted with its reason."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest

from harness.components.sources import hub, local
from harness.contracts import Demonstration, LeftOut, Preference
from harness.errors import InputError
from harness.files import hash_content
from harness.recipe import Columns, PromptSource
from harness.stages import prompts
from tests.checkpoints import MACHINE

LONG = "long " * 200_000
NUM_GOOD = 10


def spec(path: Path, num: int = 3, **changes: Any) -> PromptSource:
    return PromptSource(source="local", dataset=str(path), revision=hash_content(path), num_prompts=num, **changes)


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def usable(found: Any) -> list[Any]:
    return [row for row in found if not isinstance(row, LeftOut)]


def reasons(found: Any) -> Counter[str]:
    return Counter(row.reason for row in found if isinstance(row, LeftOut))


def say(*texts: Any, role: str = "role", content: str = "content", names: tuple[str, str] = ("user", "assistant")) -> list[dict[str, Any]]:
    return [{role: names[i % 2], content: text} for i, text in enumerate(texts)]


PAIRS = [(f"question {i}", f"answer {i}") for i in range(3)]
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": say(q, a)} for q, a in PAIRS],
    "prompt and response": [{"prompt": q, "response": a} for q, a in PAIRS],
    "prompt and completion": [{"prompt": q, "completion": a} for q, a in PAIRS],
    "conversational prompt-completion": [{"prompt": say(q), "completion": [{"role": "assistant", "content": a}]} for q, a in PAIRS],
    "alpaca": [{"instruction": q, "input": "", "output": a} for q, a in PAIRS],
    "question and answer": [{"question": q, "answer": a} for q, a in PAIRS],
    "ShareGPT": [{"conversations": say(q, a, role="from", content="value", names=("human", "gpt"))} for q, a in PAIRS],
    "ucla": [{"real": say(q, a), "generated": say(q, "x")} for q, a in PAIRS],
    "preferences with the prompt inside": [{"chosen": say(q, a), "rejected": say(q, "x")} for q, a in PAIRS],
    "preferences with the prompt apart and inside": [{"prompt": q, "chosen": say(q, a), "rejected": say(q, "x")} for q, a in PAIRS],
    "preferences with the prompt apart": [{"prompt": q, "chosen": a, "rejected": "x"} for q, a in PAIRS],
    "messages as text": [{"messages": json.dumps(say(q, a))} for q, a in PAIRS],
    "parts of text": [{"messages": say([{"type": "text", "text": q}], [{"type": "text", "text": a}])} for q, a in PAIRS],
}


@pytest.mark.parametrize("rows", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_rows(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Whatever the columns are called, a prompt and its response come out, named by the sha256 of the prompt."""
    found = usable(local.load(spec(lines(tmp_path / "mine.jsonl", rows))))
    expected = [Demonstration(hashlib.sha256(q.encode()).hexdigest(), [{"role": "user", "content": q}], a) for q, a in PAIRS]
    assert sorted(found) == sorted(expected)


def odd(name: str) -> tuple[list[Any], dict[str, int]]:
    """20 rows of a layout, the first 10 of them good and one of these of 1 MB, with the reasons the others are left out for."""
    write = WRITERS[name]
    good = [write(*good_texts(i)) for i in range(NUM_GOOD)]
    rows = [*good, None, "text", [], {}, write(None, "a"), write("", "a"), write("q", " "), write(*good_texts(0))]
    counts = {"a row is no object": 3, "content is null": 2, "a prompt is empty": 1, "a response is empty": 1}
    counts["its prompt stood in an earlier row"] = 1
    if name in TALKS:
        rows += [TALKS[name]([*say("one"), *say("two", "a")]), TALKS[name](say("hello", "q", "a", names=("assistant", "user")))]
        return rows, {**counts, "one speaks twice in a row": 1, "the assistant begins": 1}
    rows += [write({"a": 1}, "a"), write("p", 7)]
    return rows, {**counts, "a dialogue is no list of messages": 1, "content is not text": 1}


def good_texts(i: int) -> tuple[str, str]:
    return f"question {i}", LONG if i == 5 else f"answer\r\n{i} \u2028 \ufeff"


WRITERS = {
    "messages": lambda q, a: {"messages": say(q, a)},
    "prompt and response": lambda q, a: {"prompt": q, "response": a},
    "prompt and completion": lambda q, a: {"prompt": q, "completion": a},
    "conversational prompt-completion": lambda q, a: {"prompt": say(q), "completion": [{"role": "assistant", "content": a}]},
    "alpaca": lambda q, a: {"instruction": q, "output": a},
    "question and answer": lambda q, a: {"question": q, "answer": a},
    "ShareGPT": lambda q, a: {"conversations": say(q, a, role="from", content="value", names=("human", "gpt"))},
}


TALKS: dict[str, Any] = {
    "messages": lambda turns: {"messages": turns},
    "ShareGPT": lambda turns: {
        "conversations": [{"from": "human" if turn["role"] == "user" else "gpt", "value": turn["content"]} for turn in turns]
    },
    "conversational prompt-completion": lambda turns: {"prompt": turns[:-1], "completion": turns[-1:]},
}
"""Those of the layouts in which a dialogue can be out of order."""


@pytest.mark.parametrize("name", WRITERS)
def test_odd_rows_of_every_layout_are_counted_with_reasons(tmp_path: Path, name: str) -> None:
    """Of 20 rows, one of 1 MB, in a file with a BOM, CRLF and blank lines, 10 are given; each other one is counted with its reason."""
    rows, expected = odd(name)
    assert len(rows) == 20
    path = tmp_path / "odd.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row).encode() for row in rows) + b"\r\n")
    found = list(local.load(spec(path, 20)))
    assert sorted((row.prompt[0]["content"], row.real) for row in usable(found)) == sorted(good_texts(i) for i in range(NUM_GOOD))
    assert reasons(found) == expected


DIALOGUES: list[tuple[Any, str | None]] = [
    (say("q1", "a"), None),
    (say("q2", "a", "more", "again"), None),
    (say("q3", "a", None), None),
    ([{"role": "system", "content": "be kind"}, *say("q4", "a")], None),
    ([*say("one"), *say("two", "a")], "one speaks twice in a row"),
    (say("hello", "q5", "a", names=("assistant", "user")), "the assistant begins"),
    ([*say("q6", "a", "b"), {"role": "tool", "content": "x"}], None),
    ([*say("q7"), {"role": "tool", "content": "x"}, {"role": "assistant", "content": "a"}], "a role is 'tool'"),
    ([*say("q8"), {"content": "a"}], "nothing is answered"),
    (say("lonely"), "nothing is answered"),
    (say("q9", None), "content is null"),
    (say(None, "a"), "content is null"),
    (say("q10", {"text": "a"}), "content is not text"),
    (say([{"type": "image_url", "image_url": "x"}], "a"), "content is not text"),
    (say(7, "a"), "content is not text"),
    (say("q11", " \n"), "a response is empty"),
    (say("\t", "a"), "a prompt is empty"),
    ([], "a dialogue is empty"),
    (None, "content is null"),
    ({"role": "user"}, "a dialogue is no list of messages"),
    ("only text", "nothing is answered"),
    ([1, 2], "a dialogue is no list of messages"),
]


def test_odd_dialogues_are_counted_with_reasons(tmp_path: Path) -> None:
    """Of 22 dialogues the five whose first answer can be trained on are given, and every other one is counted under why it cannot."""
    path = lines(tmp_path / "odd.jsonl", [{"messages": turns} for turns, _ in DIALOGUES])
    found = list(local.load(spec(path, 30)))
    assert sorted(row.prompt[-1]["content"] for row in usable(found)) == ["q1", "q2", "q3", "q4", "q6"]
    assert reasons(found) == Counter(why for _, why in DIALOGUES if why)
    (told,) = (row for row in usable(found) if len(row.prompt) == 2)
    assert told.prompt[0] == {"role": "system", "content": "be kind"}


def test_the_recipe_says_which_turn_is_the_response(tmp_path: Path) -> None:
    """The first, as in the paper, or the last; two dialogues that end in the same turn are two prompts."""
    rows = [{"messages": say("hi", "a", "thanks", "welcome")}, {"messages": say("hey", "b", "thanks", "welcome")}]
    path = lines(tmp_path / "mine.jsonl", rows)
    assert sorted(row.real for row in usable(local.load(spec(path)))) == ["a", "b"]
    last = usable(local.load(spec(path, response="last")))
    assert sorted((len(row.prompt), row.prompt[0]["content"], row.real) for row in last) == [(3, "hey", "welcome"), (3, "hi", "welcome")]
    assert len({row.prompt_id for row in last}) == 2


def test_an_alpaca_input_follows_the_instruction(tmp_path: Path) -> None:
    """The input belongs to the prompt."""
    path = lines(tmp_path / "mine.jsonl", [{"instruction": "Add", "input": "1 2", "output": "3"}])
    (row,) = usable(local.load(spec(path, 1)))
    assert row.prompt == [{"role": "user", "content": "Add\n\n1 2"}]


def test_columns_of_any_name(tmp_path: Path) -> None:
    """A mapping in the recipe says what is what; a name that no column has is an error with a suggestion."""
    path = lines(tmp_path / "mine.jsonl", [{"frage": "q", "antwort": "a", "prompt": "other"}])
    (row,) = usable(local.load(spec(path, 1, columns=Columns(prompt="frage", response="antwort"))))
    assert (row.prompt[0]["content"], row.real) == ("q", "a")
    with pytest.raises(InputError, match="no column 'fragen', which the recipe names; did you mean 'frage'"):
        local.load(spec(path, 1, columns=Columns(prompt="fragen", response="antwort")))
    with pytest.raises(InputError, match="has columns frage, antwort, prompt; expected one of messages"):
        local.load(spec(path, 1))


def test_one_stated_column_goes_with_a_usual_one(tmp_path: Path) -> None:
    """Promise: a response column that the recipe names is trained on, beside the usual prompt, though the usual response is there too."""
    path = lines(tmp_path / "two.jsonl", [{"prompt": "q", "response": "a", "better": "b", "asked": "p", "messages": []}])
    for columns, found in ((Columns(response="better"), ("q", "b")), (Columns(prompt="asked"), ("p", "a"))):
        (row,) = usable(local.load(spec(path, 1, columns=columns)))
        assert (row.prompt[0]["content"], row.real) == found
    alone = lines(tmp_path / "alone.jsonl", [{"better": "b", "other": "c"}])
    with pytest.raises(InputError, match="say in `columns` which of them is what"):
        local.load(spec(alone, 1, columns=Columns(response="better")))


def test_preferences(tmp_path: Path) -> None:
    """Chosen and rejected answers to one prompt are given, others are left out."""
    rows = [{"chosen": say("q", "a"), "rejected": say("q", "b")}, {"chosen": say("q", "a"), "rejected": say("p", "b")}]
    rows.append({"chosen": say("r", "a"), "rejected": say("r", "a")})
    found = list(local.load_preferences(spec(lines(tmp_path / "mine.jsonl", rows))))
    assert usable(found) == [Preference(hashlib.sha256(b"q").hexdigest(), say("q"), "a", "b")]
    assert reasons(found) == {"the two responses do not answer one prompt": 1, "the two responses are the same": 1}


def written(folder: Path, kind: str) -> Path:
    """The same three rows in one of the formats."""
    rows = LAYOUTS["prompt and response"]
    path, data = folder / f"mine.{kind}", datasets.Dataset.from_list(rows)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["prompt", "response"])
    table.writeheader()
    table.writerows(rows)
    lines_ = "".join(json.dumps(row) + "\n" for row in rows).encode()
    plain = {
        "jsonl": lines_,
        "jsonl.gz": gzip.compress(lines_),
        "json": json.dumps(rows).encode(),
        "lines.json": lines_,
        "object.json": json.dumps({"version": 1, "data": rows}).encode(),
        "csv": b"\xef\xbb\xbf" + text.getvalue().encode(),
    }
    if kind in plain:
        path.write_bytes(plain[kind])
    elif kind == "parquet":
        data.to_parquet(path)
    elif kind == "arrow":
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, data.data.table.schema) as writer:
            writer.write_table(data.data.table)
    elif kind == "stream.arrow":
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, data.data.table.schema) as writer:
            writer.write_table(data.data.table)
    elif kind == "saved":
        data.save_to_disk(str(path))
    elif kind == "saved splits":
        datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(path))
    else:
        data.to_parquet(path / "data" / "train-00000-of-00001.parquet")
        data.select([0]).to_parquet(path / "data" / "test-00000-of-00001.parquet")
    return path


KINDS = (
    "jsonl", "jsonl.gz", "json", "lines.json", "object.json", "csv", "parquet", "arrow", "stream.arrow", "saved", "saved splits", "folder",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    """Rows and their order do not depend on how the file is written."""
    plain = usable(local.load(spec(lines(tmp_path / "plain.jsonl", LAYOUTS["prompt and response"]))))
    assert usable(local.load(spec(written(tmp_path, kind)))) == plain


def test_order_is_that_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows from a file or from the Hub are shuffled alike, so a set that was downloaded gives the same prompts."""
    rows = [{"prompt": f"q{i}", "response": f"a{i}"} for i in range(40)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    there = PromptSource(source="hub", dataset="org/set", revision="b" * 40, num_prompts=9)
    assert usable(local.load(spec(lines(tmp_path / "mine.jsonl", rows), 9))) == usable(hub.load(there))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.jsonl", b'{"prompt": "a", "response": "b"}\n{"prompt": ', "mine.jsonl line 2 is not whole JSON"),
        ("mine.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}', "mine.jsonl line 2 is not UTF-8"),
        ("mine.jsonl", b"\n\n", "holds no row"),
        ("mine.jsonl", b"[" * 100_000, "mine.jsonl line 1 is not whole JSON"),
        ("mine.json", b"[" * 100_000, "mine.json line 1 is not whole JSON"),
        ("mine.jsonl.gz", b"hello", "mine.jsonl.gz cannot be unpacked: Not a gzipped file"),
        ("mine.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-9], "mine.jsonl.gz cannot be unpacked: Compressed file ended"),
        (
            "mine.jsonl.gz",
            gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 20,
            "mine.jsonl.gz cannot be unpacked: Error -3 while decompressing",
        ),
        ("mine.txt", b"hello", "mine.txt is not one of .jsonl, .json, .csv, .parquet, .arrow"),
        ("mine.parquet", b"PAR1 no", "mine.parquet cannot be read"),
        ("mine.csv", b'prompt,response\n"a,b\n', "mine.csv is not readable CSV"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """What is no row at all is not skipped: the file and the line are named."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(local.load(spec(path)))


def test_a_folder_is_read_as_it_is_hashed(tmp_path: Path) -> None:
    """Promise: hidden copies that an editor leaves are neither hashed nor read, and files of other splits that begin alike are refused."""
    folder = tmp_path / "set"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    lines(folder / "train-00000-of-00002.jsonl", [{"prompt": "q", "response": "new"}])
    lines(folder / "train-00001-of-00002.jsonl", [{"prompt": "r", "response": "other"}])
    lines(folder / ".ipynb_checkpoints/train-checkpoint.jsonl", [{"prompt": "q", "response": "old"}])
    assert {row.real for row in usable(local.load(spec(folder, 2)))} == {"new", "other"}
    lines(folder / "train_gen-00000-of-00001.jsonl", [{"prompt": "s", "response": "generated"}])
    with pytest.raises(InputError, match="several splits that begin with 'train': train, train_gen; name one of them"):
        local.load(spec(folder, 2))
    assert {row.real for row in usable(local.load(spec(folder, 1, split="train_gen")))} == {"generated"}


def test_a_changed_file_is_not_trained_on(tmp_path: Path) -> None:
    """One byte more and the content is not what the recipe pins; a recipe that pins nothing is told how."""
    path = lines(tmp_path / "mine.jsonl", LAYOUTS["messages"])
    source = spec(path)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(InputError, match=r"has the sha256 \w{64}, the recipe pins \w{64}"):
        local.load(source)
    with pytest.raises(ValueError, match=r"run `harness pin mine\.jsonl`"):
        PromptSource(source="local", dataset="mine.jsonl", num_prompts=1)
    with pytest.raises(InputError, match="split is called 'train'; the recipe asks for 'test'"):
        local.load(spec(path, split="test"))


def test_the_stage_records_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, reasons and an example of each are written and said; where too few rows are left the error says why."""
    path = lines(tmp_path / "mine.jsonl", [*LAYOUTS["messages"], {"messages": say("q", None)}, {"messages": say("p", None)}])
    source = spec(path)
    prompts.run({"prompts": source.model_copy(update={"prompt_ids": ids(source)}).model_dump(mode="json")}, {}, tmp_path / "out", MACHINE)
    report = json.loads((tmp_path / "out/samples/left_out.json").read_text())
    assert report == {"content is null": {"rows": 2, "example": json.dumps({"messages": say("q", None)})}}
    assert "left out 2 rows: 2 because content is null" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"gives 3 usable prompts, the recipe asks for 5; .*left out 2 rows: 2 because content is null"):
        prompts.run({"prompts": spec(path, 5).model_dump(mode="json")}, {}, tmp_path / "short", MACHINE)


def ids(source: PromptSource) -> tuple[str, ...]:
    return tuple(row.prompt_id[:16] for row in usable(local.load(source)))


def test_new_fields_change_no_identity() -> None:
    """A source that states neither columns nor another turn has the spec it always had."""
    plain = PromptSource(source="procedural", dataset="procedural", num_prompts=1)
    assert set(plain.model_dump()) == {"source", "dataset", "config", "revision", "split", "num_prompts", "shuffle_seed", "prompt_ids"}
    assert plain.model_copy(update={"response": "last"}).model_dump()["response"] == "last"
