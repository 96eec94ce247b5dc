"""Where a run may be written: in a directory of its own, never among files of somebody else or inside another run."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

from harness.artifact import RECIPE_FILE, REHEARSAL_FILE
from harness.contracts.own_files import DATA_DIR
from harness.contracts.run_files import ARCHIVE
from harness.errors import InputError
from harness.files import write_atomic
from harness.plan import plan
from harness.recipe import Recipe
from harness.runs import lock as locks
from harness.runs.slurm.queue import JOBS

IGNORE_FILE = ".gitignore"
OWN = (
    DATA_DIR,
    ARCHIVE,
    JOBS,
    locks.LOCK_FILE,
    locks.CLAIM_FILE,
    REHEARSAL_FILE,
    IGNORE_FILE,
    "tables",
    "random",
    "released",
    "*.md",
    "*.tmp",
)
"""What may lie in a run's directory before its recipe does, beside its stages."""


def refuse_foreign(folder: Path, recipe: Recipe) -> None:
    """Raise `InputError` where `folder` holds what no run of `recipe` has left there, or lies in another run's directory."""
    outer = next(filter(_is_run, folder.absolute().parents), None)
    if outer is not None:
        raise InputError(f"{folder} lies inside the run {outer}; a run has a directory of its own: name another with --out")
    if (folder / RECIPE_FILE).is_file() or not folder.is_dir():
        return
    own = (*tops_of(recipe), *OWN)
    foreign = sorted(path.name for path in folder.iterdir() if not any(fnmatch(path.name, name) for name in own))
    if foreign:
        some = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise InputError(f"{folder} is no run and not empty ({some}); name a new or empty directory with --out")


def _is_run(folder: Path) -> bool:
    """Whether the recipe.json there is one of harness, by the one field that every recipe has; other programs write files of that name."""
    try:
        return "sft_model" in json.loads((folder / RECIPE_FILE).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def tops_of(recipe: Recipe) -> list[str]:
    """The first parts of the stages' paths: the directories that a run has."""
    return sorted({stage.path.split("/")[0] for stage in plan(recipe)})


def ignore(folder: Path, recipe: Recipe) -> None:
    """Keep git from a run's stages (what is committed of them is packed) and from its locks; lines that are there already stay."""
    path = folder / IGNORE_FILE
    lines = path.read_text().splitlines() if path.is_file() else []
    wanted = (*(f"/{top}/" for top in (*tops_of(recipe), DATA_DIR)), "*.tmp", locks.LOCK_FILE, locks.CLAIM_FILE, f"{JOBS}/")
    missing = [line for line in wanted if line not in lines]
    if missing:
        write_atomic(path, "\n".join([*lines, *missing, ""]).encode())
