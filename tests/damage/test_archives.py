"""Hostile and damaged archives: `verify` refuses them in one line or names what is wrong, and leaves nothing behind."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from harness.contracts.run_files import ARCHIVE, DONE_FILE, UNFINISHED, read_archive, write_archive
from harness.errors import HarnessError
from harness.files import dump, hash_file
from harness.report import bundle as bundling
from harness.report.bundle import verify_run
from tests import Told

pytestmark = pytest.mark.damage

NUM_FLIPS = 200
Member = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None) -> Member:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, len(data) if size is None else size
    return found, data


def packed(members: Iterable[Member]) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for found, data in members:
            tar.addfile(found, io.BytesIO(data))
    return out.getvalue()


def cut_open(members: Iterable[Member]) -> bytes:
    """As `packed`, where an entry promises more than it holds and the archive ends there."""
    return gzip.compress(b"".join(found.tobuf() + data for found, data in members))


def hostile(good: list[Member], top: str) -> dict[str, bytes]:
    """One archive of each kind: the good one, whose files stand in the folder `top`, and what does not belong there."""
    names = ["/etc/x", "../x", f"{top}../../x", f"{top}a//x", f"{top}./x", ".", "", f"{top}{'a/' * 20}x", f"{top}{'x' * 2000}", "C:x",
             f"{top}a\\b", f"{top}\x1b[2J", f"{top}\u202egpj.exe", f"{top}other/x", good[0][0].name]  # fmt: skip
    kinds = {"a symlink": tarfile.SYMTYPE, "a hard link": tarfile.LNKTYPE, "a device": tarfile.CHRTYPE, "a block device": tarfile.BLKTYPE,
             "a pipe": tarfile.FIFOTYPE, "a folder": tarfile.DIRTYPE, "a sparse file": tarfile.GNUTYPE_SPARSE}  # fmt: skip
    made = {f"named {name!r}": packed([*good, entry(name, b"x")]) for name in names}
    made |= {what: packed([*good, entry(f"{top}x", kind=kind, link="/etc/passwd")]) for what, kind in kinds.items()}
    return made | {
        "promises 2 EB": cut_open([*good, entry(f"{top}x", size=2**61)]),
        "promises 100 GiB": cut_open([*good, entry(f"{top}x", size=100 * 2**30)]),
        "a bomb": packed([*good, entry(f"{top}x", bytes(2**28))]),
        "100,001 files": packed([*good, *(entry(f"{top}{i}") for i in range(bundling.MAX_FILES + 1))]),
        "a description of 8 MB": packed([entry(f"{top}{'x' * 2**23}")]),
        "no tar": gzip.compress(b"hello"),
        "an empty tar": packed([]),
        "zeros": gzip.compress(bytes(2**24)),
        "a file too few": packed(good[1:]),
        "packed twice": gzip.compress(packed(good)),
    }


def hostile_bundles(good: list[Member]) -> dict[str, bytes]:
    """As `hostile`, and manifests and records that list what is not the run's."""
    rest = [one for one in good if not one[0].name.endswith(bundling.MANIFEST)]
    again = [entry(found.name.replace("whole/", "again/"), data) for found, data in good]
    made = {"nothing": b"", "no gzip": b"hello", "no manifest": packed(rest), "two runs": packed([*good, *again])}
    made["a manifest that is no JSON"] = packed([*rest, entry(f"whole/{bundling.MANIFEST}", b"[" * 100_000)])
    for name in ("/dev/zero", "../../etc/passwd", "/etc/passwd"):
        made[f"a manifest that lists {name}"] = packed(with_manifest(good, {name: {"size": 1, "sha256": "0" * 64}}))
        made[f"a record that lists {name}"] = packed(with_record(good, name))
    return {**hostile(good, "whole/"), **made}


def with_manifest(good: list[Member], more: dict[str, object]) -> list[Member]:
    def changed(data: bytes) -> bytes:
        whole = json.loads(data)
        return json.dumps({"files": {**whole["files"], **more}}).encode()

    return [entry(f.name, changed(data)) if f.name.endswith(bundling.MANIFEST) else (f, data) for f, data in good]


def with_record(good: list[Member], name: str) -> list[Member]:
    """A done.json that lists `name`, and a manifest that agrees with it."""
    members = {f.name.removeprefix("whole/"): data for f, data in good if not f.name.endswith(bundling.MANIFEST)}
    place = "sft/train/done.json"
    record = json.loads(members[place])
    members[place] = json.dumps({**record, "outputs": {**record["outputs"], name: {"size": 1, "sha256": "0" * 64}}}).encode()
    with tempfile.TemporaryDirectory() as beside:
        files = {}
        for inner, data in members.items():
            (Path(beside) / "x").write_bytes(data)
            files[inner] = hash_file(Path(beside) / "x")
    manifest = dump(bundling.Manifest(files=files))
    return [entry(f"whole/{inner}", data) for inner, data in {**members, bundling.MANIFEST: manifest}.items()]


def refused(path: Path) -> bool:
    """Whether the archive is refused in one line, or damage is named."""
    try:
        return bool(bundling.verify_bundle(path).damage)
    except HarnessError as error:
        said = str(error)
    assert len(said.splitlines()) == 1, said
    return True


@pytest.fixture
def whole(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good bundle, with an empty folder as the place for temporary files."""
    run = shutil.copytree(undisturbed, tmp_path / "whole")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return bundling.write_bundle(Path(run), tmp_path / "whole.tar.gz")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_hostile_archives(whole: Path, tmp_path: Path, told: Told) -> None:
    """Promise: none is taken, each is said in one line, and nothing is written outside the folder that is thrown away."""
    assert not bundling.verify_bundle(whole).damage
    with tarfile.open(whole) as tar:
        good = [entry(one.name, readable(tar)(one)) for one in tar]
    assert not refused(written(tmp_path / "good.tar.gz", packed(good)))
    made, before = hostile_bundles(good), left(tmp_path)
    num = sum(refused(written(tmp_path / "good.tar.gz", data)) for data in made.values())
    assert left(tmp_path) == before
    assert left(tmp_path / "tmp") == []
    told(f"hostile archives {num}/{len(made)}")
    assert num == len(made)


def test_damaged_archives(whole: Path, tmp_path: Path, told: Told) -> None:
    """Promise: a byte changed or the end cut off is noticed, unless what is unpacked is the same all the same."""
    data, num = whole.read_bytes(), 0
    plain = gzip.decompress(data)
    for seed in range(NUM_FLIPS):
        rng = random.Random(seed)
        changed = bytearray(data if seed % 2 else plain)
        changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
        changed = changed[: rng.randrange(len(changed))] if seed % 5 == 0 else changed
        path = written(tmp_path / "changed.tar.gz", bytes(changed) if seed % 2 else gzip.compress(bytes(changed), 1))
        num += refused(path) or contents(path) == contents(whole)
    told(f"damaged archives {num}/{NUM_FLIPS}")
    assert num == NUM_FLIPS


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {one.name: readable(tar)(one) for one in tar}


def readable(tar: tarfile.TarFile) -> Callable[[tarfile.TarInfo], bytes]:
    def read(one: tarfile.TarInfo) -> bytes:
        file = tar.extractfile(one)
        return b"" if file is None else file.read()

    return read


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_packed_records(undisturbed: Path, tmp_path: Path, told: Told) -> None:
    """Promise: what is committed of a run, its records packed, is held to the same: hostile entries, and any byte changed, are one line."""
    run = tmp_path / "whole"
    shutil.copytree(undisturbed, tmp_path / "made")
    (run / "tables").mkdir(parents=True)
    for name in ("recipe.json", *(f"tables/{path.name}" for path in (undisturbed / "tables").iterdir())):
        shutil.copyfile(undisturbed / name, run / name)
    whole = bundling.pack(tmp_path / "made")[0].read_bytes()
    archive = run / ARCHIVE
    good = dict(read_archive(written(archive, whole)))
    absent = verify_run(run).absent
    assert not verify_run(run).damage
    of_each_kind = hostile([entry(name, data) for name, data in good.items()], "sft/train/").values()
    made = [lzma.compress(gzip.decompress(data), preset=0) for data in of_each_kind]
    for seed in range(NUM_FLIPS):
        rng, changed = random.Random(seed), bytearray(whole)
        changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
        made.append(bytes(changed))
    num = 0
    for data in made:
        archive.write_bytes(data)
        try:
            found = verify_run(run)
            num += bool(found.damage) or found.absent != absent or dict(read_archive(archive)) == good
        except HarnessError as error:
            num += len(str(error).splitlines()) == 1
    told(f"packed records {num}/{len(made)}")
    assert num == len(made)


def test_the_list_of_an_unfinished_run(undisturbed: Path, tmp_path: Path, told: Told) -> None:
    """Promise: in a sound archive, a byte changed in the list of what was not finished, or a finished stage taken away, is noticed."""
    made, run = Path(shutil.copytree(undisturbed, tmp_path / "made")), tmp_path / "whole"
    (made / "iter1/eval/mt_bench" / DONE_FILE).unlink()
    good = dict(read_archive(bundling.pack(made, partly=True)[0]))
    run.mkdir()
    shutil.copyfile(undisturbed / "recipe.json", run / "recipe.json")
    write_archive(run / ARCHIVE, good)
    found = verify_run(run)
    assert (found.damage, found.unfinished) == ([], ["iter1/eval/mt_bench"])
    kinds = []
    for seed in range(NUM_FLIPS):
        rng, changed = random.Random(seed), bytearray(good[UNFINISHED])
        changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
        kinds.append({**good, UNFINISHED: bytes(changed)})
    stages = sorted({name.removesuffix(f"/{DONE_FILE}") for name in good if name.endswith(f"/{DONE_FILE}")})
    kinds += [{name: data for name, data in good.items() if not name.startswith(f"{stage}/")} for stage in stages]
    num = 0
    for files in kinds:
        write_archive(run / ARCHIVE, files)
        num += bool(verify_run(run).damage)
    told(f"lists of unfinished stages {num}/{len(kinds)}")
    assert num == len(kinds)
