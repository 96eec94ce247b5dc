"""A full disk is one line that says what to do, whichever library meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as sharded
from safetensors.torch import save_file

from harness.errors import MachineError
from harness.files import naming_full_disk
from harness.stages.model import build_tokenizer
from tests.small_disk import small_disk

WEIGHTS = {"weight": torch.zeros(1 << 16)}  # 256 KiB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64k") as folder:
        yield folder


def with_python(folder: Path) -> None:
    (folder / "log").write_bytes(bytes(1 << 17))


def with_torch(folder: Path) -> None:
    torch.save(WEIGHTS, folder / "state.bin")


def with_safetensors(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")


def with_tokenizers(folder: Path) -> None:
    build_tokenizer([f"word {number}" for number in range(5000)]).save_pretrained(folder)


def with_sharded_state(folder: Path) -> None:
    sharded.save(WEIGHTS, storage_writer=sharded.FileSystemWriter(folder / "state"))


@pytest.mark.parametrize("write", [with_python, with_torch, with_safetensors, with_tokenizers, with_sharded_state])
def test_a_full_disk_is_named(write: Callable[[Path], None], disk: Path) -> None:
    """Promise: the error names the file, the free space and the way on, whatever the library below raised."""
    line = r"^disk full while writing state \(\d+ MiB free\); nothing finished is lost: free space and run the same command again$"
    with pytest.raises(MachineError, match=line), naming_full_disk(disk / "state"):
        write(disk)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    """Promise: nothing else is taken for a full disk."""
    with pytest.raises(RuntimeError, match="shapes differ"), naming_full_disk(tmp_path / "state"):
        raise RuntimeError("shapes differ")
