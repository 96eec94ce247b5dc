"""Work shared by several replicas of an engine: in this process, in processes of this node, or in Ray actors over nodes.

A replica is what `build()` returns: a function of a shard's items. Shards are independent, and each is answered by one replica from
beginning to end; so the answers do not depend on how many replicas there are, and a replica that dies loses only its shard in hand,
which is answered anew.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from importlib.util import find_spec
from multiprocessing.connection import wait as wait_for
from typing import Any, NamedTuple

from harness.errors import HarnessError, MachineError
from harness.files import KEPT_IN
from harness.machine import NOT_RECORDED, Machine

MAX_DEATHS = 3
PASSED_ON = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME", "OMP_NUM_THREADS", KEPT_IN)

Replica = Callable[[Sequence[Any]], list[dict[str, Any]]]
Answered = list[dict[str, Any]] | HarnessError


class Shard(NamedTuple):
    """A piece of work: its number and its items, which are plain values."""

    number: int
    items: list[Any]


class Answer(NamedTuple):
    """What a replica made of the shard of that number."""

    number: int
    lines: list[dict[str, Any]]


class Replicas:
    """The replicas of `machine`, opened when first asked and kept until closed. `build` must be picklable where there are several.

    A single one is in this process unless it shall be `apart`, in one that gives its devices back when it ends.
    """

    def __init__(self, build: Callable[[], Replica], machine: Machine, *, apart: bool = False) -> None:
        self._build, self._machine = build, machine
        self._elsewhere = apart or machine.num_replicas > 1 or machine.replicas_on == "ray"
        self._here: Replica | None = None
        self._workers: _Processes | _Actors | None = None

    def answer(self, shards: Sequence[Shard]) -> Iterator[Answer]:
        """The answer to each shard, in the order they are finished."""
        if self._elsewhere:
            yield from self._shared(shards)
        else:
            self._here = self._here or self._build()
            for shard in shards:
                yield Answer(shard.number, self._here(shard.items))

    def close(self) -> None:
        """End the replicas now: what they hold is not needed any more."""
        if self._workers is not None:
            self._workers.close()

    def _shared(self, shards: Sequence[Shard]) -> Iterator[Answer]:
        """Each replica is asked for the next shard when it has answered one; a dead one is replaced."""
        workers = self._workers = self._workers or self._open()
        waiting, deaths = iter(shards), Counter[int]()
        running: dict[Future[Answered], tuple[int, Shard]] = {}
        for number, shard in zip(range(workers.num), waiting, strict=False):
            running[workers.submit(number, shard)] = (number, shard)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, shard = running.pop(future)
                try:
                    answered = future.result()
                except workers.deaths:
                    workers.forget(number)
                    deaths[shard.number] += 1
                    _refuse_hopeless(shard, deaths)
                    running[workers.submit(number, shard)] = (number, shard)
                    continue
                if isinstance(answered, HarnessError):
                    raise answered
                following = next(waiting, None)
                if following is not None:
                    running[workers.submit(number, following)] = (number, following)
                yield Answer(shard.number, answered)

    def _open(self) -> _Processes | _Actors:
        kind = _Actors if self._machine.replicas_on == "ray" else _Processes
        return kind(pickle.dumps(self._build), self._machine)


class _Processes:
    """A process of this node for each replica."""

    deaths: tuple[type[Exception], ...] = (BrokenProcessPool,)

    def __init__(self, build: bytes, machine: Machine) -> None:
        self._build, self._machine, self.num = build, machine, machine.num_replicas
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def submit(self, number: int, shard: Shard) -> Future[Answered]:
        """Ask replica `number`, which is started where it is not running."""
        if number not in self._pools:
            self._pools[number] = _pool(self._build, environment(self._machine, number))
        return self._pools[number].submit(_work_or_error, shard.items)

    def forget(self, number: int) -> None:
        """The replica is dead."""
        del self._pools[number]

    def close(self) -> None:
        """End them all."""
        while self._pools:
            _stop(self._pools.popitem()[1])


class _Actors:
    """A Ray actor for each replica, of the cluster RAY_ADDRESS names, or the one that runs on this node, or a new one of this node."""

    def __init__(self, build: bytes, machine: Machine) -> None:
        if find_spec("ray") is None:
            raise MachineError(f"machine {machine.name} generates over Ray, which is not installed; run: pip install 'harness-spin[ray]'")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        self.deaths: tuple[type[Exception], ...] = (ray.exceptions.RayActorError,)
        self._build, self._ray = build, ray
        self._actors: dict[int, Any] = {}
        self._options = {
            "num_cpus": machine.num_threads or 1,
            "num_gpus": machine.tensor_parallel if machine.device == "cuda" else 0,
            "runtime_env": {"env_vars": passed_on(machine)},
        }
        self.num = min(machine.num_replicas, self._room())
        if self.num == 0:
            raise MachineError(f"the Ray cluster has {ray.cluster_resources()}, no room for one replica of machine {machine.name}")

    def submit(self, number: int, shard: Shard) -> Future[Answered]:
        """Ask replica `number`, which is started where it is not running."""
        if number not in self._actors:
            self._actors[number] = self._ray.remote(_Actor).options(**self._options).remote(self._build)
        answered: Future[Answered] = self._actors[number].answer.remote(shard.items).future()
        return answered

    def forget(self, number: int) -> None:
        """The replica is dead."""
        del self._actors[number]

    def close(self) -> None:
        """End them all; the cluster stays."""
        while self._actors:
            self._ray.kill(self._actors.popitem()[1])

    def _room(self) -> int:
        """How many replicas the cluster has room for."""
        there = self._ray.cluster_resources()
        needs = {"CPU": self._options["num_cpus"], "GPU": self._options["num_gpus"]}
        return min(int(there.get(name, 0) // need) for name, need in needs.items() if need)


def answer(shards: Sequence[Shard], build: Callable[[], Replica], machine: Machine) -> Iterator[Answer]:
    """`Replicas.answer` with replicas that end with the last shard."""
    with closing(Replicas(build, machine)) as replicas:
        yield from replicas.answer(shards)


def passed_on(machine: Machine) -> dict[str, str]:
    """The variables of a Ray actor, which inherits none of this process: those of PASSED_ON and of the machine's `env`.

    A stage reads its machine from a record that hides some values; this process, which was started with them, has these.
    """
    stated = {name: value for name, value in machine.env.items() if value != NOT_RECORDED}
    return {**{name: os.environ[name] for name in (*PASSED_ON, *machine.env) if name in os.environ}, **stated}


def environment(machine: Machine, number: int) -> dict[str, str]:
    """The variables of replica `number` of this node: its own of `replica_env`, or its share of the visible CUDA devices."""
    if machine.replica_env:
        if len(machine.replica_env) != machine.num_replicas:
            raise MachineError(
                f"machine {machine.name} has {machine.num_replicas} replicas and {len(machine.replica_env)} entries in `replica_env`; "
                "expected one for each"
            )
        return machine.replica_env[number]
    if machine.device != "cuda":
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(machine.num_devices)))
    devices = visible.split(",")
    needed = machine.num_replicas * machine.tensor_parallel
    if needed > len(devices):
        raise MachineError(
            f"machine {machine.name} asks for {machine.num_replicas} replicas of {machine.tensor_parallel} devices, "
            f"{len(devices)} are visible; lower `num_replicas` or `tensor_parallel`"
        )
    start = number * machine.tensor_parallel
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[start : start + machine.tensor_parallel])}


def _pool(packed: bytes, env: dict[str, str]) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max_workers=1, mp_context=spawn, initializer=_begin, initargs=(packed, env))


def _stop(pool: ProcessPoolExecutor) -> None:
    """End a replica now: what it holds is not needed any more."""
    processes = list(pool._processes.values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
        process.join()


def _refuse_hopeless(shard: Shard, deaths: Counter[int]) -> None:
    if deaths[shard.number] >= MAX_DEATHS:
        raise MachineError(
            f"the replica that answers shard {shard.number} died {MAX_DEATHS} times: out of memory, or killed by hand; "
            "what is finished is kept. Fewer replicas or a smaller batch in the machine file need less memory"
        )


_replica: list[Replica] = []
_build: list[bytes] = []


def _begin(packed: bytes, env: dict[str, str]) -> None:
    """In the replica's process: take its variables before anything heavy is imported, and end when the parent does."""
    os.environ.update(env)
    _build[:] = [packed]
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait_for([parent.sentinel]), os._exit(1)), daemon=True).start()


def _work_or_error(items: Sequence[Any]) -> Answered:
    """In the replica's process: answer a shard; the engine is opened for the first one. An error for the user comes back as a value."""
    try:
        if not _replica:
            _replica.append(pickle.loads(_build[0])())
        return _replica[0](items)
    except HarnessError as error:
        return error


class _Actor:
    """In a Ray actor: a replica that answers one shard after another."""

    def __init__(self, packed: bytes) -> None:
        _build[:] = [packed]

    def answer(self, items: Sequence[Any]) -> Answered:
        return _work_or_error(items)
