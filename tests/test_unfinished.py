"""What a stage has written before it is finished: a byte that changed since is one line, whatever was only cut short is not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from harness.contracts.unfinished import NOTES, noting
from harness.errors import InputError
from harness.files import write_atomic


def leave_unfinished(stage: Path, *contents: bytes) -> Path:
    """A file written with each of the contents in turn by a launch that does not come to its end."""
    with suppress(KeyboardInterrupt), noting(stage):
        for content in contents:
            write_atomic(stage / "responses" / "00000.jsonl", content)
        raise KeyboardInterrupt
    return stage / "responses" / "00000.jsonl"


def test_a_changed_byte_is_one_line(tmp_path: Path) -> None:
    """It names the file and what to do; without the file the work goes on, and at its end nothing is left of the notes."""
    path = leave_unfinished(tmp_path, b"one\n")
    path.write_bytes(b"two\n")
    told = r"responses/00000\.jsonl is not what was written there .*; remove it and run again"
    with pytest.raises(InputError, match=told), noting(tmp_path):
        pass
    path.unlink()
    with noting(tmp_path):
        assert [*tmp_path.glob(NOTES)]
    assert not [*tmp_path.glob(NOTES)]


def test_any_content_it_was_to_have_is_right(tmp_path: Path) -> None:
    """A kill may come between the note and the file's new name, and may cut a note."""
    path = leave_unfinished(tmp_path, b"one\n", b"two\n")
    notes = next(tmp_path.glob(NOTES))
    for content in (b"one\n", b"two\n"):
        path.write_bytes(content)
        leave_unfinished(tmp_path)
    notes.write_bytes(notes.read_bytes() + b'["responses/00000')
    leave_unfinished(tmp_path)
    leave_unfinished(tmp_path, b"three\n")
    leave_unfinished(tmp_path)
    path.write_bytes(b"four\n")
    with pytest.raises(InputError), noting(tmp_path):
        pass


def test_files_elsewhere_are_not_noted(tmp_path: Path) -> None:
    """Nor is anything outside a stage's process."""
    (tmp_path / "stage").mkdir()
    with noting(tmp_path / "stage"):
        write_atomic(tmp_path / "other", b"x")
        assert not [*(tmp_path / "stage").iterdir()]
    write_atomic(tmp_path / "stage" / "x", b"x")
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["x"]
