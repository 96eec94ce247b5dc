"""What is on disk can be trusted: markers last, writes whole, damage named."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import artifact, machine
from harness.artifact import RunDir, difference, make_stage
from harness.errors import InputError, MachineError
from harness.files import canonical, write_atomic
from harness.recipe import Sampling
from harness.runs.verification import verify

CPU = machine.load("cpu")


def stage(temperature: float = 1.0) -> artifact.Stage:
    return make_stage("iter0/generate", "generate", Sampling(temperature=temperature, max_new_tokens=8), {"generate": 1}, {})


def finished(run: RunDir) -> artifact.Stage:
    """A finished stage with one output of 10 bytes."""
    made = stage()
    run.begin(made, CPU, {"commit": "abc"})
    write_atomic(run.stage_dir(made.path) / "responses" / "0.jsonl", b"0123456789")
    run.finish(made, 1.5, 20.0)
    return made


def test_states(tmp_path: Path) -> None:
    """missing, then partial once begun, then done; another identity is stale."""
    run = RunDir(tmp_path)
    assert run.state(stage()) == "missing"
    run.begin(stage(), CPU, {})
    assert run.state(stage()) == "partial"
    finished(run)
    assert run.state(stage()) == "done"
    assert run.state(stage(temperature=0.5)) == "stale"


def test_difference_names_the_field() -> None:
    """The refusal can say which field differs, with both values."""
    assert difference(stage(1.0), stage(0.5)) == [("spec.temperature", 1.0, 0.5)]


def test_machine_is_not_identity(tmp_path: Path) -> None:
    """A stage finished on one machine is finished on another."""
    run = RunDir(tmp_path)
    made = finished(run)
    run.begin(made, machine.load("a100x8"), {})
    assert run.state(made) == "done"


def test_a_record_is_read_by_a_version_whose_machines_have_fewer_fields(tmp_path: Path) -> None:
    """Promise: a field that machines have no more does not make a finished run unreadable; what a person writes is still refused."""
    run = RunDir(tmp_path)
    made = finished(run)
    path = run.stage_dir(made.path) / "stage.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "machine": {**written["machine"], "opponent_batch": 16}}))
    launch = run.launch(made.path)
    assert launch is not None
    assert launch.machine == CPU
    path.write_text(json.dumps({**written, "opponent_batch": 16}))
    with pytest.raises(InputError, match="not a readable launch"):
        run.launch(made.path)


def test_integers_and_floats_are_spelt_apart() -> None:
    """1 and 1.0 differ in canonical JSON; typed fields keep a recipe's numbers in one spelling."""
    assert canonical(1) != canonical(1.0)
    whole, spelt = Sampling(temperature=1, max_new_tokens=8), Sampling(temperature=1.0, max_new_tokens=8)
    assert canonical(whole.model_dump(mode="json")) == canonical(spelt.model_dump(mode="json"))


def test_what_json_cannot_say_twice_is_an_error() -> None:
    """NaN has no canonical form."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


@pytest.mark.parametrize(("data", "found"), [(b"0123", "has 4 bytes"), (None, "is missing")])
def test_cut_output_is_found_before_it_is_used(tmp_path: Path, data: bytes | None, found: str) -> None:
    """A finished stage whose file was cut or removed is not read; the error says how to rebuild it."""
    run = RunDir(tmp_path)
    made = finished(run)
    path = run.stage_dir(made.path) / "responses" / "0.jsonl"
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(InputError, match=rf"iter0/generate/responses/0.jsonl {found}.*10 bytes; remove iter0/generate/done.json"):
        run.checked_content(made.path)


def test_damaged_record_is_named(tmp_path: Path) -> None:
    """A half-written stage.json from outside is an error that names the file, not a traceback."""
    run = RunDir(tmp_path)
    made = finished(run)
    (run.stage_dir(made.path) / "stage.json").write_text('{"stage": {')
    with pytest.raises(InputError, match=r"stage\.json is not a readable launch"):
        run.state(made)


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999"])
def test_a_spec_without_a_fingerprint_is_named(tmp_path: Path, number: str) -> None:
    """A number that is not finite, anywhere in a recorded spec, is damage in one line; verify recomputes the fingerprint from it."""
    run = RunDir(tmp_path)
    path = run.stage_dir(finished(run).path) / "stage.json"
    path.write_text(path.read_text().replace('"temperature": 1.0', f'"temperature": {number}'))
    found = verify(run).damage
    assert [damage.path for damage in found] == ["iter0/generate"]
    assert "stage.json is not a readable launch" in found[0].reason


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk during a write is one clear error and the old content stays."""
    path = tmp_path / "scores.json"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match=r"disk full while writing scores\.json"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["notes: old.txt", "a\nb", "\x1b[2J", os.fsdecode(b"\xff.jsonl"), "a\\b"])
def test_a_file_no_record_can_list_is_found_before_the_work(tmp_path: Path, name: str) -> None:
    """Such a name in an unfinished stage is one line when it begins, and at its end; without it the stage is finished."""
    run = RunDir(tmp_path)
    run.begin(stage(), CPU, {})
    odd = run.stage_dir(stage().path) / name
    odd.write_bytes(b"x")
    for use in (lambda: run.begin(stage(), CPU, {}), lambda: run.finish(stage(), 1.0, 1.0)):
        with pytest.raises(InputError, match=r"holds a file called .*, a name that no stage gives; remove it and run again") as told:
            use()
        assert len(str(told.value).splitlines()) == 1
    odd.unlink()
    finished(run)
    assert not [item for item in verify(run).damage if item.path == stage().path]


def test_a_record_lists_no_record(tmp_path: Path) -> None:
    """done.json among its own outputs is no record: what it says of itself can never be true."""
    run = RunDir(tmp_path)
    path = run.stage_dir(finished(run).path) / artifact.DONE_FILE
    path.write_bytes(path.read_bytes().replace(b"responses/0.jsonl", b"done.json"))
    with pytest.raises(InputError, match="is not a readable record"):
        run.record(stage().path)


def test_what_does_not_belong_to_a_stage_is_named_before_it_is_read(tmp_path: Path) -> None:
    """A core dump beside a checkpoint may have a terabyte: nobody waits until it is hashed."""
    run = RunDir(tmp_path)
    finished(run)
    with open(run.stage_dir(stage().path) / "core.1234", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"core\.1234 is not in its stage's record; remove it"):
        run.read_content(stage().path)


@pytest.mark.parametrize("name", [artifact.STAGE_FILE, artifact.DONE_FILE, artifact.RECIPE_FILE])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)])
def test_a_record_that_is_no_plain_file(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    """A pipe, a folder, a device, a link to itself: never waited for; `verify` names the stage or the run."""
    run = RunDir(tmp_path)
    finished(run)
    place = tmp_path if name == artifact.RECIPE_FILE else run.stage_dir(stage().path)
    (place / name).unlink(missing_ok=True)
    make(place / name)
    damage = verify(run).damage
    if name == artifact.RECIPE_FILE:
        with pytest.raises(InputError, match=r"holds no recipe\.json"):
            artifact.read_recipe(tmp_path)
        assert [item.path for item in damage] == [name]
    else:
        assert [item.path for item in damage] == [stage().path]
        assert run.state(stage()) == ("missing" if name == artifact.STAGE_FILE else "partial")
