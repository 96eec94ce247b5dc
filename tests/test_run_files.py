"""What is committed of a run is one archive: read in place as its directories were, refused where it is damaged or unsafe."""

from __future__ import annotations

import io
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifact import RECIPE_FILE, RunDir
from harness.cli.explain import explain, to_text
from harness.cli.listings import status_list
from harness.contracts import run_files
from harness.contracts.run_files import ARCHIVE, read_archive, write_archive
from harness.errors import InputError
from harness.report.bundle import pack, verify_bundle, verify_run, write_bundle
from harness.report.formats.hub import to_card
from harness.report.head_to_head import compare, parse_side
from harness.report.html_report import write_report
from harness.report.tables import read_table, write_tables
from tests import ROOT
from tests.reported_runs import write_reported_run
from tests.synthetic_runs import small_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, packed, on the machine that made it."""
    run = write_reported_run(tmp_path_factory.mktemp("made") / "synthetic", small_recipe())
    write_tables(run)
    pack(run)
    return run


@pytest.fixture(scope="module")
def cloned(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as a clone brings it: recipe, tables and archive."""
    run = tmp_path_factory.mktemp("cloned") / "synthetic"
    shutil.copytree(made / "tables", run / "tables")
    for name in (RECIPE_FILE, ARCHIVE):
        shutil.copyfile(made / name, run / name)
    return run


@pytest.fixture(scope="module")
def opened(cloned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone with its records in directories."""
    run = tmp_path_factory.mktemp("opened") / "synthetic"
    shutil.copytree(cloned, run)
    with tarfile.open(run / ARCHIVE) as tar:
        tar.extractall(run, filter="data")
    (run / ARCHIVE).unlink()
    return run


SEEN: dict[str, Callable[[Path], object]] = {
    "tables": lambda run: read_table([run]),
    "verify": verify_run,
    "explain": lambda run: to_text(explain(run, "iter1", "gsm8k"), full=True),
    "report": lambda run: write_report(run).read_text(),
    "card": lambda run: str(to_card(run, "iter1")),
    "compare": lambda run: compare(parse_side(f"{run}:sft"), parse_side(f"{run}:iter1"), 1).model_dump(exclude={"left", "right"}),
    "status": lambda run: status_list(small_recipe(), RunDir(run)),
}


@pytest.mark.parametrize("view", SEEN)
def test_what_is_packed_reads_as_what_lies_open(cloned: Path, opened: Path, view: str) -> None:
    """Promise: every command that reads a clone's records says the same of packed ones, and unpacks nothing."""
    assert SEEN[view](cloned) == SEEN[view](opened)
    assert not list(cloned.rglob("stage.json"))


def test_a_packed_run_is_whole(cloned: Path) -> None:
    """Promise: all records verify; what is not committed is named as absent, as it is without an archive."""
    damage, absent, checked, unfinished = verify_run(cloned)
    assert damage == []
    assert (checked > 20, unfinished) == (True, [])
    assert {name.split("/")[2] for name in absent if name.startswith("iter0/generate")} == {"responses"}


def test_a_packed_run_is_bundled(cloned: Path, tmp_path: Path) -> None:
    """Promise: a bundle of a packed run verifies, and checks what the run's own check does."""
    found = verify_bundle(write_bundle(cloned, tmp_path / "b.tar.gz"))
    assert found == verify_run(cloned)


def test_equal_records_give_equal_archives(made: Path, cloned: Path, opened: Path, tmp_path: Path) -> None:
    """Promise: no time, owner or order of the file system is in an archive, and packing what is packed changes nothing."""
    before = (made / ARCHIVE).read_bytes()
    shutil.copytree(opened, tmp_path / "again")
    assert pack(tmp_path / "again") == [tmp_path / "again" / ARCHIVE]
    assert (tmp_path / "again" / ARCHIVE).read_bytes() == before
    pack(cloned)
    assert (cloned / ARCHIVE).read_bytes() == before


def test_no_byte_can_change_unseen(tmp_path: Path) -> None:
    """Promise: whichever byte of an archive is flipped, cut off or added, it is damaged: one line that says what to do."""
    path = tmp_path / ARCHIVE
    write_archive(path, {"sft/model/stage.json": b'{"a": 1}' * 40, "sft/model/done.json": b"{}"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for change in (1, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            with pytest.raises(InputError, match=r"is damaged .*; restore it from the commit it came with"):
                read_archive(path)
    for other in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0" * 4, whole + whole):
        path.write_bytes(other)
        with pytest.raises(InputError, match="is damaged"):
            read_archive(path)


def test_a_damaged_archive_is_damage(cloned: Path, tmp_path: Path) -> None:
    """Promise: `verify` finds a flipped byte and names the archive; the tables are refused in one line."""
    shutil.copytree(cloned, tmp_path / "run")
    archive = tmp_path / "run" / ARCHIVE
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 4
    archive.write_bytes(content)
    assert [one.path for one in verify_run(tmp_path / "run").damage] == [ARCHIVE]
    with pytest.raises(InputError, match=r"records\.tar\.xz is damaged"):
        read_table([tmp_path / "run"])


def test_other_records_in_a_sound_archive_are_damage(cloned: Path, tmp_path: Path) -> None:
    """Promise: a score changed before it was packed is found by its record's sha256, and a file of no stage is named."""
    shutil.copytree(cloned, tmp_path / "run")
    files = dict(read_archive(cloned / ARCHIVE))
    score = "iter1/eval/open_llm/scores/gsm8k.json"
    files |= {score: files[score].replace(b"100.0", b"000.0"), "note.txt": b"x"}
    write_archive(tmp_path / "run" / ARCHIVE, files)
    assert {one.path for one in verify_run(tmp_path / "run").damage} == {score, f"{ARCHIVE}/note.txt"}


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """An archive of `members`, whatever they are."""
    with tarfile.open(path, "w:xz", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["../stage.json", "/etc/passwd", "a/../../b", "a//b", "./a"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    """Promise: an archive is untrusted: a name that leads outside or is spelt in a second way is refused."""
    with pytest.raises(InputError, match="a path outside itself"):
        read_archive(archive_of(tmp_path / ARCHIVE, (tarfile.TarInfo(name), b"x")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_only_plain_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    """Promise: links, devices and pipes are refused."""
    member = tarfile.TarInfo("a")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(InputError, match="holds links"):
        read_archive(archive_of(tmp_path / ARCHIVE, (member, b"")))


def test_archives_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a bomb, too many files, and one file twice are refused before they fill the memory."""
    path = archive_of(tmp_path / ARCHIVE, (tarfile.TarInfo("a"), b"x"), (tarfile.TarInfo("a"), b"y"))
    with pytest.raises(InputError, match="a file twice"):
        read_archive(path)
    monkeypatch.setattr(run_files, "MAX_FILES", 2)
    with pytest.raises(InputError, match="or 2 files"):
        read_archive(archive_of(tmp_path / "many", *((tarfile.TarInfo(str(i)), b"") for i in range(3))))
    monkeypatch.setattr(run_files, "MAX_BYTES", 2**20)
    path.write_bytes(lzma.compress(bytes(2**26)))
    with pytest.raises(InputError, match="is damaged"):
        read_archive(path)
    path.write_bytes(lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**28}]))
    with pytest.raises(InputError, match="is damaged"):
        read_archive(path)


def test_directories_are_the_run_where_there_are_any(made: Path, tmp_path: Path) -> None:
    """Promise: on the machine that made a run its stages are read, not the copy; a copy that is none any more is told and renewed."""
    run = tmp_path / "synthetic"
    shutil.copytree(made, run)
    shutil.rmtree(run / "iter1")
    assert RunDir(run).launch("iter1/train") is None
    shutil.copytree(made / "iter1", run / "iter1")
    files = dict(read_archive(run / ARCHIVE))
    del files["iter1/train/log.jsonl"]
    write_archive(run / ARCHIVE, files)
    assert [(one.path, "harness pack" in one.reason) for one in verify_run(run).damage] == [(ARCHIVE, True)]
    pack(run)
    assert verify_run(run).damage == []
    (run / "iter1/train/log.jsonl").write_text("")
    with pytest.raises(InputError, match="only a run that `harness verify` accepts is packed"):
        pack(run)


def test_few_files_are_committed() -> None:
    """Promise: all committed runs together are under 200 files and 10 MB."""
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    assert len(paths) < 200
    assert sum(path.stat().st_size for path in paths) < 10e6


def test_folders_deeper_than_the_interpreter_recurses(tmp_path: Path) -> None:
    """Names are found however deep they are; a folder that is a link is not followed."""
    before = Path.cwd()
    for _ in range(1500):
        os.mkdir(tmp_path / "a" if Path.cwd() == before else "a")
        os.chdir(tmp_path / "a" if Path.cwd() == before else "a")
    Path("x").write_text("x")
    os.chdir(before)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [*run_files.names_below(tmp_path)] == ["a/" * 1500 + "x"]
    assert [*run_files.names_below(tmp_path / "absent")] == []
    subprocess.run(["rm", "-rf", str(tmp_path / "a")], check=True)  # pytest's own clean-up recurses
