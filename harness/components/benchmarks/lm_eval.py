"""Any task, group or tag of the installed lm-eval, or of YAML files in a folder of the user's own (`Benchmark.task_folder`).

The task's own settings hold where the recipe states none: few-shot examples, metric (`first`, or METRIC,FILTER as lm-eval writes it).
What lm-eval reports is reported: shares in percent, anything else (perplexity, BLEU) in its own unit. harness/evaluation/any_task.py
says which model answers. Nothing heavy is imported here: names are checked before anything runs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import util
from pathlib import Path

from harness.contracts import Job, Result
from harness.errors import InputError, RecipeError, suggest
from harness.evaluation import task_code
from harness.files import PINNED, kept
from harness.recipe import Benchmark, Task

VERSION = 1

NAMED = re.compile(rb"""^(?:task|group) *: *["']?([^\s"'\[{#]+)["']? *(?:#.*)?\r?$""", re.MULTILINE)
TAGGED = re.compile(rb"""^tag *: *(?:\[(.*)\]|([^\s\[#][^#\r\n]*)|\r?\n((?:[ ]*- .*\r?(?:\n|\Z))+))""", re.MULTILINE)
BELOW = re.compile(rb"""^task *:(?: *\[(.*)\]| *(?:#.*)?\r?\n((?:[ -].*(?:\n|\Z)|\r?\n)+))""", re.MULTILINE)
WORD = re.compile(rb"""[^\s"',:\[\]{}#]+""")


def check(benchmark: Benchmark) -> None:
    """A `RecipeError` for a task that neither lm-eval nor the folder has; their YAML files are searched for names, not loaded."""
    known = _known(benchmark)
    for task in benchmark.tasks:
        if task.name not in known:
            raise RecipeError(f"lm-eval has no task, group or tag {task.name!r}{suggest(task.name, known)}")


def lacks(benchmark: Benchmark) -> list[tuple[str, str]]:
    """What the tasks' own code needs and is not here, each with the command that gets it; read from their files, nothing is loaded."""
    known = _known(benchmark)
    files = {path for task in benchmark.tasks for path in _files_of(task.subtasks or (task.name,), known)}
    return task_code.lacking(files, _installed().parent)


def _known(benchmark: Benchmark) -> Mapping[str, tuple[Path, ...]]:
    """{name: the files that name it}, of lm-eval and of the benchmark's folder, which goes before."""
    return {**named(_installed()), **(named(folder_of(benchmark.task_folder)) if benchmark.task_folder else {})}


def _files_of(wanted: Iterable[str], known: Mapping[str, tuple[Path, ...]]) -> set[Path]:
    """The YAML files of tasks, and of all below groups and tags."""
    found: set[Path] = set()
    left = [*wanted]
    while left:
        new = {*known.get(left.pop(), ())} - found
        found |= new
        left += [name.decode(errors="replace") for path in new for name in _below(path.read_bytes())]
    return found


def _below(text: bytes) -> Iterator[bytes]:
    """What a group's list of tasks may name; words that name none are found nowhere."""
    for inline, block in BELOW.findall(text):
        yield from WORD.findall(inline or block)


@cache
def named(folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """{task, group or tag: the YAML files in `folder` that name it}; those that others include need not be called .yaml."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix in ("", ".yaml") and path.is_file():
            for name in _names_in(path.read_bytes()):
                found[name].append(path)
    return {name: tuple(paths) for name, paths in found.items()}


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
    score = any_task.open_tasks(job, folder_of(folder) if folder else None)
    if missing := lacks(job.benchmark):  # asked only now: lm-eval has loaded the tasks, and fetched what it knows to fetch
        raise InputError("; ".join(f"{what}: {todo}" for what, todo in missing))
    return score
