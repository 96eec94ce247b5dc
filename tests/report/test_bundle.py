"""A bundle proves itself offline, and a changed one does not."""

import gzip
import io
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.artifact import RunDir
from harness.errors import InputError, MachineError, RecipeError
from harness.machine import available, load, recorded
from harness.plan import plan
from harness.report import bundle as bundling
from harness.report.bundle import MANIFEST, pack, verify_bundle, write_bundle
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


def test_a_directory_is_no_archive(run: Path, tmp_path: Path) -> None:
    """Promise: the directory is named, with a file that could be written instead, and nothing is left behind."""
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=r"there is a directory; name the archive to write, such as .*there/.*\.tar\.gz"):
        write_bundle(run, tmp_path / "there")
    assert not [*(tmp_path / "there").iterdir(), *tmp_path.glob("*.tmp")]


def test_bundle_verifies_and_holds_no_weights(run: Path, bundle: Path) -> None:
    """Records, scores, samples, logs, tables, report and environment are in it; weights and responses are only named as absent."""
    damage, absent, checked, _ = verify_bundle(bundle)
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


def test_files_of_jobs_do_not_get_into_a_bundle(run: Path, bundle: Path, tmp_path: Path) -> None:
    """What submitit and Slurm leave beside the stages, logs and pickles, stays out of the archive, whatever it is called."""
    for name in ("7_submitted.pkl", "7_0_log.err", "log.jsonl", "statistics.json"):
        path = run / "jobs" / "iter0/generate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("s3cret-of-nobody")
    try:
        assert write_bundle(run, tmp_path / "again.tar.gz").read_bytes() == bundle.read_bytes()
    finally:
        shutil.rmtree(run / "jobs")


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


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """An archive of `members`, whatever they are called."""
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in members:
            entry.size = entry.size or len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def bomb(path: Path, gib: int) -> Path:
    """An archive of a few hundred kilobytes whose one entry says that it has `gib` GiB, and begins with zeros."""
    entry = tarfile.TarInfo("x/zeros")
    entry.size = gib << 30
    path.write_bytes(gzip.compress(entry.tobuf() + bytes(1 << 20)))
    return path


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "a//b", "a/\x1b[31m", "a/" * 20 + "b", "a\\b", "C:x"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    """Before anything is written."""
    with pytest.raises(InputError, match=r"is refused: it holds .* a path outside itself"):
        verify_bundle(archive(tmp_path / "a.tar.gz", (tarfile.TarInfo(name), b"")))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of 1 TiB, more files than a run has, a file twice and a description of megabytes are one line each, and write nothing."""
    monkeypatch.setattr(bundling, "_write_member", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(InputError, match="more than 20 GiB"):
        verify_bundle(bomb(tmp_path / "a.tar.gz", 1024))
    monkeypatch.setattr(bundling, "MAX_FILES", 3)
    many = [(tarfile.TarInfo(f"x/{i}"), b"") for i in range(4)]
    with pytest.raises(InputError, match="or 3 files"):
        verify_bundle(archive(tmp_path / "b.tar.gz", *many))
    with pytest.raises(InputError, match="a file twice"):
        verify_bundle(archive(tmp_path / "c.tar.gz", (tarfile.TarInfo("x/a"), b"1"), (tarfile.TarInfo("x/a"), b"2")))
    described = tarfile.TarInfo("x/a")
    described.pax_headers = {"comment": "x" * (2 << 20)}
    with pytest.raises(InputError, match="not a readable"):
        verify_bundle(archive(tmp_path / "d.tar.gz", (described, b"")))


def test_what_does_not_fit_the_disk_is_said_before(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little room the archive is left as it is."""
    monkeypatch.setattr(bundling.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(MachineError, match=r"unpacks to .* MiB free; set TMPDIR"):
        verify_bundle(bundle)


def test_links_do_not_get_into_a_bundle(tmp_path: Path) -> None:
    """A score that is a link to a file outside of the run, however equal, is not packed, nor committed."""
    linked = write_reported_run(tmp_path / "run", small_recipe())
    score = linked / "iter1/eval/open_llm/scores/gsm8k.json"
    score.rename(tmp_path / "private.json")
    score.symlink_to(tmp_path / "private.json")
    for write in (write_bundle, pack):
        with pytest.raises(InputError, match=r"scores/gsm8k\.json is a link; an archive takes the run's own files only"):
            write(linked)


def test_names_of_variables_are_recorded_and_secrets_not(tmp_path: Path) -> None:
    """No value of a variable that is not known to be harmless gets into a record, hence none into a bundle."""
    secret = "hf_0123456789"
    machine = load("cpu1").model_copy(
        update={"env": {"HF_TOKEN": secret, "VLLM_API_KEY": secret, "MY_PROXY": secret, "OMP_NUM_THREADS": "1", "NCCL_DEBUG": "INFO"}}
    )
    run = RunDir(tmp_path)
    stage = plan(small_recipe())[0]
    run.begin(stage, machine, {})
    launch = run.launch(stage.path)
    assert launch is not None
    hidden = "(not recorded)"
    secrets = dict.fromkeys(("HF_TOKEN", "VLLM_API_KEY", "MY_PROXY"), hidden)
    assert launch.machine.env == {**secrets, "OMP_NUM_THREADS": "1", "NCCL_DEBUG": "INFO"}
    assert secret not in (run.stage_dir(stage.path) / "stage.json").read_text()
    for update in ({"replica_env": ({"HF_TOKEN": secret},)}, {"server": f"https://user:{secret}@host/v1"}):
        with pytest.raises(RecipeError, match="a record would show") as caught:
            machine.model_copy(update=update)
        assert secret not in str(caught.value)


def test_every_shipped_machine_is_recorded_whole() -> None:
    """No variable a shipped machine sets is hidden."""
    for name in available():
        assert recorded(load(name)) == load(name)
