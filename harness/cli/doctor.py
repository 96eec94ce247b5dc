"""Whether this computer can do what is asked: a list of checks, each a function of one thing; those of a recipe are in preflight.py.

To add a check, write a function `(Context) -> Iterator[Finding]` and put it into CHECKS. A check imports nothing heavy and changes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from harness import machine as machines
from harness.cli.preflight import (
    DISTRIBUTION,
    Context,
    Finding,
    context_for,
    hub_cache,
    installed,
    is_offline,
    place_of,
    recipe_checks,
    to_be_made,
)
from harness.cli.printing import announce
from harness.cli.vllm_checks import PACKAGES, vllm_checks
from harness.errors import MachineError
from harness.evaluation.judge_shutdowns import RECOMMENDED, SHUTDOWN, judges_of, not_chosen, warning
from harness.machine import Machine
from harness.recipe import Recipe

OLDEST_PYTHON = (3, 11)
LOW_DISK_GB = 5.0
HF_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT")
SECRETS = ("HF_TOKEN", "OPENAI_API_KEY")
ADDRESSES = ("OPENAI_BASE_URL",)
"""Variables of which only the presence is told."""

Check = Callable[[Context], Iterator[Finding]]


def examine(context: Context) -> list[Finding]:
    """Every finding of every check, in order."""
    return [finding for check in CHECKS for finding in check(context)]


def refuse_unready(recipe: Recipe, machine: Machine, run: Path) -> None:
    """Raise `MachineError` where `recipe` cannot run on `machine` in `run`."""
    preflight(Context(recipe, run.parent, date.today(), machine, run=run))


def ready_machine(recipe: Recipe, machine: str | None, run: Path, only: str | None = None) -> Machine:
    """The machine named, or what this computer is for `recipe`, after the checks; their warnings are said. Raises `MachineError`."""
    context = context_for(recipe, machine, run, only)
    for line in preflight(context):
        announce(f"warning: {line}")
    return context.machine or machines.load("cpu")  # where all is finished, nothing runs


def preflight(context: Context) -> list[str]:
    """The warnings about a recipe that is about to run; `MachineError`, all in one line, where it cannot. Nothing where all is finished."""
    findings = examine(context) if to_be_made(context) else []
    errors = [f"{one.check}: {_line(one)}" for one in findings if one.state == "error"]
    if errors:
        assert context.recipe is not None
        raise MachineError(f"{context.recipe.name} cannot run here as it stands: " + "; ".join(errors))
    return [f"{one.check}: {_line(one)}" for one in findings if one.state == "warning"]


def _line(finding: Finding) -> str:
    return f"{finding.found} ({finding.todo})" if finding.todo else finding.found


def listing(findings: list[Finding]) -> list[dict[str, Any]]:
    """The findings as rows: check, state, found, todo."""
    return [finding._asdict() for finding in findings]


def _python(context: Context) -> Iterator[Finding]:
    good = sys.version_info >= OLDEST_PYTHON
    needed = ".".join(str(part) for part in OLDEST_PYTHON)
    yield Finding("python", "ok" if good else "error", platform.python_version(), "" if good else f"needs Python {needed} or newer")


def _packages(context: Context) -> Iterator[Finding]:
    """The distributions harness requires, as its own metadata says; those of extras are left out."""
    try:
        required = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        yield Finding("packages", "warning", f"{DISTRIBUTION} is not installed, it runs from a folder", "pip install -e .")
        return
    for requirement in required:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield installed(requirement, "error")


def _hugging_face(context: Context) -> Iterator[Finding]:
    for name in HF_VARIABLES:
        if name in os.environ:
            yield Finding(name, "ok", os.environ[name])
    cache, offline = hub_cache(), is_offline()
    count = len(list(cache.glob("*--*"))) if cache.is_dir() else 0
    bad = offline and not count and context.recipe is None
    yield Finding(
        "HF cache",
        "error" if bad else "ok",
        f"{count} repositories in {cache}{', offline' if offline else ''}",
        "HF_HUB_OFFLINE is set and the cache is empty: unset it, or point HF_HUB_CACHE to a cache that holds the data" if bad else "",
    )


def _disk(context: Context) -> Iterator[Finding]:
    """Where no recipe says how much is needed."""
    if context.recipe is None:
        place = place_of(context.results)
        free = shutil.disk_usage(place).free / 1e9
        low = free < LOW_DISK_GB
        yield Finding("disk", "warning" if low else "ok", f"{free:.0f} GB free at {place}", "free some space" if low else "")


def _environment(context: Context) -> Iterator[Finding]:
    """Keys and addresses by their presence; their values are never shown."""
    needs_judge = bool(context.recipe and judges_of(context.recipe.benchmarks))
    for name in (*SECRETS, *ADDRESSES):
        present = bool(os.environ.get(name))
        missing = needs_judge and name == "OPENAI_API_KEY" and not present
        yield Finding(
            name,
            "error" if missing else "ok",
            "set" if present else "not set",
            "the recipe's judge needs it (any text for a local server)" if missing else "",
        )


def _judges(context: Context) -> Iterator[Finding]:
    """The recipe's judge against its shutdown date; without a recipe, the known dates and the open judge to use."""
    if context.recipe is None:
        for day in sorted(set(SHUTDOWN.values())):
            names = ", ".join(model for model, end in SHUTDOWN.items() if end == day)
            yield Finding(f"judges until {day}", "warning" if context.today >= day else "ok", names, "gone" if context.today >= day else "")
        yield Finding("open judge", "ok", f"{RECOMMENDED.model}@{RECOMMENDED.revision}: {RECOMMENDED.reason}")
        return
    for judge in judges_of(context.recipe.benchmarks):
        found = warning(judge, context.today)
        yield Finding(f"judge {judge.model}", "warning" if found else "ok", found or "no shutdown date known")
    missing = not_chosen(context.recipe.benchmarks)
    if missing:
        yield Finding("judge", "warning", missing)


def _vllm(context: Context) -> Iterator[Finding]:
    """Only where it matters: vLLM is installed here, or the recipe generates with it."""
    wanted = context.recipe is not None and context.recipe.engine == "vllm"
    if wanted or any(_is_installed(name) for name in PACKAGES):
        yield from (Finding(*trap) for trap in vllm_checks())


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


CHECKS: tuple[Check, ...] = (_python, _packages, _hugging_face, _disk, _environment, _judges, recipe_checks, _vllm)
