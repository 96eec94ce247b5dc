"""Pairs as other tools store them."""

from __future__ import annotations

import gzip
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pytest

from harness.contracts import LeftOut
from harness.errors import InputError
from harness.runs import pair_files
from harness.runs.pair_files import Layout
from harness.training.pairs import Pair
from tests.tiny_checkpoints import word_checkpoint

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
SHA = hashlib.sha256(b"Why is the sky blue?").hexdigest()


def pairs(num: int) -> list[Pair]:
    dialogue = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    found = []
    for i in range(num):
        prompt = [*(dialogue if i % 2 else []), {"role": "user", "content": f"ka lo {i}"}]
        found.append(Pair(f"p{i}", prompt, f"mi ä{i}", " so\n" * (i % 3), ("stop", "length")[i % 2]))
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("layout", ["ucla", "trl"])
def test_what_is_written_reads_back_equal(tmp_path: Path, layout: Layout) -> None:
    """Every field of every pair survives, in order; the last hundredth is the test split."""
    assert pair_files.write(pairs(250), layout, tmp_path / "set") == {"train": 248, "test": 2}
    assert pair_files.read(str(tmp_path / "set"), "train+test") == (pairs(250), [])
    assert pair_files.read(str(tmp_path / "set"), "test") == (pairs(250)[-2:], [])


def test_columns_are_those_of_the_released_sets(tmp_path: Path) -> None:
    """`ucla` holds whole conversations in real and generated; `trl` holds the prompt apart."""
    pair = Pair("p", QUESTION, "Rayleigh.", "Magic.", "stop")
    pair_files.write([pair], "ucla", tmp_path / "ucla")
    pair_files.write([pair], "trl", tmp_path / "trl")
    real, magic = {"role": "assistant", "content": "Rayleigh."}, {"role": "assistant", "content": "Magic."}
    (row,) = datasets.load_dataset(str(tmp_path / "ucla"), split="train")
    assert row == {"prompt_id": "p", "finish_reason": "stop", "real": [*QUESTION, real], "generated": [*QUESTION, magic]}
    (row,) = datasets.load_dataset(str(tmp_path / "trl"), split="train")
    assert row == {"prompt_id": "p", "finish_reason": "stop", "prompt": QUESTION, "chosen": [real], "rejected": [magic]}


@pytest.mark.parametrize(
    "row",
    [
        {"real": [*QUESTION, {"role": "assistant", "content": "a"}], "generated": [*QUESTION, {"role": "assistant", "content": "b"}]},
        {"chosen": [*QUESTION, {"role": "assistant", "content": "a"}], "rejected": [*QUESTION, {"role": "assistant", "content": "b"}]},
        {"prompt": "Why is the sky blue?", "chosen": "a", "rejected": "b"},
        {
            "prompt": "Why is the sky blue?",
            "chosen": [*QUESTION, {"role": "assistant", "content": "a"}],
            "rejected": [*QUESTION, {"role": "assistant", "content": "b"}],
        },
    ],
)
def test_files_of_others(tmp_path: Path, row: dict[str, Any]) -> None:
    """The released layout and the usual preference layouts are read; ids come from the prompt, and how a response ended is unknown."""
    path = tmp_path / "others.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    again = LeftOut("its prompt stood in an earlier row", json.dumps(row)[:200])
    assert pair_files.read(str(path), "train") == ([Pair(SHA, QUESTION, "a", "b", None)], [again])
    assert pair_files.hash_source(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_packed_files_are_read_and_hashed(tmp_path: Path) -> None:
    """Promise: a .jsonl.gz counts as a .jsonl does, alone or in a directory, and the hash is of what was read."""
    packed = tmp_path / "set" / "train.jsonl.gz"
    packed.parent.mkdir()
    hashes = []
    for answer in "ac":
        row = {"prompt": "Why is the sky blue?", "chosen": answer, "rejected": "b"}
        packed.write_bytes(gzip.compress(json.dumps(row).encode(), mtime=0))
        for source in (packed, packed.parent):
            assert pair_files.read(str(source), "train") == ([Pair(SHA, QUESTION, answer, "b", None)], [])
            hashes.append(pair_files.hash_source(str(source)))
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "row 1 is not a pair"),
        ({"prompt": "x", "chosen": "a", "rejected": None}, "content is null"),
        ({"prompt": "x", "chosen": [{"role": "assistant", "content": None}], "rejected": "b"}, "content is null"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "finish_reason": "done"}, "finish_reason is 'done', expected 'stop' or 'length'"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "prompt_id": 5}, "prompt_id is '5', expected text"),
        ([1, 2], "row 1 is not a pair .*it is no object"),
        ({"real": [*QUESTION], "generated": [*QUESTION]}, "last message is by 'user'"),
        ({"prompt": "x", "chosen": [*QUESTION, {"role": "assistant", "content": "a"}], "rejected": "b"}, "do not answer one prompt"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path: Path, row: Any, message: str) -> None:
    """A wrong file, row or name is one line with what was expected."""
    path = tmp_path / "others.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=message):
        pair_files.read(str(path), "train")
    with pytest.raises(InputError, match="40-hex commit"):
        pair_files.read("UCLA-AGI/SPIN_iter0", "train")


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", b"\xff"])
def test_a_damaged_file_is_one_line_alone_or_in_a_folder(tmp_path: Path, content: bytes) -> None:
    """Nothing in it, and JSON so deep that it ended the library that read folders (a segmentation fault of pyarrow's), are told."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    for source in (path, tmp_path):
        with pytest.raises(InputError) as caught:
            pair_files.read(str(source), "train")
        assert len(str(caught.value).splitlines()) == 1


def test_dialogues_that_end_alike_are_two_prompts(tmp_path: Path) -> None:
    """An id is that of the whole prompt: two dialogues with one last turn are both kept; a list of text parts is its text."""
    answers = {"chosen": [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}], "rejected": "b"}
    earlier = [[{"role": "user", "content": q}, {"role": "assistant", "content": "x"}] for q in ("hi", "hey")]
    rows = [{"prompt": [*turns, *QUESTION], **answers} for turns in earlier]
    path = tmp_path / "others.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = pair_files.read(str(path), "train")
    assert [(pair.prompt[0]["content"], pair.real) for pair in found] == [("hi", "a"), ("hey", "a")]
    assert len({SHA, *(pair.prompt_id for pair in found)}) == 3


@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed here")
def test_trl_trains_on_the_exported_set(tmp_path: Path) -> None:
    """TRL's DPOTrainer takes the `trl` layout as it is, and a step on it has a loss."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    pair_files.write(pairs(8), "trl", tmp_path / "set")
    checkpoint = word_checkpoint(tmp_path / "model")
    config = DPOConfig(output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=4, report_to=[], use_cpu=True, bf16=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    data = datasets.load_dataset(str(tmp_path / "set"), split="train")
    trainer = DPOTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3)
