"""A run or a sweep as one archive that a reviewer checks offline: records, scores, samples, logs, tables, report, environment; no weights.

    NAME/MANIFEST.json     {file: size and sha256} of everything else in the archive
    NAME/environment.txt   the packages the stages ran with, as recorded at their launches
    NAME/...               the run's files; of a sweep sweep.json, its tables, and the files of every run in NAME/RUN/

Equal runs give equal bytes: files are sorted and carry no time and no owner.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.artifact import DONE_FILE, RECIPE_FILE, STAGE_FILE, RunDir, read_recipe
from harness.config import InnerPath, Strict
from harness.contracts.own_files import FILES_DIR
from harness.contracts.run_files import ARCHIVE, names_below, packed, plain_files, write_archive
from harness.errors import HarnessError, InputError, MachineError
from harness.files import Output, dump, hash_file, naming_full_disk
from harness.report.tables import FILES, TABLES_DIR, read_table, render, write_all_tables
from harness.runs.committed_records import committed_files, planned_stages, unfinished
from harness.runs.sweeps import SWEEP_FILE, is_sweep, read_sweep
from harness.runs.verification import Damage, Verified, verify

MANIFEST, ENVIRONMENT, REPORT = "MANIFEST.json", "environment.txt", "report.html"
STAGE_FILES = (STAGE_FILE, DONE_FILE, "log.jsonl", "audit.json", "statistics.json", "weights.json", "scores/*.json", "samples/*.json*")
"""What is taken of a stage's directory."""
UNREADABLE = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError, RecursionError)
"""What reading a damaged archive raises."""
MAX_BYTES, MAX_FILES, MAX_HEADER = 20 * 2**30, 100_000, 2**20
"""An archive that would unpack to more bytes or files than these, or has an entry described by more, is refused before it is unpacked."""


class Manifest(Strict):
    """Every other file of the archive."""

    files: dict[InnerPath, Output]


def write_bundle(folder: Path, target: Path | None = None) -> Path:
    """Write the archive (default: NAME.tar.gz beside the run or sweep) with fresh tables; return its path.

    Raises InputError where a run is damaged.
    """
    name = read_sweep(folder).name if is_sweep(folder) else read_recipe(folder).name
    for run in _runs(folder):
        _refuse_damaged(run, verify(RunDir(run)).damage)
    write_all_tables(folder)
    paths = {str(path.relative_to(folder)): path for path in _files(folder)}
    _refuse_links(folder, paths)
    environment = _environment(_runs(folder)).encode()
    with tempfile.TemporaryDirectory() as beside:
        (Path(beside) / ENVIRONMENT).write_bytes(environment)
        paths[ENVIRONMENT] = Path(beside) / ENVIRONMENT
        manifest = Manifest(files={name: hash_file(paths[name]) for name in sorted(paths)})
        (Path(beside) / MANIFEST).write_bytes(dump(manifest))
        paths[MANIFEST] = Path(beside) / MANIFEST
        target = target or folder.resolve().parent / f"{name}.tar.gz"
        if target.is_dir():
            raise InputError(f"{target} is a directory; name the archive to write, such as {target / f'{name}.tar.gz'}")
        _archive(target, name, paths)
    return target


def pack(folder: Path, *, partly: bool = False) -> list[Path]:
    """Write RUN/records.tar.xz, what is committed of a run, for the run or every run of the sweep at `folder`; return the paths.

    The stages' directories stay; records that are packed already are left as they are. Raises InputError where a run is damaged, or not
    finished and not asked for `partly`.
    """
    for run in _runs(folder):
        if not packed(run):
            found = RunDir(run)
            planned = planned_stages(found)
            left = unfinished(found, planned)
            _refuse_damaged(run, [one for one in verify(found).damage if one.path not in left and not one.path.startswith(ARCHIVE)])
            if left and (len(left) == len(planned) or not partly):
                way = "" if len(left) == len(planned) else ", or pack what is finished with `harness pack RUN --unfinished`"
                raise InputError(f"{run}: {len(left)} of {len(planned)} stages are not finished ({', '.join(left)}); finish them{way}")
            files = committed_files(found, left)
            _refuse_links(run, files)
            write_archive(run / ARCHIVE, files)
    return [run / ARCHIVE for run in _runs(folder)]


def _refuse_damaged(run: Path, damage: Iterable[Damage]) -> None:
    for one in damage:
        raise InputError(f"{run}: {one.path} {one.reason}; only a run that `harness verify` accepts is packed")


def _refuse_links(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder}: {name} is a link; an archive takes the run's own files only: put the file itself there")


def verify_run(folder: Path) -> Verified:
    """As `runs.verification.verify`, for every run of a sweep too; where nothing is wrong, also whether the tables follow from the records.

    Tables that are not there are not missed.
    """
    parts = {run: verify(RunDir(run)) for run in _runs(folder)}
    damage, absent, left = list[Damage](), list[str](), list[str]()
    for run, found in parts.items():
        place = "" if run == folder else f"{run.name}/"
        damage += [Damage(f"{place}{item.path}", item.reason) for item in found.damage]
        absent += [f"{place}{name}" for name in found.absent]
        left += [f"{place}{path}" for path in found.unfinished]
    for whole in dict.fromkeys((folder, *parts)) if not damage else ():
        if (whole / TABLES_DIR).exists():
            damage += _tables_damage(whole, "" if whole == folder else f"{whole.name}/")
    return Verified(damage, absent, sum(found.checked for found in parts.values()), left)


def verify_bundle(path: Path) -> Verified:
    """As `verify_run`, for an archive: its manifest, what is in it, and its tables, which it must have."""
    with tempfile.TemporaryDirectory() as beside:
        folder = _unpack(path, Path(beside))
        found = verify_run(folder)
        damage = [*_against_manifest(folder), *found.damage]
        return found._replace(damage=damage or [*_tables_damage(folder)])


def _runs(folder: Path) -> list[Path]:
    """The run at `folder`, or every run of the sweep there."""
    return read_sweep(folder).folders(folder) if is_sweep(folder) else [folder]


def _files(folder: Path) -> Iterator[Path]:
    yield from (folder / TABLES_DIR / name for name in FILES.values())
    yield from (path for name in (SWEEP_FILE, REPORT) if (path := folder / name).exists())
    for run in _runs(folder):
        yield run / RECIPE_FILE
        yield from sorted(run / FILES_DIR / name for name in names_below(run / FILES_DIR))
        yield from sorted((run / TABLES_DIR).glob("tables.*")) if run != folder else ()
        if packed(run):
            yield run / ARCHIVE
            continue
        for stage in RunDir(run).stages():
            for pattern in STAGE_FILES:
                yield from sorted((run / stage).glob(pattern))


def _environment(runs: Iterable[Path]) -> str:
    """One 'package==version' a line; a package that changed between launches has a line for each version."""
    lines = set()
    for run in map(RunDir, runs):
        for stage in run.stages():
            launch = run.launch(stage)
            for one in launch.launches if launch else ():
                lines |= {f"{name}=={number}" for name, number in {"python": one.get("python"), **one.get("versions", {})}.items()}
    return "".join(f"{line}\n" for line in sorted(lines))


def _archive(target: Path, name: str, paths: dict[str, Path]) -> None:
    """Write beside, then rename, file by file: samples of a full run do not fit memory."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.tmp")
    with naming_full_disk(target):
        with (
            open(beside, "wb") as raw,
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for member in sorted(paths):
                entry = tarfile.TarInfo(f"{name}/{member}")
                entry.size, entry.mode = paths[member].stat().st_size, 0o644
                with open(paths[member], "rb") as file:
                    tar.addfile(entry, file)
        beside.replace(target)


class _Bounded(gzip.GzipFile):
    """An archive whose entries' descriptions, which are read into memory whole, stay small."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError("an entry's description is too long")
        return super().read(size)


def _unpack(path: Path, folder: Path) -> Path:
    """The run's directory in `folder`. Only plain files inside one directory are taken; nothing is written before all are known."""
    try:
        with open(path, "rb") as raw, _Bounded(fileobj=raw) as packed, tarfile.open(fileobj=packed, mode="r:") as tar:
            members = plain_files(path, tar, MAX_BYTES, MAX_FILES)
            needed, free = sum(member.size for member in members), shutil.disk_usage(folder).free
            if needed > free:
                place = f"{folder.parent} has {free >> 20} MiB free"
                raise MachineError(f"{path} unpacks to {needed >> 20} MiB, {place}; set TMPDIR to another disk")
            for member in members:
                _write_member(tar, member, folder)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a readable .tar.gz ({type(error).__name__}); expected what `harness bundle` writes") from None
    found = [one for one in folder.iterdir() if (one / MANIFEST).is_file()]
    if len(found) != 1 or len(os.listdir(folder)) != 1:
        raise InputError(f"{path} holds no single run with a {MANIFEST}; expected what `harness bundle` writes")
    return found[0]


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    target, source = folder / member.name, tar.extractfile(member)
    assert source is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(target), open(target, "wb") as file:
        shutil.copyfileobj(source, file)


def _against_manifest(run: Path) -> Iterator[Damage]:
    try:
        listed = Manifest.model_validate_json((run / MANIFEST).read_bytes()).files
    except ValueError:
        raise InputError(f"{MANIFEST} is not readable; the archive is damaged") from None
    there = {*names_below(run)} - {MANIFEST}
    for name in sorted(there | set(listed)):
        if name not in there:
            yield Damage(name, "is in the manifest and not in the archive")
        elif name not in listed:
            yield Damage(name, "is in the archive and not in the manifest")
        elif hash_file(run / name) != listed[name]:
            yield Damage(name, "its bytes differ from the manifest's sha256")


def _tables_damage(folder: Path, place: str = "") -> Iterator[Damage]:
    """Tables that are not what this version of harness makes of the records."""
    try:
        table = read_table([folder])
    except HarnessError as error:
        yield Damage(f"{place}{TABLES_DIR}", str(error))
        return
    for format, name in FILES.items():
        path = folder / TABLES_DIR / name
        if not path.exists() or path.read_bytes() != render(table, format).encode():
            reason = "is not what this version of harness makes of the records; `harness tables RUN --write` renews it"
            yield Damage(f"{place}{TABLES_DIR}/{name}", reason)
