"""A run as one archive that a reviewer checks offline: records, scores, samples, logs, tables, report, environment; no weights.

    NAME/MANIFEST.json     {file: size and sha256} of everything else in the archive
    NAME/environment.txt   the packages the stages ran with, as recorded at their launches
    NAME/...               the run's files

Equal runs give equal bytes: files are sorted and carry no time and no owner.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.analysis.run_table import collect
from harness.artifact import DONE_FILE, FILES_DIR, RECIPE_FILE, STAGE_FILE, RunDir, read_recipe
from harness.config import Strict
from harness.errors import HarnessError, InputError
from harness.files import Output, dump, hash_file, naming_full_disk
from harness.report.tables import FILES, TABLES_DIR, render, write_tables
from harness.runs.runner import Damage, verify

MANIFEST, ENVIRONMENT, REPORT = "MANIFEST.json", "environment.txt", "report.html"
STAGE_FILES = (STAGE_FILE, DONE_FILE, "log.jsonl", "audit.json", "statistics.json", "scores/*.json", "samples/*.json*")
"""What is taken of a stage's directory."""
MAX_BYTES = 20 * 2**30
"""An archive that would unpack to more than this is refused."""


class Manifest(Strict):
    """Every other file of the archive."""

    files: dict[str, Output]


def write_bundle(run: Path, target: Path | None = None) -> Path:
    """Write the archive (default: RECIPE.tar.gz beside the run) with fresh tables; return its path. Raises InputError for a damaged run."""
    recipe = read_recipe(run)
    damage = verify(RunDir(run))[0]
    if damage:
        raise InputError(f"{run}: {damage[0].path} {damage[0].reason}; only a run that `harness verify` accepts is bundled")
    write_tables(run)
    paths = {str(path.relative_to(run)): path for path in _files(run)}
    environment = _environment(RunDir(run)).encode()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ENVIRONMENT).write_bytes(environment)
        paths[ENVIRONMENT] = Path(folder) / ENVIRONMENT
        manifest = Manifest(files={name: hash_file(paths[name]) for name in sorted(paths)})
        (Path(folder) / MANIFEST).write_bytes(dump(manifest))
        paths[MANIFEST] = Path(folder) / MANIFEST
        target = target or run.resolve().parent / f"{recipe.name}.tar.gz"
        _archive(target, recipe.name, paths)
    return target


def verify_bundle(path: Path) -> tuple[list[Damage], list[str], int]:
    """As `runner.verify`, for an archive: its manifest, the run in it, and whether its tables follow from its records."""
    with tempfile.TemporaryDirectory() as folder:
        run = _unpack(path, Path(folder))
        damage = [*_against_manifest(run)]
        found, absent, checked = verify(RunDir(run))
        damage += found
        if not damage:
            damage += _tables_damage(run)
        return damage, absent, checked


def _files(run: Path) -> Iterator[Path]:
    yield run / RECIPE_FILE
    yield from sorted(path for path in (run / FILES_DIR).rglob("*") if path.is_file())
    yield from (run / TABLES_DIR / name for name in FILES.values())
    if (run / REPORT).exists():
        yield run / REPORT
    for stage in RunDir(run).stages():
        for pattern in STAGE_FILES:
            yield from sorted((run / stage).glob(pattern))


def _environment(run: RunDir) -> str:
    """One 'package==version' a line; a package that changed between launches has a line for each version."""
    lines = set()
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


def _unpack(path: Path, folder: Path) -> Path:
    """The run's directory in `folder`. Only plain files inside one directory are taken."""
    try:
        with tarfile.open(path, "r:gz") as tar:
            members = tar.getmembers()
            if sum(member.size for member in members) > MAX_BYTES or not all(member.isfile() for member in members):
                raise InputError(f"{path} is not a bundle: it holds links, devices or more than {MAX_BYTES >> 30} GiB")
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a readable .tar.gz ({type(error).__name__}); expected what `harness bundle` writes") from None
    found = [one for one in folder.iterdir() if (one / MANIFEST).is_file()]
    if len(found) != 1 or len(os.listdir(folder)) != 1:
        raise InputError(f"{path} holds no single run with a {MANIFEST}; expected what `harness bundle` writes")
    return found[0]


def _against_manifest(run: Path) -> Iterator[Damage]:
    try:
        listed = Manifest.model_validate_json((run / MANIFEST).read_bytes()).files
    except ValueError:
        raise InputError(f"{MANIFEST} is not readable; the archive is damaged") from None
    there = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} - {MANIFEST}
    for name in sorted(there | set(listed)):
        if name not in there:
            yield Damage(name, "is in the manifest and not in the archive")
        elif name not in listed:
            yield Damage(name, "is in the archive and not in the manifest")
        elif hash_file(run / name) != listed[name]:
            yield Damage(name, "its bytes differ from the manifest's sha256")


def _tables_damage(run: Path) -> Iterator[Damage]:
    """Tables that are not what this version of harness makes of the records."""
    try:
        table = collect(run)
    except HarnessError as error:
        yield Damage(TABLES_DIR, str(error))
        return
    for format, name in FILES.items():
        path = run / TABLES_DIR / name
        if not path.exists() or path.read_text() != render(table, format):
            yield Damage(f"{TABLES_DIR}/{name}", "is not what this version of harness makes of the records")
