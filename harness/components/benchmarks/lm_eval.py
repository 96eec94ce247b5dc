"""Any task, group or tag of the installed lm-eval, or of YAML files in a folder of the user's own (`Benchmark.task_folder`).

The task's own settings hold where the recipe states none: few-shot examples, metric (`first`, or METRIC,FILTER as lm-eval writes it).
What lm-eval reports is reported: shares in percent, anything else (perplexity, BLEU) in its own unit. harness/evaluation/any_task.py
says which model answers. Nothing heavy is imported here: names are checked before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import util
from pathlib import Path

from harness.contracts import Job, Result
from harness.errors import RecipeError, suggest
from harness.files import PINNED, kept
from harness.recipe import Benchmark, Task

VERSION = 1

NAMED = re.compile(rb"""^(?:task|group) *: *["']?([^\s"'\[{#]+)["']? *(?:#.*)?\r?$""", re.MULTILINE)
TAGGED = re.compile(rb"""^tag *: *(?:\[(.*)\]|([^\s\[#][^#\r\n]*)|\r?\n((?:[ ]*- .*\r?(?:\n|\Z))+))""", re.MULTILINE)


def check(benchmark: Benchmark) -> None:
    """A `RecipeError` for a task that neither lm-eval nor the folder has; their YAML files are searched for names, not loaded."""
    known = names(_installed())
    if benchmark.task_folder:
        known |= names(folder_of(benchmark.task_folder))
    for task in benchmark.tasks:
        if task.name not in known:
            raise RecipeError(f"lm-eval has no task, group or tag {task.name!r}{suggest(task.name, known)}")


@cache
def names(folder: Path) -> frozenset[str]:
    """The tasks, groups and tags that the YAML files in `folder` name; those that others include need not be called .yaml."""
    paths = (path for path in folder.rglob("*") if path.suffix in ("", ".yaml") and path.is_file())
    return frozenset(name for path in paths for name in _names_in(path.read_bytes()))


def _names_in(text: bytes) -> Iterator[str]:
    yield from (name.decode(errors="replace") for name in NAMED.findall(text))
    for found in TAGGED.findall(text):
        yield from (tag.decode(errors="replace") for tag in re.findall(rb"""[^\s,"'\[\]]+""", b" ".join(found)) if tag != b"-")


def _installed() -> Path:
    """lm-eval's own task folder, found without importing it."""
    found = util.find_spec("lm_eval")
    if found is None or found.origin is None:
        raise RecipeError("lm-eval is not installed here; pip install lm_eval")
    return Path(found.origin).parent / "tasks"


def folder_of(name: str) -> Path:
    """A folder of tasks: where the recipe has it, or kept with the run."""
    path = kept(name) if PINNED.fullmatch(name) else Path(name)
    if not path.is_dir():
        raise RecipeError(f"task folder {name} does not exist; a path in a recipe is relative to the recipe's file")
    return path


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """What scores a task on the job's checkpoint."""
    from harness.evaluation import any_task

    check(job.benchmark)
    folder = job.benchmark.task_folder
    return any_task.open_tasks(job, folder_of(folder) if folder else None)
