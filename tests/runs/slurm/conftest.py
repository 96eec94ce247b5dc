"""A cluster played by submitit's local executor, and an sbatch that only keeps what it is given."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import local_slurm
from tests.local_slurm import LocalSlurm


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSlurm]:
    found = local_slurm.use(monkeypatch)
    yield found
    for job in found.jobs.values():
        if job.is_queued:
            job.cancel()


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where an sbatch that runs nothing keeps its scripts, as 1, 2, ..., and the last environment it was called in."""
    folder = tmp_path / "recorded"
    (folder / "bin").mkdir(parents=True)
    count = f"n=$(($(ls {folder}/[0-9]* 2>/dev/null | wc -l) + 1))"
    scripts = {
        "sbatch": f'{count}; cp "$1" {folder}/$n; env > {folder}/environment; echo "Submitted batch job $n"',
        "srun": "exit 1",
        "squeue": "exit 0",
    }
    for name, text in scripts.items():
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{shutil.os.environ['PATH']}")
    return folder
