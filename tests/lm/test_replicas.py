"""Several replicas give what one gives, whatever happens to them. The replicas here are fakes: real processes without a model."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.errors import MachineError
from harness.lm.replicas import PASSED_ON, Answer, Replicas, Shard, answer, environment, passed_on
from harness.machine import NOT_RECORDED, Machine, recorded
from tests.fake_replicas import environment_of, failing, squares

MACHINE = Machine(name="test", summary="fakes", num_threads=1, peak_tflops=0.01, generate_tokens_per_second=100.0, memory_gb=1.0)
SHARDS = [Shard(number, list(range(10 * number, 10 * number + 10))) for number in range(9)]
EXPECTED = {shard.number: [{"item": item, "square": item * item} for item in shard.items] for shard in SHARDS}
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed here")
PLACES = ["node", pytest.param("ray", marks=needs_ray)]


def run(build: Any, num_replicas: int, place: str = "node", **changes: Any) -> list[Answer]:
    machine = MACHINE.model_copy(update={"num_replicas": num_replicas, "replicas_on": place, **changes})
    return list(answer(SHARDS, build, machine))


def pids(folder: Path) -> set[str]:
    return {path.name.split("-")[0] for path in folder.iterdir() if path.name[0].isdigit()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("num_replicas", [1, 2, 3])
def test_any_number_of_replicas_gives_the_same_answers(tmp_path: Path, num_replicas: int, place: str) -> None:
    """Each shard is answered once, by as many processes as there are replicas (Ray starts as many as it finds cores for)."""
    found = run(partial(squares, tmp_path, ()), num_replicas, place)
    assert len(found) == len(SHARDS)
    assert dict(found) == EXPECTED
    assert len(pids(tmp_path)) == num_replicas or place == "ray"


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_replica_loses_and_doubles_nothing(tmp_path: Path, place: str) -> None:
    """Replicas killed by SIGKILL in the middle of two shards are replaced, and those shards answered anew."""
    found = run(partial(squares, tmp_path, (35, 71)), 2, place)
    assert {path.name for path in tmp_path.glob("killed-*")} == {"killed-35", "killed-71"}
    assert len(found) == len(SHARDS)
    assert dict(found) == EXPECTED
    assert len(pids(tmp_path)) >= 3


@pytest.mark.parametrize("place", PLACES)
def test_replicas_live_from_task_to_task(tmp_path: Path, place: str) -> None:
    """Over several tasks each replica opens its engine once, and one that is killed in between opens it once more; the rows are equal."""
    machine = MACHINE.model_copy(update={"num_replicas": 2, "replicas_on": place})
    with closing(Replicas(partial(squares, tmp_path, (35,)), machine)) as replicas:
        found = [dict(replicas.answer(SHARDS)) for _ in range(3)]
    assert found == [EXPECTED] * 3
    assert len(list(tmp_path.glob("opened-*"))) == 3


@pytest.mark.parametrize("place", PLACES)
def test_a_shard_that_always_kills_is_named(tmp_path: Path, place: str) -> None:
    """A replica that dies over one shard again and again ends the work with a word about memory; the others' answers came first."""
    with pytest.raises(MachineError, match=r"answers shard 3 died 3 times: out of memory"):
        run(partial(squares, tmp_path, (35,), always=True), 2, place)


@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_a_replica_is_the_stages(tmp_path: Path, place: str) -> None:
    """What an engine says about memory or input comes out as it went in."""
    with pytest.raises(MachineError, match=r"^out of device memory; lower the machine's generate_batch$"):
        run(partial(failing, tmp_path), 2, place)


def test_replicas_end_with_the_stage(tmp_path: Path) -> None:
    """When the stage's process is killed by SIGKILL, its replicas end too and free their devices."""
    code = (
        "from functools import partial; from pathlib import Path\n"
        "from tests.fake_replicas import hanging; from tests.lm.test_replicas import run\n"
        f"run(partial(hanging, Path({str(tmp_path)!r})), 2)"
    )
    stage = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        stage.kill()
        stage.wait()
    wait_until(lambda: not any(alive(int(path.name)) for path in tmp_path.iterdir()))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_each_replica_has_its_variables(tmp_path: Path) -> None:
    """`replica_env` reaches its own replica before the engine is opened."""
    found = run(partial(environment_of, tmp_path), 2, replica_env=({"VLLM_TEST_REPLICA": "a"}, {"VLLM_TEST_REPLICA": "b"}))
    seen = {line["pid"]: line["seen"] for _, lines in found for line in lines}
    assert sorted(seen.values()) == ["a", "b"]


def test_an_actor_gets_what_the_record_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine that a stage reads from its record, values that stand there are passed on, hidden ones as this process has them."""
    for name in PASSED_ON:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.delenv("TMPDIR", raising=False)
    read = recorded(MACHINE.model_copy(update={"env": {"HF_HOME": "/m", "HF_TOKEN": "t", "TMPDIR": "/t", "NCCL_DEBUG": "INFO"}}))
    assert read.env["HF_HOME"] == NOT_RECORDED
    assert passed_on(read) == {"HF_HOME": "/models", "HF_TOKEN": "secret", "NCCL_DEBUG": "INFO"}


@needs_ray
def test_no_actor_sees_that_a_value_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor of a machine read from a record has the value that the stage's process was started with."""
    monkeypatch.setenv("VLLM_TEST_REPLICA", "as started")
    found = run(partial(environment_of, tmp_path), 1, "ray", env={"VLLM_TEST_REPLICA": NOT_RECORDED})
    assert {line["seen"] for _, lines in found for line in lines} == {"as started"}


def test_devices_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replica sees the devices of its tensor-parallel group, taken from those visible to the stage."""
    machine = MACHINE.model_copy(update={"device": "cuda", "num_devices": 8, "num_replicas": 4, "tensor_parallel": 2})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [environment(machine, i)["CUDA_VISIBLE_DEVICES"] for i in range(4)] == ["0,1", "2,3", "4,5", "6,7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    with pytest.raises(MachineError, match="4 replicas of 2 devices, 4 are visible"):
        environment(machine, 0)
    halved = machine.model_copy(update={"num_replicas": 2})
    assert environment(halved, 1) == {"CUDA_VISIBLE_DEVICES": "6,7"}
    assert environment(MACHINE, 0) == {}


def test_variables_must_fit_the_replicas() -> None:
    """Three sets of variables for two replicas are a mistake in the machine file."""
    with pytest.raises(MachineError, match="2 replicas and 3 entries"):
        environment(MACHINE.model_copy(update={"num_replicas": 2, "replica_env": ({}, {}, {})}), 0)


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed here")
def test_a_missing_ray_names_its_extra(tmp_path: Path) -> None:
    """Without Ray the error says which extra to install."""
    with pytest.raises(MachineError, match=r"harness-spin\[ray\]"):
        run(partial(squares, tmp_path, ()), 1, "ray")
