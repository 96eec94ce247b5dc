"""Answers on disk: kept whole, never served to another model or other requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.evaluation.answer_cache import Answers, hash_checkpoint, identity


def test_answers_come_back_exactly(tmp_path: Path) -> None:
    """Floats keep every bit and text every character, units that were not asked are absent."""
    Answers(tmp_path, "a").add(3, [[0, [-1.1102230246251565e-16, True]], [1, "ü\n\u2028"]])
    again = Answers(tmp_path, "a")
    assert again.get(3) == [[0, [-1.1102230246251565e-16, True]], [1, "ü\n\u2028"]]
    assert again.get(0) is None
    assert Answers(tmp_path, "b").get(3) is None


def test_a_line_cut_by_a_kill_is_dropped_and_the_file_goes_on(tmp_path: Path) -> None:
    """Half a line is no answer; what is added after it is found."""
    kept = Answers(tmp_path, "a")
    kept.add(0, ["whole"])
    kept.add(1, ["cut"])
    kept.path.write_bytes(kept.path.read_bytes()[:-4])
    again = Answers(tmp_path, "a")
    assert (again.get(0), again.get(1)) == (["whole"], None)
    again.add(1, ["asked again"])
    assert Answers(tmp_path, "a").get(1) == ["asked again"]


@pytest.mark.parametrize("line", [b"[0, [1]", b"5", b"[1]", b'["x", 1]', b"\xff", b"[" * 100_000])
def test_a_line_that_is_no_answer_is_named(tmp_path: Path, line: bytes) -> None:
    """A whole line that holds no unit and its answers is damage: one line that names the file."""
    kept = Answers(tmp_path, "a")
    kept.add(0, ["whole"])
    kept.path.write_bytes(kept.path.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match=r"a\.jsonl are damaged; remove the file and run again"):
        Answers(tmp_path, "a")


def test_the_name_changes_with_the_model_and_with_every_request(tmp_path: Path) -> None:
    """One byte of the weights, one token of one request, or their order gives another file."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = hash_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert hash_checkpoint(tmp_path) != before
    assert len({identity([before, [1], [2, 3]]), identity([before, [2, 3], [1]]), identity([before, [1], [2, 4]])}) == 3
