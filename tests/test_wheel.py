"""What is installed is complete: a wheel holds the recipes, machines and sweeps, and works far from any checkout."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness import machine, recipe
from harness.runs import sweeps as sweep
from tests import ROOT


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed here; it comes with the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_ships_recipes_machines_and_sweeps_and_nothing_else(unpacked: Path) -> None:
    """Every recipe, machine and sweep of the checkout is inside the package; tests and results are not."""
    assert {path.name for path in unpacked.iterdir() if "dist-info" not in path.name} == {"harness"}
    for known in (recipe.available(), machine.available(), sweep.available()):
        for path in known.values():
            assert (unpacked / "harness" / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_installed_command_finds_its_recipes(unpacked: Path, tmp_path: Path) -> None:
    """Away from the checkout the package finds a recipe that builds on another, and the machine for it."""
    env = {**os.environ, "PYTHONPATH": str(unpacked), "COLUMNS": "80"}
    command = [sys.executable, "-m", "harness", "plan", "zephyr-7b-release"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "zephyr-7b-release on a100x8" in done.stdout
