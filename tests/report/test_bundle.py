"""A bundle proves itself offline, and a changed one does not."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.report.bundle import MANIFEST, verify_bundle, write_bundle
from harness.report.tables import write_tables
from tests.reported_runs import write_reported_run
from tests.synthetic_runs import small_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_reported_run(tmp_path_factory.mktemp("run") / "a", small_recipe())
    (path / "report.html").write_text("<!doctype html>")
    return path


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    return write_bundle(run)


def changed(bundle: Path, target: Path, edits: dict[str, bytes | None]) -> Path:
    """The archive with files replaced, added, or (None) left out."""
    with tarfile.open(bundle) as old:
        files = {one.name: old.extractfile(one).read() for one in old.getmembers()}  # type: ignore[union-attr]
    files |= {name: data for name, data in edits.items() if data is not None}
    with tarfile.open(target, "w:gz") as new:
        for name, data in files.items():
            if edits.get(name, data) is not None:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                new.addfile(entry, io.BytesIO(data))
    return target


def test_bundle_verifies_and_holds_no_weights(run: Path, bundle: Path) -> None:
    """Records, scores, samples, logs, tables, report and environment are in it; weights and responses are only named as absent."""
    damage, absent, checked = verify_bundle(bundle)
    assert damage == []
    assert checked > 20
    assert "iter0/generate/responses/00000.jsonl" in absent
    with tarfile.open(bundle) as tar:
        names = set(tar.getnames())
        environment = tar.extractfile("synthetic/environment.txt")
        assert environment is not None
        assert environment.read().decode() == "python==3.11.9\ntorch==2.13.0\n"
    for name in ("recipe.json", "tables/tables.json", "report.html", "iter1/train/log.jsonl", "iter1/eval/mt_bench/samples/mt_bench.jsonl"):
        assert f"synthetic/{name}" in names
    assert not any("responses" in name or "checkpoint" in name for name in names)


def test_equal_runs_give_equal_bundles(run: Path, bundle: Path, tmp_path: Path) -> None:
    """No time, owner or path of the machine is in the archive."""
    assert write_bundle(run, tmp_path / "again.tar.gz").read_bytes() == bundle.read_bytes()


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({"synthetic/iter1/eval/open_llm/scores/gsm8k.json": b"{}"}, "differ from the manifest"),
        ({"synthetic/tables/tables.md": None}, "not in the archive"),
        ({"synthetic/extra.txt": b"x"}, "not in the manifest"),
    ],
)
def test_changed_bundle_is_told(bundle: Path, tmp_path: Path, edits: dict[str, bytes | None], told: str) -> None:
    """A file changed, missing or added is named."""
    damage = verify_bundle(changed(bundle, tmp_path / "b.tar.gz", edits))[0]
    assert any(told in one.reason for one in damage)


def test_tables_must_follow_from_the_records(run: Path, bundle: Path, tmp_path: Path) -> None:
    """Better numbers in the tables, with a manifest made to match, are still found."""
    copied = changed(bundle, tmp_path / "b.tar.gz", {})
    with tarfile.open(copied) as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / "synthetic"
    table = folder / "tables/tables.md"
    table.write_text(table.read_text().replace("supported", "SUPPORTED"))
    from harness.files import dump, hash_file
    from harness.report.bundle import Manifest

    files = {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST}
    edits = {"synthetic/tables/tables.md": table.read_bytes(), f"synthetic/{MANIFEST}": dump(Manifest(files=files))}
    damage = verify_bundle(changed(bundle, tmp_path / "c.tar.gz", edits))[0]
    assert [one.path for one in damage] == ["tables/tables.md"]


def test_what_is_no_bundle_is_refused(tmp_path: Path, run: Path) -> None:
    """A text file, a link that leaves the directory, a damaged run: one line each."""
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"text"))
    with pytest.raises(InputError, match="not a readable"):
        verify_bundle(tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("x/recipe.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(InputError, match="holds links"):
        verify_bundle(tmp_path / "b.tar.gz")
    damaged = write_reported_run(tmp_path / "run", small_recipe())
    write_tables(damaged)
    (damaged / "iter0/train/log.jsonl").write_text("")
    with pytest.raises(InputError, match="only a run that `harness verify` accepts"):
        write_bundle(damaged)
