"""A full disk is one line, whichever library meets it, and hashes are those of the bytes that are there, however they came."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as sharded
from safetensors.torch import save_file

from harness import files
from harness.errors import InputError, MachineError
from harness.files import Hashes, hash_file, naming_full_disk
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


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three bytes that counts as settled at once."""
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.02)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    time.sleep(0.05)
    return path


def copied_onto(source: Path, target: Path) -> None:
    """`cp -p source target`: the inode stays, size and times become those of the source."""
    shutil.copyfile(source, target)
    shutil.copystat(source, target)


def renamed_onto(source: Path, target: Path) -> None:
    source.rename(target)


def touched_back(source: Path, target: Path) -> None:
    """Written in place, its times then set to what they were."""
    before = target.stat()
    target.write_bytes(source.read_bytes())
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_settled_file_is_read_once(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time a file's hash is known by its stamp."""
    hashes = Hashes()
    first = hashes.of(settled)
    monkeypatch.setattr(files, "_hash_stamped", lambda path: pytest.fail("read again"))
    assert hashes.of(settled) == first


@pytest.mark.parametrize("exchange", [copied_onto, renamed_onto, touched_back])
def test_no_copy_fools_the_stamp(settled: Path, exchange: object) -> None:
    """Other bytes of the same size and the same mtime (in two cases the same inode too) are hashed anew."""
    hashes = Hashes()
    hashes.of(settled)
    before, other = settled.stat(), settled.with_name("other")
    other.write_bytes(b"new")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    exchange(other, settled)  # type: ignore[operator]
    after = settled.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert hashes.of(settled) == hash_file(settled) != hashes.of(Path(__file__))
    assert hashes.of(settled).sha256 == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"


def test_a_file_just_written_is_read_again(tmp_path: Path) -> None:
    """Two changes within a clock's tick may bear one time, so a fresh stamp is not trusted."""
    hashes, path = Hashes(), tmp_path / "a"
    for data in (b"one", b"two", b"six"):
        path.write_bytes(data)
        assert hashes.of(path) == hash_file(path)
    assert hashes._known == {}


def test_what_might_never_end_is_not_read(tmp_path: Path) -> None:
    """A pipe, a link to a device and a directory are refused before they are opened."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="missing or no plain file"):
            hash_file(path)
