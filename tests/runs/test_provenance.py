"""Where a number came from is recorded without saying whose machine it was."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.runs import provenance
from harness.runs.needs.gpus import Gpu
from tests import ROOT


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["reproduce", "tiny"], "harness reproduce tiny"),
        (["reproduce", "{cwd}/mine.py", "--out", "{cwd}/results/x"], "harness reproduce mine.py --out results/x"),
        (["reproduce", "tiny", "--out=/somewhere/private/run"], "harness reproduce tiny --out=run"),
        (["reproduce", "/somewhere/private/mine.py"], "harness reproduce mine.py"),
        (["accept", "tiny", "iter0/train", "--because=a/b = c"], "harness accept tiny iter0/train --because=a/b = c"),
    ],
)
def test_command_is_recorded_without_private_paths(monkeypatch: pytest.MonkeyPatch, args: list[str], shown: str) -> None:
    """Paths are given as seen from here, or by their last name where they lie elsewhere; other text is kept as typed."""
    monkeypatch.setattr(sys, "argv", ["/opt/bin/harness", *(arg.format(cwd=Path.cwd()) for arg in args)])
    assert provenance.collect()["command"] == shown


def test_what_is_recorded_names_versions_and_no_host() -> None:
    """Commit, versions and hardware are there and can be written as JSON; the host's name and our directory are not."""
    found = provenance.collect()
    assert found["versions"]["torch"]
    assert found["num_cpus"] >= 1
    text = json.dumps(found)
    assert socket.gethostname() not in text
    assert str(ROOT) not in text


def test_no_git_is_unknown_not_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where git cannot answer, commit and dirty are unknown."""

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance.subprocess, "run", fail)
    found = provenance.collect()
    assert (found["commit"], found["dirty"]) == (None, None)


def test_repository_around_an_environment_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installed into an environment inside somebody's repository, the harness does not take that repository's commit for its own."""
    for command in (["init", "-q"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "provenance.py").touch()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    found = provenance.collect()
    assert (found["commit"], found["dirty"]) == (None, None)


def test_a_launch_in_words() -> None:
    """A short commit and whether the tree was as committed; what was not recorded says so."""
    launch = {
        "commit": "0123456789abcdef",
        "dirty": True,
        "command": "harness reproduce tiny",
        "python": "3.11.2",
        "versions": {"torch": "2", "peft": "1"},
    }
    text = provenance.describe(launch)
    assert (text.commit, text.command, text.packages) == ("0123456789ab with local changes", "harness reproduce tiny", "torch 2, peft 1")
    assert provenance.describe({**launch, "dirty": None}).commit == "0123456789ab (tree not recorded)"
    assert provenance.describe({}) == ("not recorded", "not recorded", "not recorded", "versions not recorded", "")


def test_gpus_are_recorded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: name, memory and driver of each GPU stand in the record, and readers see how many there are of a kind."""
    cards = (Gpu("NVIDIA A100-SXM4-80GB", 85.9, 8.0, driver="570.86.15"),) * 8
    monkeypatch.setattr(provenance.gpus, "look", lambda: cards)
    provenance._gpus.cache_clear()
    found = provenance.collect()
    provenance._gpus.cache_clear()
    assert found["gpus"] == ["NVIDIA A100-SXM4-80GB, 85.9 GB, driver 570.86.15"] * 8
    assert provenance.describe(found).hardware.endswith("; 8 x NVIDIA A100-SXM4-80GB, 85.9 GB, driver 570.86.15")
