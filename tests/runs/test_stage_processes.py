"""Stages that are forked from one server, beside stages whose process starts anew."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.artifact import RunDir, Stage
from harness.errors import USER_ERROR_EXIT, BusyError, MachineError, StageError
from harness.machine import Machine, available, check, load
from harness.plan import plan
from harness.recipe import load as load_recipe
from harness.runs import launches, runner
from harness.runs import lock as locks
from harness.runs.stage_processes import Processes
from tests import SMALL

RECIPE = load_recipe(str(SMALL))
MACHINE = load("cpu1")
STAGES = {stage.path: stage for stage in plan(RECIPE)}


def begun(run: RunDir, path: str) -> Path:
    run.begin(STAGES[path], MACHINE, {})
    return run.stage_dir(path)


@contextmanager
def processes(run: RunDir) -> Iterator[Processes]:
    with locks.hold(run.path) as lock, Processes(launches.environment(MACHINE), lock) as found:
        yield found


def test_a_forked_stage_leaves_what_a_stage_of_its_own_process_leaves(tmp_path: Path) -> None:
    """Both write the same bytes, end with code 0 and say their process and peak memory; two forks have two processes."""
    pids: list[int] = []
    made = []
    for name in ("forked", "anew"):
        run = RunDir(tmp_path / name)
        with processes(run) as started:
            for path in ("prompts", "sft/model"):
                directory = begun(run, path)
                command = launches._command(STAGES[path], MACHINE, sys.executable, directory)
                ended = started.fork(directory, pids.append) if name == "forked" else started.run(command, pids.append)
                assert ended.code == 0
                assert ended.peak_memory_mb > 10
        made.append({p.relative_to(run.path): p.read_bytes() for p in run.path.rglob("*") if p.suffix in (".jsonl", ".safetensors")})
    assert made[0] == made[1]
    assert len(made[0]) >= 2
    assert len(set(pids)) == 4


def test_a_mistake_in_a_forked_stage_is_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A directory without stage.json ends with code 1 and one line; the server goes on with the next stage."""
    run = RunDir(tmp_path)
    with processes(run) as started:
        assert started.fork(tmp_path / "none", lambda pid: None).code == USER_ERROR_EXIT
        assert capfd.readouterr().err.count("error: ") == 1
        assert started.fork(begun(run, "prompts"), lambda pid: None).code == 0


def test_a_killed_stage_and_a_killed_server_are_told_apart_from_success(tmp_path: Path) -> None:
    """SIGKILL to the stage's process, or to the server, is code -9 either way; nothing waits for ever."""
    run = RunDir(tmp_path)
    with processes(run) as started:
        directory = begun(run, "prompts")
        assert started.fork(directory, lambda pid: os.kill(pid, signal.SIGKILL)).code == -signal.SIGKILL
        assert started._server is not None
        server = started._server.process.pid
        os.kill(server, signal.SIGKILL)
        assert started.fork(directory, lambda pid: None).code == -signal.SIGKILL


def test_what_goes_wrong_in_the_runner_is_not_taken_for_the_servers_end(tmp_path: Path) -> None:
    """An OSError of the runner's own, while the stage runs, reaches the caller; it is not waited out."""

    def fail(pid: int) -> None:
        raise OSError("the lock file cannot be written")

    run = RunDir(tmp_path)
    with processes(run) as started, pytest.raises(OSError, match="the lock file cannot be written"):
        started.fork(begun(run, "prompts"), fail)


def test_the_lock_outlives_a_killed_runner_until_its_stage_ends(tmp_path: Path) -> None:
    """When the runner's own descriptors close while a forked stage runs, the run stays held, and is free once that process is gone."""
    run = RunDir(tmp_path)
    with locks.hold(run.path) as lock:
        orphan = Processes(launches.environment(MACHINE), os.dup(lock))
        pids: list[int] = []
        directory = begun(run, "prompts")
        thread = threading.Thread(target=lambda: orphan.fork(directory, lambda pid: (os.kill(pid, signal.SIGSTOP), pids.append(pid))))
        thread.start()
        while not pids:
            time.sleep(0.01)
    os.close(orphan.lock)
    with pytest.raises(BusyError), locks.hold(run.path):
        pass
    os.kill(pids[0], signal.SIGKILL)
    thread.join()
    orphan.__exit__()
    with locks.hold(run.path):
        pass


def test_an_error_while_a_stage_runs_ends_the_stage(tmp_path: Path) -> None:
    """A job that is told at its limit not to come back raises out of its wait: its stage must not go on alone, outside of any job."""
    pids: list[int] = []

    def fail(pid: int) -> None:
        pids.append(pid)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised, processes(RunDir(tmp_path)) as started:
        started.run(["sleep", "60"], fail)
    _, status = os.waitpid(pids[0], 0)
    del raised  # until here its frames kept the process's object, which would have waited for it in our place
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


def test_what_forks(tmp_path: Path) -> None:
    """Only a stage of this interpreter without a launcher forks, on a machine that says so; one with CUDA may not say so."""
    train, generate = STAGES["iter0/train"], STAGES["iter0/generate"]
    python = launches._interpreter(train, MACHINE)

    def forks(stage: Stage, python: str = python, **changes: object) -> bool:
        return launches._forks(stage, MACHINE.model_copy(update=changes), python)

    assert forks(train)
    assert forks(generate)
    assert not forks(train, fork_stages=False)
    assert not forks(train, launcher=("torchrun",))
    assert forks(generate, launcher=("torchrun",))
    assert not forks(generate, python="/another/python")
    cuda: Machine = MACHINE.model_copy(update={"device": "cuda"})
    with pytest.raises(MachineError, match="forks its stages, which CUDA does not survive; remove fork_stages"):
        check(cuda, RECIPE)


def test_no_shipped_machine_forks_with_cuda() -> None:
    """The shipped machines with CUDA start every stage anew."""
    for name in available():
        machine = load(name)
        assert not (machine.fork_stages and machine.device == "cuda"), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_runner_ends_the_forked_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Ctrl-C, preemption or a closed terminal end the stage's process and are one line; the stage stays unfinished, the lock is free."""
    run = RunDir(tmp_path)
    pids: list[int] = []

    def interrupt(lock: int, running: dict[str, int]) -> None:
        if "prompts" in running:
            pids.append(running["prompts"])
            os.kill(os.getpid(), number)

    monkeypatch.setattr(locks, "name_stages", interrupt)
    with pytest.raises(StageError, match="prompts was interrupted; the same command continues it"):
        runner.reproduce(RECIPE, run, MACHINE, "prompts", lambda _: None)
    assert run.record("prompts") is None
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    with locks.hold(run.path):
        pass


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1], "asked").touch())
pathlib.Path(sys.argv[1], "up").touch()
time.sleep(60)
"""


def test_a_second_signal_kills_what_does_not_end(tmp_path: Path) -> None:
    """A stage that takes its time after the first signal is waited for; a second one kills it, and the runner sees it go."""

    def signal_twice() -> None:
        for name in ("up", "asked"):
            while not (tmp_path / name).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    with processes(RunDir(tmp_path)) as started:
        threading.Thread(target=signal_twice, daemon=True).start()
        assert started.run([sys.executable, "-c", STUBBORN, str(tmp_path)], lambda pid: None).code == -signal.SIGKILL
        with pytest.raises(StageError, match="interrupted by SIGINT; the same command continues it"):
            started.refuse_interrupted()


def test_a_signal_while_the_libraries_are_imported_starts_no_stage(tmp_path: Path) -> None:
    """Ctrl-C before the first stage is forked: the server ends, no stage runs on, and its code is not success."""
    run = RunDir(tmp_path)
    with processes(run) as started:
        directory = begun(run, "prompts")
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert started.fork(directory, lambda pid: pytest.fail("a stage was forked")).code not in (0, 1)
    assert not (directory / "prompts.jsonl").exists()
    with locks.hold(run.path):
        pass


def test_a_signal_between_stages_is_one_line(tmp_path: Path) -> None:
    """Where no stage runs the runner ends at once, without a traceback, and other handlers are put back."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StageError, match="interrupted by SIGTERM"), processes(RunDir(tmp_path)):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_killed_runners_server_starts_nothing(tmp_path: Path) -> None:
    """The runner is killed while its server imports the libraries: the busy message names the server, and no stage follows."""
    code = (
        "import sys; from pathlib import Path; from harness.runs import lock as locks; from harness.runs.stage_processes import Processes\n"
        "import os\n"
        "with locks.hold(Path(sys.argv[1])) as lock, Processes(dict(os.environ), lock) as p: p.fork(Path(sys.argv[2]), print)"
    )
    run = RunDir(tmp_path)
    directory = begun(run, "prompts")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(directory)])
    while b"about to start" not in (tmp_path / ".lock").read_bytes() if (tmp_path / ".lock").exists() else True:
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = rf"what a killed run \(pid {process.pid}\) left: stage \(about to start\), pid \d+; wait"
    with pytest.raises(BusyError, match=left), locks.hold(run.path):
        pass
    for _ in range(1200):
        with contextlib.suppress(BusyError), locks.hold(run.path):
            break
        time.sleep(0.05)
    assert not (directory / "prompts.jsonl").exists()
