"""The only code that knows the layout on disk: what a stage is, what it leaves behind, and whether that may be used.

RUN/recipe.json            the recipe as planned
RUN/records.tar.xz         of a committed run, what is committed of its stages (contracts/run_files.py)
RUN/files/                 copies of the components and task folders of the user's own that it names
RUN/local/                 links to the data files it names; these are not committed
RUN/iter1/train/
    stage.json             first: fingerprint, the whole spec, inputs, provenance of every launch
    ...                    outputs
    done.json              last, by rename: outputs with size and sha256, seconds, peak memory
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from harness.config import InnerPath, Model, Strict, flatten
from harness.contracts.own_files import keep_parts, look_in, pinned_parts
from harness.contracts.run_files import DONE_FILE as DONE_FILE
from harness.contracts.run_files import STAGE_FILE as STAGE_FILE
from harness.contracts.run_files import OutputName, output_names, read_file, recordable_names, size_of, stage_paths
from harness.errors import InputError
from harness.files import Hashes, JsonObject, Output, digest, dump, parse_model, read_model, write_atomic
from harness.machine import Machine, RecordedMachine, recorded
from harness.recipe import Recipe

State = Literal["missing", "partial", "done", "stale"]
RECIPE_FILE, LOG_FILE, REHEARSAL_FILE = "recipe.json", "log.jsonl", "rehearsal.json"


class Stage(Strict):
    """One step of the plan. `inputs` maps a role ('policy', 'prompts', 'responses0') to the path of the stage that makes it.

    `fingerprint` is sha256 of canonical JSON of (kind, spec, versions, fingerprints of the inputs).
    """

    model_config = ConfigDict(strict=True)

    path: InnerPath
    kind: str
    spec: JsonObject
    versions: dict[str, int] = {}
    inputs: dict[str, InnerPath] = {}
    input_fingerprints: dict[str, str] = {}
    fingerprint: str


class Accepted(Strict):
    """A stage kept by hand although its identity changed; `follows`: because the stage named there was, from which it was made."""

    fingerprint: str
    difference: list[tuple[str, Any, Any]]
    because: str
    follows: str | None = None


class Provenance(TypedDict, total=False):
    """Where a launch came from: what `runs.provenance.collect` found then, and which run or file it was taken from. All may be absent."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    commit: str | None
    dirty: bool | None
    command: str
    python: str
    versions: dict[str, str]
    platform: str
    processor: str
    num_cpus: int | None
    gpus: list[str]
    threads: dict[str, str]
    shared_from: str
    imported: dict[str, Any]


class Launch(Strict):
    """`stage.json`: the stage, the machine of the last launch, and where each launch came from."""

    stage: Stage
    machine: RecordedMachine
    input_contents: dict[str, str] = {}
    launches: list[Provenance] = []
    accepted: list[Accepted] = []


class Record(Strict):
    """`done.json`. `content` is `content_of` the outputs; `peak_memory_mb` is that of the stage's process."""

    model_config = ConfigDict(strict=True)

    fingerprint: str
    outputs: dict[OutputName, Output]
    content: str
    seconds: float = Field(ge=0)
    peak_memory_mb: float = Field(ge=0)


class RunDir:
    """A run's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hashes = Hashes()

    def stage_dir(self, stage_path: str) -> Path:
        return self.path / stage_path

    def state(self, stage: Stage) -> State:
        """Whether `stage` is missing, partial, done, or held by work of another identity."""
        launch = self.launch(stage.path)
        if launch is None:
            return "missing"
        if launch.stage.fingerprint != stage.fingerprint:
            return "stale"
        return "partial" if read_file(self.path, f"{stage.path}/{DONE_FILE}") is None else "done"

    def launch(self, stage_path: str) -> Launch | None:
        """What `stage.json` holds, or None."""
        return self._read(Launch, f"{stage_path}/{STAGE_FILE}")

    def record(self, stage_path: str) -> Record | None:
        """What `done.json` holds, or None."""
        return self._read(Record, f"{stage_path}/{DONE_FILE}")

    def _read(self, kind: type[Model], name: str) -> Model | None:
        content = read_file(self.path, name)
        return None if content is None else parse_model(kind, content, self.path / name)

    def begin(self, stage: Stage, machine: Machine, provenance: Provenance) -> None:
        """Write `stage.json` for a launch; the inputs must be whole, and what lies there already must have a `stage.json`."""
        earlier, folder, names = self.launch(stage.path), self.stage_dir(stage.path), recordable_names(self.path, stage.path)
        if earlier is None and (names or (folder / DONE_FILE).exists()):
            raise InputError(f"{folder} holds files but no {STAGE_FILE} that says what made them; remove {folder} and run again")
        launch = Launch(
            stage=stage,
            machine=recorded(machine),
            input_contents=self._as_used(stage, {role: self.read_content(path) for role, path in stage.inputs.items()}),
            launches=[*(earlier.launches if earlier else []), provenance],
            accepted=earlier.accepted if earlier else [],
        )
        write_atomic(folder / STAGE_FILE, dump(launch))

    def checked_inputs(self, stage: Stage) -> dict[str, str]:
        """{role: content hash} of the inputs, by record: whole, and those that work already begun in `stage` was made from."""
        return self._as_used(stage, {role: self.checked_content(path) for role, path in stage.inputs.items()})

    def refuse_changed_inputs(self, stage: Stage) -> None:
        """Raise `InputError` unless the inputs are still what they were when `stage` began; what it made is then never built upon."""
        # what was put back meanwhile is not noticed: dates would tell, but they also differ in a copied run and on network file systems
        launch = self.launch(stage.path)
        if launch is None:
            raise InputError(f"{self.stage_dir(stage.path)} was removed while {stage.path} ran; run again to make it")
        found = {role: content_of(self._hashed_outputs(path)) for role, path in stage.inputs.items()}
        changed = [stage.inputs[role] for role, content in found.items() if launch.input_contents[role] != content]
        if changed:
            write_atomic(self.stage_dir(stage.path) / STAGE_FILE, dump(launch.model_copy(update={"input_contents": found})))
            raise InputError(
                f"{' and '.join(changed)} changed while {stage.path} read it; put it back (or remove it to make it again), "
                f"remove {stage.path}, and run again"
            )

    def _as_used(self, stage: Stage, found: dict[str, str]) -> dict[str, str]:
        """`found` ({role: content hash}), where no work already begun in `stage` was made from other bytes."""
        launch = self.launch(stage.path)
        used = launch.input_contents if launch else {}
        changed = [stage.inputs[role] for role, content in found.items() if used.get(role, content) != content]
        if changed:
            raise InputError(
                f"{stage.path} was made from other bytes of {', '.join(changed)} than those there now; remove {stage.path} to make it "
                "again, or put back the bytes it was made from"
            )
        return found

    def checked_content(self, stage_path: str) -> str:
        """The content hash of a finished stage whose files still have the recorded sizes."""
        record = self.record(stage_path)
        if record is None:
            raise InputError(f"{stage_path} is not finished; run it first")
        for name, output in record.outputs.items():
            size = size_of(self.path, f"{stage_path}/{name}")
            if size != output.size:
                state = "is missing" if size is None else f"has {size} bytes"
                part = "checkpoint" if name.startswith("checkpoint/") else name  # a checkpoint is whole or absent
                raise InputError(
                    f"{stage_path}/{name} {state}, its record says {output.size} bytes; "
                    f"remove {stage_path}/{DONE_FILE} and {stage_path}/{part}, and run again to rebuild it"
                )
        return record.content

    def read_content(self, stage_path: str) -> str:
        """As `checked_content`, from the bytes of all files that are there now, as a stage that is about to read them finds them."""
        self.checked_content(stage_path)
        record = self.record(stage_path)
        assert record is not None
        for name in sorted({*self.strays(stage_path, record)} - {LOG_FILE}):  # before they are hashed: they may be large
            raise InputError(f"{stage_path}/{name} is not in its stage's record; remove it: what reads the stage would read it too")
        found = self._hashed_outputs(stage_path)
        for name in sorted({*record.outputs} - {LOG_FILE}):
            if found.get(name) != record.outputs[name]:
                raise InputError(
                    f"{stage_path}/{name} is not what its record says (its sha256 differs); put back the file, or remove {stage_path} "
                    "to make it again"
                )
        return content_of(found)

    def _hashed_outputs(self, stage_path: str) -> dict[str, Output]:
        """{name: hash} of the files in a stage's directory, and of those recorded where a folder of them is a link to another disk."""
        folder, record = self.stage_dir(stage_path), self.record(stage_path)
        names = {*recordable_names(self.path, stage_path), *(record.outputs if record else ())}
        return {name: self.hashes.of(folder / name) for name in sorted(names) if (folder / name).exists()}

    def finish(self, stage: Stage, seconds: float, peak_memory_mb: float) -> Record:
        """Hash the outputs and write `done.json`."""
        outputs = self._hashed_outputs(stage.path)
        record = Record(
            fingerprint=stage.fingerprint,
            outputs=outputs,
            content=content_of(outputs),
            seconds=round(seconds, 2),
            peak_memory_mb=round(peak_memory_mb, 1),
        )
        write_atomic(self.stage_dir(stage.path) / DONE_FILE, dump(record))
        return record

    def stages(self) -> list[str]:
        """Paths of the stages that are here."""
        return stage_paths(self.path)

    def strays(self, stage_path: str, record: Record) -> list[str]:
        """Files in a stage's directory that `record` does not list."""
        return sorted(output_names(self.path, stage_path) - set(record.outputs))

    def finished(self) -> dict[str, str]:
        """{fingerprint: path} of the stages whose work is done."""
        launches = {path: self.launch(path) for path in self.stages() if self.record(path)}
        return {launch.stage.fingerprint: path for path, launch in launches.items() if launch}


def make_stage(path: str, kind: str, spec: BaseModel, versions: Mapping[str, int], inputs: Mapping[str, Stage]) -> Stage:
    """A `Stage` with its fingerprint."""
    values = spec.model_dump(mode="json")
    fingerprints = {role: stage.fingerprint for role, stage in inputs.items()}
    return Stage(
        path=path,
        kind=kind,
        spec=values,
        versions=dict(versions),
        inputs={role: stage.path for role, stage in inputs.items()},
        input_fingerprints=fingerprints,
        fingerprint=digest([kind, _identity(values), dict(versions), fingerprints]),
    )


def fingerprint_of(stage: Stage) -> str:
    """The fingerprint that follows from what `stage` states."""
    return digest([stage.kind, _identity(stage.spec), stage.versions, stage.input_fingerprints])


def content_of(outputs: Mapping[str, Output]) -> str:
    """The sha256 of the outputs' names and hashes, the log with its timings left out."""
    return digest({name: output.sha256 for name, output in outputs.items() if name != LOG_FILE})


def difference(recorded: Stage, planned: Stage) -> list[tuple[str, Any, Any]]:
    """(field, on disk, planned) for each field that made the identities differ."""
    old, new = (_compared(stage) for stage in (recorded, planned))
    return [(field, old.get(field), new.get(field)) for field in sorted({*old, *new}) if old.get(field) != new.get(field)]


def _compared(stage: Stage) -> dict[str, Any]:
    return flatten({"kind": stage.kind, "spec": _identity(stage.spec), "versions": stage.versions, "inputs": stage.input_fingerprints})


def _identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` without the sha256 that a model's file is checked against: name and version say which file it is."""
    model = spec.get("model")
    named = {"model": {name: value for name, value in model.items() if name != "sha256"}} if isinstance(model, dict) else {}
    return {**spec, **named}


def read_recipe(run: Path, *, or_rehearsal: bool = False) -> Recipe:
    """The recipe a run was made from. Raises `InputError` where there is no run, or a rehearsal of one."""
    if not (run / RECIPE_FILE).is_file():
        raise InputError(f"{run} holds no {RECIPE_FILE}; expected the directory of a run such as results/tiny")
    if (run / REHEARSAL_FILE).exists() and not or_rehearsal:
        raise InputError(f"{run} is a rehearsal, not a run: no result can be read from it; expected a directory such as results/tiny")
    look_in(run)
    return read_model(Recipe, run / RECIPE_FILE)


def write_recipe(run: Path, recipe: Recipe) -> None:
    """`recipe.json`, which names files of the user's own by their content, and those files beside it."""
    keep_parts(recipe, run)
    look_in(run)
    write_atomic(run / RECIPE_FILE, dump(pinned_parts(recipe)))
